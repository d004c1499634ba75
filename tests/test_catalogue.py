"""Catalogues, and what all loaders of folders have in common."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from catalogues import ids, make_gtzan, touch
from hypothesis import given, settings
from hypothesis import strategies as st

from genre_cls.errors import UserError
from genre_cls.tracks.catalogue import Catalogue, Track
from genre_cls.tracks.folder import folder
from genre_cls.tracks.gtzan import GENRES, gtzan


@pytest.mark.parametrize("load", [gtzan, folder])
def test_folders_may_be_links_even_in_a_circle(tmp_path: Path, load: Callable[[str], Catalogue]) -> None:
    make_gtzan(tmp_path / "elsewhere")
    before = ids(load(str(tmp_path / "elsewhere")))
    for genre in GENRES:
        (tmp_path / "here").mkdir(exist_ok=True)
        (tmp_path / "here" / genre).symlink_to(tmp_path / "elsewhere" / genre)
    (tmp_path / "album").mkdir()
    touch(tmp_path / "album" / "blues.00099.wav")
    (tmp_path / "album" / "back").symlink_to(tmp_path / "elsewhere" / "blues")
    (tmp_path / "elsewhere" / "blues" / "on").symlink_to(tmp_path / "album")
    found = load(str(tmp_path / "here"))
    (new,) = {track.id for track in found.tracks} - set(before)
    assert "blues.00099" in new and len(found.tracks) == len(before) + 1


@pytest.mark.parametrize("load", [gtzan, folder])
def test_hidden_files_and_folders_are_ignored(tmp_path: Path, load: Callable[[str], Catalogue]) -> None:
    make_gtzan(tmp_path)
    before = ids(load(str(tmp_path)))
    touch(tmp_path / "blues" / "._blues.00000.wav")  # macOS
    touch(tmp_path / "blues" / "._blues.00000.m4a")
    touch(tmp_path / "blues" / ".ipynb_checkpoints" / "blues.00077.wav")
    touch(tmp_path / ".Trash" / "old.wav")
    touch(tmp_path / "__MACOSX" / "._blues.00000.wav")
    assert ids(load(str(tmp_path))) == before


@pytest.mark.parametrize("load", [gtzan, folder])
def test_a_hidden_folder_above_hides_nothing(tmp_path: Path, load: Callable[[str], Catalogue]) -> None:
    make_gtzan(tmp_path / ".cache" / "genres")
    assert len(load(str(tmp_path / ".cache" / "genres")).tracks) == 20


@pytest.mark.parametrize("load", [gtzan, folder])
def test_links_in_a_circle_do_not_hang(tmp_path: Path, load: Callable[[str], Catalogue]) -> None:
    make_gtzan(tmp_path)
    before = ids(load(str(tmp_path)))
    (tmp_path / "blues" / "loop").symlink_to(tmp_path / "blues", target_is_directory=True)
    (tmp_path / "rock" / "up").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "self").symlink_to(tmp_path / "self")
    found = load(str(tmp_path))
    assert ids(found) == before
    if load is folder:
        assert found.notes[0] == f"Links to what is not there, ignored: self (to {tmp_path / 'self'})."


@pytest.mark.parametrize("load", [gtzan, folder])
def test_a_broken_link_is_listed_as_a_track(tmp_path: Path, load: Callable[[str], Catalogue]) -> None:
    make_gtzan(tmp_path)
    before = load(str(tmp_path)).tracks
    (tmp_path / "rock" / "self.wav").symlink_to(tmp_path / "rock" / "self.wav")
    (tmp_path / "rock" / "broken.wav").symlink_to(tmp_path / "nowhere.wav")
    lost = {track.path.name for track in load(str(tmp_path)).tracks if track not in before}
    assert lost == {"self.wav", "broken.wav"}


def test_genres_are_sorted_once_however_often_their_order_is_asked_for() -> None:
    some = Catalogue("some", (Track("1", Path(), "b"), Track("2", Path(), "a"), Track("3", Path(), "b")))
    assert some.genres == ("a", "b") and some.genres is some.genres


def test_a_catalogues_tracks_are_sorted_by_id() -> None:
    tracks = [Track(name, Path(name), "rock") for name in ("b", "a10", "a9")]
    assert [track.id for track in Catalogue("mine", tuple(tracks)).tracks] == ["a10", "a9", "b"]
    assert Catalogue("mine", cast(Any, (track for track in tracks))) == Catalogue("mine", tuple(tracks))


@pytest.mark.parametrize(
    ("track", "problem"),
    [
        (Track("1", Path("other"), "rock"), "dataset: two tracks have the id 1; give each its own"),
        (Track("2", Path("2"), cast(Any, 7)), "dataset: Track.*genre=7.* needs id and genre, both str"),
        (Track(cast(Any, 2), Path("2"), "rock"), "dataset: Track.*id=2.* needs id and genre, both str"),
        (Track("2", cast(Any, "2.wav"), "rock"), "dataset: Track.* needs id and genre, both str, and path, a Path"),
        (Track("2", Path("2"), "rock", artist=cast(Any, np.nan)), "dataset: Track.*artist=nan.* artist is str or None"),
        (Track("", Path("2"), "rock"), "dataset: Track.*id=''.* needs id and genre"),
        (Track("2", Path("2"), "caf\udce9"), "2: its name is not valid UTF-8"),
    ],
)
def test_a_catalogue_of_ones_own_that_cannot_be_used_is_refused(track: Track, problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        Catalogue("mine", (Track("1", Path("1"), "rock"), track))


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10**9))
def test_shuffled_genres_keep_their_sizes_and_nothing_else(seed: int) -> None:
    tracks = tuple(Track(f"{n:02}", Path(str(n)), "rock" if n % 3 else "jazz", artist=str(n % 5)) for n in range(60))
    shuffled = Catalogue("c", tracks).with_shuffled_genres(seed)
    assert Counter(track.genre for track in shuffled.tracks) == Counter(track.genre for track in tracks)
    assert [replace(track, genre="") for track in shuffled.tracks] == [replace(track, genre="") for track in tracks]
    assert [track.genre for track in shuffled.tracks] != [track.genre for track in tracks]
    assert shuffled == Catalogue("c", tracks).with_shuffled_genres(seed) and "permuted" in shuffled.notes[-1]
    assert shuffled != Catalogue("c", tracks).with_shuffled_genres(seed + 1)
