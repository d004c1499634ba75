"""The tables of a report, as texts, which `page` lays out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from math import isnan, nan

import numpy as np

from genre_cls.configuration.settings import AXES, short_keys
from genre_cls.evaluation.calibration import N_BINS
from genre_cls.evaluation.comparisons import Difference, accuracy_drop, axes_of, recall_drops, setting
from genre_cls.evaluation.findings import (
    Report,
    accuracy_text,
    in_points,
    interval_text,
    percent,
    split_order,
    whole_percent,
)
from genre_cls.evaluation.scoring import ConfigResult


@dataclass(frozen=True)
class Sheet:
    """A table of texts: the alignment of its columns by name, and its rows."""

    columns: Mapping[str, str]  # name to "left" or "right"
    rows: Sequence[Sequence[str]]

    def __bool__(self) -> bool:
        return bool(self.rows)


def ranking(report: Report, *, narrow: bool = False) -> Sheet:
    """Return the configurations with their scores, best first.

    Args:
        report: with the configurations.
        narrow: whether all settings share a column if more than features, model and batch size differ.
    """
    axes, rows = axes_of(report.results), []
    for place, result in enumerate(report.ranked, start=1):
        settings = {axis.replace("batch_size", "batch size"): result.value(axis) for axis in axes}
        if narrow and len(axes) > len(AXES):
            settings = {"configuration": _in_short(result, axes)}
        scores = _scores(result)
        rows.append([str(place), *settings.values(), *scores.values()])
    return Sheet(dict.fromkeys(["rank", *settings], "left") | dict.fromkeys(scores, "right"), rows)


def each_against_each(report: Report) -> Sheet:
    """Return the difference between each two configurations with its p-values."""
    columns = {"ahead": "left", "behind": "left"} | dict.fromkeys(
        ("points", "p, corrected t", "p, McNemar", "practically equal"), "right"
    )
    return Sheet(columns, [_pair(pair) for pair in report.pairs])


def under_other_splits(report: Report) -> Sheet:
    """Return the accuracy of configurations under several splits, and the drop from the most flattering to the last."""
    splits = sorted({split for by_split in report.splits.values() for split in by_split}, key=split_order)
    rows = []
    for name, by_split in report.splits.items():
        scores = [accuracy_text(by_split[split]) if split in by_split else "" for split in splits]
        rows.append([name, *scores, in_points(accuracy_drop(by_split))])
    return Sheet({"configuration": "left"} | dict.fromkeys([*splits, "drop, points"], "right"), rows)


def drops_by_genre(report: Report) -> Sheet:
    """Return how much of each genre's recall configurations lose from the most flattering split to the last."""
    columns, lost = {"genre": "left"}, [recall_drops(by_split) for by_split in report.splits.values()]
    for name, by_split in report.splits.items():
        first, *_, last = by_split
        columns[f"{name}, {first} to {last}"] = "right"
    genres = dict.fromkeys(chain(*lost))  # in the order of the first configuration
    return Sheet(columns, [[genre, *(_points(drops.get(genre, nan)) for drops in lost)] for genre in genres])


def _points(share: float) -> str:
    return "" if isnan(share) else f"{100 * share:z.0f}"


def genres(report: Report) -> Sheet:
    """Return the best configuration's scores on each tested genre, by recall, with its most frequent mistakes."""
    best = report.ranked[0]
    scores, wrong = best.per_genre, best.confusion - np.diag(np.diag(best.confusion))
    n_tracks = np.bincount(best.tracks.labels, minlength=len(best.genres))  # folds may test a track several times
    rows = []
    for i in sorted(np.flatnonzero(n_tracks), key=lambda i: -scores.recall[i]):
        others = [j for j in np.argsort(-wrong[i], kind="stable")[:3] if wrong[i, j]]
        taken_for = [f"{best.genres[j]} {whole_percent(wrong[i, j] / scores.n_tracks[i])}" for j in others]
        shares = [whole_percent(each[i]) for each in (scores.recall, scores.precision, scores.f1)]
        rows.append([best.genres[i], str(n_tracks[i]), *shares, ", ".join(taken_for) or "none"])
    numbers = dict.fromkeys(("tracks", "recall", "precision", "F1"), "right")
    return Sheet({"genre": "left"} | numbers | {"most often taken for": "left"}, rows)


def missed_tracks(report: Report) -> Sheet:
    """Return the tracks missed most."""
    columns = {"track": "left", "artist": "left", "genre": "left", "taken for": "left"}
    rows = []
    for track in report.missed:
        known = report.tracks.get(track.id, {})
        shares = [whole_percent(track.missed), whole_percent(track.confidence)]
        rows.append([track.id, known.get("artist", ""), track.genre, track.taken_for, *shares, known.get("fault", "")])
    return Sheet(columns | {"missed by": "right", "confidence": "right", "known fault": "left"}, rows)


def confidence(report: Report) -> Sheet:
    """Return how many tracks the best configuration predicts with which probability, and the share that is right."""
    found = report.ranked[0].tempered.calibration
    rows = []
    for n in np.flatnonzero(found.counts)[::-1]:
        between = f"{100 * n / N_BINS:.0f}–{100 * (n + 1) / N_BINS:.0f} %"
        rows.append([between, f"{round(found.counts[n], 1):g}", whole_percent(found.accuracy[n])])
    return Sheet({"probability": "left", "tracks": "right", "of which right": "right"}, rows)


def _scores(result: ConfigResult) -> dict[str, str]:
    return {
        "accuracy, %": accuracy_text(result),
        "95 % CI": interval_text(result),
        "macro F1, %": percent(result.estimate("macro_f1").mean),
        "s per fold": f"{result.seconds_per_fold:.1f}",
        "parameters": f"{result.n_parameters:,}" if result.n_parameters else "none",  # as of kernel machines
    }


def _in_short(result: ConfigResult, axes: Sequence[str]) -> str:
    """Return a configuration's name with only the last part of each axis, if that is unambiguous."""
    values = [result.value(axis).replace(",", ", ") for axis in axes]  # lets long lists wrap
    return ", ".join(map(setting, short_keys(axes), values))


def _pair(pair: Difference) -> list[str]:
    p_values = map(_p_value, (pair.p_value, pair.mcnemar))
    return [pair.better, pair.worse, in_points(pair.gain), *p_values, whole_percent(pair.probability_equal)]


def _p_value(p: float | None) -> str:
    """Return a p-value as text; empty if there is none."""
    if p is None:
        return ""
    return f"{p:.3f}" if p >= 0.001 else "< 0.001"
