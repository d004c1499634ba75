"""One configuration from settings to evidence: load, split, train and judge each fold, log everything to MLflow."""

import atexit
import gc
import logging
import math
import os
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing import parent_process
from pathlib import Path

import numpy as np
import torch
from joblib import Parallel, cpu_count, delayed
from omegaconf import DictConfig

from genre_cls import plots
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
from genre_cls.identity import Identity
from genre_cls.lifeline import end_with
from genre_cls.modelfile import Weights, saved
from genre_cls.models import n_parameters, on_accelerator
from genre_cls.progress import progress_bar
from genre_cls.scoring import ConfigResult, Curves, FoldResult, GenreMeans, voted
from genre_cls.spool import Spool
from genre_cls.task import Task, genre_means, load, load_all
from genre_cls.tracking import FAILURES, NOTE, PARENT, WAITING, Earlier, OpenRun, Texts, Tracker
from genre_cls.training import Member, check_buildable, new_model, train_member

log = logging.getLogger(__name__)

atexit.register(gc.freeze)  # or Python looks through all that torch has loaded once more before it leaves, for seconds


def prepare(configurations: Sequence[DictConfig]) -> None:
    """Check that some configurations can run, and get all that they need from the audio.

    Args:
        configurations: composed and checked.

    Raises:
        UserError: no data, too much of it unreadable, too little for the folds, no such device or server.
    """
    for uri, folder in {(cfg.tracking.uri, cfg.tracking.folder) for cfg in configurations}:
        if uri or Path(folder, "mlflow.db").exists():
            Tracker(uri, Path(folder))  # a server that is away or a damaged store is told before the work, not after
    for cfg in configurations:
        _check_device(cfg.trainer.device)
        check_buildable(cfg)
    load_all(configurations)
    for uri, folder in {(cfg.tracking.uri, cfg.tracking.folder) for cfg in configurations}:
        tracker = Tracker(uri, Path(folder))
        with tracker.failures_told():
            tracker.close_dead()


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
        self.key = identity.key(task.inputs)
        self.spool = Spool(Path(cfg.tracking.folder), self.key)
        self.done: dict[int, FoldResult] = {}
        self.size = sum(n_parameters(new_model(cfg, len(task.catalogue.genres), view)) for view in cfg.recipe.members)

    @property
    def missing(self) -> list[int]:
        """The folds that are not done, whoever is to train them."""
        return [fold.index for fold in self.task.folds if fold.index not in self.done]

    @property
    def result(self) -> ConfigResult:
        """The folds that are done."""
        return ConfigResult(self.identity.named, tuple(self.done[index] for index in sorted(self.done)), self.size)

    def run(self) -> None:
        """Train the job's folds that nobody has finished."""
        mine, title = self.task.mine, self.identity.title
        all_mine = len(mine) == len(self.task.folds)
        with self.tracker.held([f"{self.key}/{fold.index}" for fold in mine], title):
            with self._claimed() as logged:
                if taken := sum(fold.index in self.done for fold in mine):
                    log.info("%s: %d of %d folds taken over (force=true trains them anew)", title, taken, len(mine))
                if all_mine:
                    self._train(logged)
            if not all_mine:
                self._train(lambda: None)
        if not all_mine:
            with self._claimed():  # which logs it
                pass

    def _train(self, then: Callable[[], None]) -> None:
        left = [fold for fold in self.task.mine if fold.index not in self.done]
        for result, weights in train_folds(self.cfg, self.task, left, self.identity.title):
            self.spool.put(result.index, _fold_files(self.task, self.identity, weights, result))
            self.done[result.index] = result
            then()

    @contextmanager
    def _claimed(self) -> Iterator[Callable[[], None]]:
        """Have the configuration, and log what is on disk: first, when asked to by what is given, and last."""
        with self.tracker.claim(self.key, self.identity.title) as claim:
            earlier = self._found()
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

    def _found(self) -> Earlier:
        """Look what earlier commands and other jobs have done."""
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


def _kept(spool: Spool, logged: Container[int]) -> dict[int, FoldResult]:
    """The folds that an earlier command has finished but not logged; what is damaged or logged is deleted."""
    found = {}
    for folder in spool.folders():
        try:
            spool.files(folder)
            if (fold := load_fold(folder)).index not in logged:
                found[fold.index] = fold
                continue
        except (OSError, *DAMAGED) as error:
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


