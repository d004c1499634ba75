"""Test the sentences and tables of a report against the statistics."""

import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from made import a_fold, a_result, on_the_same_tracks

from genre_cls.evaluation import findings, reading, tables
from genre_cls.evaluation.comparisons import accuracy_drop, each_pair, main_effects
from genre_cls.evaluation.findings import Report
from genre_cls.evaluation.scoring import ConfigResult

GRID = tuple(
    a_result(*(base + gain for base in (0.5, 0.6, 0.5, 0.6)), features=features, model=model, batch_size=size)
    for features, gain in (("mel", 0.3), ("mfcc", 0.0))
    for model in ("basic", "deep")
    for size in ("16", "32")
)
REPORT = Report("A title", "demo", (), GRID, (), {}, 0.01)


def column(sheet: tables.Sheet, name: str) -> list[str]:
    place = list(sheet.columns).index(name)
    return [row[place] for row in sheet.rows]


def under(split: str, own: ConfigResult, other: ConfigResult) -> Report:
    """A report on one configuration, which has another result under another split."""
    return Report("t", "d", (), (replace(own, other_splits={split: other}),), (), {}, 0.01)


def test_the_verdicts_are_those_on_the_axes() -> None:
    assert findings.verdicts(REPORT) == [findings.verdict(effect) for effect in main_effects(GRID, 0.01)]
    assert findings.verdicts(REPORT)[0].startswith("mel beats mfcc by 30.0 points")
    assert [line.partition(":")[0] for line in findings.verdicts(REPORT)[1:]] == [
        "basic and deep cannot be told apart",  # though they recognise the same tracks, which are few
        "batch 16 and batch 32 cannot be told apart",
    ]


@pytest.mark.parametrize(
    ("accuracies", "told"),
    [
        ((0.9, 0.5), ("· seed 0, recognises the genre", "The worst, mel · cnn · batch 16 · seed 1, recognises 50.0 %")),
        ((0.9, 0.9, 0.5), ("· seed 0 (tied with 1 other), recognises the genre", "· seed 2, recognises 50.0 %")),
        ((0.9, 0.5, 0.5), ("· seed 0, recognises the genre", "· seed 2 (tied with 1 other), recognises 50.0 %")),
        ((0.5, 0.5, 0.5), ("· seed 0 (tied with 2 others), recognises the genre", "All have the same accuracy, and ")),
    ],
)
def test_equals_are_called_so(accuracies: tuple[float, ...], told: tuple[str, str]) -> None:
    results = tuple(a_result(accuracy, accuracy, seed=str(n)) for n, accuracy in enumerate(accuracies))
    assert all(words in findings.answer(replace(REPORT, results=results)) for words in told)


@pytest.mark.parametrize("repeats", [1, 3])
def test_the_table_of_confidence_counts_every_track_once_however_often_it_is_tested(repeats: int) -> None:
    best = a_result(0.9, 0.8, 0.5)
    several = tuple(replace(fold, index=n) for n, fold in enumerate(best.folds * repeats))
    uneven = (replace(several[0], probabilities=several[0].probabilities[:, ::-1]), *several[1:])
    sheet = tables.confidence(replace(REPORT, results=(replace(best, folds=uneven),)))
    tracks, right = (column(sheet, name) for name in ("tracks", "of which right"))
    assert sum(map(float, tracks)) == pytest.approx(len(best.tracks.track_ids), abs=0.1 * len(tracks))
    hits = sum(int(share.split()[0]) * float(n) / 100 for share, n in zip(right, tracks, strict=True))
    assert hits == pytest.approx(sum(fold.hits.sum() for fold in uneven) / repeats, abs=1)
    assert "0" not in tracks


def test_of_very_many_comparisons_the_first_are_listed_and_the_others_counted() -> None:
    report = replace(REPORT, results=tuple(a_result(n / 100, n / 90, seed=str(n)) for n in range(21)))
    assert len(tables.each_against_each(report).rows) == 200 and len(report.effects) == 50
    told = findings.verdicts(report)
    assert len(told) == 51 and told[-1] == "160 more comparisons of this kind are not listed."
    assert reading.about_pairs(report).endswith(" 10 more comparisons of this kind are not listed.")
    assert report.pairs[0].n_comparisons == report.effects[0].n_comparisons == 210


def test_each_against_each_lists_every_pair_once() -> None:
    sheet = tables.each_against_each(REPORT)
    assert len(sheet.rows) == 28
    assert column(sheet, "ahead") == [pair.better for pair in each_pair(GRID, 0.01)]
    assert column(sheet, "practically equal") == [
        f"{100 * pair.probability_equal:.0f} %" for pair in each_pair(GRID, 0.01)
    ]


