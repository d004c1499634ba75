"""The CNNs: `(batch, 1, n_bins, n_frames)` in, `(batch, n_genres)` logits out, for any input size.

A new model is a class whose first argument is `n_genres`, and a file in `conf/model/` that names it.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from genre_cls.features import cosines
from genre_cls.windows import is_of_mfccs, treatment

MODULATION_BANDS, MODULATION_RATES = 32, 12  # of a modulation spectrum
SLOWEST = 2  # cycles a window
N_MFCC = 20  # coefficients of a view of MFCCs
QUIETEST = 1e-3  # dB², what a fluctuation is above that is more than rounding


class GenreCNN(nn.Module):
    """Convolution blocks, then statistics over time, then a linear classifier.

    Args:
        n_genres: classes.
        channels: output channels of each block; its length is the depth.
        kernel_sizes: side of each block's square kernels.
        strides: per block the step in (bins, frames).
        bands: slices of the bin axis that keep their place up to the classifier; what sounds low and
            what sounds high is told apart there.
        dropout: share of the pooled statistics that is zeroed in training.
    """

    def __init__(
        self,
        n_genres: int,
        *,
        channels: Sequence[int],
        kernel_sizes: Sequence[int],
        strides: Sequence[Sequence[int]],
        bands: int,
        dropout: float,
    ) -> None:
        super().__init__()
        inputs = (1, *channels[:-1])
        self.blocks = nn.Sequential(
            *(conv_block(*shape) for shape in zip(inputs, channels, kernel_sizes, strides, strict=True))
        )
        self.pool = TimeStatistics(bands)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(channels[-1] * bands * TimeStatistics.COUNT, n_genres)

    def forward(self, features: Tensor) -> Tensor:
        """Logits `(batch, n_genres)` of standardised features `(batch, 1, n_bins, n_frames)`."""
        maps = self.blocks(features)  # (batch, channels, bins, frames)
        return self.classifier(self.dropout(self.pool(maps)))


class TutorialCNN(nn.Module):
    """What tutorials on genres build: convolution, pooling, normalisation a block, then all of it into a dense layer.

    Its first dense layer takes its size from the first input, so it has to see one before it is trained or counted.

    Args:
        n_genres: classes.
        channels: output channels of each block.
        units: width of the dense layer.
        dropout: share of the dense layer's outputs that is zeroed in training.

    Source: Velardo, Deep learning (for audio) with Python, lesson 16 (2020), with padding, so that few bins suffice.
    """

    def __init__(self, n_genres: int, *, channels: Sequence[int], units: int, dropout: float) -> None:
        super().__init__()
        inputs = (1, *channels[:-1])
        self.blocks = nn.Sequential(*(_pooled_block(n_in, n_out) for n_in, n_out in zip(inputs, channels, strict=True)))
        self.dense = nn.Sequential(nn.Flatten(), nn.LazyLinear(units), nn.ReLU(), nn.Dropout(dropout))
        self.classifier = nn.Linear(units, n_genres)

    def forward(self, features: Tensor) -> Tensor:
        """Logits `(batch, n_genres)` of standardised features `(batch, 1, n_bins, n_frames)`."""
        return self.classifier(self.dense(self.blocks(features)))


def _pooled_block(n_in: int, n_out: int) -> nn.Sequential:
    convolution = nn.Conv2d(n_in, n_out, 3, padding=1, bias=False)
    # Maximum, bias and ReLU may change places; after pooling a quarter of the values is left to add to and to rectify.
    later = (nn.MaxPool2d(3, 2, padding=1), Bias(n_out, fan_in=9 * n_in), nn.ReLU(inplace=True))
    return nn.Sequential(convolution, *later, nn.BatchNorm2d(n_out))


class Bias(nn.Module):
    """A convolution's bias, apart from it.

    Args:
        n_channels: of the maps.
        fan_in: weights of each of the convolution's outputs; the bias starts as torch's own would.
    """

    def __init__(self, n_channels: int, *, fan_in: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.empty(n_channels, 1, 1).uniform_(-(fan_in**-0.5), fan_in**-0.5))

    def forward(self, maps: Tensor) -> Tensor:
        """Maps `(batch, channels, bins, frames)` with the bias added."""
        return maps + self.bias


class TimeStatistics(nn.Module):
    """Mean, maximum and standard deviation over time of each channel in each band.

    Args:
        bands: slices the bin axis is averaged into.
    """

    COUNT = 3

    def __init__(self, bands: int) -> None:
        super().__init__()
        if bands < 1:
            raise ValueError(f"bands={bands}: must be at least 1")
        self.bands = bands

    def forward(self, maps: Tensor) -> Tensor:
        """Statistics `(batch, bands * channels * COUNT)` of maps `(batch, channels, bins, frames)`."""
        batch, n_channels, n_bins, n_frames = maps.shape
        flat = maps.permute(0, 2, 3, 1).flatten(2)  # (batch, bins, frames * channels), no copy of channels_last maps
        rows = (averages(n_bins, self.bands, like=maps) @ flat).float().view(batch, self.bands, n_frames, n_channels)
        mean = rows.mean(dim=2, keepdim=True)  # (batch, bands, 1, channels)
        variance = (rows - mean).square().mean(dim=2)  # many times faster than Tensor.var on a CPU
        return torch.cat([mean.squeeze(2), rows.amax(dim=2), (variance + 1e-5).sqrt()], dim=2).flatten(1)


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


def conv_block(n_in: int, n_out: int, kernel_size: int, stride: Sequence[int]) -> nn.Sequential:
    """Convolution, batch normalisation, ReLU; the stride thins the maps out before they are computed."""
    return nn.Sequential(
        nn.Conv2d(n_in, n_out, kernel_size, (stride[0], stride[1]), kernel_size // 2, bias=False),
        nn.BatchNorm2d(n_out),
        nn.ReLU(inplace=True),
    )


def n_parameters(model: nn.Module) -> int:
    """Number of trainable weights."""
    return sum(weights.numel() for weights in model.parameters() if weights.requires_grad)


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
    """Shape of a view's standardisation: a value for each bin, or for each band and rate."""
    n_values = min(n_bins, N_MFCC) if is_of_mfccs(view) else n_bins
    return (min(n_values, MODULATION_BANDS), MODULATION_RATES) if treatment(view) == "modulation" else (n_values, 1)


