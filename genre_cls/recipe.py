"""What a recipe is made of beside an optimiser: augmentation, and schedules of crops and of learning rates."""

from dataclasses import dataclass

import torch
import torchaudio.transforms as T
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR

GROWING = 0.7  # share of the epochs in which crops grow


@dataclass(frozen=True)
class Augmentation:
    """What is done to a training batch beside cropping.

    Args:
        bin_shift: most bins that a window is moved up or down, as if it were played higher or lower; 0 for none.
        bin_mask: widest band of bins that is masked, as a share of all bins; 0 for none.
        frame_mask: longest stretch of frames that is masked, as a share of the window; 0 for none.
        n_masks: masks of each kind.
        mixup: parameter of the Beta distribution of mixing weights; 0 for no mixing.
        label_smoothing: share of the target that is spread over all genres.

    Sources: Park et al., SpecAugment, Interspeech 2019; Zhang et al., mixup, ICLR 2018.
    """

    bin_shift: int = 0
    bin_mask: float = 0.0
    frame_mask: float = 0.0
    n_masks: int = 0
    mixup: float = 0.0
    label_smoothing: float = 0.0

    def shift(self, features: Tensor) -> Tensor:
        """Move each window up or down on its own, with its outermost bin repeated where nothing is left.

        Args:
            features: `(batch, 1, n_bins, n_frames)`.
        """
        if not self.bin_shift:
            return features
        steps = torch.randint(-self.bin_shift, self.bin_shift + 1, (len(features), 1))
        bins = (torch.arange(features.shape[2]) + steps).clamp(0, features.shape[2] - 1).to(features.device)
        return features.gather(2, bins[:, None, :, None].expand_as(features))

    def mask(self, features: Tensor) -> Tensor:
        """Mask each window's bins and frames on its own with the mean (0, once standardised).

        Args:
            features: `(batch, 1, n_bins, n_frames)`.
        """
        bins = T.FrequencyMasking(int(self.bin_mask * features.shape[2]), iid_masks=True)
        frames = T.TimeMasking(int(self.frame_mask * features.shape[3]), iid_masks=True)
        for _ in range(self.n_masks):
            features = frames(bins(features))
        return features

    def mix(self, features: Tensor, share: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor | float]:
        """Blend each window with another one of the batch.

        Args:
            features: `(batch, 1, n_bins, n_frames)`.
            share: what `own_share` has given, a scalar; drawn here if nothing is said.

        Returns:
            The blends, the index of each window's partner `(batch,)`, and the window's own share.
        """
        partner = torch.randperm(len(features), device=features.device)
        if not self.mixup:
            return features, partner, 1.0
        own = self.own_share() if share is None else share
        return features.lerp(features[partner], 1 - own), partner, own

    def own_share(self) -> float:
        """Draw how much of a blend is the window itself, at least half."""
        if not self.mixup:
            return 1.0
        drawn = float(torch.distributions.Beta(self.mixup, self.mixup, validate_args=False).sample())
        return max(drawn, 1 - drawn)


def crop_lengths(n_window: int, first: float, epochs: int) -> list[int]:
    """Frames of each epoch's crops: they grow evenly to whole windows, and the last epochs see nothing else.

    Short crops take less time, and at first teach as much.

    Args:
        n_window: frames of a window.
        first: length of the first epoch's crops, share of a window, above 0.
        epochs: how many there are.

    Source: Tan & Le, EfficientNetV2, ICML 2021, sec. 4.2, progressive learning, of which only the size is taken.
    """
    shares = [min(1.0, first + (1 - first) * epoch / (GROWING * epochs)) for epoch in range(epochs - 1)]
    return [max(1, round(n_window * share)) for share in (*shares, 1.0)]


def one_cycle(optimizer: Optimizer, total_steps: int, *, warmup: float) -> LRScheduler:
    """Rise to the optimiser's learning rate, then fall to nothing along half a cosine.

    Momentum (Adam's first beta) meanwhile falls from 0.95 to 0.85 and rises again, whatever the optimiser's own is.

    Args:
        optimizer: its learning rate is the peak.
        total_steps: batches of the whole training.
        warmup: share of the steps that rise.

    Source: Smith & Topin, Super-convergence, 2019.
    """
    peak = optimizer.param_groups[0]["lr"]
    # A hair more: where it would rise for exactly one step, OneCycleLR divides by zero.
    return OneCycleLR(optimizer, max_lr=peak, total_steps=total_steps, pct_start=warmup + 1e-9)


def constant(optimizer: Optimizer, total_steps: int) -> None:
    """Leave the learning rate as it is."""
