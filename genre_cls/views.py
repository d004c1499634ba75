"""What a model is shown of a window: one of `windows.VIEWS`, each value with zero mean and unit variance."""

import math
from functools import cache

import torch
from torch import Tensor

from genre_cls.features import cosines
from genre_cls.windows import is_of_mfccs, treatment

N_MFCC = 20  # coefficients of a view of MFCCs, and of a modulation spectrum
N_BANDS, N_RATES = 32, 12  # of a modulation spectrum
SLOWEST = 2  # cycles a window
FINEST = 4  # bins a cycle
QUIETEST = 1e-3  # dB², what a fluctuation is above that is more than rounding


def shown(features: Tensor, mean: Tensor, deviation: Tensor, view: str) -> Tensor:
    """What a model is shown in a view: each value with zero mean and unit variance, float32, channels last.

    Of the levelled view, the clip's mean spectrum has been taken away before.

    Args:
        features: `(batch, 1, n_bins, n_frames)` as extracted.
        mean: of each value that is shown, of the `shape_of` the view.
        deviation: likewise.
        view: one of `windows.VIEWS`.
    """
    return ((seen(features, view).float() - mean) / deviation).contiguous(memory_format=torch.channels_last)


def seen(features: Tensor, view: str) -> Tensor:
    """What there is to see in windows `(..., n_bins, n_frames)` in one of `windows.VIEWS`, as it is computed."""
    values = mfccs(features) if is_of_mfccs(view) else features
    return modulation_spectrum(values) if treatment(view) == "modulation" else values


def shape_of(view: str, n_bins: int) -> tuple[int, int]:
    """Shape of a view's standardisation: a value for each bin, or for each pattern and rate."""
    n_values = min(n_bins, N_MFCC) if is_of_mfccs(view) else n_bins
    return (patterns(n_values).shape[1], N_RATES) if treatment(view) == "modulation" else (n_values, 1)


def mfccs(features: Tensor) -> Tensor:
    """The first `N_MFCC` cepstral coefficients `(..., n_mfcc, n_frames)` of mel bands `(..., n_mels, n_frames)`, dB."""
    n_mels = features.shape[-2]
    basis = cosines(min(n_mels, N_MFCC), n_mels).clone()  # what is cached may have been made in inference mode
    with torch.autocast(features.device.type, enabled=False):  # of tens of dB bfloat16 would leave whole ones
        return basis.to(features.device) @ features.float()


def modulation_spectrum(features: Tensor) -> Tensor:
    """How strongly each pattern of bins swells and fades at each rate: what is left when all that stands still is gone.

    Args:
        features: `(batch, 1, n_bins, n_frames)` as extracted.

    Returns:
        Log energies `(batch, 1, n_rows, n_rates)`, float32; a row is one of `patterns`. The rates are spaced
        evenly by their logarithm, from `SLOWEST` cycles a window to half a cycle a frame.

    Sources: Pampalk, Computational models of music similarity, PhD thesis, TU Wien (2006), ch. 2.2, fluctuation
    patterns, without its weights for how loud and how strong a fluctuation is felt, which are for a model to learn;
    Andén, Lostanlen & Mallat, Joint time-frequency scattering, IEEE Trans. Signal Processing 67(14), 2019, of which
    wavelets along the bins are taken, without a sense of direction.
    """
    (n_bins, n_frames), features = features.shape[2:], features.float()
    with torch.autocast(features.device.type, enabled=False):  # a Fourier transform in bfloat16 would be noise
        waves = patterns(int(n_bins)).clone().to(features.device) @ features  # (batch, 2, n_rows, n_frames)
        waves = (waves - waves.mean(dim=3, keepdim=True)) * torch.hann_window(n_frames, device=features.device)
        cycles, bands = _modulation_bands(n_frames, features.device)
        angles = cycles * torch.arange(n_frames, device=features.device)[:, None] * (2 * math.pi / n_frames)
        energies = (waves @ angles.cos()).square() + (waves @ angles.sin()).square()  # matrices, which ONNX knows, too
        return (energies.sum(dim=1, keepdim=True) @ bands + QUIETEST).log()


@cache
def patterns(n_bins: int) -> Tensor:
    """What is watched for modulations: bands, cosines over all bins, and wavelets of each octave of coarseness.

    Cosines of mel bands are their MFCCs; those of MFCCs are mel bands again, or nearly.

    Returns:
        Real and imaginary parts `(2, n_rows, n_bins)`; bands and cosines have no imaginary one.
    """
    with torch.device("cpu"):  # who first asks may be building networks without weights, on no device
        bands = averages(n_bins, min(n_bins, N_BANDS), like=torch.empty(0))
        octaves = range(1, 1 + int(math.log2(max(n_bins / FINEST, 1))))
        wavelets = [_wavelets(n_bins, 2**octave) for octave in octaves]
        rows = torch.cat([bands, cosines(min(n_bins, N_MFCC), n_bins), *wavelets])
        return torch.stack([rows.real, rows.imag if rows.is_complex() else torch.zeros_like(rows)])


def _wavelets(n_bins: int, n_cycles: int) -> Tensor:
    """Two cycles each of `n_cycles` over all bins, under Hann windows that overlap by half `(n_cycles - 1, n_bins)`."""
    cycles = (torch.arange(n_bins) + 0.5) * n_cycles / n_bins - torch.arange(1, n_cycles)[:, None]
    window = torch.where(cycles.abs() < 1, (cycles * math.pi / 2).cos().square(), 0)
    return torch.polar(window / window.norm(dim=1, keepdim=True), cycles * 2 * math.pi)


def _modulation_bands(n_frames: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cycles a window of each Fourier coefficient `(n_cycles,)`, and what averages them `(n_cycles, n_rates)`."""
    cycles = torch.arange(n_frames // 2 + 1, device=device)
    edges = torch.logspace(math.log10(SLOWEST), math.log10(max(n_frames / 2, 2 * SLOWEST)), N_RATES + 1)
    low, high = edges[:-1].to(device), edges[1:].to(device)
    nearest = (cycles[:, None] - (low * high).sqrt()).abs().argmin(dim=0)  # for rates between which there is none
    inside = (cycles[:, None] >= low) & (cycles[:, None] < high) | (cycles[:, None] == nearest)
    return cycles, inside / inside.sum(dim=0)


def averages(n_bins: int, bands: int, *, like: Tensor) -> Tensor:
    """Matrix `(bands, n_bins)` that averages the bins of each band; bands overlap where bins are too few.

    Args:
        n_bins: rows that are averaged.
        bands: slices of them.
        like: what the matrix is to be multiplied with.
    """
    bins, band = torch.arange(n_bins, device=like.device), torch.arange(bands, device=like.device)[:, None]
    inside = (bins >= band * n_bins // bands) & (bins * bands < (band + 1) * n_bins)
    return (inside / inside.sum(dim=1, keepdim=True)).to(like.dtype)
