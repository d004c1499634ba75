"""Test the report command, which reports from stored runs what training has reported."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from forks import ended, fork
from mlflow import MlflowClient
from shared import Command

from genre_cls import report, train
from genre_cls.evaluation import page
from genre_cls.tracking.connection import store_uri
from genre_cls.tracking.stored_comparison import newest
from genre_cls.tracking.stored_runs import StoredRuns
from genre_cls.tracking.tracker import NOTE


@pytest.fixture
def store(sweep: Any, tmp_path: Path) -> Path:
    """A copy of the sweep's database; the artifacts stay where they are, as it names them by absolute paths."""
    shutil.copytree(sweep.folder / "mlruns", tmp_path / "copy", ignore=shutil.ignore_patterns("artifacts"))
    return tmp_path / "copy"


def test_it_equals_what_training_wrote(command: Command, sweep: Any, store: Path) -> None:
    done = command(report.main, f"tracking.folder={store}")
    assert done.code == 0
    for name in ("report.md", "report.html"):
        assert (done.folder / "report" / name).read_bytes() == (sweep.folder / "report" / name).read_bytes()
    assert done.out == sweep.out
    assert {path.name for path in done.folder.iterdir()} == {"report"}


def test_run_as_a_module_it_says_where_the_report_is_too(store: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "genre_cls.report", f"tracking.folder={store}", f"report_dir={tmp_path}/there"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True)
    first, *others = done.stderr.splitlines()
    assert first == f"report: {tmp_path}/there/report.html" and others[0].startswith("compare the runs: ")


def test_it_names_the_tracks_and_each_command_with_the_number_of_its_configurations(
    command: Command, sweep: Any, store: Path
) -> None:
    text = (sweep.folder / "report" / "report.md").read_text()
    n_tracks = len(sweep.files(sweep.parents[0])["tracks.csv"].read_text().splitlines()) - 1
    assert f"Data: my music, {n_tracks} tested tracks in 2 genres, folds=random" in text
    typed = page._escaped(sweep.parents[1].data.tags["command"])  # shown as it was stored
    assert f"| command | {typed} |" in text and typed.startswith("python -m genre_cls.train")
    client = MlflowClient(store_uri(None, store))
    client.set_tag(sweep.parents[0].info.run_id, "command", "another \"a='b c'\"")
    done = command(report.main, f"tracking.folder={store}")
    told = (done.folder / "report" / "report.md").read_text()
    assert f"| command 1 (7 configurations) | {typed} |" in told
    assert """| command 2 (1 configuration) | another "a='b c'" |""" in told
    last = datetime.fromtimestamp(max(run.info.end_time for run in sweep.parents) / 1000)
    assert f"| finished | {last:%Y-%m-%d %H:%M:%S} |" in told


def test_it_reads_the_given_experiment_and_writes_to_the_given_folder(
    command: Command, store: Path, tmp_path: Path
) -> None:
    place = f"report_dir={tmp_path}/elsewhere"
    done = command(report.main, f"tracking.folder={store}", "tracking.experiment=genre_cls my music", place)
    assert done.code == 0 and (tmp_path / "elsewhere" / "report.html").exists() and not list(done.folder.iterdir())
    assert "Data: my music, 12 tested tracks in 2 genres, folds=random\n" in done.out
    assert f"{tmp_path}/elsewhere/report.html" in done.err
    none = command(report.main, f"tracking.folder={store}", "tracking.experiment=other", place)
    assert none.code == 2 and "tracking.experiment=other" in none.err
    assert none.err.endswith("some have in 'genre_cls my music'\n")


@pytest.mark.parametrize(
    ("dataset", "folds", "told"), [("gtzan", "random", 1), ("gtzan", "filtered", 0), ("demo", "random", 0)]
)
def test_it_says_of_gtzan_that_the_recipe_was_chosen_on_it(store: Path, dataset: str, folds: str, told: int) -> None:
    comparison = newest(StoredRuns(None, store))
    assert comparison is not None
    on_dataset = replace(comparison, tags={**comparison.tags, "dataset": dataset, "folds": folds})
    assert report._report(on_dataset, 0.01).notes.count(report.CHOSEN_ON_GTZAN) == told


