"""Stop and go on: a command that was killed, or given twice at once, ends as one that nobody disturbed."""

import csv
import errno
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from itertools import count
from multiprocessing import active_children
from pathlib import Path
from threading import Timer
from typing import Any
from urllib.request import url2pathname, urlopen

import pytest
import torch
from forks import ended, fork
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from omegaconf import DictConfig
from shared import Command, Outcome, free_port, timeless

from genre_cls import report, train
from genre_cls.configuration.identity import identify
from genre_cls.configuration.settings import without_hydra
from genre_cls.experiments import outbox, spool
from genre_cls.experiments.job import Job
from genre_cls.tracking.artifacts import load_tracks
from genre_cls.training import ensembles, task

Table = dict[tuple[str, str], Any]

ONE = ("features=mel", "model=basic", "batch_size=4", "folds.k=3", "trainer.workers=1")
TITLE = "mel basic 4 epochs=2 window=0.5 k=3 members=plain"
TORTURE = Path(__file__).parent.parent / "benchmarks" / "torture.py"
pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="forks and signals"),
    pytest.mark.usefixtures("blank_pictures"),
]


def table(outcome: Any) -> Table:
    """What a store holds in the end: each configuration's numbers, each fold's numbers and predictions."""
    rows: list[tuple[tuple[str, str], Any]] = []
    for parent in finished(outcome.parents):
        rows.append(((parent.info.run_name, ""), timeless(parent)))
        for child in finished(outcome.children(parent)):
            predictions = outcome.files(child)["predictions.csv"].read_bytes()
            rows.append(((parent.info.run_name, child.info.run_name), (timeless(child), predictions)))
    assert len(rows) == len(dict(rows)), "something is there twice"
    return dict(rows)


def finished(runs: list[Run]) -> list[Run]:
    return [run for run in runs if run.info.status == "FINISHED"]


def open_runs(outcome: Any) -> list[Run]:
    ids = [found.experiment_id for found in outcome.client.search_experiments()]
    return list(outcome.client.search_runs(ids, "attributes.status = 'RUNNING'"))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, fresh_store: Path, on_music: tuple[str, ...]) -> Table:
    """What the command comes to in a store of its own that nobody disturbs."""
    folder = tmp_path_factory.mktemp("undisturbed")
    shutil.copytree(fresh_store, folder / "mlruns")
    assert ended(fork(lambda: os.chdir(folder), "-m", *on_music, *ONE)) == 0
    return table(Outcome(folder, 0, "", ""))


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The folds that this process trains, as it does."""
    folds: list[int] = []
    real = ensembles.train_member

    def counted(cfg: DictConfig, task: Any, fold: Any, place: int) -> Any:
        folds.append(fold.index)
        return real(cfg, task, fold, place)

    monkeypatch.setattr(ensembles, "train_member", counted)
    return folds


@pytest.mark.usefixtures("store_here")
def test_what_is_finished_is_not_trained_again_but_reported_unless_it_is_forced_or_anything_that_matters_has_changed(
    command: Command, on_music: tuple[str, ...], trained: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "set_num_threads", lambda n: None)  # threads of this process would not outlive a fork
    first = command(train.main, "-m", *on_music, *ONE)
    assert sorted(trained) == [0, 1, 2] and "reused" not in first.err
    shutil.rmtree(first.folder / "report")
    second = command(train.main, "-m", *on_music, *ONE, "trainer.workers=1", "rope=0.5")
    assert (second.code, sorted(trained)) == (0, [0, 1, 2])
    assert f"{TITLE}: 3 of 3 folds reused (force=true" in second.err
    assert table(second) == table(first) and second.parents[0].info.run_id == first.parents[0].info.run_id
    assert ranking(second) == ranking(first) and (first.folder / "report" / "report.html").exists()
    forced = command(train.main, "-m", *on_music, *ONE, "force=true")
    assert sorted(trained) == [0, 0, 1, 1, 2, 2] and "reused" not in forced.err
    old, new = forced.parents
    assert (len(finished(forced.parents)), timeless(old)) == (2, timeless(new))
    assert len(ranking(forced)) == len(ranking(first))
    other = command(train.main, "-m", *on_music, *ONE, "recipe.optimizer.lr=0.002")
    assert len(trained) == 9 and "reused" not in other.err
    summed_otherwise = command(train.main, "-m", *on_music, *ONE, "trainer.threads=2")
    assert len(trained) == 12 and "reused" not in summed_otherwise.err


def ranking(outcome: Any) -> list[str]:
    """The rows of the report's table, less the times."""
    rows = [line.split("|") for line in (outcome.folder / "report" / "report.md").read_text().splitlines()]
    return ["|".join(row[:7]) for row in rows if len(row) == 11]


