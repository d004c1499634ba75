"""Test standard errors of means against baycomp, scipy, statsmodels and a published example."""

from itertools import pairwise
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
from baycomp import two_on_single
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.datasets import make_moons
from sklearn.model_selection import RepeatedStratifiedKFold, cross_val_score
from sklearn.svm import SVC
from statsmodels.api import OLS
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm
from statsmodels.stats.multitest import multipletests

from genre_cls.evaluation.estimates import Estimate, crossed, estimate, holm, sampled, unpaired, with_error_floor

SHARES = st.integers(0, 1000).map(lambda thousandths: thousandths / 1000)
SCORES = st.lists(SHARES, min_size=2, max_size=12)
SPREAD = SCORES.filter(lambda scores: np.ptp(scores) > 0)
P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=30)


@st.composite
def repeated_folds(draw: st.DrawFn) -> tuple[list[float], list[float], int, int]:
    """Scores of two models in repeated cross-validation, the repetitions, and the folds of each."""
    repeats, k = draw(st.integers(1, 4)), draw(st.integers(2, 10))
    first, second = (draw(st.lists(SHARES, min_size=repeats * k, max_size=repeats * k)) for _ in range(2))
    assume(np.ptp(np.subtract(first, second)) > 1e-9)
    return first, second, repeats, k


@st.composite
def layouts(draw: st.DrawFn) -> np.ndarray:
    """Which of some tracks each of some trainings recognises `(n_folds, n_tracks)`."""
    shape = draw(st.integers(2, 6)), draw(st.integers(2, 15))
    return np.random.default_rng(draw(st.integers(0, 2**32))).integers(2, size=shape).astype(float)


@settings(deadline=None, max_examples=100)
@given(SCORES, st.floats(0, 1))
def test_an_estimate_is_the_corrected_interval_of_nadeau_and_bengio(scores: list[float], share: float) -> None:
    k = len(scores)
    mean = sum(scores) / k
    variance = sum((score - mean) ** 2 for score in scores) / (k - 1)
    error = np.sqrt((1 / k + share) * variance)
    half = stats.t(k - 1).ppf(0.975) * error
    got = estimate(scores, share)
    assert [got.mean, got.standard_error] == pytest.approx([mean, error], abs=1e-12)
    assert [got.low, got.high] == pytest.approx([mean - half, mean + half], abs=1e-12)
    if error > 1e-9:
        assert got.p_value == pytest.approx(2 * stats.t(k - 1).cdf(-mean / error), abs=1e-12)


@settings(deadline=None, max_examples=50)
@given(SPREAD)
def test_without_a_shared_training_set_the_interval_and_the_test_are_students(scores: list[float]) -> None:
    got, expected = estimate(scores, test_share=0), stats.ttest_1samp(scores, 0)
    assert (got.low, got.high) == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert got.p_value == pytest.approx(expected.pvalue)


@settings(deadline=None, max_examples=100)
@given(repeated_folds(), st.floats(1e-3, 0.5))
def test_p_value_and_practical_equality_are_those_of_baycomp(
    case: tuple[list[float], list[float], int, int], rope: float
) -> None:
    first, second, repeats, k = case
    got = estimate(np.subtract(second, first).tolist(), test_share=1 / (k - 1))
    tails = two_on_single(np.array(first), np.array(second), runs=repeats)
    assert got.p_value == pytest.approx(2 * min(tails), abs=1e-9)
    _, within, _ = two_on_single(np.array(first), np.array(second), rope, repeats)
    assert got.probability_within(rope) == pytest.approx(within, abs=1e-9)


def test_the_example_in_the_guide_of_scikit_learn_comes_out_as_published() -> None:
    # "Statistical comparison of models using grid search": t 0.750, one-sided p 0.227, 0.432 within the rope.
    x, y = make_moons(noise=0.352, random_state=1, n_samples=100)
    folds = RepeatedStratifiedKFold(n_splits=10, n_repeats=10, random_state=0)
    rbf, linear = (
        cross_val_score(SVC(kernel=kernel, random_state=0), x, y, scoring="roc_auc", cv=folds)
        for kernel in ("rbf", "linear")
    )
    got = estimate(rbf - linear, test_share=10 / 90)
    assert round(got.mean / got.standard_error, 3) == 0.750
    assert round(got.p_value / 2, 3) == 0.227
    assert round(got.probability_within(0.01), 3) == 0.432


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(-1000, 1000), min_size=2, max_size=12), st.floats(0, 1))
def test_the_interval_leaves_zero_out_where_the_test_rejects_it(thousandths: list[int], share: float) -> None:
    got = estimate([value / 1000 for value in thousandths], share)
    assume(abs(got.p_value - 0.05) > 1e-9)
    assert (got.p_value < 0.05) == (got.low > 0 or got.high < 0)


