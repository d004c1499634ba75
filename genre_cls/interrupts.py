"""Ctrl-C (SIGINT), held back while something must not be broken off halfway."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from threading import current_thread, main_thread


@contextmanager
def held_back() -> Iterator[None]:
    """Let Ctrl-C take effect only at the end of the block. Processes that start inside keep it blocked for good."""
    came: list[int] = []
    # None, too, if a program that embeds Python has set one, which Python could not put back.
    handler = signal.getsignal(signal.SIGINT) if current_thread() is main_thread() else None
    # Blocking it for this thread is not enough: another one may take the signal, and Python raises in the main one.
    if handler is not None:
        signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if handler is not None:
            signal.signal(signal.SIGINT, handler)
        if came:
            signal.raise_signal(signal.SIGINT)
