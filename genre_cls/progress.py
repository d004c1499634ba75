"""A bar on the terminal for what takes seconds; nothing where nobody is watching."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import track

Item = TypeVar("Item")


def progress_bar(items: Iterable[Item], description: str, *, total: int) -> Iterator[Item]:
    """Pass items on while a bar counts them on stderr; it vanishes at the end.

    Args:
        items: whatever takes its time.
        description: shown before the bar.
        total: number of items.
    """
    console = Console(stderr=True)
    yield from track(items, description, total, console=console, transient=True, disable=not console.is_terminal)
