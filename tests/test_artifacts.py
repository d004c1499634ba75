"""The files of runs: what is read back is what was written, or is refused."""

import csv
import tempfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made import GENRES, NAMES, a_result, folds

from genre_cls.evaluation.genre_means import GenreMeans
from genre_cls.evaluation.predictions import FoldResult, WindowPredictions
from genre_cls.tracking.artifacts import (
    DAMAGED,
    FACTS,
    RESULTS,
    confusion_file,
    csv_file,
    fold_files,
    genre_means_file,
    load_fold,
    load_genre_means,
    load_tracks,
    tracks_file,
)

MEANS = GenreMeans("mel", GENRES, np.arange(60, dtype=np.float32).reshape(3, 4, 5), 0.1, np.arange(4.0))


def written(fold: FoldResult, folder: Path) -> Path:
    """The folder, with the files of a fold."""
    for name, content in fold_files(fold).items():
        (folder / name).write_bytes(content)
    return folder


@settings(deadline=None, max_examples=60)
@given(folds())
def test_a_result_comes_back_from_its_files_to_the_last_bit(fold: FoldResult) -> None:
    with tempfile.TemporaryDirectory() as folder:
        back = load_fold(written(fold, Path(folder)))
    arrays = {"labels": 0, "probabilities": 0, "windows": None}
    assert replace(back, **arrays) == replace(fold, **arrays)
    assert back.labels.tolist() == fold.labels.tolist()
    assert back.probabilities.tobytes() == fold.probabilities.tobytes()
    assert back.scores == fold.scores
    for name in ("track", "start", "probabilities"):
        assert getattr(back.windows, name).tobytes() == getattr(fold.windows, name).tobytes()


def test_a_fold_keeps_the_predictions_of_each_window(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    windows = WindowPredictions(np.repeat(np.arange(10), 3), random.random(30), random.random((30, len(GENRES))))
    back = load_fold(written(replace(a_result(1.0).folds[0], windows=windows), tmp_path)).windows
    for name in ("track", "start", "probabilities"):
        assert getattr(back, name).tobytes() == getattr(windows, name).tobytes()


@pytest.mark.parametrize("lost", RESULTS)
def test_a_fold_that_has_lost_a_file_is_not_read(lost: str, tmp_path: Path) -> None:
    load_fold(written(a_result(0.5).folds[0], tmp_path))
    (tmp_path / lost).unlink()
    with pytest.raises(FileNotFoundError):
        load_fold(tmp_path)


def test_a_large_table_in_which_a_quote_opens_and_never_closes_is_damaged(tmp_path: Path) -> None:
    table = written(a_result(0.5).folds[0], tmp_path) / "predictions.csv"
    table.write_bytes(table.read_bytes() + b'"' + b"x," * csv.field_size_limit())
    with pytest.raises(DAMAGED):
        load_fold(tmp_path)


@pytest.mark.parametrize("n_lost", [1, 2, 3, 30])
def test_a_table_that_is_cut_short_is_damaged_even_within_its_last_number(tmp_path: Path, n_lost: int) -> None:
    table = written(a_result(0.5).folds[0], tmp_path) / "predictions.csv"
    table.write_bytes(table.read_bytes()[:-n_lost])
    with pytest.raises(DAMAGED):
        load_fold(tmp_path)


def test_genre_means_come_back_as_they_were(tmp_path: Path) -> None:
    means = replace(MEANS, matrices=np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32))
    (tmp_path / "m.npz").write_bytes(genre_means_file(means))
    back = load_genre_means(tmp_path / "m.npz")
    assert back.matrices.tobytes() == means.matrices.tobytes() and back.frequencies.tolist() == [0, 1, 2, 3]
    assert (back.kind, back.genres, back.seconds_per_frame) == ("mel", GENRES, 0.1)


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_arrays_that_a_disk_has_damaged_are_reported_as_such(data: st.DataObject) -> None:
    content = bytearray(genre_means_file(MEANS))
    place = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content[place] ^= 1 << data.draw(st.integers(0, 7))
    else:
        del content[place:]
    with tempfile.TemporaryDirectory() as folder, suppress(*DAMAGED):
        Path(folder, "means.npz").write_bytes(content)
        load_genre_means(Path(folder, "means.npz"))


@settings(deadline=None, max_examples=60)
@given(st.dictionaries(NAMES, st.fixed_dictionaries(dict.fromkeys(FACTS, NAMES | st.just("")))))
def test_the_facts_about_tracks_come_back_whatever_is_in_their_names(facts: dict[str, dict[str, str]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (path := Path(folder) / "tracks.csv").write_bytes(tracks_file(facts))
        assert load_tracks(path) == facts


def test_a_track_that_lacks_facts_because_its_line_is_cut_short_is_damaged(tmp_path: Path) -> None:
    whole = tracks_file({track: dict.fromkeys(FACTS, "known") for track in ("a", "b")})
    for end in (b"b,known,known", b"b,known,known\r\n", b"b,known,known,known,kno", b"b", whole[:-2] + b",known\r\n"):
        (tmp_path / "tracks.csv").write_bytes(whole[: whole.index(b"b,")] + end)
        with pytest.raises(DAMAGED):
            load_tracks(tmp_path / "tracks.csv")


def test_arrays_that_would_run_code_are_refused(tmp_path: Path) -> None:
    class Malicious:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (tmp_path / "it ran",)

    objects = np.empty(1, dtype=object)
    objects[0] = Malicious()
    np.savez(tmp_path / "m.npz", kind="mel", genres=objects)
    with pytest.raises(ValueError, match="allow_pickle"):
        load_genre_means(tmp_path / "m.npz")
    assert not (tmp_path / "it ran").exists()


def test_a_confusion_matrix_is_a_table_with_names() -> None:
    text = confusion_file(np.array([[5, 1], [0, 4]]), ("a,b", "c")).decode()
    assert text.splitlines() == ['true \\ predicted,"a,b",c', '"a,b",5,1', "c,0,4"]


def test_facts_that_a_file_of_tracks_lacks_are_unknown(tmp_path: Path) -> None:
    (tmp_path / "tracks.csv").write_bytes(csv_file([("track", "genre", "mood"), ("1", "blues", "blue")]))
    assert load_tracks(tmp_path / "tracks.csv") == {
        "1": dict.fromkeys(FACTS, "") | {"genre": "blues", "mood": "blue"},
    }
