"""Compare configurations: which differences are real, by paired statistics; their order and names; what most miss."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, combinations
from math import nan
from typing import Literal

import numpy as np
from scipy import stats

from genre_cls.configuration.settings import AXES
from genre_cls.evaluation.estimates import ROUNDING, Estimate, holm, rounded, unpaired
from genre_cls.evaluation.scoring import ConfigResult

ALPHA = 0.05  # significance level, for all comparisons of a kind together
SURE = 0.95  # posterior probability from which two configurations are called practically equal
CODE = "code"  # the key that distinguishes configurations, like a setting, if the code changed between them

Finding = Literal["equal", "different", "undecided"]
Pair = tuple[ConfigResult, ConfigResult]


@dataclass(frozen=True)
class Difference:
    """The difference in accuracy between two configurations, or between two settings of an axis.

    Args:
        better: name of the one with the higher mean accuracy.
        worse: name of the other.
        gain: how much more accurate the better one is, a share, mean over the folds.
        p_value: of the corrected resampled t-test, two-sided, adjusted for the number of comparisons.
        mcnemar: p-value of McNemar's test on single tracks, adjusted too; None for an axis.
        rope: half the width of the region of practical equivalence, a share.
        n_comparisons: number of comparisons of its kind, for which the p-values are adjusted.
        n_alone: configurations with one of the two settings that are left out, as none differs from them in that alone.
    """

    better: str
    worse: str
    gain: Estimate
    p_value: float
    mcnemar: float | None
    rope: float
    n_comparisons: int = 1
    n_alone: int = 0

    @property
    def probability_equal(self) -> float:
        """Posterior probability that the difference lies in the region of practical equivalence."""
        return self.gain.probability_within(self.rope)

    @property
    def finding(self) -> Finding:
        """The verdict; practical equality takes precedence over a significant difference."""
        if self.probability_equal >= SURE:
            return "equal"
        return "different" if self.p_value < ALPHA else "undecided"


def each_pair(results: Sequence[ConfigResult], rope: float) -> list[Difference]:
    """Compare each configuration with each that ranks below it.

    Args:
        results: of configurations that were tested on the same tracks in the same folds.
        rope: accuracies that differ by less are practically equal, a share.

    Returns:
        One difference per pair, those of the best configuration first; none if there are fewer than two folds.
    """
    if len(results[0].folds) < 2:
        return []
    ranked = rank(results)
    pairs = list(combinations(ranked, 2))
    named = zip(combinations(names(ranked), 2), pairs, strict=True)
    differences = _adjusted([_difference(*both, [pair], rope) for both, pair in named])
    p_values = holm([mcnemar(*pair) for pair in pairs])
    return [replace(one, mcnemar=float(p)) for one, p in zip(differences, p_values, strict=True)]


def main_effects(results: Sequence[ConfigResult], rope: float) -> list[Difference]:
    """Compare the settings of each axis, averaged over all pairs of configurations that differ in this axis alone.

    Args:
        results: of configurations that were tested on the same tracks in the same folds.
        rope: accuracies that differ by less are practically equal, a share.

    Returns:
        One difference per pair of settings of an axis; none if there are fewer than two folds.
    """
    if len(results[0].folds) < 2:
        return []
    differences = []
    for axis in axes_of(results):
        settings = sorted({result.value(axis) for result in results})
        for one, other in combinations(settings, 2):
            if pairs := _differ_in(results, axis, one, other):
                n_alone = sum(result.value(axis) in (one, other) for result in results) - 2 * len(pairs)
                difference = _difference(setting(axis, one), setting(axis, other), pairs, rope)
                differences.append(replace(difference, n_alone=n_alone))
    return _adjusted(differences)


def mcnemar(first: ConfigResult, second: ConfigResult) -> float:
    """Return the exact two-sided p-value of the hypothesis that two configurations recognise equally many tracks.

    The test takes the trained models as given, and does not account for the variance between trainings. If several
    trainings predict a track, the first one counts, because their vote is not the configuration's.

    Source: McNemar, Psychometrika 12 (1947); binomial form.
    """
    gains = first.first_hits - second.first_hits
    only_first, only_second = int((gains > 0).sum()), int((gains < 0).sum())
    if not only_first + only_second:
        return 1.0
    return float(stats.binomtest(only_first, only_first + only_second).pvalue)


def _differ_in(results: Sequence[ConfigResult], axis: str, one: str, other: str) -> list[Pair]:
    """Return the pairs of configurations that differ in one axis alone."""

    def rest(result: ConfigResult) -> dict[str, str]:
        return {key: value for key, value in result.named.items() if key != axis}

    firsts, seconds = ([r for r in results if r.value(axis) == value] for value in (one, other))
    return [(first, second) for first in firsts for second in seconds if rest(first) == rest(second)]


def _difference(first: str, second: str, pairs: Sequence[Pair], rope: float) -> Difference:
    """Return the mean difference over some pairs, with the names in the order that makes it positive."""
    one = pairs[0][0]
    # Track by track: both members of a pair were tested on the same tracks in the same order.
    gains = [
        np.mean([a.folds[fold].hits - b.folds[fold].hits for a, b in pairs], axis=0) for fold in range(len(one.folds))
    ]
    gain = one.over_folds(gains, pseudo_values=(1, -1), step=1 / len(pairs))
    if abs(gain.mean) < ROUNDING:  # so that of equals the first one stays first
        gain = replace(gain, mean=0.0)
    if gain.mean < 0:
        first, second, gain = second, first, replace(gain, mean=-gain.mean)
    return Difference(first, second, gain, gain.p_value, None, rope)


def _adjusted(differences: Sequence[Difference]) -> list[Difference]:
    p_values = holm([difference.p_value for difference in differences])
    n = len(differences)
    return [replace(one, p_value=float(p), n_comparisons=n) for one, p in zip(differences, p_values, strict=True)]


def rank(results: Sequence[ConfigResult]) -> list[ConfigResult]:
    """Sort configurations by mean accuracy, best first, with macro F1 for ties."""

    def key(result: ConfigResult) -> tuple[float, ...]:
        return tuple(-rounded(result.estimate(score).mean) for score in ("accuracy", "macro_f1"))

    return sorted(results, key=key)


def names(results: Sequence[ConfigResult]) -> list[str]:
    """Name configurations by their values on the axes."""
    axes = axes_of(results)
    return [" · ".join(setting(axis, result.value(axis)) for axis in axes) for result in results]


def setting(axis: str, value: str) -> str:
    """Return a setting as a part of a name: `mel`, `deep`, `batch 16`, `recipe.epochs 60`."""
    if axis in ("features", "model"):
        return value
    return f"{'batch' if axis == 'batch_size' else axis} {value}"


def axes_of(results: Sequence[ConfigResult]) -> list[str]:
    """Return features, model, batch size and whatever other settings differ between configurations."""
    keys = {key for result in results for key in result.named}.difference(AXES)
    return [*AXES, *(key for key in sorted(keys) if len({result.named.get(key) for result in results}) > 1)]


@dataclass(frozen=True)
class MissedTrack:
    """A track that configurations misclassify.

    Args:
        id: of the track.
        genre: its label.
        taken_for: the wrong genre that most of them predict.
        missed: share of the configurations that misclassify it.
        confidence: mean over all of them of the probability of `taken_for`.
    """

    id: str
    genre: str
    taken_for: str
    missed: float
    confidence: float


def most_missed(results: Sequence[ConfigResult]) -> list[MissedTrack]:
    """Return the tracks that any configuration misclassifies, those that most do, and most confidently, first.

    Args:
        results: of configurations that were tested on the same tracks.
    """
    compared, genres = [result.tracks for result in results], results[0].genres
    ids, labels = compared[0].track_ids, compared[0].labels
    predictions = np.stack([tracks.predictions for tracks in compared])  # (n_results, n_tracks)
    confidence = np.mean([tracks.probabilities for tracks in compared], axis=0)
    votes = np.stack([(predictions == genre).sum(axis=0) for genre in range(len(genres))], axis=1)
    votes[np.arange(len(ids)), labels] = 0
    lines = []
    for track in np.flatnonzero(votes.any(axis=1)):
        other = max(range(len(genres)), key=lambda genre: (votes[track, genre], confidence[track, genre]))
        missed = float(votes[track].sum() / len(compared))
        genre = genres[labels[track]]
        lines.append(MissedTrack(ids[track], genre, genres[other], missed, float(confidence[track, other])))
    return sorted(lines, key=lambda line: (-line.missed, -line.confidence, line.id))


def accuracy_drop(by_split: Mapping[str, ConfigResult]) -> Estimate:
    """Return how much accuracy, a share, is lost from the first of several splits to the last."""
    first, *_, last = by_split.values()
    return unpaired(first.estimate("accuracy"), last.estimate("accuracy"))


def recall_drops(by_split: Mapping[str, ConfigResult]) -> dict[str, float]:
    """Return how much lower the share of each genre's tracks that were recognised is under the last of several splits.

    Args:
        by_split: a configuration's results by the name of the split; the first is what the last is compared with.

    Returns:
        Shares, the largest drop first; NaN, and last, if either split tests no track of the genre.
    """
    recalls = [result.recalls for result in by_split.values()]
    genres = list(dict.fromkeys(chain(*recalls)))
    drops = np.array([recalls[0].get(genre, nan) - recalls[-1].get(genre, nan) for genre in genres])
    return {genres[i]: float(drops[i]) for i in np.argsort(-drops, kind="stable")}
