"""One configuration from settings to evidence: load, split, train and judge each fold, log everything to MLflow."""

import gc
import logging
import math
from collections.abc import Callable, Container, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
from filelock import Timeout
from omegaconf import DictConfig, OmegaConf

from genre_cls import database, evidence, workers
from genre_cls.artifacts import DAMAGED, Files, load_fold
from genre_cls.errors import UserError, in_one_line
from genre_cls.files import check_place, expanduser
from genre_cls.folds import Fold
from genre_cls.identity import Identity, identify
from genre_cls.models import arithmetic, device_of, n_parameters
from genre_cls.scoring import ConfigResult, FoldResult
from genre_cls.settings import without_hydra
from genre_cls.spool import Spool
from genre_cls.stored_runs import FAILURES, PARENT, Texts
from genre_cls.task import Task, load, load_all
from genre_cls.tracking import NOTE, WAITING, Earlier, OpenRun, Tracker
from genre_cls.training import check_buildable, network_views, new_model
from genre_cls.voting import Trainings, n_workers

log = logging.getLogger(__name__)

MANY = 3  # models at once; where there are fewer, the main process draws while they are trained
DRAWING = 2  # processes that draw for many


def prepare(configurations: Sequence[DictConfig]) -> None:
    """Check that some configurations can run, and get all that they need from the audio.

    Args:
        configurations: composed and checked.

    Raises:
        UserError: no data, too much of it unreadable, too little for the folds, no such device or server.
    """
    gc.freeze()  # or each look for garbage among thousands of tracks goes through all that is loaded, for 0.3 s
    stores = {(cfg.tracking.uri, cfg.tracking.folder) for cfg in configurations}
    for uri, folder in stores:
        if uri or database.is_there(folder):
            Tracker(uri, Path(folder))  # a server that is away or a damaged store is told before the work, not after
        else:
            check_place(expanduser(folder), f"tracking.folder={folder}")
    for cfg in configurations:
        _check_device(cfg.trainer.device)
    for cfg in {_built_of(cfg): cfg for cfg in configurations}.values():
        check_buildable(cfg)
    if len(configurations) > 1 and not all(map(network_views, configurations)):
        log.warning("recipe.members: where no network votes, model, batch_size and epochs change nothing")
    load_all(configurations)
    for uri, folder in stores:
        tracker = Tracker(uri, Path(folder))
        with tracker.failures_in_one_line():
            tracker.close_dead()
    _next.expect(configurations)


def evaluate(cfg: DictConfig, identity: Identity) -> float:
    """Cross-validate one configuration and log it; folds that an earlier command has finished are taken over.

    A job that has but one of the folds leaves the others to other jobs; the one that finds all there makes it whole.

    Args:
        cfg: the configuration, composed and checked.
        identity: what it is called and told apart by.

    Returns:
        Mean accuracy of the folds that are there; not a number if the split is impossible and that is to be skipped.

    Raises:
        UserError: the data or the device do not allow it.
    """
    job = _next.take(identity)
    if not job:
        task = load(cfg)
        if task is None:
            return math.nan
        job = _Job(cfg, task, identity)
    with job.tracker.failures_in_one_line():
        job.run()
    log.info("%s: %s", identity.title, _in_words(job.result, job.missing, _next.folds))
    return job.result.estimate("accuracy").mean


