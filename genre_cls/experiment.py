"""Cross-validates one configuration: loads and splits the tracks, trains and tests each fold, logs all to MLflow."""

import gc
import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import cast

from filelock import Timeout
from omegaconf import DictConfig, OmegaConf

from genre_cls import database, logged_files
from genre_cls.artifacts import GENRE_MEANS, Files, fold_files
from genre_cls.building import check_buildable, network_views, new_model
from genre_cls.connection import store_uri
from genre_cls.device import resolve_device, resolve_precision
from genre_cls.ensembles import EnsembleTrainings, n_workers
from genre_cls.errors import DivergenceError, UserError
from genre_cls.files import check_place, expanduser
from genre_cls.findings import accuracy, interval
from genre_cls.folds import Fold
from genre_cls.identity import Identity, identify
from genre_cls.models import n_parameters
from genre_cls.outbox import Outbox, Pictures, spooled
from genre_cls.progress import waiting
from genre_cls.scoring import ConfigResult, FoldResult
from genre_cls.settings import as_yaml, without_hydra
from genre_cls.spool import Spool
from genre_cls.stored_runs import FAILURES, PARENT, WAITING, Texts
from genre_cls.task import Task, load, load_all
from genre_cls.tracking import NOTE, Earlier, OpenRun, Tracker

log = logging.getLogger(__name__)

MANY_MODELS = 3  # trained at once; with fewer, the main process draws the pictures meanwhile


def prepare(configurations: Sequence[DictConfig]) -> None:
    """Check that configurations can run, and extract their features.

    Args:
        configurations: composed, their settings checked, all with one tracking store and `report_dir`.

    Raises:
        UserError: no data, too much of it unreadable, too little for the folds, no such device or server.
    """
    gc.freeze()  # or each garbage collection among thousands of tracks visits all that is loaded, which takes 0.3 s
    first = configurations[0]
    _check_store(first.tracking)
    check_place(expanduser(first.report_dir), f"report_dir={first.report_dir}")
    with waiting("trying the models out"):
        for cfg in configurations:
            _check_buildable(cfg)
    if len(configurations) > 1 and not all(map(network_views, configurations)):
        idle = "model, batch_size, recipe.epochs and recipe.ridge change nothing"
        log.warning("recipe.members: where no network votes, %s", idle)
    load_all(configurations)
    with waiting("opening the store"):
        tracker = _tracker(first)
        with tracker.failures_in_one_line():
            tracker.close_dead()
    _upcoming.expect(configurations)


def _check_store(tracking: DictConfig) -> None:
    """Report an unreachable server or a damaged store before the work, not after."""
    if not tracking.uri and tracking.experiment == "Default":  # whose files MLflow keeps wherever it is run
        raise UserError("tracking.experiment=Default: is MLflow's own; choose another name")
    store_uri(tracking.uri, Path(tracking.folder))  # which refuses a folder that MLflow would mistake for another
    for part in ("spool",) if tracking.uri else ("spool", "artifacts"):
        check_place(expanduser(tracking.folder) / part, f"tracking.folder={tracking.folder}")
    if tracking.uri or database.has_database(tracking.folder):
        Tracker(tracking.uri, Path(tracking.folder))


def evaluate(cfg: DictConfig, identity: Identity) -> float:
    """Cross-validate one configuration and log it; folds that an earlier command has finished are reused.

    A job of a single fold leaves the others to other jobs; the job that finds all of them completes the configuration.

    Args:
        cfg: the configuration, composed, its settings checked.
        identity: of the configuration.

    Returns:
        Mean accuracy of the finished folds; 0 for a trial of a search that has diverged. If the split is impossible and
        `skip_impossible` is set, NaN, or 0 for a trial.

    Raises:
        UserError: the data or the device do not allow it.
    """
    job = _upcoming.take(identity)
    if not job:
        _check_buildable(cfg)  # `prepare` does not know a search's trials
        task = load(cfg)
        if task is None:
            return 0.0 if cfg.inside else math.nan
        job = _Job(cfg, task, identity)
    try:
        with job.tracker.failures_in_one_line():
            job.run()
    except DivergenceError as error:
        if not cfg.inside:
            raise DivergenceError(f"{identity.title}: {error}") from error
        log.warning("%s: %s; the search goes on", identity.title, error)
        return 0.0
    log.info("%s: %s", identity.title, _in_words(job.result, job.missing))
    return job.result.estimate("accuracy").mean


