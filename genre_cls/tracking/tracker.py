"""Write runs to an MLflow store: a parent run per configuration, a child run per fold, and their locks."""

import logging
import os
import re
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from uuid import uuid4

from filelock import Timeout
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from genre_cls.configuration.provenance import command_id
from genre_cls.errors import UserError
from genre_cls.evaluation.predictions import Curves, FoldResult
from genre_cls.files import locked, place_named, sync, write_atomically
from genre_cls.processes.interrupts import came_of_ctrl_c
from genre_cls.tracking import database, naming
from genre_cls.tracking.artifacts import DAMAGED, Files
from genre_cls.tracking.connection import check_answers, mlflow_command
from genre_cls.tracking.stored_runs import COMMAND_IDS, FAILURES, StoredRuns, Texts, changed_metrics

log = logging.getLogger(__name__)

NOTE = "note"  # the tag with what a report must say of the data
DESCRIPTION = "mlflow.note.content"  # the tag that MLflow's pages show, and let users write
KEY = "resume_key"  # the tag that says which runs' folds are interchangeable
LOCK = "lock"  # the tag that names the lock that a live run's process holds
LAST_COMMAND_ID = "last_command_id"  # the tag with the id of the last command that worked on a run
LONGEST_NAME = 200  # bytes of a folder's name; file systems take 255
N_COMMAND_IDS = 20  # ids to keep in `COMMAND_IDS`
BATCH = 1000  # metrics that MLflow takes in one call


@dataclass(frozen=True)
class Earlier:
    """What earlier commands have stored of a configuration.

    Args:
        experiment_id: of the experiment that has, or will have, its run.
        run_id: of its run; None if there is none.
        folds: those that are done, by index.
        finished: whether the run has finished.
    """

    experiment_id: str
    run_id: str | None = None
    folds: Mapping[int, FoldResult] = field(default_factory=dict)
    finished: bool = False


