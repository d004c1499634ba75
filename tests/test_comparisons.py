"""Test comparisons of configurations against reference implementations, and their verdicts."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations, pairwise, product

import made
import numpy as np
import pytest
from baycomp import two_on_single
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from made import GENRES, a_fold, on_the_same_tracks, results
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar as mcnemar_of_statsmodels

from genre_cls.evaluation.comparisons import (
    Difference,
    each_pair,
    main_effects,
    mcnemar,
    most_missed,
    names,
    rank,
    setting,
)
from genre_cls.evaluation.estimates import Estimate, crossed, estimate, holm, rounded
from genre_cls.evaluation.findings import verdict
from genre_cls.evaluation.scoring import ConfigResult

ROPE = 0.01
N_TRACKS = 8  # that a fold tests; a power of two, so that accuracies are exact
GRID = [
    {"features": features, "model": model, "batch_size": size}
    for features, model, size in product(("mel", "mfcc"), ("basic", "deep"), ("16", "32"))
]


def a_result(hits: np.ndarray, tracks: np.ndarray | None = None, **params: str) -> ConfigResult:
    """A configuration that recognises some of the tracks `(n_folds, n_tracks)` that its folds test."""
    tracks = np.arange(hits.size).reshape(hits.shape) if tracks is None else tracks
    return of_folds(list(zip(hits, tracks, strict=True)), **params)


def of_folds(judged: Sequence[tuple[np.ndarray, np.ndarray]], **params: str) -> ConfigResult:
    """The same for folds of any sizes, each with its tracks and which of them it recognises."""
    n_tracks = len(np.unique(np.concatenate([tracks for _, tracks in judged])))
    folds = []
    for index, (hits, tracks) in enumerate(judged):
        labels = tracks % 2
        probabilities = np.eye(2)[np.where(hits.astype(bool), labels, 1 - labels)]
        n_train = n_tracks - len(tracks) or len(tracks)
        folds.append(a_fold(index, map(str, tracks), labels, probabilities, ("a", "b"), n_train))
    return ConfigResult({"features": "mel", "model": "deep", "batch_size": "16"} | params, tuple(folds), 1)


@st.composite
def judgements(draw: st.DrawFn, n: int, most_repeats: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """What n configurations recognise `(n, n_folds, n_tracks)` and which tracks those are `(n_folds, n_tracks)`."""
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    k, times = draw(st.integers(2, 6)), draw(st.integers(1, most_repeats))
    tracks = np.concatenate([random.permutation(k * N_TRACKS).reshape(k, N_TRACKS) for _ in range(times)])
    skill = random.uniform(0.2, 0.9, size=(n, 1, 1))
    return (random.random((n, *tracks.shape)) < skill).astype(float), tracks


@st.composite
def grids(draw: st.DrawFn, params: Sequence[dict[str, str]] = GRID) -> list[ConfigResult]:
    """Configurations that were tested on the same tracks in the same folds."""
    hits, tracks = draw(judgements(len(params)))
    return [a_result(own, tracks, **named) for own, named in zip(hits, params, strict=True)]


def accuracies(result: ConfigResult) -> np.ndarray:
    return np.array([fold.scores["accuracy"] for fold in result.folds])


def called(difference: Difference) -> set[str]:
    return {difference.better, difference.worse}


@settings(deadline=None, max_examples=40)
@given(judgements(2, most_repeats=3))
def test_a_pair_is_compared_as_baycomp_does(case: tuple[np.ndarray, np.ndarray]) -> None:
    (first, second), tracks = case
    k = len(np.unique(tracks)) // N_TRACKS
    pair = [a_result(first, tracks), a_result(second, tracks, model="basic")]
    (got,) = each_pair(pair, ROPE)
    means = [own.mean(axis=1) for own in (first, second)]
    assume(np.ptp(means[0] - means[1]) or not (first - second).any())  # else the error of single tracks stands in
    tails = two_on_single(*means, runs=len(tracks) // k)
    assert got.p_value == pytest.approx(2 * min(tails), abs=1e-9)
    _, within, _ = two_on_single(*means, ROPE, len(tracks) // k)
    assert got.probability_equal == pytest.approx(within, abs=1e-9)


@settings(deadline=None, max_examples=40)
@given(judgements(2))
def test_single_tracks_are_compared_as_statsmodels_does(case: tuple[np.ndarray, np.ndarray]) -> None:
    (first, second), tracks = case
    counts = [[np.sum((first == i) & (second == j)) for j in (0, 1)] for i in (0, 1)]
    got = mcnemar(a_result(first, tracks), a_result(second, tracks))
    assert got == pytest.approx(mcnemar_of_statsmodels(counts, exact=True).pvalue, abs=1e-9)


def test_a_track_that_several_repetitions_test_is_one_track_to_mcnemar() -> None:
    once = np.arange(16).reshape(2, 8)
    first, second = (np.where(once < limit, 1.0, 0.0) for limit in (12, 4))
    thrice = [a_result(np.tile(hits, (3, 1)), np.tile(once, (3, 1))) for hits in (first, second)]
    assert mcnemar(*thrice) == mcnemar(a_result(first, once), a_result(second, once)) == 2 / 2**8


def test_of_several_trainings_that_test_a_track_the_first_counts_for_mcnemar() -> None:
    once = np.arange(16).reshape(2, 8)
    random = np.random.default_rng(0)
    (first, later), (second, later_too) = random.integers(0, 2, (2, 2, 2, 8)).astype(float)
    repeated = [a_result(np.concatenate(hits), np.tile(once, (2, 1))) for hits in ((first, later), (second, later_too))]
    assert mcnemar(*repeated) == mcnemar(a_result(first, once), a_result(second, once)) < 1


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 20), st.integers(0, 3), st.sampled_from([64, 127]))
def test_folds_of_unequal_sizes_that_agree_to_the_track_have_nearly_the_error_of_equal_ones(
    both: int, more: int, n: int
) -> None:
    def pair(sizes: Sequence[int]) -> Estimate:
        parts = np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])
        recognised = [[(np.arange(len(part)) < hits, part) for part in parts] for hits in (both + more, both)]
        (got,) = each_pair([of_folds(recognised[0]), of_folds(recognised[1], model="basic")], ROPE)
        return got.gain

    unequal, equal = pair([n + 1] * 4 + [n]), pair([n + 1] * 5)
    assert unequal.standard_error == pytest.approx(equal.standard_error, rel=0.05) and unequal.standard_error > 0


@settings(deadline=None, max_examples=10)
@given(grids())
def test_each_pair_is_compared_once_and_the_better_one_has_the_higher_mean(grid: list[ConfigResult]) -> None:
    means = {name: accuracies(result).mean() for name, result in zip(names(grid), grid, strict=True)}
    pairs = each_pair(grid, ROPE)
    assert len(pairs) == 28
    assert {frozenset(called(pair)) for pair in pairs} == {frozenset(two) for two in combinations(means, 2)}
    for pair in pairs:
        assert pair.gain.mean == pytest.approx(means[pair.better] - means[pair.worse], abs=1e-12)
        assert pair.gain.mean >= 0
    assert means[pairs[0].better] == max(means.values())


def test_of_two_that_are_equally_good_the_one_that_ranks_first_is_named_first() -> None:
    hits = np.ones((2, 3, 10))
    hits[0, 0, 0] = hits[0, 1, :2] = hits[1, 2, :3] = (
        0  # gains of -0.1, -0.2 and 0.3, whose sum rounding makes negative
    )
    for order in (hits, hits[::-1]):
        results = rank([a_result(own, model=model) for own, model in zip(order, ("basic", "deep"), strict=True)])
        (pair,) = each_pair(results, ROPE)
        assert pair.better == names(results)[0] and pair.gain.mean == 0


@settings(deadline=None, max_examples=10)
@given(grids())
def test_p_values_are_adjusted_for_all_comparisons_of_a_kind(grid: list[ConfigResult]) -> None:
    by_name = dict(zip(names(grid), grid, strict=True))
    pairs = each_pair(grid, ROPE)
    for compared in (pairs, main_effects(grid, ROPE)):
        assert [d.p_value for d in compared] == pytest.approx(holm([d.gain.p_value for d in compared]))
        assert all(d.p_value >= d.gain.p_value for d in compared)
    single = holm([mcnemar(by_name[pair.better], by_name[pair.worse]) for pair in pairs])
    assert [pair.mcnemar for pair in pairs] == pytest.approx(single)
    assert all(effect.mcnemar is None for effect in main_effects(grid, ROPE))


@settings(deadline=None, max_examples=10)
@given(grids(), st.integers(0, 7), st.integers(0, 7))
def test_swapping_predictions_swaps_verdicts(grid: list[ConfigResult], one: int, other: int) -> None:
    assume(one != other and abs((accuracies(grid[one]) - accuracies(grid[other])).mean()) > 1e-9)
    swapped = list(grid)
    swapped[one] = replace(grid[one], folds=grid[other].folds)
    swapped[other] = replace(grid[other], folds=grid[one].folds)
    two = {names(grid)[one], names(grid)[other]}
    (before,), (after,) = ([d for d in each_pair(some, ROPE) if called(d) == two] for some in (grid, swapped))
    assert (after.better, after.worse) == (before.worse, before.better)
    assert (after.gain.mean, after.probability_equal) == pytest.approx((before.gain.mean, before.probability_equal))
    assert after.p_value == pytest.approx(before.p_value)


@settings(deadline=None, max_examples=10)
@given(grids())
def test_a_main_effect_is_that_of_the_mean_over_all_else(grid: list[ConfigResult]) -> None:
    effects = main_effects(grid, ROPE)
    assert [called(effect) for effect in effects] == [{"mel", "mfcc"}, {"basic", "deep"}, {"batch 16", "batch 32"}]
    for axis, effect in zip(GRID[0], effects, strict=True):
        by_setting = {
            value: np.mean([accuracies(result) for result in grid if effect_name(axis, result) == value], axis=0)
            for value in (effect.better, effect.worse)
        }
        gains = by_setting[effect.better] - by_setting[effect.worse]
        expected = estimate(gains.tolist(), test_share=1 / (len(gains) - 1))
        assert effect.gain.mean == pytest.approx(expected.mean, abs=1e-12)
        if expected.standard_error:  # else that of single tracks replaces it
            assert effect.gain.standard_error == pytest.approx(expected.standard_error, abs=1e-12)


def effect_name(axis: str, result: ConfigResult) -> str:
    return result.named[axis] if axis != "batch_size" else f"batch {result.named[axis]}"


@settings(deadline=None, max_examples=10)
@given(grids([{"model": "basic"}, {"model": "deep"}, {"model": "wide"}]))
def test_each_two_of_an_axis_of_three_settings_are_compared(grid: list[ConfigResult]) -> None:
    pairs = [called(effect) for effect in main_effects(grid, ROPE)]
    assert pairs == [{"basic", "deep"}, {"basic", "wide"}, {"deep", "wide"}]


@settings(deadline=None, max_examples=10)
@given(grids())
def test_configurations_without_a_counterpart_are_left_out_of_an_axis_which_its_sentence_says(
    grid: list[ConfigResult],
) -> None:
    told = [verdict(effect) for effect in main_effects(grid[1:], ROPE)]
    assert len(told) == 3 and all("; 1 configuration without a counterpart left out)" in sentence for sentence in told)
    mel = [result for result in grid if result.named["features"] == "mel"]
    one_of_two = main_effects([*mel, grid[-1]], ROPE)
    assert [effect.n_alone for effect in one_of_two] == [3, 1, 1]
    assert all(effect.n_alone == 0 and "counterpart" not in verdict(effect) for effect in main_effects(grid, ROPE))


@settings(deadline=None, max_examples=10)
@given(grids([{"recipe.epochs": "20"}, {"recipe.epochs": "60"}]))
def test_whatever_else_was_set_is_an_axis_too(grid: list[ConfigResult]) -> None:
    assert [called(effect) for effect in main_effects(grid, ROPE)] == [{"recipe.epochs 20", "recipe.epochs 60"}]


@settings(deadline=None, max_examples=10)
@given(grids([{"features": "mel", "model": "deep"}, {"features": "mfcc", "model": "basic"}]))
def test_configurations_that_differ_in_two_axes_show_the_effect_of_neither(grid: list[ConfigResult]) -> None:
    assert main_effects(grid, ROPE) == [] and len(each_pair(grid, ROPE)) == 1


@settings(deadline=None, max_examples=10)
@given(grids())
def test_one_fold_compares_nothing(grid: list[ConfigResult]) -> None:
    single = [replace(result, folds=result.folds[:1]) for result in grid]
    assert each_pair(single, ROPE) == main_effects(single, ROPE) == []


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32), st.integers(2, 6))
def test_on_one_published_test_set_both_trainings_and_tracks_are_a_sample(seed: int, n_folds: int) -> None:
    first, second = np.random.default_rng(seed).integers(2, size=(2, n_folds, N_TRACKS)).astype(float)
    tracks = np.tile(np.arange(N_TRACKS), (n_folds, 1))
    pair = [a_result(first, tracks), a_result(second, tracks, model="basic")]
    expected = crossed(first - second)
    for got in (*each_pair(pair, ROPE), *main_effects(pair, ROPE)):
        assert got.gain.mean == pytest.approx(abs(expected.mean))
        assert got.gain.standard_error == pytest.approx(expected.standard_error)
        assert got.gain.df == pytest.approx(expected.df)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32), st.integers(1, 4))
def test_on_one_published_test_set_artists_rather_than_tracks_are_the_sample(seed: int, n_artists: int) -> None:
    random = np.random.default_rng(seed)
    hits, artists = random.integers(2, size=(2, 3, N_TRACKS)).astype(float), random.integers(n_artists, size=N_TRACKS)
    tracks = np.tile(np.arange(N_TRACKS), (3, 1))
    pair = [a_result(own, tracks, model=model) for own, model in zip(hits, ("deep", "basic"), strict=True)]
    groups = {str(track): str(artist) for track, artist in enumerate(artists)}
    known = [replace(one, groups=groups) for one in pair]
    expected = crossed(hits[0] - hits[1], artists)
    assume(expected.standard_error > 1e-6)
    for got in (*each_pair(known, ROPE), *main_effects(known, ROPE)):
        assert (got.gain.standard_error, got.gain.df) == pytest.approx((expected.standard_error, expected.df))


@given(st.floats(0, 0.5), st.floats(1e-4, 0.1), st.integers(1, 20), st.floats(0, 1), st.floats(0, 0.1))
def test_the_verdict_follows_from_the_numbers(
    mean: float, error: float, freedom: int, p_value: float, rope: float
) -> None:
    found = Difference("mel", "mfcc", Estimate(mean, error, freedom), p_value, None, rope, n_comparisons=8)
    told = verdict(found)
    if found.probability_equal >= 0.95:
        assert found.finding == "equal" and told.startswith("mel and mfcc are practically equal: ")
    elif p_value < 0.05:
        assert found.finding == "different" and told.startswith("mel beats mfcc by ")
    else:
        assert found.finding == "undecided"
        beyond_zero = found.gain.low > 0
        assert told.startswith("mel and mfcc differ by " if beyond_zero else "mel and mfcc cannot be told apart: ")
        assert told.endswith("not significantly after Holm's correction for 8 comparisons.") == beyond_zero
    numbers = [float(number) for number in re.findall(r"-?\d+\.\d", told)]
    ends = [max(-100, 100 * found.gain.low), min(100, 100 * found.gain.high)]
    assert numbers == pytest.approx([100 * mean, *ends], abs=0.051)


@pytest.mark.parametrize(
    ("missed", "words"),
    [
        ((4, 4, 4, 4, 3), "mel · deep · batch 16 beats mel · basic · batch 16 by 47.5 points (95 % CI "),
        (
            (0, 0, 0, 0, 0),
            "mel · deep · batch 16 and mel · basic · batch 16 cannot be told apart: 0.0 points (95 % CI ",
        ),
        (
            (4, 0, 0, 0, 0),
            "mel · deep · batch 16 and mel · basic · batch 16 cannot be told apart: 10.0 points in favour of "
            "mel · deep · batch 16 (95 % CI ",
        ),
    ],
)
def test_the_verdict_names_both_and_what_lies_between_them(missed: tuple[int, ...], words: str) -> None:
    worse = np.arange(N_TRACKS) >= np.array(missed)[:, None]
    (found,) = each_pair([a_result(np.ones_like(worse)), a_result(worse, model="basic")], ROPE)
    assert verdict(found).startswith(words)


@pytest.mark.parametrize(("n_folds", "n_tracks"), [(2, 8), (3, 10)])  # of tenths the deviation is not quite 0
def test_folds_that_agree_by_chance_do_not_make_a_few_tracks_certain(n_folds: int, n_tracks: int) -> None:
    tracks, place = np.arange(n_folds * n_tracks).reshape(n_folds, n_tracks), np.arange(n_tracks)
    worse, better = (np.tile((place < n).astype(float), (n_folds, 1)) for n in (2, 3))
    (pair,) = each_pair([a_result(worse, tracks), a_result(better, tracks, model="other")], ROPE)
    share = 1 / n_tracks
    assert pair.gain.mean == np.mean([share] * n_folds)
    mean, n = n_folds / (tracks.size + 2), tracks.size + 2  # with a gain and a loss as pseudo-values
    exact = np.sqrt(((n_folds + 2) / n - mean**2) / n)
    shift = (share - mean) / stats.t.ppf(0.975, n - 1)  # of the interval's centre
    assert (pair.gain.standard_error, pair.gain.df) == (pytest.approx(exact + shift), n - 1)
    assert pair.p_value > 0.05 and "cannot be told apart" in verdict(pair)


def test_folds_that_agree_on_an_axis_are_as_sure_as_the_tracks_of_all_its_pairs() -> None:
    tracks = np.arange(120).reshape(3, 40)
    hits = {("basic", "mel"): 30, ("deep", "mel"): 20, ("basic", "mfcc"): 20, ("deep", "mfcc"): 20}
    results = [
        a_result(np.tile(np.arange(40) < n, (3, 1)), tracks, model=model, features=features)
        for (model, features), n in hits.items()
    ]
    (effect,) = [one for one in main_effects(results, ROPE) if "basic" in one.better]
    per_track = np.append(np.tile(np.where((np.arange(40) >= 20) & (np.arange(40) < 30), 0.5, 0), 3), [1, -1])
    shift = (0.125 - per_track.mean()) / stats.t.ppf(0.975, 121)
    assert effect.gain.standard_error == pytest.approx(per_track.std() / np.sqrt(122) + shift)


@pytest.mark.parametrize(("n_tracks", "words"), [(8, "cannot be told apart"), (2000, "practically equal")])
def test_those_that_recognise_the_same_tracks_are_equal_if_there_are_many(n_tracks: int, words: str) -> None:
    tracks = np.arange(5 * n_tracks).reshape(5, n_tracks)
    (pair,) = each_pair([a_result(np.ones((5, n_tracks)), tracks, model=name) for name in ("basic", "deep")], ROPE)
    assert words in verdict(pair) and pair.gain.standard_error > 0


@settings(deadline=None, max_examples=30)
@given(st.lists(results(), min_size=1, max_size=6))
def test_the_ranking_is_by_mean_accuracy_then_f1(some: list[ConfigResult]) -> None:
    scores = [[rounded(r.estimate(score).mean) for score in ("accuracy", "macro_f1")] for r in rank(some)]
    assert scores == sorted(scores, reverse=True) and len(scores) == len(some)


def test_those_with_the_same_scores_in_another_order_of_folds_are_equally_accurate() -> None:
    scores = (0.7, 0.9, 0.8, 0.6, 0.9), (0.7, 0.6, 0.9, 0.9, 0.8)  # of which rounding makes two means
    one, other = (made.a_result(*each) for each in scores)
    assert one.estimate("accuracy").mean != other.estimate("accuracy").mean
    for order in ([one, other], [other, one]):
        assert list(map(id, rank(order))) == list(map(id, order))


@settings(deadline=None, max_examples=40)
@given(on_the_same_tracks())
def test_the_missed_tracks_are_those_that_any_configuration_gets_wrong(some: list[ConfigResult]) -> None:
    lines = most_missed(some)
    assert len({line.id for line in lines}) == len(lines)
    by_id = {line.id: line for line in lines}
    first = some[0].tracks
    for place, id in enumerate(first.track_ids):
        wrong = [p for r in some if (p := int(r.tracks.predictions[place])) != first.labels[place]]
        assert (id in by_id) == bool(wrong)
        if wrong:
            line, votes = by_id[id], Counter(GENRES[genre] for genre in wrong)
            assert line.genre == GENRES[first.labels[place]]
            assert line.missed == pytest.approx(len(wrong) / len(some))
            assert votes[line.taken_for] == max(votes.values())
            own = [result.tracks.probabilities[place, GENRES.index(line.taken_for)] for result in some]
            assert line.confidence == pytest.approx(np.mean(own))
    assert all((a.missed, a.confidence) >= (b.missed, b.confidence) for a, b in pairwise(lines))


@pytest.mark.parametrize(
    ("axis", "value", "name"),
    [
        ("features", "mel", "mel"),
        ("model", "deep", "deep"),
        ("batch_size", "16", "batch 16"),
        ("recipe.epochs", "60", "recipe.epochs 60"),
        ("model.hidden_size", "64", "model.hidden_size 64"),
    ],
)
def test_a_setting_is_named_as_it_is_typed_except_features_models_and_batch_sizes(
    axis: str, value: str, name: str
) -> None:
    assert setting(axis, value) == name


def judged(labels: Sequence[int], probabilities: np.ndarray) -> ConfigResult:
    """A configuration of one fold of these tracks."""
    return ConfigResult({}, (a_fold(0, map(str, range(len(labels))), np.array(labels), probabilities, GENRES, 9),), 1)


def test_of_two_that_recognise_as_many_tracks_the_one_that_is_fairer_to_rare_genres_ranks_first() -> None:
    labels = [0] * 6 + [1] * 2
    fair, unfair = (judged(labels, np.eye(3)[predicted]) for predicted in ([1] * 2 + [0] * 4 + [1] * 2, [0] * 8))
    assert fair.estimate("accuracy").mean == unfair.estimate("accuracy").mean
    for order in ([fair, unfair], [unfair, fair]):
        assert list(map(id, rank(order))) == [id(fair), id(unfair)]


def test_a_track_is_taken_for_the_more_probable_of_two_genres_that_as_many_predict() -> None:
    one, other = (judged([0], np.array([row])) for row in ([0.05, 0.5, 0.45], [0.35, 0.05, 0.6]))
    for order in ([one, other], [other, one]):
        (line,) = most_missed(order)
        assert (line.taken_for, line.missed, line.confidence) == (GENRES[2], 1, pytest.approx((0.45 + 0.6) / 2))