class _Job:
    """What one job does of a configuration: train its folds, log what is there, and end it if that is all.

    It keeps its folds to itself until they are on disk, and the configuration while it looks and logs; if all folds are
    its own all the while, so that the run shows as running.
    """

    def __init__(self, cfg: DictConfig, task: Task, identity: Identity) -> None:
        self.cfg, self.task, self.tracker = cfg, task, _tracker(cfg)
        self.identity = replace(identity, dataset=task.dataset(identity.dataset))
        device = device_of(cfg.trainer.device).type
        # Two precisions, devices, numbers of threads or ways to launch steps are one configuration to compare, but not
        # to continue: their bits differ.
        self.precision = arithmetic(cfg.trainer.precision, accelerator=device != "cpu")
        how = str(cfg.trainer.graphs) if device == "cuda" else ""
        self.key = identity.key(task.inputs, device, self.precision, str(cfg.trainer.threads), how)
        self.spool, self.pictures = Spool(Path(cfg.tracking.folder), self.key), _Pictures(identity.title, task.note)
        self.done: dict[int, FoldResult] = {}
        n_genres, views = len(task.catalogue.genres), network_views(cfg)
        self.size = sum(n_parameters(new_model(cfg, n_genres, view)) for view in views)
        self.locks = ExitStack()
        self.trainings: Trainings | None = None

    @property
    def missing(self) -> list[int]:
        """The folds that are not done, whoever is to train them."""
        return [fold.index for fold in self.task.folds if fold.index not in self.done]

    @property
    def result(self) -> ConfigResult:
        """The folds that are done."""
        return ConfigResult(self.identity.named, tuple(self.done[index] for index in sorted(self.done)), self.size)

    def begin(self) -> bool:
        """Start training before this job's turn; False if another process holds its locks, or the store fails."""
        try:
            self._hold(wait=False)
            with self.tracker.claim(self.key, self.identity.title, wait=False):
                self._take_over()
            self.trainings = Trainings(self.cfg, self.task, self._left)
        except (Timeout, UserError, *FAILURES):
            self.locks.close()  # or its turn would wait for what this process itself holds
            return False
        return True

    @property
    def lost(self) -> bool:
        """Whether what was begun will never end."""
        return self.trainings is not None and self.trainings.lost

    @property
    def n_models(self) -> int:
        """How many models were begun."""
        return len(self.trainings.models) if self.trainings else 0

    def give_up(self) -> None:
        """Leave to others what was begun."""
        self.locks.close()
        if self.trainings:
            self.trainings.cancel()

    def run(self) -> None:
        """Train the job's folds that nobody has finished."""
        mine, title = self.task.to_train, self.identity.title
        all_mine = len(mine) == len(self.task.folds)
        with self.locks:
            if not self.trainings:
                self._hold()
            with self._claimed() as logged:
                if taken := sum(fold.index in self.done for fold in mine):
                    log.info("%s: %d of %d folds reused (force=true retrains them)", title, taken, len(mine))
                if all_mine:
                    self._train(logged)
            if not all_mine:
                self._train(lambda: None)
        if not all_mine:
            with self._claimed():  # which logs it
                pass
            if lost := ",".join(str(fold.index) for fold in self._left):
                raise UserError(
                    f"{title}: fold={lost} is not there any more: another command has begun anew (force=true), or its "
                    "files are damaged; the same command trains it again"
                )

    @property
    def _left(self) -> list[Fold]:
        return [fold for fold in self.task.to_train if fold.index not in self.done]

    def _hold(self, *, wait: bool = True) -> None:
        keys = [f"{self.key}/{fold.index}" for fold in self.task.to_train]
        self.locks.enter_context(self.tracker.held(keys, self.identity.title, wait=wait))

    def _train(self, then: Callable[[], None]) -> None:
        trainings = self.trainings or Trainings(self.cfg, self.task, self._left)
        n_at_once = n_workers(self.cfg, self.task)
        _next.begin(n_at_once)
        for result, weights in trainings.results(self.identity.title):
            self.spool.put(result.index, evidence.of_fold(self.task, self.identity, self.precision, weights, result))
            self.done[result.index] = result
            if n_at_once >= MANY:
                self.pictures.ask_for(result)
            then()

    @contextmanager
    def _claimed(self) -> Iterator[Callable[[], None]]:
        """Claim the configuration and log the folds on disk: at once, when the yielded function is called, and last."""
        with self.tracker.claim(self.key, self.identity.title) as claim:
            earlier = self._take_over()
            if earlier.run_id and earlier.finished and len(earlier.folds) == len(self.task.folds):
                run_id = earlier.run_id
                yield lambda: None
            else:
                with self._open(earlier, claim) as (parent, outbox):
                    outbox.empty()
                    yield outbox.empty_if_possible
                    outbox.empty()
                    self._end(parent)
                run_id = parent.run_id
            if not self.missing:
                self.tracker.confirm(run_id)
                self.spool.clear()

    def _take_over(self) -> Earlier:
        """Load what earlier commands and other jobs have finished; `force=true` empties the spool before."""
        experiment = self.tracker.experiment(self.cfg.tracking.experiment or f"genre_cls {self.identity.dataset}")
        earlier = self.tracker.earlier(experiment, self.key, anew=self.cfg.force)
        if self.cfg.force and not earlier.run_id:
            self.spool.clear()
        self.done = {result.index: result for result in earlier.folds}
        self.done |= _kept(self.spool, self.done)
        return earlier

    @contextmanager
    def _open(self, earlier: Earlier, claim: Texts) -> Iterator[tuple[OpenRun, "_Outbox"]]:
        """Open the configuration's run, and what brings folds below it."""
        task, identity, experiment = self.task, self.identity, earlier.experiment_id
        params = {**identity.params, "n_parameters": str(self.size)}
        about = {"dataset_digest": task.features.digest, "comparison": task.digest, NOTE: task.note}
        tags = {**identity.tags, **about, **claim}
        whole = tags | {"kind": "config"}
        with self.tracker.run(experiment, identity.title, whole, params, again=earlier.run_id) as parent:
            own = tags | {"kind": "fold", PARENT: parent.run_id}
            yield parent, _Outbox(self.spool, self.pictures, self.tracker, experiment, own, params)

    def _end(self, parent: OpenRun) -> None:
        """Log the whole, or let it wait for folds that others train."""
        if self.missing:
            parent.status = WAITING
        else:
            parent.log(self.result.summary, {}, evidence.of_configuration(self.task, self.identity, self.result))


