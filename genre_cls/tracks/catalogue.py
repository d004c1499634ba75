"""The tracks of a dataset, as the loaders of `conf/dataset/` return them."""

import re
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import filterfalse, pairwise
from pathlib import Path

import numpy as np

from genre_cls.errors import UserError


@dataclass(frozen=True)
class Track:
    """One music file.

    Args:
        id: unique in its catalogue and the same on every machine.
        path: of the audio.
        genre: its label.
        artist: its artists as credited, if known.
        repeats: id of another track that is the same recording, if any.
        fault: its known fault, if any.
        part: `train`, `valid` or `test`, where a split of the dataset is published.
    """

    id: str
    path: Path
    genre: str
    artist: str | None = None
    repeats: str | None = None
    fault: str | None = None
    part: str | None = None


@dataclass(frozen=True)
class Catalogue:
    """A dataset's tracks and notes about them for the user.

    Args:
        name: of the dataset.
        tracks: in any order; they are sorted by id.
        synthetic: whether the audio is generated.
        notes: sentences to report.

    Raises:
        UserError: two tracks have one id, or what is known of a track is of another type, or no valid UTF-8, which no
            file of results could hold.
    """

    name: str
    tracks: tuple[Track, ...]
    synthetic: bool = False
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        tracks = tuple(self.tracks)
        if odd := next(filterfalse(_is_typed, tracks), None):
            raise UserError(f"dataset: {odd} needs id and genre, both str, and path, a Path; artist is str or None")
        tracks = tuple(sorted(tracks, key=lambda track: track.id))
        for one, other in pairwise(tracks):
            if one.id == other.id:
                raise UserError(f"dataset: two tracks have the id {one.id}; give each its own")
        if invalid := [t.path for t in tracks if not _is_utf8(f"{t.id} {t.genre} {t.path.absolute()}")]:
            others = f" (and {len(invalid) - 1} more)" if len(invalid) > 1 else ""
            raise UserError(
                f"{invalid[0]}: its name is not valid UTF-8{others}; rename the file or its folder (convmv does)"
            )
        object.__setattr__(self, "tracks", tracks)

    @cached_property
    def genres(self) -> tuple[str, ...]:
        """Names of the genres in alphabetical order, which is that of every matrix and of all probabilities."""
        return tuple(sorted({track.genre for track in self.tracks}))

    def with_shuffled_genres(self, seed: int) -> "Catalogue":
        """Return a copy with genres permuted among the tracks, where an interval above chance hints at a leak.

        Args:
            seed: of the permutation.
        """
        genres = np.random.default_rng(seed).permutation([track.genre for track in self.tracks]).tolist()
        tracks = tuple(replace(track, genre=genre) for track, genre in zip(self.tracks, genres, strict=True))
        note = "Genres are permuted among the tracks (shuffle_genres=true): accuracy should be at chance."
        return replace(self, tracks=tracks, notes=(*self.notes, note))

    def without_faults(self) -> "Catalogue":
        """Return a copy without the tracks that have known faults."""
        faultless = tuple(track for track in self.tracks if not track.fault)
        note = f"{len(self.tracks) - len(faultless)} tracks with known faults are left out (drop_faults=true)."
        return replace(self, tracks=faultless, notes=(*self.notes, note))


def plain_name(name: str) -> str:
    """A genre's folder or track in one spelling: "hip-hop", "Hip Hop", "hip.hop"."""
    return re.sub("[-_. ]", "", name.lower())


def _is_typed(track: Track) -> bool:
    """Whether a track is described by values of the right types, which a loader of one's own may miss."""
    texts = isinstance(track.id, str) and isinstance(track.genre, str) and isinstance(track.artist, str | None)
    return texts and isinstance(track.path, Path) and bool(track.id and track.genre)


def _is_utf8(name: str) -> bool:
    return name.encode(errors="ignore").decode() == name
