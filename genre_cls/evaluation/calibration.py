"""Measure how well probabilities are calibrated, and find the temperature that calibrates them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

N_BINS = 15  # of equal width, for the confidence
RANGE = (0.1, 10.0)  # of temperatures
HALVINGS = 40  # of the interval that holds the best temperature


@dataclass(frozen=True)
class Calibration:
    """Confidence and accuracy by bins of confidence.

    Args:
        confidence: mean probability of the predicted genre in each bin `(N_BINS,)`, 0 if it is empty.
        accuracy: share of correct predictions in each bin `(N_BINS,)`, 0 if it is empty.
        counts: tracks in each bin `(N_BINS,)`; one that is predicted several times counts as a part for each.
        error: expected calibration error, the mean absolute difference of the two over all tracks.
        error_by_chance: what the error would be on average if the model were perfectly calibrated. Several predictions
            of a track count as one, as if they were the same.
    """

    confidence: Floats
    accuracy: Floats
    counts: Floats
    error: float
    error_by_chance: float


def calibration(confidence: Floats, hits: Floats, n_tracks: int) -> Calibration:
    """Compare the confidence of predictions with their accuracy.

    Args:
        confidence: probability of the predicted genre `(n_predictions,)`.
        hits: 1 where the prediction is correct, 0 elsewhere `(n_predictions,)`.
        n_tracks: that the predictions are of, as many of each on average.

    Sources: Guo et al., On calibration of modern neural networks, ICML 2017, eq. 3; the mean absolute deviation of a
    normal distribution of variance v, sqrt(2 v / π), for each bin's number of hits.
    """
    bins = np.clip(np.ceil(confidence * N_BINS).astype(int) - 1, 0, N_BINS - 1)  # a bin includes its upper end
    counts = np.bincount(bins, minlength=N_BINS)
    sums = [np.bincount(bins, weights=values, minlength=N_BINS) for values in (confidence, hits)]
    mean_confidence, accuracy = (np.divide(s, counts, out=np.zeros(N_BINS), where=counts > 0) for s in sums)
    error = float(np.average(np.abs(accuracy - mean_confidence), weights=counts))
    variances = np.bincount(bins, weights=confidence * (1 - confidence))
    error_by_chance = float(np.sqrt(2 / np.pi * variances / (len(confidence) * n_tracks)).sum())
    in_tracks = np.asarray(counts * (n_tracks / len(confidence)), dtype=float)
    return Calibration(mean_confidence, accuracy, in_tracks, error, error_by_chance)


def tempered(probabilities: Floats, temperature: float) -> Floats:
    """Return probabilities as if their logits had been divided by a temperature; the order of the genres stays.

    Args:
        probabilities: `(..., n_genres)`, sums over the last axis are 1.
        temperature: above 0; probabilities become more confident below 1, less confident above.

    Source: temperature scaling in Guo et al., On calibration of modern neural networks, ICML 2017, eq. 9.
    """
    logits = logits_of(probabilities) / temperature
    # Not scipy's softmax: `OnnxClassifier` needs no scipy otherwise and would wait for the import.
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def best_temperature(probabilities: Floats, labels: Ints) -> float:
    """Return the temperature within `RANGE` that minimises the log loss.

    The log loss is convex in the inverse of the temperature, so its minimum is where the slope, the mean expected logit
    minus the mean logit of the true genre, changes its sign. If every prediction is correct, as may happen with few
    tracks, the lowest temperature would always be best, which says nothing about overconfidence; 1 is returned then.

    Args:
        probabilities: of held-out tracks `(n_tracks, n_genres)`.
        labels: their true genres, indices of columns `(n_tracks,)`.
    """
    if (probabilities.argmax(axis=1) == labels).all():
        return 1.0
    logits = logits_of(probabilities)
    true = logits[np.arange(len(labels)), labels].mean()
    low, high = RANGE
    for _ in range(HALVINGS):
        middle = np.sqrt(low * high)
        predicted = (tempered(probabilities, middle) * logits).sum(axis=1).mean()
        low, high = (low, middle) if predicted < true else (middle, high)
    return float(np.sqrt(low * high))


def checked_temperature(value: Any) -> float:
    """Return a temperature that was read from a file.

    Raises:
        TypeError, ValueError: it is not a number within `RANGE`.
    """
    if not RANGE[0] <= float(value) <= RANGE[1]:
        raise ValueError(f"temperature={value!s:.40}: must be from {RANGE[0]:g} to {RANGE[1]:g}")
    return float(value)


def logits_of(probabilities: Floats) -> Floats:
    """Return logits of probabilities: their logarithms.

    Args:
        probabilities: of any shape.
    """
    tiny = np.finfo(np.float64).tiny  # instead of 0, which has no logarithm
    return np.log(np.maximum(probabilities, tiny))
