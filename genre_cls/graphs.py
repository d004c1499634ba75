"""Training steps that a GPU replays: recorded once for each shape, they cost two launches instead of hundreds."""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from genre_cls.errors import UserError

Step = Callable[..., tuple[Tensor, ...]]

WARM_UP = 2  # steps before one is recorded, in which libraries allocate what they need


class Graphs:
    """A module's training step as CUDA graphs, which compute what the step computes.

    What is recorded may not depend on values, but on shapes alone.

    Args:
        module: on a CUDA device; its weights are what the first of the step's results is differentiated by.
        step: from tensors that need no gradient to tensors.
    """

    def __init__(self, module: nn.Module, step: Step) -> None:
        self.module, self.step = module, step
        self.recorded: dict[tuple[torch.Size, ...], Step] = {}
        self.pool = torch.cuda.graph_pool_handle()  # one, since no two of them are at work at the same time

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The step's results, which the next call overwrites.

        Args:
            inputs: the step's own.

        Raises:
            UserError: the step cannot be recorded.
        """
        shapes = tuple(each.shape for each in inputs)
        if shapes not in self.recorded:
            self.recorded[shapes] = self._record(inputs)
        return self.recorded[shapes](*inputs)

    def _record(self, inputs: tuple[Tensor, ...]) -> Step:
        """Record a step; running statistics and random numbers are afterwards what they were before."""
        before = [buffer.clone() for buffer in self.module.buffers()]
        dtype, mixed = torch.get_autocast_dtype("cuda"), torch.is_autocast_enabled("cuda")
        samples = tuple(each.clone() for each in inputs)
        # Gradients come from the stream on which they were recorded; torch waits for it, and need not tell.
        torch.autograd.graph.set_warn_on_accumulate_grad_stream_mismatch(False)
        with torch.random.fork_rng([inputs[0].device]), torch.autocast("cuda", dtype, mixed, cache_enabled=False):
            try:
                recorded = torch.cuda.make_graphed_callables(
                    _Recordable(self.module, self.step), samples, WARM_UP, allow_unused_input=True, pool=self.pool
                )
            except RuntimeError as error:
                reason = str(error).splitlines()[0]
                raise UserError(
                    f"model: its training step cannot be recorded ({reason}); trainer.graphs=false does without"
                ) from error
        for buffer, value in zip(self.module.buffers(), before, strict=True):
            buffer.copy_(value)
        return cast(Step, recorded)


class _Recordable(nn.Module):
    """A step with the weights that it is differentiated by."""

    def __init__(self, module: nn.Module, step: Step) -> None:
        super().__init__()
        self.module, self.step = module, step

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return self.step(*inputs)
