"""Put results into words: what a report is made of, and what it found, which `page` lays out."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from genre_cls.evaluation.comparisons import (
    CODE,
    Difference,
    MissedTrack,
    accuracy_drop,
    axes_of,
    each_pair,
    main_effects,
    most_missed,
    names,
    rank,
)
from genre_cls.evaluation.estimates import Estimate, rounded
from genre_cls.evaluation.genre_means import GenreMeans
from genre_cls.evaluation.scoring import ConfigResult

SPLITS = ("random", "filtered", "artist")  # from the most to the least flattering
N_MISSED, N_EFFECTS, N_PAIRS = 50, 50, 200  # to list
N_NAMED = 3  # configurations, in a warning
ABOUT_SELECTION = (
    "optimistic by an unknown amount (some points where tracks are few), because the configuration was selected on "
    "these same tracks; its interval does not account for that"
)
TWO_FOLDS = " Two folds are too few for an interval to say much (the default is five)."


@dataclass(frozen=True)
class Report:
    """Everything that a report shows.

    Args:
        title: of the page.
        dataset: its name, the number of tracks and genres, and the folds, in one line.
        notes: what a reader must know about the data, such as that it is synthetic.
        results: the configurations, at least one, in any order.
        means: average features per genre, one for each kind of feature.
        provenance: where the numbers come from: command, date, machine, version, ...
        rope: accuracies that differ by less are practically equal, a share.
        tracks: by id, what is known of each track (`artifacts.FACTS`), empty where unknown.
        audio: by id, the URL of each track that is readable and in a format that browsers play.
    """

    title: str
    dataset: str
    notes: tuple[str, ...]
    results: tuple[ConfigResult, ...]
    means: tuple[GenreMeans, ...]
    provenance: Mapping[str, str]
    rope: float
    tracks: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    audio: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def ranked(self) -> list[ConfigResult]:
        """The configurations, best first."""
        return rank(self.results)

    @cached_property
    def names(self) -> list[str]:
        """The names of the configurations, best first."""
        return names(self.ranked)

    @cached_property
    def accuracies(self) -> list[float]:
        """Their mean accuracies over the folds, such that those of equals are equal."""
        return [rounded(result.estimate("accuracy").mean) for result in self.ranked]

    @cached_property
    def effects(self) -> list[Difference]:
        """The differences between the settings of each axis, the first ones if they are many."""
        return main_effects(self.results, self.rope)[:N_EFFECTS]

    @cached_property
    def pairs(self) -> list[Difference]:
        """The differences between each configuration and those that rank below it, the first ones if they are many."""
        return each_pair(self.results, self.rope)[:N_PAIRS]

    @cached_property
    def missed(self) -> list[MissedTrack]:
        """The tracks missed most."""
        return most_missed(self.ranked)[:N_MISSED]

    @cached_property
    def splits(self) -> dict[str, Mapping[str, ConfigResult]]:
        """Results of each configuration with several splits, by its name and by split, the most flattering first."""
        results = {}
        for name, result in zip(self.names, self.ranked, strict=True):
            by_split = {result.value("folds"): result, **result.other_splits}
            results[name] = {split: by_split[split] for split in sorted(by_split, key=split_order)}
        return {name: by_split for name, by_split in results.items() if len(by_split) > 1}


def answer(report: Report) -> str:
    """Return a sentence that says which configuration is best and how good it is."""
    best, configurations = report.ranked[0], report.names
    chance = f"always predicting the largest genre would score {percent(best.largest_genre)} %"
    score = f"{percent(best.estimate('accuracy').mean)} % of the held-out tracks (95 % CI {interval_text(best)})"
    caveat = TWO_FOLDS if len(best.folds) == 2 and not best.single_test_set else ""
    if shared := shared_artists(best):
        caveat = f" {shared}.{caveat}"
    if len(configurations) == 1:
        return f"{configurations[0]} recognises the genre of {score}; {chance}.{caveat}"
    first = (
        f"The best of {len(configurations)} configurations, {_with_ties(report, 0)}, recognises the genre of {score}"
    )
    return f"{first}. This is {ABOUT_SELECTION}. {_about_worst(report)}, and {chance}.{caveat}"


def _with_ties(report: Report, place: int) -> str:
    """Return the name of a configuration, and how many others are as accurate."""
    n_others = report.accuracies.count(report.accuracies[place]) - 1
    tied = f" (tied with {n_others} other{'s' if n_others > 1 else ''})" if n_others else ""
    return report.names[place] + tied


def _about_worst(report: Report) -> str:
    """What is said of the worst of several configurations, without the full stop."""
    if len(set(report.accuracies)) == 1:
        return "All have the same accuracy"
    return f"The worst, {_with_ties(report, -1)}, recognises {percent(report.accuracies[-1])} %"


def shared_artists(result: ConfigResult) -> str:
    """How many tracks are by artists of training tracks, without the full stop; empty if none is known to be."""
    n, n_all = round(result.artist_overlap * len(result.tracks.labels)), len(result.tracks.labels)
    percentage = math.floor(100 * result.artist_overlap + 1e-9)  # as it is "at least"
    some = f"At least {percentage} %" if percentage else f"{n} of {n_all}"
    tracks = "All held-out tracks" if percentage == 100 else f"{some} of the held-out tracks"
    return f"{tracks} share an artist or a recording with training tracks" if result.artist_overlap else ""


def warnings(results: Sequence[ConfigResult]) -> list[str]:
    """Return sentences that warn of what makes some configurations' accuracies misleading."""
    return [warning for warning in (_of_several_codes(results), _of_untrained(results)) if warning]