def test_a_track_that_several_folds_test_is_one_track_of_its_genre() -> None:
    once = a_result(0.5)
    thrice = replace(once, folds=tuple(replace(once.folds[0], index=index) for index in range(3)))
    shown = [tables.genres(replace(REPORT, results=(result,))) for result in (once, thrice)]
    assert shown[0].rows == shown[1].rows and column(shown[0], "tracks") == ["10", "10"]


def test_one_fold_shows_no_differences() -> None:
    report = replace(REPORT, results=(a_result(0.5), a_result(0.9, model="other")))
    assert findings.verdicts(report) == [] and not tables.each_against_each(report)


def test_other_splits_are_columns_with_the_most_flattering_first() -> None:
    own = a_result(0.5, 0.6, folds="artist")
    others = {"random": a_result(0.8, 0.9, folds="random"), "filtered": a_result(0.7, 0.7, folds="filtered")}
    results = replace(own, other_splits=others), a_result(0.4, 0.4, model="other", folds="artist")
    report = Report("t", "d", (), results, (), {}, 0.01)
    sheet = tables.under_other_splits(report)
    assert list(sheet.columns)[1:4] == ["random", "filtered", "artist"]
    (row,) = sheet.rows
    assert row[1:4] == ["85.0 ± 7.1", "70.0 ± 0.0", "55.0 ± 7.1"] and row[4].startswith("30.0 (95 % CI ")
    assert findings.verdicts(report)[-1].startswith("mel · cnn · batch 16 scores 30.0 (95 % CI ")
    assert findings.verdicts(report)[-1].endswith(
        "points fewer under folds=artist than under folds=random, which may be chance."
    )


def test_what_each_genre_loses_is_listed_the_greatest_loss_first() -> None:
    random, own = a_result(0.9, 0.9), a_result(0.9, 0.9, folds="artist")
    last = len(own.genres) - 1
    folds = []
    for fold in own.folds:  # that miss all tracks of the last genre
        probabilities = np.where((fold.labels == last)[:, None], np.eye(last + 1)[0], fold.probabilities)
        folds.append(replace(fold, probabilities=probabilities))
    sheet = tables.drops_by_genre(under("random", replace(own, folds=tuple(folds)), random))
    assert list(sheet.columns) == ["genre", "mel · cnn · batch 16, random to artist"]
    assert sheet.rows[0] == [own.genres[last], f"{100 * random.per_genre.recall[last]:.0f}"]
    assert [row[1] for row in sheet.rows[1:]] == ["0"] * last
    assert not tables.drops_by_genre(REPORT)


def test_a_genre_that_a_split_does_not_test_has_no_loss_and_comes_last() -> None:
    whole, folds = a_result(0.8, 0.8, folds="artist"), []
    for fold in whole.folds:
        rock = np.flatnonzero(fold.labels == 1)
        ids, labels, probabilities = np.array(fold.track_ids)[rock], fold.labels[rock], fold.probabilities[rock]
        folds.append(a_fold(fold.index, ids, labels, probabilities, fold.genres, fold.n_train))
    less = replace(whole, folds=tuple(folds))
    sheet = tables.drops_by_genre(under("random", less, a_result(1.0, 1.0)))
    assert sheet.rows == [["rock", "20"], ["blues", ""]]
    assert [row[0] for row in tables.genres(replace(REPORT, results=(less,))).rows] == ["rock"]


def test_a_drop_to_the_published_split_is_attributed_to_other_tracks_too() -> None:
    own, other = a_result(0.5, 0.6, folds="filtered"), a_result(0.8, 0.9, folds="random")
    (line,) = findings.verdicts(under("random", own, other))
    assert line.endswith("; folds=filtered also trains on fewer tracks and tests on others.")


def test_a_gain_under_a_stricter_split_is_reported_as_a_gain() -> None:
    own, other = a_result(0.9, 0.9, folds="artist"), a_result(0.8, 0.8, folds="random")
    (line,) = findings.verdicts(under("random", own, other))
    assert " scores 10.0 " in line and " points more under folds=artist" in line


@pytest.mark.parametrize("drop", [0.0, 4e-4, -4e-4])
def test_no_drop_under_a_stricter_split_is_called_none(drop: float, monkeypatch: pytest.MonkeyPatch) -> None:
    own, other = a_result(0.5, 0.9, folds="artist"), a_result(0.9, 0.5, folds="random")
    exact = accuracy_drop({"random": other, "artist": own})
    monkeypatch.setattr(findings, "accuracy_drop", lambda _: replace(exact, mean=drop))
    (line,) = findings.verdicts(under("random", own, other))
    assert " scores no more and no less under folds=artist than under folds=random: 0.0 (95 % CI -" in line


