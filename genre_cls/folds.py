"""Which tracks train and which are judged: from labels alone, without touching a file."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedKFold, train_test_split

from genre_cls.errors import UserError

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Fold:
    """Indices of tracks, each array sorted: `train` and `val` teach, `test` judges."""

    index: int
    train: Indices
    val: Indices
    test: Indices


def random(labels: Sequence[str], *, k: int, seed: int, val_fraction: float = 0.0) -> list[Fold]:
    """Split tracks into k stratified folds; every track is tested exactly once.

    Args:
        labels: the genre of each track.
        k: number of folds, at least 2.
        seed: of the shuffle; the same labels and seed give the same folds for every configuration.
        val_fraction: share of a fold's training tracks that is set apart, stratified too, for early stopping.

    Raises:
        UserError: k below 2, a genre with fewer tracks than folds, or too few tracks to set some apart.
    """
    if k < 2:
        raise UserError(f"folds.k={k}: must be at least 2")
    if not labels:
        raise UserError("there is no track to split into folds")
    genres, counts = np.unique(np.asarray(labels), return_counts=True)
    if counts.min() < k:
        raise UserError(
            f"folds.k={k}: genre {genres[counts.argmin()]} has only {counts.min()} tracks; every fold needs one to test"
        )
    splits = StratifiedKFold(k, shuffle=True, random_state=seed).split(np.zeros(len(labels)), labels)
    return [_fold(index, train, test, labels, val_fraction, seed) for index, (train, test) in enumerate(splits)]


def _fold(index: int, train: Indices, test: Indices, labels: Sequence[str], val_fraction: float, seed: int) -> Fold:
    if not val_fraction:
        return Fold(index, train, np.array([], dtype=np.int64), test)
    own = [labels[i] for i in train]
    try:
        kept, val = train_test_split(train, test_size=val_fraction, stratify=own, random_state=seed)
    except ValueError as error:
        raise UserError(
            f"recipe.early_stopping.val_fraction={val_fraction:g}: {len(own)} training tracks are too few: {error}"
        ) from error
    return Fold(index, np.sort(kept), np.sort(val), test)
