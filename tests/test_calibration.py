"""Test temperatures against scipy's minimum, and against logits that were scaled on purpose."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import softmax
from sklearn.metrics import log_loss

from genre_cls.evaluation.calibration import N_BINS, RANGE, best_temperature, calibration, checked_temperature, tempered

seeds, temperatures = st.integers(0, 2**32), st.floats(0.3, 3)


def votes(seed: int, n: int = 200, n_genres: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities, and genres that are drawn from them, so that they are calibrated."""
    random = np.random.default_rng(seed)
    probabilities = softmax(random.normal(0, 2, (n, n_genres)), axis=1)
    return probabilities, np.array([random.choice(n_genres, p=row) for row in probabilities])


def test_confident_correct_predictions_are_calibrated_and_confident_wrong_ones_are_not() -> None:
    assert calibration(np.ones(4), np.ones(4), 4).error == 0
    assert calibration(np.ones(4), np.zeros(4), 4).error == 1


@pytest.mark.parametrize("n", [50, 1000])
def test_the_error_by_chance_is_that_of_calibrated_predictions_on_average(n: int) -> None:
    drawn = [votes(seed, n) for seed in range(60)]
    measured = [calibration(rows.max(axis=1), 1.0 * (rows.argmax(axis=1) == labels), n) for rows, labels in drawn]
    by_chance = np.mean([each.error_by_chance for each in measured])
    assert by_chance == pytest.approx(np.mean([each.error for each in measured]), rel=0.08)


@given(seeds, temperatures)
def test_a_temperature_divides_the_logits(seed: int, temperature: float) -> None:
    logits = np.random.default_rng(seed).normal(0, 5, (3, 7, 4))
    expected = softmax(logits / temperature, axis=-1)
    np.testing.assert_allclose(tempered(softmax(logits, axis=-1), temperature), expected, atol=1e-12)


@given(seeds, temperatures)
def test_no_temperature_changes_the_order_of_the_genres(seed: int, temperature: float) -> None:
    probabilities, _ = votes(seed, n=20)
    assert (tempered(probabilities, temperature).argsort() == probabilities.argsort()).all()


def test_certainty_stays_certainty() -> None:
    for temperature in RANGE:
        np.testing.assert_allclose(tempered(np.eye(3), temperature), np.eye(3), atol=1e-12)


def test_the_lowest_temperatures_are_certain_of_the_most_probable_genre() -> None:
    np.testing.assert_allclose(tempered(np.array([0.3, 0.25, 0.25, 0.2]), 1e-6), [1, 0, 0, 0])


@settings(deadline=None, max_examples=30)
@given(seeds, temperatures)
def test_the_best_temperature_is_where_scipy_finds_the_least_log_loss(seed: int, asked: float) -> None:
    probabilities, labels = votes(seed)
    modest = tempered(probabilities, asked)

    def loss(log_temperature: float) -> float:
        return float(log_loss(labels, tempered(modest, np.exp(log_temperature)), labels=range(4)))

    found = best_temperature(modest, labels)
    least = minimize_scalar(loss, bounds=np.log(RANGE), method="bounded", options={"xatol": 1e-9})
    assert loss(np.log(found)) <= least.fun + 1e-9
    assert np.log(found) == pytest.approx(least.x, abs=1e-3)


@settings(deadline=None, max_examples=30)
@given(seeds, temperatures)
def test_the_effect_of_a_temperature_is_undone_by_its_inverse(seed: int, temperature: float) -> None:
    probabilities, labels = votes(seed, n=4000)
    found = best_temperature(tempered(probabilities, temperature), labels)
    assert found * temperature == pytest.approx(1, abs=0.15)


def test_always_correct_predictions_get_temperature_one_and_always_wrong_ones_the_largest() -> None:
    probabilities, _ = votes(0)
    assert best_temperature(probabilities, probabilities.argmax(axis=1)) == 1
    assert best_temperature(probabilities, probabilities.argmin(axis=1)) == pytest.approx(RANGE[1])


@pytest.mark.parametrize("nonsense", [0, -1, float("nan"), float("inf"), "warm", None, [1.0], 11])
def test_a_temperature_of_nonsense_is_refused(nonsense: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        checked_temperature(nonsense)


@pytest.mark.parametrize("temperature", [*RANGE, 1, "2.5"])
def test_a_temperature_within_the_range_or_at_its_ends_is_taken(temperature: float | str) -> None:
    assert checked_temperature(temperature) == float(temperature)


def test_an_interval_of_confidence_includes_its_upper_end_alone() -> None:
    ends = np.array([3, 6, 9, 12, 15]) / N_BINS
    assert np.flatnonzero(calibration(ends, np.ones(5), 5).counts).tolist() == [2, 5, 8, 11, 14]
    assert np.flatnonzero(calibration(ends[:-1] + 1e-9, np.ones(4), 4).counts).tolist() == [3, 6, 9, 12]
