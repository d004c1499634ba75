"""Ctrl-C and SIGTERM: held back, final while nothing has begun, and recognised in what they caused."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Timer, current_thread, main_thread
from traceback import walk_tb
from types import FrameType
from typing import Any

Hook = Callable[["sys.UnraisableHookArgs"], Any]


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


@contextmanager
def ends_at_once() -> Iterator[None]:
    """Let Ctrl-C end the process on the spot until `raise_again`, as OmegaConf swallows exceptions raised inside it."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # where a shell has it ignored, it stays ignored
        signal.signal(signal.SIGINT, _end)
    try:
        yield
    finally:
        raise_again()


def raise_again() -> None:
    """Let Ctrl-C be raised as an exception as usual, now that there is something to end properly."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end(number: int, frame: FrameType | None) -> None:
    os.write(2, b"interrupted\n")  # not by `print`, which may be what it interrupts
    os._exit(130)


@contextmanager
def terminated_likewise() -> Iterator[None]:
    """Let SIGTERM, which schedulers and `timeout` send, do in the block what Ctrl-C does."""
    is_ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN  # as in a shell's background

    def terminate(number: int, frame: FrameType | None) -> None:
        if is_ignored:
            raise KeyboardInterrupt
        signal.raise_signal(signal.SIGINT)  # which may be held back

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def raising_ctrl_c_again(hook: Hook) -> Hook:
    """Return a `sys.unraisablehook` that sends Ctrl-C again: Python drops it in callbacks such as of weak references.

    Args:
        hook: for all else that is dropped.
    """

    def handle(dropped: "sys.UnraisableHookArgs") -> None:
        if issubclass(dropped.exc_type, KeyboardInterrupt):
            # A signal wakes a main thread that sleeps or waits, which `_thread.interrupt_main` does not.
            Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
        else:
            hook(dropped)

    return handle


def came_of_ctrl_c(error: BaseException | None) -> bool:
    """Return whether an error is Ctrl-C, also if a library has made another one of it or of what it broke off."""
    seen: list[BaseException] = []  # an exception may be its own cause
    while error is not None and error not in seen and not isinstance(error, KeyboardInterrupt):
        seen.append(error)
        hides = error.__suppress_context__ and not _is_omegaconfs(error)
        error = error.__cause__ or (None if hides else error.__context__)
    return isinstance(error, KeyboardInterrupt)


def _is_omegaconfs(error: BaseException) -> bool:
    """Whether OmegaConf has raised or passed on an error; it hides what all of them came of."""
    modules = (str(frame.f_globals.get("__name__")) for frame, _ in walk_tb(error.__traceback__))
    return any(module.partition(".")[0] == "omegaconf" for module in modules)
