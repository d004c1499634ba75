"""Progress on the terminal; none where stderr is no terminal."""

import logging
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import Progress, ProgressColumn, SpinnerColumn, TextColumn

from genre_cls.errors import without_credentials

Item = TypeVar("Item")


def progress_bar(items: Iterable[Item], description: str, *, total: int) -> Iterator[Item]:
    """Yield items while a bar counts them on stderr; it vanishes at the end.

    Args:
        items: what to iterate over.
        description: shown before the bar.
        total: number of items.
    """
    with _progress(*Progress.get_default_columns()) as bar:
        yield from bar.track(items, total, description=description)


@contextmanager
def waiting(description: str) -> Iterator[None]:
    """Show on stderr what is being waited for in the block; it vanishes at the end."""
    # What is imported in the block may keep the stderr of that moment for good.
    with _progress(SpinnerColumn(), TextColumn("{task.description}"), redirect_stderr=False) as spinner:
        spinner.add_task(description, total=None)
        yield


def _progress(*columns: str | ProgressColumn, redirect_stderr: bool = True) -> Progress:
    return Progress(
        *columns,
        console=Console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
        redirect_stdout=sys.stdout.isatty(),  # results go above the bar, but not if they go to a file
        redirect_stderr=redirect_stderr,
    )


class LogHandler(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes log lines, without passwords, in the place of a bar, which is then drawn anew below."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a record's text, before which a terminal erases the bar."""
        return ("\r\x1b[2K" if self.stream.isatty() else "") + without_credentials(super().format(record))
