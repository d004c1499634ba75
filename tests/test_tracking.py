"""Test the MLflow store: written runs as MLflow reads them, which ones are compared, and what must not disturb that."""

import errno
import gc
import json
import multiprocessing
import shutil
import sqlite3
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from unittest import mock
from urllib.parse import unquote

import numpy as np
import pytest
import requests
from filelock import Timeout
from hypothesis import example, given
from hypothesis import strategies as st
from made import a_result
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from genre_cls import GenreClassifier
from genre_cls.configuration.provenance import COMMAND_ID
from genre_cls.errors import UserError
from genre_cls.evaluation.calibration import best_temperature
from genre_cls.evaluation.findings import warnings
from genre_cls.evaluation.genre_means import GenreMeans
from genre_cls.evaluation.predictions import FoldResult
from genre_cls.experiments.spool import Spool
from genre_cls.tracking import database, stored_runs
from genre_cls.tracking.artifacts import fold_files, genre_means_file, tracks_file
from genre_cls.tracking.connection import store_uri
from genre_cls.tracking.naming import legal_names
from genre_cls.tracking.stored_comparison import best, newest
from genre_cls.tracking.stored_runs import PARENT, WAITING, changed_metrics
from genre_cls.tracking.tracker import DESCRIPTION, KEY, N_COMMAND_IDS, NOTE, Tracker

GENRES = ("blues", "rock & roll")
QUICKEST = "fork" if sys.platform == "linux" else None  # spares the imports; None is the system's own way
TRACKS = {
    "0.0.0": {"genre": "blues", "artist": 'Ann, "the" First', "group": "", "fault": "", "path": "/a\nb.wav"},
    "0.0.1": {"genre": "rock & roll", "artist": "", "group": "", "fault": "distorted", "path": "/c.wav"},
}
MEANS = GenreMeans("mel", GENRES, np.ones((2, 3, 4), np.float32), 0.1, np.array([100.0, 200, 400]))


@pytest.fixture
def folder(tmp_path: Path, fresh_store: Path) -> Path:
    return shutil.copytree(fresh_store, tmp_path / "a folder with spaces" / "mlruns")


@pytest.fixture
def tracker(folder: Path) -> Tracker:
    return Tracker(None, folder)


def folds_of(*accuracies: float) -> tuple[FoldResult, ...]:
    return a_result(*accuracies, genres=GENRES).folds


def store(
    tracker: Tracker,
    identity: str,
    *accuracies: float,
    comparison: str = "same",
    experiment: str = "e",
    split: str = "random",
    named: Mapping[str, str] = {},
    tags: Mapping[str, str] = {},
    params: Mapping[str, str] = {},
    tracks: Mapping[str, Mapping[str, str]] = TRACKS,
) -> str:
    """Log a configuration as training does and return the id of its run."""
    where = tracker.experiment(experiment)
    names = {"features": "mel", "model": identity, "batch_size": "16", **named}
    all_tags = {"identity": identity, "named": json.dumps(names), "comparison": comparison, "dataset": "own"}
    all_tags |= {"setup": identity.lower(), "folds": split, "dataset_digest": "d", "sources": "{}", **tags}
    all_params = {"n_parameters": "12", "folds.k": "5", **params}
    with tracker.run(where, identity, all_tags | {"kind": "config"}, all_params) as parent:
        for fold in folds_of(*accuracies):
            log_fold(tracker, where, fold, all_tags | {"kind": "fold", PARENT: parent.run_id})
        files = {"genre_means_mel.npz": genre_means_file(MEANS), "tracks.csv": tracks_file(tracks)}
        means = {"accuracy_mean": float(np.mean(accuracies)), "seconds_per_fold": 12.0}
        parent.log(means | {"seconds": 12.0 * len(accuracies)}, files)
    time.sleep(0.005)  # MLflow orders by milliseconds
    return parent.run_id


def log_fold(tracker: Tracker, where: str, fold: FoldResult, tags: Mapping[str, str]) -> None:
    with tracker.run(where, f"fold {fold.index}", tags, {}) as child:
        child.log(fold.scores | {"seconds": fold.seconds}, fold_files(fold), fold.curves)


def found(tracker: Tracker, experiment: str | None = None) -> dict[str, float]:
    """Return the mean accuracy of each configuration that `newest` returns, by its model."""
    comparison = newest(tracker, experiment)
    return {r.named["model"]: r.estimate("accuracy").mean for r in comparison.results} if comparison else {}


def run(tracker: Tracker, run_id: str) -> Run:
    return MlflowClient(tracker.uri).get_run(run_id)


def artifacts(tracker: Tracker, run_id: str) -> Path:
    return Path(unquote(run(tracker, run_id).info.artifact_uri.removeprefix("file://")))


def test_a_fresh_store_is_one_database_beside_its_artifacts(tracker: Tracker, folder: Path) -> None:
    run_id = store(tracker, "a", 1.0)
    assert tracker.uri == store_uri(None, folder) == f"sqlite:///{folder}/mlflow.db"
    assert artifacts(tracker, run_id).is_relative_to(folder / "artifacts")
    assert not (folder.parent / "artifacts").exists()
    with sqlite3.connect(folder / "mlflow.db") as connection:
        # A write-ahead log needs memory that all processes share, which machines with one network disk do not.
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)


def test_metrics_params_and_curves_arrive_under_legal_names(tracker: Tracker) -> None:
    with tracker.run(tracker.experiment("e"), "n", {"tag": "é"}, {"recipe.lr": "1", "odd,key": "2"}) as open_run:
        curves = {"train_loss": [3.0, 2.0, 1.0], "long": [float(i) for i in range(1500)]}
        open_run.log(
            {"recall_rock & roll": 0.5, "recall_" + "x" * 300: 1.0, "recall_ロック": 0.25}, {"f": b"x"}, curves
        )
    client, data = MlflowClient(tracker.uri), run(tracker, open_run.run_id).data
    assert data.params == {"recipe.lr": "1", "odd_key": "2"} and data.tags["tag"] == "é"
    assert data.metrics["recall_rock _ roll"] == 0.5 and data.metrics["recall_ロック"] == 0.25
    history = [(point.step, point.value) for point in client.get_metric_history(open_run.run_id, "train_loss")]
    assert sorted(history) == [(1, 3.0), (2, 2.0), (3, 1.0)]
    assert len(client.get_metric_history(open_run.run_id, "long")) == 1500
    assert (artifacts(tracker, open_run.run_id) / "f").read_bytes() == b"x"


