"""Test what is read back of runs, and how a store that fails is reported."""

import gc
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import requests
from mlflow import MlflowClient
from stores import TRACKS, artifacts, children, compared, folds_of, found, store

from genre_cls.errors import UserError
from genre_cls.evaluation.calibration import best_temperature
from genre_cls.tracking import database, stored_runs
from genre_cls.tracking.stored_runs import WAITING
from genre_cls.tracking.tracker import Tracker


def test_no_run_is_missed_where_a_store_gives_a_few_at_a_time(
    tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_runs, "PAGE_SIZE", 2)
    for identity in "abc":
        store(tracker, identity, 0.5, 0.6, 0.7)
    assert {r.named["model"]: len(r.folds) for r in compared(tracker)} == {"a": 3, "b": 3, "c": 3}
    for experiment in "xyz":
        store(tracker, "a", 0.5, experiment=experiment)
    assert [found(tracker, experiment) for experiment in "exyz"] == [{"a": 0.6, "b": 0.6, "c": 0.6}, *[{"a": 0.5}] * 3]


def test_a_deleted_model_is_reported_with_the_way_to_train_it_again(tracker: Tracker) -> None:
    run_id = store(tracker, "a", 1.0, 0.9)
    with pytest.raises(UserError, match=rf"run {run_id} .*model\.safetensors.*train it again with force=true"):
        tracker.model_files(run_id)


def test_only_the_files_that_are_read_are_downloaded_from_a_server_and_deleted_with_the_connection(
    store_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(database, "local_path", lambda artifacts: None)
    tracker = Tracker(None, store_folder)
    MlflowClient(tracker.uri).log_text(store(tracker, "a", 1.0, 0.8), "", "reliability.png")
    assert found(tracker) == {"a": 0.9}
    fetched = {path.name for path in tmp_path.glob("genre_cls-*/*")}
    assert fetched == {"fold.json", "predictions.csv", "windows.npz", "genre_means_mel.npz", "tracks.csv"}
    del tracker
    gc.collect()
    assert not list(tmp_path.glob("genre_cls-*"))


def test_a_read_only_store_can_be_read_and_attempts_to_write_to_it_are_reported(
    tracker: Tracker, store_folder: Path, small_disk: Callable[..., Path]
) -> None:
    store(tracker, "a", 1.0)
    disk = shutil.copytree(store_folder, small_disk(20_000) / "mlruns")
    shutil.rmtree(store_folder)  # which the database names, and nobody can tell it otherwise
    small_disk(20_000, "ro")
    read_only = Tracker(None, disk)
    assert found(read_only) == {"a": 1.0}
    with (
        pytest.raises(UserError, match=r"mlflow\.db: .*make the folder writable") as told,
        read_only.failures_in_one_line(),
    ):
        read_only.experiment("new")
    assert "\n" not in str(told.value)


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


def test_a_server_that_keeps_a_databases_files_is_no_damage_to_the_database(tracker: Tracker) -> None:
    told = pytest.raises(UserError, match=r"no route; run the command again when it answers$")
    with told, tracker.failures_in_one_line():
        raise requests.ConnectionError("no route")


def test_what_is_deleted_in_mlflow_while_it_is_used_is_reported_with_the_folds_that_are_kept(
    tracker: Tracker, store_folder: Path
) -> None:
    client, where = MlflowClient(tracker.uri), tracker.experiment("e")
    run = client.create_run(where).info.run_id
    client.delete_run(run)
    (store_folder / "spool" / "k" / "0").mkdir(parents=True)
    for gone in (
        lambda: client.log_metric(run, "accuracy", 0.5),
        lambda: client.log_metric("0" * 32, "accuracy", 0.5),
        lambda: client.create_run("987"),
        lambda: (client.delete_experiment(where), client.create_run(where)),
    ):
        kept = r"^tracking\.uri=.*; run the command again; a finished fold is kept in "
        with pytest.raises(UserError, match=kept), tracker.failures_in_one_line():
            gone()


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
    shutil.rmtree(artifacts(tracker, run_id))
    assert len(tracker.predictions_of(run_id)[0]) == 2 and tracker.predictions_of(run_id)[1] == {}


def test_the_newest_report_is_shown(tracker: Tracker) -> None:
    assert tracker.report() is None
    for text in ("first", "second"):
        with tracker.run(tracker.experiment("reports"), "r", {"kind": "report"}, {}) as open_run:
            open_run.log({}, {"report.html": text.encode()})
        time.sleep(0.005)
    assert tracker.report() == "second"