@pytest.mark.parametrize(("folds", "ending"), [((0.5, 0.9), ", which may be chance."), ((0.5,) * 5, "folds=random.")])
def test_a_drop_under_a_stricter_split_may_be_chance_if_its_interval_contains_zero(
    folds: tuple[float, ...], ending: str
) -> None:
    own, other = a_result(*folds, folds="artist"), a_result(*[0.9] * 5, folds="random")
    (line,) = findings.verdicts(under("random", own, other))
    assert " points fewer under folds=artist" in line and line.endswith(ending)


def test_the_most_missed_tracks_come_first_with_what_is_known_of_them() -> None:
    good, bad = a_result(0.9, 0.8), a_result(0.8, 0.8, model="other")
    tracks = {"1.0.9": {"artist": "Ann", "fault": "distorted"}, "0.0.1": {"artist": "Bob", "fault": "distorted"}}
    report = Report("t", "d", (), (good, bad), (), {}, 0.01, tracks=tracks)
    sheet = tables.missed_tracks(report)
    assert column(sheet, "missed by") == ["100 %"] * 6 + ["50 %"] * 2
    lines = dict(zip(column(sheet, "track"), sheet.rows, strict=True))
    assert lines["1.0.9"] == ["1.0.9", "Ann", "blues", "rock", "100 %", "95 %", "distorted"]
    assert set(column(sheet, "genre")) == {"blues", "rock"}
    assert findings.known_faults(report) == (
        "Tracks with a known fault: 2 in all, 1 among these 8, where 0.4 would be by chance."
    )
    assert findings.known_faults(REPORT) == ""
    assert reading.about_missed(report).startswith('Pooled over the 2 configurations. "Missed by" is the share')
    alone = replace(report, results=(good,))
    assert set(column(tables.missed_tracks(alone), "missed by")) == {"100 %"}
    assert reading.about_missed(alone).startswith('Of one configuration, so "missed by" is always 100 %.')


def test_a_report_states_how_much_a_temperature_helps_or_that_there_is_none() -> None:
    for both, told in (
        (a_result(0.5, 0.6), "expected calibration error 40.0 % without, 6.3 % with it; log loss "),
        (a_result(0.95, 0.9), "expected calibration error 0.0 % without, 7.5 % with it; log loss "),
    ):
        said = findings.trust(replace(REPORT, results=(both,)))
        losses = [f"{one.estimate('log_loss').mean:.3f}" for one in (both, both.tempered)]
        assert f"{told}{' and '.join(losses)} nats. " in said
        assert f"would show some {100 * both.tempered.calibration.error_by_chance:.1f} %." in said
        assert said.endswith(f"all held-out tracks, {both.temperature:.2f}.")
    alone = replace(both, folds=both.folds[:1])
    said = findings.trust(replace(REPORT, results=(alone,)))
    assert said.startswith("Shown without") and said.endswith(f"all held-out tracks, {alone.temperature:.2f}.")


def test_genres_are_listed_by_recall_with_precision_and_f1() -> None:
    lopsided = a_result(0.9, 0.6, genres=("blues", "jazz", "rock"))
    fold = lopsided.folds[0]
    probabilities = np.where(fold.labels[:, None] == 1, np.eye(3)[0], fold.probabilities)  # all jazz is taken for blues
    report = replace(REPORT, results=(replace(lopsided, folds=(replace(fold, probabilities=probabilities),)),))
    sheet = tables.genres(report)
    assert column(sheet, "genre")[-1] == "jazz" and sheet.rows[-1][1:5] == ["10", "0 %", "0 %", "0 %"]
    assert sheet.rows[-1][5] == "blues 100 %"


@settings(deadline=None, max_examples=40)
@given(on_the_same_tracks())
def test_a_genre_lists_the_three_genres_that_it_is_most_often_taken_for(some: list[ConfigResult]) -> None:
    best = some[0]
    sheet = tables.genres(replace(REPORT, results=(best,)))
    for genre, shown in zip(column(sheet, "genre"), column(sheet, "most often taken for"), strict=True):
        counts = dict(zip(best.genres, best.confusion[best.genres.index(genre)].tolist(), strict=True))
        n = sum(counts.values())
        mistakes = Counter({other: count for other, count in counts.items() if count and other != genre})
        listed = re.findall(r"(\w+) (\d+) %", shown)
        assert [counts[other] for other, _ in listed] == [count for _, count in mistakes.most_common(3)]
        assert all(share == f"{100 * mistakes[other] / n:.0f}" for other, share in listed)


