"""CUDA graphs of training steps: recorded once per input shape, a step costs two launches instead of hundreds."""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from genre_cls.errors import UserError

Step = Callable[..., tuple[Tensor, ...]]

WARM_UP = 2  # steps before one is recorded, in which libraries allocate what they need


class Graphs:
    """A module's training step as CUDA graphs, which compute the same as the step.

    The step's control flow may depend on shapes only, not on values.

    Args:
        module: on a CUDA device; the step's first result is differentiated with respect to its weights.
        step: from tensors that need no gradient to tensors.
    """

    def __init__(self, module: nn.Module, step: Step) -> None:
        self.module, self.step = module, step
        self.recorded: dict[tuple[torch.Size, ...], Step] = {}
        self.pool = torch.cuda.graph_pool_handle()  # shared, since no two graphs run at the same time

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Replay the step, recording it first where these shapes are new.

        Args:
            inputs: the step's own: contiguous tensors on the module's device, of the same dtypes in every call; each
                tuple of shapes has a recording of its own.

        Returns:
            The step's results, which the next call overwrites.

        Raises:
            UserError: the step cannot be recorded.
        """
        shapes = tuple(each.shape for each in inputs)
        if shapes not in self.recorded:
            self.recorded[shapes] = self._record(inputs)
        return self.recorded[shapes](*inputs)

    def _record(self, inputs: tuple[Tensor, ...]) -> Step:
        """Record a step, and restore buffers (running statistics) and the random generators' states afterwards."""
        before = [buffer.clone() for buffer in self.module.buffers()]
        dtype, mixed = torch.get_autocast_dtype("cuda"), torch.is_autocast_enabled("cuda")
        samples = tuple(each.clone() for each in inputs)
        # Gradients come from the stream on which they were recorded; torch waits for it, so its warning is needless.
        torch.autograd.graph.set_warn_on_accumulate_grad_stream_mismatch(False)
        with torch.random.fork_rng([inputs[0].device]), torch.autocast("cuda", dtype, mixed, cache_enabled=False):
            try:
                recorded = torch.cuda.make_graphed_callables(
                    _Recordable(self.module, self.step), samples, WARM_UP, allow_unused_input=True, pool=self.pool
                )
            except torch.OutOfMemoryError:  # a RuntimeError, too
                raise
            except RuntimeError as error:
                reason = str(error).splitlines()[0]
                raise UserError(
                    f"model: its training step cannot be recorded ({reason}); trainer.graphs=false does without"
                ) from error
        for buffer, value in zip(self.module.buffers(), before, strict=True):
            buffer.copy_(value)
        return cast(Step, recorded)


class _Recordable(nn.Module):
    """A step as a module, so that torch's recorder knows the weights to differentiate with respect to."""

    def __init__(self, module: nn.Module, step: Step) -> None:
        super().__init__()
        self.module, self.step = module, step

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return self.step(*inputs)
