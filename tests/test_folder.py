"""Any folder of music."""

import os
import shutil
import unicodedata
from functools import partial
from pathlib import Path

import pytest
from catalogues import IDS, ids, make_gtzan, told, touch
from hypothesis import given, settings
from hypothesis import strategies as st
from shared import lock

from genre_cls.errors import UserError
from genre_cls.tracks.folder import folder
from genre_cls.tracks.gtzan import GENRES, gtzan
from genre_cls.tracks.listing import EXTENSIONS


def test_the_home_folder_may_be_written_as_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    make_gtzan(tmp_path / "music" / "genres")
    assert ids(gtzan("~/music")) == IDS
    assert folder("~/music/genres").genres == GENRES


def test_a_folder_that_cannot_be_listed_is_named_and_not_taken_for_an_empty_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked = touch(tmp_path / "rock" / "album" / "1.wav").parent
    touch(tmp_path / "rock" / "2.wav")
    touch(tmp_path / "jazz" / "1.wav")
    lock(monkeypatch, locked)
    with pytest.raises(UserError, match=f"^{locked}: permission denied; make it readable, or move it elsewhere$"):
        folder(str(tmp_path))


def test_a_folders_genres_are_its_folders_at_any_depth(tmp_path: Path) -> None:
    for name in ("dub/a.wav", "dub/b/c/d.FLAC", "ska punk/b/a.mp3", "ska punk/a.ogg", "readme.txt", "top.wav"):
        touch(tmp_path / name)
    for name in ("dub/cover.jpg", "dub/b/list.m3u", "art/cover.png", "dub/x.wav/y.wav", "dub/b.m4a"):
        touch(tmp_path / name)
    found = folder(str(tmp_path))
    assert found.genres == ("dub", "ska punk")
    assert ids(found) == ["dub/a.wav", "dub/b/c/d.FLAC", "dub/x.wav/y.wav", "ska punk/a.ogg", "ska punk/b/a.mp3"]
    assert all(track.path == tmp_path / track.id and track.genre == track.id.split("/")[0] for track in found.tracks)
    assert found.name == tmp_path.name
    loose = "Files outside of the genres' folders, ignored: 1, such as top.wav."
    unreadable = "Files in unreadable formats, ignored: 1, such as b.m4a (ffmpeg -i SONG.m4a SONG.flac converts one)."
    assert found.notes == ("Folders without tracks, ignored: art.", loose, unreadable)


def test_a_folders_ids_do_not_depend_on_where_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_gtzan(tmp_path / "here")
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    assert ids(folder(str(tmp_path / "here"))) == ids(folder(f"{tmp_path}/there/"))
    monkeypatch.chdir(tmp_path / "there")
    assert ids(folder(".")) == ids(folder(str(tmp_path / "here")))
    assert folder(".").name == "there"


NAMES = st.text(
    st.characters(categories=["L", "N", "P", "S", "Zs"], exclude_characters="/\\\0"), min_size=1, max_size=9
)


TREES = st.sets(st.tuples(st.sampled_from("abc"), NAMES, st.sampled_from(EXTENSIONS)), min_size=1, max_size=12)


@settings(max_examples=25, deadline=None)
@given(tree=TREES)
def test_every_file_is_one_track_with_an_id_of_its_own(
    tmp_path_factory: pytest.TempPathFactory, tree: set[tuple[str, str, str]]
) -> None:
    base = tmp_path_factory.mktemp("tree")
    files = {touch(base / genre / f"_{name}{extension}") for genre, name, extension in tree}
    for other in "xy":
        files.add(touch(base / other / "a.wav"))
    found = folder(str(base))
    assert {track.path for track in found.tracks} == files
    assert len(set(ids(found))) == len(files)
    assert ids(found) == sorted(ids(found))


def test_too_little_in_a_folder_is_reported(tmp_path: Path) -> None:
    for root in (None, ""):
        assert "dataset.root=FOLDER" in told(partial(folder, root))
    assert "no such folder" in told(lambda: folder(str(tmp_path / "typo")))
    assert "no such folder" in told(lambda: folder(str(touch(tmp_path / "song.wav"))))
    assert ": no genre folder" in told(lambda: folder(str(tmp_path)))
    touch(tmp_path / "dub" / "a.wav")
    touch(tmp_path / "art" / "cover.png")
    text = told(lambda: folder(str(tmp_path)))
    assert ": only 1 genre folder with audio, dub (" in text and "at least two" in text and str(tmp_path) in text
    touch(tmp_path / "jazz" / "b.m4a")
    assert "unreadable formats: 1, such as jazz/b.m4a (ffmpeg" in told(lambda: folder(str(tmp_path)))


def test_genres_that_are_the_same_letters_are_one_however_these_are_encoded(tmp_path: Path) -> None:
    for name in ("café/a.wav", unicodedata.normalize("NFD", "café/b.wav"), "rock/c.wav"):
        touch(tmp_path / name)
    assert folder(str(tmp_path)).genres == ("café", "rock")


def test_audio_outside_of_the_genres_folders_is_mentioned(tmp_path: Path) -> None:
    for name in ("rock/a.wav", "jazz/c.wav", "loose.wav", "._loose.wav"):
        touch(tmp_path / name)
    found = folder(str(tmp_path))
    assert len(found.tracks) == 2
    assert found.notes == ("Files outside of the genres' folders, ignored: 1, such as loose.wav.",)


def test_a_name_that_is_not_utf8_is_reported_before_any_work(tmp_path: Path) -> None:
    touch(tmp_path / "a" / "1.wav")
    bad = tmp_path / os.fsdecode(b"caf\xe9")
    try:
        touch(bad / "1.wav")
    except OSError:
        pytest.skip("not on this file system")
    text = told(lambda: folder(str(tmp_path)))
    assert "caf" in text and "UTF-8; rename" in text and text.encode()
    touch(bad / "2.wav")
    touch(bad / "3.wav")
    assert "UTF-8 (and 2 more); rename" in told(lambda: folder(str(tmp_path)))


def test_genres_whose_names_look_alike_are_pointed_out(tmp_path: Path) -> None:
    for genre in ("Hip Hop", "hip-hop", "rock", "HipHop"):
        touch(tmp_path / genre / "1.wav")
    (note,) = folder(str(tmp_path)).notes
    names, _, rest = note.partition(" are 3 genres")
    assert set(names.split(" and ")) == {"Hip Hop", "hip-hop", "HipHop"} and rest
