"""Write files that are whole or absent, lock them, check paths, and report disk errors with the file's name."""

import errno
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from genre_cls.errors import UserError, system_reason

PATIENCE = 5.0  # s, before a process that waits for a lock logs why

log = logging.getLogger(__name__)


def expanduser(path: str | Path) -> Path:
    """Expand a leading `~` to the home folder; a name that only begins with one, as `~backup.mp3`, stays.

    Args:
        path: as a user gives it.
    """
    return Path(os.path.expanduser(path))  # noqa: PTH111, as pathlib's fails where no user is called backup.mp3


def check_place(path: Path, setting: str) -> None:
    """Check that a path is a folder that can be written to, or can become one, without making anything.

    Args:
        path: of the folder.
        setting: that names it, with its value.

    Raises:
        UserError: it is a file or below one, or nothing may be written to it, or to the folder that it would be in.
    """
    place = path.absolute()
    nearest = next(each for each in (place, *place.parents) if each.exists())
    if not nearest.is_dir():
        raise UserError(f"{setting}: {nearest} is not a folder; name another one")
    if not os.access(nearest, os.W_OK):
        raise UserError(f"{setting}: nothing may be written to {nearest}; name another folder")


def make_folder(setting: str, value: str | Path) -> Path:
    """Make the folder that a setting names, unless it exists, in which case it may be read-only; return its path.

    Args:
        setting: that names it.
        value: as a user gives it.

    Raises:
        UserError: it cannot be made.
    """
    path = expanduser(value)
    if path.is_dir():
        return path
    missing = followed(path)
    check_place(missing, f"{setting}={value}")
    try:
        missing.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = system_reason(error)
        raise UserError(f"{setting}={value}: the folder cannot be made, {reason}; name another one") from error
    return path


def followed(path: Path) -> Path:
    """Return the place that a path leads to, which is written rather than a symbolic link on the way.

    Args:
        path: of a file that need not exist; unlike by `Path.resolve`, it may be a link to itself.
    """
    return Path(os.path.realpath(path))


def write_atomically(path: Path, content: bytes | memoryview, *, durable: bool = True) -> None:
    """Write a file under another name, and give it its own once it is whole.

    A process that is killed leaves `<name>.partial`, which the next one that writes the file replaces.

    Args:
        path: of the file, in a folder that exists.
        content: all of it.
        durable: whether to sync it to the disk, so that it survives a power cut; False where thousands of files can be
            computed again, and an incomplete one is noticed.

    Raises:
        UserError: the disk is full, the folder is read-only, or the like.
    """
    path = followed(path)
    partial = path.with_name(f"{path.name}.partial")
    try:
        partial.write_bytes(content)
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


@contextmanager
def locked(path: Path, name: str, *, wait: bool = True) -> Iterator[None]:
    """Hold a lock; the system releases it if the process dies.

    Args:
        path: of the lock file; missing folders are made.
        name: of what is locked, for messages.
        wait: whether to wait for another process that holds the lock.

    Raises:
        Timeout: another process holds the lock, and `wait` is false.
        UserError: the file system has no locks. A mere file in place of one would stay after a kill.
    """
    lock = FileLock(path, fallback_to_soft=False)
    try:
        lock.acquire(timeout=PATIENCE if wait else 0)
    except Timeout:
        if not wait:
            raise
        log.info("%s: another process is working on it; waiting", name)
        lock.acquire()
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
            raise
        hint = "name a folder on another one (tracking.folder, cache_dir)"
        raise UserError(f"{path}: this file system cannot lock files; {hint}") from error
    try:
        yield
    finally:
        lock.release()


def sync(*paths: Path) -> None:
    """Wait until files' contents and folders' lists of names are on the disk itself.

    Args:
        paths: of files and folders.
    """
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        except OSError as error:
            if not path.is_dir() or error.errno != errno.EINVAL:  # as of folders that a virtual machine shares
                raise
        finally:
            os.close(handle)


@contextmanager
def place_named(folder: str) -> Iterator[None]:
    """Give an error of the disk the name of the folder that the block writes to; that a disk is full has none."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or folder
        raise


def disk_failure(path: Path, error: OSError) -> str:
    """Describe a disk's failure in one line.

    Args:
        path: of the file, named if the error names none.
        error: of the system.
    """
    return f"{error.filename or path}: {system_reason(error)}; fix that and run the command again"
