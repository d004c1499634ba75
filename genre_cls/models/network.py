"""A model with its view of windows and the standardisation of that view: what is trained, stored and asked."""

import torch
from torch import Tensor, nn

from genre_cls.models.views import view_of
from genre_cls.processes.device import is_ours


class Network(nn.Module):
    """A model with its view of windows and the standardisation of that view.

    Args:
        model: from a standardised view to logits `(batch, n_genres)`; a `KernelMachine` for views of statistics.
        view: one of `members.VIEWS`.
        mean: of each value of the view, `shape_of(view, n_bins)`.
        deviation: standard deviation of each value, likewise.

    Attributes:
        layout: of the model's weights and input in memory.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, model: nn.Module, view: str, mean: Tensor, deviation: Tensor) -> None:
        super().__init__()
        self.model, self.view = model, view
        self.layout = layout_of(model)
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", deviation)

    def forward(self, features: Tensor) -> Tensor:
        """Return the logits `(batch, n_genres)` of features `(batch, 1, n_bins, n_frames)` as extracted."""
        return self.logits(view_of(features, self.view))

    def logits(self, values: Tensor) -> Tensor:
        """Return the logits `(batch, n_genres)` of what `view_of` returns for windows."""
        return self.model(self.standardised(values))

    def standardised(self, values: Tensor) -> Tensor:
        """Return the model's input for what `view_of` returns for windows."""
        return standardised(values, self.mean, self.deviation).contiguous(memory_format=self.layout)

    def weights(self) -> dict[str, Tensor]:
        """Return weights and standardisation by name, as model files hold them, on the CPU."""
        return {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}


def layout_of(model: nn.Module) -> torch.memory_format:
    """Return how a model's weights and input lie in memory: channels last for the package's models, where it is safe.

    That is about twice as fast on CPUs and on tensor cores.
    PyTorch 2.11 writes past the end of some maps there, in convolutions of few channels by 1 x 1 kernels that have a
    stride, as ResNets have. What models of one's own call is not known.
    """
    convolutions = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    is_safe = not any(layer.kernel_size == (1, 1) and layer.stride != (1, 1) for layer in convolutions)
    return torch.channels_last if is_safe and is_ours(type(model).__module__) else torch.contiguous_format


def standardised(values: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    """Standardise a view: each value with zero mean and unit variance.

    Args:
        values: what `view_of` returns, `(batch, 1, n_rows, n_columns)`.
        mean: of each value, `shape_of(view, n_bins)`.
        deviation: standard deviation of each value, likewise.

    Returns:
        Values of the same shape, float32.
    """
    return (values.float() - mean) / deviation
