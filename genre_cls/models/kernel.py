"""Kernel ridge regression on windows' statistics: a classifier solved in closed form, not by gradient descent."""

from functools import cached_property
from typing import Self

import torch
from torch import Tensor, nn
from torch.linalg import solve_triangular
from torch.nn.functional import one_hot

from genre_cls.tracks.features import constants

RIDGE = 0.1  # added to the kernel matrix's diagonal, which is 1
LOGIT_SCALE = 9.0  # logits per unit of the regression's output; log loss on held-out tracks is least at 8 to 10
CLIP = 10.0  # standard deviations; a single value beyond would make a window unlike all others
MAX_WINDOWS = 5000  # to train on; their kernel matrix takes some 450 MB meanwhile


class KernelMachine(nn.Module):
    """Radial basis functions centred on the training windows, weighted by ridge regression on their genres.

    Args:
        n_centres: training windows, at least one.
        n_values: values of each window.
        n_genres: classes.

    Raises:
        ValueError: no training windows.

    Sources: Rifkin & Klautau, In defense of one-vs-all classification, JMLR 5 (2004), sec. 5; Rasmussen & Williams,
    Gaussian processes for machine learning (2006), ch. 6.5.
    """

    centres: Tensor  # (n_centres, n_values), float16, as they are most of a model's file
    weights: Tensor  # (n_centres, n_genres)

    def __init__(self, n_centres: int, n_values: int, n_genres: int) -> None:
        super().__init__()
        if not n_centres:
            raise ValueError("a kernel machine needs at least one training window")
        self.register_buffer("centres", torch.zeros(n_centres, n_values, dtype=torch.float16))
        self.register_buffer("weights", torch.zeros(n_centres, n_genres))

    @classmethod
    def fitted(cls, values: Tensor, labels: Tensor, n_genres: int) -> Self:
        """Return a machine that is fitted to windows.

        Args:
            values: standardised, `(n_windows, n_values)`, at most `MAX_WINDOWS` windows.
            labels: their genres `(n_windows,)`, int64.
            n_genres: classes.
        """
        machine = cls(len(values), values.shape[1], n_genres)
        machine.centres = values.clamp(-CLIP, CLIP).half()
        matrix = machine.kernel(machine._centres[0]).double().T  # symmetric, and so stored by columns
        # Centred, so that a window's logits sum to 0 as its targets do; softmax is the same either way.
        targets = one_hot(labels, n_genres).double() - 1 / n_genres
        machine.weights = solved(matrix, targets, RIDGE).float().contiguous()
        return machine

    def forward(self, values: Tensor) -> Tensor:
        """Return logits `(batch, n_genres)` of standardised statistics `(batch, 1, 1, n_values)`."""
        # bfloat16 would round away small differences between distances.
        with torch.autocast(values.device.type, enabled=False):
            return LOGIT_SCALE * self.kernel(values.flatten(1)) @ self.weights

    def kernel(self, values: Tensor) -> Tensor:
        """Return radial basis functions exp(-|x - c|² / (2 n_values)) `(n, n_centres)` of windows `(n, n_values)`.

        The mean squared distance of two standardised windows is 2 n_values, which gives 1 / e.
        """
        values, (centres, squares) = values.clamp(-CLIP, CLIP), self._centres
        distances = values.square().sum(dim=1, keepdim=True) + squares - 2 * values @ centres.T
        return (-distances.clamp(min=0) / (2 * centres.shape[1])).exp()

    @cached_property
    def _centres(self) -> tuple[Tensor, Tensor]:
        """The centres in float32 and their squared norms, cached as they take longer than to classify some windows."""
        with constants(self.centres.device):
            centres = self.centres.float()
            return centres, centres.square().sum(dim=1)


def solved(matrix: Tensor, right: Tensor, ridge: float) -> Tensor:
    """Solve (A + ridge I) x = b.

    Args:
        matrix: A `(n, n)`, symmetric and positive semi-definite; its lower triangle suffices; changed if it is on the
            CPU. Of one that is stored by columns, no copy is made.
        right: b `(n, n_columns)`.
        ridge: above 0.

    Returns:
        x `(n, n_columns)`, on the CPU.

    Raises:
        torch.linalg.LinAlgError: the ridge is so small that rounding exceeds it.
    """
    matrix = matrix.cpu()
    matrix.diagonal().add_(ridge)
    lower = torch.linalg.cholesky(matrix, out=matrix)
    # `torch.cholesky_solve` would copy the matrix.
    return solve_triangular(lower.T, solve_triangular(lower, right.cpu(), upper=False), upper=True)
