"""Test which stored configurations are compared, what names them, which is the best, and what must not disturb that."""

import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime

import pytest
from mlflow import MlflowClient
from stores import GENRES, MEANS, TRACKS, artifacts, children, compared, folds_of, found, log_fold, run, store

from genre_cls import GenreClassifier
from genre_cls.configuration.provenance import COMMAND_ID
from genre_cls.errors import UserError
from genre_cls.evaluation.findings import warnings
from genre_cls.tracking.artifacts import tracks_file
from genre_cls.tracking.stored_comparison import best, newest
from genre_cls.tracking.stored_runs import PARENT
from genre_cls.tracking.tracker import N_COMMAND_IDS, Tracker


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
    store(tracker, "a", 0.7, comparison="p", split="filtered")
    store(tracker, "A", 0.6, 0.4, comparison="s", split="artist")
    others = compared(tracker)[0].other_splits
    accuracies = {split: result.estimate("accuracy").mean for split, result in others.items()}
    assert accuracies == {"random": 0.9, "filtered": 0.7}


def test_a_configuration_that_lost_a_fold_is_not_compared_as_another_split(tracker: Tracker) -> None:
    parent = store(tracker, "a", 1.0, 0.9, comparison="r")
    store(tracker, "A", 0.6, comparison="s", split="artist")
    assert compared(tracker)[0].other_splits.keys() == {"random"}
    MlflowClient(tracker.uri).set_terminated(children(tracker, parent)[0], "FAILED")
    assert compared(tracker)[0].other_splits == {}


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


def test_a_comparison_tells_of_the_newest_configuration_and_of_all_commands_the_busiest_first(
    tracker: Tracker,
) -> None:
    commands = ("one", "other", "other")
    runs = [store(tracker, name, 1.0, tags={"command": each}) for name, each in zip("abc", commands, strict=True)]
    last = run(tracker, runs[-1]).info.end_time
    MlflowClient(tracker.uri).set_terminated(runs[0], end_time=last - 3_600_000)
    comparison = newest(tracker)
    assert comparison and comparison.tags["identity"] == "c"
    assert comparison.finished == datetime.fromtimestamp(last / 1000).isoformat(" ", "seconds")
    assert [*comparison.commands.items()] == [("other", 2), ("one", 1)]


def test_a_setting_that_only_some_commands_gave_is_shown_for_all_configurations(tracker: Tracker) -> None:
    told = {"recipe.epochs": "3e1", "experiment": "best", "old": "1"}
    for identity, named, epochs in (("a", told, "30"), ("b", {}, "30"), ("c", told, "60")):
        store(tracker, identity, 1.0, named=named, params={"recipe.epochs": epochs})
    names = {result.named["model"]: result.named for result in compared(tracker)}
    assert {model: name["recipe.epochs"] for model, name in names.items()} == {"a": "30", "b": "30", "c": "60"}
    shown = {model: (name["experiment"], name["old"]) for model, name in names.items()}
    assert shown == {"a": ("best", "1"), "b": ("none", "unset"), "c": ("best", "1")}


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
    results = compared(tracker)
    assert [result.named.get("code") for result in results] == codes
    assert bool(warnings(results)) == (codes[0] is not None)


@pytest.mark.parametrize(("sources", "found"), [(PACKAGE, {"artist"}), ({}, {"artist"}), (EDITED, set())])
def test_results_of_other_code_under_another_split_are_not_compared(
    tracker: Tracker, sources: dict[str, str], found: set[str]
) -> None:
    store(tracker, "A", 0.9, comparison="s", split="artist", tags={"sources": json.dumps(sources)})
    store(tracker, "a", 1.0, tags={"sources": json.dumps(PACKAGE)})
    assert compared(tracker)[0].other_splits.keys() == found


def test_a_later_run_of_a_configuration_replaces_the_earlier(tracker: Tracker) -> None:
    store(tracker, "a", 1.0)
    store(tracker, "b", 0.5)
    store(tracker, "a", 0.2)
    assert found(tracker) == {"a": 0.2, "b": 0.5}


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
        assert [result.named["model"] for result in compared(tracker, command_id=f"sweep_of_{name}")] == [name]


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


@pytest.mark.parametrize("damage", [lose_artifacts, lose_a_folds_artifacts, delete_folds])
def test_configurations_with_deleted_files_are_left_out(
    tracker: Tracker, damage: Callable[[Tracker, str], None]
) -> None:
    store(tracker, "a", 1.0, 0.9)
    damage(tracker, store(tracker, "b", 0.5, 0.4))
    assert found(tracker) == {"a": 0.95}


def test_a_failed_child_of_a_finished_parent_does_no_harm(tracker: Tracker) -> None:
    parent = store(tracker, "a", 1.0, 0.8)
    with pytest.raises(ValueError, match="oh"), tracker.run(tracker.experiment("e"), "fold 3", {PARENT: parent}, {}):
        raise ValueError("oh")
    assert found(tracker) == {"a": 0.9}