class Tracker(StoredRuns):
    """A connection to an MLflow store, to write to it as well.

    Args:
        uri: of a tracking server or a database; None for the local store.
        folder: of the local store; `locks/` is in it for every store.

    Raises:
        UserError: no server answers, the database is damaged or locked, or the folder cannot hold a store.
    """

    @property
    def _locks(self) -> Path:
        return self._folder / "locks"

    def experiment(self, name: str, *, restore: bool = False) -> str:
        """Return the id of the experiment of this name, which is created if it is missing.

        Args:
            name: of the experiment.
            restore: whether to restore one that was deleted in MLflow; for those whose name users cannot choose.

        Raises:
            UserError: it was deleted.
        """
        location = (self._folder / "artifacts" / _folder_name(name)).as_uri() if self._is_local else None
        known = self._client.get_experiment_by_name(name)
        if not known:
            try:
                return self._client.create_experiment(name, artifact_location=location)
            except MlflowException:  # another process was faster, or it cannot be created
                known = self._client.get_experiment_by_name(name)
                if not known:
                    raise
        if known.lifecycle_stage != "active":
            if not restore:
                command = mlflow_command(self.uri, f"experiments restore -x {known.experiment_id}")
                remedy = f"start under another name (tracking.experiment=NAME), or restore it: {command}"
                raise UserError(f"experiment {name!r} was deleted in MLflow; {remedy}")
            self._client.restore_experiment(known.experiment_id)
        return known.experiment_id

    @contextmanager
    def claim(self, key: str, name: str, *, wait: bool = True) -> Iterator[dict[str, str]]:
        """Lock something for this process until it is done with it or dies: the system then releases the lock.

        The lock excludes all processes with the same `locks/`. Whoever gets it knows that nobody works under it, so
        open runs under it are a dead process's, and are closed as KILLED.

        Args:
            key: of what is locked.
            name: of it, for messages.
            wait: whether to wait for another process that holds the lock.

        Yields:
            Tags for the runs under the lock.

        Raises:
            Timeout: another process holds the lock, and `wait` is false.
        """
        with self.held([key], name, wait=wait):
            tags = {KEY: key, LOCK: f"{self._locks_id()}/{key}"}
            self._close_open(tags[LOCK])
            yield tags
            self._close_open(tags[LOCK])  # those that could not be closed while the store was away

    @contextmanager
    def held(self, keys: Sequence[str], name: str, *, wait: bool = True) -> Iterator[None]:
        """Lock several things as `claim` does, but without runs under them, so that the store is not needed.

        Args:
            keys: of what is locked, in the same order in every process, which prevents deadlock.
            name: of it, for messages.
            wait: whether to wait for another process that holds any of the locks.

        Raises:
            Timeout: another process holds a lock, and `wait` is false.
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
        """Close the runs that dead processes with the same `locks/` have left open, as KILLED."""
        here = self._locks_id()
        for place, _, key in {run.data.tags.get(LOCK, "").partition("/") for run in self._open_runs()}:
            if place == here:
                with suppress(Timeout), self.claim(key, "", wait=False):
                    pass

    def _open_runs(self) -> list[Run]:
        return self._search(self._ids(None), "attributes.status = 'RUNNING'")

    def _locks_id(self) -> str:
        """Return a random id of the folder of locks, for tags: runs on a server may hold locks in other folders."""
        self._locks.mkdir(parents=True, exist_ok=True)
        with locked(self._locks / "name.lock", str(self._locks)), (self._locks / "name").open("a+") as file:
            file.seek(0)
            name, _, inode = file.read().partition(" ")
            here = str(os.fstat(file.fileno()).st_ino)
            if inode != here:  # new, or a copy of the folder, whose locks other processes hold
                name = uuid4().hex
                file.truncate(0)
                file.write(f"{name} {here}")
            return name

    def earlier(self, experiment_id: str, key: str, *, force: bool) -> Earlier:
        """Return what is stored of a configuration; for the process that has claimed its key.

        Args:
            experiment_id: of the experiment that has its run.
            key: of the claim.
            force: whether to ignore what other commands than the present one have done.
        """
        parents = self._search([experiment_id], f"tags.kind = 'config' and tags.{KEY} = '{key}'")
        # An open run belongs to a process with other locks, and is left alone.
        closed = [run for run in parents if run.info.status != "RUNNING" and (_is_own(run) or not force)]
        if not closed:
            return Earlier(experiment_id)
        newest = max(closed, key=lambda run: run.info.start_time)
        folds = {fold.index: fold for child in self._children(newest) if (fold := self._complete_fold(child))}
        return Earlier(experiment_id, newest.info.run_id, folds, newest.info.status == "FINISHED")

    def _complete_fold(self, child: Run) -> FoldResult | None:
        """Load a fold from its run, which is closed as FAILED if its files are damaged."""
        try:
            fold = self.fold(child)
            if changed := changed_metrics(child, fold.scores):
                raise ValueError(f"{', '.join(changed)} differ from what was logged")
            return fold
        except (FileNotFoundError, MlflowException, *DAMAGED) as error:
            # Other failures of the disk, and a server's, do not mean that the fold is damaged, and are raised.
            if folder := database.local_path(child.info.artifact_uri):
                _check_reachable(folder.parents[1])
            elif isinstance(error, MlflowException):
                raise
            log.warning("%s is trained again, because its files are damaged: %s", child.info.run_name, error)
            self._client.set_terminated(child.info.run_id, "FAILED")
            return None

    def has_file(self, run_id: str, name: str) -> bool:
        """Return whether a run has an artifact of this name."""
        return name in (file.path for file in self._client.list_artifacts(run_id))

    def refresh(self, run_id: str, metrics: Mapping[str, float], files: Files) -> None:
        """Log a finished run's metrics if any is not stored as it is now, and those artifacts that are not.

        Args:
            run_id: of the run.
            metrics: final values by name.
            files: artifacts by file name.
        """
        run = self._client.get_run(run_id)
        place = database.local_path(self._artifacts_of(run))  # which may have been deleted
        folder = place or self.files(run, tuple(files))
        stored = {name: (folder / name).read_bytes() for name in files if (folder / name).exists()}
        new_files = {name: content for name, content in files.items() if stored.get(name) != content}
        new_metrics = metrics if changed_metrics(run, metrics) else {}  # all, as names depend on each other
        if place:
            place.mkdir(parents=True, exist_ok=True)
            for name, content in new_files.items():
                write_atomically(place / name, content)  # MLflow would overwrite the old file in place
            new_files = {}
        if new_files or new_metrics:
            OpenRun(self._client, run_id).log(new_metrics, new_files)

    def confirm(self, run_id: str) -> None:
        """Mark a configuration as part of the present command, so that the command's report includes it."""
        commands = self._client.get_run(run_id).data.tags.get(COMMAND_IDS, "").split()
        if (present := command_id()) and present not in commands:
            commands.append(present)
        tags = {naming.CONFIRMED: str(int(time.time() * 1000)), COMMAND_IDS: " ".join(commands[-N_COMMAND_IDS:])}
        self._client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])

    @contextmanager
    def run(
        self,
        experiment_id: str,
        name: str,
        tags: Texts,
        params: Texts,
        *,
        seconds: float = 0,
        run_id: str | None = None,
    ) -> Iterator["OpenRun"]:
        """Open a run; it ends as FINISHED or `OpenRun.status`, as FAILED on an exception, as KILLED on an interrupt.

        Args:
            experiment_id: as returned by `experiment`.
            name: shown in MLflow.
            tags: of the run.
            params: of the run; a run that is continued gets those that it lacks.
            seconds: how long its work took, s, shown as its duration; models trained in parallel add up.
            run_id: of a run to continue; None for a new one.
        """
        began = int((time.time() - seconds) * 1000)
        tags = dict(tags) | {LAST_COMMAND_ID: command_id()}
        described = tags | {DESCRIPTION: tags.get(NOTE, "")}
        if run_id:
            stored = self._client.get_run(run_id)
        else:
            stored = self._client.create_run(experiment_id, began, described, name)
        run = OpenRun(self._client, stored.info.run_id)
        try:
            self._continue(stored, tags, params)
            yield run
            _sync_artifacts(stored.info.artifact_uri)
        except BaseException as error:
            with suppress(*FAILURES, HTTPException):  # the store may be what has failed
                check_answers(self.uri, timeout=3)
                self._client.set_terminated(run.run_id, "KILLED" if came_of_ctrl_c(error) else "FAILED")
            raise
        self._client.set_terminated(run.run_id, run.status)

    def _continue(self, run: Run, tags: Texts, params: Texts) -> None:
        """Give a run the tags and params that it lacks, and open it if it has ended."""
        legal = [(naming.legal(key), value) for key, value in params.items()]
        new = [Param(key, value) for key, value in legal if key not in run.data.params]
        changed = [RunTag(key, value) for key, value in tags.items() if run.data.tags.get(key) != value]
        self._client.log_batch(run.info.run_id, params=new, tags=changed)
        if run.info.status != "RUNNING":
            self._client.update_run(run.info.run_id, "RUNNING")


