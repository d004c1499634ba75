"""Which tracks train and which are judged: from labels and artists alone, without touching a file."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold, train_test_split

from genre_cls.errors import UserError

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Fold:
    """Indices of tracks, each array sorted: `train` and `val` teach, `test` judges."""

    index: int
    train: Indices
    val: Indices
    test: Indices


def random(
    labels: Sequence[str], groups: Indices | None = None, *, k: int, seed: int, val_fraction: float = 0.0
) -> list[Fold]:
    """Split tracks into k stratified folds; every track is tested exactly once.

    Args:
        labels: the genre of each track.
        groups: ignored, as tracks of one artist may stand on both sides.
        k: number of folds, at least 2.
        seed: of the shuffle; the same labels and seed give the same folds for every configuration.
        val_fraction: share of a fold's training tracks that is set apart, stratified too, for early stopping.

    Raises:
        UserError: k below 2, a genre with fewer tracks than folds, or too few tracks to set some apart.
    """
    _check(labels, np.arange(len(labels)), k, "track")
    splits = StratifiedKFold(k, shuffle=True, random_state=seed).split(labels, labels)
    apart = partial(_set_apart, labels=labels, groups=None, fraction=val_fraction, seed=seed)
    return [Fold(index, *apart(train), test) for index, (train, test) in enumerate(splits)]


def artist(
    labels: Sequence[str], groups: Indices | None, *, k: int, seed: int, val_fraction: float = 0.0
) -> list[Fold]:
    """Split tracks into k folds that share no artist and no recording, as even in genres as that allows.

    Args:
        labels: the genre of each track.
        groups: equal numbers for tracks that must stay on one side `(n_tracks,)`.
        k: number of folds, at least 2.
        seed: of the shuffle.
        val_fraction: share of a fold's training tracks that is set apart, by whole groups too, for early stopping.

    Raises:
        UserError: no artist is known, k below 2, or a genre with fewer artists than folds.
    """
    if groups is None:
        raise UserError("folds=artist: the dataset names no artists; give them in metadata.csv, or take folds=random")
    _check(labels, groups, k, "artist")
    splits = StratifiedGroupKFold(k, shuffle=True, random_state=seed).split(labels, labels, groups)
    apart = partial(_set_apart, labels=labels, groups=groups, fraction=val_fraction, seed=seed)
    return [Fold(index, *apart(train), test) for index, (train, test) in enumerate(splits)]


def _check(labels: Sequence[str], groups: Indices, k: int, unit: str) -> None:
    if k < 2:
        raise UserError(f"folds.k={k}: must be at least 2")
    if not len(labels):
        raise UserError("there is no track to split into folds")
    counts = {genre: len(set(groups[np.asarray(labels) == genre].tolist())) for genre in sorted(set(labels))}
    rarest = min(counts, key=lambda genre: counts[genre])
    if (n := counts[rarest]) < k:
        raise UserError(f"folds.k={k}: genre {rarest} has only {n} {unit}{'s'[: n != 1]}; every fold needs one to test")


def _set_apart(
    train: Indices, *, labels: Sequence[str], groups: Indices | None, fraction: float, seed: int
) -> tuple[Indices, Indices]:
    """Part training tracks into those that teach and the inner validation tracks."""
    if not fraction:
        return train, np.array([], dtype=np.int64)
    own = [labels[i] for i in train]
    try:
        if groups is None:
            kept, val = train_test_split(train, test_size=fraction, stratify=own, random_state=seed)
        else:
            parts = StratifiedGroupKFold(max(2, round(1 / fraction)), shuffle=True, random_state=seed)
            kept, val = (train[part] for part in next(parts.split(train, own, groups[train])))
    except ValueError as error:
        raise UserError(
            f"recipe.early_stopping.val_fraction={fraction:g}: {len(own)} training tracks are too few: {error}"
        ) from error
    return np.sort(kept), np.sort(val)
