"""The command, end to end: one sweep as users start it, looked at from many sides; then what goes wrong."""

import csv
import json
import os
import re
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from itertools import product
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import soundfile
from hydra.core.utils import JobReturn, JobStatus
from mlflow import MlflowClient
from omegaconf import DictConfig, OmegaConf
from safetensors import safe_open
from shared import ALL_VIEWS, GENRES, Command, timeless

from genre_cls import GenreClassifier, report, train
from genre_cls.configuration.settings import CONF
from genre_cls.configuration.sources import SOURCES
from genre_cls.errors import UserError
from genre_cls.experiments import experiment
from genre_cls.models.views import shape_of
from genre_cls.processes import workers
from genre_cls.tracks.gtzan import gtzan_facts
from genre_cls.training import ensembles

SCORES = ("accuracy", "macro_f1", "log_loss")
EPOCHS, FOLDS, N_TRACKS = 2, 2, 12


def table(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_a_bare_m_is_two_features_by_two_models_by_two_batch_sizes(sweep: Any) -> None:
    assert sweep.code == 0, sweep.err
    axes = [tuple(run.data.params[axis] for axis in ("features", "model", "batch_size")) for run in sweep.parents]
    assert sorted(axes) == [(f, m, b) for f in ("mel", "mfcc") for m in ("basic", "deep") for b in ("16", "32")]
    told = "epochs=2 window=0.5 k=2 members=plain,modulation,statis…"
    assert {run.info.run_name for run in sweep.parents} == {f"{' '.join(axis)} {told}" for axis in axes}


def test_every_configuration_has_its_folds_and_all_have_finished(sweep: Any) -> None:
    for parent in sweep.parents:
        children = sweep.children(parent)
        assert sorted(child.info.run_name for child in children) == ["fold 0", "fold 1"]
        assert {run.info.status for run in (parent, *children)} == {"FINISHED"}
        assert all(child.data.params == parent.data.params for child in children)


def test_a_configurations_numbers_are_those_of_its_folds(sweep: Any) -> None:
    for parent in sweep.parents:
        metrics = parent.data.metrics
        for score in SCORES:
            folds = [child.data.metrics[score] for child in sweep.children(parent)]
            assert metrics[f"{score}_mean"] == pytest.approx(np.mean(folds))
            assert metrics[f"{score}_std"] == pytest.approx(np.std(folds, ddof=1))
            low, mean, high = (metrics[f"{score}_{figure}"] for figure in ("low", "mean", "high"))
            if np.std(folds) or score != "accuracy":
                half = 12.7062 * np.std(folds, ddof=1) * np.sqrt(1 / 2 + 1)
                ends = [mean - half, mean + half]
                shown = np.clip(ends, 0, None if score == "log_loss" else 1)
                assert [low, high] == pytest.approx(shown, rel=1e-4)
            else:  # of as few tracks as they are
                assert low < high
        assert {"recall_hiss _ noise", "recall_tones_ pure", "seconds", "seconds_per_fold"} <= metrics.keys()


def test_a_run_has_its_settings(sweep: Any) -> None:
    for run in sweep.parents:
        stored = OmegaConf.load(sweep.files(run)["config.yaml"])
        assert stored.recipe.epochs == EPOCHS and stored.dataset.root == run.data.params["dataset.root"]
        assert run.data.params["recipe.epochs"] == str(EPOCHS) and int(run.data.params["n_parameters"]) > 10_000
        assert run.data.tags["command"].startswith("python -m genre_cls.train -m dataset=folder")
        assert json.loads(run.data.tags["named"])["recipe.window"] == "0.5"


def test_a_configuration_shows_its_matrix_and_its_curves(sweep: Any) -> None:
    for parent in sweep.parents:
        files = sweep.files(parent)
        kind = parent.data.params["features"]
        assert {"confusion_matrix.png", "loss_curves.png", f"genre_means_{kind}.npz", "unreadable.csv"} <= files.keys()
        assert all(path.read_bytes()[1:4] == b"PNG" for name, path in files.items() if name.endswith(".png"))
        (_, *names), *rows = table(files["confusion_matrix.csv"])
        assert tuple(names) == GENRES == tuple(row[0] for row in rows)
        counts = np.array([row[1:] for row in rows], dtype=int)
        assert counts.sum() == N_TRACKS
        recall = [parent.data.metrics[f"recall_{name}"] for name in ("hiss _ noise", "tones_ pure")]
        assert np.allclose(np.diag(counts) / counts.sum(axis=1), recall)


def test_a_fold_shows_its_epochs_its_matrix_its_curves_and_its_weights(sweep: Any) -> None:
    for parent in sweep.parents[:2]:
        for child in sweep.children(parent):
            for curve in ("train_loss", "train_accuracy", "held_out_loss", "held_out_accuracy"):
                history = sweep.client.get_metric_history(child.info.run_id, curve)
                assert [point.step for point in history] == [1, 2]
            files = sweep.files(child)
            assert files.keys() == {
                "config.yaml", "confusion_matrix.csv", "confusion_matrix.png", "fold.json", "loss_curves.png",
                "model.safetensors", "predictions.csv", "windows.npz",
            }  # fmt: skip


def test_the_folds_predictions_cover_each_track_once_and_give_the_scores(sweep: Any) -> None:
    for parent in sweep.parents:
        tracks: list[str] = []
        for child in sweep.children(parent):
            header, *rows = table(sweep.files(child)["predictions.csv"])
            assert header == ["track", "genre", "predicted", *(f"p({genre})" for genre in GENRES)]
            tracks += [row[0] for row in rows]
            for track, genre, predicted, *probabilities in rows:
                assert track.startswith(f"{genre}/") and predicted == GENRES[np.argmax(np.array(probabilities, float))]
            assert child.data.metrics["accuracy"] == pytest.approx(np.mean([row[1] == row[2] for row in rows]))
        assert len(set(tracks)) == len(tracks) == N_TRACKS
        assert Counter(track.partition("/")[0] for track in tracks) == dict.fromkeys(GENRES, 6)


def test_saved_weights_say_what_they_were_trained_on_and_it_is_what_they_were_not_tested_on(sweep: Any) -> None:
    for child in sweep.children(sweep.parents[0]):
        files = sweep.files(child)
        with safe_open(files["model.safetensors"], "np") as file:
            description = json.loads(file.metadata()["genre_cls"])
            assert {"0.mean", "0.deviation"} <= set(file.keys())
        tested = {row[0] for row in table(files["predictions.csv"])[1:]}
        trained = set(description["trained_on"])
        assert not trained & tested and len(trained | tested) == N_TRACKS
        assert description["genres"] == list(GENRES) and description["features"]["kind"] == "mfcc"
        assert OmegaConf.create(description["config"]).recipe.epochs == EPOCHS


@pytest.mark.usefixtures("store_here")
def test_the_same_command_gives_the_same_bits_in_another_process(
    sweep: Any, command: Command, on_music: tuple[str, ...]
) -> None:
    one = ("features=mel", "model=deep", "batch_size=16", "trainer.workers=1")
    again = command(train.main, *on_music, *one, ALL_VIEWS)
    assert again.code == 0
    (parent,) = again.parents
    (same,) = [run for run in sweep.parents if run.data.tags["identity"] == parent.data.tags["identity"]]
    assert timeless(parent) == timeless(same)
    for a, b in zip(again.children(parent), sorted(sweep.children(same), key=lambda r: r.info.run_name), strict=True):
        assert timeless(a) == timeless(b)
        for name in ("predictions.csv", "confusion_matrix.png"):
            assert again.files(a)[name].read_bytes() == sweep.files(b)[name].read_bytes()


def test_a_file_that_is_not_audio_is_skipped_and_named(sweep: Any) -> None:
    lines = [line for line in sweep.err.splitlines() if "broken.wav" in line]
    assert len(lines) == 1 and lines[0].startswith("skipped ")
    for parent in sweep.parents:
        header, row = table(sweep.files(parent)["unreadable.csv"])
        assert header == ["path", "reason"] and row[0].endswith("broken.wav") and row[1]


def test_stderr_has_nothing_but_a_line_for_what_happens(sweep: Any) -> None:
    kinds = (
        "my music: 12 tracks in 2 genres",
        "skipped ",
        "features: ",
        "batch_size=",
        "split: ",
        "mel ",
        "mfcc ",
        "report: ",
        "compare ",
        "then open ",
    )
    assert [line for line in sweep.err.splitlines() if not line.startswith(kinds)] == []
    assert sum(" accuracy " in line for line in sweep.err.splitlines()) == 8


def test_nothing_stray_is_left_where_the_command_ran(sweep: Any) -> None:
    assert {path.name for path in sweep.folder.iterdir()} <= {"mlruns", "report", "outputs"}
    assert {path.name for path in (sweep.folder / "mlruns").iterdir()} >= {"mlflow.db", "artifacts"}


def test_a_sweep_ends_with_a_report_on_disk_on_screen_and_in_mlflow(sweep: Any) -> None:
    page, text = (sweep.folder / "report" / f"report.{kind}" for kind in ("html", "md"))
    for run in sweep.parents:
        assert f"{run.data.metrics['accuracy_mean']:.1%}"[:-1] in text.read_text()
    assert "tones, pure" in text.read_text() and "The best of 8" in sweep.out and "hiss &amp; noise" in page.read_text()
    (logged,) = [
        run
        for experiment in sweep.client.search_experiments()
        for run in sweep.client.search_runs([experiment.experiment_id], "tags.kind = 'report'")
    ]
    assert {name: path.read_bytes() for name, path in sweep.files(logged).items()} == {
        "report.html": page.read_bytes(), "report.md": text.read_bytes(),
    }  # fmt: skip


@pytest.mark.usefixtures("store_here", "blank_pictures")
def test_one_unreadable_file_of_few_stops_nothing_unless_none_may_be(
    command: Command, on_music: tuple[str, ...], tiny_music: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_music, tmp_path / "music")
    (tmp_path / "music" / GENRES[0] / "0.wav").write_bytes(b"RIFF")
    few = (*on_music, f"dataset.root={tmp_path}/music", "fold=0")
    assert command(train.main, *few).code == 0
    done = command(train.main, *few, "max_unreadable=0")
    assert done.code == 2 and "1 of 12 tracks are unreadable" in done.err


def test_too_many_unreadable_files_stop_the_command_and_are_named(
    command: Command, on_music: tuple[str, ...], tiny_music: Path, tmp_path: Path
) -> None:
    for genre in GENRES:
        for name in ("0.wav", "1.wav"):
            (tmp_path / genre).mkdir(exist_ok=True)
            (tmp_path / genre / name).write_bytes((tiny_music / genre / name).read_bytes())
    for genre in GENRES:
        (tmp_path / genre / "0.wav").write_bytes(b"RIFF")
    done = command(train.main, *on_music, f"dataset.root={tmp_path}")
    assert all(words in done.mistake for words in ("0.wav", "max_unreadable=0.05", "2 of 4"))
    assert not (done.folder / "mlruns").exists()


def test_broken_links_are_unreadable_and_named(command: Command, on_music: tuple[str, ...], tmp_path: Path) -> None:
    for genre in GENRES:
        (tmp_path / "music" / genre).mkdir(parents=True)
        for number in range(2):
            (tmp_path / "music" / genre / f"{number}.wav").symlink_to("/no such disk/song.wav")
    done = command(train.main, *on_music, f"dataset.root={tmp_path}/music")
    assert "4 of 4 tracks are unreadable" in done.mistake and done.mistake.endswith("; and 1 more")
    assert "0.wav is a broken link (/no such disk/song.wav)" in done.mistake


@pytest.mark.usefixtures("store_here", "blank_pictures")
@pytest.mark.parametrize("splits", ["folds=filtered", "folds=random,filtered", "experiment=[leak_gap,smoke]"])
def test_the_smoke_preset_goes_with_every_split(command: Command, on_music: tuple[str, ...], splits: str) -> None:
    shared = [argument for argument in on_music if not argument.startswith("folds")]
    preset = () if splits.startswith("experiment") else ("experiment=smoke",)
    one = ("features=mel", "model=basic", "batch_size=4", "trainer.workers=1")
    done = command(train.main, "-m", *shared, *preset, splits, *one)
    if preset:
        assert done.code == 2 and "error: folds=filtered: GTZAN's published split is not complete" in done.err
    else:  # leak_gap skips splits that are impossible
        assert done.code == 0 and "skipped: folds=filtered" in done.err
        assert "folds=random alone is possible here" in done.err


@pytest.mark.parametrize(
    ("tracks", "reason"),
    [
        ({}, "no genre folder with audio"),
        ({"a": 1}, "only 1 genre folder with audio, a ("),
        ({"a": 3, "b": 0}, "only 1 genre folder with audio"),
        ({"a": 3, "b": 1}, "genre b has only 1 track"),
        ({"a": 1, "b": 1}, "genre a has only 1 track"),
    ],
    ids=str,
)
def test_a_folder_with_too_little_in_it_is_reported_in_one_line(
    command: Command, on_music: tuple[str, ...], tiny_music: Path, tmp_path: Path, tracks: dict[str, int], reason: str
) -> None:
    for genre, count in {"": 0, **tracks}.items():
        (tmp_path / "music" / genre).mkdir(parents=True, exist_ok=True)
        for number in range(count):  # one sound under many names
            shutil.copy(tiny_music / GENRES[0] / "0.wav", tmp_path / "music" / genre / f"{number}.wav")
    done = command(train.main, *on_music, f"dataset.root={tmp_path}/music")
    assert reason in done.mistake and not (done.folder / "mlruns").exists()


@pytest.mark.usefixtures("store_here", "blank_pictures")
def test_a_job_that_fails_leaves_the_others_and_easy_genres_are_learned(
    command: Command, on_music: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "brittle.py").write_text(
        "from genre_cls.models import GenreCNN\n"
        "class Brittle(GenreCNN):\n"
        "    def forward(self, features):\n"
        "        if self.training and len(features) > 2:\n"  # which is not tried beforehand
        "            raise RuntimeError('it broke')\n"
        "        return super().forward(features)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    here = Path.cwd()
    models = "model._target_=brittle.Brittle,genre_cls.models.GenreCNN"
    axes = ("features=mel", "model=basic", "batch_size=4", "trainer.workers=1", "recipe.epochs=25")
    with pytest.raises(RuntimeError, match="it broke"):
        command(train.main, "-m", *on_music, *axes, models)
    client = MlflowClient(f"sqlite:///{here}/mlruns/mlflow.db")
    ids = [experiment.experiment_id for experiment in client.search_experiments()]
    parents = {run.data.params["model._target_"]: run for run in client.search_runs(ids, "tags.kind = 'config'")}
    good = parents.pop("genre_cls.models.GenreCNN")
    assert [run.info.status for run in parents.values()] == ["FAILED"] and good.info.status == "FINISHED"
    assert good.data.metrics["accuracy_mean"] == 1
    assert "rank" in (here / "report" / "report.md").read_text()


@pytest.mark.usefixtures("store_here", "blank_pictures")
def test_the_demo_set_is_called_synthetic_wherever_it_is_shown(command: Command, on_music: tuple[str, ...]) -> None:
    small = ("dataset.tracks_per_genre=2", "dataset.seconds=1", "model=basic", "trainer.workers=1")
    shared = [argument for argument in on_music if not argument.startswith("dataset")]
    done = command(train.main, "-m", *shared, *small, "features=mel", "batch_size=16")
    assert done.code == 0 and "synthetic" in done.err and "mlflow ui --backend-store-uri" in done.err
    (parent,) = done.parents
    assert any("synthetic" in value.lower() for key, value in parent.data.tags.items() if key != "command")
    for name in ("report.md", "report.html"):
        assert "synthetic" in (done.folder / "report" / name).read_text().lower()


@pytest.mark.usefixtures("store_here", "blank_pictures")
def test_kernel_machines_need_no_model_in_training_and_prediction(
    command: Command, on_music: tuple[str, ...], tiny_music: Path
) -> None:
    members = ("recipe.members=[statistics]", "~model._target_", "trainer.workers=1")
    shared = [argument for argument in on_music if not argument.startswith("recipe.members")]
    done = command(train.main, *shared, "features=mel", *members)
    assert done.code == 0
    (parent,) = done.parents
    classifier = GenreClassifier.load(parent.info.run_id, tracking=done.folder / "mlruns")
    assert classifier.predict(tiny_music / GENRES[0] / "0.wav").genre in GENRES


@pytest.mark.usefixtures("store_here", "blank_pictures")
def test_one_command_compares_splits_and_skips_impossible_ones(
    command: Command, on_music: tuple[str, ...], tiny_music: Path, tmp_path: Path
) -> None:
    music = shutil.copytree(tiny_music, tmp_path / "music")
    rows = [("path", "artist"), *((f"{genre}/{n}.wav", f"{genre} {n % 5}") for genre in GENRES for n in range(6))]
    with (music / "metadata.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    shared = [argument for argument in on_music if not argument.startswith("folds.k")]
    arguments = (*shared, f"dataset.root={music}", "experiment=leak_gap", "batch_size=4", "trainer.workers=1")
    done = command(train.main, *arguments)
    assert done.code == 0 and "skipped: folds=filtered: " in done.err
    assert {run.data.tags["folds"] for run in done.parents} == {"random", "artist"}
    report = (done.folder / "report" / "report.md").read_text()
    assert "## The same under other splits" in report and "| configuration | random | artist | drop, points |" in report
    assert "under folds=artist than under folds=random" in " ".join(done.out.split())
    without = command(train.main, *arguments, "folds=filtered")
    assert without.code == 2 and "error: none of these splits is possible" in without.err


def test_a_sweep_keeps_what_a_preset_sets_to_anything_but_the_default(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preset = tmp_path / "conf" / "experiment" / "quick.yaml"
    preset.parent.mkdir(parents=True)
    preset.write_text("# @package _global_\ndefaults: [override /model: basic]\nbatch_size: 8\n")
    axes = ("features", "model", "batch_size")
    monkeypatch.setattr(train, "_prepare", mock.Mock())
    monkeypatch.setattr(report, "write_newest", mock.Mock())
    for words, values in (
        (["experiment=quick"], ("mel mfcc", "basic", "8")),
        (["experiment=quick", "features=mel", "model=deep,tutorial_deep"], ("mel", "deep tutorial_deep", "8")),
        (["experiment=[quick,tutorial]", "features=mel"], ("mel", "tutorial_basic tutorial_deep", "32 64")),
    ):
        with mock.patch.object(experiment, "evaluate", return_value=0.5) as evaluate:
            done = command(train.main, "-m", "--config-dir", str(tmp_path / "conf"), *words)
        assert done.code == 0, done.err
        named = [identity.named for _, identity in (call.args for call in evaluate.call_args_list)]
        swept = [tuple(each[axis] for axis in axes) for each in named]
        assert sorted(swept) == sorted(product(*(each.split() for each in values)))


@pytest.mark.usefixtures("store_here", "blank_pictures")
def test_configurations_are_distinguished_by_what_was_edited_in_a_file_of_settings(
    command: Command, on_music: tuple[str, ...], tmp_path: Path
) -> None:
    mine = tmp_path / "conf" / "model" / "mine.yaml"
    mine.parent.mkdir(parents=True)
    words = (*on_music, "-m", "features=mel,mfcc", "model=mine", "batch_size=4", "trainer.workers=1")
    for dropout, unreadable in (("0.3", "0.05"), ("0.1", "0.06")):  # the second of which computes nothing else
        text = (CONF / "model" / "basic.yaml").read_text()
        mine.write_text(re.sub(r"dropout: \S+", f"dropout: {dropout}", text))
        done = command(train.main, "--config-dir", str(tmp_path / "conf"), *words, f"max_unreadable={unreadable}")
        assert done.code == 0, done.err
    lines = (done.folder / "report" / "report.md").read_text().splitlines()
    (head,) = [line.split(" | ")[1:6] for line in lines if line.startswith("| rank")]
    assert head == ["features", "model", "batch size", "model.dropout", "accuracy, %"]
    rows = [line.split(" | ")[1:5] for line in lines if re.match(r"\| \d \|", line)]
    assert sorted(rows) == [[kind, "mine", "4", rate] for kind in ("mel", "mfcc") for rate in ("0.1", "0.3")]
    _, dropout = verdicts("\n".join(lines))
    assert "model.dropout 0.1" in dropout and "model.dropout 0.3" in dropout


def verdicts(report: str) -> list[str]:
    """A report's sentences on what beats what; those on how to read it begin in bold."""
    return re.findall(r"^- (?!\*\*).*", report, re.MULTILINE)


@pytest.mark.usefixtures("store_here", "blank_pictures")
def test_features_are_not_compared_across_an_edit_of_the_code_and_the_report_says_so(
    command: Command, on_music: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (*on_music, "-m", "model=basic", "batch_size=4", "trainer.workers=1")
    before = command(train.main, *words, "features=mel,mfcc")
    told = "The code has changed between these runs (code 1 is the oldest)"
    report = (before.folder / "report" / "report.md").read_text()
    assert before.code == 0 and told not in report + before.err and verdicts(report)
    monkeypatch.setitem(SOURCES, "training.recipe", SOURCES["training.recipe"] + "# edited")
    after = command(train.main, *words, "features=mel")
    report = (after.folder / "report" / "report.md").read_text()
    assert after.code == 0 and f"\n> {told}" in report and told in after.err and not verdicts(report)
    assert "mel · basic · batch 4 · code 2" in report and "mfcc · basic · batch 4 · code 1" in report
    assert told in (after.folder / "report" / "report.html").read_text()


@pytest.mark.usefixtures("store_here", "blank_pictures")
def test_the_published_split_is_trained_several_times_and_evaluated_on_its_test_part(
    command: Command, on_music: tuple[str, ...], tmp_path: Path
) -> None:
    facts: dict[tuple[str, str], list[str]] = {}
    for track, known in gtzan_facts().items():
        facts.setdefault((track.split(".")[0], known["part"]), []).append(track)
    random = np.random.default_rng(0)
    for (genre, part), tracks in facts.items():
        for track in tracks[: 2 if part else 0]:
            (tmp_path / "gtzan" / genre).mkdir(parents=True, exist_ok=True)
            soundfile.write(tmp_path / "gtzan" / genre / f"{track}.wav", random.normal(scale=0.1, size=22050), 22050)
    shared = [argument for argument in on_music if not argument.startswith(("dataset", "folds"))]
    here = ("dataset=gtzan", f"dataset.root={tmp_path}/gtzan", "folds=filtered", "folds.repeats=2", "model=basic")
    done = command(train.main, *shared, *here, "batch_size=8", "trainer.workers=1")
    assert done.code == 0 and "split: 2 trainings on one split: 20 of 443 train, 20 of 197 valid, 20 of 290" in done.err
    (parent,) = done.parents
    folds = [{row[0] for row in table(done.files(child)["predictions.csv"])[1:]} for child in done.children(parent)]
    assert folds == [{track for (_, part), tracks in facts.items() if part == "test" for track in tracks[:2]}] * 2
    group_of = {row[0]: row[3] for row in table(done.files(parent)["tracks.csv"])[1:]}
    assert group_of["blues.00012"] == group_of["blues.00013"] != group_of["rock.00010"], "two are by Robert Johnson"


@pytest.mark.usefixtures("store_here", "blank_pictures")
def test_a_search_chooses_inside_a_fold_and_is_evaluated_on_its_held_out_tracks(
    command: Command, store_here: Path, on_music: tuple[str, ...]
) -> None:
    space = ("features=choice(mel,mfcc)", "model=basic", "batch_size=4", "recipe.window=0.5")
    space += ("recipe.optimizer.lr=0.003", "recipe.optimizer.weight_decay=0.01", "recipe.augmentation.mixup=0.0")
    space += ("model.dropout=0.3", "folds=random", "hydra.sweeper.n_trials=3")
    got = command(train.main, "experiment=search", *on_music, *space)
    assert got.code == 0, got.err
    winner = next(run for run in got.parents if run.data.params["inside"] == "False")
    trials = [run for run in got.parents if run.data.params["inside"] == "True"]
    judged = {row[0] for child in got.children(winner) for row in table(got.files(child)["predictions.csv"])[1:]}
    heard = {
        row[0]
        for run in trials
        for child in got.children(run)
        for row in table(got.files(child)["predictions.csv"])[1:]
    }
    assert len(judged) == len(heard) == N_TRACKS // 2 and not judged & heard
    best = max(run.data.metrics["accuracy_mean"] for run in trials)
    chosen = [run for run in trials if run.data.params["features"] == winner.data.params["features"]]
    assert chosen[0].data.metrics["accuracy_mean"] == best
    assert f"trials: features={winner.data.params['features']}" in got.err


@pytest.mark.usefixtures("store_here")
def test_a_trial_that_cannot_be_built_is_refused_before_it_is_trained(
    command: Command, on_music: tuple[str, ...]
) -> None:
    space = ("features=choice(mfcc)", "recipe.members=[mfcc_plain]", "folds=random", "hydra.sweeper.n_trials=1")
    got = command(train.main, "experiment=search", *on_music, *space)
    assert got.code == 2 and not got.parents
    assert got.err.splitlines()[-1].startswith("error: recipe.members: mfcc_plain needs features=mel")


@pytest.mark.usefixtures("store_here")
def test_a_search_whose_trials_all_diverge_says_that_it_has_no_winner(
    command: Command, on_music: tuple[str, ...]
) -> None:
    space = ("features=mfcc", "model=basic", "batch_size=4", "fold=0", "inside=true", "trainer.workers=1")
    got = command(train.main, "-m", *on_music, *space, "recipe.optimizer.lr=1e30")
    assert got.code == 2 and "training has diverged" in got.err
    assert (
        got.err.splitlines()[-1]
        == "error: every trial of this search has diverged or recognises nothing, so it has no winner to test"
    )


@pytest.mark.usefixtures("store_here", "blank_pictures")
def test_a_search_inside_several_folds_evaluates_each_winner_on_its_fold(
    command: Command, on_music: tuple[str, ...]
) -> None:
    space = ("features=mel", "model=basic", "batch_size=4", "fold=0,1", "inside=true", "trainer.workers=1")
    got = command(train.main, "-m", *on_music, *space, "recipe.optimizer.lr=1e-9,0.003")
    assert got.code == 0, got.err
    of = [[run for run in got.parents if run.data.params["fold"] == fold] for fold in ("0", "1")]
    assert [[run.data.params["inside"] for run in runs] for runs in of] == [["True", "True", "False"]] * 2
    for fold, (*trials, winner) in enumerate(of):
        best = max(trials, key=lambda run: run.data.metrics["accuracy_mean"])
        assert winner.data.params["recipe.optimizer.lr"] == best.data.params["recipe.optimizer.lr"]
        assert winner.info.run_name == best.info.run_name.replace(" inside=true", "") != best.info.run_name
        (judged,) = got.children(winner)
        assert json.loads(got.files(judged)["fold.json"].read_text())["index"] == fold
        assert f"tested on fold={fold}, which was not used" in got.err


@pytest.mark.usefixtures("store_here", "blank_pictures")
def test_a_trial_that_diverges_loses_the_search_but_does_not_end_it(
    command: Command, on_music: tuple[str, ...]
) -> None:
    space = ("features=mel", "model=basic", "batch_size=4", "fold=0", "inside=true", "trainer.workers=1")
    got = command(train.main, "-m", *on_music, *space, "recipe.optimizer.lr=1e30,0.003")
    assert got.code == 0, got.err
    assert "training has diverged" in got.err and "the search goes on" in got.err
    winner = next(run for run in got.parents if run.data.params["inside"] == "False")
    assert winner.data.params["recipe.optimizer.lr"] == "0.003"


@pytest.mark.usefixtures("store_here", "blank_pictures")
def test_an_interrupted_search_evaluates_no_winner_on_the_held_out_tracks(
    command: Command, on_music: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaking_off(cfg: DictConfig, *rest: Any) -> Any:
        if cfg.recipe.optimizer.lr == 0.002:
            raise UserError("the memory is too small")
        return train_member(cfg, *rest)

    train_member = ensembles.train_member
    monkeypatch.setattr(ensembles, "train_member", breaking_off)
    space = ("features=mfcc", "model=basic", "batch_size=4", "fold=0", "inside=true", "trainer.workers=1")
    got = command(train.main, "-m", *on_music, *space, "recipe.optimizer.lr=0.003,0.002")
    assert got.code == 2 and "the memory is too small" in got.err and "chosen within" not in got.err
    assert [(run.data.params["inside"], run.info.status) for run in got.parents] == [
        ("True", "FINISHED"),
        ("True", "FAILED"),
    ]


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (("alone=true",), "alone=true: needs the fold to evaluate, such as fold=0"),
        (
            ("fold=0", "inside=true", "alone=true"),
            "inside=true alone=true: a fold is either split again or evaluated; choose one",
        ),
        (("inside=true",), "inside=true: needs the fold within which settings are chosen, such as fold=0"),
        (("+folds.size=3",), "folds: random got an unexpected keyword argument 'size'"),
        (("+folds.facts=3",), "folds: random multiple values for argument 'facts'"),
    ],
)
def test_a_wrong_choice_of_folds_is_reported_before_features_are_extracted(
    command: Command, on_music: tuple[str, ...], tmp_path: Path, settings: tuple[str, ...], reason: str
) -> None:
    got = command(train.main, *on_music, *settings, f"cache_dir={tmp_path}/cache")
    assert (got.code, got.err) == (2, f"error: {reason}\n")
    assert not list(tmp_path.rglob("*.npy"))


@pytest.mark.parametrize("settings", [("fold=2",), ("-m", "fold=2,0")])
def test_a_fold_that_is_not_there_is_reported(
    command: Command, on_music: tuple[str, ...], settings: tuple[str, ...]
) -> None:
    got = command(train.main, *on_music, *settings)
    reason = "fold=2: must be null or from 0 to 1, as there are 2 folds"
    assert (got.code, got.err.splitlines()[-1]) == (2, f"error: {reason}")


def test_a_view_of_mfccs_is_refused_where_there_are_mfccs_already(command: Command, on_music: tuple[str, ...]) -> None:
    got = command(train.main, *on_music, "features=mfcc", "recipe.members=[plain,mfcc_modulation]")
    reason = "recipe.members: mfcc_modulation needs features=mel; with MFCCs it is modulation"
    assert (got.code, got.err.splitlines()[-1]) == (2, f"error: {reason}")


@pytest.mark.usefixtures("store_here", "blank_pictures")
def test_the_members_of_an_ensemble_differ_and_vote(command: Command, on_music: tuple[str, ...]) -> None:
    arguments = (*on_music, "model=basic", "batch_size=4", "trainer.workers=1")
    done = command(train.main, "-m", *arguments, "features=mel", "recipe.members=[plain],[plain,modulation]")
    assert done.code == 0, done.err
    runs = {run.data.params["recipe.members"]: run for run in done.parents}
    one, two = "[plain]", "[plain,modulation]"
    assert int(runs[two].data.params["n_parameters"]) == 2 * int(runs[one].data.params["n_parameters"])
    weights = {}
    for members, run in runs.items():
        child = next(child for child in done.children(run) if child.info.run_name == "fold 0")
        with safe_open(done.files(child)["model.safetensors"], "np") as file:
            weights[members] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert weights[one].keys() < weights[two].keys() and len(weights[two]) == 2 * len(weights[one])
    assert all((weights[two][name] == tensor).all() for name, tensor in weights[one].items())
    assert (weights[two]["0.model.classifier.weight"] != weights[two]["1.model.classifier.weight"]).any()
    assert [weights[two][f"{place}.mean"].shape for place in (0, 1)] == [(128, 1), shape_of("modulation", 128)]


@pytest.mark.usefixtures("store_here", "blank_pictures")
@pytest.mark.parametrize("features", ["mel", "mfcc"])
def test_the_tutorials_networks_train_on_whole_clips(
    command: Command, on_music: tuple[str, ...], features: str
) -> None:
    short = [argument for argument in on_music if "window" not in argument]
    done = command(
        train.main, "-m", *short, "experiment=tutorial", f"features={features}", "recipe.window=1.0", "batch_size=4",
        "trainer.workers=1",
    )  # fmt: skip
    assert done.code == 0, done.err
    models = {run.data.params["model"]: int(run.data.params["n_parameters"]) for run in done.parents}
    assert models.keys() == {"tutorial_basic", "tutorial_deep"} and min(models.values()) > 64 * 32


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_ctrl_c_ends_the_command_soon_quietly_and_with_its_runs_killed(
    store_here: Path, on_music: tuple[str, ...], number: signal.Signals
) -> None:
    arguments = (*on_music, "model=basic", "recipe.epochs=100000")
    process = subprocess.Popen(
        [sys.executable, "-m", "genre_cls.train", *arguments],
        cwd=store_here.parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        # A shell that runs the tests in the background has them, and what they start, ignore it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    try:
        _wait_for_a_run(store_here / "mlflow.db", process)
        time.sleep(2)  # so that training is under way, or at least its processes start
        began = time.monotonic()
        os.killpg(process.pid, number)  # as a terminal, `timeout` and schedulers do, to workers too
        _, err = process.communicate(timeout=30)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 130 and time.monotonic() - began < 20
    assert err.splitlines()[-1] == "interrupted; the same command resumes it"
    assert "Traceback" not in err and "leaked" not in err
    client = MlflowClient(f"sqlite:///{store_here}/mlflow.db")
    ids = [experiment.experiment_id for experiment in client.search_experiments()]
    assert [run.info.status for run in client.search_runs(ids)] == ["KILLED"]


def _wait_for_a_run(database: Path, process: subprocess.Popen[str]) -> None:
    for _ in range(600):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.1)
        with closing(sqlite3.connect(database)) as connection:
            if connection.execute("select count(*) from runs").fetchone()[0]:
                return
    raise AssertionError("no run within a minute")


def test_a_wrong_folder_of_tracks_is_reported_before_all_is_imported_that_takes_seconds(tmp_path: Path) -> None:
    (tmp_path / "music" / "rock").mkdir(parents=True)
    code = (
        "import sys\nfrom genre_cls.train import main\n"
        "try:\n    main()\nfinally:\n    print({'torch', 'mlflow'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "dataset=folder", f"dataset.root={tmp_path / 'music'}"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "set()\n") and "no genre folder with audio" in done.stderr


def test_help_is_quick_shows_the_options_and_five_examples(quick_help: Callable[[str], str]) -> None:
    shown = quick_help("genre_cls.train")
    assert shown.count("python -m genre_cls.train ") >= 5
    for group, options in (("model", "basic, deep"), ("features", "mel, mfcc"), ("dataset", "demo, folder, gtzan")):
        assert f"{group}: {options}" in shown


def test_a_trial_that_failed_never_wins_a_search(
    composed: Callable[..., DictConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train.Sweep, "_best", {})
    config = composed("inside=true", "fold=0")
    monkeypatch.setattr(train.Sweep, "_under_way", (config, "id"))
    for accuracy, best in ((0.0, []), (0.5, [0.5]), (0.0, [0.5])):
        ended = JobReturn(status=JobStatus.COMPLETED, _return_value=accuracy)
        train.Sweep().on_job_end(config, ended)
        assert [accuracy for accuracy, _ in train.Sweep._best.values()] == best


def test_a_search_never_compares_trials_that_have_other_tracks_set_aside(
    composed: Callable[..., DictConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a trial would have learned from the tracks that the winner is then tested on."""
    monkeypatch.setattr(train.Sweep, "_best", {})
    same = [("recipe.epochs=1",), ("recipe.epochs=2", "seed=0"), ("seed=1", "folds.seed=0"), ("features=mfcc",)]
    others = [("seed=1",), ("folds.k=3",), ("fold=1",), ("drop_faults=true",), ("folds=artist",), ("dataset.seed=1",)]
    others += [("shuffle_genres=true",), ("shuffle_genres=true", "seed=1", "folds.seed=0")]
    trials = [composed("inside=true", "fold=0", *words) for words in (*same, *others)]
    monkeypatch.setattr(train.Sweep, "_under_way", (trials[0], "id"))
    for place, trial in enumerate(trials):
        train.Sweep().on_job_end(trial, JobReturn(status=JobStatus.COMPLETED, _return_value=0.1 + place / 100))
    won = [next(place for place, trial in enumerate(trials) if trial is each) for _, each in train.Sweep._best.values()]
    assert won == list(range(len(same) - 1, len(trials)))  # the best of the same, and each other


@pytest.mark.usefixtures("store_here")
def test_workers_are_gone_before_the_report_is_written(
    command: Command, on_music: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[bool] = []
    write, fork = report.write_newest, workers.call
    monkeypatch.setattr(workers, "call", lambda *asked, **more: begun.append(True) or fork(*asked, **more))
    monkeypatch.setattr(
        report, "write_newest", lambda *asked, **more: begun.append(workers.has_pool()) or write(*asked, **more)
    )
    done = command(train.main, "-m", *on_music, "features=mfcc", "model=basic", "batch_size=4", "trainer.workers=2")
    assert done.code == 0 and begun[0] and not begun[-1]


def test_hydras_line_on_a_failed_job_has_no_password(capsys: pytest.CaptureFixture[str]) -> None:
    job = JobReturn(overrides=["seed=1", "tracking.uri=http://me:secret@host"], status=JobStatus.FAILED)
    job.return_value = ValueError("it broke")
    train.Sweep().on_job_end(OmegaConf.create({"inside": False}), job)
    with pytest.raises(ValueError, match="it broke"):
        _ = job.return_value
    line = capsys.readouterr().err
    assert "seed=1" in line and "http://host" in line and "secret" not in line


@pytest.mark.parametrize(("words", "n_lines"), [((), 2), (("fold=0",), 1), (("fold=0", "alone=true"), 2)])
def test_a_report_is_offered_only_of_what_it_would_show(
    composed: Callable[..., DictConfig], caplog: pytest.LogCaptureFixture, words: tuple[str, ...], n_lines: int
) -> None:
    caplog.set_level("INFO")
    train.Sweep().on_run_end(composed(*words), job_return=JobReturn(status=JobStatus.COMPLETED))
    first, *more = caplog.messages
    assert first.startswith("look at the runs: ") and len(caplog.messages) == n_lines
    assert all(line.startswith("compare it with others: ") for line in more)


def test_a_configuration_is_compared_in_the_store_that_it_is_in(composed: Callable[..., DictConfig]) -> None:
    assert train._report_command(composed("seed=1")).endswith("-m genre_cls.report")
    own = composed("tracking.folder='/my runs'", "tracking.experiment='a, b'", "tracking.uri=http://server:1")
    told = shlex.split(train._report_command(own))[3:]
    assert told == ["tracking.uri=http://server:1", "tracking.folder=/my runs", "tracking.experiment='a, b'"]
    composed(*told[1:], config="report")  # takes it