class _Job:
    """One job's work on a configuration: train its folds, log what is finished, complete the run if that is all.

    It locks its folds until they are on disk, and the configuration while it reads or logs; a job of all folds locks it
    throughout, so that the run shows as running.
    """

    def __init__(self, cfg: DictConfig, task: Task, identity: Identity) -> None:
        self.cfg, self.task, self.tracker = cfg, task, _tracker(cfg)
        self.identity = replace(identity, dataset=task.dataset(identity.dataset))
        device = resolve_device(cfg.trainer.device)
        # Precision, device, threads and recorded steps change the bits, so they are part of the resume key, but they do
        # not make another configuration to compare.
        self.precision = resolve_precision(cfg.trainer.precision, device, cfg.model.get("_target_", ""))
        graphs = str(cfg.trainer.graphs) if device.type == "cuda" else ""
        self.key = identity.key(task.inputs, device.type, self.precision, str(cfg.trainer.threads), graphs)
        self.spool, self.pictures = Spool(Path(cfg.tracking.folder), self.key), Pictures(identity.title, task.note)
        self.groups = {fold.index: task.groups_of(fold) for fold in task.folds}
        self.done: dict[int, FoldResult] = {}
        n_genres, views = len(task.catalogue.genres), network_views(cfg)
        self.n_parameters = sum(n_parameters(new_model(cfg, n_genres, view)) for view in views)
        self.locks = ExitStack()
        self.trainings: EnsembleTrainings | None = None

    @property
    def missing(self) -> list[int]:
        """Indices of the unfinished folds, this job's or others'."""
        return [fold.index for fold in self.task.folds if fold.index not in self.done]

    @property
    def result(self) -> ConfigResult:
        """The finished folds."""
        return ConfigResult(
            self.identity.named, tuple(self.done[index] for index in sorted(self.done)), self.n_parameters
        )

    def begin(self, n_at_once: int) -> bool:
        """Start training before the job's turn; return False if another process holds its locks, or the store fails.

        Args:
            n_at_once: number of models that workers train at once.
        """
        try:
            self._hold(wait=False)
            with self.tracker.claim(self.key, self.identity.title, wait=False):
                self._take_over()
            self.trainings = EnsembleTrainings(self.cfg, self.task, self._unfinished, n_at_once)
        except (Timeout, UserError, *FAILURES):
            self.locks.close()  # or its turn would wait for this very process
            return False
        return True

    @property
    def lost(self) -> bool:
        """Whether the workers that it began with have been stopped."""
        return self.trainings is not None and self.trainings.lost

    @property
    def n_models(self) -> int:
        """How many models it has begun to train."""
        return len(self.trainings.models) if self.trainings else 0

    def give_up(self) -> None:
        """Cancel what was begun and release the locks."""
        self.locks.close()
        if self.trainings:
            self.trainings.cancel()

    def run(self) -> None:
        """Train the job's unfinished folds and log all finished ones."""
        with self.locks:
            if not self.trainings:
                self._hold()
            if len(self.task.to_train) == len(self.task.folds):
                with self._claimed() as outbox:
                    self._announce_reused()
                    self._train(outbox)
                return
            with self._claimed():
                self._announce_reused()
            self._train(None)
        self._log_spooled()
        if lost := ",".join(str(fold.index) for fold in self._unfinished):
            raise UserError(
                f"{self.identity.title}: fold={lost} no longer exists: another command has restarted it "
                "(force=true), or its files are damaged; the same command trains it again"
            )

    def _log_spooled(self) -> None:
        """Log the spooled folds, and the configuration if no fold is missing any more."""
        with self._claimed():
            pass

    def _announce_reused(self) -> None:
        n, n_reused = len(self.task.to_train), len(self.task.to_train) - len(self._unfinished)
        if n_reused:
            log.info("%s: %d of %d folds reused (force=true retrains them)", self.identity.title, n_reused, n)

    @property
    def _unfinished(self) -> list[Fold]:
        return [fold for fold in self.task.to_train if fold.index not in self.done]

    def _hold(self, *, wait: bool = True) -> None:
        keys = [f"{self.key}/{fold.index}" for fold in self.task.to_train]
        self.locks.enter_context(self.tracker.held(keys, self.identity.title, wait=wait))

    def _train(self, outbox: Outbox | None) -> None:
        """Train the unfinished folds; log each when it is finished, if there is an outbox, or leave it in the spool."""
        n_at_once = n_workers(self.cfg, self.task)
        if not self.trainings:
            is_last = len(self._unfinished) * len(self.cfg.recipe.members) == 1 and not _upcoming.coming
            self.trainings = EnsembleTrainings(self.cfg, self.task, self._unfinished, 1 if is_last else n_at_once)
        _upcoming.begin(n_at_once)
        for result, weights in self.trainings.results(self.identity.title):
            files = logged_files.of_fold(self.task, self.identity, self.precision, weights, result)
            self.spool.put(result.index, files)
            self.done[result.index] = result
            if n_at_once >= MANY_MODELS:
                self.pictures.begin(result)
            if outbox:
                outbox.flush_if_possible()

    @contextmanager
    def _claimed(self) -> Iterator[Outbox | None]:
        """Lock the configuration, and log the spooled folds before and after; yield None if it is complete already."""
        with self.tracker.claim(self.key, self.identity.title) as claim:
            earlier = self._take_over()
            if earlier.run_id and earlier.finished and len(earlier.folds) == len(self.task.folds):
                run_id = earlier.run_id
                self.tracker.refresh(run_id, self.result.summary, self._files_to_refresh(run_id))
                yield None
            else:
                with self._open(earlier, claim) as (parent, outbox):
                    outbox.flush()
                    yield outbox
                    outbox.flush()
                    self._end(parent)
                run_id = parent.run_id
            if not self.missing:
                self.tracker.confirm(run_id)
                self.spool.clear()

    def _files_to_refresh(self, run_id: str) -> Files:
        """Those files of a complete configuration that may have changed; all if those that reports read are lost."""
        if self.tracker.has_file(run_id, GENRE_MEANS.format(self.task.features.spec.kind)):
            return logged_files.of_tracks(self.task)
        return logged_files.of_configuration(self.task, self.identity, self.result)

    def _take_over(self) -> Earlier:
        """Load the folds that earlier commands and other jobs have finished; `force=true` first empties the spool."""
        experiment = self.tracker.experiment(self.cfg.tracking.experiment or f"genre_cls {self.identity.dataset}")
        earlier = self.tracker.earlier(experiment, self.key, force=self.cfg.force)
        if self.cfg.force and not earlier.run_id:
            self.spool.clear()
        done = {**earlier.folds, **spooled(self.spool, earlier.folds)}
        self.done = {index: replace(result, groups=self.groups[index]) for index, result in done.items()}
        for index, result in earlier.folds.items():
            if result.groups != self.groups[index]:  # artists have become known, or others, since it was trained
                self.tracker.refresh(earlier.fold_runs[index], {}, fold_files(self.done[index]))
        return earlier

    @contextmanager
    def _open(self, earlier: Earlier, claim: Texts) -> Iterator[tuple[OpenRun, Outbox]]:
        """Open the configuration's run, and the outbox that logs folds below it."""
        task, identity, experiment = self.task, self.identity, earlier.experiment_id
        params = {**identity.params, "n_parameters": str(self.n_parameters)}
        data = {"dataset_digest": task.features.digest, "comparison": task.digest, NOTE: task.note}
        tags = {**identity.tags, **data, **claim}
        parent_tags = tags | {"kind": "config"}
        with self.tracker.run(experiment, identity.title, parent_tags, params, run_id=earlier.run_id) as parent:
            fold_tags = tags | {"kind": "fold", PARENT: parent.run_id}
            yield parent, Outbox(self.spool, self.pictures, self.tracker, experiment, fold_tags, params, self.groups)

    def _end(self, parent: OpenRun) -> None:
        """Log the whole configuration, or leave it waiting for folds that other jobs train."""
        if self.missing:
            parent.status = WAITING
        else:
            parent.log(self.result.summary, logged_files.of_configuration(self.task, self.identity, self.result))