class _Next:
    """The configurations that are to come, of which the first ones begin while the present one is still at it.

    So no worker waits until a configuration's last fold is trained and logged.
    """

    def __init__(self) -> None:
        self.coming: list[DictConfig] = []
        self.begun: list[_Job | None] = []  # those of the first ones; None for what could not begin

    @property
    def folds(self) -> set[int]:
        """Single folds that this process trains yet."""
        return {config.fold for config in self.coming if config.fold is not None}

    def expect(self, configurations: Sequence[DictConfig]) -> None:
        """Know what is to come, in order; each with Hydra's own settings."""
        self.coming = list(configurations)

    def take(self, identity: Identity) -> _Job | None:
        """The job of a configuration whose turn it is, if it has begun."""
        self.coming = self.coming[1:]
        begun = [job for job in self.begun if job]
        if any(job.lost for job in begun):  # as their workers have been stopped, all are
            for each in begun:
                each.give_up()
            self.begun = []
        job = self.begun.pop(0) if self.begun else None
        if job and job.identity.fingerprint != identity.fingerprint:
            job.give_up()
            return None
        return job

    def begin(self, workers: int) -> None:
        """Begin as many configurations as give each worker another model; stop where one has none or cannot begin.

        Args:
            workers: how many there are.
        """
        if workers < 2:
            return
        for config in self.coming[len(self.begun) :]:
            if sum(job.n_models for job in self.begun if job) >= workers:
                return
            job = _begun(config, workers)
            self.begun.append(job)
            if not (job and job.n_models):
                return


def _begun(config: DictConfig, workers: int) -> _Job | None:
    """The job of a configuration, if the same workers train it and it can begin; if not, why is told in its turn."""
    cfg = without_hydra(config)
    with suppress(UserError, *FAILURES):
        if (task := load(cfg, silently=True)) and n_workers(cfg, task) == workers:
            job = _Job(cfg, task, identify(cfg, config.hydra))
            return job if job.begin() else None
    return None


_next = _Next()


