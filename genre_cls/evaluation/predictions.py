"""Predictions for test tracks: of a fold, by window and by track, with the scores that follow from them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.special import softmax
from sklearn.metrics import confusion_matrix, f1_score, log_loss

from genre_cls.evaluation.calibration import Floats, Ints, logits_of

Curves = Mapping[str, Sequence[float]]  # one value an epoch, by name


@dataclass(frozen=True)
class WindowPredictions:
    """A model's predictions for each window of a fold's test tracks.

    Args:
        track: the window's track `(n_windows,)`, an index into the test tracks.
        start: where the window begins in the track `(n_windows,)`, s.
        probabilities: one row a window `(n_windows, n_genres)`, rows sum to 1.
    """

    track: Ints
    start: Floats
    probabilities: Floats

    @property
    def per_track(self) -> Floats:
        """Mean probabilities over each track's windows `(n_tracks, n_genres)`."""
        return means_at(self.probabilities, self.track)


class _Predicted:
    """Tracks with their true and predicted genres."""

    labels: Ints
    probabilities: Floats

    @cached_property
    def predictions(self) -> Ints:
        """The most probable genre of each track `(n_tracks,)`."""
        return self.probabilities.argmax(axis=1)

    @cached_property
    def hits(self) -> Floats:
        """1 for each correctly classified track, 0 for the others `(n_tracks,)`."""
        return (self.predictions == self.labels).astype(float)


@dataclass(frozen=True)
class FoldResult(_Predicted):
    """The result of one trained fold, from which every figure and score derives.

    Args:
        index: number of the fold, from 0.
        track_ids: the test tracks.
        labels: their true genres `(n_tracks,)`, indices into `genres`.
        probabilities: mean over each track's windows `(n_tracks, n_genres)`, rows sum to 1.
        genres: names in the order of the columns.
        curves: of each epoch `train_loss`, `held_out_loss` (nats), `train_accuracy`, `held_out_accuracy` (shares), and
            with early stopping `val_loss`, `val_accuracy`.
        n_train: number of tracks that its models learned from or, with early stopping, were stopped by.
        seconds: sum of its models' times of training and prediction, s, though they run in parallel.
        windows: the predictions that the tracks' probabilities are the means of.
    """

    index: int
    track_ids: tuple[str, ...]
    labels: Ints
    probabilities: Floats
    genres: tuple[str, ...]
    curves: Curves
    n_train: int
    seconds: float
    windows: WindowPredictions

    @cached_property
    def scores(self) -> dict[str, float]:
        """Accuracy, macro F1 and log loss (nats) over the test tracks, and accuracy over their single windows."""
        columns = range(len(self.genres))
        window_hits = self.windows.probabilities.argmax(axis=1) == self.labels[self.windows.track]
        return {
            "accuracy": float(self.hits.mean()),
            "macro_f1": float(
                f1_score(self.labels, self.predictions, labels=columns, average="macro", zero_division=0)
            ),
            "log_loss": float(log_loss(self.labels, self.probabilities, labels=columns)),
            "window_accuracy": float(window_hits.mean()),
        }

    @property
    def confusion(self) -> Ints:
        """Counts `(n_genres, n_genres)`: rows are true genres, columns predicted ones."""
        return np.asarray(confusion_matrix(self.labels, self.predictions, labels=range(len(self.genres))))


@dataclass(frozen=True)
class TrackPredictions(_Predicted):
    """One configuration's predictions for test tracks.

    Args:
        track_ids: the test tracks.
        labels: their true genres `(n_tracks,)`.
        probabilities: of each genre `(n_tracks, n_genres)`.
    """

    track_ids: tuple[str, ...]
    labels: Ints
    probabilities: Floats

    def most_similar(self, probabilities: Floats, n: int) -> list[tuple[int, float]]:
        """Find the tracks whose predictions resemble those for a file.

        Similarity is the Bhattacharyya coefficient of the two distributions over genres: 1 if they are the same, 0 if
        no genre is probable in both. Tracks that sound different but get the same probabilities count as similar.

        Args:
            probabilities: mean over the file's windows `(n_genres,)`, before its temperature.
            n: number of tracks at most.

        Returns:
            Index of each track and its similarity, 0 to 1, the most similar first.

        Source: Bhattacharyya, On a measure of divergence between two multinomial populations, Sankhyā 7 (1946).
        """
        similarity = np.sqrt(self.probabilities) @ np.sqrt(probabilities)
        best = np.argsort(-similarity, kind="stable")[:n]
        return [(int(i), float(similarity[i])) for i in best]


def means_at(rows: Floats, places: Ints) -> Floats:
    """Return the mean of the rows that belong to each place `(n_places, n_columns)`.

    Args:
        rows: `(n_rows, n_columns)`.
        places: of each row `(n_rows,)`, from 0.
    """
    sums = np.zeros((places.max() + 1, rows.shape[1]))
    np.add.at(sums, places, rows)
    return sums / np.bincount(places)[:, None]


def mean_curve(curves: Iterable[Sequence[float]]) -> list[float]:
    """Average curves epoch by epoch up to the end of the shortest, since beyond it the mean would be over fewer."""
    return [float(np.mean(values)) for values in zip(*curves, strict=False)]


def ensemble_probabilities(probabilities: Sequence[Floats]) -> Floats:
    """Combine several models' probabilities by the softmax of their mean logits, which is sharper than their mean.

    Args:
        probabilities: of each model `(n_windows, n_genres)`.

    Returns:
        `(n_windows, n_genres)`, rows sum to 1.

    Source: the logarithmic opinion pool in Genest & Zidek, Combining probability distributions, Statistical Science
    1 (1986).
    """
    return np.asarray(softmax(np.mean([logits_of(each) for each in probabilities], axis=0), axis=1))
