"""Means with their errors: what folds say of a score, and how sure that is."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from genre_cls.calibration import Floats, Ints

ROUNDING = 1e-9  # an error below this comes from rounding, and is none


@dataclass(frozen=True)
class Estimate:
    """A mean that is known up to an error, distributed around the truth like Student's t.

    Args:
        mean: over the folds.
        std: standard deviation over the folds (n - 1).
        error: standard error of the mean.
        freedom: degrees of freedom.
    """

    mean: float
    std: float
    error: float
    freedom: float

    @property
    def low(self) -> float:
        """Lower end of the 95 % interval of the mean."""
        return self.mean - self._half

    @property
    def high(self) -> float:
        """Upper end of the 95 % interval of the mean."""
        return self.mean + self._half

    @property
    def p_value(self) -> float:
        """How likely a mean at least as far from zero is, if the truth is zero (two-sided)."""
        if not self.error:
            return float(self.mean == 0)
        return 2 * float(stats.t.sf(abs(self.mean) / self.error, self.freedom))

    def probability_within(self, rope: float) -> float:
        """Probability that the truth is between `-rope` and `rope`, when nothing was known beforehand.

        Args:
            rope: half the width of the region of practical equivalence.

        Source: Corani & Benavoli, A Bayesian approach for comparing cross-validated algorithms on multiple data sets,
        Machine Learning 100 (2015), eq. 7: the posterior is Student's t around the mean with the corrected error.
        """
        if not self.error:
            return float(abs(self.mean) <= rope)
        low, high = stats.t.cdf([-rope, rope], self.freedom, self.mean, self.error)
        return float(high - low)

    @property
    def share_interval(self) -> tuple[float, float]:
        """The interval's ends for a score that is a share, cut to 0 and 1, beyond which they may compute to."""
        return max(self.low, 0.0), min(self.high, 1.0)

    @property
    def difference_interval(self) -> tuple[float, float]:
        """The interval's ends for a difference of shares, cut to -1 and 1."""
        return max(self.low, -1.0), min(self.high, 1.0)

    @property
    def _half(self) -> float:
        return float(stats.t.ppf(0.975, self.freedom)) * self.error if self.error else 0.0


def estimate(values: Sequence[float], test_share: float) -> Estimate:
    """Mean of scores over cross-validation folds, with an error that knows that the folds share training data.

    The folds' scores are correlated, so their plain standard error is too small; its square `s²/k` is
    replaced by `s² (1/k + n_test/n_train)`, with Student's t at k - 1 degrees of freedom.

    Args:
        values: one score a fold.
        test_share: judged tracks per training track, n_test/n_train.

    Source: Nadeau & Bengio, Inference for the generalization error, Machine Learning 52 (2003), eq. 5.
    """
    scores = np.asarray(values, dtype=float)
    mean, n = float(scores.mean()), len(scores)
    std = float(scores.std(ddof=1)) if n > 1 else 0.0
    return Estimate(mean, std, std * float(np.sqrt(1 / n + test_share)), max(n - 1, 1))


def sampled(values: Floats, groups: Ints | None = None) -> Estimate:
    """Mean over tracks that one training has judged, which are the only sample there is.

    Args:
        values: what it made of each track, 1 for recognised say `(n_tracks,)`.
        groups: equal numbers for tracks that share an artist or a recording `(n_tracks,)`; None if none do.
    """
    variance, freedom = _over_groups(values, groups)
    return Estimate(float(values.mean()), 0.0, variance**0.5, freedom)


