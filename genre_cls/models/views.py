"""Views: the representations of a window that models take as input (`members.VIEWS`)."""

import math
from functools import cache

import torch
from torch import Tensor

from genre_cls.configuration.members import is_of_mfccs, treatment
from genre_cls.tracks.features import CPU, constants, cosines

N_MFCC = 20  # coefficients of a view of MFCCs, and of a modulation spectrum
N_BANDS, N_RATES = 32, 12  # of a modulation spectrum
SLOWEST = 2  # cycles per window: the lowest modulation rate
FINEST = 4  # bins per cycle of the narrowest wavelets
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)  # of each bin's levels
EPSILON = 1e-3  # dB², added to energies and variances so that the rounding of what is constant does not count


def view_of(features: Tensor, view: str) -> Tensor:
    """Compute a view of windows, not yet `standardised`.

    Args:
        features: `(batch, 1, n_bins, n_frames)` as extracted; plain views are of any `(..., n_bins, n_frames)`.
        view: one of `members.VIEWS`.

    Returns:
        Plain views `(..., n_rows, n_frames)`, a row per bin or MFCC; the others `(batch, 1, *shape_of(view, n_bins))`.
    """
    values = mfccs(features) if is_of_mfccs(view) else features
    match treatment(view):
        case "modulation":
            return modulation_spectrum(values)
        case "statistics":
            return statistics(values)
    return values


def shape_of(view: str, n_bins: int) -> tuple[int, int]:
    """Return the shape of a view's standardisation: a value per bin, per pattern and rate, or per statistic."""
    n_rows, n_columns = view_of(torch.zeros(1, 1, n_bins, 1, device=CPU), view).shape[2:]
    return n_rows, n_columns


def mfccs(features: Tensor) -> Tensor:
    """Return the first `N_MFCC` MFCCs `(..., n_mfcc, n_frames)` of mel bands `(..., n_mels, n_frames)`, dB."""
    n_mels = int(features.shape[-2])
    with torch.autocast(features.device.type, enabled=False):  # bfloat16 would round tens of dB to whole ones
        return cosines(min(n_mels, N_MFCC), n_mels, features.device) @ features.float()


def modulation_spectrum(features: Tensor) -> Tensor:
    """Compute how strongly each pattern of bins fluctuates at each rate; what is constant over time has no effect.

    Args:
        features: `(batch, 1, n_bins, n_frames)` as extracted.

    Returns:
        Log energies `(batch, 1, n_rows, n_rates)`, float32; a row is one of `patterns`. The rates are spaced
        logarithmically, from `SLOWEST` cycles per window to half a cycle per frame, which itself is left out.

    Sources: Pampalk, Computational models of music similarity, PhD thesis, TU Wien (2006), ch. 2.2, fluctuation
    patterns, without its weights for perceived loudness and fluctuation strength, which are for a model to learn;
    Andén, Lostanlen & Mallat, Joint time-frequency scattering, IEEE Trans. Signal Processing 67(14), 2019, of which
    wavelets along the bins are taken, but not the direction in which they move.
    """
    (n_bins, n_frames), features = map(int, features.shape[2:]), features.float()
    filters, rows = patterns(n_bins, features.device)
    waves, rates = _fourier(n_frames, features.device)
    with torch.autocast(features.device.type, enabled=False):  # a Fourier transform in bfloat16 would be noise
        centred = features - features.mean(dim=3, keepdim=True)
        energies = (filters @ (centred @ waves)).square()  # (batch, 1, n_patterns, 2 * n_cycles)
        return (rows @ (energies @ rates) + EPSILON).log()


def statistics(features: Tensor) -> Tensor:
    """Compute quantiles of each bin's levels, correlations between bands, and the modulation spectrum.

    Args:
        features: `(batch, 1, n_bins, n_frames)` as extracted.

    Returns:
        `QUANTILES` of each bin, correlation of each pair of bands, and log energies, `(batch, 1, 1, n_values)`,
        float32.

    Source: Seyerlehner, Widmer & Pohle, Fusing block-level features for music similarity estimation, DAFx 2010,
    spectral and correlation pattern, here of windows that are longer than the paper's blocks.
    """
    features = features.float()
    places = [round(share * (int(features.shape[3]) - 1)) for share in QUANTILES]
    levels = features.sort(dim=3).values[..., places]  # (batch, 1, n_bins, n_quantiles)
    parts = (levels, _correlations(features), modulation_spectrum(features))
    return torch.cat([part.flatten(1) for part in parts], dim=1)[:, None, None]


def medians(values: Tensor, n_bins: int) -> Tensor:
    """Return each bin's median `(n_bins, 1)` from statistics `(1, n_values)`."""
    levels = values[0, : n_bins * len(QUANTILES)].view(n_bins, len(QUANTILES))
    return levels[:, QUANTILES.index(0.5), None]


