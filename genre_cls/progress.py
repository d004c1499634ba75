"""Progress on the terminal; none where stderr is no terminal."""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import Progress, ProgressColumn, SpinnerColumn, TextColumn

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
    with _progress(SpinnerColumn(), TextColumn("{task.description}")) as spinner:
        spinner.add_task(description, total=None)
        yield


def _progress(*columns: str | ProgressColumn) -> Progress:
    console = Console(stderr=True)
    return Progress(
        *columns,
        console=console,
        transient=True,
        disable=not console.is_terminal,
        redirect_stdout=sys.stdout.isatty(),  # results go above the bar, but not if they go to a file
    )