def test_notes_are_shown_on_a_terminal_too_and_no_digit_is_cut_off_on_a_narrow_one(
    command: Command, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = MlflowClient(store_uri(None, store))
    (experiment,) = (e for e in client.search_experiments() if "music" in e.name)
    for run in client.search_runs([experiment.experiment_id]):
        client.set_tag(run.info.run_id, NOTE, "Genres were permuted.")
    monkeypatch.setenv("COLUMNS", "40")
    done = command(report.main, f"tracking.folder={store}")
    assert "Genres were permuted." in done.err.splitlines()
    rows = [line for line in done.out.splitlines() if re.match(r"\d ", line)]
    assert len(rows) == 8 and all(re.search(r" \d+\.\d ± \d+\.\d .*–\d+\.\d ", row) for row in rows)


def test_only_audio_that_this_machine_can_read_can_be_played_on_the_page(tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir()
    paths = {"here": tmp_path / "a.wav", "gone": tmp_path / "b.wav", "locked": locked / "c.wav"}
    paths["named too long for a look at it"] = tmp_path / f"{'d' * 300}.wav"
    for track in ("here", "locked"):
        paths[track].touch()
    locked.chmod(0)
    try:
        playable = report._playable({track: {"path": str(path)} for track, path in paths.items()})
    finally:
        locked.chmod(0o700)
    if os.geteuid() == 0:  # who may enter any folder
        playable.pop("locked")
    assert playable == {"here": paths["here"].as_uri()}


@pytest.mark.usefixtures("store_here")
def test_an_empty_store_is_reported_in_one_line(command: Command) -> None:
    mistake = command(report.main).mistake
    assert mistake.startswith("error: tracking.folder=mlruns") and "genre_cls.train -m" in mistake


def test_a_place_that_cannot_be_written_is_reported_in_one_line(command: Command, store: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = command(report.main, f"tracking.folder={store}", f"report_dir={tmp_path}/file/below")
    assert done.code == 2 and len(done.err.splitlines()) == 1 and f"report_dir={tmp_path}/file/below: " in done.err
    assert "The best of 8" in done.out, "the ranking is told all the same"


def test_a_read_only_store_is_reported_though_the_report_cannot_be_logged(
    command: Command, store: Path, small_disk: Callable[..., Path]
) -> None:
    read_only = shutil.copytree(store, small_disk(20_000) / "mlruns")
    small_disk(20_000, "ro")
    done = command(report.main, f"tracking.folder={read_only}")
    assert done.code == 0 and (done.folder / "report" / "report.html").exists()
    assert "the report is not logged: " in done.err and "Traceback" not in done.err


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/full is Linux's")
def test_a_full_disk_that_the_output_goes_to_is_not_taken_for_the_stores(store: Path, tmp_path: Path) -> None:
    def redirect() -> None:
        os.dup2(os.open("/dev/full", os.O_WRONLY), 1)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), (tmp_path / "told").open("w", buffering=1)

    code = ended(fork(redirect, f"tracking.folder={store}", f"report_dir={tmp_path}", main=report.main))
    told = (tmp_path / "told").read_text().splitlines()
    assert code == 2 and told == ["error: the disk that the output goes to is full"]


@pytest.mark.usefixtures("store_here")
def test_a_disk_that_is_too_small_for_the_report_loses_nothing_else(
    command: Command, on_music: tuple[str, ...], small_disk: Callable[..., Path]
) -> None:
    folder = small_disk(20) / "report"
    one = ("features=mel", "model=basic", "batch_size=4", "trainer.workers=1", f"report_dir={folder}")
    done = command(train.main, "-m", *on_music, *one)
    assert done.code == 2 and [run.info.status for run in done.parents] == ["FINISHED"]
    told = f"error: {folder}/report.html: no space left on device; fix that and run the command again"
    assert done.err.splitlines()[-1] == told and "Traceback" not in done.err and not list(folder.iterdir())
    small_disk(20_000)
    again = command(report.main, f"report_dir={folder}")
    assert again.code == 0 and {path.name for path in folder.iterdir()} == {"report.html", "report.md"}
