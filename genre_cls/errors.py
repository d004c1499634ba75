"""Users' mistakes, which are reported in one line without a traceback, and the wording of other errors for them."""

import os
import re
from pathlib import Path
from sysconfig import get_path
from traceback import walk_tb
from urllib.error import HTTPError, URLError

PACKAGES = {"site-packages", "dist-packages"}  # folders of installed packages
# This package's folder and Python's own.
OTHERS = tuple(f"{folder}{os.sep}" for folder in (Path(__file__).parent, get_path("stdlib"), get_path("platstdlib")))


class UserError(Exception):
    """A mistake in the command, the configuration or the data; the entry points exit with code 2.

    The message is one line: the value, where it came from, what is allowed, what to do. Addresses lose their passwords.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(without_credentials(in_one_line(message)))


class DivergenceError(UserError):
    """Training has failed for numerical reasons, such as predictions that are not finite."""


def of_other_kind(group: str, target: object, kind: str, made: object) -> UserError:
    """Return the error for a group of settings whose `_target_` makes something else than is needed.

    Args:
        group: of the settings.
        target: its `_target_`.
        kind: what is needed.
        made: what was made.
    """
    return UserError(f"{group}._target_={target}: makes no {kind} but a {type(made).__name__}")


def system_reason(error: OSError) -> str:
    """Return the system's reason for a failure, without the file's name and what urllib wraps around it.

    For a broken link, the reason is that it is one, with its target.
    """
    if isinstance(error, FileNotFoundError) and error.filename:
        path = Path(os.fsdecode(error.filename))
        if path.is_symlink():
            return f"is a broken link ({path.readlink()})"
    inner = error.reason if isinstance(error, URLError) and not isinstance(error, HTTPError) else error
    return ((inner.strerror if isinstance(inner, OSError) else None) or str(inner)).lower()


def in_short(error: BaseException) -> str:
    """Return the type and message of an error raised by a library, in one line of limited length."""
    text = " ".join(str(error).split()) or "?"
    return f"{type(error).__name__}: {text if len(text) <= 160 else text[:159] + '…'}"


def place_of(error: BaseException) -> str:
    """Return the innermost file and line of an error's traceback in the user's own code; empty if there is none."""
    places = [(frame.f_code.co_filename, line) for frame, line in walk_tb(error.__traceback__)]
    users = [(file, line) for file, line in places if _is_users_code(file)]
    return f" ({Path(users[-1][0]).name}, line {users[-1][1]})" if users else ""


def with_place(error: BaseException) -> str:
    """Return an error `in_short`, with its place in the user's own code if there is one."""
    return f"{in_short(error)}{place_of(error)}"


def _is_users_code(file: str) -> bool:
    """Whether code is neither generated (`<string>`), nor from this package, Python's library or an installed one."""
    return not (file.startswith(("<", *OTHERS)) or PACKAGES & set(Path(file).parts))


def without_credentials(text: str) -> str:
    """Remove user names and passwords from the addresses in a text."""
    # A password may contain @, and even a / that should have been escaped. But digits before a / are a port's.
    with_slash = r"""[^/?#\s:,'"\[\]]+:(?!\d*[/?#])[^\s,'"]{1,200}"""
    return re.sub(rf"(?<=://)([^/?#\s]+|{with_slash})@", "", text)


def in_one_line(text: object) -> str:
    """Escape line ends and other unprintable characters in a text, such as a file's name."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text))
