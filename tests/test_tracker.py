"""Test runs as they are written, closed, locked and taken over, as MLflow reads them."""

import errno
import shutil
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from multiprocessing.synchronize import Event
from pathlib import Path
from unittest import mock

import pytest
from filelock import Timeout
from hypothesis import example, given
from hypothesis import strategies as st
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from stores import QUICKEST, artifacts, children, found, run, store

from genre_cls.configuration.provenance import COMMAND_ID
from genre_cls.errors import UserError
from genre_cls.tracking import database, stored_runs
from genre_cls.tracking.naming import legal_names
from genre_cls.tracking.stored_runs import PARENT, WAITING, changed_metrics
from genre_cls.tracking.tracker import DESCRIPTION, KEY, NOTE, Tracker


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
    ends_so = pytest.raises(end) if end else nullcontext()
    with ends_so, tracker.run(tracker.experiment("e"), "n", {}, {}) as open_run:
        if end:
            raise end
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
@example(["x" * 249 + "&", "x" * 249 + "_"])
@given(st.lists(st.text("ab&_-2", max_size=5).map(lambda end: "x" * 245 + end) | st.text("a&_-2"), unique=True))
def test_no_two_metrics_have_the_same_name(names: list[str]) -> None:
    found = legal_names(names)
    assert list(found) == names and len(set(found.values())) == len(names)
    assert all(len(name) <= 250 and "&" not in name for name in found.values())


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
    tracker.refresh(run_id, {"accuracy_mean": 0.5}, {})
    assert len(MlflowClient(tracker.uri).get_metric_history(run_id, "accuracy_mean")) == 2
    shutil.rmtree(stored)
    tracker.refresh(run_id, {}, {"tracks.csv": b"new"})
    assert [path.name for path in stored.iterdir()] == ["tracks.csv"]


def test_an_experiment_of_any_name_keeps_its_files_in_the_store(tracker: Tracker, store_folder: Path) -> None:
    for name in ("..", ".hidden", "a/../b"):
        run_id = store(tracker, "a", 1.0, experiment=name)
        assert artifacts(tracker, run_id).resolve().is_relative_to(store_folder.resolve() / "artifacts"), name


@pytest.mark.parametrize("letter", ["x", "é", "日", "🎵"])
def test_an_experiment_may_have_a_longer_name_than_a_folder(tracker: Tracker, store_folder: Path, letter: str) -> None:
    run_id = store(tracker, "a", 1.0, experiment=100 * letter)
    assert artifacts(tracker, run_id).is_dir()
    assert found(Tracker(None, store_folder), experiment=100 * letter) == {"a": 1.0}


def test_an_experiment_deleted_in_mlflow_is_named(tracker: Tracker) -> None:
    MlflowClient(tracker.uri).delete_experiment(tracker.experiment("gone"))
    with pytest.raises(UserError, match=r"'gone' was deleted.*tracking\.experiment="):
        tracker.experiment("gone")


def test_an_experiment_of_a_fixed_name_is_restored_if_it_was_deleted(tracker: Tracker) -> None:
    experiment = tracker.experiment("ours", restore=True)
    MlflowClient(tracker.uri).delete_experiment(experiment)
    assert tracker.experiment("ours", restore=True) == experiment == tracker.experiment("ours")


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


@pytest.mark.parametrize(("present", "continued"), [("mine", True), ("another", False), ("", False)])
def test_who_ignores_what_is_stored_continues_what_the_same_command_began(
    tracker: Tracker, monkeypatch: pytest.MonkeyPatch, present: str, continued: bool
) -> None:
    monkeypatch.setenv(COMMAND_ID, "mine" if present else "")
    run_id = store(tracker, "a", 1.0, tags={KEY: "k"})
    monkeypatch.setenv(COMMAND_ID, present)
    assert tracker.earlier(tracker.experiment("e"), "k", force=True).run_id == (run_id if continued else None)


def test_a_run_is_finished_only_when_its_files_are_on_the_disk(
    tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[str, set[Path]]] = []
    monkeypatch.setattr(
        "genre_cls.tracking.tracker.sync",
        lambda *paths: synced.append((run(tracker, opened.run_id).info.status, {*paths})),
    )
    with tracker.run(tracker.experiment("e"), "n", {}, {}) as opened:
        opened.log({}, {"a.csv": b"1"})
    file = artifacts(tracker, opened.run_id) / "a.csv"
    assert synced == [("RUNNING", {file, *file.parents[:4]})] and file.parents[3].name == "artifacts"


