"""List the audio files of a folder.

It is kept out of `audio`, whose source is part of the features' key in the cache, as it changes no features.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from genre_cls.errors import UserError, system_reason

EXTENSIONS = (".wav", ".au", ".aif", ".aiff", ".flac", ".ogg", ".opus", ".mp3")
OTHERS = (".m4a", ".mp4", ".aac", ".wma", ".ape", ".wv", ".mka", ".webm")  # formats of music that libsndfile lacks


def _refuse(error: OSError) -> None:
    """Raise why a folder cannot be listed, rather than take it for an empty one."""
    raise UserError(f"{error.filename}: {system_reason(error)}; make it readable, or move it elsewhere") from error


def audio_files(folder: Path, unlisted: Callable[[OSError], None] = _refuse) -> list[Path]:
    """List the audio files below a folder, sorted; hidden ones (macOS leaves `._name.wav`) and folders are passed over.

    Args:
        folder: to search; a file, or nothing, has no files.
        unlisted: is given the error of each folder that cannot be listed.
    """
    return _files(folder, EXTENSIONS, unlisted)


def other_files(folder: Path) -> list[Path]:
    """List every file below a folder that is music in a format that cannot be read, sorted."""
    return _files(folder, OTHERS, lambda _: None)


def conversion(path: Path) -> str:
    """Return a hint to append to an error, on how to convert a file of one of `OTHERS`; empty for any other file."""
    ending = path.suffix.lower()
    convertible = ending in OTHERS and path.is_file()
    return f" (ffmpeg -i SONG{ending} SONG.flac converts one)" if convertible else ""


def _files(folder: Path, endings: tuple[str, ...], unlisted: Callable[[OSError], None]) -> list[Path]:
    visible = _visible(folder, unlisted)
    return sorted(path for path in visible if path.suffix.lower() in endings and _is_file_or_lost(path))


def _is_file_or_lost(path: Path) -> bool:
    """Whether a path is a file or a broken link, which is listed so that its loss gets reported."""
    return path.is_file() or (path.is_symlink() and not path.exists())


def _visible(folder: Path, unlisted: Callable[[OSError], None]) -> Iterator[Path]:
    """Files below a folder that are not hidden, also behind links to folders; no folder is entered twice."""
    start = os.path.realpath(folder)  # unlike Path.resolve, does not fail on a link to itself
    seen = {start, *map(str, Path(start).parents)}

    def tell(error: OSError) -> None:
        if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
            unlisted(error)

    for parent, folders, names in os.walk(folder, onerror=tell, followlinks=True):
        visible = {os.path.realpath(Path(parent, name)): name for name in sorted(folders) if not name.startswith(".")}
        folders[:] = [name for real, name in visible.items() if real not in seen]
        seen |= visible.keys()
        yield from (Path(parent, name) for name in names if not name.startswith("."))
