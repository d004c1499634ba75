"""How commands run: prepared, and with users' mistakes reported in one line on stderr."""

import atexit
import gc
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from traceback import walk_tb

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from genre_cls.configuration.messages import LOST_JOBS, error_message
from genre_cls.errors import UserError
from genre_cls.processes.interrupts import came_of_ctrl_c, raising_ctrl_c_again, terminated_likewise
from genre_cls.progress import LogHandler

AGAIN = "; the same command resumes it"  # after Ctrl-C


@contextmanager
def as_command(interrupted: str = "") -> Iterator[None]:
    """Prepare this process for a command, which the block runs, and report its errors as `one_line_errors` does.

    Args:
        interrupted: as for `one_line_errors`.

    Raises:
        SystemExit: as there.
    """
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # let Hydra raise instead of printing
    gc.set_threshold(20_000, 10, 10)  # or a sixth of the time that imports take goes into collecting garbage among them
    atexit.register(gc.freeze)  # skip the final garbage collection at exit, which takes seconds
    before, sys.unraisablehook = sys.unraisablehook, raising_ctrl_c_again(sys.unraisablehook)
    _open_closed_streams()
    logging.basicConfig(handlers=[LogHandler()], format="%(message)s")  # until Hydra, in commands that use it, does so
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # for terminals without ±
    try:
        with terminated_likewise(), one_line_errors(interrupted), _flushed():
            _check_current_folder()
            yield
    finally:
        sys.unraisablehook = before


@contextmanager
def one_line_errors(interrupted: str = "") -> Iterator[None]:
    """Report a user's mistake in one line on stderr and exit with code 2; other exceptions pass through.

    Args:
        interrupted: added to the message after Ctrl-C.

    Raises:
        SystemExit: with code 2 after a mistake, 130 after Ctrl-C or SIGTERM, 1 if nobody reads the output any more.
    """
    try:
        yield
    except BrokenPipeError:  # the reader of the output, such as head, has closed it
        _drop_unwritable_output()
        raise SystemExit(1) from None
    except (Exception, KeyboardInterrupt) as error:
        if came_of_ctrl_c(error):
            print(f"interrupted{interrupted}", file=sys.stderr)
            raise SystemExit(130) from None
        if not _is_users_mistake(error):
            raise
        print(f"error: {UserError(error_message(error))}", file=sys.stderr)
        _drop_unwritable_output()
        raise SystemExit(2) from None


@contextmanager
def _flushed() -> Iterator[None]:
    """Write what is buffered while a failure can still be reported: at the exit, Python would do so in its own way."""
    try:
        yield
    finally:
        sys.stdout.flush()


def _drop_unwritable_output() -> None:
    """Drop what cannot be written: at the exit, Python would try it again."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _open_closed_streams() -> None:
    """Give closed streams, as some daemons leave them, a sink: the next files opened would take their place."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(descriptor, "w"))


def _check_current_folder() -> None:
    try:
        Path.cwd()
    except FileNotFoundError as error:
        raise UserError("the current folder no longer exists; go to another one") from error


def find_modules_here() -> None:
    """Let own models be imported from the current folder, as `python -m` does and a console script does not."""
    if "" not in sys.path:
        sys.path.append("")


def _is_users_mistake(error: BaseException) -> bool:
    """Whether an exception is due to a user's mistake; Hydra raises built-in ones, too."""
    (*_, (frame, _)) = walk_tb(error.__traceback__)
    module = str(frame.f_globals.get("__name__", ""))
    of_hydra = isinstance(error, (AssertionError, TypeError, ValueError)) and module.startswith("hydra.")
    expected = isinstance(error, (UserError, HydraException, OmegaConfBaseException, YAMLError, OSError))
    return of_hydra or expected or type(error).__name__ in LOST_JOBS