@pytest.mark.parametrize(
    ("folds", "told"), [((0.2, 0.9), True), ((0.5, 0.5), True), ((0.5, 0.5, 0.6), False), ((0.5,), False)]
)
def test_two_folds_are_called_too_few(folds: tuple[float, ...], told: bool) -> None:
    report = replace(REPORT, results=(a_result(*folds),))
    assert findings.answer(report).endswith("50.0 %." + findings.TWO_FOLDS) == told


def with_artists(*accuracies: float, groups: tuple[int, ...]) -> ConfigResult:
    """A result whose folds have the same groups in each genre, the second fold's raised by 2."""
    result = a_result(*accuracies)
    known: dict[str, str] = {}
    for fold in result.folds:
        own = np.resize(groups, len(fold.labels)) + 2 * fold.index
        known |= dict(zip(fold.track_ids, map(str, own), strict=True))
    return replace(result, groups=known)


@pytest.mark.parametrize(("groups", "told"), [((0, 1), ""), ((0, 2, 2, 2), "50 %"), ((0, 0, 2, 4), "62 %")])
def test_a_report_states_how_many_tracks_are_by_artists_of_training_tracks(groups: tuple[int, ...], told: str) -> None:
    report = replace(REPORT, results=(with_artists(0.5, 0.6, groups=groups),))
    sentence = f" At least {told} of the held-out tracks share an artist or a recording with training tracks."
    assert (sentence in findings.answer(report)) == bool(told)
    assert reading.how_to_read(report).get("Artists on both sides", "").startswith(f"At least {told}" if told else "")
    assert ("Artists on both sides" in reading.how_to_read(report)) == bool(told)


def test_a_report_says_all_where_every_track_is_by_an_artist_of_training_tracks() -> None:
    result = a_result(0.5, 0.6)
    same = dict.fromkeys(result.tracks.track_ids, "one")
    report = replace(REPORT, results=(replace(result, groups=same),))
    assert " All held-out tracks share an artist or a recording with training tracks." in findings.answer(report)


def test_each_comparison_carries_the_number_of_comparisons_that_it_is_corrected_for() -> None:
    assert {pair.n_comparisons for pair in each_pair(GRID, 0.01)} == {28}
    assert {effect.n_comparisons for effect in main_effects(GRID, 0.01)} == {3}


def test_no_more_than_fifty_missed_tracks_are_listed() -> None:
    report = replace(REPORT, results=(a_result(0.0, 0.0, 0.0),))
    assert len(tables.missed_tracks(report).rows) == findings.N_MISSED == 50
    assert "among these 50" in findings.known_faults(replace(report, tracks={"0.0.1": {"fault": "distorted"}}))


def test_the_table_of_confidence_begins_with_the_most_certain_and_names_the_bounds() -> None:
    fold = a_result(0.9).folds[0]  # as sure of each track: 95 %
    probabilities = np.where((np.arange(20) < 2)[:, None], [0.62, 0.38], fold.probabilities)
    alone = replace(a_result(0.9), folds=(replace(fold, probabilities=probabilities),))
    assert tables.confidence(replace(REPORT, results=(alone,))).rows == [
        ["93–100 %", "18", "89 %"],
        ["60–67 %", "2", "100 %"],
    ]


def test_the_table_of_confidence_is_of_calibrated_probabilities() -> None:
    best = a_result(0.7, 0.6)  # though 95 % sure
    sheet = tables.confidence(replace(REPORT, results=(best,)))
    sure = best.tempered.calibration
    assert len(sheet.rows) == (sure.counts > 0).sum() and max(sure.confidence) < 0.8
    assert all(int(bounds.split("–")[0]) < 80 for bounds in column(sheet, "probability"))


def test_each_pair_is_listed_with_its_difference_and_both_p_values() -> None:
    results = tuple(
        a_result(*(score + spread for spread in (0, 0.1, 0, 0.1, 0)), model=model)
        for model, score in (("best", 0.9), ("middle", 0.8), ("worst", 0.1))
    )
    sheet = tables.each_against_each(replace(REPORT, results=results))
    for row, pair in zip(sheet.rows, each_pair(results, 0.01), strict=True):
        low, high = (100 * end for end in pair.gain.difference_interval)
        assert row[2] == f"{100 * pair.gain.mean:.1f} (95 % CI {low:.1f} to {high:.1f})"
        for text, p_value in zip(row[3:5], (pair.p_value, pair.mcnemar), strict=True):
            assert text == ("< 0.001" if p_value < 0.001 else f"{p_value:.3f}")
    assert {"< 0.001"} < {*column(sheet, "p, corrected t"), *column(sheet, "p, McNemar")}


