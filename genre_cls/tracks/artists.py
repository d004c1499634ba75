"""Which tracks share an artist or a recording, so that a fold may keep them on one side."""

import re
from collections.abc import Sequence
from unicodedata import category, normalize

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import DisjointSet

from genre_cls.tracks.catalogue import Track

WORDS = "feat|featuring|ft|with"  # before the guests of an artist
JOINTS = re.compile(rf"([,;/&+]|\b(?:and|{WORDS})\b)", re.IGNORECASE)  # between artists in one credit
AFTER_MAIN = re.compile(rf";|\b(?:{WORDS})\b", re.IGNORECASE)  # those of them that set the main artist apart

_Node = tuple[str, str]  # a track, an artist or a recording, by its name


def artist_groups(tracks: Sequence[Track], pairs: Sequence[tuple[int, int]] = ()) -> NDArray[np.int64] | None:
    """Number the groups of tracks that share an artist or a recording, directly or through other tracks.

    Args:
        tracks: one without an artist, and without a recording in common with another, is a group of its own. One by
            several artists is in the group of its main artist, who is named before a semicolon, "feat", "featuring",
            "ft" or "with", and in that of each other one who is the main or the sole artist of another track.
        pairs: indices of tracks that were found to be the same recording.

    Returns:
        A number per track `(n_tracks,)`, int64, equal within a group; None if not a single artist is known.
    """
    known = [(track, track.artist) for track in tracks if track.artist]
    listed = {name for _, artist in known for name in (_plain(artist), _main(artist))}
    links = [(_node(track), ("artist", name)) for track, artist in known for name in _credited(artist) & listed]
    return _connected(tracks, pairs, links) if known else None


def recordings(tracks: Sequence[Track], pairs: Sequence[tuple[int, int]] = ()) -> NDArray[np.int64]:
    """Number the groups of tracks that are the same recording `(n_tracks,)`, as `artist_groups` but without artists."""
    return _connected(tracks, pairs, [])


def _node(track: Track) -> _Node:
    return "track", track.id


def _connected(
    tracks: Sequence[Track], pairs: Sequence[tuple[int, int]], links: Sequence[tuple[_Node, _Node]]
) -> NDArray[np.int64]:
    """Number the groups of tracks that links, pairs or a common recording connect, directly or not `(n_tracks,)`."""
    links = [*links, *((_node(track), ("recording", track.repeats or track.id)) for track in tracks)]
    links += [(_node(tracks[first]), _node(tracks[second])) for first, second in pairs]
    sets = DisjointSet([*map(_node, tracks), *(end for _, end in links)])
    for link in links:
        sets.merge(*link)
    roots = [sets[_node(track)] for track in tracks]
    numbers = {root: number for number, root in enumerate(dict.fromkeys(roots))}
    return np.array([numbers[root] for root in roots])


def _credited(credit: str) -> set[str]:
    """All possible artists' names in a credit: "A, B and C" may be three artists, a pair and one, or a trio."""
    pieces = JOINTS.split(credit)  # names, alternating with joints
    ends = range(1, len(pieces) + 1, 2)
    return {_plain("".join(pieces[first:end])) for end in ends for first in range(0, end, 2)}


def _main(credit: str) -> str:
    """The artist whom a credit names first, if it sets others apart; else all of it."""
    return _plain(AFTER_MAIN.split(credit)[0]) or _plain(credit)


def _plain(name: str) -> str:
    """Normalise a name for comparison: only its letters and digits, unless it has none; "&" and "+" as "and"."""
    folded = re.sub("[&+]", "and", normalize("NFC", name).casefold())
    return "".join(char for char in folded if category(char)[0] in "LMN") or "".join(folded.split())