def _correlations(features: Tensor) -> Tensor:
    """Correlate each pair of bands of windows `(batch, 1, n_bins, n_frames)`: `(batch, 1, n_pairs)`; 0 if constant."""
    n_bands = min(int(features.shape[2]), N_BANDS)
    with torch.autocast(features.device.type, enabled=False):
        bands = averages(int(features.shape[2]), n_bands, features.device) @ features
        centred = bands - bands.mean(dim=3, keepdim=True)
        normalised = centred / (centred.square().mean(dim=3, keepdim=True) + EPSILON).sqrt()
        return (normalised @ normalised.transpose(2, 3) / features.shape[3]).flatten(2)[..., _pairs(n_bands)]


def _pairs(n: int) -> Tensor:
    """Indices of the pairs of n items in a flattened `(n, n)` matrix, each pair once."""
    one, other = torch.triu_indices(n, n, 1)
    return one * n + other


@cache
def patterns(n_bins: int, device: torch.device = CPU) -> tuple[Tensor, Tensor]:
    """Build `modulation_spectrum`'s filters over the bins: band averages, DCT cosines, complex wavelets by octaves.

    Cosines of mel bands give MFCCs; cosines of MFCCs give (nearly) mel bands again.

    Returns:
        The filters `(n_patterns, n_bins)`, the wavelets' real parts before their imaginary ones; and a 0/1 matrix
        `(n_rows, n_patterns)` that adds the energies of both parts.
    """
    with constants(device):
        octaves = range(1, 1 + int(math.log2(max(n_bins / FINEST, 1))))
        wavelets = torch.cat([torch.empty(2, 0, n_bins), *(_wavelets(n_bins, 2**octave) for octave in octaves)], dim=1)
        bands = averages(n_bins, min(n_bins, N_BANDS), device)
        filters = torch.cat([bands, cosines(min(n_bins, N_MFCC), n_bins, device), *wavelets])
        rows = torch.eye(len(filters) - wavelets.shape[1])
        return filters, torch.cat([rows, rows[:, len(rows) - wavelets.shape[1] :]], dim=1)


def _wavelets(n_bins: int, n_cycles: int) -> Tensor:
    """Wavelets of two cycles each, at `n_cycles` per bin axis, under Hann windows that overlap by half.

    Returns:
        Real and imaginary parts `(2, n_cycles - 1, n_bins)`.
    """
    cycles = (torch.arange(n_bins) + 0.5) * n_cycles / n_bins - torch.arange(1, n_cycles)[:, None]
    window = torch.where(cycles.abs() < 1, (cycles * math.pi / 2).cos().square(), 0)
    angles = cycles * 2 * math.pi
    return window / window.norm(dim=1, keepdim=True) * torch.stack([angles.cos(), angles.sin()])


@cache
def _fourier(n_frames: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """A Hann-windowed Fourier transform as a matrix, since ONNX has none for every length, and bands of its rates.

    Returns:
        Cosines, then sines, of each number of cycles per window `(n_frames, 2 * n_cycles)`; and weights
        `(2 * n_cycles, n_rates)` that average the energies within each logarithmic band of rates.
    """
    with constants(CPU):  # so that every device sees the same rates
        cycles = torch.arange(n_frames // 2 + 1)
        angles = cycles * torch.arange(n_frames)[:, None] * (2 * math.pi / n_frames)
        waves = torch.hann_window(n_frames)[:, None] * torch.cat([angles.cos(), angles.sin()], dim=1)
        fastest = max(n_frames / 2, 2 * SLOWEST)
        edges = torch.logspace(math.log10(SLOWEST), math.log10(fastest), N_RATES + 1, dtype=torch.float64)
        edges = edges.round(decimals=6)  # whole cycles on every platform if they are whole in theory
        low, high = edges[:-1], edges[1:]
        nearest = (cycles[:, None] - (low * high).sqrt()).abs().argmin(dim=0)  # for bands without a whole cycle number
        inside = (cycles[:, None] >= low) & (cycles[:, None] < high) | (cycles[:, None] == nearest)
        return waves.to(device), (inside / inside.sum(dim=0)).repeat(2, 1).to(device)


@cache
def averages(n_bins: int, bands: int, device: torch.device) -> Tensor:
    """Return a matrix `(bands, n_bins)` that averages the bins of each band; bands overlap where bins are too few."""
    with constants(device):
        bins, band = torch.arange(n_bins), torch.arange(bands)[:, None]
        inside = (bins >= band * n_bins // bands) & (bins * bands < (band + 1) * n_bins)
        return inside / inside.sum(dim=1, keepdim=True)
