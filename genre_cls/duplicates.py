"""Which tracks are one recording, from coarse spectrograms alone: for tracks whose artist nobody knows."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from genre_cls.features import FeatureSpec

# Always the same, whatever features are compared. 100 to 4000 Hz is what poor codecs and low sample rates leave alone;
# half-overlapping frames lose little where a copy begins between two of them.
FINGERPRINT = FeatureSpec(kind="mel", n_fft=4096, hop_length=2048, n_mels=40, f_min=100.0, f_max=4000.0, top_db=50.0)
OVERLAP = FINGERPRINT.n_frames(10.0)  # sounding frames that two clips must share: in 5 s, strangers reach 0.58
# Measured on 2026-11-23. Of 100 tracks of GTZAN, all of 15 versions each were found: cut, halved, equalised, clipped,
# noisy, resampled to 8 kHz, mp3 of 16 kbit/s (0.64 or more), 1 % faster (0.47 or more); and all 89 resynthesised from
# mel spectrograms (0.65 or more). Strangers reach 0.22 among the 100, and 0.39 among 739 with 639 resynthesised.
THRESHOLD = 0.45  # mean cosine of frames
NEAREST = 5  # tracks that one is compared with frame by frame: of 739, every copy that shares 11 s came among them

Matrix = NDArray[np.float16]
Float32s = NDArray[np.float32]


@dataclass(frozen=True)
class Duplicate:
    """Two tracks that are the same recording: their indices, `first` below `second`, and how alike, up to 1."""

    first: int
    second: int
    similarity: float


def near_duplicates(clips: Sequence[Matrix], suspects: NDArray[np.bool_] | None = None) -> list[Duplicate]:
    """Find pairs of the same recording, whatever their gain, equaliser and codec, and if one begins later.

    Clips that sound for less than 10 s have no duplicates: chance alone makes them too alike. Of more than
    `NEAREST` copies of one recording, not every pair need be found.

    Args:
        clips: per track its `FINGERPRINT` features, dB `(n_bins, n_frames)`, of any lengths.
        suspects: tracks to find the duplicates of `(n_tracks,)`; all if not given.

    Returns:
        The pairs with a suspect that are alike, by index.
    """
    shapes = [_normalised_frames(clip) for clip in clips]
    pairs = _candidates(shapes, np.ones(len(clips), dtype=bool) if suspects is None else suspects)
    compared = (Duplicate(i, j, _similarity(shapes[i], shapes[j])) for i, j in pairs)
    return [pair for pair in compared if pair.similarity > THRESHOLD]


def _normalised_frames(clip: Matrix) -> Float32s:
    """What moves in a clip: its frames without their level and without the clip's mean spectrum, each of length 1.

    A frame of silence is all zero. Else the silences of any two clips would be alike: both lack the mean spectrum.
    """
    decibels = clip.astype(np.float32)
    sounds = clip.max(axis=0) > clip.min()  # the spectrogram's floor, if it reaches down to it, is its minimum
    level_free = (decibels - decibels.mean(axis=0))[:, sounds]
    shape = np.zeros_like(decibels)
    if sounds.any():
        shape[:, sounds] = _unit(level_free - level_free.mean(axis=1, keepdims=True))
    return shape


def _candidates(shapes: Sequence[Float32s], suspects: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Pair each suspect with the tracks whose bands rise and fall together as its own do: at any time, in any order."""
    if len(shapes) < 2:
        return []
    together = np.stack([(shape @ shape.T).ravel() / max(shape.shape[1], 1) for shape in shapes], axis=1)
    centred = together - together.mean(axis=1, keepdims=True)
    directions = _unit(centred / np.maximum(centred.std(axis=1, keepdims=True), 1e-6))
    closeness = directions[:, suspects].T @ directions  # (n_suspects, n_tracks)
    own = np.flatnonzero(suspects)
    closeness[np.arange(len(own)), own] = -np.inf
    nearest = np.argsort(-closeness, axis=1)[:, : min(NEAREST, len(shapes) - 1)]
    return sorted({(min(i, j), max(i, j)) for i, row in zip(own.tolist(), nearest.tolist(), strict=True) for j in row})


def _similarity(one: Float32s, other: Float32s) -> float:
    """Mean cosine of the frames that lie over each other where that is highest, of all shifts with enough of them."""
    alike = _correlation(one, other)
    shared = np.rint(_correlation(np.any(one, axis=0, keepdims=True), np.any(other, axis=0, keepdims=True)))
    enough = shared >= OVERLAP
    return float((alike[enough] / shared[enough]).max(initial=0.0))


def _correlation(one: NDArray[np.generic], other: NDArray[np.generic]) -> Float32s:
    """Sum over bands and time of the products of two matrices `(n_bins, n_frames)`, for every shift."""
    n = fft.next_fast_len(one.shape[1] + other.shape[1] - 1, real=True)
    spectra = [fft.rfft(matrix.astype(np.float32), n) for matrix in (one, other)]
    return fft.irfft((spectra[0].conj() * spectra[1]).sum(axis=0), n)


def _unit(columns: Float32s) -> Float32s:
    """Scale columns to length 1; those of nothing but rounding errors become 0."""
    lengths = np.linalg.norm(columns, axis=0)
    return np.divide(columns, lengths, out=np.zeros_like(columns), where=lengths > 0.1)