def test_children_are_nested_and_last_as_long_as_their_work_did(tracker: Tracker) -> None:
    where = tracker.experiment("e")
    with (
        tracker.run(where, "parent", {}, {}) as parent,
        tracker.run(where, "child", {PARENT: parent.run_id}, {}, seconds=60) as child,
    ):
        pass
    info = run(tracker, child.run_id).info
    assert run(tracker, child.run_id).data.tags["mlflow.parentRunId"] == parent.run_id
    assert 60_000 <= info.end_time - info.start_time < 90_000


@pytest.mark.parametrize(
    ("end", "status"),
    [(None, "FINISHED"), (ValueError, "FAILED"), (SystemExit, "FAILED"), (KeyboardInterrupt, "KILLED")],
)
def test_a_run_ends_as_what_happened(tracker: Tracker, end: type[BaseException] | None, status: str) -> None:
    def work() -> None:
        if end:
            raise end

    try:
        with tracker.run(tracker.experiment("e"), "n", {}, {}) as open_run:
            work()
    except BaseException as error:
        assert isinstance(error, end or ())
    assert run(tracker, open_run.run_id).info.status == status


def test_a_run_that_ctrl_c_ends_as_another_error_was_killed(tracker: Tracker) -> None:
    with pytest.raises(ValueError), tracker.run(tracker.experiment("e"), "n", {}, {}) as open_run:
        try:
            raise KeyboardInterrupt
        finally:
            raise ValueError
    assert run(tracker, open_run.run_id).info.status == "KILLED"


def test_a_run_that_cannot_even_log_its_params_has_failed(tracker: Tracker) -> None:
    where = tracker.experiment("e")
    alike = {"a,b": "1", "a;b": "2"}  # equal once they are legal
    with pytest.raises(MlflowException, match="a_b"), tracker.run(where, "n", {}, alike):
        pass
    assert [r.info.status for r in MlflowClient(tracker.uri).search_runs([where])] == ["FAILED"]


def test_results_come_back_as_they_were(tracker: Tracker) -> None:
    store(tracker, "a", 0.8, 0.6)
    comparison = newest(tracker)
    assert comparison and len(comparison.results) == 1
    (result,) = comparison.results
    assert result.named == {"features": "mel", "model": "a", "batch_size": "16"} and result.n_parameters == 12
    for fold, expected in zip(result.folds, folds_of(0.8, 0.6), strict=True):
        assert fold.probabilities.tobytes() == expected.probabilities.tobytes()
        assert fold.windows.probabilities.tobytes() == expected.windows.probabilities.tobytes()
        arrays = {"labels": 0, "probabilities": 0, "windows": 0}
        assert replace(fold, **arrays) == replace(expected, **arrays)
    (means,) = comparison.means
    assert (means.matrices == MEANS.matrices).all() and means.genres == GENRES
    assert comparison.tags["dataset"] == "own" and comparison.finished
    assert comparison.tracks == TRACKS and comparison.results[0].other_splits == {}


def test_a_configuration_is_found_under_other_splits_of_the_same_tracks(tracker: Tracker) -> None:
    store(tracker, "a", 1.0, 0.9, comparison="r")
    store(tracker, "a", 1.0, 0.8, comparison="r")  # the later one counts
    store(tracker, "b", 0.5, comparison="r")
    store(tracker, "a", 0.1, comparison="t", params={"folds.k": "2"})  # which trained on fewer tracks
    store(tracker, "A", 0.6, 0.4, comparison="s", split="artist")
    comparison = newest(tracker)
    assert comparison is not None
    others = comparison.results[0].other_splits
    assert {split: result.estimate("accuracy").mean for split, result in others.items()} == {"random": 0.9}


def test_a_configuration_that_lost_a_fold_is_not_compared_as_another_split(tracker: Tracker) -> None:
    parent = store(tracker, "a", 1.0, 0.9, comparison="r")
    store(tracker, "A", 0.6, comparison="s", split="artist")
    whole, broken = newest(tracker), children(tracker, parent)[0]
    MlflowClient(tracker.uri).set_terminated(broken, "FAILED")
    without = newest(tracker)
    assert whole and without and [c.results[0].other_splits.keys() for c in (whole, without)] == [{"random"}, set()]


def test_predictions_that_no_longer_give_what_was_logged_are_reported(
    tracker: Tracker, caplog: pytest.LogCaptureFixture
) -> None:
    parent = store(tracker, "a", 1.0, 1.0)
    assert found(tracker) == {"a": 1.0} and caplog.text == ""
    path = artifacts(tracker, children(tracker, parent)[0]) / "predictions.csv"
    path.write_text(path.read_text().replace(".0,blues", ".0,rock & roll"))
    assert found(tracker) == {"a": 0.975}
    assert "a: accuracy_mean differ from what was logged" in caplog.text


def test_only_configurations_tested_on_the_same_tracks_and_folds_are_compared(tracker: Tracker) -> None:
    store(tracker, "a", 1.0, comparison="old")
    store(tracker, "b", 0.5, comparison="new")
    store(tracker, "c", 0.7, comparison="new")
    assert found(tracker) == {"b": 0.5, "c": 0.7}
    store(tracker, "d", 0.9, comparison="old")
    assert found(tracker) == {"a": 1.0, "d": 0.9}


def test_a_setting_that_only_some_commands_gave_is_shown_for_all_configurations(tracker: Tracker) -> None:
    told = {"recipe.epochs": "3e1", "experiment": "best", "old": "1"}
    for identity, named, epochs in (("a", told, "30"), ("b", {}, "30"), ("c", told, "60")):
        store(tracker, identity, 1.0, named=named, params={"recipe.epochs": epochs})
    comparison = newest(tracker)
    assert comparison
    epochs_of = {r.named["model"]: r.named["recipe.epochs"] for r in comparison.results}
    assert epochs_of == {"a": "30", "b": "30", "c": "60"}
    assert [[r.named[key] for key in ("experiment", "old")] for r in comparison.results][:2] == [
        ["best", "1"],
        ["none", "unset"],
    ]


PACKAGE = {"genre_cls": "as it was"}
EDITED = {"genre_cls": "edited"}