class _Upcoming:
    """The command's remaining configurations, of which the first ones start while the present one is still training.

    So no worker idles until a configuration's last fold is trained and logged.
    """

    def __init__(self) -> None:
        self.coming: list[DictConfig] = []
        self.begun: list[_Job] = []  # jobs of the first of these
        self.blocked = False  # whether the one after these jobs could not begin

    def expect(self, configurations: Sequence[DictConfig]) -> None:
        """Set the command's configurations, in order, each with Hydra's own settings."""
        self.coming = list(configurations)

    def take(self, identity: Identity) -> _Job | None:
        """Return the job of the configuration whose turn it is, if it has begun."""
        self.coming = self.coming[1:]
        if any(job.lost for job in self.begun):  # their workers were stopped, so all are
            for job in self.begun:
                job.give_up()
            self.begun = []
        if not self.begun:
            self.blocked = False
            return None
        job = self.begun.pop(0)
        if job.identity.fingerprint == identity.fingerprint:
            return job
        job.give_up()
        return None

    def begin(self, n_at_once: int) -> None:
        """Begin enough configurations to give each worker another model; stop at one that has none or cannot begin.

        Args:
            n_at_once: number of workers.
        """
        # A job that could not begin waits for its locks when its turn comes. If this process held later jobs' locks
        # by then, two commands could wait for each other for ever.
        if n_at_once < 2 or self.blocked:
            return
        for config in self.coming[len(self.begun) :]:
            if sum(job.n_models for job in self.begun) >= n_at_once:
                return
            job = _begun(config, n_at_once)
            if not job:
                self.blocked = True
                return
            self.begun.append(job)
            if not job.n_models:
                return