@settings(deadline=None, max_examples=100)
@given(SCORES, st.floats(0, 1), st.lists(st.floats(0, 2), min_size=2, max_size=5).map(sorted))
def test_more_is_practically_equal_the_wider_the_region(scores: list[float], share: float, ropes: list[float]) -> None:
    got = estimate(scores, share)
    probabilities = [got.probability_within(rope) for rope in ropes]
    assert all(0 <= p <= 1 for p in probabilities)
    assert all(narrow <= wide + 1e-12 for narrow, wide in pairwise(probabilities))
    turned = Estimate(-got.mean, got.standard_error, got.df)
    assert [turned.probability_within(rope) for rope in ropes] == pytest.approx(probabilities, abs=1e-12)


def test_one_fold_gives_no_interval() -> None:
    got = estimate([0.7], 0.25)
    assert (got.mean, got.low, got.high) == (0.7, 0.7, 0.7)


def test_what_is_the_same_in_every_fold_is_certain() -> None:
    assert [estimate([0.0] * 5, 0.25).p_value, estimate([0.5] * 5, 0.25).p_value] == [1, 0]
    assert [estimate([0.5] * 5, 0.25).probability_within(rope) for rope in (0.4, 0.5)] == [0, 1]


@settings(deadline=None, max_examples=50)
@given(SCORES, st.floats(0, 1))
def test_the_interval_of_a_share_ends_where_shares_do(scores: list[float], share: float) -> None:
    got = estimate(scores, share)
    low, high = got.share_interval
    assert 0 <= low <= high <= 1
    assert low in (0, got.low) and high in (1, got.high)


@settings(deadline=None, max_examples=30)
@given(layouts())
def test_the_error_over_trainings_and_tracks_is_that_of_an_analysis_of_variance(values: np.ndarray) -> None:
    n_folds, n_tracks = values.shape
    got = crossed(values)
    fold, track = np.indices(values.shape)
    assume(got.standard_error > 1e-9)
    data = pd.DataFrame({"hit": values.ravel(), "fold": fold.ravel(), "track": track.ravel()})
    squares = anova_lm(ols("hit ~ C(fold) + C(track)", data).fit())["mean_sq"]
    variances = np.array([squares["C(fold)"], squares["C(track)"]]) / values.size
    assert got.standard_error**2 == pytest.approx(variances.sum())
    freedom = variances.sum() ** 2 / (variances**2 / [n_folds - 1, n_tracks - 1]).sum()
    assert got.df == pytest.approx(freedom)
    assert got.mean == pytest.approx(values.mean())


def test_the_error_over_trainings_and_tracks_is_on_average_not_too_small() -> None:
    random = np.random.default_rng(0)
    n_folds, n_tracks, of_fold, of_track, of_both = 5, 40, 0.1, 0.5, 0.5
    drawn = [
        crossed(
            of_fold * random.normal(size=(n_folds, 1))
            + of_track * random.normal(size=n_tracks)
            + of_both * random.normal(size=(n_folds, n_tracks))
        )
        for _ in range(4000)
    ]
    truth = of_fold**2 / n_folds + of_track**2 / n_tracks + of_both**2 / (n_folds * n_tracks)
    assert np.var([e.mean for e in drawn]) == pytest.approx(truth, rel=0.1)
    claimed = np.mean([e.standard_error**2 for e in drawn])
    # The noise of a single training on a single track counts twice, which is conservative.
    assert claimed == pytest.approx(truth + of_both**2 / (n_folds * n_tracks), rel=0.05)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**32), st.integers(3, 60), st.integers(2, 12))
def test_the_error_of_tracks_that_share_artists_is_the_cluster_robust_one(seed: int, n: int, n_artists: int) -> None:
    random = np.random.default_rng(seed)
    values, artists = random.integers(2, size=n).astype(float), random.integers(n_artists, size=n)
    sizes = np.bincount(artists)
    assume((sizes**2).sum() <= n**2 / 2)  # two artists at least, in effect
    fitted = OLS(values, np.ones(n)).fit(cov_type="cluster", cov_kwds={"groups": artists})
    got = sampled(values, artists)
    assert got.mean == pytest.approx(values.mean())
    assert got.standard_error == pytest.approx(float(fitted.bse[0]), abs=1e-9)
    assert got.df == pytest.approx(n**2 / (sizes**2).sum() - 1)
    assert got.df <= len(set(artists)) - 1 + 1e-9


