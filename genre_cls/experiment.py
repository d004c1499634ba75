"""One configuration from settings to evidence: load, split, train and judge each fold, log everything to MLflow."""

import atexit
import gc
import logging
import math
import os
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing import parent_process
from pathlib import Path
from time import perf_counter

import numpy as np
import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from joblib import Parallel, cpu_count, delayed
from omegaconf import DictConfig
from torch import nn

from genre_cls import plots
from genre_cls.catalogue import Track
from genre_cls.data import FoldData, Windowing, genre_means
from genre_cls.errors import UserError, in_one_line
from genre_cls.features import FeatureSpec, mel_frequencies
from genre_cls.folds import Fold
from genre_cls.identity import Identity
from genre_cls.lifeline import end_with
from genre_cls.modelfile import Weights, saved
from genre_cls.models import n_parameters, seen
from genre_cls.module import Augmentation, GenreModule, Training, fit, on_accelerator
from genre_cls.progress import progress_bar
from genre_cls.scoring import ConfigResult, Curves, FoldResult, GenreMeans, WindowPredictions, voted
from genre_cls.spool import Spool
from genre_cls.task import Task, load, load_all
from genre_cls.tracking import (
    DAMAGED,
    FAILURES,
    KEY,
    NOTE,
    PARENT,
    Earlier,
    Files,
    Texts,
    Tracker,
    confusion_file,
    csv_file,
    fold_files,
    genre_means_file,
    load_fold,
    tracks_file,
)  # fmt: skip

log = logging.getLogger(__name__)

SEEDS_APART = 10_000  # between the members of an ensemble; folds count up from the seed

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
        _check_buildable(cfg)
    load_all(configurations)
    for uri, folder in {(cfg.tracking.uri, cfg.tracking.folder) for cfg in configurations}:
        tracker = Tracker(uri, Path(folder))
        with tracker.failures_told():
            tracker.close_dead()


def judge(cfg: DictConfig, identity: Identity) -> float:
    """Cross-validate one configuration and log it; folds that an earlier command has finished are taken over.

    Args:
        cfg: the configuration, composed and checked.
        identity: what it is called and told apart by.

    Returns:
        Mean accuracy of the folds; not a number if the split is impossible and that is to be skipped.

    Raises:
        UserError: the data or the device do not allow it.
    """
    task = load(cfg)
    if task is None:
        return math.nan
    tracker = _tracker(cfg)
    key = identity.key(task.inputs)
    with tracker.failures_told(), tracker.claim(key, identity.title) as claim:
        experiment = tracker.experiment(cfg.tracking.experiment or f"genre_cls {identity.dataset}")
        earlier = Earlier(experiment) if cfg.force else tracker.earlier(experiment, key)
        summary = _complete(cfg, task, identity, tracker, claim, earlier)
    log.info("%s: %s", identity.title, _in_words(summary))
    return summary.estimate("accuracy").mean


