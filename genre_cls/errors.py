"""What goes wrong by a user's doing and is told in one line, without a traceback."""

import os
import re
from pathlib import Path
from traceback import walk_tb
from urllib.error import HTTPError, URLError


class UserError(Exception):
    """A mistake in the command, the configuration or the data; the entry points exit with code 2.

    The message is one line: the value, where it came from, what is allowed, what to do. Addresses lose their passwords.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(without_credentials(in_one_line(message)))


def system_reason(error: OSError) -> str:
    """What the system says of a failure, without the file's name; what urllib wraps around it is taken off.

    Of a link that leads nowhere it says so, and where it leads.
    """
    if isinstance(error, FileNotFoundError) and error.filename:
        path = Path(os.fsdecode(error.filename))
        if path.is_symlink():
            return f"is a link to nothing ({path.readlink()})"
    inner = error.reason if isinstance(error, URLError) and not isinstance(error, HTTPError) else error
    return ((inner.strerror if isinstance(inner, OSError) else None) or str(inner)).lower()


def in_short(error: BaseException) -> str:
    """What went wrong in a library, on one line that is not too long."""
    return f"{type(error).__name__}: {' '.join(str(error).split()) or '?':.160}"


def place_of(error: BaseException) -> str:
    """File and line in which code that is neither this package's nor a library's gave rise to an error, if it did."""
    libraries = ("genre_cls", "hydra", "importlib", "torch")
    frames = ((frame, str(frame.f_globals.get("__name__")), line) for frame, line in walk_tb(error.__traceback__))
    own = [(frame, line) for frame, room, line in frames if room.partition(".")[0] not in libraries]
    return f" ({Path(own[-1][0].f_code.co_filename).name}, line {own[-1][1]})" if own else ""


def without_credentials(text: str) -> str:
    """A text without the names and passwords in its addresses, as it may be shown around."""
    return re.sub(r"(?<=://)[^/@\s]+@", "", text)


def in_one_line(text: object) -> str:
    """A text, say a file's name, with its line ends and whatever else no terminal should get written out."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text))
