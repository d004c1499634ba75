"""Ensembles: what becomes of members that are trained in any order."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from made import guesses
from shared import Compose

from genre_cls.evaluation.predictions import WindowPredictions, ensemble_probabilities
from genre_cls.tracks.catalogue import Track
from genre_cls.tracks.folds import Fold
from genre_cls.training import ensembles
from genre_cls.training.ensembles import EnsembleTrainings
from genre_cls.training.member import Member

GENRES = ("a", "b", "c")
FOLDS = (
    Fold(0, np.array([2, 4]), np.array([5]), np.array([0, 1, 3])),
    Fold(1, np.array([0, 1, 3]), np.array([], dtype=np.int64), np.array([2, 4, 5])),
)
TASK = SimpleNamespace(
    features=SimpleNamespace(tracks=[Track(f"track {n}", Path(), "") for n in range(6)]),
    labels=np.arange(6) % 3,
    catalogue=SimpleNamespace(genres=GENRES),
)


def a_member(cfg: Any, task: Any, fold: Fold, place: int) -> Member:
    """As if it had been trained; the last one has no epochs, as a kernel machine."""
    random = np.random.default_rng([fold.index, place])
    windows = WindowPredictions(np.array([0, 0, 1, 2, 2]), np.arange(5.0), guesses(random, 5, 3))
    curves = {"train_loss": [1.0 + place, 0.5 + place]} if place < 2 else {}
    return Member(fold, place, {"place": place}, curves, windows, 10.0 + place)  # type: ignore[dict-item]


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4, 5], [5, 0, 4, 1, 3, 2], [2, 1, 0, 5, 4, 3]])
def test_each_fold_is_combined_when_it_is_complete_and_its_members_in_their_order(
    composed: Compose, monkeypatch: pytest.MonkeyPatch, order: Sequence[int]
) -> None:
    monkeypatch.setattr(ensembles.workers, "call", lambda n, train, *arguments: a_member(*arguments))
    monkeypatch.setattr(ensembles.workers, "results", lambda members: iter([members[place] for place in order]))
    cfg = composed("recipe.members=[plain,modulation,statistics]", "trainer.device=cpu")
    combined = list(EnsembleTrainings(cfg, TASK, FOLDS, 2).results(""))  # type: ignore[arg-type]
    assert [result.index for result, _ in combined] == ([1, 0] if order[0] == 5 else [0, 1])
    for result, weights in combined:
        fold = FOLDS[result.index]
        members = [a_member(None, None, fold, place) for place in range(3)]
        assert weights == [member.weights for member in members]
        expected = ensemble_probabilities([member.windows.probabilities for member in members])
        np.testing.assert_allclose(result.windows.probabilities, expected)
        means = [expected[:2].mean(axis=0), expected[2], expected[3:].mean(axis=0)]
        np.testing.assert_allclose(result.probabilities, means)
        assert result.seconds == 33 and result.curves == {"train_loss": [1.5, 1.0]}
        assert result.track_ids == tuple(f"track {n}" for n in fold.test)
        assert result.labels.tolist() == TASK.labels[fold.test].tolist() and result.genres == GENRES
        assert result.n_train == len(fold.train) + len(fold.val)