def _of_several_codes(results: Sequence[ConfigResult]) -> str:
    """Return a sentence that warns that the code changed between configurations; empty if it did not."""
    warning = "The code has changed between these runs (code 1 is the oldest), which may be why they differ."
    return warning if CODE in axes_of(results) else ""


def _of_untrained(results: Sequence[ConfigResult]) -> str:
    """Return a sentence that warns of networks that have learned nothing, though last layers are fitted to them."""
    untrained = [name for name, result in zip(names(results), results, strict=True) if result.is_untrained]
    if not untrained:
        return ""
    more = f" and {len(untrained) - N_NAMED} more" if len(untrained) > N_NAMED else ""
    return (
        f"The networks of {', '.join(untrained[:N_NAMED])}{more} have learned nothing: before last layers are "
        "fitted again (recipe.ridge), single networks on average recognise no more than chance. The accuracy comes "
        "from that fit, or from kernel machines."
    )


def verdicts(report: Report) -> list[str]:
    """Return a sentence for each comparison on an axis, and for each configuration under several splits."""
    return on_axes(report) + [_drop_in_words(name, by_split) for name, by_split in report.splits.items()]


def on_axes(report: Report) -> list[str]:
    """Return a sentence for each comparison on an axis, and how many are not listed."""
    return [*map(verdict, report.effects), *not_listed(report.effects)]


def not_listed(differences: Sequence[Difference]) -> list[str]:
    """Return a sentence on the comparisons of a kind beyond those that are listed, if there are any."""
    n = differences[0].n_comparisons - len(differences) if differences else 0
    comparisons = f"{n} more comparisons of this kind are" if n > 1 else "1 more comparison of this kind is"
    return [f"{comparisons} not listed."] if n else []


def verdict(difference: Difference) -> str:
    """Return a sentence that says what a comparison found."""
    better, worse, points = difference.better, difference.worse, f"{100 * difference.gain.mean:.1f} points"
    low, high = difference.gain.difference_interval
    between = f"95 % CI {100 * low:.1f} to {100 * high:.1f}"
    if alone := difference.n_alone:
        between += f"; {alone} configuration{'s' if alone > 1 else ''} without a counterpart left out"
    if difference.finding == "equal":
        return f"{better} and {worse} are practically equal: {points} apart ({between})."
    if difference.finding == "different":
        return f"{better} beats {worse} by {points} ({between})."
    if low <= 0:
        favour = f" in favour of {better}" if round(100 * difference.gain.mean, 1) else ""
        return f"{better} and {worse} cannot be told apart: {points}{favour} ({between})."
    adjusted = f"not significantly after Holm's correction for {difference.n_comparisons} comparisons"
    return f"{better} and {worse} differ by {points} ({between}), but {adjusted}."