def _begun(config: DictConfig, n_at_once: int) -> _Job | None:
    """Begin a configuration's job if the same workers can train it; a reason why not is reported at its turn."""
    cfg = without_hydra(config)
    with suppress(UserError, *FAILURES):
        if (task := load(cfg)) and n_workers(cfg, task) == n_at_once:
            job = _Job(cfg, task, identify(cfg, config.hydra))
            return job if job.begin(n_at_once) else None
    return None


_upcoming = _Upcoming()


def _check_buildable(cfg: DictConfig) -> None:
    _check_built_of(as_yaml(cfg, "features", "model", "recipe", "trainer"))


@cache  # most configurations of a sweep are built of the same
def _check_built_of(settings: str) -> None:
    check_buildable(cast(DictConfig, OmegaConf.create(settings)))


def _tracker(cfg: DictConfig) -> Tracker:
    return Tracker(cfg.tracking.uri, Path(cfg.tracking.folder))


def _in_words(result: ConfigResult, missing: Sequence[int]) -> str:
    if missing:
        n, others = len(result.folds), ",".join(map(str, missing))
        done = f"{n} of {n + len(missing)} folds {'is' if n == 1 else 'are'} done"
        return f"{done}; other jobs, or the same command without fold=, train fold={others}"
    return f"accuracy {accuracy(result)} % (95 % CI {interval(result)}), {result.seconds_per_fold:.1f} s a fold"