def test_folds_whose_files_are_on_another_machine_do_not_count_as_damaged(tracker: Tracker) -> None:
    run_id = store(tracker, "a", 1.0, tags={KEY: "k"})
    shutil.rmtree(artifacts(tracker, run_id).parents[1])
    with pytest.raises(UserError, match="missing, though this store keeps its folds' files there"):
        tracker.earlier(tracker.experiment("e"), "k", force=False)
    assert {run(tracker, child).info.status for child in children(tracker, run_id)} == {"FINISHED"}


def test_a_failing_disk_does_not_mark_a_fold_as_damaged(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    store(tracker, "a", 1.0, tags={KEY: "k"})
    experiment = tracker.experiment("e")
    monkeypatch.setattr(stored_runs, "load_fold", mock.Mock(side_effect=OSError(errno.EIO, "Input/output error")))
    with pytest.raises(OSError, match="Input/output"):
        tracker.earlier(experiment, "k", force=False)
    monkeypatch.undo()
    assert len(tracker.earlier(experiment, "k", force=False).folds) == 1


def test_a_failing_server_does_not_mark_a_fold_as_damaged(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    store(tracker, "a", 1.0, tags={KEY: "k"})
    monkeypatch.setattr(database, "local_path", lambda uri: None)
    monkeypatch.setattr(Tracker, "files", mock.Mock(side_effect=MlflowException("artifacts are away")))
    with pytest.raises(MlflowException, match="away"):
        tracker.earlier(tracker.experiment("e"), "k", force=False)
    monkeypatch.undo()
    assert len(tracker.earlier(tracker.experiment("e"), "k", force=False).folds) == 1


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


def hold(folder: Path, ready: Event) -> None:
    tracker = Tracker(None, folder)
    with tracker.claim("k", "it") as claim, tracker.run(tracker.experiment("e"), "held", claim, {}):
        ready.set()
        time.sleep(600)


def statuses(tracker: Tracker) -> dict[str, str]:
    runs = MlflowClient(tracker.uri).search_runs([tracker.experiment("e")])
    return {run.info.run_name: run.info.status for run in runs}


def test_open_runs_of_dead_processes_are_closed_and_those_of_live_and_of_unknown_ones_are_not(
    tracker: Tracker, store_folder: Path
) -> None:
    ready = QUICKEST.Event()
    holder = QUICKEST.Process(target=hold, args=(store_folder, ready))
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


def test_runs_that_could_not_be_closed_under_a_claim_are_closed_at_its_end(tracker: Tracker) -> None:
    client, where = MlflowClient(tracker.uri), tracker.experiment("e")
    with tracker.claim("k", "it") as tags:
        client.create_run(where, tags=tags, run_name="left open")
        assert statuses(tracker) == {"left open": "RUNNING"}
    assert statuses(tracker) == {"left open": "KILLED"}


def test_runs_of_a_dead_process_are_closed_before_its_work_is_taken_over(tracker: Tracker) -> None:
    client, where = MlflowClient(tracker.uri), tracker.experiment("e")
    with tracker.claim("k", "it") as tags:
        pass
    client.create_run(where, tags=tags, run_name="left open")
    with tracker.claim("k", "it"):
        assert statuses(tracker) == {"left open": "KILLED"}


def test_a_copied_folder_of_locks_gets_an_id_of_its_own(tracker: Tracker, store_folder: Path) -> None:
    """As on a second machine that logs to the same server."""
    with tracker.claim("k", "it") as tags:
        locks = store_folder / "locks"
        shutil.copytree(locks, store_folder / "copied")
        shutil.rmtree(locks)
        (store_folder / "copied").rename(locks)
        with Tracker(None, store_folder).claim("k", "it", wait=False) as others:
            assert tags.keys() == others.keys() and tags["lock"] != others["lock"]
            with Tracker(None, store_folder).claim("l", "it") as again:
                assert again["lock"].partition("/")[0] == others["lock"].partition("/")[0]


def fill(disk: Path) -> None:
    with (disk / "filling").open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(4096)):
            pass


def test_a_full_disk_is_reported_by_the_store(store_folder: Path, small_disk: Callable[..., Path]) -> None:
    disk = small_disk(20_000)
    full = Tracker(None, shutil.copytree(store_folder, disk / "mlruns"))
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
    store_folder: Path, small_disk: Callable[..., Path]
) -> None:
    disk = small_disk(20_000)
    full = Tracker(None, shutil.copytree(store_folder, disk / "mlruns"))
    run_id = store(full, "a", 1.0)
    (fold,) = children(full, run_id)
    before = (artifacts(full, fold) / "fold.json").read_bytes()
    fill(disk)
    with pytest.raises(UserError, match="no space left on device"):
        full.refresh(fold, {}, {"fold.json": before + bytes(100_000)})
    assert (artifacts(full, fold) / "fold.json").read_bytes() == before and found(full) == {"a": 1.0}