@pytest.mark.parametrize("name", ["genre_means_mel.npz", "tracks.csv"])
def test_a_report_does_without_facts_that_are_damaged(tracker: Tracker, name: str) -> None:
    run_id = store(tracker, "a", 1.0)
    path = artifacts(tracker, run_id) / name
    path.write_bytes(path.read_bytes()[:20] if name.endswith("npz") else b"garbage\n1,2\n")
    assert found(tracker) == {"a": 1.0}


@pytest.mark.parametrize("name", ["fold.json", "predictions.csv"])
def test_a_report_leaves_out_what_is_damaged(tracker: Tracker, name: str, caplog: pytest.LogCaptureFixture) -> None:
    store(tracker, "a", 1.0)
    parent = store(tracker, "b", 1.0)
    path = artifacts(tracker, children(tracker, parent)[0]) / name
    path.write_bytes(path.read_bytes()[:60])
    assert found(tracker) == {"a": 1.0} and "left out b" in caplog.text


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
    assert compared(tracker)[0].other_splits.keys() == {"random"}
    MlflowClient(tracker.uri).set_tag(other, "dataset_digest", "another")
    assert compared(tracker)[0].other_splits == {}


@pytest.mark.parametrize("better", [0, 1])
def test_of_two_that_are_equally_accurate_the_best_has_the_higher_f1(tracker: Tracker, better: int) -> None:
    scores = (0.7, 0.9, 0.8, 0.6, 0.9), (0.7, 0.6, 0.9, 0.9, 0.8)  # of which rounding makes two means
    runs = [store(tracker, name, *each) for name, each in zip("ab", scores, strict=True)]
    for place, run_id in enumerate(runs):
        MlflowClient(tracker.uri).log_metric(run_id, "macro_f1_mean", 0.8 if place == better else 0.7)
    assert best(tracker) == runs[better]


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


def test_neither_where_a_configuration_ran_nor_its_size_name_it_though_named_as_another_one(tracker: Tracker) -> None:
    for identity, lr, size in (("a", "0.1", "1"), ("b", "0.2", "2")):
        params = {"recipe.lr": lr, "trainer.threads": lr, "report_dir": lr, "n_parameters": size}
        store(tracker, identity, 1.0, named={"model": "m"}, params=params)
    named = [set(result.named) for result in compared(tracker)]
    assert named == [{"features", "model", "batch_size", "recipe.lr"}] * 2


def test_of_two_that_are_equal_the_best_stays_the_best_whichever_is_confirmed(tracker: Tracker) -> None:
    first, second = store(tracker, "z", 0.5, 0.5), store(tracker, "a", 0.5, 0.5)
    for confirmed in (first, second, first):
        assert best(tracker) == first and [*found(tracker)] == ["z", "a"]
        tracker.confirm(confirmed)
        time.sleep(0.005)
    with tracker.run(tracker.experiment("e"), "z", {}, {}, run_id=first):  # as when a fold is trained again
        pass
    assert best(tracker) == first and [*found(tracker)] == ["z", "a"]


def test_a_configuration_that_finished_after_another_was_confirmed_is_the_newest(tracker: Tracker) -> None:
    tracker.confirm(store(tracker, "a", 1.0, comparison="old"))
    time.sleep(0.005)
    store(tracker, "b", 0.5, comparison="new")
    assert found(tracker) == {"b": 0.5}


def test_a_fold_that_was_restored_beside_its_successor_counts_once(tracker: Tracker) -> None:
    parent = store(tracker, "a", 0.5, 0.5)
    again = replace(folds_of(0.5, 0.9)[1], seconds=0.7)
    log_fold(tracker, tracker.experiment("e"), again, {"kind": "fold", PARENT: parent})
    assert found(tracker) == {"a": pytest.approx(0.7)} and best(tracker) == parent
    assert len(tracker.predictions_of(parent)[0]) == 2


def test_artists_that_became_known_later_hold_for_all_configurations(tracker: Tracker) -> None:
    store(tracker, "a", 0.5, 0.5)
    ids = [track for fold in folds_of(0.5, 0.5) for track in fold.track_ids]
    by_one = dict.fromkeys(ids, TRACKS["0.0.0"] | {"group": "0"})
    store(tracker, "b", 0.5, 0.5, tracks=by_one)
    assert [result.artist_overlap for result in compared(tracker)] == [1, 1]


def test_tracks_of_unknown_artists_are_no_group(tracker: Tracker) -> None:
    ids = [track for fold in folds_of(0.5, 0.5) for track in fold.track_ids]
    store(tracker, "a", 0.5, 0.5, tracks=dict.fromkeys(ids, TRACKS["0.0.0"]))
    (result,) = compared(tracker)
    assert not result.has_groups and result.artist_overlap == 0