@pytest.mark.parametrize(
    ("of", "codes"),
    [
        ((PACKAGE, PACKAGE, PACKAGE), [None, None, None]),
        ((PACKAGE, EDITED, PACKAGE | {"theirs.Model": "old"}), ["2", "1", "2"]),
        ((PACKAGE, EDITED, {"genre_cls": "edited again"}), ["1", "2", "3"]),
        ((PACKAGE, PACKAGE | {"theirs.Model": "old"}, PACKAGE | {"my.Model": "old"}), [None, None, None]),
        ((PACKAGE, PACKAGE | {"my.Model": "old"}, PACKAGE | {"my.Model": "new"}), ["2", "1", "2"]),
        (({}, EDITED, EDITED), [None, None, None]),
        (({}, PACKAGE, EDITED), ["2", "1", "2"]),
    ],
)
def test_configurations_are_distinguished_by_code_that_has_changed_between_them(
    tracker: Tracker, of: Sequence[dict[str, str]], codes: list[str | None]
) -> None:
    for identity, sources in zip("abc", of, strict=True):
        store(tracker, identity, 1.0, tags={"sources": json.dumps(sources)})
    comparison = newest(tracker)
    assert comparison is not None and [result.named.get("code") for result in comparison.results] == codes
    assert bool(warnings(comparison.results)) == (codes[0] is not None)


@pytest.mark.parametrize(("sources", "found"), [(PACKAGE, {"artist"}), ({}, {"artist"}), (EDITED, set())])
def test_results_of_other_code_under_another_split_are_not_compared(
    tracker: Tracker, sources: dict[str, str], found: set[str]
) -> None:
    store(tracker, "A", 0.9, comparison="s", split="artist", tags={"sources": json.dumps(sources)})
    store(tracker, "a", 1.0, tags={"sources": json.dumps(PACKAGE)})
    comparison = newest(tracker)
    assert comparison is not None and comparison.results[0].other_splits.keys() == found


def test_no_run_is_missed_where_a_store_gives_a_few_at_a_time(
    tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_runs, "PAGE_SIZE", 2)
    for identity in "abc":
        store(tracker, identity, 0.5, 0.6, 0.7)
    comparison = newest(tracker)
    assert comparison and {r.named["model"]: len(r.folds) for r in comparison.results} == {"a": 3, "b": 3, "c": 3}
    for experiment in "xyz":
        store(tracker, "a", 0.5, experiment=experiment)
    assert [found(tracker, experiment) for experiment in "exyz"] == [{"a": 0.6, "b": 0.6, "c": 0.6}, *[{"a": 0.5}] * 3]


def test_a_later_run_of_a_configuration_replaces_the_earlier(tracker: Tracker) -> None:
    store(tracker, "a", 1.0)
    store(tracker, "b", 0.5)
    store(tracker, "a", 0.2)
    assert found(tracker) == {"a": 0.2, "b": 0.5}


def test_a_store_whose_folder_was_moved_has_all_its_runs_and_is_written_at_its_new_place(
    tracker: Tracker, folder: Path
) -> None:
    store(tracker, "a", 1.0)
    moved = folder.rename(folder.with_name("else where"))
    there = Tracker(None, moved)
    assert found(there) == {"a": 1.0}
    store(there, "b", 0.5)
    assert found(Tracker(None, moved)) == {"a": 1.0, "b": 0.5} and not folder.exists()
    for name in ("a", "b"):
        (parent,) = MlflowClient(there.uri).search_runs(["1"], f"tags.kind = 'config' and tags.identity = '{name}'")
        assert artifacts(there, parent.info.run_id).is_relative_to(moved)


