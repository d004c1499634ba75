"""Worker processes end with the main one. Nothing heavy is imported, so that this works during their start, too."""

import os
import time
from multiprocessing import parent_process
from threading import Thread

INTERVAL = 1.0  # s between two checks


def end_with_parent() -> None:
    """Make this process end as soon as the one that started it by `multiprocessing`, even if another forked it."""
    Thread(target=_exit_after_parent, daemon=True).start()


def _exit_after_parent() -> None:
    if parent := parent_process():
        parent.join()
        os._exit(1)


def end_with(parent: int) -> None:
    """Make this process, a launcher's worker, end soon after its parent, even if that is killed.

    Otherwise workers train on when that happens, and then wait for ever. Launchers start them in ways that leave
    no handle to wait for, as `end_with_parent` does, so the parent's process id is polled.

    Args:
        parent: process id.
    """
    Thread(target=_exit_once_reparented, args=(parent,), daemon=True).start()


def _exit_once_reparented(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(INTERVAL)
    os._exit(1)
