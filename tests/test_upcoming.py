"""Test which configurations begin while the present one still trains, and which are given up."""

from collections.abc import Sequence
from unittest import mock

import pytest
from omegaconf import DictConfig
from shared import Compose

from genre_cls.experiments import upcoming
from genre_cls.experiments.upcoming import Upcoming
from genre_cls.processes import workers


def test_a_configuration_for_other_workers_does_not_begin_early(
    composed: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[DictConfig] = []
    monkeypatch.setattr(upcoming, "load", mock.Mock())
    monkeypatch.setattr(upcoming, "identify", mock.Mock())
    monkeypatch.setattr(upcoming, "Job", lambda cfg, *_: mock.Mock(begin=lambda _: begun.append(cfg)))
    for n_workers in (1, 2, 3):
        ahead = Upcoming()
        ahead.coming = [composed(f"trainer.workers={n_workers}", "trainer.device=cpu")]
        ahead.begin(2)
        assert not ahead.begun
    assert [cfg.trainer.workers for cfg in begun] == [2]


def test_none_begins_after_one_that_could_not_because_its_turn_may_mean_to_wait_for_others(
    composed: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upcoming, "_begun", lambda *_: None)
    ahead = Upcoming()
    ahead.coming = [composed()] * 3
    for _ in range(2):
        ahead.begin(2)
        assert not ahead.begun


@pytest.mark.parametrize(("n_models", "n_begun"), [((4, 4, 4, 4), 2), ((8, 8), 1), ((2, 0, 9), 2), ((2, 3), 2)])
def test_as_many_configurations_begin_as_give_each_worker_another_model(
    composed: Compose, monkeypatch: pytest.MonkeyPatch, n_models: Sequence[int], n_begun: int
) -> None:
    jobs = iter([mock.Mock(n_models=n) for n in n_models])
    monkeypatch.setattr(upcoming, "load", mock.Mock())
    monkeypatch.setattr(upcoming, "identify", mock.Mock())
    monkeypatch.setattr(upcoming, "n_workers", lambda *_: 8)
    monkeypatch.setattr(upcoming, "Job", lambda *_: next(jobs))
    ahead = Upcoming()
    ahead.coming = [composed()] * len(n_models)
    ahead.begin(8)
    assert len(ahead.begun) == n_begun


def test_training_that_has_begun_is_not_waited_for_once_its_workers_were_stopped() -> None:
    workers.stop()
    jobs = mock.Mock(n_models=1), mock.Mock(n_models=0)
    ahead = Upcoming()
    ahead.begun = [*jobs]
    assert ahead.take(mock.Mock()) is None and ahead.begun == []
    assert [job.give_up.call_count for job in jobs] == [1, 1]


@pytest.mark.parametrize(("turn", "is_taken"), [("a", True), ("b", False)])
def test_training_that_has_begun_is_given_up_unless_it_is_of_the_configuration_whose_turn_it_is(
    turn: str, is_taken: bool
) -> None:
    jobs = [mock.Mock(n_models=0, identity=mock.Mock(fingerprint=name)) for name in "ab"]
    ahead = Upcoming()
    ahead.begun = [*jobs]
    assert ahead.take(mock.Mock(fingerprint=turn)) is (jobs[0] if is_taken else None)
    assert ahead.begun == (jobs[1:] if is_taken else [])
    assert [job.give_up.call_count for job in jobs] == ([0, 0] if is_taken else [1, 1])
