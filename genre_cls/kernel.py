"""A kernel machine: a window is of the genre of those that it is like, by its statistics. It learns all at once."""

from functools import cached_property
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from genre_cls.features import constants

RIDGE = 0.1  # what a window is worth to itself beside its likeness, 1
SURENESS = 9.0  # logits for a window that is wholly of a genre; log loss of tracks left out is least at 8 to 10
FURTHEST = 10.0  # deviations from the mean, beyond which a single value would make a window unlike all others
MOST = 5000  # windows to learn from; the matrix of their likenesses takes some 600 MB meanwhile


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
            values: of each, with zero mean and unit variance `(n_windows, n_values)`, at most `MOST` windows.
            labels: their genres `(n_windows,)`.
            n_genres: classes.
        """
        machine = cls(len(values), values.shape[1], n_genres)
        machine.centres = values.clamp(-FURTHEST, FURTHEST).half()
        likeness = machine.likeness(machine._known[0]).double()
        likeness.diagonal().add_(RIDGE)
        # What is like nothing is of all genres alike, so that each window's targets add up to nothing.
        targets = one_hot(labels, n_genres).double() - 1 / n_genres
        machine.weights = torch.cholesky_solve(targets, torch.linalg.cholesky(likeness)).float().contiguous()
        return machine

    def forward(self, values: Tensor) -> Tensor:
        """Logits `(batch, n_genres)` of standardised statistics `(batch, 1, 1, n_values)`."""
        with torch.autocast(values.device.type, enabled=False):  # bfloat16 knows no small differences
            return SURENESS * self.likeness(values.flatten(1)) @ self.weights

    def likeness(self, values: Tensor) -> Tensor:
        """How like windows `(n, n_values)` are to each centre, 0 to 1 `(n, n_centres)`.

        Two windows that are as far apart as any two are in the mean have a likeness of 1 / e.
        """
        values, (centres, squares) = values.clamp(-FURTHEST, FURTHEST), self._known
        distances = values.square().sum(dim=1, keepdim=True) + squares - 2 * values @ centres.T
        return (-distances.clamp(min=0) / (2 * centres.shape[1])).exp()

    @cached_property
    def _known(self) -> tuple[Tensor, Tensor]:
        """The centres as they are computed with, and their squares, which take longer than to judge some windows."""
        with constants(self.centres.device):
            centres = self.centres.float()
            return centres, centres.square().sum(dim=1)
