"""Kernel ridge regression on windows' statistics: a classifier that is solved at once, not trained by epochs."""

from functools import cached_property
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from genre_cls.features import constants

RIDGE = 0.1  # added to the kernel matrix's diagonal, where a window meets itself with 1
LOGIT_SCALE = 9.0  # logits per unit of the regression's output; log loss of tracks left out is least at 8 to 10
CLIP = 10.0  # deviations from the mean, beyond which a single value would make a window unlike all others
MAX_WINDOWS = 5000  # to learn from; their kernel matrix takes some 600 MB meanwhile


class KernelMachine(nn.Module):
    """Radial basis functions around windows whose genres are known, weighted by ridge regression on these.

    Args:
        n_centres: windows that it has learned from, at least one.
        n_values: of each.
        n_genres: classes.

    Sources: Rifkin & Klautau, In defense of one-vs-all classification, JMLR 5 (2004), sec. 5; Rasmussen & Williams,
    Gaussian processes for machine learning (2006), ch. 6.5.
    """

    centres: Tensor  # in half the bytes, as they are most of a model's file
    weights: Tensor

    def __init__(self, n_centres: int, n_values: int, n_genres: int) -> None:
        super().__init__()
        if not n_centres:
            raise ValueError("a kernel machine has learned from nothing")
        self.register_buffer("centres", torch.zeros(n_centres, n_values, dtype=torch.float16))
        self.register_buffer("weights", torch.zeros(n_centres, n_genres))

    @classmethod
    def fitted(cls, values: Tensor, labels: Tensor, n_genres: int) -> Self:
        """Learn from windows.

        Args:
            values: of each, with zero mean and unit variance `(n_windows, n_values)`, at most `MAX_WINDOWS` windows.
            labels: their genres `(n_windows,)`.
            n_genres: classes.
        """
        machine = cls(len(values), values.shape[1], n_genres)
        machine.centres = values.clamp(-CLIP, CLIP).half()
        matrix = machine.kernel(machine._centres[0]).double()
        matrix.diagonal().add_(RIDGE)
        # Centred: a window's logits then sum to 0, as its targets do. (Softmax would not see the difference.)
        targets = one_hot(labels, n_genres).double() - 1 / n_genres
        machine.weights = torch.cholesky_solve(targets, torch.linalg.cholesky(matrix)).float().contiguous()
        return machine

    def forward(self, values: Tensor) -> Tensor:
        """Logits `(batch, n_genres)` of standardised statistics `(batch, 1, 1, n_values)`."""
        # bfloat16 would round small differences of distances away.
        with torch.autocast(values.device.type, enabled=False):
            return LOGIT_SCALE * self.kernel(values.flatten(1)) @ self.weights

    def kernel(self, values: Tensor) -> Tensor:
        """Radial basis functions exp(-|x - c|² / (2 n_values)) of windows `(n, n_values)`, `(n, n_centres)`.

        Two standardised windows are 2 n_values apart on average (squared), which gives 1 / e.
        """
        values, (centres, squares) = values.clamp(-CLIP, CLIP), self._centres
        distances = values.square().sum(dim=1, keepdim=True) + squares - 2 * values @ centres.T
        return (-distances.clamp(min=0) / (2 * centres.shape[1])).exp()

    @cached_property
    def _centres(self) -> tuple[Tensor, Tensor]:
        """The centres as they are computed with, and their squares, which take longer than to judge some windows."""
        with constants(self.centres.device):
            centres = self.centres.float()
            return centres, centres.square().sum(dim=1)
