"""Read runs back from an MLflow store: configurations, folds with their predictions, saved models, the report."""

import re
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Self, TypeVar

import numpy as np
from mlflow.artifacts import download_artifacts
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.store.entities import PagedList
from requests import RequestException

from genre_cls.errors import UserError
from genre_cls.evaluation.predictions import FoldResult
from genre_cls.evaluation.scoring import ConfigResult
from genre_cls.files import disk_failure, expanduser
from genre_cls.tracking import database, naming
from genre_cls.tracking.artifacts import DAMAGED, MODEL, REPORT, RESULTS, TRACKS, load_fold, load_tracks
from genre_cls.tracking.connection import connect, server_failed, what_failed

PARENT = "mlflow.parentRunId"  # the tag by which MLflow's pages nest runs
WAITING = "SCHEDULED"  # the status of a configuration that waits for folds that other jobs train
FOLDS = "tags.kind = 'fold' and attributes.status = 'FINISHED'"  # the query for all folds that are done
PAGE_SIZE = 5000  # runs or experiments that a store is asked for at once; MLflow gives 50,000 at most
COMMAND_IDS = "command_ids"  # the tag with the ids of the last commands that included a configuration

FAILURES = (MlflowException, OSError)  # what MLflow raises if a server, a disk or a database fails
STORE_FAILED = ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED")
GONE = "Current state is deleted|No Experiment with id|Run with id=.* not found"  # MLflow's words for what was deleted

Texts = Mapping[str, str]
Item = TypeVar("Item")