class OpenRun:
    """An open run.

    Args:
        client: connection to the store.
        run_id: of the run.

    Attributes:
        status: that it ends with unless something goes wrong.
    """

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self._client, self.run_id = client, run_id
        self.status = "FINISHED"

    def log(self, metrics: Mapping[str, float], files: Files, curves: Curves | None = None) -> None:
        """Log metrics, curves and artifacts, in as few calls as MLflow allows.

        Args:
            metrics: final values by name.
            files: artifacts by file name.
            curves: one value per epoch by name; the first epoch is step 1.
        """
        now = int(time.time() * 1000)
        names = naming.legal_names(metrics)
        points = [Metric(names[name], value, now, 0) for name, value in metrics.items()]
        for name, curve in (curves or {}).items():
            points += [Metric(naming.legal(name), value, now, epoch) for epoch, value in enumerate(curve, 1)]
        for batch in (points[i : i + BATCH] for i in range(0, len(points), BATCH)):
            self._client.log_batch(self.run_id, metrics=batch)
        with tempfile.TemporaryDirectory() as folder:
            with place_named(folder):
                for name, content in files.items():
                    (Path(folder) / name).write_bytes(content)
            self._client.log_artifacts(self.run_id, folder)


def _sync_artifacts(artifacts: str) -> None:
    """Sync a run's local artifacts to the disk, before the run is called finished."""
    folder = database.local_path(artifacts)
    if folder and folder.is_dir():  # a run without artifacts has none
        sync(*folder.iterdir(), folder, *folder.parents[:3])


def _check_reachable(folder: Path) -> None:
    """Raise if the folder of an experiment is missing: machines that share a database may not share its files."""
    if not folder.is_dir():
        raise UserError(
            f"{folder}: missing, though this store keeps its folds' files there; continue on the machine that "
            "has it, let machines share a server (tracking=server), or train all folds again: force=true"
        )


def _is_own(run: Run) -> bool:
    """Whether the present command has worked on a run."""
    present = command_id()
    return bool(present) and run.data.tags.get(LAST_COMMAND_ID) == present


def _folder_name(experiment: str) -> str:
    """An experiment's folder; long names may share one, which does no harm, as each run has its own in it."""
    return re.sub(r"^\.|[^\w.-]", "_", experiment).encode()[:LONGEST_NAME].decode(errors="ignore")
