"""Optional dependencies: how to install them, and how to call the programs installed beside genre_cls."""

import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from genre_cls.errors import UserError


@contextmanager
def needs(extra: str) -> Iterator[None]:
    """Turn a failed import into one line on how to install the package.

    Args:
        extra: name of the optional dependency in pyproject.toml that includes it.

    Raises:
        UserError: an import within failed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise UserError(f"{error.name} is not installed; {how_to_install(extra)} installs it") from error


def how_to_install(extra: str) -> str:
    """Return the command that installs an optional dependency, under the constraints if this is a clone.

    Args:
        extra: its name in pyproject.toml.
    """
    clone, words = Path(__file__).parents[1], [f"genre_cls[{extra}]"]
    if (clone / "pyproject.toml").exists():
        folder = Path() if clone == Path.cwd() else clone
        words = ["-c", str(folder / "constraints.txt"), "-e", f"{folder}[{extra}]"]
    return f"{program('pip')} install {shlex.join(words)}"


def program(name: str) -> str:
    """Return how to call a program installed beside this package: by its path if the environment is not activated.

    Args:
        name: of the program.
    """
    path = Path(sys.executable).with_name(name)
    inactive = sys.prefix != sys.base_prefix and os.environ.get("VIRTUAL_ENV") != sys.prefix
    return shlex.quote(str(path)) if inactive and path.exists() else name
