"""What is installed beside genre_cls and how to call it, and how to install what is not."""

import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from genre_cls.errors import UserError


@contextmanager
def needs(extra: str) -> Iterator[None]:
    """Tell in one line how to get a package that cannot be imported.

    Args:
        extra: name of the optional dependency in pyproject.toml that brings it.

    Raises:
        UserError: an import within failed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise UserError(f"{error.name} is not installed; {how_to_install(extra)} brings it") from error


def how_to_install(extra: str) -> str:
    """The command that brings an optional dependency, by its name in pyproject.toml; a clone has constraints."""
    clone = Path(__file__).parents[1]
    if not (clone / "pyproject.toml").exists():
        return f"{program('pip')} install 'genre_cls[{extra}]'"
    place = Path() if clone == Path.cwd() else clone
    words = ["install", "-c", str(place / "constraints.txt"), "-e"]
    return f"{program('pip')} {shlex.join(words)} '{place}[{extra}]'"


def program(name: str) -> str:
    """How to call a program that is installed beside this package, from a terminal in which its environment may be off.

    Args:
        name: of the program.
    """
    path = Path(sys.executable).with_name(name)
    off = sys.prefix != sys.base_prefix and os.environ.get("VIRTUAL_ENV") != sys.prefix
    return shlex.quote(str(path)) if off and path.exists() else name