def _complete(
    cfg: DictConfig, task: Task, identity: Identity, tracker: Tracker, claim: Texts, earlier: Earlier
) -> ConfigResult:
    """Train the folds that no earlier command has finished, and log them and the whole."""
    genres, views = len(task.catalogue.genres), cfg.recipe.members
    size = sum(n_parameters(_model(cfg, genres, view)) for view in views)
    spool = Spool(Path(cfg.tracking.folder), claim[KEY])
    if cfg.force:
        spool.clear()
    done = {result.index: result for result in earlier.folds}
    done |= _kept(spool, done)
    left = [fold for fold in task.folds if fold.index not in done]
    if done:
        taken = len(done), len(task.folds)
        log.info("%s: %d of %d folds taken over (force=true trains them anew)", identity.title, *taken)
    if earlier.run_id and earlier.finished and len(earlier.folds) == len(task.folds):
        tracker.confirm(earlier.run_id)
        return ConfigResult(identity.named, earlier.folds, size)
    params = {**identity.params, "n_parameters": str(size)}
    tags = identity.tags | {"dataset_digest": task.features.digest, "comparison": task.digest, NOTE: task.note, **claim}
    whole = tags | {"kind": "config"}
    with tracker.run(earlier.experiment_id, identity.title, whole, params, again=earlier.run_id) as parent:
        own = tags | {"kind": "fold", PARENT: parent.run_id}
        outbox = _Outbox(spool, tracker, earlier.experiment_id, own, params)
        outbox.empty()
        for result, weights in train_folds(cfg, task, left, identity.title):
            spool.put(result.index, _fold_files(task, identity, weights, result))
            done[result.index] = result
            outbox.empty_if_possible()
        outbox.empty()
        summary = ConfigResult(identity.named, tuple(done[index] for index in sorted(done)), size)
        parent.log(summary.summary, {}, _summary_files(task, identity, summary))
    tracker.confirm(parent.run_id)
    return summary


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
    """Train some folds, side by side on a CPU, and give each as soon as it is done.

    A fold gets few threads and every core a fold: that is faster than one fold on all cores, where the threads wait
    for each other, and the numbers do not depend on how many cores there are. In a worker of a launcher's, which has
    others beside it, the folds take turns.
    """
    workers = cfg.trainer.workers or max(1, cpu_count() // cfg.trainer.threads)  # the cores that this process may use
    alone = on_accelerator(cfg.trainer.device) or parent_process() is not None
    parallel = Parallel(
        n_jobs=1 if alone else workers,
        return_as="generator_unordered",
        initializer=end_with,
        initargs=(os.getpid(),),
    )
    jobs = (delayed(train_fold)(cfg, task, fold) for fold in folds)
    yield from progress_bar(parallel(jobs), title, total=len(folds))


def train_fold(cfg: DictConfig, task: Task, fold: Fold) -> tuple[FoldResult, Weights]:
    """Train fresh models on a fold and judge their vote by the held-out tracks."""
    started = perf_counter()
    torch.set_num_threads(cfg.trainer.threads)
    trained = [_train_member(cfg, task, fold, member) for member in range(len(cfg.recipe.members))]
    windows = replace(trained[0][1], probabilities=voted([windows.probabilities for _, windows in trained]))
    result = FoldResult(
        index=fold.index,
        track_ids=tuple(task.features.tracks[i].id for i in fold.test),
        labels=task.labels[fold.test],
        probabilities=windows.per_track,
        genres=task.catalogue.genres,
        curves=_mean_curves([module.curves for module, _ in trained]),
        n_train=len(fold.train),
        seconds=perf_counter() - started,
        windows=windows,
    )
    weights = [module.weights() for module, _ in trained]
    return result, {f"{member}.{name}": w for member, own in enumerate(weights) for name, w in own.items()}


def _train_member(cfg: DictConfig, task: Task, fold: Fold, member: int) -> tuple[GenreModule, WindowPredictions]:
    seed = cfg.seed + SEEDS_APART * member
    pl.seed_everything(seed + fold.index, verbose=False)
    recipe, spec, view = cfg.recipe, task.features.spec, cfg.recipe.members[member]
    windowing = Windowing(spec.n_frames(recipe.window), recipe.overlap, cfg.batch_size, seed, view)
    data = FoldData(task.features, task.labels, fold, windowing)
    module = GenreModule(
        _model(cfg, len(task.catalogue.genres), view),
        data.standardisation(),
        _augmentation(cfg),
        instantiate(recipe.optimizer),
        instantiate(recipe.schedule),
        view,
    )
    training = Training(recipe.epochs, recipe.early_stopping.patience, cfg.trainer.device, cfg.trainer.precision)
    return module, fit(module, data, training)


def _mean_curves(members: Sequence[Curves]) -> Curves:
    """Epoch by epoch, as far as all members came."""
    epochs = {name: list(zip(*(own[name] for own in members), strict=False)) for name in members[0]}
    return {name: np.mean(values, axis=1).tolist() for name, values in epochs.items()}


def _model(cfg: DictConfig, n_genres: int, view: str) -> nn.Module:
    """A fresh model that has seen a window, since some take their shape from it."""
    model: nn.Module = instantiate(cfg.model, n_genres=n_genres)
    spec: FeatureSpec = instantiate(cfg.features)
    windows = seen(torch.zeros(2, 1, spec.n_bins, spec.n_frames(cfg.recipe.window)), view)
    try:
        with torch.no_grad():
            shape = tuple(model.eval()(windows).shape)
    except (RuntimeError, ValueError, IndexError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"model: fails on {windows.shape[2]} bins x {windows.shape[3]} frames: {reason}") from error
    if shape != (2, n_genres):
        raise UserError(f"model: gives {shape} for two windows and {n_genres} genres, must give (2, {n_genres})")
    return model.train()


def _augmentation(cfg: DictConfig) -> Augmentation:
    augmentation: Augmentation = instantiate(cfg.recipe.augmentation)
    # A shift of mel bands is one of pitch; cepstral coefficients have no such order.
    return augmentation if cfg.features.kind == "mel" else replace(augmentation, bin_shift=0)


def _tracker(cfg: DictConfig) -> Tracker:
    return Tracker(cfg.tracking.uri, Path(cfg.tracking.folder))


def _check_device(device: str) -> None:
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not present.get(device, True):
        here = ", ".join(["auto", "cpu", *(name for name, found in present.items() if found)])
        raise UserError(f"trainer.device={device}: not on this machine, which has {here}")


def _check_buildable(cfg: DictConfig) -> None:
    """Build once what training will build, so that a wrong argument is told before the work, not after."""
    model, *_ = [_model(cfg, 2, view) for view in dict.fromkeys(cfg.recipe.members)]
    optimizer = instantiate(cfg.recipe.optimizer, model.parameters(), _partial_=False)
    instantiate(cfg.recipe.schedule, optimizer, 100, _partial_=False)
    _augmentation(cfg)


def _fold_files(task: Task, identity: Identity, weights: Weights, result: FoldResult) -> Files:
    title = f"{identity.title}, fold {result.index + 1}"
    description = {
        "config": identity.yaml,
        "features": task.features.spec.__dict__,
        "genres": task.catalogue.genres,
        "dataset_digest": task.features.digest,
        "trained_on": [task.features.tracks[i].id for i in task.folds[result.index].train],
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
        "reliability.png": plots.png(plots.reliability(result.calibration, note=task.note)),
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


def _in_words(result: ConfigResult) -> str:
    accuracy = result.estimate("accuracy")
    low, high = accuracy.share_interval
    return (
        f"accuracy {accuracy.mean:.1%} ± {accuracy.std:.1%} (95 % interval {low:.1%} to {high:.1%}), "
        f"{result.seconds_per_fold:.1f} s a fold"
    )
