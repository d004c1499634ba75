"""Files: where they are meant, whole or not there, and what a disk fails in told with the file's name."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from genre_cls.errors import UserError, system_reason


def expanduser(path: str | Path) -> Path:
    """A path in which a leading `~` stands for the home; a name that only begins so, as `~backup.mp3`, stays.

    Args:
        path: as a user gives it.
    """
    return Path(os.path.expanduser(path))  # noqa: PTH111, as pathlib's fails where no user is called backup.mp3


def check_place(path: Path, setting: str) -> None:
    """Refuse as a folder what is a file, or below one, before anything is made.

    Args:
        path: that is to be a folder.
        setting: that names it, with its value.

    Raises:
        UserError: it cannot be one.
    """
    nearest = next(each for each in (path, *path.parents) if each.exists())
    if not nearest.is_dir():
        raise UserError(f"{setting}: {nearest} is no folder; name another one")


def make_folder(path: Path, setting: str) -> None:
    """Make a folder that a setting names, unless it is there.

    Args:
        path: of the folder.
        setting: that names it, with its value.

    Raises:
        UserError: it cannot be made.
    """
    check_place(path, setting)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = system_reason(error)
        raise UserError(f"{setting}: the folder cannot be made, {reason}; name another one") from error


@contextmanager
def atomic_write(path: Path, *, durable: bool = True) -> Iterator[BinaryIO]:
    """Open a file to write, which takes its place when the block has ended well, and else is gone.

    A process that is killed leaves `<name>.partial`, which the next one that writes the file replaces.

    Args:
        path: of the file, in a folder that is there.
        durable: whether it outlives a power cut from then on; not worth the wait where thousands can be made anew.

    Raises:
        UserError: the disk is full, the folder is read-only, or the like.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        with partial.open("wb") as file:
            yield file
        if durable:
            sync(partial)
        partial.replace(path)
        if durable:
            sync(path.parent)
    except OSError as error:
        error.filename = path  # rather than the partial one, or, of a full disk, none
        raise UserError(disk_failure(path, error)) from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def sync(*paths: Path) -> None:
    """Wait until the disk itself has a file's content, or a folder's list of names.

    Args:
        paths: of files and folders.
    """
    if os.name != "posix":  # Windows opens no folders
        return
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def disk_failure(path: Path | str, error: OSError) -> str:
    """One line on what a disk has failed in.

    Args:
        path: what was worked on, named if the error names nothing.
        error: of the system.
    """
    return f"{error.filename or path}: {system_reason(error)}; once that is mended the same command goes on"