@pytest.mark.parametrize("others", [0, 1, 10, 40])
def test_where_one_artist_has_most_tracks_nothing_is_known_of_others(others: int) -> None:
    artists = np.append(np.zeros(100, int), np.arange(1, others + 1))
    values = np.append(np.tile([0.0, 1.0], 50), np.ones(others))
    for got in (sampled(values, artists), crossed(np.stack([values, values]), artists)):
        assert got.share_interval == (0, 1)
    assert (sampled(values, artists).standard_error, sampled(values, artists).df) == (1, 1)


@settings(deadline=None, max_examples=50)
@given(layouts(), st.integers(1, 5))
def test_more_of_the_same_tracks_by_an_artist_add_no_information(values: np.ndarray, times: int) -> None:
    artists = np.arange(values.shape[1])
    for found, judged in ((crossed, values), (sampled, values[0])):
        once, often = found(judged, artists), found(np.repeat(judged, times, axis=-1), np.repeat(artists, times))
        assert (often.standard_error, often.df) == pytest.approx((once.standard_error, once.df))
        assert once == found(judged)


def test_the_error_over_tracks_that_share_artists_is_on_average_that_of_the_mean() -> None:
    random = np.random.default_rng(0)
    artists = np.repeat(np.arange(30), random.integers(1, 6, size=30))
    drawn = [
        sampled(0.5 * random.normal(size=30)[artists] + 0.5 * random.normal(size=len(artists)), artists)
        for _ in range(4000)
    ]
    truth = np.var([e.mean for e in drawn])
    assert np.mean([e.standard_error**2 for e in drawn]) == pytest.approx(truth, rel=0.1)
    covered = np.mean([e.low <= 0 <= e.high for e in drawn])
    assert covered == pytest.approx(0.95, abs=0.02)
    alone = np.mean([sampled(np.array([e.mean])).standard_error for e in drawn[:5]])
    assert alone == 1, "of one artist nothing is known of others"


@settings(deadline=None, max_examples=100)
@given(SPREAD, SPREAD)
def test_unpaired_means_are_compared_by_welchs_test(first: list[float], second: list[float]) -> None:
    got = unpaired(estimate(first, 0), estimate(second, 0))
    expected = stats.ttest_ind(first, second, equal_var=False)
    assert got.df == pytest.approx(expected.df)
    assert got.p_value == pytest.approx(expected.pvalue)
    assert (got.low, got.high) == pytest.approx(tuple(expected.confidence_interval(0.95)))


@settings(deadline=None, max_examples=100)
@given(P_VALUES)
def test_holms_p_values_are_those_of_statsmodels(p_values: list[float]) -> None:
    with patch("gc.collect"):  # statsmodels collects at every call, which takes longer than all else
        _, expected, _, _ = multipletests(p_values, method="holm")
    assert holm(p_values) == pytest.approx(expected, abs=1e-12)


def test_adjusting_no_p_values_returns_none() -> None:
    assert len(holm([])) == 0


@given(st.integers(1, 300), st.data())
def test_folds_that_agree_have_the_interval_of_agresti_and_coull(n: int, data: st.DataObject) -> None:
    hits = np.arange(n) < data.draw(st.integers(0, n))
    certain = estimate([hits.mean()] * 5, 0.25)
    got = with_error_floor(certain, hits, pseudo_values=(1, 1, 0, 0))
    share, reach = (hits.sum() + 2) / (n + 4), stats.t.ppf(0.975, n + 3)
    half = reach * np.sqrt(share * (1 - share) / (n + 4))
    assert got.mean == certain.mean
    if hits.mean() > 0.5:
        assert got.low == pytest.approx(share - half) and got.high >= share + half
    else:
        assert got.high == pytest.approx(share + half) and got.low <= share - half + 1e-9


@given(st.lists(st.floats(0, 1), min_size=2, max_size=5), st.floats(0.01, 1), st.integers(4, 100), st.floats(0, 0.5))
def test_the_tracks_standard_error_makes_no_interval_narrower(
    scores: list[float], share: float, n: int, smallest: float
) -> None:
    found = estimate(scores, share)
    got = with_error_floor(found, np.arange(n) % 2.0, pseudo_values=(1, 1, 0, 0), smallest=smallest)
    assert got.mean == found.mean and got.low <= found.low and got.high >= found.high


@given(SCORES, st.floats(0.01, 1))
def test_folds_that_differ_keep_their_own_standard_error(scores: list[float], share: float) -> None:
    found = estimate(scores, share)
    assume(found.standard_error > 1e-6)
    assert with_error_floor(found, np.ones(4), pseudo_values=(1, 1, 0, 0)) == found
