"""The data of a configuration: its tracks, their features and the folds that split them."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from inspect import signature
from pathlib import Path

import numpy as np
from hydra.utils import instantiate
from omegaconf import DictConfig

from genre_cls.configuration.identity import is_part
from genre_cls.configuration.settings import CONF, as_yaml
from genre_cls.configuration.sources import digest
from genre_cls.errors import UserError, in_one_line, with_place
from genre_cls.files import make_folder
from genre_cls.tracks.artists import artist_groups
from genre_cls.tracks.catalogue import Catalogue
from genre_cls.tracks.duplicates import FINGERPRINT, Duplicate, near_duplicates
from genre_cls.tracks.feature_cache import FeatureCache, Features
from genre_cls.tracks.features import FeatureSpec
from genre_cls.tracks.folds import Facts, Fold, Indices, SplitError, check_usable, within
from genre_cls.training.dataset import catalogue_of, data_settings

log = logging.getLogger(__name__)

N_NAMED = 3  # unreadable tracks that the error names if there are too many
LONGEST_NAME = 100  # letters of a dataset's name, which names MLflow's folder of the experiment
RESERVED = ("search", "reports", "models")  # names of experiments that hold something else

_last_pass: dict[str, dict[FeatureSpec, Features]] = {}  # features of the last pass over a dataset, by `data_settings`


@dataclass(frozen=True)
class Task:
    """The data of a configuration.

    Args:
        catalogue: all tracks.
        features: of the readable tracks.
        labels: genre of each readable track `(n_tracks,)`, indices into the catalogue's genres.
        folds: how the readable tracks are split.
        to_train: the folds that the present job trains.
        facts: what splits may know of each readable track.
        duplicates: pairs of tracks that sound like one recording, of unknown or other artists, if the split must know.
        note: small print for every figure; may be empty.
    """

    catalogue: Catalogue
    features: Features
    labels: Indices
    folds: Sequence[Fold]
    to_train: Sequence[Fold]
    facts: Facts
    duplicates: Sequence[Duplicate]
    note: str

    def dataset(self, option: str) -> str:
        """Return the dataset's name: a folder's own, unless one of the package's options has it.

        Args:
            option: the chosen option of the setting `dataset`.
        """
        name = in_one_line(self.catalogue.name)[:LONGEST_NAME]
        options = [path.stem for path in (CONF / "dataset").glob("*.yaml")]
        is_taken = name != option and name in (*options, *RESERVED)
        return f"{option} {name}" if is_taken else name or option

    @property
    def group_of(self) -> dict[str, str]:
        """The group of each track by its id; empty if no artist or recording is known to be shared."""
        if self.facts.groups is None:
            return {}
        return {track: str(group) for track, group in zip(self.facts.ids, self.facts.groups.tolist(), strict=True)}

    @property
    def digest(self) -> str:
        """Digest that is equal for configurations tested on the same tracks in the same folds."""
        return digest(self.features.digest, *(fold.test.tolist() for fold in self.folds))

    @property
    def inputs(self) -> str:
        """Digest that is equal for tasks with the same tracks, genres and training, validation and test tracks."""
        parts = [(fold.train.tolist(), fold.val.tolist()) for fold in self.folds]
        return digest(self.digest, self.catalogue.genres, parts)


def load(cfg: DictConfig) -> Task | None:
    """Load a configuration's features and split their tracks.

    Returns:
        The task; None if the split is impossible and `skip_impossible` is set.

    Raises:
        SplitError: the tracks do not allow the split.
        UserError: no data, or too much of it unreadable.
    """
    try:
        return _load(cfg)
    except SplitError as error:
        if not cfg.skip_impossible:
            raise
        _log_skipped(str(error))
        return None


@cache  # each reason once in a command
def _log_skipped(reason: str) -> None:
    log.warning("skipped: %s", reason)


def _load(cfg: DictConfig) -> Task:
    catalogue = catalogue_of(cfg)
    features, *fingerprints = features_of(cfg, specs_of(cfg))
    tracks, genres = features.tracks, [track.genre for track in features.tracks]
    if unreadable := set(catalogue.genres).difference(genres):
        raise UserError(f"genre {min(unreadable)}: none of its tracks can be read; repair them, or remove its folder")
    same = same_files(features)
    groups = artist_groups(tracks, same)
    duplicates = _unforeseen(_duplicates(fingerprints[0]), groups) if fingerprints else []
    if duplicates:
        groups = artist_groups(tracks, [*same, *((pair.first, pair.second) for pair in duplicates)])
    facts = Facts(genres, groups, [track.part for track in tracks], [track.id for track in tracks])
    folds = _folds(cfg, facts)
    labels = np.array([catalogue.genres.index(genre) for genre in genres])
    to_train = [folds[cfg.fold]] if is_part(cfg) else folds
    return Task(catalogue, features, labels, folds, to_train, facts, duplicates, _note(cfg, catalogue))


@lru_cache(maxsize=1)  # all configurations of a sweep share the last pass's
def _duplicates(fingerprints: Features) -> list[Duplicate]:
    return near_duplicates(fingerprints.clips)


def _unforeseen(pairs: Sequence[Duplicate], groups: Indices | None) -> list[Duplicate]:
    """Return the pairs that nothing else keeps on one side of a split."""
    return [pair for pair in pairs if groups is None or groups[pair.first] != groups[pair.second]]


def _note(cfg: DictConfig, catalogue: Catalogue) -> str:
    notes = {
        "Synthetic demo set: no real music.": catalogue.synthetic,
        "Genres are permuted among the tracks: an interval above chance hints at leakage.": cfg.shuffle_genres,
        "Evaluated within one fold's training tracks, to choose settings: not the score of what is chosen.": cfg.inside,
        "Evaluated on one fold only.": cfg.alone,
    }
    return " ".join(note for note, holds in notes.items() if holds)


def same_files(features: Features) -> list[tuple[int, int]]:
    """Return pairs of tracks whose files are equal byte by byte."""
    first: dict[Path, int] = {}  # the place of the first track with a file's content, by that content's cache entry
    pairs = []
    for place, entry in enumerate(features.entries):
        if entry in first:
            pairs.append((first[entry], place))
        else:
            first[entry] = place
    return pairs


def _folds(cfg: DictConfig, facts: Facts) -> list[Fold]:
    split = split_of(cfg)
    folds = _made(split, facts)
    if cfg.fold is None:
        return folds
    if cfg.fold >= len(folds):
        raise UserError(f"fold={cfg.fold}: must be null or from 0 to {len(folds) - 1}, as there are {len(folds)} folds")
    if is_part(cfg):
        return folds
    fold = folds[cfg.fold]
    if not cfg.inside:
        return [fold]
    return within(fold.known, partial(_made, _one_fewer(split)), facts)


def _made(split: partial[list[Fold]], facts: Facts) -> list[Fold]:
    """Call a split, which may be a user's own, and check what it makes."""
    try:
        folds = split(facts)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"folds: {_name(split)} fails: {with_place(error)}") from error
    if not (isinstance(folds, list) and folds and all(isinstance(fold, Fold) for fold in folds)):
        raise UserError(f"folds: {_name(split)} must return a list of genre_cls.tracks.folds.Fold")
    check_usable(folds, facts)
    if split.keywords.get("val_fraction") and (without := [fold.index for fold in folds if not len(fold.val)]):
        hint = f"{_name(split)} must hold some back, or take recipe.early_stopping.patience=0"
        raise UserError(f"folds: fold {without[0]} has no validation tracks, which early stopping needs; {hint}")
    return folds


