"""Parts of a training recipe besides the optimiser: augmentation, schedules of crop lengths and learning rates."""

from dataclasses import dataclass

import torch
import torchaudio.transforms as T
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

GROWING = 0.7  # share of the epochs in which crops grow


@dataclass(frozen=True)
class Augmentation:
    """Augmentation of training batches, besides random crops.

    Args:
        bin_mask: bands of bins that are masked are narrower than this share of all bins; 0 for none.
        frame_mask: stretches of frames that are masked are shorter than this share of the window; 0 for none.
        n_masks: masks of each kind.
        mixup: parameter α of the Beta(α, α) distribution of mixing weights; 0 for no mixing.
        label_smoothing: share of the target that is spread over all genres.

    Raises:
        ValueError: α is below 0.01, where float32 makes a weight of 1 into 1/2, or above 1000, where all nearly are.

    Sources: Park et al., SpecAugment, Interspeech 2019; Zhang et al., mixup, ICLR 2018.
    """

    bin_mask: float = 0.0
    frame_mask: float = 0.0
    n_masks: int = 0
    mixup: float = 0.0
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        if self.mixup and not 0.01 <= self.mixup <= 1000:
            raise ValueError(f"mixup={self.mixup}: must be 0, or from 0.01 to 1000")

    def mask(self, features: Tensor) -> Tensor:
        """Mask each window's bins and frames independently with 0, the mean of standardised features.

        Args:
            features: `(batch, 1, n_bins, n_frames)`, standardised.

        Returns:
            Windows of the same shape.
        """
        bins = T.FrequencyMasking(int(self.bin_mask * features.shape[2]), iid_masks=True)
        frames = T.TimeMasking(int(self.frame_mask * features.shape[3]), iid_masks=True)
        for _ in range(self.n_masks):
            features = frames(bins(features))
        return features

    def mix(self, features: Tensor, weight: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor | float]:
        """Blend each window x with another one y of the batch: λ x + (1 - λ) y.

        Args:
            features: `(batch, 1, n_bins, n_frames)`.
            weight: λ from `draw_mixing_weight`, a scalar; drawn here if not given.

        Returns:
            The blends, the index of each window's partner `(batch,)`, and λ.
        """
        partner = torch.randperm(len(features), device=features.device)
        if not self.mixup:
            return features, partner, 1.0
        share = self.draw_mixing_weight() if weight is None else weight
        return features.lerp(features[partner], 1 - share), partner, share

    def draw_mixing_weight(self) -> float:
        """Draw mixup's λ, the weight of the window itself in its blend: at least 1/2, and 1 without mixup."""
        if not self.mixup:
            return 1.0
        weight = float(torch.distributions.Beta(self.mixup, self.mixup, validate_args=False).sample())
        return max(weight, 1 - weight)


def crop_lengths(n_window: int, first: float, epochs: int) -> list[int]:
    """Return the frames of each epoch's crops, which grow linearly to whole windows; the last epochs use whole windows.

    Short crops take less time, and in the first epochs train as well.

    Args:
        n_window: frames of a window.
        first: length of the first epoch's crops, share of a window, above 0.
        epochs: number of epochs.

    Source: Tan & Le, EfficientNetV2, ICML 2021, sec. 4.2, progressive learning, of which only the size is taken.
    """
    shares = [min(1.0, first + (1 - first) * epoch / (GROWING * epochs)) for epoch in range(epochs - 1)]
    return [max(1, round(n_window * share)) for share in (*shares, 1.0)]


def one_cycle(optimizer: Optimizer, total_steps: int, *, warmup: float) -> LRScheduler:
    """Raise the learning rate to the optimiser's own along half a cosine, then lower it to almost 0 along another.

    Momentum (Adam's β₁) meanwhile falls from 0.95 to 0.85 and rises again, whatever the optimiser's own is, if it has
    one.

    Args:
        optimizer: its learning rate is the peak.
        total_steps: optimiser steps of the whole training.
        warmup: share of the steps in which the learning rate rises.

    Source: Smith & Topin, Super-convergence, 2019.
    """
    peak = optimizer.param_groups[0]["lr"]
    has_momentum = not optimizer.defaults.keys().isdisjoint(("momentum", "betas"))
    # Slightly more than warmup: OneCycleLR divides by zero where the rate would rise for exactly one step.
    rise = warmup + 1e-9
    return OneCycleLR(optimizer, peak, total_steps=total_steps, pct_start=rise, cycle_momentum=has_momentum)


def constant(optimizer: Optimizer, total_steps: int) -> LRScheduler:
    """Keep the learning rate constant."""
    return LambdaLR(optimizer, lambda _: 1.0)
