"""CUDA graphs of training steps: recorded once per shape, with no side effect on the model. Runs without a GPU."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor, nn

from genre_cls.errors import UserError
from genre_cls.training.cuda_graphs import Graphs, Step


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[torch.Size, ...]]:
    """Shapes for which steps are recorded, by a fake of torch's recorder that warms up and then calls the step."""
    shapes: list[tuple[torch.Size, ...]] = []

    def record(module: nn.Module, samples: tuple[Tensor, ...], warm_up: int, **_: Any) -> Step:
        assert list(module.parameters())
        for _ in range(warm_up):
            module(*samples)
        shapes.append(tuple(each.shape for each in samples))
        return module

    @contextmanager
    def forked(devices: list[torch.device]) -> Iterator[None]:
        assert devices == [torch.device("cpu")]
        state = torch.get_rng_state()
        yield
        torch.set_rng_state(state)

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", record)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    monkeypatch.setattr(torch.random, "fork_rng", forked)
    return shapes


def a_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv1d(1, 4, 3), nn.BatchNorm1d(4), nn.Dropout())


def test_a_step_is_recorded_once_for_each_shape(recorded: list[tuple[torch.Size, ...]]) -> None:
    network = a_network()
    graphs = Graphs(network, lambda x: (network(x),))
    for length in (8, 9, 8, 9, 8):
        (maps,) = graphs(torch.ones(2, 1, length))
        assert maps.shape == (2, 4, length - 2)
    assert recorded == [((2, 1, 8),), ((2, 1, 9),)]


@pytest.mark.usefixtures("recorded")
def test_recording_a_step_changes_neither_buffers_nor_random_numbers() -> None:
    def three_steps(*, replayed: bool) -> list[Tensor]:
        network = a_network()
        graphs = Graphs(network, lambda x: (network(x),))
        torch.manual_seed(1)
        maps = [graphs(x)[0] if replayed else network(x) for x in torch.randn(3, 2, 1, 8)]
        return [*maps, *network.buffers()]

    pairs = zip(three_steps(replayed=True), three_steps(replayed=False), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)


@pytest.mark.usefixtures("recorded")
def test_a_step_that_cannot_be_recorded_is_reported_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> Step:
        raise RuntimeError("operation failed\nsomewhere")

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", fail)
    network = a_network()
    with pytest.raises(UserError, match=r"^model: .*\(operation failed\); trainer.graphs=false does without$"):
        Graphs(network, lambda x: (network(x),))(torch.ones(2, 1, 8))


@pytest.mark.usefixtures("recorded")
def test_a_gpu_whose_memory_is_too_small_is_no_fault_of_recording(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", Mock(side_effect=torch.OutOfMemoryError))
    network = a_network()
    with pytest.raises(torch.OutOfMemoryError):
        Graphs(network, lambda x: (network(x),))(torch.ones(2, 1, 8))
