"""Folders of music for the tests of their loaders, and what these tell."""

from collections.abc import Callable
from pathlib import Path

import pytest

from genre_cls.errors import UserError
from genre_cls.tracks.catalogue import Catalogue
from genre_cls.tracks.gtzan import GENRES

# The tracks of make_gtzan, and of the smallest demo set.
IDS = sorted(f"{genre}.{number:05d}" for genre in GENRES for number in range(2))


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def make_gtzan(base: Path, *, per_genre: int = 2, extension: str = ".wav", hiphop: str = "hiphop") -> None:
    for genre in GENRES:
        name = hiphop if genre == "hiphop" else genre
        for number in range(per_genre):
            touch(base / name / f"{name}.{number:05d}{extension}")


def described(base: Path, metadata: str, *further: str) -> str:
    """A folder of two tracks, and further ones of these names, with a metadata.csv."""
    for name in ("rock/a.wav", "jazz/c.wav", *further):
        touch(base / name)
    (base / "metadata.csv").write_text(metadata, "utf-8", newline="")
    return str(base)


def ids(found: Catalogue) -> list[str]:
    return [track.id for track in found.tracks]


def told(load: Callable[[], Catalogue]) -> str:
    """The error message for the user: one line."""
    with pytest.raises(UserError) as mistake:
        load()
    text = str(mistake.value)
    assert len(text.splitlines()) == 1
    return text
