"""Threads: PyTorch computes on one, and no more calls run at once than a quota of cores allows."""

import threading

import pytest
import torch

from genre_cls.processes import threads
from genre_cls.processes.threads import in_threads, one_thread


def test_pytorch_has_one_thread_within_also_in_new_threads_and_as_many_as_before_afterwards() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with one_thread():
            within = [torch.get_num_threads(), *in_threads(lambda _: torch.get_num_threads(), range(4))]
        assert within == [1] * 5 and torch.get_num_threads() == 3
        with pytest.raises(ZeroDivisionError), one_thread():
            _ = 1 / 0
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_a_threads_first_product_has_the_bits_that_it_has_elsewhere() -> None:
    one, other = (torch.randn(*shape, generator=torch.Generator().manual_seed(0)) for shape in ((10, 24), (24, 60)))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with one_thread():
            products = [one @ other, *in_threads(lambda _: one @ other, range(4))]
        assert all(product.equal(products[0]) for product in products)
    finally:
        torch.set_num_threads(before)


def test_as_many_calls_run_at_once_as_cores_may_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "cpu_count", lambda: 2)
    pair = threading.Barrier(2)  # each call waits for another one

    def call(number: int) -> tuple[int, int]:
        pair.wait(timeout=10)
        return number, threading.get_ident()

    results = list(in_threads(call, range(8)))
    assert [number for number, _ in results] == list(range(8)) and len({thread for _, thread in results}) == 2
    with pytest.raises(ZeroDivisionError):
        list(in_threads(lambda number: 1 // number, range(3)))
