"""Read runs back from an MLflow store: configurations that can be compared, saved models, predictions, the report."""

import logging
import shutil
import tempfile
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Self, TypeVar

import numpy as np
from mlflow.artifacts import download_artifacts
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.store.entities import PagedList
from requests import RequestException

from genre_cls.errors import UserError, in_one_line
from genre_cls.evaluation.estimates import rounded
from genre_cls.evaluation.scoring import ConfigResult, FoldResult, GenreMeans
from genre_cls.files import disk_failure, expanduser
from genre_cls.tracking import database, naming
from genre_cls.tracking.artifacts import (
    DAMAGED,
    GENRE_MEANS,
    MODEL,
    REPORT,
    RESULTS,
    SUMMARIES,
    TRACKS,
    load_fold,
    load_genre_means,
    load_tracks,
)
from genre_cls.tracking.connection import connect, server_failed, what_failed

log = logging.getLogger(__name__)

PARENT = "mlflow.parentRunId"  # the tag by which MLflow's pages nest runs
WAITING = "SCHEDULED"  # the status of a configuration that waits for folds that other jobs train
FOLDS = "tags.kind = 'fold' and attributes.status = 'FINISHED'"  # the query for all folds that are done
PAGE_SIZE = 5000  # runs or experiments that a store is asked for at once; MLflow gives 50,000 at most
COMMAND_IDS = "command_ids"  # the tag with the ids of the last commands that included a configuration

FAILURES = (MlflowException, OSError)  # what MLflow raises if a server, a disk or a database fails
STORE_FAILED = ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED")

Texts = Mapping[str, str]
Item = TypeVar("Item")


@dataclass(frozen=True)
class Comparison:
    """Configurations that were tested on the same tracks in the same folds, so that they can be compared.

    Args:
        tags: of the configuration that finished last.
        finished: when the last of them ended, local time.
        commands: command lines, each with the number of configurations that it was the last to write, most first.
        results: one per configuration.
        means: average features per genre, one per kind of feature.
        tracks: `artifacts.FACTS` of each track by its id, empty where unknown.
        n_left_out: the command's configurations that were tested on other tracks or folds, and are in none of these.
    """

    tags: Texts
    finished: str
    commands: Mapping[str, int]
    results: tuple[ConfigResult, ...]
    means: tuple[GenreMeans, ...]
    tracks: Mapping[str, Texts]
    n_left_out: int


