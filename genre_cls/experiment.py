"""One configuration from settings to evidence: load, split, train and judge each fold, log everything to MLflow."""

import gc
import logging
import math
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from filelock import Timeout
from omegaconf import DictConfig

from genre_cls import database, modelfile, plots
from genre_cls.artifacts import (
    DAMAGED,
    Files,
    confusion_file,
    csv_file,
    fold_files,
    genre_means_file,
    load_fold,
    tracks_file,
)
from genre_cls.catalogue import Track
from genre_cls.errors import UserError, in_one_line
from genre_cls.features import mel_frequencies
from genre_cls.folds import Fold
from genre_cls.identity import Identity, identify
from genre_cls.modelfile import Weights
from genre_cls.models import arithmetic, device_of, n_parameters
from genre_cls.scoring import ConfigResult, FoldResult, GenreMeans
from genre_cls.settings import without_hydra
from genre_cls.spool import Spool
from genre_cls.task import Task, genre_means, load, load_all
from genre_cls.tracking import FAILURES, NOTE, PARENT, WAITING, Earlier, OpenRun, Texts, Tracker
from genre_cls.training import check_buildable, network_views, new_model
from genre_cls.voting import Trainings, n_workers

log = logging.getLogger(__name__)


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
    for cfg in configurations:
        _check_device(cfg.trainer.device)
        check_buildable(cfg)
    if len(configurations) > 1 and not all(map(network_views, configurations)):
        log.warning("recipe.members: where no network votes, model, batch_size and epochs change nothing")
    load_all(configurations)
    for uri, folder in stores:
        tracker = Tracker(uri, Path(folder))
        with tracker.failures_told():
            tracker.close_dead()
    _next.expect(configurations)


def judge(cfg: DictConfig, identity: Identity) -> float:
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
    with job.tracker.failures_told():
        job.run()
    log.info("%s: %s", identity.title, _in_words(job.result, job.missing))
    return job.result.estimate("accuracy").mean


class _Job:
    """What one job does of a configuration: train its folds, log what is there, and end it if that is all.

    It keeps its folds to itself until they are on disk, and the configuration while it looks and logs; if all folds are
    its own all the while, so that the run shows as running.
    """

    def __init__(self, cfg: DictConfig, task: Task, identity: Identity) -> None:
        self.cfg, self.task, self.identity, self.tracker = cfg, task, identity, _tracker(cfg)
        device = device_of(cfg.trainer.device).type
        # Two precisions, devices or numbers of threads are one configuration to compare, but not to continue: their
        # bits differ.
        self.precision = arithmetic(cfg.trainer.precision, accelerator=device != "cpu")
        self.key = identity.key(task.inputs, device, self.precision, str(cfg.trainer.threads))
        self.spool = Spool(Path(cfg.tracking.folder), self.key)
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

    def give_up(self) -> None:
        """Leave to others what was begun."""
        self.locks.close()
        if self.trainings:
            self.trainings.cancel()

    def run(self) -> None:
        """Train the job's folds that nobody has finished."""
        mine, title = self.task.mine, self.identity.title
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
        return [fold for fold in self.task.mine if fold.index not in self.done]

    def _hold(self, *, wait: bool = True) -> None:
        keys = [f"{self.key}/{fold.index}" for fold in self.task.mine]
        self.locks.enter_context(self.tracker.held(keys, self.identity.title, wait=wait))

    def _train(self, then: Callable[[], None]) -> None:
        trainings = self.trainings or Trainings(self.cfg, self.task, self._left)
        _next.begin(n_workers(self.cfg, self.task))
        for result, weights in trainings.results(self.identity.title):
            self.spool.put(result.index, _fold_files(self.task, self.identity, self.precision, weights, result))
            self.done[result.index] = result
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
            yield parent, _Outbox(self.spool, self.tracker, experiment, own, params)

    def _end(self, parent: OpenRun) -> None:
        """Log the whole, or let it wait for folds that others train."""
        if self.missing:
            parent.status = WAITING
        else:
            parent.log(self.result.summary, {}, _summary_files(self.task, self.identity, self.result))


class _Next:
    """The configurations that are to come, of which the next one begins while the present one is still at it.

    So no worker waits until a configuration's last fold is trained and logged.
    """

    def __init__(self) -> None:
        self.coming: list[DictConfig] = []
        self.begun: _Job | None = None

    def expect(self, configurations: Sequence[DictConfig]) -> None:
        """Know what is to come, in order; each with Hydra's own settings."""
        self.coming = list(configurations)

    def take(self, identity: Identity) -> _Job | None:
        """The job of a configuration whose turn it is, if it has begun."""
        self.coming = self.coming[1:]
        job, self.begun = self.begun, None
        if job and (job.identity.fingerprint != identity.fingerprint or job.lost):
            job.give_up()
            return None
        return job

    def begin(self, workers: int) -> None:
        """Begin the next configuration, if the same workers will train it; what is wrong with it is told in its turn.

        Args:
            workers: how many there are.
        """
        if not self.coming or workers < 2:
            return
        config = self.coming[0]
        cfg = without_hydra(config)
        with suppress(UserError, *FAILURES):
            if (task := load(cfg, silently=True)) and n_workers(cfg, task) == workers:
                job = _Job(cfg, task, identify(cfg, config.hydra))
                self.begun = job if job.begin() else None


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


