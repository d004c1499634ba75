"""How far probabilities can be trusted, and the one number that makes them trustworthy: a temperature."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

N_BINS = 15  # intervals of equal width that the confidence is sorted into
RANGE = (0.1, 10.0)  # of temperatures
HALVINGS = 40


@dataclass(frozen=True)
class Calibration:
    """How sure a model is and how often it is then right.

    Args:
        confidence: mean probability of the predicted genre in each interval `(N_BINS,)`.
        accuracy: share of right predictions in each interval `(N_BINS,)`.
        counts: tracks in each interval `(N_BINS,)`.
        error: expected calibration error, the mean gap between the two over all tracks.
    """

    confidence: Floats
    accuracy: Floats
    counts: Ints
    error: float


def calibration(confidence: Floats, hits: Floats) -> Calibration:
    """Compare how sure a model is with how often it is right.

    Args:
        confidence: probability of the predicted genre `(n_tracks,)`.
        hits: 1 where the prediction is right, 0 elsewhere `(n_tracks,)`.

    Source: Guo et al., On calibration of modern neural networks, ICML 2017, eq. 3.
    """
    bins = np.clip(np.ceil(confidence * N_BINS).astype(int) - 1, 0, N_BINS - 1)  # an interval holds its upper end
    counts = np.bincount(bins, minlength=N_BINS)
    sums = [np.bincount(bins, weights=values, minlength=N_BINS) for values in (confidence, hits)]
    mean_confidence, accuracy = (np.divide(s, counts, out=np.zeros(N_BINS), where=counts > 0) for s in sums)
    error = float(np.average(np.abs(accuracy - mean_confidence), weights=counts))
    return Calibration(mean_confidence, accuracy, counts, error)


def tempered(probabilities: Floats, temperature: float) -> Floats:
    """The same probabilities as if from logits divided by a temperature: surer below 1; the order stays.

    Args:
        probabilities: `(..., n_genres)`, sums over the last axis are 1.
        temperature: above 0.

    Source: temperature scaling in Guo et al., On calibration of modern neural networks, ICML 2017, eq. 9.
    """
    logits = logits_of(probabilities) / temperature
    # Not scipy's softmax, for whose import `OnnxClassifier` would wait, which needs no scipy otherwise.
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    shares: Floats = powers / powers.sum(axis=-1, keepdims=True)
    return shares


def best_temperature(probabilities: Floats, labels: Ints) -> float:
    """The temperature within `RANGE` with which probabilities have the least log loss.

    The log loss is convex in the temperature's inverse, so it is where the slope, the mean logarithm of what is
    predicted less that of what is true, changes its sign. Where every prediction is right, as of few tracks, surer
    would always be better: this says nothing of how sure is too sure, and the temperature is 1.

    Args:
        probabilities: of tracks that have not taught `(n_tracks, n_genres)`.
        labels: their true genres `(n_tracks,)`.
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
    """A temperature from a file.

    Raises:
        TypeError, ValueError: it is none within `RANGE`.
    """
    if not RANGE[0] <= float(value) <= RANGE[1]:
        raise ValueError(f"temperature={value!s:.40}: must be from {RANGE[0]:g} to {RANGE[1]:g}")
    return float(value)


def logits_of(probabilities: Floats) -> Floats:
    """Logits that make these probabilities, which are their logarithms.

    Args:
        probabilities: of any shape.
    """
    tiny = np.finfo(np.float64).tiny  # for what is so unlikely that it has become 0
    logs: Floats = np.log(np.maximum(probabilities, tiny))
    return logs