class StoredRuns:
    """A connection to an MLflow store, to read from it.

    Args:
        uri: of a tracking server or a database; None for the local store.
        folder: of the local store, which has `mlflow.db` and `artifacts/` in it; made if it is missing.

    Raises:
        UserError: no server answers, the database is damaged or locked, or the folder cannot hold a store.
    """

    def __init__(self, uri: str | None, folder: str | Path) -> None:
        self._folder, self._is_local = expanduser(folder).resolve(), not uri
        self._client = connect(uri, folder)
        self.uri: str = self._client.tracking_uri

    @classmethod
    def at(cls, place: str) -> Self:
        """Connect to the store in a folder, which is made if it is missing, or to the server at an address."""
        return cls(place, "") if "://" in place else cls(None, place)

    @contextmanager
    def failures_in_one_line(self) -> Iterator[None]:
        """Turn failures of the store, not of the program, into one line.

        Raises:
            UserError: a server that is away, a disk that is full or read-only, a damaged database; a run or experiment
                that was deleted in MLflow while it was used.
        """
        try:
            yield
        except MlflowException as error:
            if re.search(GONE, str(error)):
                reason = f"tracking.uri={self.uri}: {error}; run the command again"
            elif error.error_code in STORE_FAILED:
                reason = what_failed(self.uri, error)
            else:
                raise
            raise UserError(reason + self._spooled_folds()) from error
        except RequestException as error:  # an OSError, but of a server that keeps the files
            raise UserError(server_failed(self.uri, error) + self._spooled_folds()) from error
        except OSError as error:
            raise UserError(disk_failure(self._folder, error) + self._spooled_folds()) from error

    def _spooled_folds(self) -> str:
        n_folds = sum(path.name.isdecimal() for path in self._folder.glob("spool/*/*"))
        are, them = (f"{n_folds} finished folds are", "them") if n_folds > 1 else ("a finished fold is", "it")
        hint = f"the same training command (without force=true) logs {them}"
        return f"; {are} kept in {self._folder / 'spool'}, {hint}" if n_folds else ""

    def ended(self, experiment: str | None) -> list[Run]:
        """Return the runs of configurations that have finished, whatever became of their tags or files.

        Args:
            experiment: name of the experiment to look in; None for all.
        """
        return self._search(self._ids(experiment), "tags.kind = 'config' and attributes.status = 'FINISHED'")

    def folds_in(self, experiment_id: str) -> dict[str, list[Run]]:
        """Return the runs of an experiment's finished folds, each fold once, by the id of their configuration's run."""
        folds: dict[str, list[Run]] = {}
        for run in self._search([experiment_id], FOLDS):
            folds.setdefault(run.data.tags.get(PARENT, ""), []).append(run)
        return {run_id: _each_once(runs) for run_id, runs in folds.items()}

    def load(self, folds: Sequence[Run]) -> tuple[FoldResult, ...]:
        """Return what the runs of a configuration's folds hold, by index.

        Raises:
            OSError: or another of `FAILURES` or `artifacts.DAMAGED`, for a file that is missing or damaged.
        """
        by_index = {fold.index: fold for fold in map(self.fold, folds)}
        return tuple(by_index[index] for index in sorted(by_index))

    def fold(self, run: Run) -> FoldResult:
        """Return what a fold's run holds, or fail as `load` does."""
        return load_fold(self.files(run, RESULTS))

    def files(self, run: Run, names: Sequence[str]) -> Path:
        """Return the folder of a run's artifacts; of a server's, only the named ones that exist are downloaded."""
        artifacts = self._artifacts_of(run)
        if database.local_path(artifacts):
            return self._fetch(artifacts)
        folder = self._new_folder()
        for name in (file.path for file in self._client.list_artifacts(run.info.run_id)):
            if name in names:
                self._fetch(f"{artifacts}/{name}", folder)
        return Path(folder)

    def elsewhere(self) -> str:
        """Return the names of the experiments in which configurations have finished; empty if there are none."""
        places = {run.info.experiment_id for run in self.ended(None)}
        names = sorted(self._client.get_experiment(place).name for place in places)
        return ", ".join(map(repr, names))

    def incomplete(self, experiment: str | None) -> list[str]:
        """Return the titles of configurations that lack folds: stopped, at work, or waiting for other jobs.

        The one that began last comes first.

        Args:
            experiment: name of the experiment to look in; None for all.
        """
        runs = self._search(self._ids(experiment), "tags.kind = 'config' and attributes.status != 'FINISHED'")
        lacking = [run.info for run in runs if run.info.status in (WAITING, "KILLED", "RUNNING")]  # at work, or dead
        return [info.run_name for info in sorted(lacking, key=lambda info: info.start_time, reverse=True)]

    def model_files(self, run_id: str) -> list[Path]:
        """Return the saved models of a run: of all folds of a configuration, or of one fold.

        Raises:
            UserError: there is no such run, it is neither of these, or a file is missing.
        """
        with self._run_failures_in_one_line(run_id):
            folds = self._folds(run_id)
        with self._run_failures_in_one_line(run_id, "if it was deleted, train it again with force=true"):
            return [self._file(fold, MODEL) for fold in folds]

    def temperature(self, run_id: str) -> float:
        """Return the temperature fitted to the held-out tracks of all stored folds (`calibration.best_temperature`).

        Args:
            run_id: of the configuration, or of one of its folds.

        Raises:
            UserError: there is no such run, or a file is missing or damaged.
        """
        with self._run_failures_in_one_line(run_id):
            parent = self._parent(run_id)
            if "temperature" in parent.data.metrics:
                return parent.data.metrics["temperature"]
            # Folds are missing, so nothing was logged for the whole configuration.
            folds = self.load(self._children(parent))
            return ConfigResult({}, folds, 0).temperature if folds else 1.0

    def predictions_of(self, run_id: str) -> tuple[tuple[FoldResult, ...], Mapping[str, Texts]]:
        """Return a run's folds with their predictions and, once all folds are done, what is known of each track.

        Args:
            run_id: of a configuration, or of one fold.

        Raises:
            UserError: there is no such run, it is neither of these, or a file is missing or damaged.
        """
        with self._run_failures_in_one_line(run_id):
            folds = self._folds(run_id)
            parent = self._parent(run_id)
            is_complete = parent.info.status == "FINISHED"  # before that, nothing is logged about the tracks
            tracks = load_tracks(self._file(parent, TRACKS)) if is_complete else {}
            return self.load(folds), tracks

    def report(self) -> str | None:
        """Return the newest report as HTML; None if there is none."""
        reports = self._search(self._ids(None), "tags.kind = 'report' and attributes.status = 'FINISHED'")
        return self._file(reports[0], REPORT).read_text(encoding="utf-8") if reports else None

    def _folds(self, run_id: str) -> list[Run]:
        """Return the finished fold runs of a configuration, or the run itself if it is a fold's."""
        run = self._client.get_run(run_id)
        folds = self._children(run) or ([run] if PARENT in run.data.tags else [])
        if not folds:
            raise UserError(f"run {run_id} in {self.uri}: has no finished folds and is not a fold")
        return folds

    def _parent(self, run_id: str) -> Run:
        """Return the run of the configuration that a run belongs to or is."""
        run = self._client.get_run(run_id)
        return self._client.get_run(run.data.tags[PARENT]) if PARENT in run.data.tags else run

    @contextmanager
    def _run_failures_in_one_line(self, run_id: str, *hints: str) -> Iterator[None]:
        """Report in one line what is wrong with a run, and what may help."""
        try:
            yield
        except (MlflowException, OSError, *DAMAGED) as error:
            raise UserError("; ".join((f"run {run_id} in {self.uri}: {error}", *hints))) from error

    def _ids(self, experiment: str | None) -> list[str]:
        found = _all_pages(self._client.search_experiments)
        return [e.experiment_id for e in found if experiment in (None, e.name)]

    def _search(self, experiment_ids: list[str], query: str) -> list[Run]:
        newest_first = ["attributes.end_time DESC"]
        return _all_pages(partial(self._client.search_runs, experiment_ids, query, order_by=newest_first))

    def _children(self, parent: Run) -> list[Run]:
        query = f"tags.`{PARENT}` = '{parent.info.run_id}' and attributes.status = 'FINISHED'"
        return _each_once(self._search([parent.info.experiment_id], query))

    def _file(self, run: Run, name: str) -> Path:
        artifacts = self._artifacts_of(run)
        folder = None if database.local_path(artifacts) else self._new_folder()
        return self._fetch(f"{artifacts}/{name}", folder)

    def _artifacts_of(self, run: Run) -> str:
        """Return the URI of a run's artifacts; a local database that is read-only may still name another folder."""
        stated = database.local_path(run.info.artifact_uri) if self._is_local else None
        here = self._folder / "artifacts" / Path(*stated.parts[-3:]) if stated else None
        return here.as_uri() if here and here.is_dir() else run.info.artifact_uri

    def _fetch(self, artifact: str, folder: str | None = None) -> Path:
        """Download an artifact, or a folder of them, into a folder; with None, local ones stay where they are."""
        return Path(download_artifacts(artifact_uri=artifact, tracking_uri=self.uri, dst_path=folder))

    def _new_folder(self) -> str:
        """Return a folder for a server's artifacts, which is deleted with this connection."""
        folder = tempfile.mkdtemp(prefix="genre_cls-")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        return folder


def _all_pages(search: Callable[..., PagedList[Item]]) -> list[Item]:
    page = search(max_results=PAGE_SIZE)
    found = list(page)
    while page.token:
        page = search(max_results=PAGE_SIZE, page_token=page.token)
        found += page
    return found


def changed_metrics(run: Run, scores: Mapping[str, float]) -> list[str]:
    """Return the names of the scores that differ from a run's metrics.

    Args:
        run: with the logged metrics.
        scores: as computed from its artifacts.
    """
    logged = {name: run.data.metrics.get(key, scores[name]) for name, key in naming.legal_names(scores).items()}
    return [name for name, value in logged.items() if not np.isclose(value, scores[name])]


def _each_once(newest_first: Sequence[Run]) -> list[Run]:
    """Return each fold's newest run: one that was deleted, trained again and then restored is there twice."""
    return list({run.info.run_name: run for run in reversed(newest_first)}.values())