def known_faults(report: Report) -> str:
    """Return a sentence on how many tracks with known faults are among the most missed; empty if none is known."""
    tested = report.ranked[0].tracks.track_ids
    faulty = {track for track in tested if report.tracks.get(track, {}).get("fault")}
    if not faulty:
        return ""
    n_missed, n = len(faulty.intersection(track.id for track in report.missed)), len(report.missed)
    return (
        f"Tracks with a known fault: {len(faulty)} in all, {n_missed} among these {n}, "
        f"where {len(faulty) * n / len(tested):.1f} would be by chance."
    )


def trust(report: Report) -> str:
    """Return sentences on the calibration of the best configuration, without and with a temperature."""
    best = report.ranked[0]
    before, after = (f"{percent(one.calibration.error)} %" for one in (best, best.tempered))
    by_chance = percent(best.tempered.calibration.error_by_chance)
    used = (
        f"With so many tracks, a perfectly calibrated model would show some {by_chance} %. genre_cls.predict uses the "
        f"temperature that is fitted to all held-out tracks, {best.temperature:.2f}."
    )
    if best.single_test_set:
        reason = "as no other tracks were held out to fit one"
        return f"Shown without a temperature, {reason}; expected calibration error {before}. {used}"
    losses = (f"{one.estimate('log_loss').mean:.3f}" for one in (best, best.tempered))
    return (
        "Shown with a temperature, fitted for each fold on the other folds' tracks: expected calibration error "
        f"{before} without, {after} with it; log loss {' and '.join(losses)} nats. {used}"
    )


def _drop_in_words(name: str, by_split: Mapping[str, ConfigResult]) -> str:
    first, *_, last = by_split
    lost, where = accuracy_drop(by_split), f"under folds={last} than under folds={first}"
    other = "; folds=filtered also trains on fewer tracks and tests on others" if "filtered" in (first, last) else ""
    more, gap = ("fewer", lost) if lost.mean >= 0 else ("more", replace(lost, mean=-lost.mean))
    if not round(100 * gap.mean, 1):
        return f"{name} scores no more and no less {where}: {in_points(gap)} points{other}."
    doubt = ", which may be chance" if gap.difference_interval[0] <= 0 else ""
    return f"{name} scores {in_points(gap)} points {more} {where}{doubt}{other}."


def percent(share: float) -> str:
    """Return a share as text in percent, without the sign."""
    return f"{100 * share:.1f}"


def interval_text(result: ConfigResult) -> str:
    """Return the 95 % CI of the accuracy as text, in percent."""
    return "–".join(map(percent, result.estimate("accuracy").share_interval))


def accuracy_text(result: ConfigResult) -> str:
    """Return the mean accuracy over folds as text, in percent, with its standard deviation."""
    mean = result.estimate("accuracy").mean
    return percent(mean) + ("" if len(result.folds) == 1 else f" ± {percent(result.std('accuracy'))}")


def split_order(split: str) -> tuple[int, str]:
    """Return the key that sorts splits, the most flattering first."""
    return SPLITS.index(split) if split in SPLITS else len(SPLITS), split


def in_points(difference: Estimate) -> str:
    """Return a difference of accuracies as text, in points, with its 95 % CI."""
    low, high = difference.difference_interval
    return f"{100 * difference.mean:.1f} (95 % CI {100 * low:.1f} to {100 * high:.1f})"


def whole_percent(share: float) -> str:
    """Return a share as text in whole percent."""
    return f"{100 * share:.0f} %"
