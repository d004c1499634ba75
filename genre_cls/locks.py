"""Files that keep other processes out while one is at something; who has to wait is told why."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

PATIENCE = 5.0  # s, before somebody who waits is told why

log = logging.getLogger(__name__)


@contextmanager
def locked(path: Path, name: str, *, wait: bool = True) -> Iterator[None]:
    """Keep something to this process; the system releases the lock of one that dies.

    Args:
        path: of the lock; folders that are missing are made.
        name: of what is kept, in words.
        wait: whether to wait for another process that has it.

    Raises:
        Timeout: another process has it, and that is not waited for.
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