@dataclass
class _Outbox:
    """Moves finished folds from the spool to the store; while the store is away, they stay where they are."""

    spool: Spool
    tracker: Tracker
    experiment_id: str
    tags: Texts
    params: Texts
    away: bool = False

    def empty(self) -> None:
        """Log all folds; raises whatever the store does if it is away."""
        for folder in self.spool.folders():
            fold = load_fold(folder)
            name = f"fold {fold.index + 1}"
            with self.tracker.run(self.experiment_id, name, self.tags, self.params, lasted=fold.seconds) as child:
                child.log(fold.scores | {"seconds": fold.seconds}, fold.curves, self.spool.files(folder))
            self.spool.drop(folder)

    def empty_if_possible(self) -> None:
        """Log all folds, unless the store is away: training then goes on, and at its end there is another try."""
        if self.away:
            return
        try:
            self.empty()
        except FAILURES as error:
            self.away = True
            log.warning("not logged yet, kept in %s: %s", self.spool.path, in_one_line(error))


def _tracker(cfg: DictConfig) -> Tracker:
    return Tracker(cfg.tracking.uri, Path(cfg.tracking.folder))


def _check_device(device: str) -> None:
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not present.get(device, True):
        here = ", ".join(["auto", "cpu", *(name for name, found in present.items() if found)])
        raise UserError(f"trainer.device={device}: not on this machine, which has {here}")


def _fold_files(task: Task, identity: Identity, precision: str, weights: Weights, result: FoldResult) -> Files:
    title = f"{identity.title}, fold {result.index + 1}"
    (fold,) = [fold for fold in task.folds if fold.index == result.index]
    description = {
        "config": identity.yaml,
        "features": task.features.spec.__dict__,
        "genres": task.catalogue.genres,
        "precision": precision,
        "dataset_digest": task.features.digest,
        "trained_on": [task.features.tracks[i].id for i in np.union1d(fold.train, fold.val)],
        "scores": result.scores,
        "origin": identity.tags,
    }
    return {
        **fold_files(result),
        "config.yaml": identity.yaml.encode(),
        "model.safetensors": modelfile.serialised(weights, description),
        "loss_curves.png": plots.png(plots.loss_curves([result], title=title, note=task.note)),
        "confusion_matrix.png": plots.png(
            plots.confusion_matrix(result.confusion, result.genres, title=title, note=task.note)
        ),
    }


def _summary_files(task: Task, identity: Identity, result: ConfigResult) -> Files:
    matrix = plots.confusion_matrix(result.confusion, result.genres, title=identity.title, note=task.note)
    ids = [track.id for track in task.features.tracks]
    files = {
        "config.yaml": identity.yaml.encode(),
        "confusion_matrix.csv": confusion_file(result.confusion, result.genres),
        "tracks.csv": tracks_file({track.id: _facts(track) for track in task.features.tracks}),
        "confusion_matrix.png": plots.png(matrix),
        "loss_curves.png": plots.png(plots.loss_curves(result.folds, title=identity.title, note=task.note)),
        "reliability.png": plots.png(plots.reliability(result.tempered.calibration, note=task.note)),
        f"genre_means_{task.features.spec.kind}.npz": genre_means_file(_genre_means(task)),
    }
    if faults := [(str(fault.track.path), fault.reason) for fault in task.features.faults]:
        files["unreadable.csv"] = csv_file([("path", "reason"), *faults])
    if repetitions := [(ids[pair.first], ids[pair.second], pair.similarity) for pair in task.repetitions]:
        files["repetitions.csv"] = csv_file([("track", "repeats", "similarity"), *repetitions])
    return files


def _facts(track: Track) -> dict[str, str]:
    known = {"genre": track.genre, "artist": track.artist or "", "fault": track.fault or ""}
    return known | {"path": str(track.path.absolute())}


def _genre_means(task: Task) -> GenreMeans:
    spec, genres = task.features.spec, task.catalogue.genres
    frequencies = mel_frequencies(spec) if spec.kind == "mel" else np.array([])
    matrices = genre_means(task.features, task.labels, len(genres))
    return GenreMeans(spec.kind, genres, matrices, spec.seconds_per_frame, frequencies)


def _in_words(result: ConfigResult, missing: Sequence[int]) -> str:
    if missing:
        there, others = f"{len(result.folds)} of {len(result.folds) + len(missing)}", ",".join(map(str, missing))
        return f"{there} folds are there; the same command without fold= trains fold={others} too"
    accuracy = result.estimate("accuracy")
    low, high = accuracy.share_interval
    spread = f" ± {accuracy.std:.1%}" if len(result.folds) > 1 else ""
    return (
        f"accuracy {accuracy.mean:.1%}{spread} (95 % interval {low:.1%} to {high:.1%}), "
        f"{result.seconds_per_fold:.1f} s a fold"
    )
