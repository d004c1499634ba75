"""A progress bar on the terminal; none where stderr is no terminal."""

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import Progress

Item = TypeVar("Item")


def progress_bar(items: Iterable[Item], description: str, *, total: int) -> Iterator[Item]:
    """Yield items while a bar counts them on stderr; it vanishes at the end.

    Args:
        items: what to iterate over.
        description: shown before the bar.
        total: number of items.
    """
    console = Console(stderr=True)
    bar = Progress(
        console=console,
        transient=True,
        disable=not console.is_terminal,
        redirect_stdout=sys.stdout.isatty(),  # results go above the bar, but not if they go to a file
    )
    with bar:
        yield from bar.track(items, total, description=description)