def with_error_floor(found: Estimate, values: Floats, pseudo_values: Sequence[float], least: float = 0.0) -> Estimate:
    """Replace an error that is implausibly small, because all folds scored the same, by that of the single tracks.

    Tracks that are all recognised would show no error either, so pseudo-values join them, as many of each kind. The
    interval stays around `found.mean`, and is so wide that it reaches as far as theirs.

    Args:
        found: mean over the folds.
        values: what was made of each track `(n_tracks,)`.
        pseudo_values: the values that join them.
        least: the smallest plausible error, that of folds of which one is a single track apart.

    Source: Agresti & Coull, The American Statistician 52 (1998), for shares: two hits and two misses; Bonett & Price,
    J. Educational and Behavioral Statistics 37 (2012), for differences of two shares: a gain and a loss.
    """
    if found.error >= max(ROUNDING, least - ROUNDING):
        return found
    joined = np.append(values, pseudo_values)
    freedom = len(joined) - 1
    shift = abs(float(joined.mean()) - found.mean) / float(stats.t.ppf(0.975, freedom))  # their interval is elsewhere
    return replace(found, error=float(joined.std()) / len(joined) ** 0.5 + shift, freedom=freedom)


def crossed(values: Floats, groups: Ints | None = None) -> Estimate:
    """Mean over several trainings that judge the same tracks; both are a sample, so both add to the error.

    Args:
        values: what each training made of each track, 1 for recognised say `(n_folds, n_tracks)`.
        groups: equal numbers for tracks that share an artist or a recording `(n_tracks,)`; None if none do.

    Source: the variance of a two-way layout without interaction, but that chance in single values counts twice, as it
    adds to both means: this is on the safe side.
    """
    by_fold, by_track = values.mean(axis=1), values.mean(axis=0)
    variances = [_over_groups(by_fold, None), _over_groups(by_track, groups)]
    return Estimate(float(values.mean()), float(by_fold.std(ddof=1)), *_sum_of_errors(variances))


def _over_groups(values: Floats, groups: Ints | None) -> tuple[float, float]:
    """Variance of a mean over tracks of which only those of different groups are independent, degrees of freedom.

    Of a single group nothing is known of others: its variance is then the most that values from -1 to 1 can have.

    Source: the cluster-robust variance of Liang & Zeger, Biometrika 73 (1986), times G/(G - 1) for G groups as in
    Cameron & Miller, J. Human Resources 50 (2015); groups of one track give `s²/n`. They have G - 1 degrees of freedom,
    which is too many where a few groups hold most tracks; G is here Kish's effective number (Survey Sampling, 1965).
    """
    own = np.arange(len(values)) if groups is None else np.unique(groups, return_inverse=True)[1]
    sums, sizes = np.bincount(own, weights=values - values.mean()), np.bincount(own)
    if len(sizes) == 1:
        return 1.0, 1.0
    effective = len(values) ** 2 / float((sizes**2).sum())  # as many as there are, if all are equally large
    n = len(sizes)
    return float(n / (n - 1) * (sums**2).sum() / len(values) ** 2), max(effective - 1, 1.0)


def unpaired(first: Estimate, second: Estimate) -> Estimate:
    """The first mean minus the second, where nothing pairs them.

    Where both are from the same tracks in other folds, the true error is smaller: this is on the safe side.

    Source: Welch, Biometrika 34 (1947).
    """
    return Estimate(first.mean - second.mean, 0.0, *_sum_of_errors([(e.error**2, e.freedom) for e in (first, second)]))


def holm(p_values: Sequence[float]) -> Floats:
    """Adjust p-values so that the chance of any false rejection among them stays below the level.

    Source: Holm, A simple sequentially rejective multiple test procedure, Scand. J. Statistics 6 (1979).
    """
    values = np.asarray(p_values, dtype=float)
    order = np.argsort(values)
    raised = values[order] * np.arange(len(values), 0, -1)
    adjusted = np.empty(len(values))
    adjusted[order] = np.minimum(np.maximum.accumulate(raised), 1.0)
    return adjusted


def _sum_of_errors(variances: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Standard error, and its degrees of freedom, of a sum of independent terms (variance, degrees of freedom).

    Source: Satterthwaite, Biometrics Bulletin 2 (1946).
    """
    total = sum(variance for variance, _ in variances)
    if not total:
        return 0.0, 1.0
    return total**0.5, total**2 / sum(variance**2 / freedom for variance, freedom in variances)
