"""What is kept in MLflow: a parent run for each configuration, a child run for each fold, and reading them back."""

import logging
import os
import re
import shutil
import tempfile
import time
import weakref
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Self
from uuid import uuid4

import numpy as np
from filelock import FileLock, Timeout
from mlflow.artifacts import download_artifacts
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from genre_cls import database, naming
from genre_cls.artifacts import DAMAGED, RESULTS, SUMMARIES, Files, load_fold, load_genre_means, load_tracks
from genre_cls.connection import connect, store_uri
from genre_cls.errors import UserError, in_one_line
from genre_cls.files import disk_failure, expanduser, sync
from genre_cls.locks import locked
from genre_cls.scoring import ConfigResult, FoldResult, GenreMeans

log = logging.getLogger(__name__)

PARENT = "mlflow.parentRunId"  # the tag by which MLflow's pages nest runs
NOTE = "mlflow.note.content"  # the tag that they show as a run's description
KEY = "resume_key"  # the tag that says whose folds may stand for each other's
LOCK = "lock"  # the tag that names the lock that a living run's process holds
COUNTED_BY = "sweeps"  # the tag with the ids of the last commands that count a configuration in
LAST_COMMAND = "at_work"  # the tag with the id of the last command that worked on a run
COMMAND_ID = "GENRE_CLS_SWEEP"  # the environment variable with the random id of the present command
WAITING = "SCHEDULED"  # the status of a configuration that waits for folds which other jobs train
N_COMMANDS = 20  # whose ids are kept
BATCH = 1000  # metrics that MLflow takes in one call

FAILURES = (MlflowException, OSError)  # what comes out of MLflow if a server, a disk or a database fails
STORE_FAILED = ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED")

Texts = Mapping[str, str]


@dataclass(frozen=True)
class Comparison:
    """Configurations that were judged on the same tracks in the same folds, so that they can be compared.

    Args:
        tags: of the configuration that was found finished last.
        commands: that have last written to one of them, with how many they have, the one with most first.
        results: one a configuration.
        means: average features per genre, one a kind of feature.
        tracks: what is known of each track, by its id: `artist`, `fault` and `path`, empty where unknown.
        other_splits: for some of the results, by their place among them, what the same configuration scored on the same
            dataset under other splits, by the splits' names; those of which a fold is gone are left out.
    """

    tags: Mapping[str, str]
    commands: Mapping[str, int]
    results: tuple[ConfigResult, ...]
    means: tuple[GenreMeans, ...]
    tracks: Mapping[str, Mapping[str, str]]
    other_splits: Mapping[int, Mapping[str, ConfigResult]]


@dataclass(frozen=True)
class Earlier:
    """What earlier commands have left of a configuration.

    Args:
        experiment_id: where its run is, or will be.
        run_id: of its run; None if there is none.
        folds: those that are done, by index.
        finished: whether the run was brought to its end.
    """

    experiment_id: str
    run_id: str | None = None
    folds: tuple[FoldResult, ...] = ()
    finished: bool = False