def _kept(spool: Spool, logged: Container[int]) -> dict[int, FoldResult]:
    """The folds that an earlier command has finished but not logged; what is damaged or logged is deleted."""
    found = {}
    for folder in spool.folders():
        try:
            spool.files(folder)
            if (fold := load_fold(folder)).index not in logged:
                found[fold.index] = fold
                continue
        except DAMAGED as error:  # not the disk's failure, which says nothing of the fold
            log.warning("%s: is damaged and trained anew: %s", folder, in_one_line(error))
        spool.drop(folder)
    return found


class _Pictures:
    """The pictures of a configuration's folds: drawn when they are needed, or before that by processes of their own.

    Args:
        title: of the configuration.
        note: small print below each.
    """

    def __init__(self, title: str, note: str) -> None:
        self.title, self.note = title, note
        self.asked_for: dict[int, Future[bytes]] = {}

    def ask_for(self, fold: FoldResult) -> None:
        """Have a fold's pictures drawn meanwhile."""
        arguments = fold, self.title, self.note
        self.asked_for[fold.index] = workers.call(DRAWING, evidence.pictures_of_fold, *arguments, purpose="drawing")

    def are_waited_for(self, index: int) -> bool:
        """Whether a fold's pictures are being drawn."""
        return index in self.asked_for and not self.asked_for[index].done()

    def of(self, fold: FoldResult) -> Files:
        """A fold's pictures, once they are there."""
        if asked_for := self.asked_for.pop(fold.index, None):
            (pictures,) = workers.results([asked_for])
            return cast(Files, pictures)
        return evidence.pictures_of_fold(fold, self.title, self.note)


@dataclass
class _Outbox:
    """Moves finished folds from the spool to the store; while the store is away, they stay where they are."""

    spool: Spool
    pictures: _Pictures
    tracker: Tracker
    experiment_id: str
    tags: Texts
    params: Texts
    away: bool = False

    def empty(self) -> None:
        """Log all folds; raises whatever the store does if it is away."""
        for folder in self.spool.folders():
            self._log(folder)

    def empty_if_possible(self) -> None:
        """Log what need not be waited for, unless the store is away: training then goes on, and ends in another try."""
        if self.away:
            return
        try:
            for folder in self.spool.folders():
                if not self.pictures.are_waited_for(int(folder.name)):
                    self._log(folder)
        except FAILURES as error:
            self.away = True
            log.warning("not logged yet, kept in %s: %s", self.spool.path, in_one_line(error))

    def _log(self, folder: Path) -> None:
        fold = load_fold(folder)
        files, name = {**self.spool.files(folder), **self.pictures.of(fold)}, f"fold {fold.index + 1}"
        with self.tracker.run(self.experiment_id, name, self.tags, self.params, lasted=fold.seconds) as child:
            child.log(fold.scores | {"seconds": fold.seconds}, fold.curves, files)
        self.spool.drop(folder)


def _built_of(cfg: DictConfig) -> str:
    """All that networks, optimisers and schedules are built of, as YAML."""
    return OmegaConf.to_yaml(OmegaConf.masked_copy(cfg, ["features", "model", "recipe"]), resolve=True)


def _tracker(cfg: DictConfig) -> Tracker:
    return Tracker(cfg.tracking.uri, Path(cfg.tracking.folder))


def _check_device(device: str) -> None:
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not present.get(device, True):
        here = ", ".join(["auto", "cpu", *(name for name, found in present.items() if found)])
        raise UserError(f"trainer.device={device}: not on this machine, which has {here}")


def _in_words(result: ConfigResult, missing: Sequence[int], coming: Container[int]) -> str:
    if missing:
        n, others = len(result.folds), ",".join(str(index) for index in missing if index not in coming)
        done = f"{n} of {n + len(missing)} folds {'is' if n == 1 else 'are'} done"
        return f"{done}; the same command without fold= trains fold={others} too" if others else done
    accuracy = result.estimate("accuracy")
    low, high = accuracy.share_interval
    spread = f" ± {100 * accuracy.std:.1f}" if len(result.folds) > 1 else ""
    return (
        f"accuracy {100 * accuracy.mean:.1f}{spread} % (95 % CI {100 * low:.1f}–{100 * high:.1f}), "
        f"{result.seconds_per_fold:.1f} s a fold"
    )