def test_a_copied_store_works_though_its_former_place_is_out_of_reach(
    tracker: Tracker, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(tracker, "a", 1.0)
    shutil.copytree(folder, copied := folder.with_name("copied"))
    monkeypatch.setattr(Path, "samefile", mock.Mock(side_effect=PermissionError))
    there = Tracker(None, copied)
    (parent,) = MlflowClient(there.uri).search_runs(["1"], "tags.kind = 'config'")
    assert found(there) == {"a": 1.0} and artifacts(there, parent.info.run_id).is_relative_to(copied)


@pytest.mark.parametrize("letter", ["x", "é", "日", "🎵"])
def test_an_experiment_may_have_a_longer_name_than_a_folder(tracker: Tracker, folder: Path, letter: str) -> None:
    run_id = store(tracker, "a", 1.0, experiment=100 * letter)
    assert artifacts(tracker, run_id).is_dir()
    assert found(Tracker(None, folder), experiment=100 * letter) == {"a": 1.0}


def test_artifacts_whose_place_has_too_long_a_name_leave_the_store_readable(tracker: Tracker, folder: Path) -> None:
    store(tracker, "a", 1.0)
    MlflowClient(tracker.uri).create_experiment("long", (folder / "artifacts" / (300 * "x")).as_uri())
    assert found(Tracker(None, folder)) == {"a": 1.0}


def test_moving_a_store_confuses_no_experiments_whose_names_begin_alike(tracker: Tracker, folder: Path) -> None:
    runs = {name: store(tracker, name, 1.0, experiment=name) for name in ("e", "e 2", "ee")}
    there = Tracker(None, folder.rename(folder.with_name("else where")))
    assert all(artifacts(there, run_id).is_dir() for run_id in runs.values())
    assert [found(there, name) for name in runs] == [{name: 1.0} for name in runs]


def test_a_copied_store_is_independent_of_the_original(tracker: Tracker, folder: Path) -> None:
    store(tracker, "a", 1.0)
    copy = folder.with_name("copy")
    shutil.copytree(folder, copy)
    there = Tracker(None, copy)
    new = store(there, "b", 0.5)
    assert artifacts(there, new).is_relative_to(copy) and found(Tracker(None, folder)) == {"a": 1.0}
    shutil.rmtree(folder)
    assert found(Tracker(None, copy)) == {"a": 1.0, "b": 0.5}


def test_a_configuration_trained_on_shuffled_genres_is_never_the_best(tracker: Tracker) -> None:
    usual = store(tracker, "a", 0.5, experiment="e")
    shuffled = store(tracker, "b", 1.0, comparison="shuffled", experiment="e")
    assert best(tracker) == shuffled
    MlflowClient(tracker.uri).log_param(shuffled, "shuffle_genres", "True")
    assert best(tracker) == usual


def test_a_configuration_of_which_a_fold_was_deleted_is_neither_reported_nor_the_best(
    tracker: Tracker, caplog: pytest.LogCaptureFixture
) -> None:
    whole, broken = store(tracker, "a", 0.5, 0.5), store(tracker, "b", 1.0, 1.0, comparison="newer")
    assert best(tracker) == broken and found(tracker) == {"b": 1.0} and not caplog.messages
    MlflowClient(tracker.uri).delete_run(children(tracker, broken)[0])
    assert best(tracker) == whole and found(tracker) == {"a": 0.5}
    assert caplog.messages == ["left out b: lacks a fold, which its command trains again"]
    client, (left,) = MlflowClient(tracker.uri), children(tracker, broken)
    tags, name = {"kind": "fold", PARENT: broken}, run(tracker, left).info.run_name
    twice = client.create_run(run(tracker, broken).info.experiment_id, tags=tags, run_name=name)
    client.set_terminated(twice.info.run_id)
    assert best(tracker) == whole  # the fold that is there twice counts once
    MlflowClient(tracker.uri).delete_run(children(tracker, whole)[0])
    assert best(tracker) is None and newest(tracker) is None
    with pytest.raises(UserError, match="what has finished there lacks a fold, which its command trains again"):
        GenreClassifier.load(tracking=tracker.uri)


def test_what_was_found_last_about_a_track_is_reported(tracker: Tracker) -> None:
    old = tracks_file({"0.0.0": TRACKS["0.0.0"] | {"artist": "before"}})
    for identity, facts in (("a", None), ("b", old), ("a", None)):  # a was trained again after b
        run_id = store(tracker, identity, 1.0)
        if facts:
            tracker.refresh(run_id, {}, {"tracks.csv": facts})
    comparison = newest(tracker)
    assert comparison and comparison.tracks["0.0.0"] == TRACKS["0.0.0"]


TAGS = ("named", "sources", "identity", "setup", "dataset", "dataset_digest", "folds", "comparison")
NO_TEXTS = ("no JSON", "[]", "{}", '{"features": 3, "model": "m", "batch_size": "16"}')
EDITED_TAGS = [
    *((tag, None) for tag in TAGS),
    *(("named", value) for value in NO_TEXTS),
    *(("sources", value) for value in ("no JSON", "[]", '{"a": [1]}', '{"a": {"b": 1}}')),
    ("confirmed", "yesterday"),
]


@pytest.mark.parametrize(("tag", "value"), EDITED_TAGS)
def test_a_run_whose_tags_were_edited_is_left_out_and_named(
    tracker: Tracker, caplog: pytest.LogCaptureFixture, tag: str, value: str | None
) -> None:
    store(tracker, "elsewhere", 0.5, experiment="trials")
    store(tracker, "whole", 0.5)
    edited = store(tracker, "edited", 1.0)
    client = MlflowClient(tracker.uri)
    if value:
        client.set_tag(edited, tag, value)
    else:
        client.delete_tag(edited, tag)
    assert best(tracker) != edited and caplog.messages == []
    assert found(tracker) == {"whole": 0.5}
    assert caplog.messages == ["left out edited: lacks tags, or they were edited in MLflow"]
    caplog.clear()
    assert found(tracker, "trials") == {"elsewhere": 0.5} and caplog.messages == []


def test_the_newest_configurations_can_be_limited_to_one_experiment(tracker: Tracker) -> None:
    store(tracker, "a", 1.0, experiment="mine")
    store(tracker, "b", 0.5, experiment="yours")
    assert found(tracker, "mine") == {"a": 1.0} and found(tracker, "nobody's") == {}


def test_trials_under_a_name_of_their_own_stay_out_of_other_comparisons(tracker: Tracker) -> None:
    store(tracker, "trial", 1.0, experiment="trials")
    usual = store(tracker, "usual", 0.5, experiment="e")
    assert found(tracker) == {"usual": 0.5} and best(tracker) == usual
    better = store(tracker, "another trial", 0.9, experiment="trials")
    assert found(tracker).keys() == {"trial", "another trial"} and best(tracker) != better


def test_a_configuration_that_finished_before_does_not_belong_to_this_sweep(
    tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = store(tracker, "a", 1.0)
    assert newest(tracker, command_id="mine") is None
    monkeypatch.setenv(COMMAND_ID, "mine")
    tracker.confirm(run_id)
    assert newest(tracker, command_id="mine") is not None


def test_a_report_counts_the_configurations_of_its_sweep_that_it_leaves_out(
    tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(COMMAND_ID, "mine")
    of_sweep = [store(tracker, "a", 0.5, comparison="seed 0"), store(tracker, "b", 0.5, comparison="seed 1")]
    of_sweep.append(store(tracker, "c", 0.5, comparison="by artist", split="artist"))
    of_sweep.append(store(tracker, "d", 0.5, experiment="of another data set"))
    of_sweep.append(store(tracker, "C", 0.5, comparison="seed 1"))
    store(tracker, "e", 0.5, comparison="another sweep's")
    for run_id in of_sweep:
        tracker.confirm(run_id)
    got = newest(tracker, command_id="mine")
    assert got and [result.named["model"] for result in got.results] == ["b", "C"]
    assert got.results[1].other_splits.keys() == {"artist"} and got.n_left_out == 2


def test_only_what_has_changed_of_a_finished_run_is_logged_again(tracker: Tracker) -> None:
    run_id = store(tracker, "a", 1.0)
    stored = artifacts(tracker, run_id)
    (stored / "tracks.csv").write_bytes(b"old")
    before = (stored / "genre_means_mel.npz").stat().st_mtime_ns
    means = (stored / "genre_means_mel.npz").read_bytes()
    tracker.refresh(
        run_id, {"accuracy_mean": 0.5}, {"tracks.csv": b"new", "genre_means_mel.npz": means, "repetitions.csv": b"more"}
    )
    assert [(stored / name).read_bytes() for name in ("tracks.csv", "repetitions.csv")] == [b"new", b"more"]
    assert (stored / "genre_means_mel.npz").stat().st_mtime_ns == before
    assert run(tracker, run_id).info.status == "FINISHED"
    assert run(tracker, run_id).data.metrics["accuracy_mean"] == 0.5


def test_an_experiment_of_any_name_keeps_its_files_in_the_store(tracker: Tracker, folder: Path) -> None:
    for name in ("..", ".hidden", "a/../b"):
        run_id = store(tracker, "a", 1.0, experiment=name)
        assert artifacts(tracker, run_id).resolve().is_relative_to(folder.resolve() / "artifacts"), name


def test_a_clock_that_is_set_back_hides_no_configuration_of_a_sweep(
    tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, hours in {"a": 2, "b": 1, "c": 0}.items():  # the later, the earlier
        monkeypatch.setattr("genre_cls.tracking.tracker.time.time", lambda hours=hours: 1.8e9 + 3600 * hours)
        monkeypatch.setattr(
            "mlflow.tracking._tracking_service.client.get_current_time_millis", lambda: int(1000 * time.time())
        )
        monkeypatch.setenv(COMMAND_ID, f"sweep of {name}".replace(" ", "_"))
        tracker.confirm(store(tracker, name, 1.0, comparison=name))
    for name in "abc":
        comparison = newest(tracker, command_id=f"sweep_of_{name}")
        assert comparison is not None and [r.named["model"] for r in comparison.results] == [name]


@pytest.mark.parametrize("end", [ValueError, KeyboardInterrupt])
def test_configurations_that_did_not_finish_are_not_compared(tracker: Tracker, end: type[BaseException]) -> None:
    store(tracker, "a", 1.0)
    tags = {"kind": "config", "identity": "b", "named": "{}", "comparison": "same", "dataset": "own", "sources": "{}"}
    with pytest.raises(end), tracker.run(tracker.experiment("e"), "b", tags, {}):
        raise end
    assert found(tracker) == {"a": 1.0}


def lose_artifacts(tracker: Tracker, run_id: str) -> None:
    shutil.rmtree(artifacts(tracker, run_id))


def lose_a_folds_artifacts(tracker: Tracker, run_id: str) -> None:
    lose_artifacts(tracker, children(tracker, run_id)[0])


def delete_folds(tracker: Tracker, run_id: str) -> None:
    for child in children(tracker, run_id):
        MlflowClient(tracker.uri).delete_run(child)


def children(tracker: Tracker, run_id: str) -> list[str]:
    runs = MlflowClient(tracker.uri).search_runs(
        [run(tracker, run_id).info.experiment_id], f"tags.`{PARENT}` = '{run_id}'"
    )
    return [child.info.run_id for child in runs]


@pytest.mark.parametrize("damage", [lose_artifacts, lose_a_folds_artifacts, delete_folds])
def test_configurations_with_deleted_files_are_left_out(
    tracker: Tracker, damage: Callable[[Tracker, str], None]
) -> None:
    store(tracker, "a", 1.0, 0.9)
    damage(tracker, store(tracker, "b", 0.5, 0.4))
    assert found(tracker) == {"a": 0.95}


def test_a_deleted_model_is_reported_with_the_way_to_train_it_again(tracker: Tracker) -> None:
    run_id = store(tracker, "a", 1.0, 0.9)
    with pytest.raises(UserError, match=rf"run {run_id} .*model\.safetensors.*train it again with force=true"):
        tracker.model_files(run_id)


def test_a_failed_child_of_a_finished_parent_does_no_harm(tracker: Tracker) -> None:
    parent = store(tracker, "a", 1.0, 0.8)
    with pytest.raises(ValueError, match="oh"), tracker.run(tracker.experiment("e"), "fold 3", {PARENT: parent}, {}):
        raise ValueError("oh")
    assert found(tracker) == {"a": 0.9}


def test_only_the_files_that_are_read_are_downloaded_from_a_server_and_deleted_with_the_connection(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(database, "local_path", lambda artifacts: None)
    tracker = Tracker(None, folder)
    MlflowClient(tracker.uri).log_text(store(tracker, "a", 1.0, 0.8), "", "reliability.png")
    assert found(tracker) == {"a": 0.9}
    fetched = {path.name for path in tmp_path.glob("genre_cls-*/*")}
    assert fetched == {"fold.json", "predictions.csv", "windows.npz", "genre_means_mel.npz", "tracks.csv"}
    del tracker
    gc.collect()
    assert not list(tmp_path.glob("genre_cls-*"))


def test_folds_whose_files_are_on_another_machine_do_not_count_as_damaged(tracker: Tracker) -> None:
    run_id = store(tracker, "a", 1.0, tags={KEY: "k"})
    shutil.rmtree(artifacts(tracker, run_id).parents[1])
    with pytest.raises(UserError, match="missing, though this store keeps its folds' files there"):
        tracker.earlier(tracker.experiment("e"), "k", force=False)
    assert {run(tracker, child).info.status for child in children(tracker, run_id)} == {"FINISHED"}


def test_a_failing_disk_does_not_mark_a_fold_as_damaged(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    store(tracker, "a", 1.0, tags={KEY: "k"})
    experiment = tracker.experiment("e")

    def fail(folder: Path) -> FoldResult:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(stored_runs, "load_fold", fail)
    with pytest.raises(OSError, match="Input/output"):
        tracker.earlier(experiment, "k", force=False)
    monkeypatch.undo()
    assert len(tracker.earlier(experiment, "k", force=False).folds) == 1


def test_a_failing_server_does_not_mark_a_fold_as_damaged(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    store(tracker, "a", 1.0, tags={KEY: "k"})

    def away(*asked: object) -> Path:
        raise MlflowException("artifacts are away")

    monkeypatch.setattr(database, "local_path", lambda uri: None)
    monkeypatch.setattr(Tracker, "files", away)
    with pytest.raises(MlflowException, match="away"):
        tracker.earlier(tracker.experiment("e"), "k", force=False)
    monkeypatch.undo()
    assert len(tracker.earlier(tracker.experiment("e"), "k", force=False).folds) == 1


@pytest.mark.parametrize("name", ["genre_means_mel.npz", "tracks.csv"])
def test_a_report_does_without_facts_that_are_damaged(tracker: Tracker, name: str) -> None:
    run_id = store(tracker, "a", 1.0)
    path = artifacts(tracker, run_id) / name
    path.write_bytes(path.read_bytes()[:20] if name.endswith("npz") else b"garbage\n1,2\n")
    assert found(tracker) == {"a": 1.0}


def test_an_experiment_deleted_in_mlflow_is_named(tracker: Tracker) -> None:
    MlflowClient(tracker.uri).delete_experiment(tracker.experiment("gone"))
    with pytest.raises(UserError, match=r"'gone' was deleted.*tracking\.experiment="):
        tracker.experiment("gone")


def test_an_experiment_of_a_fixed_name_is_restored_if_it_was_deleted(tracker: Tracker) -> None:
    experiment = tracker.experiment("ours", restore=True)
    MlflowClient(tracker.uri).delete_experiment(experiment)
    assert tracker.experiment("ours", restore=True) == experiment == tracker.experiment("ours")


def log_one(folder: Path, names: Sequence[str], gate: "multiprocessing.synchronize.Barrier") -> None:
    gate.wait()
    store(Tracker(None, folder), names[0], 1.0)


def test_processes_can_make_a_fresh_store_together(tmp_path: Path) -> None:
    folder = tmp_path / "mlruns"
    context = multiprocessing.get_context(QUICKEST)
    gate = context.Barrier(3)
    workers = [context.Process(target=log_one, args=(folder, [name], gate)) for name in "abc"]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert found(Tracker(None, folder)) == dict.fromkeys("abc", 1.0)
    experiments = MlflowClient(store_uri(None, folder)).search_experiments()
    assert sorted(e.name for e in experiments) == ["Default", "e"]


def test_a_store_makes_no_folder_where_the_command_runs(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert found(Tracker(None, folder)) == {} and store(Tracker(None, folder), "a", 1.0)
    assert not list(elsewhere.iterdir())


def hold(folder: Path, ready: "multiprocessing.synchronize.Event") -> None:
    tracker = Tracker(None, folder)
    with tracker.claim("k", "it") as claim, tracker.run(tracker.experiment("e"), "held", claim, {}):
        ready.set()
        time.sleep(600)


def test_open_runs_of_dead_processes_are_closed_and_those_of_live_and_of_unknown_ones_are_not(
    tracker: Tracker, folder: Path
) -> None:
    context = multiprocessing.get_context(QUICKEST)
    ready = context.Event()
    holder = context.Process(target=hold, args=(folder, ready))
    holder.start()
    client, where = MlflowClient(tracker.uri), tracker.experiment("e")
    for tags in ({}, {"lock": "another folder of locks/k"}):
        client.create_run(where, tags=tags, run_name="other's")
    assert ready.wait(60)
    tracker.close_dead()
    assert statuses(tracker) == {"held": "RUNNING", "other's": "RUNNING"}
    with pytest.raises(Timeout), tracker.claim("k", "it", wait=False):
        pass
    holder.kill()
    holder.join()
    tracker.close_dead()
    assert statuses(tracker) == {"held": "KILLED", "other's": "RUNNING"}


def test_a_copied_folder_of_locks_gets_an_id_of_its_own(tracker: Tracker, folder: Path) -> None:
    """As on a second machine that logs to the same server."""
    with tracker.claim("k", "it") as tags:
        locks = folder / "locks"
        shutil.copytree(locks, folder / "copied")
        shutil.rmtree(locks)
        (folder / "copied").rename(locks)
        with Tracker(None, folder).claim("k", "it", wait=False) as others:
            assert tags.keys() == others.keys() and tags["lock"] != others["lock"]
            with Tracker(None, folder).claim("l", "it") as again:
                assert again["lock"].partition("/")[0] == others["lock"].partition("/")[0]


def statuses(tracker: Tracker) -> dict[str, str]:
    runs = MlflowClient(tracker.uri).search_runs([tracker.experiment("e")])
    return {run.info.run_name: run.info.status for run in runs}


def test_a_continued_run_keeps_its_start_time_and_settings_and_gets_new_tags(tracker: Tracker) -> None:
    where = tracker.experiment("e")
    with pytest.raises(ValueError, match="oh"), tracker.run(where, "n", {"a": "1", "b": "1"}, {"p": "1"}) as first:
        raise ValueError("oh")
    before = run(tracker, first.run_id)
    with tracker.run(where, "n", {"a": "2"}, {"p": "2", "q": "2"}, run_id=first.run_id) as second:
        assert run(tracker, first.run_id).info.status == "RUNNING"
    after = run(tracker, second.run_id)
    assert (after.info.run_id, after.info.status) == (before.info.run_id, "FINISHED")
    assert after.info.start_time == before.info.start_time and after.data.params == {"p": "1", "q": "2"}
    assert (after.data.tags["a"], after.data.tags["b"]) == ("2", "1")


def test_a_read_only_store_can_be_read_and_attempts_to_write_to_it_are_reported(
    tracker: Tracker, folder: Path, small_disk: Callable[..., Path]
) -> None:
    store(tracker, "a", 1.0)
    disk = shutil.copytree(folder, small_disk(20_000) / "mlruns")
    shutil.rmtree(folder)  # which the database names, and nobody can tell it otherwise
    small_disk(20_000, "ro")
    read_only = Tracker(None, disk)
    assert found(read_only) == {"a": 1.0}
    with (
        pytest.raises(UserError, match=r"mlflow\.db: .*make the folder writable") as told,
        read_only.failures_in_one_line(),
    ):
        read_only.experiment("new")
    assert "\n" not in str(told.value)


def test_a_store_may_be_in_the_users_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    Tracker(None, Path("~/runs"))
    Spool(Path("~/runs"), "key").put(0, {"fold.json": b"{}"})
    assert (tmp_path / "runs" / "mlflow.db").exists() and (tmp_path / "runs" / "spool" / "key" / "0").is_dir()


def test_a_store_is_in_its_folder_whatever_that_is_called(tmp_path: Path) -> None:
    folder = tmp_path / "50% off, a#b & my 'music' ä" / "mlruns"
    store(Tracker(None, folder), "a", 1.0)
    assert found(Tracker.at(str(folder))) == {"a": 1.0}
    assert (folder / "mlflow.db").exists() and list(tmp_path.iterdir()) == [folder.parent]


def test_a_full_disk_is_reported_by_the_store(tracker: Tracker, folder: Path, small_disk: Callable[..., Path]) -> None:
    disk = small_disk(20_000)
    full = Tracker(None, shutil.copytree(folder, disk / "mlruns"))
    fill(disk)
    told_so = pytest.raises(UserError, match=r"(?i)(full|no space left on device).*run the command again")
    with told_so as told, full.failures_in_one_line():
        for name in map(str, range(10)):
            store(full, name, 1.0)
    assert "\n" not in str(told.value)
    (disk / "filling").unlink()
    store(full, "later", 1.0)
    assert found(full) and not list(disk.rglob("*.partial"))


def test_a_file_that_is_written_anew_stays_as_it_was_if_the_disk_is_full(
    tracker: Tracker, folder: Path, small_disk: Callable[..., Path]
) -> None:
    disk = small_disk(20_000)
    full = Tracker(None, shutil.copytree(folder, disk / "mlruns"))
    run_id = store(full, "a", 1.0)
    (fold,) = children(full, run_id)
    before = (artifacts(full, fold) / "fold.json").read_bytes()
    fill(disk)
    with pytest.raises(UserError, match="no space left on device"):
        full.refresh(fold, {}, {"fold.json": before + bytes(100_000)})
    assert (artifacts(full, fold) / "fold.json").read_bytes() == before and found(full) == {"a": 1.0}


@pytest.mark.parametrize(("code", "hint"), [(500, "when it answers"), (403, "your name and password")])
def test_a_server_that_does_not_give_its_files_is_named_rather_than_a_folder(
    tracker: Tracker, code: int, hint: str
) -> None:
    refused = requests.Response()
    refused.status_code, refused.reason, refused.url = code, "Refused", "http://server/api/2.0/mlflow-artifacts"
    with pytest.raises(UserError) as told, tracker.failures_in_one_line():
        tracker.uri = "http://server"
        refused.raise_for_status()
    assert str(told.value).startswith(f"tracking.uri=http://server: {code} ") and hint in str(told.value)


class _Answering(BaseHTTPRequestHandler):
    """A server that has one run, whatever it is asked."""

    def do_GET(self) -> None:
        """Answer."""
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        info = {"run_id": "a", "artifact_uri": "mlflow-artifacts:/a", "experiment_id": "1", "status": "RUNNING"}
        answer = json.dumps({"run": {"info": info, "data": {}}}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        """Log nothing."""


def test_a_server_that_dies_is_tried_again_for_the_call_that_fails_only_and_this_is_logged_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    with ThreadingHTTPServer(("127.0.0.1", 0), _Answering) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        tracker = Tracker(f"http://127.0.0.1:{server.server_port}", tmp_path)
        with (
            pytest.raises(UserError, match="Connection refused"),
            tracker.failures_in_one_line(),
            tracker.run("1", "a run", {}, {}) as run,
        ):
            server.shutdown()
            server.server_close()
            run.log({"accuracy": 1.0}, {})
    assert caplog.messages == ["the tracking server does not answer; it is tried again"]


def test_a_server_that_keeps_a_databases_files_is_no_damage_to_the_database(tracker: Tracker) -> None:
    told = pytest.raises(UserError, match=r"no route; run the command again when it answers$")
    with told, tracker.failures_in_one_line():
        raise requests.ConnectionError("no route")


def fill(disk: Path) -> None:
    with (disk / "filling").open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(4096)):
            pass


@pytest.mark.parametrize("name", ["fold.json", "predictions.csv"])
def test_a_report_leaves_out_what_is_damaged(tracker: Tracker, name: str, caplog: pytest.LogCaptureFixture) -> None:
    store(tracker, "a", 1.0)
    parent = store(tracker, "b", 1.0)
    path = artifacts(tracker, children(tracker, parent)[0]) / name
    path.write_bytes(path.read_bytes()[:60])
    assert found(tracker) == {"a": 1.0} and "left out b" in caplog.text


def test_a_database_whose_creation_was_killed_is_created_again(tmp_path: Path) -> None:
    folder = tmp_path / "mlruns"
    folder.mkdir()
    with sqlite3.connect(folder / "mlflow.partial") as connection:
        connection.execute("create table experiments (experiment_id integer)")
    tracker = Tracker(None, folder)
    assert store(tracker, "a", 1.0) and found(tracker) == {"a": 1.0}
    assert not (folder / "mlflow.partial").exists()


def test_a_configuration_that_several_commands_confirm_is_new_to_each_of_them(
    tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = store(tracker, "a", 1.0, comparison="old")
    store(tracker, "b", 0.5, comparison="new")
    assert found(tracker) == {"b": 0.5} and newest(tracker, command_id="one") is None
    for word in ("one", "other"):
        monkeypatch.setenv(COMMAND_ID, word)
        tracker.confirm(old)
    assert found(tracker) == {"a": 1.0} and newest(tracker, command_id="one") and newest(tracker, command_id="other")


def test_a_configuration_is_not_compared_with_the_same_on_another_data_set(tracker: Tracker) -> None:
    other = store(tracker, "a", 1.0, comparison="r")
    store(tracker, "A", 0.6, comparison="s", split="artist")
    beside, client = newest(tracker), MlflowClient(tracker.uri)
    client.set_tag(other, "dataset_digest", "another")
    alone = newest(tracker)
    assert beside and alone and [c.results[0].other_splits.keys() for c in (beside, alone)] == [{"random"}, set()]


@pytest.mark.parametrize("better", [0, 1])
def test_of_two_that_are_equally_accurate_the_best_has_the_higher_f1(tracker: Tracker, better: int) -> None:
    scores = (0.7, 0.9, 0.8, 0.6, 0.9), (0.7, 0.6, 0.9, 0.9, 0.8)  # of which rounding makes two means
    runs = [store(tracker, name, *each) for name, each in zip("ab", scores, strict=True)]
    for place, run_id in enumerate(runs):
        MlflowClient(tracker.uri).log_metric(run_id, "macro_f1_mean", 0.8 if place == better else 0.7)
    assert best(tracker) == runs[better]


def test_configurations_that_wait_for_folds_or_were_stopped_are_named_the_last_first(tracker: Tracker) -> None:
    where = tracker.experiment("e")
    for name, end in {"waits": None, "failed": ValueError, "stopped": KeyboardInterrupt, "done": None}.items():
        with suppress(ValueError, KeyboardInterrupt), tracker.run(where, name, {"kind": "config"}, {}) as open_run:
            if name == "waits":
                open_run.status = WAITING
            if end:
                raise end
        time.sleep(0.005)
    assert tracker.incomplete("e") == tracker.incomplete(None) == ["stopped", "waits"]
    assert tracker.incomplete("another") == []


def test_while_folds_are_missing_a_temperature_is_that_of_those_that_are_there(tracker: Tracker) -> None:
    run_id = store(tracker, "a", 0.8, 0.6)
    parts = ([getattr(fold, part) for fold in folds_of(0.8, 0.6)] for part in ("probabilities", "labels"))
    expected = best_temperature(*map(np.concatenate, parts))
    for one in (run_id, *children(tracker, run_id)):
        assert tracker.temperature(one) == pytest.approx(expected) != 1
    MlflowClient(tracker.uri).log_metric(run_id, "temperature", 2.5)  # as for a whole configuration
    assert tracker.temperature(run_id) == tracker.temperature(children(tracker, run_id)[0]) == 2.5


def test_what_is_known_of_the_tracks_comes_with_their_predictions(tracker: Tracker) -> None:
    run_id = store(tracker, "a", 0.8, 0.6)
    folds, tracks = tracker.predictions_of(run_id)
    assert [fold.scores["accuracy"] for fold in folds] == [0.8, 0.6] and tracks == TRACKS
    one, same = tracker.predictions_of(children(tracker, run_id)[0])
    assert len(one) == 1 and same == TRACKS
    MlflowClient(tracker.uri).set_terminated(run_id, WAITING)  # nothing is logged of its tracks yet
    lose_artifacts(tracker, run_id)
    assert len(tracker.predictions_of(run_id)[0]) == 2 and tracker.predictions_of(run_id)[1] == {}


def test_the_newest_report_is_shown(tracker: Tracker) -> None:
    assert tracker.report() is None
    for text in ("first", "second"):
        with tracker.run(tracker.experiment("reports"), "r", {"kind": "report"}, {}) as open_run:
            open_run.log({}, {"report.html": text.encode()})
        time.sleep(0.005)
    assert tracker.report() == "second"


def test_runs_that_could_not_be_closed_under_a_claim_are_closed_at_its_end(tracker: Tracker) -> None:
    client, where = MlflowClient(tracker.uri), tracker.experiment("e")
    with tracker.claim("k", "it") as tags:
        client.create_run(where, tags=tags, run_name="left open")
        assert statuses(tracker) == {"left open": "RUNNING"}
    assert statuses(tracker) == {"left open": "KILLED"}


def test_of_several_runs_of_a_configuration_the_newest_closed_one_is_continued(tracker: Tracker) -> None:
    client, where = MlflowClient(tracker.uri), tracker.experiment("e")
    assert tracker.earlier(where, "k", force=False).run_id is None
    runs = [store(tracker, "a", *accuracies, tags={KEY: "k"}) for accuracies in ((1.0, 0.9), (0.8,))]
    live = client.create_run(where, tags={"kind": "config", KEY: "k"}).info.run_id  # under locks in another folder
    found = tracker.earlier(where, "k", force=False)
    assert found.run_id == runs[1] and [fold.scores["accuracy"] for fold in found.folds.values()] == [0.8]
    assert found.finished
    client.set_terminated(live, WAITING)
    waiting = tracker.earlier(where, "k", force=False)
    assert (waiting.run_id, waiting.folds, waiting.finished) == (live, {}, False)


def test_a_configuration_knows_the_last_commands_that_it_was_part_of(
    tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = store(tracker, "a", 1.0)
    for number in range(N_COMMAND_IDS + 3):
        monkeypatch.setenv(COMMAND_ID, f"c{number}")
        tracker.confirm(run_id)
        assert newest(tracker, command_id=f"c{number}") is not None
    assert len(run(tracker, run_id).data.tags["command_ids"].split()) == N_COMMAND_IDS
    assert newest(tracker, command_id="c2") is None and newest(tracker, command_id="c3") is not None


def test_a_fold_whose_predictions_no_longer_give_its_scores_is_not_reused(
    tracker: Tracker, caplog: pytest.LogCaptureFixture
) -> None:
    run_id = store(tracker, "a", 1.0, 0.8, tags={KEY: "k"})
    (edited,) = (child for child in children(tracker, run_id) if run(tracker, child).info.run_name == "fold 1")
    path = artifacts(tracker, edited) / "predictions.csv"
    path.write_text(path.read_text().replace("1.0.0,blues", "1.0.0,rock & roll"))
    assert list(tracker.earlier(tracker.experiment("e"), "k", force=False).folds) == [0]
    assert run(tracker, edited).info.status == "FAILED"
    assert "fold 1 is trained again, because its files are damaged: accuracy, " in caplog.text


def test_where_a_configuration_ran_does_not_name_it_though_it_is_named_as_another_one(tracker: Tracker) -> None:
    for identity, lr in (("a", "0.1"), ("b", "0.2")):
        params = {"recipe.lr": lr, "trainer.threads": lr, "report_dir": lr}
        store(tracker, identity, 1.0, named={"model": "m"}, params=params)
    comparison = newest(tracker)
    assert (
        comparison
        and [set(result.named) for result in comparison.results]
        == [{"features", "model", "batch_size", "recipe.lr"}] * 2
    )


def test_of_two_that_are_equal_the_best_stays_the_best_whichever_is_confirmed(tracker: Tracker) -> None:
    first, second = store(tracker, "z", 0.5, 0.5), store(tracker, "a", 0.5, 0.5)
    for confirmed in (first, second, first):
        assert best(tracker) == first and [*found(tracker)] == ["z", "a"]
        tracker.confirm(confirmed)
        time.sleep(0.005)


def test_a_fold_that_was_restored_beside_its_successor_counts_once(tracker: Tracker) -> None:
    parent = store(tracker, "a", 0.5, 0.5)
    again = replace(folds_of(0.5, 0.9)[1], seconds=0.7)
    log_fold(tracker, tracker.experiment("e"), again, {"kind": "fold", PARENT: parent})
    assert found(tracker) == {"a": pytest.approx(0.7)} and best(tracker) == parent
    assert len(tracker.predictions_of(parent)[0]) == 2


def test_a_description_that_a_user_writes_is_kept_and_is_no_note_of_the_data(tracker: Tracker) -> None:
    where, client = tracker.experiment("e"), MlflowClient(tracker.uri)
    with tracker.run(where, "a", {NOTE: "synthetic"}, {}) as opened:
        pass
    assert run(tracker, opened.run_id).data.tags[DESCRIPTION] == "synthetic"
    client.set_tag(opened.run_id, DESCRIPTION, "ask Bob")
    with tracker.run(where, "a", {NOTE: "still synthetic"}, {}, run_id=opened.run_id):
        pass
    tags = run(tracker, opened.run_id).data.tags
    assert (tags[DESCRIPTION], tags[NOTE]) == ("ask Bob", "still synthetic")


def test_artists_that_became_known_later_hold_for_all_configurations(tracker: Tracker) -> None:
    store(tracker, "a", 0.5, 0.5)
    ids = [track for fold in folds_of(0.5, 0.5) for track in fold.track_ids]
    by_one = dict.fromkeys(ids, TRACKS["0.0.0"] | {"group": "0"})
    store(tracker, "b", 0.5, 0.5, tracks=by_one)
    comparison = newest(tracker)
    assert comparison and [result.artist_overlap for result in comparison.results] == [1, 1]


def test_genres_whose_names_differ_in_signs_alone_have_metrics_of_their_own(tracker: Tracker) -> None:
    scores = {"recall_R&B": 0.5, "recall_R+B": 0.25, "recall_R_B": 0.75}
    with tracker.run(tracker.experiment("e"), "n", {}, {}) as opened:
        opened.log(scores, {})
    logged = run(tracker, opened.run_id)
    assert logged.data.metrics == {"recall_R_B": 0.5, "recall_R_B-2": 0.25, "recall_R_B-3": 0.75}
    assert changed_metrics(logged, scores) == []
    assert changed_metrics(logged, scores | {"recall_R+B": 0.5}) == ["recall_R+B"]
    tracker.refresh(opened.run_id, scores | {"recall_R+B": 0.5}, {})
    assert run(tracker, opened.run_id).data.metrics == logged.data.metrics | {"recall_R_B-2": 0.5}


@example(["a&b", "a_b", "a_b-2"])
@given(st.lists(st.text("ab&_-2", max_size=5).map(lambda end: "x" * 245 + end) | st.text("a&_-2"), unique=True))
def test_no_two_metrics_have_the_same_name(names: list[str]) -> None:
    found = legal_names(names)
    assert list(found) == names and len(set(found.values())) == len(names)
    assert all(len(name) <= 250 and "&" not in name for name in found.values())
