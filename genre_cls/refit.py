"""Fit a trained network's last layer again, in closed form, to all windows that cover the training tracks."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from genre_cls.data import FoldData, Windows
from genre_cls.errors import UserError
from genre_cls.kernel import LOGIT_SCALE

MOST_VALUES = 2**26  # that the layer takes of all windows together: 250 MB, or 20 000 windows of the deep CNN


def refit(model: nn.Module, predict: Callable[[Windows], Tensor], data: FoldData, ridge: float) -> None:
    """Fit the layer that gives a model's logits to the tracks it was trained on, by ridge regression on their genres.

    By epochs, a layer learns from masked and mixed crops, each seen once; here from every window as evaluation sees it.
    A model stays as it is if its last `nn.Linear` does not give its logits, or has no bias.

    Args:
        model: trained; its layer is changed in place.
        predict: returns logits `(n_windows, n_genres)` in evaluation mode, by one call of the model per batch.
        data: the fold.
        ridge: penalty, relative to the mean variance of the layer's inputs.

    Raises:
        UserError: the penalty is too small for the arithmetic.

    Source: Kirichenko, Izmailov & Wilson, Last layer re-training is sufficient for robustness to spurious correlations,
    ICLR 2023, here on the training data themselves.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear) and _is_plain(layer)]
    if not layers:
        return
    windows = data.known(MOST_VALUES // layers[-1].in_features)
    with _recorded(layers[-1]) as (inputs, outputs):
        logits = predict(windows)
    if outputs and torch.equal(torch.cat(outputs).to(logits), logits):
        try:
            _fit(layers[-1], torch.cat(inputs).float(), windows.labels, ridge)
        except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
            raise UserError(f"recipe.ridge={ridge:g}: too small to compute with; try 0.01, or 0 for no fit") from error


def _is_plain(layer: nn.Linear) -> bool:
    """Whether a layer's weights and bias are parameters, and not computed from others, as by weight normalisation."""
    return {name for name, _ in layer.named_parameters(recurse=False)} == {"weight", "bias"}


@contextmanager
def _recorded(layer: nn.Linear) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
    """Record what goes into a layer and what comes out, as far as that is a vector for each window."""
    inputs: list[Tensor] = []
    outputs: list[Tensor] = []

    def record(_: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        if arguments and output.ndim == 2:
            inputs.append(arguments[0])
            outputs.append(output)

    hook = layer.register_forward_hook(record)
    try:
        yield inputs, outputs
    finally:
        hook.remove()


@torch.no_grad()
def _fit(layer: nn.Linear, inputs: Tensor, labels: Tensor, ridge: float) -> None:
    """Fit a layer to inputs `(n_windows, n_inputs)` and their genres `(n_windows,)`.

    Inputs keep their scales relative to each other, so that what varies little counts little.
    """
    mean, targets = inputs.mean(dim=0), one_hot(labels, layer.out_features).float()
    centred = inputs - mean
    scale = centred.square().mean().sqrt().clamp(min=1e-6)
    weights = LOGIT_SCALE / scale * ridge_regression(centred / scale, targets - targets.mean(dim=0), ridge)
    layer.weight.copy_(weights.T)
    # Without a common part: softmax is the same with one.
    layer.bias.copy_(LOGIT_SCALE * (targets.mean(dim=0) - 1 / layer.out_features) - mean @ weights)


def ridge_regression(inputs: Tensor, targets: Tensor, ridge: float) -> Tensor:
    """Return the weights w that minimise |x w - y|² / n_windows + ridge |w|².

    Args:
        inputs: x `(n_windows, n_inputs)`, float, centred.
        targets: y `(n_windows, n_targets)`, centred.
        ridge: above 0.

    Returns:
        Weights `(n_inputs, n_targets)`.

    Source: Hastie, Tibshirani & Friedman, The elements of statistical learning (2009), eq. 3.44, and 18.15 where inputs
    outnumber windows.
    """
    n_windows, n_inputs = inputs.shape
    if n_windows < n_inputs:
        return inputs.T @ _solved(inputs @ inputs.T, targets, n_windows * ridge)
    return _solved(inputs.T @ inputs, inputs.T @ targets, n_windows * ridge)


def _solved(matrix: Tensor, right: Tensor, ridge: float) -> Tensor:
    matrix.diagonal().add_(ridge)
    return torch.cholesky_solve(right, torch.linalg.cholesky(matrix))
