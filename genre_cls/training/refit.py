"""Fit a trained network's last layer again, in closed form, to windows as evaluation sees them."""

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, one_hot
from torch.utils.hooks import RemovableHandle

from genre_cls.errors import DivergenceError
from genre_cls.models.kernel import LOGIT_SCALE, solved
from genre_cls.training.data import FoldData, Windows

MOST_VALUES = 2**26  # that a layer takes of all windows together: 7000 windows of the deep CNN, some 500 MB meanwhile
STRIPES = 8  # of a symmetric matrix, of each of which only what is below the diagonal is computed
WIDEST = 2**15  # inputs of a layer that is fitted, so that it is fitted to at least 2000 windows, if there are as many


def output_layer(model: nn.Module, windows: Tensor) -> nn.Linear | None:
    """Return the layer whose outputs are a model's logits, if it is an `nn.Linear` that can be fitted by itself.

    Args:
        model: any; left as it was.
        windows: some of its inputs `(batch, 1, n_bins, n_frames)`.

    Returns:
        The layer; None if the model ends in anything else, or in a layer that lacks a bias, is frozen or not float32,
        shares its weights with another, computes them from others, or has more than `WIDEST` inputs.
    """
    inputs: dict[nn.Linear, Tensor] = {}
    hooks = [_recording(layer, partial(inputs.__setitem__, layer)) for layer in model.modules() if _is_plain(layer)]
    was_training = model.training
    with torch.no_grad():
        logits = model.eval()(windows)
        model.train(was_training)
        for hook in hooks:
            hook.remove()
        outputs = {layer: linear(values, layer.weight, layer.bias).to(logits) for layer, values in inputs.items()}
    found = [layer for layer, output in outputs.items() if output.shape == logits.shape and output.allclose(logits)]
    users: Counter[Tensor] = Counter(weights for _, weights in model.named_parameters(remove_duplicate=False))
    return next((layer for layer in found if users[layer.weight] == users[layer.bias] == 1), None)


def _is_plain(layer: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether a layer is an `nn.Linear`, no relative of it, whose weights and bias are learned."""
    if type(layer) is not nn.Linear or layer.in_features > WIDEST:
        return False
    own = {name: weights.dtype for name, weights in layer.named_parameters() if weights.requires_grad}
    return own == {"weight": torch.float, "bias": torch.float}


def _recording(layer: nn.Linear, record: Callable[[Tensor], object]) -> RemovableHandle:
    """Record what a layer is given, as copies: the model may change it afterwards, or it may be a view of much more."""

    def hook(_: nn.Module, arguments: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
        record((*arguments, *named.values())[0].to(torch.float, copy=True))

    return layer.register_forward_pre_hook(hook, with_kwargs=True)


def refit(layer: nn.Linear, predict: Callable[[Windows], object], data: FoldData, ridge: float) -> None:
    """Fit a network's output layer by ridge regression on the genres of the tracks that it may learn from.

    By gradient descent, it learns from masked and mixed crops, each seen once; here from whole windows as they are.

    Args:
        layer: of a trained network; changed in place.
        predict: calls that network, in evaluation mode, once for each batch of windows.
        data: the fold.
        ridge: penalty, relative to the mean variance of the layer's inputs.

    Raises:
        DivergenceError: the penalty is too small for the arithmetic.

    Source: Kirichenko, Izmailov & Wilson, Last layer re-training is sufficient for robustness to spurious correlations,
    ICLR 2023, here on the training data themselves.
    """
    windows = data.training_windows(MOST_VALUES // layer.in_features)
    inputs = _inputs(layer, predict, windows)
    if inputs is None:
        return
    try:
        _fit(layer, inputs, one_hot(windows.labels, layer.out_features).float(), ridge)
    except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
        reason = "is too small to fit last layers with; a larger one may do, and 0 leaves them as trained"
        raise DivergenceError(f"recipe.ridge={ridge:g}: {reason}") from error


def _inputs(layer: nn.Linear, predict: Callable[[Windows], object], windows: Windows) -> Tensor | None:
    """What a layer is given for windows `(n_windows, n_inputs)`, on their device.

    None if that is more or less than one input per window, as in compiled models, which may call no hook.
    """
    # One block from the start: a list of batches, then joined, would take twice its memory.
    labels = windows.labels
    inputs = torch.empty(len(labels), layer.in_features, device=labels.device)
    n = 0

    def record(values: Tensor) -> None:
        nonlocal n
        if n + len(values) <= len(inputs):
            inputs[n : n + len(values)] = values
        n += len(values)

    hook = _recording(layer, record)
    try:
        predict(windows)
    finally:
        hook.remove()
    return inputs if n == len(inputs) else None


@torch.no_grad()
def _fit(layer: nn.Linear, inputs: Tensor, targets: Tensor, ridge: float) -> None:
    """Fit a layer to inputs `(n_windows, n_inputs)`, which are changed, and targets `(n_windows, n_genres)`.

    Inputs keep their scales relative to each other, so that what varies little counts little.
    """
    mean, shares = inputs.mean(dim=0), targets.mean(dim=0)
    scale = inputs.sub_(mean).std(correction=0).clamp(min=1e-6)  # their means are 0; squares would be as large again
    weights = LOGIT_SCALE / scale.cpu() * ridge_regression(inputs.div_(scale), targets - shares, ridge)
    layer.weight.copy_(weights.T)
    # Logits lose what all genres have in common, which softmax does not see.
    layer.bias.copy_(LOGIT_SCALE * (shares.cpu() - 1 / layer.out_features) - mean.cpu() @ weights)


def ridge_regression(inputs: Tensor, targets: Tensor, ridge: float) -> Tensor:
    """Return the weights w that minimise |x w - y|² / n_windows + ridge |w|².

    Args:
        inputs: x `(n_windows, n_inputs)`, float, centred.
        targets: y `(n_windows, n_targets)`, centred.
        ridge: above 0.

    Returns:
        Weights `(n_inputs, n_targets)`, on the CPU.

    Source: Hastie, Tibshirani & Friedman, The elements of statistical learning (2009), eq. 3.44, and 18.15 where inputs
    outnumber windows.
    """
    n_windows, n_inputs = inputs.shape
    if n_windows < n_inputs:
        dual = solved(_gram(inputs), targets, n_windows * ridge)
        return (inputs.T @ dual.to(inputs.device)).cpu()
    return solved(_gram(inputs.T), inputs.T @ targets, n_windows * ridge)


def _gram(rows: Tensor) -> Tensor:
    """Return the lower triangle of the products of each two rows `(n, n)`, in little more than half the time of all.

    It is stored by columns, so that `solved` need not copy it.
    """
    n, step = len(rows), -(-len(rows) // STRIPES)
    products = rows.new_zeros(n, n).T
    for start in range(0, n, step):
        products[start:, start : start + step] = rows[start:] @ rows[start : start + step].T
    return products