def _name(split: partial[list[Fold]]) -> str:
    return getattr(split.func, "__name__", type(split.func).__name__)  # it may be an object that is called


def _one_fewer(split: partial[list[Fold]]) -> partial[list[Fold]]:
    """Return the split with one fold fewer: the training tracks of one fold may have too few artists for k folds."""
    k = split.keywords.get("k", 2)
    return partial(split, k=k - 1) if k > 2 else split


def split_settings(cfg: DictConfig) -> str:
    """Return all settings that decide which tracks train and which test."""
    return as_yaml(cfg, "folds", "recipe.early_stopping", "fold", "inside", "alone")


def split_of(cfg: DictConfig) -> partial[list[Fold]]:
    """Return the function that splits tracks.

    Raises:
        UserError: it does not take its arguments.
    """
    stopping = cfg.recipe.early_stopping
    split = instantiate(cfg.folds, val_fraction=stopping.val_fraction if stopping.patience else 0.0)
    try:
        signature(split.func).bind("facts", **split.keywords)
    except (TypeError, ValueError) as error:  # the latter of a builtin, whose arguments are not known
        raise UserError(f"folds: {_name(split)} {error}") from error
    return split


def features_of(cfg: DictConfig, specs: Sequence[FeatureSpec]) -> list[Features]:
    """Return the features of all readable tracks for each spec, from one pass, so that all have the same tracks.

    Only the last pass's are kept: those of all passes of a search might be more than a process may map.

    Args:
        cfg: names the dataset, where its features are cached, and how many tracks may be unreadable.
        specs: of the features.

    Raises:
        UserError: there is no dataset, or too much of it is unreadable.
    """
    settings = data_settings(cfg)
    if not _last_pass.get(settings, {}).keys() >= set(specs):
        unique = list(dict.fromkeys(specs))
        _last_pass[settings] = dict(zip(unique, _extract(cfg, unique), strict=True))
    return [_last_pass[settings][spec] for spec in specs]


def _extract(cfg: DictConfig, specs: Sequence[FeatureSpec]) -> list[Features]:
    tracks = catalogue_of(cfg).tracks
    features = FeatureCache(make_folder("cache_dir", cfg.cache_dir)).load(tracks, specs)
    unreadable, allowed = features[0].unreadable, cfg.max_unreadable * len(tracks)
    if len(unreadable) > (max(1, allowed) if allowed else 0):  # the share of few tracks would allow none
        raise UserError(
            f"{len(unreadable)} of {len(tracks)} tracks are unreadable, more than the share that "
            f"max_unreadable={cfg.max_unreadable:g} allows; repair or remove them, or raise max_unreadable: "
            + "; ".join(f"{each.track.path} {each.reason}" for each in unreadable[:N_NAMED])
            + (f"; and {len(unreadable) - N_NAMED} more" if len(unreadable) > N_NAMED else "")
        )
    return features


def specs_of(cfg: DictConfig) -> list[FeatureSpec]:
    """Return which features to extract: the models', and for a split by artist those that find duplicates."""
    needs_duplicates = cfg.folds._target_.endswith(".artist") and any(t.artist for t in catalogue_of(cfg).tracks)
    return [instantiate(cfg.features), *([FINGERPRINT] if needs_duplicates else [])]
