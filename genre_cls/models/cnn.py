"""The CNNs: from `(batch, 1, n_bins, n_frames)` of any size to logits `(batch, n_genres)`.

A new model is a class whose first argument is `n_genres`, and a file in `conf/model/` that names it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import conv1d, conv2d, pad

from genre_cls.configuration.settings import at_least
from genre_cls.models.views import averages


class GenreCNN(nn.Module):
    """Convolution blocks, then statistics over time of each block's maps, then a linear classifier.

    By gradient descent, the classifier learns from the last block alone, and its other weights stay zero. They get
    their values when it is fitted to the trained network (`refit`), and only cost time if it is not: learned together,
    the early blocks, which are easier to fit, would spare the last ones some of their work.

    Args:
        n_genres: classes.
        channels: output channels of each block; its length is the depth.
        kernel_sizes: side of each block's square kernels, odd.
        strides: of each block, in (bins, frames).
        bands: slices of the bin axis of each block's maps that stay separate, so that the classifier can tell low from
            high.
        dropout: share of the last block's statistics that is zeroed in training.

    Raises:
        ValueError: channels, kernel sizes, strides and bands differ in number, are no lists or empty, or hold anything
            but positive whole numbers, or pairs of them; or a kernel size is even.

    Source: Choi, Fazekas, Sandler & Cho, Transfer learning for music classification and regression tasks, ISMIR 2017:
    a classifier of a trained network's features of all layers.
    """

    def __init__(
        self,
        n_genres: int,
        *,
        channels: Sequence[int],
        kernel_sizes: Sequence[int],
        strides: Sequence[Sequence[int]],
        bands: Sequence[int],
        dropout: float,
    ) -> None:
        super().__init__()
        _check_one_per_block(channels=channels, kernel_sizes=kernel_sizes, strides=strides, bands=bands)
        if other := [stride for stride in strides if not isinstance(stride, Sequence) or len(stride) != 2]:
            raise ValueError(f"strides: {other[0]} must be a pair, [bins,frames]")
        steps = [step for stride in strides for step in stride]
        _check_positive(channels=channels, kernel_sizes=kernel_sizes, strides=steps, bands=bands)
        if even := [size for size in kernel_sizes if size % 2 == 0]:
            raise ValueError(f"kernel_sizes: {even[0]} must be odd")
        inputs = (1, *channels[:-1])
        self.blocks = nn.Sequential(
            *(_conv_block(*shape) for shape in zip(inputs, channels, kernel_sizes, strides, strict=True))
        )
        self.pools = nn.ModuleList(TimeStatistics(n) for n in bands)
        *early, self.n_last = (TimeStatistics.COUNT * n * m for n, m in zip(channels, bands, strict=True))
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(self.n_last, n_genres)  # initialised for the last block alone
        self.classifier.weight = nn.Parameter(pad(self.classifier.weight.detach(), (sum(early), 0)))
        self.classifier.in_features += sum(early)

    def forward(self, features: Tensor) -> Tensor:
        """Logits `(batch, n_genres)` of standardised features `(batch, 1, n_bins, n_frames)`."""
        if self.training:
            last = self.dropout(self.pools[-1](self.blocks(features)))
            return self.classifier(pad(last, (self.classifier.in_features - self.n_last, 0)))
        return self.classifier(self.statistics(features))

    def statistics(self, features: Tensor) -> Tensor:
        """What the classifier sees `(batch, in_features)`; no block counts more because it has more statistics.

        Args:
            features: standardised `(batch, 1, n_bins, n_frames)`.
        """
        by_block = []
        for block, pool in zip(self.blocks, self.pools, strict=True):
            features = block(features)  # (batch, channels, bins, frames)
            values = pool(features)
            by_block.append((self.n_last / values.shape[1]) ** 0.5 * values)
        return torch.cat(by_block, dim=1)


def _check_one_per_block(**lists: Sequence[object]) -> None:
    for name, values in lists.items():
        if not isinstance(values, Sequence):
            raise ValueError(f"{name}={values}: must be a list, with a value for each block")
        if not values:
            raise ValueError(f"{name}=[]: must have a value for each block, at least one")
    lengths = [len(values) for values in lists.values()]
    if len(set(lengths)) > 1:
        raise ValueError(f"{', '.join(lists)}: must be equally long, have {', '.join(map(str, lengths))}")


def _check_positive(**lists: Sequence[object]) -> None:
    for name, values in lists.items():
        if other := [value for value in values if not at_least(1).allows(value)]:
            raise ValueError(f"{name}: {other[0]} must be {at_least(1)}")


class TutorialCNN(nn.Module):
    """The CNN of the usual tutorial: blocks of convolution, pooling and normalisation, flattened into a dense layer.

    The dense layer takes its size from the first input, so the model must see one before it is trained or counted.

    Args:
        n_genres: classes.
        channels: output channels of each block.
        units: width of the dense layer.
        dropout: share of the dense layer's outputs that is zeroed in training.

    Raises:
        ValueError: there are no channels, or one of these is no positive whole number.

    Source: Velardo, Deep learning (for audio) with Python, lesson 16 (2020), of three blocks; here with 3 x 3
    kernels and padding throughout, so that few bins suffice.
    """

    def __init__(self, n_genres: int, *, channels: Sequence[int], units: int, dropout: float) -> None:
        super().__init__()
        _check_one_per_block(channels=channels)
        _check_positive(channels=channels, units=[units])
        inputs = (1, *channels[:-1])
        self.blocks = nn.Sequential(*(_pooled_block(n_in, n_out) for n_in, n_out in zip(inputs, channels, strict=True)))
        self.dense = nn.Sequential(nn.Flatten(), nn.LazyLinear(units), nn.ReLU(), nn.Dropout(dropout))
        self.classifier = nn.Linear(units, n_genres)

    def forward(self, features: Tensor) -> Tensor:
        """Logits `(batch, n_genres)` of standardised features `(batch, 1, n_bins, n_frames)`."""
        return self.classifier(self.dense(self.blocks(features)))


def _pooled_block(n_in: int, n_out: int) -> nn.Sequential:
    convolution = nn.Conv2d(n_in, n_out, 3, padding=1, bias=False)
    # Max pooling commutes with bias and ReLU; after it only a quarter of the values are left to add to and rectify.
    after_pooling = (Bias(n_out, fan_in=9 * n_in), nn.ReLU(inplace=True), nn.BatchNorm2d(n_out))
    return nn.Sequential(convolution, nn.MaxPool2d(3, 2, padding=1), *after_pooling)


class Bias(nn.Module):
    """A convolution's bias as a layer of its own.

    Args:
        n_channels: of the maps.
        fan_in: inputs of each of the convolution's outputs, for the same initialisation as torch's.
    """

    def __init__(self, n_channels: int, *, fan_in: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.empty(n_channels, 1, 1).uniform_(-(fan_in**-0.5), fan_in**-0.5))

    def forward(self, maps: Tensor) -> Tensor:
        """Maps `(batch, channels, bins, frames)` with the bias added."""
        return maps + self.bias.to(maps.dtype)  # in the maps' dtype, or bfloat16 would become float32


class TimeStatistics(nn.Module):
    """Mean, maximum and standard deviation over time of each channel in each band.

    Args:
        bands: number of slices of the bin axis that are averaged.
    """

    COUNT = 3

    def __init__(self, bands: int) -> None:
        super().__init__()
        self.bands = bands

    def forward(self, maps: Tensor) -> Tensor:
        """Statistics `(batch, bands * channels * COUNT)` of maps `(batch, channels, bins, frames)`."""
        batch, n_channels, n_bins, n_frames = maps.shape
        flat = maps.permute(0, 2, 3, 1).flatten(2)  # (batch, bins, frames * channels), no copy of channels_last maps
        means = averages(int(n_bins), self.bands, maps.device).to(maps.dtype)
        rows = (means @ flat).float().view(batch, self.bands, n_frames, n_channels)
        mean = rows.mean(dim=2, keepdim=True)  # (batch, bands, 1, channels)
        variance = (rows - mean).square().mean(dim=2)  # many times faster than Tensor.var on a CPU
        maximum = rows.movedim(2, 0).contiguous().amax(dim=0)  # without the copy up to four times as slow
        return torch.cat([mean.squeeze(2), maximum, (variance + 1e-5).sqrt()], dim=2).flatten(1)


def _conv_block(n_in: int, n_out: int, kernel_size: int, stride: Sequence[int]) -> nn.Sequential:
    """Return convolution, batch normalisation and ReLU; a stride saves computing what pooling would discard."""
    return nn.Sequential(
        PaddedConv2d(n_in, n_out, kernel_size, stride),
        nn.BatchNorm2d(n_out),
        nn.ReLU(inplace=True),
    )


class PaddedConv2d(nn.Conv2d):
    """A convolution without bias, padded by half its kernel.

    Where a single frame comes out, the kernel is cut to the frames that there are, rather than these padded to the
    kernel. That saves time and avoids a fault: with a stride, PyTorch 2.11 gives garbage there in bfloat16 on CPUs with
    AMX, as it does in `conv1d` where one bin comes out (https://github.com/pytorch/pytorch/issues/169688); with AVX-512
    in float32, too, for one channel with channels last and a stride along frames alone.

    Args:
        n_in: channels of its inputs.
        n_out: channels of its outputs.
        kernel_size: side of its square kernels, odd.
        stride: step in (bins, frames).
    """

    def __init__(self, n_in: int, n_out: int, kernel_size: int, stride: Sequence[int]) -> None:
        super().__init__(n_in, n_out, kernel_size, (stride[0], stride[1]), kernel_size // 2, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        """Maps `(batch, channels, bins, frames)` of maps."""
        n_bins, n_frames = map(int, maps.shape[2:])  # numbers also in an ONNX graph, which takes no slice of kernels
        side, step = self.kernel_size[0] // 2, self.stride[0]
        if n_frames > self.stride[1]:
            return super().forward(maps)
        if n_frames == 1 and n_bins > step:  # in two thirds of the time that it takes below
            return conv1d(maps.squeeze(3), self.weight[..., side], None, step, side)[..., None]
        weight = self.weight[..., side : side + n_frames]
        return conv2d(maps[..., : weight.shape[3]], weight, None, (step, 1), (side, 0))


def n_parameters(model: nn.Module) -> int:
    """Return the number of trainable weights."""
    return sum(weights.numel() for weights in model.parameters() if weights.requires_grad)