@dataclass(frozen=True)
class _Loaded:
    """A configuration's run, its result, average features and what is known of each track."""

    run: Run
    result: ConfigResult
    means: Mapping[str, GenreMeans]
    tracks: Mapping[str, Texts]


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
            UserError: a server that is away, a disk that is full or read-only, a damaged database.
        """
        try:
            yield
        except MlflowException as error:
            if error.error_code not in STORE_FAILED:
                raise
            raise UserError(what_failed(self.uri, error) + self._spooled_folds()) from error
        except RequestException as error:  # an OSError, but of a server that keeps the files
            raise UserError(server_failed(self.uri, error) + self._spooled_folds()) from error
        except OSError as error:
            raise UserError(disk_failure(self._folder, error) + self._spooled_folds()) from error

    def _spooled_folds(self) -> str:
        n_folds = sum(path.name.isdecimal() for path in self._folder.glob("spool/*/*"))
        are, them = (f"{n_folds} finished folds are", "them") if n_folds > 1 else ("a finished fold is", "it")
        hint = f"the same training command (without force=true) logs {them}"
        return f"; {are} kept in {self._folder / 'spool'}, {hint}" if n_folds else ""

    def newest(self, experiment: str | None = None, *, command_id: str | None = None) -> Comparison | None:
        """Return the configuration that finished last and all comparable ones; None if none has finished.

        Args:
            experiment: name of the experiment to look in; None for that of the configuration.
            command_id: of the command whose last configuration counts as the newest, whatever the clock says; None for
                any command.
        """
        ended = self._ended(experiment)
        parents = _finished(ended)
        parents.sort(key=lambda run: not _is_of(run, command_id))  # the command's first, even if the clock was set back
        if not parents or (command_id and not _is_of(parents[0], command_id)):
            return None
        together = naming.of_one_experiment(parents)
        _warn_of_lost_tags(naming.of_one_experiment([together[0], *ended]))
        folds = self._folds_of_whole(together)
        whole = [run for run in together if run.info.run_id in folds]
        _warn_of_lost_folds([run for run in naming.comparable(together) if run not in whole])
        if not whole:
            return None
        comparable = naming.comparable(whole)
        named = naming.distinguishing_settings(comparable)
        loaded = [one for run in comparable if (one := self._load(run, named[run.info.run_id], folds))]
        if not loaded:
            return None
        others = {run.info.run_id: naming.under_other_splits(run, whole) for run in comparable}
        reported = [*comparable, *(run for by_split in others.values() for run in by_split.values())]
        loaded = [self._with_other_splits(one, others[one.run.info.run_id], folds) for one in loaded]
        return _comparison(whole[0].data.tags, loaded, _n_left_out(parents, reported, command_id))

    def best(self, experiment: str | None = None) -> str | None:
        """Return the run id of the best configuration by mean accuracy among those that `newest` compares.

        Those that were trained on shuffled genres are left out; None if there are no others.

        Args:
            experiment: name of the experiment to look in; None for that of the configuration that finished last.
        """
        finished = [run for run in _finished(self._ended(experiment)) if not _is_shuffled(run)]
        if not finished:
            return None
        together = naming.of_one_experiment(finished)
        folds = self._folds_of_whole(together)
        whole = [run for run in together if run.info.run_id in folds]

        def scores(run: Run) -> list[float]:  # the second one breaks ties, as in the ranking
            return [rounded(run.data.metrics.get(score, 0)) for score in ("accuracy_mean", "macro_f1_mean")]

        return max(naming.comparable(whole), key=scores).info.run_id if whole else None

    def _folds_of_whole(self, parents: Sequence[Run]) -> dict[str, list[Run]]:
        """Return the fold runs, by configuration, of those of one experiment of which none was deleted in MLflow."""
        folds: dict[str, list[Run]] = {}
        for run in self._search([parents[0].info.experiment_id], FOLDS):
            folds.setdefault(run.data.tags.get(PARENT, ""), []).append(run)
        each_once = {run_id: _each_once(runs) for run_id, runs in folds.items()}
        n_folds = {parent.info.run_id: _n_folds(parent) for parent in parents}
        return {run_id: runs for run_id, runs in each_once.items() if len(runs) == n_folds.get(run_id)}

    def any_finished(self, experiment: str | None) -> bool:
        """Return whether any configuration has finished, readable or not.

        Args:
            experiment: name of the experiment to look in; None for all.
        """
        return bool(self._ended(experiment))

    def elsewhere(self) -> str:
        """Return the names of the experiments in which configurations have finished; empty if there are none."""
        places = {run.info.experiment_id for run in self._ended(None)}
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
                return float(parent.data.metrics["temperature"])
            # Folds are missing, so nothing was logged for the whole configuration.
            folds = _in_order([self._fold(fold) for fold in self._children(parent)])
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
            return _in_order([self._fold(fold) for fold in folds]), tracks

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

    def _ended(self, experiment: str | None) -> list[Run]:
        """Return the runs of configurations that have finished, whatever became of their tags."""
        return self._search(self._ids(experiment), "tags.kind = 'config' and attributes.status = 'FINISHED'")

    def _ids(self, experiment: str | None) -> list[str]:
        found = _all_pages(self._client.search_experiments)
        return [e.experiment_id for e in found if experiment in (None, e.name)]

    def _with_other_splits(
        self, one: _Loaded, by_split: Mapping[str, Run], folds: Mapping[str, Sequence[Run]]
    ) -> _Loaded:
        """Add the results of the same configuration under other splits."""
        others = {split: self._load(run, naming.settings_of(run), folds) for split, run in by_split.items()}
        results = {split: other.result for split, other in others.items() if other}
        return replace(one, result=replace(one.result, other_splits=results))

    def _search(self, experiment_ids: list[str], query: str) -> list[Run]:
        newest_first = ["attributes.end_time DESC"]
        return _all_pages(partial(self._client.search_runs, experiment_ids, query, order_by=newest_first))

    def _load(self, parent: Run, named: Texts, folds: Mapping[str, Sequence[Run]]) -> _Loaded | None:
        """Load a configuration's result from its fold runs, and its own files; None if any are missing.

        Args:
            parent: the configuration's run.
            named: the settings that name it.
            folds: the runs of its folds, by its id.
        """
        try:
            results = _in_order([self._fold(run) for run in folds[parent.info.run_id]])
            means, tracks = _summaries(self._files(parent, SUMMARIES))
            result = ConfigResult(named, results, int(parent.data.params["n_parameters"]), _groups(tracks))
            figures = result.summary
        except (*FAILURES, *DAMAGED) as error:
            log.warning("left out %s: %s", parent.info.run_name, in_one_line(error))
            return None
        if changed := changed_metrics(parent, figures):
            log.warning("%s: %s differ from what was logged", parent.info.run_name, ", ".join(changed))
        return _Loaded(parent, result, means, tracks)

    def _children(self, parent: Run) -> list[Run]:
        query = f"tags.`{PARENT}` = '{parent.info.run_id}' and attributes.status = 'FINISHED'"
        return _each_once(self._search([parent.info.experiment_id], query))

    def _fold(self, run: Run) -> FoldResult:
        return load_fold(self._files(run, RESULTS))

    def _files(self, run: Run, names: Sequence[str]) -> Path:
        """Return the folder of a run's artifacts; of a server's, only the named ones that exist are downloaded."""
        artifacts = self._artifacts_of(run)
        if database.local_path(artifacts):
            return self._fetch(artifacts)
        folder = self._new_folder()
        for name in (file.path for file in self._client.list_artifacts(run.info.run_id)):
            if name in names:
                self._fetch(f"{artifacts}/{name}", folder)
        return Path(folder)

    def _file(self, run: Run, name: str) -> Path:
        artifacts = self._artifacts_of(run)
        folder = None if database.local_path(artifacts) else self._new_folder()
        return self._fetch(f"{artifacts}/{name}", folder)

    def _artifacts_of(self, run: Run) -> str:
        """Return the URI of a run's artifacts; a local database that is read-only may still name another folder."""
        stated = database.local_path(run.info.artifact_uri) if self._is_local else None
        here = self._folder / "artifacts" / Path(*stated.parts[-3:]) if stated else None
        return here.as_uri() if here and here.is_dir() else str(run.info.artifact_uri)

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


