"""Is one configuration really better than another? Paired statistics on the same folds and the same tracks."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal

import numpy as np
from scipy import stats

from genre_cls.estimates import Estimate, holm
from genre_cls.scoring import AXES, ConfigResult, differing, names, rank, setting

RISK = 0.05  # of claiming any difference among several that is none
SURE = 0.95  # probability from which two configurations are called practically equal
CODE = "code"  # what configurations are told apart by, like a setting, where the code has changed between them

Finding = Literal["equal", "different", "undecided"]
Pair = tuple[ConfigResult, ConfigResult]


@dataclass(frozen=True)
class Difference:
    """How much more of the tracks one configuration, or one setting of an axis, recognises than another.

    Args:
        better: name of the one with the higher mean accuracy.
        worse: name of the other.
        accuracy: by how much the better one's is higher, over the folds.
        p_value: of the corrected resampled t-test, two-sided, adjusted for the number of comparisons.
        mcnemar: p-value of McNemar's test on single tracks, adjusted too; None for an axis.
        rope: differences below this are of no practical importance.
        n_comparisons: for how many of its kind the p-values are adjusted.
    """

    better: str
    worse: str
    accuracy: Estimate
    p_value: float
    mcnemar: float | None
    rope: float
    n_comparisons: int = 1

    @property
    def equal(self) -> float:
        """Probability that the difference is of no practical importance."""
        return self.accuracy.probability_within(self.rope)

    @property
    def finding(self) -> Finding:
        """What comes of it; what is practically equal is called so even if it is different."""
        if self.equal >= SURE:
            return "equal"
        return "different" if self.p_value < RISK else "undecided"


def each_pair(results: Sequence[ConfigResult], rope: float) -> list[Difference]:
    """Compare each configuration with each that ranks below it.

    Args:
        results: judged on the same tracks in the same folds.
        rope: accuracies that differ by less are practically equal, a share.

    Returns:
        One difference a pair, none if there are fewer than two folds; those of the best configuration first.
    """
    ranked = rank(_complete(results))
    called = names(ranked)
    places = list(combinations(range(len(ranked)), 2))
    differences = _adjusted([_difference(called[i], called[j], [(ranked[i], ranked[j])], rope) for i, j in places])
    single = holm([mcnemar(ranked[i], ranked[j]) for i, j in places])
    return [replace(one, mcnemar=float(p)) for one, p in zip(differences, single, strict=True)]


def main_effects(results: Sequence[ConfigResult], rope: float) -> list[Difference]:
    """Compare the settings of each axis, averaged over all configurations that differ in this axis alone.

    Args:
        results: judged on the same tracks in the same folds.
        rope: accuracies that differ by less are practically equal, a share.

    Returns:
        One difference a pair of settings of an axis that has several, none if there are fewer than two folds.
    """
    complete = _complete(results)
    found = []
    for axis in (*AXES, *differing(complete)):
        settings = sorted({result.params.get(axis, "?") for result in complete})
        for one, other in combinations(settings, 2):
            if pairs := _differ_in(complete, axis, one, other):
                found.append(_difference(setting(axis, one), setting(axis, other), pairs, rope))
    return _adjusted(found)


def mcnemar(first: ConfigResult, second: ConfigResult) -> float:
    """Exact two-sided p-value that two configurations recognise equally many of the same tracks.

    It takes the trained models as they are, and says nothing of what another training would bring. Where several
    trainings judge a track, the first one counts: votes of them all are no configuration's.

    Source: McNemar, Psychometrika 12 (1947); binomial form.
    """
    gains = first.first_hits - second.first_hits
    only_first, only_second = int((gains > 0).sum()), int((gains < 0).sum())
    if not only_first + only_second:
        return 1.0
    return float(stats.binomtest(only_first, only_first + only_second).pvalue)


def _complete(results: Sequence[ConfigResult]) -> list[ConfigResult]:
    """Those of which no fold is missing, and so have judged the same tracks, if there are folds to speak of."""
    judged = [tuple(fold.track_ids for fold in result.folds) for result in results]
    whole = max(judged, key=len)
    return [result for result, own in zip(results, judged, strict=True) if own == whole and len(whole) > 1]


def _differ_in(results: Sequence[ConfigResult], axis: str, one: str, other: str) -> list[Pair]:
    """Pairs of configurations that are equal but for one axis."""

    def rest(result: ConfigResult) -> dict[str, str]:
        return {key: value for key, value in result.params.items() if key != axis}

    firsts, seconds = ([r for r in results if r.params.get(axis, "?") == value] for value in (one, other))
    return [(first, second) for first in firsts for second in seconds if rest(first) == rest(second)]


def _difference(first: str, second: str, pairs: Sequence[Pair], rope: float) -> Difference:
    """The mean difference over some pairs, named so that it is positive."""
    one = pairs[0][0]
    # Track by track: both members of a pair have judged the same tracks in the same order.
    gains = [
        np.mean([a.folds[fold].hits - b.folds[fold].hits for a, b in pairs], axis=0) for fold in range(len(one.folds))
    ]
    of_tracks = np.mean([a.tracks.hits - b.tracks.hits for a, b in pairs], axis=0)
    found = one.over_folds(gains, of_tracks, pseudo_values=(1, -1), step=1 / len(pairs))
    if found.mean < 0:
        first, second, found = second, first, replace(found, mean=-found.mean)
    return Difference(first, second, found, found.p_value, None, rope)


def _adjusted(differences: Sequence[Difference]) -> list[Difference]:
    p_values = holm([difference.p_value for difference in differences])
    n = len(differences)
    return [replace(one, p_value=float(p), n_comparisons=n) for one, p in zip(differences, p_values, strict=True)]
