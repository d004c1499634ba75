"""Prepares a command's data: extracts all its features, decoding each track once, and logs what was found."""

import logging
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

import numpy as np
from hydra.utils import instantiate
from omegaconf import DictConfig

from genre_cls.errors import in_one_line
from genre_cls.tracks.artists import recordings
from genre_cls.tracks.catalogue import Track
from genre_cls.tracks.duplicates import FINGERPRINT
from genre_cls.tracks.feature_cache import FeatureCache, Features
from genre_cls.tracks.features import filterbank
from genre_cls.tracks.folds import SplitError, describe
from genre_cls.training.dataset import catalogue_of, data_settings
from genre_cls.training.task import Task, features_of, load, same_files, specs_of, split_of, split_settings

log = logging.getLogger(__name__)

N_LISTED = 10  # genres whose sizes are logged, and lines of a kind


def prepare_data(configurations: Sequence[DictConfig]) -> None:
    """Extract all features that configurations need, decoding each track once, and log what was found.

    Raises:
        UserError: as `load`; with `skip_impossible` set, only if no split is possible.
    """
    by_data: dict[str, list[DictConfig]] = {}
    for cfg in configurations:
        by_data.setdefault(data_settings(cfg), []).append(cfg)
    for same in by_data.values():
        _prepare_same(same)


def _prepare_same(configurations: Sequence[DictConfig]) -> None:
    """Extract what configurations on the same data need, and log what was found."""
    for cfg in configurations:
        split_of(cfg)  # refuses wrong arguments before features are extracted
    first, specs = configurations[0], [spec for cfg in configurations for spec in specs_of(cfg)]
    features = features_of(first, specs)[0]
    tasks = _tasks(configurations)
    _announce(first, features)
    if FINGERPRINT in specs:
        _announce_artists(features.tracks)
    oddities = (_oddities(cfg, features, [task for task, _ in tasks]) for cfg in configurations)
    for line in dict.fromkeys(chain.from_iterable(oddities)):  # each once
        log.warning(line)
    for task, split in tasks:
        _announce_split(task, split)
    possible = {split for _, split in tasks}
    if len(possible) == 1 < len({cfg.folds._target_ for cfg in configurations}):
        log.warning("folds=%s alone is possible here, so that there is no drop between splits to report", *possible)


def _tasks(configurations: Sequence[DictConfig]) -> list[tuple[Task, str]]:
    """Return the different tasks of configurations on the same data, each with the name of its split."""
    splits = {split_settings(cfg): cfg for cfg in configurations}
    tasks = ((load(cfg), cfg.folds._target_.rpartition(".")[2]) for cfg in splits.values())
    different = {(task.inputs, split): (task, split) for task, split in tasks if task}
    if not different:
        raise SplitError("none of these splits is possible on this dataset")
    return list(different.values())


def _announce(cfg: DictConfig, features: Features) -> None:
    catalogue, cache = catalogue_of(cfg), FeatureCache(cfg.cache_dir)
    genres = f"{len(catalogue.genres)} genres ({in_one_line(_sizes(catalogue.genres, features.tracks))})"
    log.info("%s: %d tracks in %s", catalogue.name, len(features.tracks), genres)
    skipped = (f"skipped {each.track.path}: {each.reason}" for each in features.unreadable)
    same = ((features.tracks[one], features.tracks[other]) for one, other in same_files(features))
    contradictions = (
        f"the same file is in two genres: {one.id} and {other.id}" for one, other in same if one.genre != other.genre
    )
    for lines in (catalogue.notes, skipped, contradictions):
        _warn_of_each(lines)
    root = shlex.quote(str(cache.root))
    log.info("features: %.0f MB in %s (rm -r %s deletes them)", cache.size() / 1e6, cache.root, root)


def _announce_artists(tracks: Sequence[Track]) -> None:
    if unknown := sum(track.artist is None for track in tracks):
        log.info("artists: unknown for %d of %d tracks; each counts as an artist of its own", unknown, len(tracks))


def _announce_split(task: Task, split: str) -> None:
    tracks = task.features.tracks
    log.info("split: %s (%s)", describe(task.facts, task.folds), split)
    if n_leaked := _n_leaked(task):
        n_test = sum(len(fold.test) for fold in task.folds)
        log.warning("split: %d of %d held-out tracks have the same recording in the training set", n_leaked, n_test)
    alike = ((tracks[pair.first].id, tracks[pair.second].id) for pair in task.duplicates)
    _warn_of_each(f"kept in the same fold, as they sound alike: {one} and {other}" for one, other in alike)


def _n_leaked(task: Task) -> int:
    """Return how many held-out tracks, over all folds, have their recording in the fold's training set."""
    numbers = recordings(task.features.tracks, same_files(task.features))
    return sum(int(np.isin(numbers[fold.test], numbers[fold.known]).sum()) for fold in task.folds)


def _oddities(cfg: DictConfig, features: Features, tasks: Sequence[Task]) -> Iterator[str]:
    """Yield a line for each setting that is allowed but does not suit these tracks."""
    spec, longest = instantiate(cfg.features), features.longest
    if cfg.recipe.window > longest + spec.seconds_per_frame:
        window = f"recipe.window={cfg.recipe.window:g}"
        yield f"{window}: longer than every track (the longest has {longest:.1f} s), so tracks are repeated to fill it"
    if n_empty := int((filterbank(spec) == 0).all(dim=1).sum()):
        bands = f"features.n_mels={spec.n_mels}: {n_empty} of the bands lie between two frequencies"
        yield f"{bands} of an FFT and stay empty; take fewer, or a larger features.n_fft"
    n_train = max(len(fold.train) for task in tasks for fold in task.folds)
    if cfg.batch_size > n_train:
        yield f"batch_size={cfg.batch_size}: more than the {n_train} training tracks of a fold, so an epoch is one step"


def _warn_of_each(lines: Iterable[str]) -> None:
    """Log the first of some lines, and how many more there are."""
    lines = list(map(in_one_line, lines))
    for line in lines[:N_LISTED]:
        log.warning(line)
    if len(lines) > N_LISTED:
        log.warning("… and %d more like this", len(lines) - N_LISTED)


def _sizes(genres: Sequence[str], tracks: Sequence[Track]) -> str:
    """List the first genres with their numbers of tracks."""
    counts = Counter(track.genre for track in tracks)
    more = ", …" if len(genres) > N_LISTED else ""
    return ", ".join(f"{genre} {counts[genre]}" for genre in genres[:N_LISTED]) + more
