"""The demo set, made once."""

import inspect
import multiprocessing
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import soundfile
from catalogues import IDS, ids

from genre_cls.processes import workers
from genre_cls.processes.workers import stop
from genre_cls.tracks import demo as demo_set
from genre_cls.tracks import synthesiser
from genre_cls.tracks.audio import decode
from genre_cls.tracks.catalogue import Catalogue
from genre_cls.tracks.demo import demo

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
    assert inspect.getsource(synthesiser) == demo_set.SYNTHESISER
    monkeypatch.setattr("genre_cls.tracks.demo.SYNTHESISER", "another")
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


def test_a_demo_set_that_is_complete_is_read_where_nothing_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = {"tracks_per_genre": 1, "seconds": 1.0, "sample_rate": 8000, "crossover": 0.1, "seed": 0}
    made = demo(cache_dir=str(tmp_path), **arguments)  # type: ignore[arg-type]
    monkeypatch.setattr(demo_set, "locked", mock.Mock(side_effect=OSError("read-only")))
    assert demo(cache_dir=str(tmp_path), **arguments) == made  # type: ignore[arg-type]