def train_folds(cfg: DictConfig, task: Task, folds: Sequence[Fold], title: str) -> Iterator[tuple[FoldResult, Weights]]:
    """Train the models of some folds side by side, and give each fold as soon as its models can vote.

    A model gets few threads and every core a model: that is faster than one model on all cores, where the threads wait
    for each other, and the numbers do not depend on how many cores there are. In a job that has others beside it, and
    on a GPU, models take turns, unless `trainer.workers` allows more where that is possible.
    """
    n_members = len(cfg.recipe.members)
    cores = 1 if _beside_others() or on_accelerator(cfg.trainer.device) else cpu_count()  # that this process may use
    workers = cfg.trainer.workers or max(1, cores // cfg.trainer.threads)
    parallel = Parallel(
        n_jobs=1 if parent_process() else max(1, min(workers, len(folds) * n_members)),
        return_as="generator_unordered",
        initializer=end_with,
        initargs=(os.getpid(),),
    )
    jobs = (delayed(train_member)(cfg, task, fold, member) for fold in folds for member in range(n_members))
    yield from progress_bar(_voted(task, parallel(jobs), n_members), title, total=len(folds))


def _beside_others() -> bool:
    """Whether a launcher has started this process beside others on the same cores: joblib, submitit here."""
    return parent_process() is not None or os.environ.get("SUBMITIT_EXECUTOR") == "local"


def _voted(task: Task, trained: Iterable[Member], n_members: int) -> Iterator[tuple[FoldResult, Weights]]:
    """Bring the members of each fold together, in whatever order they come."""
    waiting: dict[int, list[Member]] = {}
    for member in trained:
        there = waiting.setdefault(member.fold.index, [])
        there.append(member)
        if len(there) == n_members:
            members = sorted(waiting.pop(member.fold.index), key=lambda each: each.place)
            yield _result(task, members), _weights(members)


def _result(task: Task, members: Sequence[Member]) -> FoldResult:
    fold = members[0].fold
    probabilities = voted([member.windows.probabilities for member in members])
    windows = replace(members[0].windows, probabilities=probabilities)
    return FoldResult(
        index=fold.index,
        track_ids=tuple(task.features.tracks[i].id for i in fold.test),
        labels=task.labels[fold.test],
        probabilities=windows.per_track,
        genres=task.catalogue.genres,
        curves=_mean_curves([member.curves for member in members]),
        n_train=len(fold.train),
        seconds=sum(member.seconds for member in members),
        windows=windows,
    )


def _weights(members: Sequence[Member]) -> Weights:
    return {f"{member.place}.{name}": weights for member in members for name, weights in member.weights.items()}


def _mean_curves(members: Sequence[Curves]) -> Curves:
    """Epoch by epoch, as far as all members came."""
    epochs = {name: list(zip(*(own[name] for own in members), strict=False)) for name in members[0]}
    return {name: np.mean(values, axis=1).tolist() for name, values in epochs.items()}


def _tracker(cfg: DictConfig) -> Tracker:
    return Tracker(cfg.tracking.uri, Path(cfg.tracking.folder))


def _check_device(device: str) -> None:
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not present.get(device, True):
        here = ", ".join(["auto", "cpu", *(name for name, found in present.items() if found)])
        raise UserError(f"trainer.device={device}: not on this machine, which has {here}")


def _fold_files(task: Task, identity: Identity, weights: Weights, result: FoldResult) -> Files:
    title = f"{identity.title}, fold {result.index + 1}"
    (fold,) = [fold for fold in task.folds if fold.index == result.index]
    description = {
        "config": identity.yaml,
        "features": task.features.spec.__dict__,
        "genres": task.catalogue.genres,
        "dataset_digest": task.features.digest,
        "trained_on": [task.features.tracks[i].id for i in fold.train],
        "scores": result.scores,
        "origin": identity.tags,
    }
    return {
        **fold_files(result),
        "config.yaml": identity.yaml.encode(),
        "model.safetensors": saved(weights, description),
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
        done, others = len(result.folds), ",".join(map(str, missing))
        return f"{done} of {done + len(missing)} folds are there; -m fold={others} trains the others"
    accuracy = result.estimate("accuracy")
    low, high = accuracy.share_interval
    return (
        f"accuracy {accuracy.mean:.1%} ± {accuracy.std:.1%} (95 % interval {low:.1%} to {high:.1%}), "
        f"{result.seconds_per_fold:.1f} s a fold"
    )