def test_precision_is_of_those_taken_for_a_genre_and_recall_of_its_own_tracks() -> None:
    fold = a_result(1.0).folds[0]  # ten of blues, then ten of rock
    probabilities = np.where((np.arange(20) < 16)[:, None], [0.9, 0.1], [0.1, 0.9])  # six of rock are taken for blues
    sheet = tables.genres(
        replace(REPORT, results=(replace(a_result(1.0), folds=(replace(fold, probabilities=probabilities),)),))
    )
    assert [row[:5] for row in sheet.rows] == [
        ["blues", "10", "100 %", "62 %", "77 %"],
        ["rock", "10", "40 %", "100 %", "57 %"],
    ]


def test_lost_recall_is_in_the_order_of_the_first_configuration() -> None:
    def losing(genre: int, **params: str) -> ConfigResult:
        whole, folds = a_result(1.0, 1.0, folds="artist", **params), []
        for fold in whole.folds:
            lost = (fold.labels == genre)[:, None]
            folds.append(replace(fold, probabilities=np.where(lost, np.eye(2)[1 - genre], fold.probabilities)))
        flattering = {"random": a_result(1.0, 1.0, **params)}
        return replace(whole, folds=tuple(folds), other_splits=flattering)

    named = ["blues", "rock"]
    for one, other in ((0, 1), (1, 0)):
        first = losing(one, model="a")
        first = replace(first, folds=(a_result(1.0).folds[0], first.folds[1]))  # so that it ranks first
        sheet = tables.drops_by_genre(replace(REPORT, results=(losing(other, model="b"), first)))
        assert sheet.rows == [[named[one], "50", "0"], [named[other], "0", "100"]]


@pytest.mark.parametrize(("rope", "told"), [(0.01, "below 1 point with"), (0.025, "below 2.5 points with")])
def test_how_small_a_difference_counts_as_none_is_told_in_points(rope: float, told: str) -> None:
    about = reading.how_to_read(replace(REPORT, rope=rope))
    assert told in about["Beats, differ, practically equal, cannot be told apart"]


@pytest.mark.parametrize(("as_trained", "tracks", "warned"), [(0.5, 0.9, True), (0.9, 0.9, False), (0.5, 0.5, False)])
def test_networks_that_have_learned_nothing_are_named_though_the_accuracy_is_good(
    as_trained: float, tracks: float, warned: bool
) -> None:
    usual, other = a_result(*[0.9] * 5), a_result(*[tracks] * 5, model="other")
    curve = {"held_out_accuracy": [0.4, as_trained]}
    untrained = replace(other, folds=tuple(replace(fold, curves=curve) for fold in other.folds))
    said = findings.warnings([usual, untrained])
    assert len(said) == warned and all("The networks of mel · other · batch 16 have learned nothing" in s for s in said)
    many = [replace(untrained, named={**untrained.named, "model": f"m{n}"}) for n in range(9)]
    assert (", mel · m2 · batch 16 and 6 more have learned nothing" in "".join(findings.warnings(many))) == warned


def test_networks_have_learned_nothing_if_on_average_they_are_no_better_than_chance_on_enough_tracks() -> None:
    def learned_nothing(*ends: float, n_tracks: int = 20) -> bool:
        good, some = a_result(*[1.0] * len(ends)), slice(n_tracks)  # the first ten are of one genre
        folds = (
            replace(
                fold, track_ids=fold.track_ids[some], labels=fold.labels[some], probabilities=fold.probabilities[some],
                curves={"held_out_accuracy": [end]},
            )
            for fold, end in zip(good.folds, ends, strict=True)
        )  # fmt: skip
        return replace(good, folds=tuple(folds)).is_untrained

    assert learned_nothing(0.5, 0.5, 0.5, 0.5, 0.8)  # 0.56, where two standard deviations above chance are 0.6
    assert not learned_nothing(0.5, 0.5, 0.5, 0.8, 0.8)
    assert not learned_nothing(0.5, 0.5, 0.5, 0.5)  # of 80 tracks
    assert learned_nothing(*[0.85] * 9, n_tracks=12)  # of which the largest genre has 83 %
