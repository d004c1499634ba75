"""Find tracks that are the same recording by their coarse spectrograms alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from genre_cls.tracks.features import FeatureSpec

# Always the same, whatever features are trained on. Poor codecs and low sample rates preserve 100 to 4000 Hz;
# half-overlapping frames lose little where a copy begins between two of them.
FINGERPRINT = FeatureSpec(kind="mel", n_fft=4096, hop_length=2048, n_mels=40, f_min=100.0, f_max=4000.0, top_db=50.0)
OVERLAP = FINGERPRINT.n_frames(10.0)  # non-silent frames that clips must share: in 5 s, different recordings reach 0.58
# Measured on 2026-11-23. Of 100 tracks of GTZAN, all of 15 versions each were found: cut, halved, equalised, clipped,
# noisy, resampled to 8 kHz, mp3 of 16 kbit/s (0.64 or more), 1 % faster (0.47 or more); and all 89 resynthesised from
# mel spectrograms (0.65 or more). Different recordings reach 0.22 among the 100, and 0.39 among 739, of which 639
# were resynthesised.
THRESHOLD = 0.45  # mean cosine similarity of frames
NEAREST = 5  # candidates compared frame by frame: of 739 tracks, every copy that shares 11 s was among them
AT_ONCE = 1000  # tracks whose candidates are looked for at once, which takes 12 kB a track of the data set

Matrix = NDArray[np.float16]
Float32s = NDArray[np.float32]


@dataclass(frozen=True)
class Duplicate:
    """Two tracks that are the same recording: their indices, `first` below `second`, and their similarity, up to 1."""

    first: int
    second: int
    similarity: float


def near_duplicates(clips: Sequence[Matrix]) -> list[Duplicate]:
    """Find pairs of the same recording, whatever their gain, equaliser and codec, even if one begins later.

    Clips with less than 10 s of sound have no duplicates, as different ones can be too similar by chance. Of more than
    `NEAREST` copies of one recording, some pairs may be missed.

    Args:
        clips: per track its `FINGERPRINT` features, dB `(n_bins, n_frames)`, of any lengths.

    Returns:
        The duplicates, by index.
    """
    normalised = [_normalised_frames(clip) for clip in clips]
    pairs = _candidates(normalised)
    compared = (Duplicate(i, j, _similarity(normalised[i], normalised[j])) for i, j in pairs)
    return [pair for pair in compared if pair.similarity > THRESHOLD]


def _normalised_frames(clip: Matrix) -> Float32s:
    """Frames `(n_bins, n_frames)` without their mean level and the clip's mean spectrum, each scaled to norm 1.

    Silent frames become 0. Otherwise any two clips' silences would be similar, as both lack the mean spectrum.
    """
    decibels = clip.astype(np.float32)
    audible = clip.max(axis=0) > clip.min()  # if a clip reaches the spectrogram's floor, its minimum is that floor
    level_free = (decibels - decibels.mean(axis=0))[:, audible]
    normalised = np.zeros_like(decibels)
    if audible.any():
        normalised[:, audible] = _unit(level_free - level_free.mean(axis=1, keepdims=True))
    return normalised


def _candidates(clips: Sequence[Float32s]) -> list[tuple[int, int]]:
    """Pair each track with those of most similar covariance of bands, which does not depend on time."""
    if len(clips) < 2:
        return []
    covariances = np.stack([(clip @ clip.T).ravel() / max(clip.shape[1], 1) for clip in clips], axis=1)
    centred = covariances - covariances.mean(axis=1, keepdims=True)
    directions = _unit(centred / np.maximum(centred.std(axis=1, keepdims=True), 1e-6))
    n_nearest = min(NEAREST, len(clips) - 1)
    pairs: set[tuple[int, int]] = set()
    for first in range(0, len(clips), AT_ONCE):
        closeness = directions[:, first : first + AT_ONCE].T @ directions  # (n_at_once, n_tracks)
        np.fill_diagonal(closeness[:, first:], -np.inf)
        nearest = np.argpartition(closeness, -n_nearest, axis=1)[:, -n_nearest:]
        pairs |= {(min(i, j), max(i, j)) for i, row in enumerate(nearest.tolist(), first) for j in row}
    return sorted(pairs)


def _similarity(one: Float32s, other: Float32s) -> float:
    """Mean cosine similarity of overlapping frames, at the best of all shifts with enough of them."""
    products = _correlation(one, other)
    shared = np.rint(_correlation(np.any(one, axis=0, keepdims=True), np.any(other, axis=0, keepdims=True)))
    enough = shared >= OVERLAP
    return float((products[enough] / shared[enough]).max(initial=0.0))


def _correlation(one: NDArray[np.generic], other: NDArray[np.generic]) -> Float32s:
    """Cross-correlate two matrices `(n_bins, n_frames)` over time, summed over bands, for every shift."""
    n = fft.next_fast_len(one.shape[1] + other.shape[1] - 1, real=True)
    spectra = [fft.rfft(matrix.astype(np.float32), n) for matrix in (one, other)]
    return fft.irfft((spectra[0].conj() * spectra[1]).sum(axis=0), n)


def _unit(columns: Float32s) -> Float32s:
    """Scale columns to norm 1; those of mere rounding errors become 0."""
    norms = np.linalg.norm(columns, axis=0)
    return np.divide(columns, norms, out=np.zeros_like(columns), where=norms > 0.1)