def mfccs(features: Tensor) -> Tensor:
    """The first `N_MFCC` cepstral coefficients `(..., n_mfcc, n_frames)` of mel bands `(..., n_mels, n_frames)`, dB."""
    n_mels = features.shape[-2]
    basis = cosines(min(n_mels, N_MFCC), n_mels).clone()  # what is cached may have been made in inference mode
    with torch.autocast(features.device.type, enabled=False):  # of tens of dB bfloat16 would leave whole ones
        return basis.to(features.device) @ features.float()


def modulation_spectrum(features: Tensor) -> Tensor:
    """How strongly each band swells and fades at each rate: what rhythm and articulation leave when all else is gone.

    Args:
        features: `(batch, 1, n_bins, n_frames)` as extracted.

    Returns:
        Log energies `(batch, 1, n_bands, n_rates)`, float32. The rates are spaced evenly by their logarithm, from
        `SLOWEST` cycles a window to half a cycle a frame.

    Source: Pampalk, Computational models of music similarity, PhD thesis, TU Wien (2006), ch. 2.2, fluctuation
    patterns; without its weights for how loud and how strong a fluctuation is felt, which are for a model to learn.
    """
    (n_bins, n_frames), features = features.shape[2:], features.float()
    with torch.autocast(features.device.type, enabled=False):  # a Fourier transform in bfloat16 would be noise
        waves = averages(n_bins, min(n_bins, MODULATION_BANDS), like=features) @ features
        waves = (waves - waves.mean(dim=3, keepdim=True)) * torch.hann_window(n_frames, device=features.device)
        cycles, bands = _modulation_bands(n_frames, features.device)
        angles = cycles * torch.arange(n_frames, device=features.device)[:, None] * (2 * math.pi / n_frames)
        energies = (waves @ angles.cos()).square() + (waves @ angles.sin()).square()  # matrices, which ONNX knows, too
        return (energies @ bands + QUIETEST).log()


def _modulation_bands(n_frames: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cycles a window of each Fourier coefficient `(n_cycles,)`, and what averages them `(n_cycles, n_rates)`."""
    cycles = torch.arange(n_frames // 2 + 1, device=device)
    edges = torch.logspace(math.log10(SLOWEST), math.log10(max(n_frames / 2, 2 * SLOWEST)), MODULATION_RATES + 1)
    low, high = edges[:-1].to(device), edges[1:].to(device)
    nearest = (cycles[:, None] - (low * high).sqrt()).abs().argmin(dim=0)  # for rates between which there is none
    inside = (cycles[:, None] >= low) & (cycles[:, None] < high) | (cycles[:, None] == nearest)
    return cycles, inside / inside.sum(dim=0)


def arithmetic(precision: str, *, accelerator: bool) -> str:
    """What a setting of precision means on this machine: `auto` is bfloat16 where the hardware computes with it.

    Args:
        precision: `32-true`, `bf16-mixed` or `auto`.
        accelerator: whether a GPU computes.
    """
    if precision != "auto":
        return precision
    if accelerator:
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        # Without these instructions bfloat16 is emulated, and slower than float32.
        fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16-mixed" if fast else "32-true"


def on_accelerator(device: str) -> bool:
    """Whether a device setting means a GPU on this machine."""
    return device in ("cuda", "mps") or (device == "auto" and torch.accelerator.is_available())