def _finished(ended: Sequence[Run]) -> list[Run]:
    """Return those runs of configurations that can be compared, newest first."""
    return sorted(filter(naming.has_its_tags, ended), key=naming.moment, reverse=True)


def _warn_of_lost_tags(runs: Sequence[Run]) -> None:
    for run in runs:
        if not naming.has_its_tags(run):
            log.warning("left out %s: lacks tags, or they were edited in MLflow", run.info.run_name)


def _warn_of_lost_folds(runs: Sequence[Run]) -> None:
    for run in runs:
        log.warning("left out %s: lacks a fold, which its command trains again", run.info.run_name)


def _comparison(tags: Texts, loaded: Sequence[_Loaded], n_left_out: int) -> Comparison:
    """Return the comparison of loaded configurations; `tags` are those of the newest."""
    finished = datetime.fromtimestamp(max(one.run.info.end_time for one in loaded) / 1000)
    commands = Counter(filter(None, (one.run.data.tags.get("command") for one in loaded)))
    by_age = sorted(loaded, key=lambda one: naming.moment(one.run))  # what was found last about a track counts
    means = {kind: mean for one in by_age for kind, mean in one.means.items()}
    tracks = {track: facts for one in by_age for track, facts in one.tracks.items()}
    results = tuple(replace(one.result, groups=_groups(tracks)) for one in loaded)
    moment = finished.isoformat(" ", "seconds")
    return Comparison(tags, moment, dict(commands.most_common()), results, tuple(means.values()), tracks, n_left_out)


def _groups(tracks: Mapping[str, Texts]) -> Texts:
    """Return the groups of tracks that share an artist or a recording, by track; empty if none is known."""
    return {track: group for track, facts in tracks.items() if (group := facts["group"])}


def changed_metrics(run: Run, scores: Mapping[str, float]) -> list[str]:
    """Return the names of the scores that differ from a run's metrics.

    Args:
        run: with the logged metrics.
        scores: as computed from its artifacts.
    """
    logged = {name: run.data.metrics.get(key, scores[name]) for name, key in naming.legal_names(scores).items()}
    return [name for name, value in logged.items() if not np.isclose(value, scores[name])]


def _in_order(folds: Sequence[FoldResult]) -> tuple[FoldResult, ...]:
    """Return folds by index, each once."""
    by_index = {fold.index: fold for fold in folds}
    return tuple(by_index[index] for index in sorted(by_index))


def _summaries(folder: Path) -> tuple[dict[str, GenreMeans], dict[str, dict[str, str]]]:
    """Load average features by kind and what is known of each track, as far as a configuration's files are sound."""
    means: dict[str, GenreMeans] = {}
    tracks: dict[str, dict[str, str]] = {}
    try:
        means |= {mean.kind: mean for mean in map(load_genre_means, folder.glob(GENRE_MEANS.format("*")))}
        tracks |= load_tracks(folder / TRACKS) if (folder / TRACKS).exists() else {}
    except DAMAGED as error:
        log.warning("%s: average features or facts of tracks are damaged: %s", folder, in_one_line(error))
    return means, tracks


def _each_once(newest_first: Sequence[Run]) -> list[Run]:
    """Return each fold's newest run: one that was deleted, trained again and then restored is there twice."""
    return list({run.info.run_name: run for run in reversed(newest_first)}.values())


def _n_folds(parent: Run) -> int:
    """Return how many folds a configuration had when it was complete; 0 if that was not logged."""
    seconds, per_fold = (parent.data.metrics.get(name, 0) for name in ("seconds", "seconds_per_fold"))
    return round(seconds / per_fold) if per_fold else 0


def _n_left_out(parents: Sequence[Run], reported: Sequence[Run], command_id: str | None) -> int:
    """Return how many of a command's configurations are not reported, neither as they are nor as another split."""
    identities = {run.data.tags["identity"] for run in parents if _is_of(run, command_id)}
    return len(identities - {run.data.tags["identity"] for run in reported})


def _is_of(run: Run, command_id: str | None) -> bool:
    """Whether a command included a configuration; none is of the command None."""
    return command_id in run.data.tags.get(COMMAND_IDS, "").split()


def _is_shuffled(run: Run) -> bool:
    """Whether it was trained on randomly permuted genres, so that its models are of no use."""
    return bool(run.data.params.get("shuffle_genres") == "True")