@pytest.mark.usefixtures("store_here")
def test_folds_are_reused_only_where_they_would_be_the_same_to_the_bit(
    composed: Callable[..., DictConfig], on_music: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def key(*more: str) -> str:
        config = composed(*on_music, *ONE, *more)
        cfg = without_hydra(config)
        found = task.load(cfg)
        assert found
        return Job(cfg, found, identify(cfg, config.hydra)).key

    exact, fast = "trainer.precision=32-true", "trainer.precision=bf16-mixed"
    on_cpu = [key(exact), key(fast), key(exact, "trainer.threads=2"), key(exact, "recipe.epochs=3")]
    assert key(exact, "trainer.workers=2", "rope=0.2", "trainer.graphs=false") == on_cpu[0]
    monkeypatch.setattr("genre_cls.experiments.job.resolve_device", lambda _: torch.device("cuda"))
    on_gpu = [key(exact), key(fast), key(exact, "trainer.graphs=false")]
    assert len({*on_cpu, *on_gpu}) == 7


@pytest.mark.usefixtures("store_here")
def test_damaged_folds_are_trained_again_and_the_others_are_kept(
    command: Command, on_music: tuple[str, ...], undisturbed: Table, trained: list[int]
) -> None:
    first = command(train.main, "-m", *on_music, *ONE)
    children = {run.info.run_name: run for run in first.children(first.parents[0])}
    for fold, (name, size) in {"fold 1": ("predictions.csv", 350), "fold 2": ("windows.npz", 300)}.items():
        path = first.files(children[fold])[name]
        path.write_bytes(path.read_bytes()[:size])
    trained.clear()
    again = command(train.main, "-m", *on_music, *ONE)
    assert sorted(trained) == [1, 2] and again.err.count(" is trained again") == 2
    assert table(again) == undisturbed and len(again.parents) == 1


def test_a_command_that_is_killed_loses_no_fold_leaves_no_worker_and_goes_on(
    store_here: Path, command: Command, on_music: tuple[str, ...], undisturbed: Table, trained: list[int]
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "genre_cls.train", "-m", *on_music, *ONE[:-1], "trainer.workers=2"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    with closing(sqlite3.connect(store_here / "mlflow.db")) as connection:
        kept = wait_for(lambda: connection.execute("select run_uuid from runs where status = 'FINISHED'").fetchone())
    process.kill()
    assert process.wait() == -signal.SIGKILL
    wait_for(lambda: not alive(process.pid), seconds=5)
    done = command(train.main, "-m", *on_music, *ONE)
    assert done.code == 0 and 1 <= len(trained) <= 2 and f"{3 - len(trained)} of 3 folds reused" in done.err
    (parent,) = done.parents
    assert kept[0] in [child.info.run_id for child in finished(done.children(parent))]
    assert open_runs(done) == [] and table(done) == undisturbed


@pytest.mark.usefixtures("store_here")
def test_a_configuration_that_begins_early_has_the_same_results(
    command: Command, on_music: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, here: Path
) -> None:
    rates = "recipe.optimizer.lr=1e30,0.003,0.002"
    began: list[tuple[float, bool, int]] = []
    rivals: list[int] = []
    real = Job.begin

    def noted(job: Any, n_at_once: int) -> bool:
        rate = job.cfg.recipe.optimizer.lr
        began.append((rate, real(job, n_at_once), len(open_runs(Outcome(here, 0, "", "")))))
        if rate == 0.002:
            rivals.append(fork(lambda: os.chdir(here), *on_music, *ONE, f"recipe.optimizer.lr={rate}"))
        return began[-1][1]

    monkeypatch.setattr(Job, "begin", noted)
    done = command(train.main, "-m", *on_music, *ONE[:-1], rates, "trainer.workers=2")
    # Of the first one, which spoils nothing that has begun.
    assert done.code == 2 and f"error: {TITLE} lr=1e+30: training has diverged" in done.err
    assert began == [(0.003, True, 1), (0.002, True, 1)]
    assert list(map(ended, rivals)) == [0]  # another command that wanted the same has waited, and found it done
    assert sorted(run.info.status for run in done.parents) == ["FAILED", "FINISHED", "FINISHED"]
    alone = command(train.main, "-m", *on_music, *ONE, "recipe.optimizer.lr=0.003", "force=true")
    same = [timeless(run) for run in alone.parents if run.data.params["recipe.optimizer.lr"] == "0.003"]
    assert len(same) == 2 and same[0] == same[1]


@pytest.mark.usefixtures("store_here")
def test_figures_that_other_processes_draw_are_logged_with_their_runs(
    command: Command, on_music: tuple[str, ...], undisturbed: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("genre_cls.experiments.job.MANY_MODELS", 2)
    done = command(train.main, "-m", *on_music, *ONE[:-1], "trainer.workers=2")
    assert done.code == 0 and table(done) == undisturbed
    for fold in done.children(done.parents[0]):
        pictures = [path for name, path in done.files(fold).items() if name.endswith(".png")]
        assert len(pictures) == 2
        assert min(path.stat().st_size for path in pictures) > 10_000  # not the blank ones of this process


@pytest.mark.usefixtures("store_here")
@pytest.mark.parametrize(("jobs", "calls"), [("fold=0,1,2", [1, 1, 1]), ("fold=0", [0])])
def test_jobs_of_one_model_each_are_trained_in_parallel_and_a_sole_one_in_this_process(
    command: Command, on_music: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, jobs: str, calls: list[int]
) -> None:
    trainings: list[ensembles.EnsembleTrainings] = []

    class Noted(ensembles.EnsembleTrainings):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            trainings.append(self)

    monkeypatch.setattr("genre_cls.experiments.job.EnsembleTrainings", Noted)
    one_model = (*ONE[:-1], "recipe.members=[plain]", "trainer.workers=2")
    done = command(train.main, "-m", *on_music, *one_model, jobs)
    assert done.code == 0 and [len(each.calls) for each in trainings] == calls


@pytest.mark.usefixtures("store_here")
def test_a_configuration_locked_by_another_process_does_not_begin_early(
    command: Command, on_music: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    began: list[bool] = []
    real = Job.begin

    def beside(job: Any, n_at_once: int) -> bool:
        with job.tracker.held([f"{job.key}/1"], ""):  # one of its folds
            began.append(real(job, n_at_once))
        return began[-1]

    monkeypatch.setattr(Job, "begin", beside)
    done = command(train.main, "-m", *on_music, *ONE[:-1], "batch_size=4,5", "trainer.workers=2")
    assert done.code == 0 and began == [False] and len(finished(done.parents)) == 2


@pytest.mark.usefixtures("store_here")
def test_killed_workers_fail_the_configuration_that_they_work_on_and_no_other(
    command: Command, on_music: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    began: list[bool] = []
    real = Job.begin

    def before_they_are_killed(job: Any, n_at_once: int) -> bool:
        began.append(real(job, n_at_once))
        for process in active_children():
            process.kill()
        return began[-1]

    monkeypatch.setattr(Job, "begin", before_they_are_killed)
    done = command(train.main, "-m", *on_music, *ONE[:-1], "batch_size=4,5", "trainer.workers=2")
    assert done.code == 2 and began == [True]
    assert [line for line in done.err.splitlines() if line.startswith("error: ")] == [
        "error: a worker process was killed; if memory was short, trainer.workers=1 takes less"
    ]
    assert sorted(run.info.status for run in done.parents) == ["FAILED", "FINISHED"]


def test_a_command_that_is_killed_as_it_makes_the_demo_set_leaves_no_worker(tmp_path: Path) -> None:
    arguments = "tracks_per_genre=100, seconds=30.0, sample_rate=22050, crossover=0.1, seed=0"
    code = f"from genre_cls.tracks.demo import demo; demo(cache_dir={str(tmp_path)!r}, {arguments})"
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL, start_new_session=True)
    wait_for(lambda: list(tmp_path.rglob("*.wav")))
    process.kill()
    process.wait()
    wait_for(lambda: not alive(process.pid), seconds=30)


def wait_for(what: Callable[[], Any], seconds: float = 60) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := what():
            return found
        time.sleep(0.02)
    raise AssertionError(f"not within {seconds} s")


def alive(group: int) -> bool:
    """Whether any process of a group still is."""
    listed = subprocess.run(["ps", "-eo", "pgid=,stat="], capture_output=True, text=True, check=True).stdout
    return any(line.split()[0] == str(group) and not line.split()[1].startswith("Z") for line in listed.splitlines())


@pytest.mark.usefixtures("store_here")
@pytest.mark.parametrize("further", [5, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_after_any_write_to_the_store_it_goes_on_and_ends_as_if_undisturbed(
    command: Command, on_music: tuple[str, ...], undisturbed: Table, further: int
) -> None:
    for n_writes in range(1, 100, further):  # each start gets further than the one before
        code = ended(fork(lambda n=n_writes: killed_after(n), "-m", *on_music, *ONE))
        if code != -signal.SIGKILL:
            break
    assert code == 0 and n_writes > 10
    done = command(train.main, "-m", *on_music, *ONE)
    assert "3 of 3 folds reused" in done.err and open_runs(done) == []
    assert table(done) == undisturbed and len(done.parents) == 1


def killed_after(n_writes: int) -> None:
    """Let this process die after some writes to the store."""

    def write(number: int, real: Callable[[], Any]) -> Any:
        result = real()
        if number == n_writes:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    written_by(pytest.MonkeyPatch(), write)


def written_by(patch: pytest.MonkeyPatch, write: Callable[[int, Callable[[], Any]], Any]) -> None:
    """Let writes to the store be made by a function of their number, from 1, and of the real call."""
    numbers = count(1)

    def replaced(real: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *arguments, **named: write(next(numbers), lambda: real(*arguments, **named))

    for name in ("create_run", "log_batch", "log_artifacts", "update_run", "set_terminated"):
        patch.setattr(MlflowClient, name, replaced(getattr(MlflowClient, name)))


@pytest.mark.usefixtures("store_here")
@pytest.mark.parametrize("n_failures", [pytest.param(1, marks=pytest.mark.slow), 10_000])
def test_folds_that_cannot_be_logged_are_kept_and_logged_later(
    command: Command, on_music: tuple[str, ...], undisturbed: Table, trained: list[int],
    monkeypatch: pytest.MonkeyPatch, n_failures: int,
) -> None:  # fmt: skip
    with monkeypatch.context() as patch:
        fail(patch, after=4, times=n_failures)  # the configuration's run is open, and the first fold's
        done = command(train.main, "-m", *on_music, *ONE)
    spool = done.folder / "mlruns" / "spool"
    assert sorted(trained) == [0, 1, 2] and "Traceback" not in done.err
    assert f"not logged yet, kept in {spool}" in done.err
    if n_failures == 1:  # it was back before the end
        assert done.code == 0
    else:
        assert done.code == 2 and "report:" not in done.err
        (line,) = [line for line in done.err.splitlines() if line.startswith("error: ")]
        kept = f"3 finished folds are kept in {spool}, the same training command (without force=true) logs them"
        assert "is away" in line and kept in line
        assert {path.name for path in spool.glob("*/2/*")} > {"model.safetensors", "predictions.csv", "fold.json"}
        with monkeypatch.context() as patch:  # a disk that fails says nothing of a fold
            patch.setattr(Path, "read_bytes", _failing_disk)
            assert command(train.main, "-m", *on_music, *ONE).code == 2
        (spool / next(spool.iterdir()) / "1" / "predictions.csv").write_text("damaged")
        done = command(train.main, "-m", *on_music, *ONE)
        assert sorted(trained) == [0, 1, 1, 2] and "2 of 3 folds reused" in done.err and done.code == 0
    assert open_runs(done) == [] and table(done) == undisturbed and not list(spool.iterdir())


@pytest.mark.usefixtures("store_here")
def test_force_trains_again_what_could_not_be_logged_too(
    command: Command, on_music: tuple[str, ...], trained: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    one_fold = (*on_music, *ONE, "fold=1")
    with monkeypatch.context() as patch:
        fail(patch, after=4, times=10_000)
        failed = command(train.main, *one_fold)
    assert failed.code == 2 and "kept in" in failed.err and trained == [1]
    forced = command(train.main, *one_fold, "force=true")
    assert forced.code == 0 and trained == [1, 1] and "reused" not in forced.err
    assert not list((forced.folder / "mlruns" / "spool").glob("*/1"))


def _failing_disk(path: Path) -> bytes:
    raise OSError(errno.EIO, "Input/output error", str(path))


def fail(patch: pytest.MonkeyPatch, after: int, times: int) -> None:
    """Let the store be away for some calls after some others."""

    def write(number: int, real: Callable[[], Any]) -> Any:
        if after < number <= after + times:
            raise MlflowException("the store is away")
        return real()

    written_by(patch, write)


def test_two_at_once_train_each_fold_once_and_both_report(
    here: Path, on_music: tuple[str, ...], undisturbed: Table
) -> None:
    processes = [fork(lambda: None, "-m", *on_music, *ONE, f"report_dir={name}") for name in ("a", "b")]
    assert [ended(process) for process in processes] == [0, 0]
    done = Outcome(here, 0, "", "")
    (parent,) = done.parents
    assert open_runs(done) == [] and table(done) == undisturbed and len(done.children(parent)) == 3
    assert all((here / name / "report.html").stat().st_size for name in ("a", "b"))


@pytest.mark.usefixtures("store_here")
def test_one_job_per_fold_has_the_results_of_one_job_for_all_folds(
    command: Command, on_music: tuple[str, ...], undisturbed: Table, trained: list[int]
) -> None:
    done = command(train.main, "-m", *on_music, *ONE, "fold=2,0,1")
    assert done.code == 0 and trained == [2, 0, 1] and "reused" not in done.err
    assert [line for line in done.err.splitlines() if line.startswith(f"{TITLE}: ")][:2] == [
        f"{TITLE}: 1 of 3 folds is done; other jobs, or the same command without fold=, train fold=0,1",
        f"{TITLE}: 2 of 3 folds are done; other jobs, or the same command without fold=, train fold=1",
    ]
    assert table(done) == undisturbed and len(done.parents) == 1 and len(ranking(done)) == 3  # with two of head
    assert not list(done.folder.glob("mlruns/spool/*"))
    again = command(train.main, "-m", *on_music, *ONE)
    assert "3 of 3 folds reused" in again.err and table(again) == undisturbed
    forced = command(train.main, "-m", *on_music, *ONE, "fold=0,1,2", "force=true")
    assert trained == [2, 0, 1, 0, 1, 2] and "reused" not in forced.err
    old, new = forced.parents
    assert [old.info.status, new.info.status, timeless(old)] == ["FINISHED", "FINISHED", timeless(new)]


def parted(on_music: tuple[str, ...]) -> tuple[Path, tuple[str, ...]]:
    """The folder of the music, and the other arguments."""
    (root,) = (word for word in on_music if word.startswith("dataset.root="))
    return Path(root.partition("=")[2]), tuple(word for word in on_music if word != root)


def name_artists(music: Path, artists: Mapping[str, str]) -> None:
    """Write a metadata.csv, by the tracks' paths."""
    with (music / "metadata.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "artist"), *artists.items()])


@pytest.mark.usefixtures("store_here")
def test_new_facts_about_tracks_are_stored_even_if_all_folds_are_reused(
    command: Command, on_music: tuple[str, ...], undisturbed: Table, trained: list[int], tmp_path: Path
) -> None:
    root, own = parted(on_music)
    music = shutil.copytree(root, tmp_path / "elsewhere" / root.name)
    command(train.main, "-m", *on_music, *ONE)
    name_artists(music, {"hiss & noise/0.wav": "Bessie Smith"})
    trained.clear()
    again = command(train.main, "-m", *own, f"dataset.root={music}", *ONE)
    facts = again.files(again.parents[0])["tracks.csv"].read_text()
    assert again.code == 0 and not trained, again.err
    assert "Bessie Smith" in facts and str(music) in facts and str(root) not in facts


@pytest.mark.usefixtures("store_here")
def test_reports_say_how_many_tracks_share_artists_as_these_are_known_now_even_if_all_folds_are_reused(
    command: Command, on_music: tuple[str, ...], undisturbed: Table, trained: list[int], tmp_path: Path
) -> None:
    root, own = parted(on_music)
    ids = [path.relative_to(root).as_posix() for path in sorted(root.rglob("*.wav"))]
    shares = []
    for place, artists in enumerate((dict.fromkeys(ids, "one"), {track: track for track in ids}, {})):
        music = shutil.copytree(root, tmp_path / str(place) / root.name)  # a process reads a folder once
        name_artists(music, artists)
        done = command(train.main, "-m", *own, f"dataset.root={music}", *ONE)
        assert done.code == 0, done.err
        shares.append("All held-out tracks share an artist" in (done.folder / "report" / "report.md").read_text())
    assert shares == [True, False, False] and sorted(trained) == [0, 1, 2]


@pytest.mark.usefixtures("store_here")
def test_folds_that_could_not_be_logged_are_logged_with_the_artists_that_are_known_by_then(
    command: Command, on_music: tuple[str, ...], trained: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        fail(patch, after=4, times=10_000)
        assert command(train.main, "-m", *on_music, *ONE).code == 2
    root, own = parted(on_music)
    music = shutil.copytree(root, tmp_path / "elsewhere" / root.name)
    name_artists(music, {path.relative_to(music).as_posix(): "one" for path in music.rglob("*.wav")})
    done = command(train.main, "-m", *own, f"dataset.root={music}", *ONE)
    assert done.code == 0 and sorted(trained) == [0, 1, 2], done.err
    facts = load_tracks(done.files(done.parents[0])["tracks.csv"])
    assert len(facts) == 12 and {each["group"] for each in facts.values()} == {"0"}


@pytest.mark.usefixtures("store_here")
def test_a_finished_configurations_files_are_restored_if_its_folder_was_deleted(
    command: Command, on_music: tuple[str, ...], undisturbed: Table, trained: list[int]
) -> None:
    first = command(train.main, "-m", *on_music, *ONE)
    (parent,) = first.parents
    before = first.files(parent).keys()
    folder = Path(url2pathname(parent.info.artifact_uri.removeprefix("file://")))
    shutil.rmtree(folder)
    again = command(train.main, "-m", *on_music, *ONE)
    assert again.code == 0 and "Traceback" not in again.err and table(again) == undisturbed
    assert again.files(parent).keys() == before and sorted(trained) == [0, 1, 2]


@pytest.mark.usefixtures("store_here")
def test_a_configuration_that_lacks_folds_is_not_reported_and_resumes_with_the_missing_ones(
    command: Command, on_music: tuple[str, ...], undisturbed: Table, trained: list[int]
) -> None:
    first = command(train.main, *on_music, *ONE, "fold=1")
    (parent,) = first.parents
    assert (first.code, parent.info.status, trained) == (0, "SCHEDULED", [1])
    assert f"{TITLE}: 1 of 3 folds is done; other jobs, or the same command without fold=, train fold=0,2" in first.err
    none = command(report.main)
    lacking = f"no configuration has finished there; {TITLE} lacks folds, which the command that began it trains"
    assert none.code == 2 and lacking in none.err
    assert ended(fork(killed_in_training, "-m", *on_music, *ONE, "fold=1,2")) == -signal.SIGKILL
    done = command(train.main, "-m", *on_music, *ONE, "fold=0,1,2")
    assert trained == [1, 0, 2] and ": fold 1 reused (force=true retrains)" in done.err and len(ranking(done)) == 3
    assert [run.info.run_id for run in done.parents] == [parent.info.run_id]
    assert table(done) == undisturbed and open_runs(done) == []


def killed_in_training() -> None:
    """Let this process die when it is about to train."""
    ensembles.train_member = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment]


def test_jobs_of_one_configuration_train_side_by_side_and_each_fold_once(
    here: Path, on_music: tuple[str, ...], undisturbed: Table
) -> None:
    real = ensembles.train_member

    def meets_another(cfg: DictConfig, task: Any, fold: Any, place: int) -> Any:
        (here / f"fold {fold.index} {os.getpid()}").touch()
        wait_for(lambda: len(list(here.glob("fold *"))) > 1)  # which would be in vain if they took turns
        return real(cfg, task, fold, place)

    def prepare() -> None:
        ensembles.train_member = meets_another

    folds = ("fold=0", "fold=1", "fold=0", "fold=2")
    assert [ended(process) for process in [fork(prepare, *on_music, *ONE, fold) for fold in folds]] == [0, 0, 0, 0]
    done = Outcome(here, 0, "", "")
    assert len(list(here.glob("fold *"))) == 3 and len(done.parents) == 1
    assert open_runs(done) == [] and table(done) == undisturbed and not list(here.glob("mlruns/spool/*"))


@pytest.mark.usefixtures("store_here", "trained")
def test_a_command_says_that_another_one_has_deleted_its_fold(
    command: Command, on_music: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = spool.Spool.put

    def deleted(own: spool.Spool, *arguments: Any) -> None:
        real(own, *arguments)
        own.clear()  # as another one does that begins by `force=true`

    monkeypatch.setattr(spool.Spool, "put", deleted)
    done = command(train.main, *on_music, *ONE, "fold=1")
    assert done.code == 2 and done.err.splitlines()[-1] == (
        f"error: {TITLE}: fold=1 no longer exists: another command has restarted it (force=true), or its files "
        "are damaged; the same command trains it again"
    )


@pytest.mark.usefixtures("store_here")
def test_a_fold_on_its_own_is_a_task_of_its_own(command: Command, on_music: tuple[str, ...]) -> None:
    done = command(train.main, "-m", *on_music, *ONE, "fold=1", "alone=true")
    (parent,) = done.parents
    assert done.code == 0 and parent.info.status == "FINISHED" and len(done.children(parent)) == 1
    assert parent.data.params["fold"] == "1" and len(ranking(done)) == 3


@pytest.mark.slow
@pytest.mark.parametrize("comes_back", [True, False], ids=["away for a while", "gone for good"])
def test_a_server_that_goes_away_costs_nothing(
    command: Command, on_music: tuple[str, ...], undisturbed: Table, trained: list[int],
    monkeypatch: pytest.MonkeyPatch, here: Path, comes_back: bool,
) -> None:  # fmt: skip
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "5" if comes_back else "1")
    servers = [Server(here)]
    on_server = (*on_music, *ONE, f"tracking.uri={servers[0].uri}")
    real = outbox.Outbox._log

    def disturbed(outbox: Any, folder: Path) -> None:
        if not stopped:  # the first fold is about to be logged
            stopped.append(servers[0].stop())
            if comes_back:
                Timer(5, lambda: servers.append(Server(here, servers[0].port))).start()
        real(outbox, folder)

    stopped: list[None] = []
    monkeypatch.setattr(outbox.Outbox, "_log", disturbed)
    try:
        done = command(train.main, "-m", *on_server)
        if not comes_back:
            (line,) = [line for line in done.err.splitlines() if line.startswith("error: ")]
            assert done.code == 2 and servers[0].uri in line and "3 finished folds are kept in" in line
            assert "Traceback" not in done.err and len(list(here.glob("mlruns/spool/*/*/model.safetensors"))) == 3
            servers.append(Server(here, servers[0].port))
            done = command(train.main, "-m", *on_server)
            assert "3 of 3 folds reused" in done.err
        assert done.code == 0 and sorted(trained) == [0, 1, 2]
    finally:
        servers[-1].stop()
    assert table(OnServer(here, 0, "", "")) == undisturbed and not list(here.glob("mlruns/spool/*"))


@pytest.mark.slow
@pytest.mark.parametrize("room", [20, 200, 600, 1500, 4000], ids=lambda room: f"{room} KB of room")
def test_a_disk_that_fills_up_under_the_store_costs_nothing_but_time(
    command: Command, on_music: tuple[str, ...], undisturbed: Table, fresh_store: Path,
    small_disk: Callable[..., Path], here: Path, room: int,
) -> None:  # fmt: skip
    disk = small_disk(100_000)
    folder = shutil.copytree(fresh_store, disk / "mlruns")
    (here / "mlruns").symlink_to(folder)
    small_disk(room + sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) // 1024)
    done = command(train.main, "-m", *on_music, *ONE)
    assert done.code in (0, 2) and "Traceback" not in done.err
    if done.code:
        (line,) = [line for line in done.err.splitlines() if line.startswith("error: ")]
        assert str(disk) in line and ("full" in line or "no space" in line)
    small_disk(100_000)
    done = command(train.main, "-m", *on_music, *ONE)
    assert done.code == 0 and open_runs(done) == [] and table(done) == undisturbed
    assert not list(disk.rglob("*.partial")) and not list(disk.glob("mlruns/spool/*"))


class Server:
    """MLflow's own, on loopback, with all it has in a folder; nothing proxied, so that what it keeps can be read."""

    def __init__(self, folder: Path, port: int = 0) -> None:
        self.port = port or free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        store = f"sqlite:///{folder}/server.db"
        where = ("--backend-store-uri", store, "--default-artifact-root", (folder / "artifacts").as_uri())
        address = ("--host", "127.0.0.1", "--port", str(self.port), "--workers", "1", "--no-serve-artifacts")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", *where, *address],
            env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},  # eight processes that nobody needs
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        try:
            wait_for(self._answers, seconds=300)
        except AssertionError:
            self.stop()
            raise

    def _answers(self) -> bool:
        assert self._process.poll() is None, "the server has ended"
        with suppress(OSError):
            return bool(urlopen(f"{self.uri}/health", timeout=5).status == 200)
        return False

    def stop(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


class OnServer(Outcome):
    """What a server has stored."""

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(f"sqlite:///{self.folder}/server.db")


@pytest.mark.slow
def test_four_at_once_with_overlapping_grids_train_each_fold_once(
    here: Path, on_music: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    list_of_folds = here / "folds"
    real = ensembles.train_member

    def noted(cfg: DictConfig, task: Any, fold: Any, place: int) -> Any:
        with list_of_folds.open("a") as file:
            file.write(f"{cfg.features.kind} {cfg.batch_size} {fold.index}\n")
        return real(cfg, task, fold, place)

    monkeypatch.setattr(ensembles, "train_member", noted)
    small = [word for word in ONE if not word.startswith(("features", "batch_size"))]
    grids = [("mfcc,mel", "4,8"), ("mel,mfcc", "4"), ("mel", "8,4"), ("mfcc,mel", "8,4")]
    processes = [
        fork(lambda: None, "-m", *on_music, *small, f"features={kinds}", f"batch_size={sizes}", f"report_dir=r{place}")
        for place, (kinds, sizes) in enumerate(grids)
    ]
    assert [ended(process) for process in processes] == [0, 0, 0, 0]
    trained = list_of_folds.read_text().splitlines()
    assert len(trained) == len(set(trained)) == 12
    done = Outcome(here, 0, "", "")
    assert open_runs(done) == [] and len(table(done)) == 4 + 12 and len(done.parents) == 4
    assert all((here / f"r{place}" / "report.html").stat().st_size for place in range(4))
    assert not list(here.rglob("*.partial")) and not list(here.glob("mlruns/spool/*"))


@pytest.mark.slow
@pytest.mark.parametrize("way", [[], ["--interrupt"]], ids=["killed", "interrupted"])
def test_stopped_at_random_moments_it_ends_as_if_undisturbed(tmp_path: Path, way: list[str]) -> None:
    torture = [sys.executable, TORTURE, "--kills", "4", *way]
    done = subprocess.run(torture, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
