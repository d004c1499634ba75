"""Estimate means with their standard errors, from folds that share training data or tracks that share artists."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from genre_cls.evaluation.calibration import Floats, Ints

ROUNDING = 1e-9  # a difference or standard error below this comes from rounding and counts as zero


@dataclass(frozen=True)
class Estimate:
    """A mean with its standard error, in units of which its distance from the true mean follows Student's t.

    Args:
        mean: over folds, or over the tracks of a single one.
        standard_error: of the mean.
        df: degrees of freedom.
    """

    mean: float
    standard_error: float
    df: float

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
        """Two-sided p-value of the t-test that the true mean is zero."""
        if not self.standard_error:
            return float(self.mean == 0)
        return 2 * float(stats.t.sf(abs(self.mean) / self.standard_error, self.df))

    def probability_within(self, rope: float) -> float:
        """Return the posterior probability, without prior knowledge, that the true mean lies within `-rope` and `rope`.

        Args:
            rope: half the width of the region of practical equivalence.

        Source: Corani & Benavoli, A Bayesian approach for comparing cross-validated algorithms on multiple data sets,
        Machine Learning 100 (2015), eq. 7: the posterior is Student's t around the mean with the corrected error.
        """
        if not self.standard_error:
            return float(abs(self.mean) <= rope)
        low, high = stats.t.cdf([-rope, rope], self.df, self.mean, self.standard_error)
        return float(high - low)

    @property
    def share_interval(self) -> tuple[float, float]:
        """The 95 % interval of a share, clipped to 0 and 1."""
        return max(self.low, 0.0), min(self.high, 1.0)

    @property
    def difference_interval(self) -> tuple[float, float]:
        """The 95 % interval of a difference of shares, clipped to -1 and 1."""
        return max(self.low, -1.0), min(self.high, 1.0)

    @property
    def _half(self) -> float:
        return _quantile(self.df) * self.standard_error if self.standard_error else 0.0


def _quantile(df: float) -> float:
    """Half of the 95 % interval of Student's t."""
    return float(stats.t.ppf(0.975, df))


def estimate(values: Sequence[float], test_share: float) -> Estimate:
    """Return the mean of a score over cross-validation folds, with a standard error corrected for shared training data.

    The folds' scores are correlated, so the usual standard error is too small; its square `s²/k` is replaced by
    `s² (1/k + n_test/n_train)`, with Student's t at k - 1 degrees of freedom.

    Args:
        values: one score per fold `(k,)`.
        test_share: test tracks per training track, n_test/n_train.

    Source: Nadeau & Bengio, Inference for the generalization error, Machine Learning 52 (2003), eq. 5.
    """
    scores = np.asarray(values, dtype=float)
    mean, n = float(scores.mean()), len(scores)
    std = float(scores.std(ddof=1)) if n > 1 else 0.0
    return Estimate(mean, std * float(np.sqrt(1 / n + test_share)), max(n - 1, 1))


def sampled(values: Floats, groups: Ints | None = None) -> Estimate:
    """Return the mean over the test tracks of a single training; its standard error is due to the choice of tracks.

    Args:
        values: of each track, such as 1 if it was recognised and 0 if not `(n_tracks,)`.
        groups: equal numbers for tracks that share an artist or a recording `(n_tracks,)`; None if none do.
    """
    variance, df = _variance_of_mean(values, groups)
    return Estimate(float(values.mean()), variance**0.5, df)