class Tracker:
    """A connection to an MLflow store.

    Args:
        uri: of a tracking server or a database; empty for the local store.
        folder: the local store's: `mlflow.db` and `artifacts/` are in it. `locks/` is in it for every store.

    Raises:
        UserError: no server answers, the database is damaged or locked, or the folder cannot be one.
    """

    def __init__(self, uri: str, folder: Path) -> None:
        self._folder = expanduser(folder).resolve()
        self._artifacts = None if uri else self._folder / "artifacts"
        self._locks = self._folder / "locks"
        self.uri = store_uri(uri, folder)
        self._client = connect(uri, folder)

    @classmethod
    def at(cls, place: str) -> Self:
        """A connection to the store in a folder, which is made if it is not there, or to the server at an address."""
        return cls(place, Path()) if "://" in place else cls("", Path(place))

    def experiment(self, name: str, *, back: bool = False) -> str:
        """Id of the experiment of this name, which is made if it is not there.

        Args:
            name: of the experiment.
            back: whether one that was deleted in MLflow comes back, as its name cannot be chosen.

        Raises:
            UserError: it was deleted.
        """
        location = (self._artifacts / re.sub(r"[^\w.-]", "_", name)).as_uri() if self._artifacts else None
        known = self._client.get_experiment_by_name(name)
        if not known:
            try:
                return str(self._client.create_experiment(name, artifact_location=location))
            except MlflowException:  # another process was faster, or it really cannot be made
                known = self._client.get_experiment_by_name(name)
                if not known:
                    raise
        if known.lifecycle_stage != "active" and back:
            self._client.restore_experiment(known.experiment_id)
        elif known.lifecycle_stage != "active":
            raise UserError(f"experiment {name!r} was deleted in MLflow; name another one: tracking.experiment=NAME")
        return str(known.experiment_id)

    @contextmanager
    def claim(self, key: str, name: str, *, wait: bool = True) -> Iterator[dict[str, str]]:
        """Keep something to this process until it is done with it, or dead: the system then releases the lock.

        It holds against all processes with the same `locks/`. Whoever gets the lock knows that nobody works under it,
        so runs under it that are still open are a dead process's, and are closed as KILLED.

        Args:
            key: of what is claimed.
            name: of it, in words.
            wait: whether to wait for another process that has it.

        Yields:
            Tags for the runs under the claim.

        Raises:
            Timeout: another process has it, and that is not waited for.
        """
        with self.held([key], name, wait=wait):
            tags = {KEY: key, LOCK: f"{self._place()}/{key}"}
            self._close_open(tags[LOCK])
            yield tags
            self._close_open(tags[LOCK])  # what could not be closed while the store was away

    @contextmanager
    def held(self, keys: Sequence[str], name: str, *, wait: bool = True) -> Iterator[None]:
        """Keep some things to this process as `claim` does, without runs under them, so that no store is asked.

        Args:
            keys: of what is kept; whoever wants several has to name them in the same order.
            name: of it, in words.
            wait: whether to wait for another process that has any of it.

        Raises:
            Timeout: another process has it, and that is not waited for.
        """
        with ExitStack() as locks:
            for key in keys:
                locks.enter_context(locked(self._locks / f"{key}.lock", name, wait=wait))
            yield

    def _close_open(self, lock: str) -> None:
        for run in self._open_runs():
            if run.data.tags.get(LOCK) == lock:
                self._client.set_terminated(run.info.run_id, "KILLED")

    def close_dead(self) -> None:
        """Close as KILLED what dead processes with the same `locks/` have left open."""
        here = self._place()
        for place, _, key in {run.data.tags.get(LOCK, "").partition("/") for run in self._open_runs()}:
            if place == here:
                with suppress(Timeout), self.claim(key, "", wait=False):
                    pass

    @contextmanager
    def failures_in_one_line(self) -> Iterator[None]:
        """Tell in one line what the store, not the program, has failed in.

        Raises:
            UserError: a server that is away, a disk that is full or read-only, a damaged database.
        """
        try:
            yield
        except OSError as error:
            raise UserError(disk_failure(self._folder, error) + self._what_is_kept()) from error
        except MlflowException as error:
            if error.error_code not in STORE_FAILED:
                raise
            raise UserError(database.what_failed(self.uri, error) + self._what_is_kept()) from error

    def _what_is_kept(self) -> str:
        kept = sum(path.name.isdecimal() for path in self._folder.glob("spool/*/*"))
        where, way = self._folder / "spool", "the same command (without force=true) logs them"
        return f"; {kept} finished folds are kept in {where}, {way}" if kept else ""

    def _open_runs(self) -> list[Run]:
        ids = [experiment.experiment_id for experiment in self._client.search_experiments()]
        return self._search(ids, "attributes.status = 'RUNNING'")

    def _place(self) -> str:
        """A random id of this folder of locks, for tags: on a server, runs may hold locks in other folders."""
        self._locks.mkdir(parents=True, exist_ok=True)
        with FileLock(self._locks / "name.lock"), (self._locks / "name").open("a+") as file:
            file.seek(0)
            name, _, inode = file.read().partition(" ")
            here = str(os.fstat(file.fileno()).st_ino)
            if inode != here:  # new, or copied with the folder, say to another machine, whose processes are not its
                name = uuid4().hex
                file.truncate(0)
                file.write(f"{name} {here}")
            return name

    def earlier(self, experiment_id: str, key: str, *, anew: bool = False) -> Earlier:
        """What there is of a configuration; for the process that has claimed its key.

        Args:
            experiment_id: where its run is.
            key: that of its claim.
            anew: whether only that counts which the present command has done.
        """
        parents = self._search([experiment_id], f"tags.kind = 'config' and tags.{KEY} = '{key}'")
        # One that is open belongs to a process with other locks, which is left alone.
        closed = [run for run in parents if run.info.status != "RUNNING" and not (anew and not _is_mine(run))]
        if not closed:
            return Earlier(experiment_id)
        newest = max(closed, key=lambda run: run.info.start_time)
        folds = [fold for child in self._children(newest) if (fold := self._complete_fold(child))]
        return Earlier(experiment_id, newest.info.run_id, _by_index(folds), newest.info.status == "FINISHED")

    def _complete_fold(self, child: Run) -> FoldResult | None:
        """A fold from its run, which is closed as FAILED if somebody has damaged it."""
        try:
            fold = self._fold(child)
            if changed := _changed(child, fold.scores):
                raise ValueError(f"{', '.join(changed)} differ from what was logged")
            return fold
        except (FileNotFoundError, MlflowException, *DAMAGED) as error:
            # Any other failure of the disk, and one of a server, says nothing of the fold, and goes on.
            if folder := database.local_path(child.info.artifact_uri):
                _check_within_reach(folder.parents[1])
            elif isinstance(error, MlflowException):
                raise
            log.warning("%s is trained anew, as its files are damaged: %s", child.info.run_name, error)
            self._client.set_terminated(child.info.run_id, "FAILED")
            return None

    def confirm(self, run_id: str) -> None:
        """Note that a configuration is as this command wants it, so that its report counts it in."""
        commands = self._client.get_run(run_id).data.tags.get(COUNTED_BY, "").split()
        if (present := os.environ.get(COMMAND_ID)) and present not in commands:
            commands.append(present)
        tags = {naming.CONFIRMED: str(int(time.time() * 1000)), COUNTED_BY: " ".join(commands[-N_COMMANDS:])}
        self._client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])

    @contextmanager
    def run(
        self, experiment_id: str, name: str, tags: Texts, params: Texts, *, lasted: float = 0, again: str | None = None
    ) -> Iterator["OpenRun"]:
        """Open a run; it ends as FINISHED or `OpenRun.status`, as FAILED on an exception, as KILLED on an interrupt.

        Args:
            experiment_id: what `experiment` gave.
            name: shown in MLflow.
            tags: of the run.
            params: of the run; of one that is continued, those that it lacks are added.
            lasted: what its work took, s, shown as its duration; of models side by side it is more than has passed.
            again: id of a run to continue; None for a new one.
        """
        began, tags = int((time.time() - lasted) * 1000), dict(tags) | {LAST_COMMAND: os.environ.get(COMMAND_ID, "")}
        run_id = again or self._client.create_run(experiment_id, began, tags, name).info.run_id
        try:
            artifacts = self._describe(run_id, tags, params)
            run = OpenRun(self._client, run_id)
            yield run
            _settle(artifacts)
        except BaseException as error:
            with suppress(*FAILURES):  # the store may be what has failed
                self._client.set_terminated(run_id, "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
            raise
        self._client.set_terminated(run_id, run.status)

    def _describe(self, run_id: str, tags: Texts, params: Texts) -> str:
        """Write down what a run is, and say where its artifacts are."""
        run = self._client.get_run(run_id)
        legal = [(naming.legal(key), value) for key, value in params.items()]
        new = [Param(key, value) for key, value in legal if key not in run.data.params]
        changed = [RunTag(key, value) for key, value in tags.items() if run.data.tags.get(key) != value]
        self._client.log_batch(run_id, params=new, tags=changed)
        self._client.update_run(run_id, "RUNNING")
        return str(run.info.artifact_uri)

    def newest(self, experiment: str | None = None, *, sweep: str | None = None) -> Comparison | None:
        """The configuration that finished last and all that can be compared with it; None if none has finished.

        Args:
            experiment: name of the experiment to look in; None for all.
            sweep: id of the command that must have confirmed the last one, whatever the clock says; None for any.
        """
        parents = self._finished(experiment)
        if sweep:  # its own come first, though the clock may have been put back
            parents.sort(key=lambda run: _is_of(run, sweep), reverse=True)
        if not parents or (sweep and not _is_of(parents[0], sweep)):
            return None
        comparable = naming.comparable(parents)
        names = naming.names(comparable)
        found = [(run, *loaded) for run in comparable if (loaded := self._load(run, names[run.info.run_id]))]
        if not found:
            return None
        ended = datetime.fromtimestamp(max(run.info.end_time for run, *_ in found) / 1000)
        tags = parents[0].data.tags | {"finished": ended.isoformat(" ", "seconds")}
        commands = Counter(filter(None, (run.data.tags.get("command") for run, *_ in found)))
        other_splits = {place: self._other_splits(run, parents) for place, (run, *_) in enumerate(found)}
        means, tracks = _facts([folder for *_, folder in found])
        results = tuple(result for _, result, _ in found)
        return Comparison(tags, dict(commands.most_common()), results, means, tracks, other_splits)

    def best(self) -> str | None:
        """Id of the configuration with the best mean accuracy among those that `newest` compares, of true genres."""
        runs = naming.comparable([run for run in self._finished(None) if not _is_shuffled(run)])
        scores = ("accuracy_mean", "macro_f1_mean")  # the second decides between equals, as in the ranking
        best = max(runs, key=lambda run: [run.data.metrics.get(score, 0) for score in scores], default=None)
        return best.info.run_id if best else None

    def model_files(self, run_id: str) -> list[Path]:
        """The saved models of a run: of all folds of a configuration, or of one fold.

        Raises:
            UserError: there is no such run, it is none of these, or a file is no longer there.
        """
        with self._run_failures_in_one_line(run_id):
            folds = self._folds(run_id)
        with self._run_failures_in_one_line(run_id, "if it was deleted, its training with force=true makes it anew"):
            return [self._file(fold, "model.safetensors") for fold in folds]

    def temperature(self, run_id: str) -> float:
        """The temperature fitted to the held-out tracks of all folds that are there (`calibration.best_temperature`).

        Args:
            run_id: of the configuration, or of one of its folds.

        Raises:
            UserError: there is no such run, or a file is no longer there or damaged.
        """
        with self._run_failures_in_one_line(run_id):
            parent = self._parent(run_id)
            if "temperature" in parent.data.metrics:
                return float(parent.data.metrics["temperature"])
            # Folds are missing, so nothing of the whole is logged.
            folds = _by_index([self._fold(fold) for fold in self._children(parent)])
            return ConfigResult({}, folds, 0).temperature if folds else 1.0

    def predictions_of(self, run_id: str) -> tuple[tuple[FoldResult, ...], Mapping[str, Texts]]:
        """What a run has said of the tracks that it was judged by, and, once all are, what is known of each, by its id.

        Args:
            run_id: of a configuration, or of one fold.

        Raises:
            UserError: there is no such run, it is none of these, or a file is no longer there or damaged.
        """
        with self._run_failures_in_one_line(run_id):
            folds = self._folds(run_id)
            parent = self._parent(run_id)
            whole = parent.info.status == "FINISHED"  # before, nothing is logged of the tracks
            tracks = load_tracks(self._file(parent, "tracks.csv")) if whole else {}
            return _by_index([self._fold(fold) for fold in folds]), tracks

    def report(self) -> str | None:
        """The page of the newest report; None if there is none."""
        ids = [experiment.experiment_id for experiment in self._client.search_experiments()]
        reports = self._search(ids, "tags.kind = 'report' and attributes.status = 'FINISHED'")
        return self._file(reports[0], "report.html").read_text(encoding="utf-8") if reports else None

    def _folds(self, run_id: str) -> list[Run]:
        """The runs of a configuration's folds that have finished, or of the one fold that it is."""
        run = self._client.get_run(run_id)
        folds = self._children(run) or ([run] if PARENT in run.data.tags else [])
        if not folds:
            raise UserError(f"run {run_id} in {self.uri}: has no folds that have finished, and is none itself")
        return folds

    def _parent(self, run_id: str) -> Run:
        """The run of the configuration that a run is one of the folds of, or is."""
        run = self._client.get_run(run_id)
        return self._client.get_run(run.data.tags[PARENT]) if PARENT in run.data.tags else run

    @contextmanager
    def _run_failures_in_one_line(self, run_id: str, *hints: str) -> Iterator[None]:
        """Tell in one line what is wrong with a run, and what may help."""
        try:
            yield
        except (MlflowException, OSError, *DAMAGED) as error:
            raise UserError("; ".join((f"run {run_id} in {self.uri}: {error}", *hints))) from error

    def _finished(self, experiment: str | None) -> list[Run]:
        """The runs of configurations that have finished, newest first."""
        ids = [e.experiment_id for e in self._client.search_experiments() if experiment in (None, e.name)]
        runs = self._search(ids, "tags.kind = 'config' and attributes.status = 'FINISHED'")
        return sorted(runs, key=naming.moment, reverse=True)

    def _other_splits(self, run: Run, parents: Sequence[Run]) -> dict[str, ConfigResult]:
        """What the same configuration last scored by the same code on the same dataset under other splits."""
        others = naming.under_other_splits(run, parents)
        loaded = {folds: (other, self._load(other, naming.named(other))) for folds, other in others.items()}
        return {folds: found[0] for folds, (other, found) in loaded.items() if found and _is_complete(other, found[0])}

    def _search(self, experiment_ids: list[str], query: str) -> list[Run]:
        newest_first = ["attributes.end_time DESC"]
        return list(self._client.search_runs(experiment_ids, query, order_by=newest_first, max_results=5000))

    def _load(self, parent: Run, named: Texts) -> tuple[ConfigResult, Path] | None:
        """A configuration with its folds whose runs are there, and its own files; None if a file is gone.

        Args:
            parent: its run.
            named: what it is named by.
        """
        try:
            folds = _by_index([self._fold(child) for child in self._children(parent)])
            if not folds:
                return None
            n_parameters = int(parent.data.params["n_parameters"])
            result, folder = ConfigResult(named, folds, n_parameters), self._files(parent, SUMMARIES)
            figures = result.summary
        except (*FAILURES, *DAMAGED) as error:
            log.warning("left out %s: %s", parent.info.run_name, in_one_line(error))
            return None
        if changed := _changed(parent, figures):
            log.warning("%s: %s differ from what was logged", parent.info.run_name, ", ".join(changed))
        return result, folder

    def _children(self, parent: Run) -> list[Run]:
        query = f"tags.`{PARENT}` = '{parent.info.run_id}' and attributes.status = 'FINISHED'"
        return self._search([parent.info.experiment_id], query)

    def _fold(self, run: Run) -> FoldResult:
        return load_fold(self._files(run, RESULTS))

    def _files(self, run: Run, names: Sequence[str]) -> Path:
        """Return the folder of a run's artifacts; of a server's, only the named ones that exist are downloaded."""
        if database.local_path(run.info.artifact_uri):
            return self._fetch(run.info.artifact_uri)
        folder = self._new_folder()
        for name in (file.path for file in self._client.list_artifacts(run.info.run_id)):
            if name in names:
                self._fetch(f"{run.info.artifact_uri}/{name}", folder)
        return Path(folder)

    def _file(self, run: Run, name: str) -> Path:
        folder = None if database.local_path(run.info.artifact_uri) else self._new_folder()
        return self._fetch(f"{run.info.artifact_uri}/{name}", folder)

    def _fetch(self, artifact: str, folder: str | None = None) -> Path:
        """An artifact, or a folder of them, in a folder; None leaves what is on this machine where it is."""
        return Path(download_artifacts(artifact_uri=artifact, tracking_uri=self.uri, dst_path=folder))

    def _new_folder(self) -> str:
        """A folder for what a server keeps; it goes with this connection."""
        folder = tempfile.mkdtemp(prefix="genre_cls-")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        return folder


class OpenRun:
    """A run under way.

    Args:
        client: connection to the store.
        run_id: of the run.

    Attributes:
        status: the one that it ends with if nothing goes wrong.
    """

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self._client, self.run_id = client, run_id
        self.status = "FINISHED"

    def log(self, metrics: Mapping[str, float], curves: Mapping[str, Sequence[float]], files: Files) -> None:
        """Write numbers, numbers per epoch and artifacts, in as few calls as MLflow allows.

        Args:
            metrics: final values.
            curves: one value an epoch, the first epoch is step 1.
            files: artifacts.
        """
        now = int(time.time() * 1000)
        points = [Metric(naming.legal(name), value, now, 0) for name, value in metrics.items()]
        for name, curve in curves.items():
            points += [Metric(naming.legal(name), value, now, epoch) for epoch, value in enumerate(curve, 1)]
        for batch in (points[i : i + BATCH] for i in range(0, len(points), BATCH)):
            self._client.log_batch(self.run_id, metrics=batch)
        with tempfile.TemporaryDirectory() as folder:
            for name, content in files.items():
                (Path(folder) / name).write_bytes(content)
            self._client.log_artifacts(self.run_id, folder)


def _facts(folders: Sequence[Path]) -> tuple[tuple[GenreMeans, ...], dict[str, dict[str, str]]]:
    """Average features, one a kind, and what is known of the tracks, from the files of some configurations."""
    means: dict[str, GenreMeans] = {}
    tracks: dict[str, dict[str, str]] = {}
    for folder in folders:
        try:
            means |= {mean.kind: mean for mean in map(load_genre_means, folder.glob("genre_means_*.npz"))}
            tracks |= {track: facts for path in folder.glob("tracks.csv") for track, facts in load_tracks(path).items()}
        except DAMAGED as error:
            log.warning("%s: average features or facts of tracks are damaged: %s", folder, in_one_line(error))
    return tuple(means.values()), tracks


def _changed(run: Run, figures: Mapping[str, float]) -> list[str]:
    """Names of the figures that are not what was logged."""
    legal = {name: naming.legal(name) for name in figures}
    sharing = Counter(legal.values())
    logged = {name: run.data.metrics.get(own, figures[name]) for name, own in legal.items() if sharing[own] == 1}
    return [name for name, value in logged.items() if not np.isclose(value, figures[name])]


def _is_complete(run: Run, result: ConfigResult) -> bool:
    """Whether all folds of a run are there still: what they took adds up to what was logged."""
    seconds = sum(fold.seconds for fold in result.folds)
    return bool(np.isclose(seconds, run.data.metrics.get("seconds", seconds)))


def _by_index(folds: Sequence[FoldResult]) -> tuple[FoldResult, ...]:
    """In order, each once."""
    return tuple(fold for _, fold in sorted({fold.index: fold for fold in folds}.items()))


def _is_of(run: Run, sweep: str) -> bool:
    return sweep in run.data.tags.get(COUNTED_BY, "").split()


def _is_shuffled(run: Run) -> bool:
    """Whether it has learned genres that were dealt at random, which is no model to use."""
    return bool(run.data.params.get("shuffle_genres") == "True")


def _settle(artifacts: str) -> None:
    """Have the disk itself hold a run's artifacts before it is called finished, unless they are a server's."""
    folder = database.local_path(artifacts)
    if folder and folder.is_dir():  # of a run without artifacts there is none
        sync(*folder.iterdir(), folder, *folder.parents[:3])


def _check_within_reach(folder: Path) -> None:
    """Hold that an experiment's files may be missed here: of a database that machines share they are on one of them."""
    if not folder.is_dir():
        raise UserError(
            f"{folder}: no such folder, in which this store has the files of its folds; go on on the machine that has "
            "it, let machines share a server (tracking=server), or train all anew: force=true"
        )


def _is_mine(run: Run) -> bool:
    """Whether a run is the present command's work."""
    present = os.environ.get(COMMAND_ID)
    return bool(present) and run.data.tags.get(LAST_COMMAND) == present
