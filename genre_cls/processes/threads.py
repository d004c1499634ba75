"""PyTorch on one thread, and calls in as many threads as cores."""

from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch
from joblib import cpu_count

Argument = TypeVar("Argument")
Result = TypeVar("Result")


@contextmanager
def one_thread() -> Iterator[None]:
    """Let PyTorch compute on one thread here, and on one in each thread that is started meanwhile.

    Several wait for each other at every step, and on a busy machine one of them always waits for a core.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def in_threads(function: Callable[[Argument], Result], arguments: Collection[Argument]) -> Iterator[Result]:
    """Yield a function's results in order, called for several arguments at once: as many as cores that may be used."""
    # Each thread asks PyTorch how many it may use: it tells MKL only then, whose first product had other bits.
    with ThreadPoolExecutor(min(cpu_count(), len(arguments)), initializer=torch.get_num_threads) as pool:
        yield from pool.map(function, arguments)
