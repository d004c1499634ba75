"""What predictions are worth: plain arrays in, numbers with intervals out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, log_loss

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class FoldResult:
    """What one trained fold leaves behind; every figure and score derives from it.

    Args:
        index: number of the fold, from 0.
        track_ids: the judged tracks.
        labels: their true genres `(n_tracks,)`, indices into `genres`.
        probabilities: predicted, one row a track `(n_tracks, n_genres)`, rows sum to 1.
        genres: names in the order of the columns.
        curves: per epoch `train_loss`, `train_accuracy`, `held_out_loss`, `held_out_accuracy`.
        n_train: tracks that taught.
        seconds: wall time of training and judging, s.
    """

    index: int
    track_ids: tuple[str, ...]
    labels: Ints
    probabilities: Floats
    genres: tuple[str, ...]
    curves: Mapping[str, Sequence[float]]
    n_train: int
    seconds: float

    @cached_property
    def predictions(self) -> Ints:
        """The most probable genre of each track `(n_tracks,)`."""
        return self.probabilities.argmax(axis=1)

    @cached_property
    def scores(self) -> dict[str, float]:
        """Accuracy, macro F1 and log loss (nats) over the fold's tracks."""
        columns = range(len(self.genres))
        return {
            "accuracy": float(accuracy_score(self.labels, self.predictions)),
            "macro_f1": float(
                f1_score(self.labels, self.predictions, labels=columns, average="macro", zero_division=0)
            ),
            "log_loss": float(log_loss(self.labels, self.probabilities, labels=columns)),
        }

    @property
    def confusion(self) -> Ints:
        """Counts `(n_genres, n_genres)`: rows are true genres, columns predicted ones."""
        return np.asarray(confusion_matrix(self.labels, self.predictions, labels=range(len(self.genres))))


@dataclass(frozen=True)
class Estimate:
    """Mean over folds, standard deviation (n - 1) and the ends of the 95 % interval of the mean."""

    mean: float
    std: float
    low: float
    high: float

    @property
    def share_interval(self) -> tuple[float, float]:
        """The interval's ends for a score that is a share, cut to 0 and 1, beyond which they may compute to."""
        return max(self.low, 0.0), min(self.high, 1.0)


@dataclass(frozen=True)
class ConfigResult:
    """One configuration with its folds.

    Args:
        params: what names it: features, model, batch_size and whatever else was set.
        folds: their results, by index.
        n_parameters: trainable weights of the model.
    """

    params: Mapping[str, str]
    folds: tuple[FoldResult, ...]
    n_parameters: int

    @property
    def genres(self) -> tuple[str, ...]:
        """Names of the genres."""
        return self.folds[0].genres

    @cached_property
    def confusion(self) -> Ints:
        """Counts pooled over the folds `(n_genres, n_genres)`, rows true, columns predicted."""
        return np.sum([fold.confusion for fold in self.folds], axis=0, dtype=np.int64)

    @property
    def recall(self) -> Floats:
        """Per genre, the share of its tracks that were recognised `(n_genres,)`, pooled over the folds."""
        return recall_per_genre(self.confusion)

    def estimate(self, score: str) -> Estimate:
        """Mean of a fold score (a key of `FoldResult.scores`) with its interval."""
        test_share = float(np.mean([len(fold.labels) / fold.n_train for fold in self.folds]))
        return estimate([fold.scores[score] for fold in self.folds], test_share)

    @property
    def seconds_per_fold(self) -> float:
        """Mean wall time of a fold, s."""
        return float(np.mean([fold.seconds for fold in self.folds]))


@dataclass(frozen=True)
class GenreMeans:
    """Average features of each genre, with what their axes mean.

    Args:
        kind: `mel` or `mfcc`.
        genres: names, in the order of the first axis.
        matrices: `(n_genres, n_bins, n_frames)`, dB for `mel`, cosine amplitudes of dB for `mfcc`.
        seconds_per_frame: time between frames, s.
        frequencies: centre of each mel band, Hz `(n_bins,)`; empty for `mfcc`.
    """

    kind: str
    genres: tuple[str, ...]
    matrices: NDArray[np.float32]
    seconds_per_frame: float
    frequencies: Floats


def estimate(values: Sequence[float], test_share: float) -> Estimate:
    """Mean of scores over cross-validation folds, with an interval that knows that the folds share training data.

    The folds' scores are correlated, so their plain standard error is too small; its variance `s²/k` is
    replaced by `s² (1/k + n_test/n_train)`, with Student's t at k - 1 degrees of freedom.

    Args:
        values: one score a fold.
        test_share: judged tracks per training track, n_test/n_train.

    Source: Nadeau & Bengio, Inference for the generalization error, Machine Learning 52 (2003), eq. 5.
    """
    scores = np.asarray(values, dtype=float)
    mean, n = float(scores.mean()), len(scores)
    if n < 2:
        return Estimate(mean, 0.0, mean, mean)
    std = float(scores.std(ddof=1))
    half = float(stats.t.ppf(0.975, n - 1)) * std * np.sqrt(1 / n + test_share)
    return Estimate(mean, std, mean - half, mean + half)


def recall_per_genre(confusion: Ints) -> Floats:
    """Share of each row on the diagonal; 0 for a genre without tracks.

    Args:
        confusion: counts `(n_genres, n_genres)`, rows true, columns predicted.
    """
    totals = confusion.sum(axis=1)
    return np.divide(np.diag(confusion), totals, out=np.zeros(len(totals)), where=totals > 0)


def confusions(confusion: Ints) -> list[tuple[int, int, int]]:
    """Mistakes by how often they happen.

    Args:
        confusion: counts `(n_genres, n_genres)`, rows true, columns predicted.

    Returns:
        (true genre, predicted genre, tracks), most frequent first, none of zero.
    """
    mistakes = confusion - np.diag(np.diag(confusion))
    order = np.argsort(-mistakes, axis=None, kind="stable")
    pairs = [(int(row), int(column)) for row, column in zip(*np.unravel_index(order, mistakes.shape), strict=True)]
    return [(row, column, int(mistakes[row, column])) for row, column in pairs if mistakes[row, column]]


def rank(results: Sequence[ConfigResult]) -> list[ConfigResult]:
    """Sort configurations by mean accuracy, best first; macro F1 decides between equals."""
    return sorted(results, key=lambda r: (-r.estimate("accuracy").mean, -r.estimate("macro_f1").mean))


def names(results: Sequence[ConfigResult]) -> list[str]:
    """Name configurations by features, model, batch size and whatever else differs between them."""
    labels = {"features": "", "model": "", "batch_size": "batch "} | {key: f"{key} " for key in differing(results)}
    return [" · ".join(label + r.params.get(key, "?") for key, label in labels.items()) for r in results]


def differing(results: Sequence[ConfigResult]) -> list[str]:
    """Keys of the parameters, other than features, model and batch size, that differ between configurations."""
    keys = {key for result in results for key in result.params} - {"features", "model", "batch_size"}
    return [key for key in sorted(keys) if len({result.params.get(key) for result in results}) > 1]