def with_error_floor(
    of_folds: Estimate, values: Floats, pseudo_values: Sequence[float], smallest: float = 0.0
) -> Estimate:
    """Replace a standard error that is implausibly small, because all folds scored the same, by that over the tracks.

    Tracks that are all recognised would have no error either, so pseudo-values are added to them. The interval stays
    centred on `of_folds.mean`, and is widened until it contains the tracks' own interval; it never becomes narrower,
    as it might where few folds have few degrees of freedom.

    Args:
        of_folds: mean over the folds.
        values: of each track, or the means of tracks that share an artist or a recording `(n,)`.
        pseudo_values: values to add, as many of each kind.
        smallest: the smallest plausible standard error, that of folds of which one differs by a single track.

    Source: Agresti & Coull, The American Statistician 52 (1998), for shares: two hits and two misses; Bonett & Price,
    J. Educational and Behavioral Statistics 37 (2012), for differences of two shares: a gain and a loss.
    """
    if of_folds.standard_error >= max(ROUNDING, smallest - ROUNDING):
        return of_folds
    joined = np.append(values, pseudo_values)
    df = len(joined) - 1
    shift = abs(float(joined.mean()) - of_folds.mean) / _quantile(df)  # the two centres differ
    of_tracks = replace(of_folds, standard_error=float(joined.std()) / len(joined) ** 0.5 + shift, df=df)
    return max(of_folds, of_tracks, key=lambda each: each.high)


def crossed(values: Floats, groups: Ints | None = None) -> Estimate:
    """Return the mean over several trainings tested on the same tracks; the choice of both adds to the standard error.

    Args:
        values: of each training and track, such as 1 if it was recognised and 0 if not `(n_folds, n_tracks)`.
        groups: equal numbers for tracks that share an artist or a recording `(n_tracks,)`; None if none do.

    Source: the variance of a two-way layout without interaction, except that noise in single values counts twice, as it
    adds to both means: this is conservative.
    """
    by_fold, by_track = values.mean(axis=1), values.mean(axis=0)
    variances = [_variance_of_mean(by_fold, None), _variance_of_mean(by_track, groups)]
    return Estimate(float(values.mean()), *_sum_of_errors(variances))


def _variance_of_mean(values: Floats, groups: Ints | None) -> tuple[float, float]:
    """Return the variance of a mean over tracks that are independent only across groups, and its degrees of freedom.

    If there are fewer than two groups in effect, as one has more than some 70 % of the tracks, too little is known of
    others: the variance is the largest that values from -1 to 1 can have.

    Source: the cluster-robust variance of Liang & Zeger, Biometrika 73 (1986), times G/(G - 1) for G groups as in
    Cameron & Miller, J. Human Resources 50 (2015); groups of one track give `s²/n`. They have G - 1 degrees of freedom,
    which is too many where a few groups hold most tracks; G is here Kish's effective number (Survey Sampling, 1965).
    """
    group = np.arange(len(values)) if groups is None else np.unique(groups, return_inverse=True)[1]
    sums, sizes = np.bincount(group, weights=values - values.mean()), np.bincount(group)
    effective = len(values) ** 2 / float((sizes**2).sum())  # their number, if all are of one size
    if effective < 2:
        return 1.0, 1.0
    n = len(sizes)
    return float(n / (n - 1) * (sums**2).sum() / len(values) ** 2), effective - 1


def unpaired(first: Estimate, second: Estimate) -> Estimate:
    """Return the first mean minus the second, treating them as independent.

    If both are from the same tracks in other folds, the true standard error is smaller: this is conservative.

    Source: Welch, Biometrika 34 (1947).
    """
    variances = [(e.standard_error**2, e.df) for e in (first, second)]
    return Estimate(first.mean - second.mean, *_sum_of_errors(variances))


def rounded(mean: float) -> float:
    """Return a mean without what rounding has added, so that the same scores give it in whatever order they come."""
    return round(mean, 12)


def holm(p_values: Sequence[float]) -> Floats:
    """Return p-values adjusted so that the probability of any false rejection among them stays below the level.

    Args:
        p_values: of all comparisons, in any order.

    Source: Holm, A simple sequentially rejective multiple test procedure, Scand. J. Statistics 6 (1979).
    """
    values = np.asarray(p_values, dtype=float)
    order = np.argsort(values)
    raised = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    return np.minimum(raised, 1.0)[np.argsort(order)]


def _sum_of_errors(variances: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return the standard error of a sum of independent terms and its degrees of freedom.

    Args:
        variances: variance and degrees of freedom of each term.

    Source: Satterthwaite, Biometrics Bulletin 2 (1946).
    """
    total = sum(variance for variance, _ in variances)
    if not total:
        return 0.0, 1.0
    return total**0.5, total**2 / sum(variance**2 / df for variance, df in variances)
