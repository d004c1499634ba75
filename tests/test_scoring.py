"""Numbers against scikit-learn, scipy and the formulas themselves."""

import tempfile
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics

from genre_cls.scoring import ConfigResult, FoldResult, confusions, estimate, rank, recall_per_genre
from genre_cls.tracking import fold_files, load_fold

SCORES = st.lists(st.floats(0, 1), min_size=2, max_size=12)
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)  # commas, quotes, line ends, …


@st.composite
def folds(draw: st.DrawFn, index: int = 0, genres: tuple[str, ...] = ()) -> FoldResult:
    genres = genres or tuple(draw(st.lists(NAMES, min_size=2, max_size=5, unique=True)))
    n_tracks = draw(st.integers(1, 30))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    curve = draw(st.lists(st.floats(0, 1e6), min_size=1, max_size=4))
    return FoldResult(
        index=index,
        track_ids=tuple(draw(st.lists(NAMES, min_size=n_tracks, max_size=n_tracks))),
        labels=random.integers(len(genres), size=n_tracks),
        probabilities=random.dirichlet(np.full(len(genres), 0.5), size=n_tracks),
        genres=genres,
        curves={"train_loss": curve, "held_out_loss": curve[::-1]},
        n_train=draw(st.integers(1, 100)),
        seconds=draw(st.floats(0, 1e5)),
    )


@st.composite
def results(draw: st.DrawFn) -> ConfigResult:
    genres = ("a", "b", "c")
    own = tuple(draw(folds(index=i, genres=genres)) for i in range(draw(st.integers(1, 4))))
    return ConfigResult({}, own, 1)


@settings(deadline=None, max_examples=40)
@given(folds())
def test_scores_are_those_of_scikit_learn(fold: FoldResult) -> None:
    everyone = list(range(len(fold.genres)))
    predicted = np.argmax(fold.probabilities, axis=1)
    assert fold.predictions.tolist() == predicted.tolist()
    assert fold.scores["accuracy"] == pytest.approx(metrics.accuracy_score(fold.labels, predicted))
    f1 = metrics.f1_score(fold.labels, predicted, labels=everyone, average="macro", zero_division=0)
    assert fold.scores["macro_f1"] == pytest.approx(f1)
    own = fold.probabilities[np.arange(len(fold.labels)), fold.labels]
    assert fold.scores["log_loss"] == pytest.approx(-np.log(own.clip(1e-15)).mean())
    expected = metrics.confusion_matrix(fold.labels, predicted, labels=everyone)
    assert (fold.confusion == expected).all()


@settings(deadline=None, max_examples=100)
@given(SCORES, st.floats(0, 1))
def test_an_estimate_is_the_corrected_interval_of_nadeau_and_bengio(scores: list[float], share: float) -> None:
    k = len(scores)
    mean = sum(scores) / k
    variance = sum((score - mean) ** 2 for score in scores) / (k - 1)
    half = stats.t(k - 1).ppf(0.975) * np.sqrt((1 / k + share) * variance)
    got = estimate(scores, share)
    assert [got.mean, got.std] == pytest.approx([mean, np.sqrt(variance)], abs=1e-12)
    assert [got.low, got.high] == pytest.approx([mean - half, mean + half], abs=1e-12)


@settings(deadline=None, max_examples=50)
@given(SCORES)
def test_without_a_shared_training_set_the_interval_is_students(scores: list[float]) -> None:
    got = estimate(scores, test_share=0)
    if np.std(scores) > 1e-9:
        expected = stats.t.interval(0.95, len(scores) - 1, np.mean(scores), stats.sem(scores))
        assert (got.low, got.high) == pytest.approx(expected)
    assert got.low <= got.mean <= got.high


def test_one_fold_gives_no_interval() -> None:
    got = estimate([0.7], 0.25)
    assert (got.mean, got.std, got.low, got.high) == (0.7, 0, 0.7, 0.7)


@settings(deadline=None, max_examples=40)
@given(results())
def test_every_track_is_in_the_pooled_confusion_once(result: ConfigResult) -> None:
    labels = np.concatenate([fold.labels for fold in result.folds])
    predicted = np.concatenate([fold.predictions for fold in result.folds])
    assert (result.confusion == metrics.confusion_matrix(labels, predicted, labels=range(3))).all()
    recall = metrics.recall_score(labels, predicted, labels=range(3), average=None, zero_division=0)
    assert np.allclose(result.recall, recall)
    tested = [len(fold.labels) / fold.n_train for fold in result.folds]
    assert result.estimate("accuracy") == estimate([f.scores["accuracy"] for f in result.folds], float(np.mean(tested)))


def test_a_genre_without_tracks_has_no_recall_and_no_warning() -> None:
    assert recall_per_genre(np.array([[3, 1], [0, 0]])).tolist() == [0.75, 0]


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 5).flatmap(lambda n: st.lists(st.integers(0, 9), min_size=n * n, max_size=n * n)))
def test_mistakes_come_most_frequent_first_and_complete(counts: list[int]) -> None:
    side = int(len(counts) ** 0.5)
    matrix = np.array(counts).reshape(side, side)
    mistakes = confusions(matrix)
    assert all(before[2] >= after[2] for before, after in pairwise(mistakes))
    rebuilt = np.diag(np.diag(matrix))
    for true, predicted, tracks in mistakes:
        assert tracks > 0 and true != predicted
        rebuilt[true, predicted] += tracks
    assert (rebuilt == matrix).all()


@settings(deadline=None, max_examples=30)
@given(st.lists(results(), min_size=1, max_size=6))
def test_the_ranking_is_by_mean_accuracy_then_f1(some: list[ConfigResult]) -> None:
    keys = [(r.estimate("accuracy").mean, r.estimate("macro_f1").mean) for r in rank(some)]
    assert keys == sorted(keys, reverse=True) and len(keys) == len(some)


@settings(deadline=None, max_examples=60)
@given(folds())
def test_a_result_comes_back_from_its_files_to_the_last_bit(fold: FoldResult) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name, content in fold_files(fold).items():
            (Path(folder) / name).write_bytes(content)
        back = load_fold(Path(folder))
    assert replace(back, labels=0, probabilities=0) == replace(fold, labels=0, probabilities=0)
    assert back.labels.tolist() == fold.labels.tolist()
    assert back.probabilities.tobytes() == fold.probabilities.tobytes()
    assert back.scores == fold.scores
