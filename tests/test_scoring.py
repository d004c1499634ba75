"""Numbers against scikit-learn, torchmetrics and the definitions themselves."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from made import GENRES, a_fold, folds, guesses, on_the_same_tracks, results
from scipy import stats
from sklearn import metrics
from torchmetrics.functional.classification import multiclass_calibration_error

from genre_cls.evaluation.calibration import best_temperature, tempered
from genre_cls.evaluation.estimates import crossed, estimate
from genre_cls.evaluation.predictions import FoldResult, TrackPredictions, WindowPredictions, ensemble_probabilities
from genre_cls.evaluation.scoring import ConfigResult


def pooled(result: ConfigResult, part: str) -> np.ndarray:
    return np.concatenate([getattr(fold, part) for fold in result.folds])


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


@settings(deadline=None, max_examples=40)
@given(folds())
def test_tracks_are_scored_by_the_mean_over_their_windows_and_windows_one_by_one(fold: FoldResult) -> None:
    windows = fold.windows
    for track, probabilities in enumerate(fold.probabilities):
        assert probabilities == pytest.approx(windows.probabilities[windows.track == track].mean(axis=0))
    accuracy = metrics.accuracy_score(fold.labels[windows.track], windows.probabilities.argmax(axis=1))
    assert fold.scores["window_accuracy"] == pytest.approx(accuracy)


@settings(deadline=None)
@given(st.integers(1, 4), st.integers(1, 5), st.floats(0, 300), st.integers(0, 10**6))
def test_an_ensembles_probabilities_are_those_of_its_mean_logits(
    n_models: int, n_genres: int, size: float, seed: int
) -> None:
    logits = torch.from_numpy(np.random.default_rng(seed).normal(0, size, (n_models, 6, n_genres)))
    expected = logits.mean(dim=0).softmax(dim=1).numpy()
    said = ensemble_probabilities(list(logits.softmax(dim=2).numpy()))
    if size < 100:  # beyond, some probabilities are 0 and their logits lost
        np.testing.assert_allclose(said, expected, atol=1e-9)
    np.testing.assert_allclose(said.sum(axis=1), 1)


def test_the_order_of_windows_does_not_matter() -> None:
    probabilities = guesses(np.random.default_rng(0), 7, 3)
    track = np.array([0, 0, 1, 2, 2, 2, 1])
    shuffle = np.array([3, 1, 6, 0, 5, 2, 4])
    first, second = (
        WindowPredictions(track[order], np.zeros(7), probabilities[order]) for order in (np.arange(7), shuffle)
    )
    assert np.allclose(first.per_track, second.per_track)


@settings(deadline=None, max_examples=40)
@given(results())
def test_every_track_is_in_the_pooled_confusion_once(result: ConfigResult) -> None:
    expected = metrics.confusion_matrix(pooled(result, "labels"), pooled(result, "predictions"), labels=range(3))
    assert (result.confusion == expected).all()


@settings(deadline=None, max_examples=40)
@given(results())
def test_the_largest_genre_is_that_of_most_tracks(result: ConfigResult) -> None:
    labels = pooled(result, "labels")
    assert result.largest_genre == pytest.approx(np.bincount(labels).max() / len(labels))


@settings(deadline=None, max_examples=40)
@given(results())
def test_each_genre_scores_what_scikit_learn_reports(result: ConfigResult) -> None:
    report = metrics.classification_report(
        pooled(result, "labels"), pooled(result, "predictions"),
        labels=range(3), target_names=GENRES, output_dict=True, zero_division=0,
    )  # fmt: skip
    got = result.per_genre
    for i, genre in enumerate(GENRES):
        own = [got.precision[i], got.recall[i], got.f1[i], got.n_tracks[i]]
        assert own == pytest.approx([report[genre][key] for key in ("precision", "recall", "f1-score", "support")])


@settings(deadline=None, max_examples=40)
@given(results())
def test_the_calibration_error_is_that_of_torchmetrics(result: ConfigResult) -> None:
    probabilities, labels = (torch.from_numpy(pooled(result, part)) for part in ("probabilities", "labels"))
    expected = multiclass_calibration_error(probabilities, labels, num_classes=3, n_bins=15, norm="l1")
    assert result.calibration.error == pytest.approx(float(expected), abs=1e-6)  # it counts in float32


@given(folds())
def test_what_calibration_shows_by_chance_is_the_same_however_often_its_tracks_are_tested(fold: FoldResult) -> None:
    once, thrice = (ConfigResult({}, tuple(replace(fold, index=i) for i in range(n)), 0).calibration for n in (1, 3))
    assert thrice.error_by_chance == pytest.approx(once.error_by_chance)
    assert thrice.counts == pytest.approx(once.counts)


@settings(deadline=None, max_examples=40)
@given(results())
def test_confidence_and_accuracy_over_all_intervals_are_those_over_all_tracks(result: ConfigResult) -> None:
    found = result.calibration
    edges = np.linspace(0, 1, len(found.counts) + 1)
    filled = found.counts > 0
    assert found.counts.sum() == pytest.approx(len(set(pooled(result, "track_ids"))))
    assert ((edges[:-1] <= found.confidence) & (found.confidence <= edges[1:]))[filled].all()
    assert np.average(found.accuracy, weights=found.counts) == pytest.approx(pooled(result, "hits").mean())
    confidence = pooled(result, "probabilities").max(axis=1)
    assert np.average(found.confidence, weights=found.counts) == pytest.approx(confidence.mean())


@settings(deadline=None, max_examples=40)
@given(results(), st.integers(0, 2**32))
def test_a_folds_temperature_comes_from_the_tracks_of_the_others(result: ConfigResult, seed: int) -> None:
    first, *others = result.folds
    assume(others)
    probabilities, labels = (np.concatenate([getattr(f, part) for f in others]) for part in ("probabilities", "labels"))
    expected = tempered(first.probabilities, best_temperature(probabilities, labels))
    np.testing.assert_array_equal(result.tempered.folds[0].probabilities, expected)
    other_labels = np.random.default_rng(seed).permutation(first.labels)
    blind = replace(result, folds=(replace(first, labels=other_labels), *others))
    np.testing.assert_array_equal(blind.tempered.folds[0].probabilities, expected)


@settings(deadline=None, max_examples=40)
@given(on_the_same_tracks())
def test_no_temperature_is_fitted_to_the_tracks_that_it_is_evaluated_on(some: list[ConfigResult]) -> None:
    for result in some:
        fold = result.folds[0]
        others = [
            (t, p, y) for f in result.folds for t, p, y in zip(f.track_ids, f.probabilities, f.labels, strict=True)
        ]
        apart = [(p, y) for t, p, y in others if t not in fold.track_ids]
        temperature = best_temperature(np.array([p for p, _ in apart]), np.array([y for _, y in apart]))
        np.testing.assert_allclose(result.tempered.folds[0].probabilities, tempered(fold.probabilities, temperature))


@settings(deadline=None, max_examples=40)
@given(on_the_same_tracks(single_test_set=True))
def test_folds_that_test_the_same_tracks_keep_their_probabilities(some: list[ConfigResult]) -> None:
    for result in some:
        assert result.tempered.folds == result.folds


@settings(deadline=None, max_examples=40)
@given(results())
def test_a_temperature_changes_neither_hits_nor_ranks(result: ConfigResult) -> None:
    assert (pooled(result.tempered, "hits") == pooled(result, "hits")).all()
    assert (result.tempered.confusion == result.confusion).all()


@settings(deadline=None, max_examples=40)
@given(results())
def test_the_mean_of_a_score_is_estimated_from_its_folds(result: ConfigResult) -> None:
    tested = float(np.mean([len(fold.labels) / fold.n_train for fold in result.folds]))
    for score in result.folds[0].scores:
        expected = estimate([fold.scores[score] for fold in result.folds], tested)
        if score != "accuracy" or expected.standard_error > a_track_apart(result, tested):
            assert result.estimate(score) == expected


def a_track_apart(result: ConfigResult, tested: float) -> float:
    """The error that folds tell of if one recognises a track more than the others."""
    longest = max(len(fold.labels) for fold in result.folds)
    return estimate([1 / longest, *[0.0] * (len(result.folds) - 1)], tested).standard_error


@settings(deadline=None, max_examples=40)
@given(on_the_same_tracks(single_test_set=True))
def test_trainings_that_test_the_same_tracks_add_their_variance_to_the_error(some: list[ConfigResult]) -> None:
    for result in some:
        assert result.single_test_set
        expected = crossed(np.stack([fold.hits for fold in result.folds]))
        assert result.estimate("accuracy").mean == expected.mean
        assert expected.standard_error < 1e-6 or result.estimate("accuracy") == expected


@settings(deadline=None, max_examples=40)
@given(results())
def test_one_training_is_as_sure_as_its_tracks_allow(result: ConfigResult) -> None:
    fold = result.folds[0]
    assume(0 < fold.hits.mean() < 1)
    got = replace(result, folds=(fold,)).estimate("accuracy")
    expected = stats.ttest_1samp(fold.hits, 0)
    assert (got.mean, got.low, got.high) == pytest.approx((fold.hits.mean(), *expected.confidence_interval(0.95)))


@settings(deadline=None, max_examples=40)
@given(on_the_same_tracks(), st.integers(1, 20), st.integers(0, 2**32))
def test_artists_overlap_on_each_track_by_an_artist_of_tracks_that_its_fold_does_not_test(
    some: list[ConfigResult], n_artists: int, seed: int
) -> None:
    result, random = some[0], np.random.default_rng(seed)
    artists = {track: str(random.integers(n_artists)) for track in result.tracks.track_ids}
    shared = [
        artists[track] in {artists[other] for other in artists.keys() - set(fold.track_ids)}
        for fold in result.folds
        for track in fold.track_ids
    ]
    assert replace(result, groups=artists).artist_overlap == pytest.approx(np.mean(shared))


@settings(deadline=None, max_examples=40)
@given(on_the_same_tracks(single_test_set=True), st.integers(2, 5), st.booleans())
def test_more_tracks_by_the_same_artists_make_an_accuracy_no_surer(
    some: list[ConfigResult], times: int, one: bool
) -> None:
    for result in some:
        folds = [_with_copies(fold, times) for fold in (result.folds[:1] if one else result.folds)]
        few = replace(result, folds=result.folds[: len(folds)]).estimate("accuracy")
        copied = replace(result, folds=tuple(folds))
        groups = {copy: copy.rpartition(" ")[0] for fold in folds for copy in fold.track_ids}
        many, unknown = replace(copied, groups=groups).estimate("accuracy"), copied.estimate("accuracy")
        assert (many.mean, many.standard_error, many.df) == pytest.approx((few.mean, few.standard_error, few.df))
        if np.ptp(np.mean([fold.hits for fold in folds], axis=0)):
            assert unknown.standard_error < many.standard_error
        else:  # trainings alone add to the error, or it is that of the floor, which also moves the interval's centre
            assert unknown.high <= many.high + 1e-9


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 6), st.integers(2, 5), st.booleans())
def test_more_tracks_by_the_same_artists_make_folds_by_artist_that_agree_no_surer(
    n_artists: int, times: int, right: bool
) -> None:
    def by_artist(times: int, *, shared: bool = False) -> ConfigResult:
        folds, groups = [], {}
        for index in range(3):
            artist = np.repeat(np.arange(n_artists), times)
            probabilities = np.eye(2)[artist % 2 if right else 1 - artist % 2]
            ids = [f"{index} {place}" for place in range(len(artist))]
            groups |= dict(zip(ids, map(str, artist + (0 if shared else index * n_artists)), strict=True))
            folds.append(a_fold(index, ids, artist % 2, probabilities, ("a", "b"), 2 * len(ids)))
        return ConfigResult({}, tuple(folds), 1, groups)

    def interval(result: ConfigResult) -> tuple[float, float]:
        return result.estimate("accuracy").share_interval

    few, many = by_artist(1), by_artist(times)
    assert interval(many) == pytest.approx(interval(few))
    unknown = replace(many, groups={})
    assert np.ptp(interval(unknown)) < np.ptp(interval(many))
    assert interval(by_artist(times, shared=True)) == interval(unknown)  # folds that share artists are of tracks


def _with_copies(fold: FoldResult, times: int) -> FoldResult:
    """The same if it had judged every track several times, in any order."""
    places = np.random.default_rng(times).permutation(np.tile(np.arange(len(fold.labels)), times))
    ids = tuple(f"{fold.track_ids[place]} {copy}" for copy, place in enumerate(places))
    return replace(fold, track_ids=ids, labels=fold.labels[places], probabilities=fold.probabilities[places])


@settings(deadline=None, max_examples=40)
@given(results(), st.booleans(), st.booleans())
def test_few_tracks_all_right_or_all_wrong_do_not_make_the_accuracy_certain(
    result: ConfigResult, right: bool, one: bool
) -> None:
    folds = [
        replace(fold, probabilities=np.eye(len(GENRES))[fold.labels if right else fold.labels - 1])
        for fold in result.folds
    ]
    low, high = replace(result, folds=tuple(folds[:1] if one else folds)).estimate("accuracy").share_interval
    assert (low < 1 == high) if right else (low == 0 < high)


@settings(deadline=None, max_examples=40)
@given(results())
def test_the_summary_names_every_figure(result: ConfigResult) -> None:
    figures = dict(result.summary)
    for score in result.folds[0].scores:
        e = result.estimate(score)
        values = [fold.scores[score] for fold in result.folds]
        assert figures.pop(f"{score}_mean") == e.mean
        assert figures.pop(f"{score}_std") == (np.std(values, ddof=1) if len(values) > 1 else 0)
        if score == "accuracy" or len(result.folds) > 1:
            ends = (max(e.low, 0), e.high if score == "log_loss" else min(e.high, 1))
            assert [figures.pop(f"{score}_{part}") for part in ("low", "high")] == [*ends]
    for name in ("precision", "recall", "f1"):
        assert [figures.pop(f"{name}_{genre}") for genre in GENRES] == getattr(result.per_genre, name).tolist()
    seconds = [fold.seconds for fold in result.folds]
    assert figures.pop("seconds") == pytest.approx(sum(seconds))
    assert figures.pop("seconds_per_fold") == pytest.approx(np.mean(seconds))
    expected = {
        "calibration_error": result.calibration.error,
        "temperature": best_temperature(pooled(result, "probabilities"), pooled(result, "labels")),
    }
    if len(result.folds) > 1:
        expected["tempered_calibration_error"] = result.tempered.calibration.error
        expected["tempered_log_loss"] = result.tempered.estimate("log_loss").mean
    assert figures == expected


@settings(deadline=None, max_examples=40)
@given(on_the_same_tracks())
def test_a_track_is_reported_once_with_its_mean_over_the_repetitions(some: list[ConfigResult]) -> None:
    for result in some:
        said: dict[str, list[tuple[int, np.ndarray]]] = {}
        for fold in result.folds:
            for id, *own in zip(fold.track_ids, fold.labels, fold.probabilities, strict=True):
                said.setdefault(id, []).append((own[0], own[1]))
        assert list(result.tracks.track_ids) == sorted(said)
        for place, id in enumerate(result.tracks.track_ids):
            labels, probabilities = zip(*said[id], strict=True)
            assert set(labels) == {result.tracks.labels[place]}
            assert result.tracks.probabilities[place] == pytest.approx(np.mean(probabilities, axis=0))
            assert result.tracks.predictions[place] == np.mean(probabilities, axis=0).argmax()


def test_where_repeated_folds_agree_the_error_is_that_of_each_tracks_mean_not_of_a_vote() -> None:
    folds, labels = [], np.zeros(10, dtype=int)
    for repetition, recognised in enumerate((np.arange(10) < 5, np.arange(10) >= 5)):  # each track once of two times
        for part in range(2):
            ids = [f"{part} {place}" for place in range(10)]
            probabilities = np.where(recognised[:, None], [0.9, 0.1], [0.2, 0.8])
            folds.append(a_fold(2 * repetition + part, ids, labels, probabilities, ("a", "b"), 10))
    found = ConfigResult({}, tuple(folds), 1).estimate("accuracy")
    means = np.append(np.full(20, 0.5), (1, 1, 0, 0))
    assert (found.mean, found.df) == (0.5, 23)
    assert found.standard_error == pytest.approx(means.std() / 24**0.5)


def tracks_of(*probabilities: tuple[float, ...]) -> TrackPredictions:
    n = len(probabilities)
    return TrackPredictions(tuple(f"{i}.wav" for i in range(n)), np.arange(n), np.array(probabilities))


def test_equal_predictions_come_first_and_those_that_share_no_genre_last() -> None:
    ranked = tracks_of((0, 0, 1), (0.5, 0.5, 0), (0.1, 0.9, 0)).most_similar(np.array([0.1, 0.9, 0]), 3)
    assert [index for index, _ in ranked] == [2, 1, 0]
    assert ranked[0][1] == pytest.approx(1) and ranked[2][1] == 0


@given(st.lists(st.floats(0, 1), min_size=3, max_size=3).filter(any))
def test_similarity_is_from_0_to_1_and_falls(weights: list[float]) -> None:
    tracks = tracks_of((1, 0, 0), (0.2, 0.3, 0.5), (0.3, 0.3, 0.4))
    ranked = tracks.most_similar(np.array(weights) / sum(weights), 2)
    assert len(ranked) == 2 and 1 + 1e-9 >= ranked[0][1] >= ranked[1][1] >= 0


def test_folds_of_unequal_sizes_that_are_a_track_of_the_largest_apart_keep_their_own_error() -> None:
    sizes, n_hits, folds = (10, 40, 40, 40, 40), (5, 20, 20, 20, 21), []
    for index, (n, hits) in enumerate(zip(sizes, n_hits, strict=True)):
        labels, probabilities = np.zeros(n, dtype=int), np.eye(3)[(np.arange(n) >= hits).astype(int)]
        folds.append(a_fold(index, (f"{index} {place}" for place in range(n)), labels, probabilities, GENRES, 170 - n))
    result = ConfigResult({}, tuple(folds), 1)
    accuracies = [fold.scores["accuracy"] for fold in folds]
    assert result.estimate("accuracy") == estimate(accuracies, np.mean([n / (170 - n) for n in sizes]))
