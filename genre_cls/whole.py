"""Files that are whole or not there, and what a disk fails in told with the file's name."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from genre_cls.errors import UserError, in_one_line


@contextmanager
def written(path: Path) -> Iterator[BinaryIO]:
    """Open a file to write, which takes its place when the block has ended well, and else is gone.

    A process that is killed leaves `<name>.partial`, which the next one that writes the file replaces.

    Args:
        path: of the file, in a folder that is there.

    Raises:
        UserError: the disk is full, the folder is read-only, or the like.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        with partial.open("wb") as file:
            yield file
        partial.replace(path)
    except OSError as error:  # of a full disk it names no file
        raise UserError(disk_failure(path, error)) from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def disk_failure(path: Path | str, error: OSError) -> str:
    """One line on what a disk has failed in.

    Args:
        path: what was worked on, named if the error names nothing.
        error: of the system.
    """
    reason = (error.strerror or str(error)).lower()
    return in_one_line(f"{error.filename or path}: {reason}; once that is mended the same command goes on")
