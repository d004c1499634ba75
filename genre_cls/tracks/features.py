"""Compute log-mel spectrograms and MFCCs of a waveform, with one STFT for all specs that can share it."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
import torchaudio.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

CPU = torch.device("cpu")
TINY = 1e-20  # least power in decibels
PAUSE = 40.0  # dB; frames without a band so close to the clip's peak do not count for its level
BLOCK = 128  # frames at once: their spectra are summed into bands while they are still in the core's cache
GROUP = 16  # neighbouring bands that are summed at once, over only the frequencies that they span

# `preparation` tells of empty bands in one line. (Not where they are computed: filters are the same for all threads.)
warnings.filterwarnings("ignore", "At least one mel filterbank")


@dataclass(frozen=True, kw_only=True)
class FeatureSpec:
    """The features to compute from a clip; equal specs give equal features.

    The defaults are librosa's, not those of `conf/features`. Each value's own range is in `settings.RULES`, which hold
    for settings and model files alike; here only relations between values are checked.

    Args:
        kind: `mel` (log-mel spectrogram) or `mfcc` (its cosine transform).
        sample_rate: rate the clip is resampled to, Hz.
        n_fft: length of the Hann window and of the FFT, samples.
        hop_length: samples between frames.
        n_mels: mel bands (Slaney's scale and area normalisation).
        n_mfcc: DCT coefficients to keep; ignored by `mel`.
        f_min: lower edge of the lowest band, Hz.
        f_max: upper edge of the highest band, Hz.
        top_db: floor below the clip's own peak, dB.

    Raises:
        ValueError: values that contradict each other.
    """

    kind: Literal["mel", "mfcc"]
    sample_rate: int = 22050
    n_fft: int = 2048
    hop_length: int = 512
    n_mels: int = 128
    n_mfcc: int = 20
    f_min: float = 0.0
    f_max: float = 11025.0
    top_db: float = 80.0

    def __post_init__(self) -> None:
        for ok, problem in (
            (1 <= self.hop_length <= self.n_fft, f"hop_length={self.hop_length}: must be 1 to n_fft={self.n_fft}"),
            (1 <= self.n_mels <= self.n_fft // 2, f"n_mels={self.n_mels}: must be 1 to n_fft/2={self.n_fft // 2}"),
            (
                self.kind == "mel" or 1 <= self.n_mfcc <= self.n_mels,
                f"n_mfcc={self.n_mfcc}: must be 1 to n_mels={self.n_mels}",
            ),
            (
                0 <= self.f_min < self.f_max <= self.sample_rate / 2,
                f"f_min={self.f_min}, f_max={self.f_max}: must be 0 <= f_min < f_max <= "
                f"sample_rate/2={self.sample_rate / 2}",
            ),
        ):
            if not ok:
                raise ValueError(problem)

    @property
    def n_bins(self) -> int:
        """Number of rows of the feature matrix: mel bands or coefficients."""
        return self.n_mels if self.kind == "mel" else self.n_mfcc

    def n_frames(self, seconds: float) -> int:
        """Return the number of frames that cover a duration, s."""
        return 1 + (round(seconds * self.sample_rate) - self.n_fft % 2) // self.hop_length

    @property
    def seconds_per_frame(self) -> float:
        """Time between frames, s."""
        return self.hop_length / self.sample_rate


def extract(waveform: NDArray[np.float32], specs: Sequence[FeatureSpec]) -> list[NDArray[np.float16]]:
    """Compute the features of one whole clip; specs that agree on the STFT or the bands share them.

    Args:
        waveform: mono `(n_samples,)`, float32, at the specs' `sample_rate`.
        specs: what to compute, all with the same `sample_rate`.

    Returns:
        A matrix `(n_bins, n_frames)` per spec, in the specs' order: for `mel` dB relative to the clip's level, for
        `mfcc` DCT coefficients of these. float16, since its error (0.02 dB at 50 dB) is far below the STFT's own
        variance while it halves the cache.
    """
    sharing: dict[tuple[int, int], list[FeatureSpec]] = {}
    for bands in dict.fromkeys(map(_as_mel, specs)):
        sharing.setdefault((bands.n_fft, bands.hop_length), []).append(bands)
    with torch.inference_mode():
        log_mels = {
            bands: decibels(energies, bands)
            for stft, all_bands in sharing.items()
            for bands, energies in _mel_energies(torch.from_numpy(waveform), *stft, all_bands)
        }
        return [finished(log_mels[_as_mel(spec)], spec).contiguous().numpy() for spec in specs]


def mel_frequencies(spec: FeatureSpec) -> NDArray[np.float64]:
    """Return the mel bands' centre frequencies, Hz, `(n_mels,)`.

    Source: Slaney, Auditory Toolbox, 1998.
    """
    edges = np.linspace(_hz_to_mel(spec.f_min), _hz_to_mel(spec.f_max), spec.n_mels + 2)
    linear = edges * 200 / 3
    return np.where(edges < 15, linear, 1000 * np.exp((edges - 15) * np.log(6.4) / 27))[1:-1]


def _hz_to_mel(hz: float) -> float:
    return hz * 3 / 200 if hz < 1000 else 15 + 27 * float(np.log(hz / 1000) / np.log(6.4))


def _as_mel(spec: FeatureSpec) -> FeatureSpec:
    """The spec of the log-mel spectrogram that a spec starts from, equal for all specs that can share it."""
    return replace(spec, kind="mel", n_mfcc=1)


def _mel_energies(
    samples: Tensor, n_fft: int, hop_length: int, all_bands: Sequence[FeatureSpec]
) -> Iterator[tuple[FeatureSpec, Tensor]]:
    """Yield the power in each mel band `(n_mels, n_frames)`, for each of several filterbanks."""
    frames = pad(samples, (n_fft // 2, n_fft // 2)).unfold(0, n_fft, hop_length)  # (n_frames, n_fft), a view
    energies = {bands: torch.empty(len(frames), bands.n_mels) for bands in all_bands}
    for start in range(0, len(frames), BLOCK):
        block = slice(start, start + BLOCK)
        spectra = torch.view_as_real(torch.fft.rfft(frames[block] * _hann(n_fft)))  # (n_block, n_fft // 2 + 1, 2)
        squares = spectra.square_().flatten(1)  # real and imaginary parts in turn; a band sums over both
        for bands, energy in energies.items():
            for group, span, weights in _groups(bands):
                torch.mm(squares[:, span], weights, out=energy[block, group])
    for bands, energy in energies.items():
        yield bands, energy.T


def decibels(energies: Tensor, spec: FeatureSpec) -> Tensor:
    """Convert a whole clip's mel energies `(n_mels, n_frames)` to dB relative to its level, to `top_db` below its peak.

    The level is the mean over bands and frames, so that features do not tell how loud a recording is; a peak would tell
    of a single sound. Frames without a band less than `PAUSE` below the peak, or half of `top_db` if that is less, do
    not count: pauses have no music to tell it of.
    """
    levels = 10 * torch.log10(energies.clamp(min=TINY))
    peak = levels.max()
    levels = levels.clamp(min=peak - spec.top_db)
    sounding = levels.amax(dim=0) > peak - min(PAUSE, spec.top_db / 2)
    return levels - (levels.mean(dim=0) * sounding).sum() / sounding.sum()


def unevenness(features: Tensor, spec: FeatureSpec) -> Tensor:
    """Return how far the bands of each frame are from their mean, RMS, dB; 0 in silence, which has all at the floor.

    Args:
        features: `(..., n_bins, n_frames)`, float32; of MFCCs all but the 0th tell it, up to what is cut off.
        spec: of the features.

    Returns:
        `(..., n_frames)`.
    """
    deviations = features[..., 1:, :] if spec.kind == "mfcc" else features - features.mean(dim=-2, keepdim=True)
    return (deviations.square().sum(dim=-2) / spec.n_mels).sqrt()


def finished(log_mel: Tensor, spec: FeatureSpec) -> Tensor:
    """Return a spec's features `(n_bins, n_frames)`, float16, from a log-mel spectrogram `(n_mels, n_frames)`, dB."""
    feature = log_mel if spec.kind == "mel" else cosines(spec.n_mfcc, spec.n_mels) @ log_mel
    return feature.half()


@lru_cache
def _hann(n_fft: int) -> Tensor:
    return torch.hann_window(n_fft)


@lru_cache
def _groups(bands: FeatureSpec) -> list[tuple[slice, slice, Tensor]]:
    """The filterbank in groups, without most zeros: bands, the squares they sum, weights `(n_squares, n_bands)`."""
    groups = []
    for first, rows in zip(range(0, bands.n_mels, GROUP), torch.split(filterbank(bands), GROUP), strict=True):
        spanned = rows.any(dim=0).nonzero()[:, 0].tolist() or [0]  # a narrow band may lie between two frequencies
        span = slice(spanned[0], spanned[-1] + 1)
        weights = rows[:, span].T.repeat_interleave(2, dim=0).contiguous()
        groups.append((slice(first, first + GROUP), slice(2 * span.start, 2 * span.stop), weights))
    return groups


@lru_cache
def filterbank(spec: FeatureSpec) -> Tensor:
    """Return the weights `(n_mels, n_fft // 2 + 1)` that sum a power spectrum into mel bands."""
    # torchaudio spaces frequencies up to half the rate, rounded down, which suits neither odd rates nor odd FFTs. The
    # first half of those up to the rate itself are the FFT's.
    mels = (spec.f_min, spec.f_max, spec.n_mels, 2 * spec.sample_rate)
    bank = F.melscale_fbanks(spec.n_fft + 1, *mels, norm="slaney", mel_scale="slaney")
    return bank[: spec.n_fft // 2 + 1].T.contiguous()


@lru_cache
def cosines(n_mfcc: int, n_mels: int, device: torch.device = CPU) -> Tensor:
    """Return the DCT-II `(n_mfcc, n_mels)`, rows orthonormal, that maps a log-mel spectrogram to MFCCs."""
    with constants(device):
        return F.create_dct(n_mfcc, n_mels, norm="ortho").T.contiguous()


@contextmanager
def constants(device: torch.device) -> Iterator[None]:
    """Build tensors to be cached on a device and outside inference mode, whatever the first caller's context is."""
    with torch.inference_mode(False), device:
        yield
