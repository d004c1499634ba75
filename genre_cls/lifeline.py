"""Worker processes that end with the main one. Nothing heavy is imported: it works while a worker is still starting."""

import os
import time
from multiprocessing import parent_process
from threading import Thread

EVERY = 1.0  # s between two looks


def end_with_parent() -> None:
    """Let this process end as soon as the one that has started it by `multiprocessing`, though forked by another."""
    Thread(target=_outlive, daemon=True).start()


def _outlive() -> None:
    if parent := parent_process():
        parent.join()
        os._exit(1)


def end_with(parent: int) -> None:
    """Let this process, a launcher's worker, end soon after its parent, which may be killed without a word.

    Left alone, workers train on when that happens, and then wait for ever. Launchers start them in ways that leave
    nothing to wait for (`end_with_parent`), so it looks again and again.

    Args:
        parent: process id.
    """
    Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(EVERY)
    os._exit(1)
