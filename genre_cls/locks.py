"""Lock files that exclude other processes, and log why a process waits."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

PATIENCE = 5.0  # s, before a process that waits logs why

log = logging.getLogger(__name__)


@contextmanager
def locked(path: Path, name: str, *, wait: bool = True) -> Iterator[None]:
    """Hold a lock; the system releases it if the process dies.

    Args:
        path: of the lock file; missing folders are made.
        name: of what is locked, for messages.
        wait: whether to wait for another process that holds the lock.

    Raises:
        Timeout: another process holds the lock, and `wait` is false.
    """
    lock = FileLock(path)
    try:
        lock.acquire(timeout=PATIENCE if wait else 0)
    except Timeout:
        if not wait:
            raise
        log.info("%s: another process is working on it; waiting", name)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
