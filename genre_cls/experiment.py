"""One configuration from settings to evidence: load, split, train and judge each fold, log everything to MLflow."""

import atexit
import gc
import logging
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
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
from genre_cls.errors import UserError
from genre_cls.features import FeatureSpec, mel_frequencies
from genre_cls.folds import Fold
from genre_cls.identity import Identity
from genre_cls.lifeline import end_with
from genre_cls.modelfile import Weights, saved
from genre_cls.models import n_parameters
from genre_cls.module import Augmentation, GenreModule, Training, fit, on_accelerator
from genre_cls.progress import progress_bar
from genre_cls.scoring import ConfigResult, Curves, FoldResult, GenreMeans, WindowPredictions
from genre_cls.task import Task, load, load_all
from genre_cls.tracking import (
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
    for uri in {cfg.tracking.uri for cfg in configurations} - {""}:
        Tracker(uri, Path())  # a server that does not answer is told before the work, not after
    for cfg in configurations:
        _check_device(cfg.trainer.device)
        _check_buildable(cfg)
    load_all(configurations)
    for uri, folder in {(cfg.tracking.uri, cfg.tracking.folder) for cfg in configurations}:
        Tracker(uri, Path(folder)).close_dead()


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
    experiment = tracker.experiment(cfg.tracking.experiment or f"genre_cls {identity.dataset}")
    key = identity.key(task.inputs)
    with tracker.claim(key, identity.title) as claim:
        earlier = Earlier(experiment) if cfg.force else tracker.earlier(experiment, key)
        if earlier.folds:
            taken = len(earlier.folds), len(task.folds)
            log.info("%s: %d of %d folds taken over (force=true trains them anew)", identity.title, *taken)
        summary = _complete(cfg, task, identity, tracker, claim, earlier)
    log.info("%s: %s", identity.title, _in_words(summary))
    return summary.estimate("accuracy").mean


def _complete(
    cfg: DictConfig, task: Task, identity: Identity, tracker: Tracker, claim: Texts, earlier: Earlier
) -> ConfigResult:
    """Train the folds that an earlier command has not finished, and log them and the whole."""
    size = len(cfg.recipe.members) * n_parameters(_model(cfg, len(task.catalogue.genres)))
    done = {result.index: result for result in earlier.folds}
    left = [fold for fold in task.folds if fold.index not in done]
    if earlier.run_id and earlier.finished and not left:
        tracker.confirm(earlier.run_id)
        return ConfigResult(identity.named, earlier.folds, size)
    params = {**identity.params, "n_parameters": str(size)}
    tags = identity.tags | {"dataset_digest": task.features.digest, "comparison": task.digest, NOTE: task.note, **claim}
    whole = tags | {"kind": "config"}
    with tracker.run(earlier.experiment_id, identity.title, whole, params, again=earlier.run_id) as parent:
        for result, weights in train_folds(cfg, task, left, identity.title):
            own = tags | {"kind": "fold", PARENT: parent.run_id}
            name = f"fold {result.index + 1}"
            with tracker.run(earlier.experiment_id, name, own, params, lasted=result.seconds) as child:
                metrics = result.scores | {"seconds": result.seconds}
                child.log(metrics, result.curves, _fold_files(task, identity, weights, result))
            done[result.index] = result
        summary = ConfigResult(identity.named, tuple(done[index] for index in sorted(done)), size)
        parent.log(summary.summary, {}, _summary_files(task, identity, summary))
    return summary


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
    """Train fresh models on a fold and judge their mean by the held-out tracks."""
    started = perf_counter()
    torch.set_num_threads(cfg.trainer.threads)
    trained = [_train_member(cfg, task, fold, member) for member in range(len(cfg.recipe.members))]
    windows = replace(trained[0][1], probabilities=np.mean([windows.probabilities for _, windows in trained], axis=0))
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
    recipe, spec = cfg.recipe, task.features.spec
    levelled = recipe.members[member] == "levelled"
    windowing = Windowing(spec.n_frames(recipe.window), recipe.overlap, cfg.batch_size, seed, levelled)
    data = FoldData(task.features, task.labels, fold, windowing)
    module = GenreModule(
        _model(cfg, len(task.catalogue.genres)),
        data.standardisation(),
        _augmentation(cfg),
        instantiate(recipe.optimizer),
        instantiate(recipe.schedule),
    )
    training = Training(recipe.epochs, recipe.early_stopping.patience, cfg.trainer.device, cfg.trainer.precision)
    return module, fit(module, data, training)


def _mean_curves(members: Sequence[Curves]) -> Curves:
    """Epoch by epoch, as far as all members came."""
    epochs = {name: list(zip(*(own[name] for own in members), strict=False)) for name in members[0]}
    return {name: np.mean(values, axis=1).tolist() for name, values in epochs.items()}


def _model(cfg: DictConfig, n_genres: int) -> nn.Module:
    """A fresh model that has seen a window, since some take their shape from it."""
    model: nn.Module = instantiate(cfg.model, n_genres=n_genres)
    spec: FeatureSpec = instantiate(cfg.features)
    windows = torch.zeros(2, 1, spec.n_bins, spec.n_frames(cfg.recipe.window))
    try:
        with torch.no_grad():
            shape = tuple(model.eval()(windows).shape)
    except (RuntimeError, ValueError, IndexError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"model: fails on {spec.n_bins} bins x {windows.shape[3]} frames: {reason}") from error
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
    model = _model(cfg, n_genres=2)
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
