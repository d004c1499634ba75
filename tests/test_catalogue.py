"""Catalogues: GTZAN in every folder layout, any folder of music, and the demo set, made once."""

import inspect
import multiprocessing
import os
import shutil
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast
from unittest import mock

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from shared import lock

from genre_cls.errors import UserError
from genre_cls.processes import workers
from genre_cls.processes.workers import stop
from genre_cls.tracks import catalogue, synthesiser
from genre_cls.tracks.audio import decode
from genre_cls.tracks.catalogue import GTZAN_GENRES, Catalogue, Track, demo, folder, gtzan, gtzan_facts
from genre_cls.tracks.listing import EXTENSIONS


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def make_gtzan(base: Path, *, per_genre: int = 2, extension: str = ".wav", hiphop: str = "hiphop") -> None:
    for genre in GTZAN_GENRES:
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


# GTZAN

LAYOUTS = [".", "genres", "genres_original", "Data/genres_original", "Data/genres"]
IDS = sorted(f"{genre}.{number:05d}" for genre in GTZAN_GENRES for number in range(2))


@pytest.mark.parametrize("extension", [".wav", ".au", ".WAV", ".mp3"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_gtzan_is_found_in_every_layout(tmp_path: Path, layout: str, extension: str) -> None:
    make_gtzan(tmp_path / layout, extension=extension)
    found = gtzan(str(tmp_path))
    assert ids(found) == IDS
    assert found.genres == GTZAN_GENRES
    assert found.name == "gtzan" and not found.synthetic
    assert all(track.path.exists() and track.id.startswith(track.genre + ".") for track in found.tracks)


@pytest.mark.parametrize("name", ["hiphop", "hip-hop", "Hip Hop", "HipHop", "hip_hop"])
def test_hiphop_has_one_name_however_its_folder_is_spelled(tmp_path: Path, name: str) -> None:
    make_gtzan(tmp_path, hiphop=name)
    assert ids(gtzan(str(tmp_path))) == IDS


def test_the_images_beside_gtzans_audio_are_not_tracks(tmp_path: Path) -> None:
    make_gtzan(tmp_path / "Data" / "genres_original")
    make_gtzan(tmp_path / "Data" / "images_original", extension=".png")
    touch(tmp_path / "Data" / "features_30_sec.csv")
    assert ids(gtzan(str(tmp_path))) == IDS


def test_the_home_folder_may_be_written_as_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    make_gtzan(tmp_path / "music" / "genres")
    assert ids(gtzan("~/music")) == IDS
    assert folder("~/music/genres").genres == GTZAN_GENRES


def test_an_incomplete_gtzan_is_noted_with_its_counts(tmp_path: Path) -> None:
    make_gtzan(tmp_path, per_genre=100)
    assert gtzan(str(tmp_path)).notes == ()
    (tmp_path / "jazz" / "jazz.00054.wav").unlink()
    touch(tmp_path / "rock" / "rock.00100.wav")
    note, of_another = gtzan(str(tmp_path)).notes
    assert "rock.00100.wav" in of_another
    assert "jazz 99, rock 101" in note
    assert "1000 of 1000" in note
    assert "blues" not in note


def test_a_folder_that_cannot_be_listed_is_named_and_not_taken_for_an_empty_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked = touch(tmp_path / "rock" / "album" / "1.wav").parent
    touch(tmp_path / "rock" / "2.wav")
    touch(tmp_path / "jazz" / "1.wav")
    lock(monkeypatch, locked)
    with pytest.raises(UserError, match=f"^{locked}: permission denied; make it readable, or move it elsewhere$"):
        folder(str(tmp_path))


def test_a_track_under_two_spellings_of_its_genre_is_listed_once(tmp_path: Path) -> None:
    make_gtzan(tmp_path)
    touch(tmp_path / "hiphop" / "hip-hop.00001.au")
    assert ids(gtzan(str(tmp_path))) == IDS


def test_another_file_with_a_tracks_number_does_not_replace_it(tmp_path: Path) -> None:
    make_gtzan(tmp_path)
    touch(tmp_path / "blues" / "00001.wav")
    reason = told(lambda: gtzan(str(tmp_path)))
    assert " 00001.wav" in reason and "blues.00001.wav" in reason and "move one of them away" in reason


def test_a_file_that_is_not_named_like_a_track_of_gtzan_is_none_and_is_noted(tmp_path: Path) -> None:
    make_gtzan(tmp_path)
    touch(tmp_path / "blues" / "my.song.00001.wav")
    found = gtzan(str(tmp_path))
    (own,) = (track for track in found.tracks if track.id not in IDS)
    assert own.id == "blues.my.song.00001" and own.artist is None
    assert found.notes[-1].startswith("Not named like tracks of GTZAN, so nothing is known of them: 1, such as ")


@pytest.mark.parametrize("name", ["blues_00042.wav", "Blues00042.wav", "42.wav", "blues.000042.wav", "blues 42.wav"])
def test_a_track_of_gtzan_is_known_by_its_number_however_it_is_written(tmp_path: Path, name: str) -> None:
    make_gtzan(tmp_path)
    touch(tmp_path / "blues" / name)
    (track,) = (track for track in gtzan(str(tmp_path)).tracks if track.path.name == name)
    assert track.id == "blues.00042" and track.artist == gtzan_facts()["blues.00042"]["artist"]


def test_a_track_of_another_genre_is_refused(tmp_path: Path) -> None:
    make_gtzan(tmp_path)
    touch(tmp_path / "blues" / "rock.00077.wav")
    assert "rock.00077.wav: is a track of rock by its name" in told(lambda: gtzan(str(tmp_path)))


def test_hidden_and_empty_folders_of_a_genre_are_passed_over(tmp_path: Path) -> None:
    make_gtzan(tmp_path)
    (tmp_path / "Rock").mkdir()
    touch(tmp_path / ".rock" / "rock.00050.wav")
    assert ids(gtzan(str(tmp_path))) == IDS


def test_two_folders_of_one_genre_are_refused(tmp_path: Path) -> None:
    make_gtzan(tmp_path)
    touch(tmp_path / "hip-hop" / "hiphop.00050.wav")
    assert "hip-hop beside it is the same genre" in told(lambda: gtzan(str(tmp_path)))


def test_of_several_places_the_one_with_most_of_gtzan_counts(tmp_path: Path) -> None:
    make_gtzan(tmp_path / "genres_original")
    touch(tmp_path / "rock" / "rock.00001.wav")
    touch(tmp_path / "genres" / "blues" / "blues.00001.wav")
    assert ids(gtzan(str(tmp_path))) == IDS


def test_a_track_as_wav_and_as_au_is_listed_once(tmp_path: Path) -> None:
    make_gtzan(tmp_path, extension=".au")
    make_gtzan(tmp_path, extension=".wav")
    found = gtzan(str(tmp_path))
    assert ids(found) == IDS
    assert {track.path.suffix for track in found.tracks} == {".wav"}


@pytest.mark.parametrize("emptied", [True, False])
def test_a_genre_without_audio_stops_with_its_name(tmp_path: Path, emptied: bool) -> None:
    make_gtzan(tmp_path)
    shutil.rmtree(tmp_path / "reggae")
    if emptied:
        touch(tmp_path / "reggae" / "readme.txt")
    text = told(lambda: gtzan(str(tmp_path)))
    assert "no audio for reggae;" in text
    assert str(tmp_path) in text


def test_a_missing_gtzan_is_reported_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for root in (None, ""):
        assert "neither dataset.root nor GTZAN_ROOT is set" in told(partial(gtzan, root))
    assert f"{tmp_path}/typo: no such folder" in told(lambda: gtzan(f"{tmp_path}/typo"))
    assert f"{tmp_path}: has no folder named after a GTZAN genre" in told(lambda: gtzan(str(tmp_path)))
    for text in (told(lambda: gtzan(None)), told(lambda: gtzan(str(tmp_path)))):
        assert "GTZAN_ROOT" in text and "dataset=demo" in text
    touch(tmp_path / "blues.00000.wav")
    assert "sort them into folders called blues, classical" in told(lambda: gtzan(str(tmp_path)))
    assert "from GTZAN_ROOT" not in told(lambda: gtzan("/nope"))
    monkeypatch.setenv("GTZAN_ROOT", "/nope")
    assert told(lambda: gtzan("/nope")).startswith("dataset.root=/nope (from GTZAN_ROOT): no such folder")


# Both


@pytest.mark.parametrize("load", [gtzan, folder])
def test_folders_may_be_links_even_in_a_circle(tmp_path: Path, load: Callable[[str], Catalogue]) -> None:
    make_gtzan(tmp_path / "elsewhere")
    before = ids(load(str(tmp_path / "elsewhere")))
    for genre in GTZAN_GENRES:
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


# Any folder of music


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


# The demo set

DEMO: dict[str, Any] = {"tracks_per_genre": 2, "seconds": 1.0, "sample_rate": 8000, "crossover": 0.1, "seed": 0}


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Synthesis where a test can reach it."""
    monkeypatch.setattr(workers, "call", lambda _, function, *arguments: function(*arguments))
    monkeypatch.setattr(workers, "results", iter)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Catalogue]]:
    """A cache with the demo set in it, made by workers, as users make it."""
    cache = tmp_path_factory.mktemp("demo")
    yield cache, demo(cache_dir=str(cache), **DEMO)
    stop()
    for process in multiprocessing.active_children():
        process.join(10)
    assert multiprocessing.active_children() == []


def stamps(found: Catalogue) -> dict[str, tuple[int, int]]:
    return {t.id: (t.path.stat().st_ino, t.path.stat().st_mtime_ns) for t in found.tracks}


def test_the_demo_set_is_complete(made: tuple[Path, Catalogue]) -> None:
    _, found = made
    assert ids(found) == IDS
    assert found.synthetic and "synthetic" in found.notes[0]
    assert set(Counter(track.genre for track in found.tracks).values()) == {2}
    assert all(track.artist for track in found.tracks)
    for track in found.tracks:
        info = soundfile.info(track.path)
        assert (info.samplerate, info.frames, info.channels) == (8000, 8000, 1)
        assert np.abs(decode(track.path, 8000)).max() > 0.01


def test_a_second_call_synthesises_nothing(made: tuple[Path, Catalogue], monkeypatch: pytest.MonkeyPatch) -> None:
    cache, found = made
    before = stamps(found)
    monkeypatch.setattr(workers, "call", None)
    again = demo(cache_dir=str(cache), **DEMO)
    assert again == found
    assert stamps(again) == before
    assert demo(cache_dir=str(cache), **DEMO | {"seconds": 1}) == found  # the same, written as a whole number


def test_the_demo_set_is_the_same_on_every_machine(
    made: tuple[Path, Catalogue], tmp_path: Path, in_this_process: None
) -> None:
    _, found = made
    other = demo(cache_dir=str(tmp_path), **DEMO)
    for a, b in zip(found.tracks, other.tracks, strict=True):
        assert (a.id, a.genre, a.artist, a.path.name) == (b.id, b.genre, b.artist, b.path.name)
        assert a.path.read_bytes() == b.path.read_bytes()


@pytest.mark.parametrize("change", [{"seed": 1}, {"crossover": 0.9}, {"seconds": 0.5}, {"sample_rate": 4000}], ids=str)
def test_other_arguments_make_another_set(tmp_path: Path, in_this_process: None, change: dict[str, Any]) -> None:
    one = DEMO | {"tracks_per_genre": 1}
    first = demo(cache_dir=str(tmp_path), **one)
    before = stamps(first)
    second = demo(cache_dir=str(tmp_path), **one | change)
    assert ids(second) == ids(first)
    assert not {track.path for track in second.tracks} & {track.path for track in first.tracks}
    differ = [a.path.read_bytes() != b.path.read_bytes() for a, b in zip(first.tracks, second.tracks, strict=True)]
    assert sum(differ) > len(differ) / 2
    assert stamps(first) == before


def test_a_growing_demo_set_keeps_its_files(tmp_path: Path, in_this_process: None) -> None:
    small = demo(cache_dir=str(tmp_path), **DEMO | {"tracks_per_genre": 1})
    before = stamps(small)
    large = demo(cache_dir=str(tmp_path), **DEMO)
    assert set(ids(small)) < set(ids(large))
    assert {id: stamp for id, stamp in stamps(large).items() if id in before} == before


def test_a_new_synthesiser_makes_a_new_set(
    tmp_path: Path, in_this_process: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = DEMO | {"tracks_per_genre": 1, "seconds": 0.1}
    old = demo(cache_dir=str(tmp_path), **one)
    assert inspect.getsource(synthesiser) == catalogue.SYNTHESISER
    monkeypatch.setattr("genre_cls.tracks.catalogue.SYNTHESISER", "another")
    new = demo(cache_dir=str(tmp_path), **one)
    assert not {track.path for track in old.tracks} & {track.path for track in new.tracks}


def test_an_interrupted_synthesis_leaves_no_incomplete_files(
    tmp_path: Path, in_this_process: None, monkeypatch: pytest.MonkeyPatch, made: tuple[Path, Catalogue]
) -> None:
    write, written = soundfile.write, []

    def die_at_the_fifth(file: Path, data: Any, *args: Any, **kwargs: Any) -> None:
        written.append(file)
        if len(written) >= 5:
            write(file, data[:100], *args, **kwargs)
            raise OSError(28, "No space left on device")
        write(file, data, *args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(soundfile, "write", die_at_the_fifth)
        demo(cache_dir=str(tmp_path), **DEMO)
    wavs = list(tmp_path.rglob("*.wav"))
    assert len(wavs) == 4
    assert all(soundfile.info(wav).frames == 8000 for wav in wavs)
    again = demo(cache_dir=str(tmp_path), **DEMO)
    for a, b in zip(again.tracks, made[1].tracks, strict=True):
        assert a.path.read_bytes() == b.path.read_bytes()
    assert list(tmp_path.rglob("*.partial")) == []


@pytest.mark.skipif(os.name != "posix", reason="Windows opens no folders")
def test_each_demo_file_is_synced_to_the_disk_as_it_is_never_checked_again(
    tmp_path: Path, in_this_process: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[int, ...]] = []
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(os.fstat(handle)[1:3]))
    found = demo(cache_dir=str(tmp_path), **DEMO | {"tracks_per_genre": 1, "seconds": 0.1})
    assert {track.path.stat()[1:3] for track in found.tracks} < set(synced)


def test_processes_that_ask_for_the_demo_set_at_once_make_it_once(tmp_path: Path, in_this_process: None) -> None:
    one = DEMO | {"tracks_per_genre": 1, "seconds": 0.2}
    with ThreadPoolExecutor(3) as pool:
        sets = list(pool.map(lambda _: (found := demo(cache_dir=str(tmp_path), **one), stamps(found)), range(3)))
    assert sets[0] == sets[1] == sets[2]


def test_the_facts_about_gtzan_are_complete_and_refer_only_to_its_tracks() -> None:
    facts = catalogue.gtzan_facts()
    assert sorted(facts) == [f"{genre}.{n:05d}" for genre in catalogue.GTZAN_GENRES for n in range(100)]
    assert Counter(row["part"] for row in facts.values()) == {"train": 443, "valid": 197, "test": 290, "": 70}
    assert sum(not row["artist"] for row in facts.values()) == 81
    assert all(not facts[row["repeats"]]["repeats"] for row in facts.values() if row["repeats"]), "chains end at once"
    assert sum(bool(row["repeats"]) for row in facts.values()) == 50  # as many as Sturm counts
    assert all(row["fault"] for row in facts.values() if not row["part"])


def test_faulty_tracks_can_be_left_out_of_gtzan(tmp_path: Path) -> None:
    make_gtzan(tmp_path)
    for name in ("reggae/reggae.00086.wav", "metal/metal.00058.wav"):
        touch(tmp_path / name)
    with_them = gtzan(str(tmp_path))
    faults = {track.id: track.fault for track in with_them.tracks if track.fault}
    assert faults["reggae.00086"] == "distorted" and faults["metal.00058"] == "the same recording as rock.00016"
    without = with_them.without_faults()
    assert {*with_them.tracks} - {*without.tracks} == {track for track in with_them.tracks if track.fault}
    assert f"{len(faults)} tracks with known faults" in without.notes[-1]


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


def test_gtzans_tracks_know_their_part_of_the_published_split(tmp_path: Path) -> None:
    make_gtzan(tmp_path)
    parts = {track.id: track.part for track in gtzan(str(tmp_path)).tracks}
    assert parts["blues.00000"] == "valid" and set(parts.values()) <= {"train", "valid", "test", None}


def test_the_published_split_shares_no_artist_between_its_test_part_and_the_rest() -> None:
    sides: dict[str, set[bool]] = {}
    for row in catalogue.gtzan_facts().values():
        if row["artist"] and row["part"]:
            sides.setdefault(row["artist"], set()).add(row["part"] == "test")
    assert all(len(side) == 1 for side in sides.values())


def test_metadata_names_artists_and_leaves_tracks_out(tmp_path: Path) -> None:
    lines = "\ufeffpath,artist,exclude\nrock/a.wav, Ann ,0\nrock/b.wav,Bob,1\n"
    found = folder(described(tmp_path, lines, "rock/b.wav"))
    assert [(track.id, track.artist) for track in found.tracks] == [("jazz/c.wav", None), ("rock/a.wav", "Ann")]
    assert found.notes == ("1 track is excluded by metadata.csv.",)


def test_metadata_may_be_typed_on_another_system_than_the_file_names(tmp_path: Path) -> None:
    for name in ("rock/ä.wav", "jazz/c.wav"):
        touch(tmp_path / unicodedata.normalize("NFD", name))
    (tmp_path / "metadata.csv").write_text("path,artist,exclude\nrock/ä.wav,Ann,0.0\njazz/c.wav,Bob,\n", "utf-8")
    found = folder(str(tmp_path))
    assert [track.artist for track in found.tracks] == ["Bob", "Ann"] and not found.notes


def test_genres_that_are_the_same_letters_are_one_however_these_are_encoded(tmp_path: Path) -> None:
    for name in ("café/a.wav", unicodedata.normalize("NFD", "café/b.wav"), "rock/c.wav"):
        touch(tmp_path / name)
    assert folder(str(tmp_path)).genres == ("café", "rock")


def test_where_metadata_excludes_all_that_is_reported(tmp_path: Path) -> None:
    root = described(tmp_path, "path,exclude\nrock/a.wav,1\njazz/c.wav,1\n")
    assert told(lambda: folder(root)).endswith(f"; {tmp_path / 'metadata.csv'} excludes 2")


def test_a_column_of_metadata_that_comes_twice_is_refused(tmp_path: Path) -> None:
    root = described(tmp_path, "path,artist,Artist\nrock/a.wav,Ann,\njazz/c.wav,Bob,\n")
    assert "it has several columns artist" in told(lambda: folder(root))


@pytest.mark.parametrize("word", ["no", "2", "-"])
def test_an_exclude_other_than_0_or_1_is_refused(tmp_path: Path, word: str) -> None:
    root = described(tmp_path, f"path,exclude\nrock/a.wav,{word}\n")
    assert f"metadata.csv: exclude={word} of rock/a.wav: must be 1, 0 or empty" in told(lambda: folder(root))


def test_metadata_that_matches_no_track_is_reported(tmp_path: Path) -> None:
    (note,) = folder(described(tmp_path, "path,artist\nrock\\a.wav,Ann\njazz/c.wav,Bob\n")).notes
    assert note.startswith("metadata.csv: 1 path matches no track ('rock") and "rock/a.wav" in note


def test_metadata_of_which_not_one_line_matches_a_track_is_refused(tmp_path: Path) -> None:
    root = described(tmp_path, "path,artist\nrock\\a.wav,Ann\njazz\\c.wav,Bob\n")
    reason = told(lambda: folder(root))
    assert reason.startswith(f"{tmp_path / 'metadata.csv'}: 2 paths match no track (such as 'jazz")
    assert reason.endswith("; write paths like rock/a.wav")
    (note,) = folder(described(tmp_path, "path,exclude\nrock/deleted.wav,1\n")).notes  # of which nothing is lost
    assert note.startswith("metadata.csv: 1 path matches no track ('rock/deleted.wav')")


def test_paths_in_metadata_may_begin_with_the_folder_that_they_are_in(tmp_path: Path) -> None:
    found = folder(described(tmp_path, "path,artist\n./rock/a.wav,Ann\njazz//c.wav,Bob\n"))
    assert [track.artist for track in found.tracks] == ["Bob", "Ann"]


def test_columns_of_metadata_may_be_separated_by_semicolons_as_excel_does_in_some_countries(tmp_path: Path) -> None:
    found = folder(described(tmp_path, "\ufeffpath;artist\r\nrock/a.wav;Ann, Bob\r\njazz/c.wav;Cy\r\n"))
    assert [track.artist for track in found.tracks] == ["Cy", "Ann, Bob"]


def test_a_semicolon_in_the_name_of_a_column_separates_nothing(tmp_path: Path) -> None:
    found = folder(described(tmp_path, "path,artist,mood; tempo\nrock/a.wav,Ann,fast\njazz/c.wav,Bob,slow\n"))
    assert [track.artist for track in found.tracks] == ["Bob", "Ann"]


def test_metadata_that_cannot_be_read_is_not_ignored(tmp_path: Path) -> None:
    for name in ("rock/a.wav", "jazz/c.wav"):
        touch(tmp_path / name)
    (tmp_path / "metadata.csv").symlink_to(tmp_path / "gone.csv")
    with pytest.raises(OSError):
        folder(str(tmp_path))
    (tmp_path / "metadata.csv").unlink()
    (tmp_path / "metadata.csv").mkdir()
    with pytest.raises(OSError):
        folder(str(tmp_path))


def test_audio_outside_of_the_genres_folders_is_mentioned(tmp_path: Path) -> None:
    for name in ("rock/a.wav", "jazz/c.wav", "loose.wav", "._loose.wav"):
        touch(tmp_path / name)
    found = folder(str(tmp_path))
    assert len(found.tracks) == 2
    assert found.notes == ("Files outside of the genres' folders, ignored: 1, such as loose.wav.",)


def test_a_genre_whose_tracks_are_all_excluded_is_reported(tmp_path: Path) -> None:
    found = folder(described(tmp_path, "path,exclude\nnoise/d.wav,1\n", "noise/d.wav"))
    assert found.genres == ("jazz", "rock") and found.notes[0].endswith(", ignored: noise.")
    assert found.notes[1] == "1 track is excluded by metadata.csv."


@pytest.mark.parametrize(
    "content",
    [
        b'path,artist\na,"B\nc,D\n',
        b"name,artist\nx,y\n",
        b"name,artist\n",
        b"path,Artist name\na/1.wav,Ann\n",
        b"",
        b"path\n\xff\xfe\xfa\n",
    ],
)
def test_an_invalid_metadata_file_is_refused(tmp_path: Path, content: bytes) -> None:
    for genre in "ab":
        touch(tmp_path / genre / "1.wav")
    (tmp_path / "metadata.csv").write_bytes(content)
    with pytest.raises(UserError, match=r"metadata\.csv: must be UTF-8 CSV with a column path, and artist or exclude"):
        folder(str(tmp_path))


LINES = st.lists(st.lists(st.sampled_from(["path", "artist", "exclude", "a/1.wav", "1", '"', "\r", "\0", "é", ""])))
ROWS = LINES.map(lambda lines: "\n".join(",".join(line) for line in lines).encode())


@settings(max_examples=100, deadline=None)
@given(content=st.binary() | st.text().map(lambda text: text.encode("utf-8", "surrogatepass")) | ROWS)
def test_any_metadata_file_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    base = tmp_path_factory.getbasetemp() / "with metadata"
    for genre in "ab":
        touch(base / genre / "1.wav")
    (base / "metadata.csv").write_bytes(content)
    try:
        assert {track.genre for track in folder(str(base)).tracks} == {"a", "b"}
    except UserError as error:
        assert len(str(error).splitlines()) == 1 and str(base) in str(error)


def test_metadata_is_read_however_its_header_is_spelled(tmp_path: Path) -> None:
    rows = "Path, Artist ,EXCLUDE\nrock/a.wav,Ann,\nrock/b.wav,Bob,1\njazz/c.wav,Cid,0\n"
    root = described(tmp_path, rows, "rock/b.wav")
    found = {track.id: track.artist for track in folder(root).tracks}
    assert found == {"jazz/c.wav": "Cid", "rock/a.wav": "Ann"}


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ("rock/a.wav,Ann,1\nrock/a.wav,Ann,\n", "rock/a.wav is listed twice with different facts"),
        ("rock/a.wav,Ann, the singer,1\n", "a name with a comma needs quotes around it"),
    ],
)
def test_metadata_that_would_lose_facts_are_refused(tmp_path: Path, rows: str, reason: str) -> None:
    root = described(tmp_path, "path,artist,exclude\n" + rows)
    assert reason in told(lambda: folder(root))


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


def test_a_demo_set_that_is_complete_is_read_where_nothing_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = {"tracks_per_genre": 1, "seconds": 1.0, "sample_rate": 8000, "crossover": 0.1, "seed": 0}
    made = demo(cache_dir=str(tmp_path), **arguments)  # type: ignore[arg-type]
    monkeypatch.setattr(catalogue, "locked", mock.Mock(side_effect=OSError("read-only")))
    assert demo(cache_dir=str(tmp_path), **arguments) == made  # type: ignore[arg-type]
