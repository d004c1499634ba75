"""Splits: no track is tested by a model that was trained on it, whatever the labels."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genre_cls.errors import UserError
from genre_cls.tracks import folds
from genre_cls.tracks.folds import Facts, Fold, Indices, SplitError

SEEDS = st.integers(0, 10**9)
HALF = ("rock", "jazz") * 10
EMPTY = np.array([], dtype=np.int64)


@st.composite
def labels_and_k(draw: st.DrawFn, at_least: int = 1) -> tuple[list[str], int]:
    """Shuffled labels of two to five genres, each with enough tracks for k folds."""
    k = draw(st.integers(2, 6))
    counts = draw(st.lists(st.integers(max(k, at_least), 20), min_size=2, max_size=5))
    labels = [f"genre {genre}" for genre, count in enumerate(counts) for _ in range(count)]
    return draw(st.permutations(labels)), k


def assert_sound(split: Sequence[Fold], n_tracks: int) -> None:
    """Every track is tested once and is, in each fold, in exactly one part."""
    assert sorted(np.concatenate([fold.test for fold in split])) == list(range(n_tracks))
    for fold in split:
        assert sorted(np.concatenate([fold.train, fold.val, fold.test])) == list(range(n_tracks))


def as_lists(split: Sequence[Fold]) -> list[list[list[int]]]:
    return [[part.tolist() for part in (fold.train, fold.val, fold.test)] for fold in split]


@settings(deadline=None, max_examples=40)
@given(labels_and_k(), SEEDS)
def test_every_track_is_tested_once_and_not_trained_on_there(case: tuple[list[str], int], seed: int) -> None:
    labels, k = case
    split = folds.random(Facts(labels), k=k, seed=seed)
    assert len(split) == k and [fold.index for fold in split] == list(range(k))
    assert_sound(split, len(labels))


@pytest.mark.parametrize("part", ["train", "val"])
def test_a_fold_cannot_learn_from_what_it_tests(part: str) -> None:
    first, *_ = folds.random(Facts(HALF), k=4, seed=0, val_fraction=0.2)
    with pytest.raises(UserError, match="folds: fold 0 has a track twice"):
        replace(first, **{part: np.append(getattr(first, part), first.test[0])})


@settings(deadline=None, max_examples=40)
@given(labels_and_k(), SEEDS)
def test_folds_test_equally_many_tracks_of_a_genre_give_or_take_one(case: tuple[list[str], int], seed: int) -> None:
    labels, k = case
    tested = [Counter(labels[i] for i in fold.test) for fold in folds.random(Facts(labels), k=k, seed=seed)]
    for genre in set(labels):
        counts = [count[genre] for count in tested]
        assert max(counts) - min(counts) <= 1


@settings(deadline=None, max_examples=40)
@given(labels_and_k(at_least=12), SEEDS)
def test_validation_tracks_come_from_the_training_tracks_and_are_stratified(
    case: tuple[list[str], int], seed: int
) -> None:
    labels, k = case
    without = folds.random(Facts(labels), k=k, seed=seed)
    split = folds.random(Facts(labels), k=k, seed=seed, val_fraction=0.3)
    assert_sound(split, len(labels))
    for fold, whole in zip(split, without, strict=True):
        assert fold.test.tolist() == whole.test.tolist()
        assert sorted([*fold.train, *fold.val]) == whole.train.tolist()
        for genre in set(labels):
            of_genre = [labels[i] == genre for i in whole.train]
            assert abs(sum(labels[i] == genre for i in fold.val) - 0.3 * sum(of_genre)) <= 1


@settings(deadline=None, max_examples=20)
@given(labels_and_k(at_least=12), SEEDS, st.sampled_from([0.0, 0.25]))
def test_the_parts_are_sorted(case: tuple[list[str], int], seed: int, val_fraction: float) -> None:
    labels, k = case
    for fold in folds.random(Facts(labels), k=k, seed=seed, val_fraction=val_fraction):
        for part in (fold.train, fold.val, fold.test):
            assert part.tolist() == sorted(part)


@given(SEEDS)
def test_the_seed_decides_the_folds(seed: int) -> None:
    first = as_lists(folds.random(Facts(HALF), k=4, seed=seed, val_fraction=0.2))
    assert first == as_lists(folds.random(Facts(HALF), k=4, seed=seed, val_fraction=0.2))
    assert first != as_lists(folds.random(Facts(HALF), k=4, seed=seed + 1, val_fraction=0.2))


@pytest.mark.parametrize(
    ("labels", "k", "val_fraction", "names"),
    [
        (HALF, 1, 0.0, ["folds.k=1"]),
        ((*HALF, "polka", "polka"), 3, 0.0, ["folds.k=3", "polka", "2 tracks"]),
        ((), 2, 0.0, ["no track"]),
        (HALF[:4], 2, 0.15, ["val_fraction=0.15", "single training track"]),
    ],
)
def test_an_impossible_split_is_reported_with_its_cause(
    labels: Sequence[str], k: int, val_fraction: float, names: Sequence[str]
) -> None:
    with pytest.raises(UserError) as error:
        folds.random(Facts(labels), k=k, seed=0, val_fraction=val_fraction)
    assert all(name in str(error.value) for name in names)


@st.composite
def labels_groups_and_k(draw: st.DrawFn) -> tuple[list[str], Indices, int]:
    """Shuffled tracks of artists with one to eight tracks each, every genre with at least k artists."""
    k = draw(st.integers(2, 5))
    tracks: list[tuple[str, int]] = []
    for genre in range(draw(st.integers(2, 4))):
        for size in draw(st.lists(st.integers(1, 8), min_size=2 * k, max_size=4 * k)):
            tracks += [(f"genre {genre}", 1 + max((group for _, group in tracks), default=0))] * size
    shuffled = draw(st.permutations(tracks))
    return [genre for genre, _ in shuffled], np.array([group for _, group in shuffled]), k


def largest_gap(labels: Sequence[str], split: Sequence[Fold], k: int) -> float:
    """By how much the share of a genre that some fold tests differs from 1/k."""
    sizes = Counter(labels)
    tested = [Counter(labels[i] for i in fold.test) for fold in split]
    return max(abs(count[genre] / n - 1 / k) for count in tested for genre, n in sizes.items())


def assert_disjoint(split: Sequence[Fold], groups: Indices) -> None:
    """In each fold, no group is in more than one of the training, validation and test sets."""
    for fold in split:
        parts = [set(groups[part].tolist()) for part in (fold.train, fold.val, fold.test)]
        assert sum(map(len, parts)) == len(set.union(*parts))


@settings(deadline=None, max_examples=60)
@given(labels_groups_and_k(), SEEDS, st.sampled_from([0.0, 0.3]))
def test_no_artist_is_on_two_sides_and_every_track_is_tested_once(
    case: tuple[list[str], Indices, int], seed: int, val_fraction: float
) -> None:
    labels, groups, k = case
    try:
        split = folds.artist(Facts(labels, groups), k=k, seed=seed, tolerance=0.3, val_fraction=val_fraction)
    except SplitError as error:
        uneven = r"folds\.(tolerance=0\.3|k=\d): fold \d would test \d+ % of genre genre \d"
        few = r"|recipe\..*val_fraction=0\.3: (too few artists of genre genre \d|\d+ training tracks are too few)"
        assert re.match(uneven + few, str(error))
        return
    assert_sound(split, len(labels))
    assert_disjoint(split, groups)
    assert largest_gap(labels, split, k) <= 0.3
    assert all({labels[i] for i in part} == set(labels) for fold in split for part in (fold.train, fold.test))


def test_a_split_that_leaks_an_artist_would_be_noticed() -> None:
    groups = np.arange(len(HALF)) // 4
    with pytest.raises(AssertionError):
        assert_disjoint(folds.random(Facts(HALF, groups), k=4, seed=0), groups)


def test_artists_of_a_few_tracks_leave_the_genres_nearly_even() -> None:
    labels = [f"genre {i % 10}" for i in range(600)]
    groups = np.array([10 * (i // 30) + i % 10 for i in range(600)])  # three tracks an artist
    for fold in folds.artist(Facts(labels, groups), k=5, seed=0):
        shares = Counter(labels[i] for i in fold.test)
        assert all(9 <= shares[genre] <= 15 for genre in set(labels))


def test_artists_of_many_sizes_leave_the_folds_of_equal_size() -> None:
    sizes = np.tile(np.arange(1, 9), 6)
    groups, labels = np.repeat(np.arange(48), sizes), [f"genre {n % 3}" for n in np.repeat(np.arange(48), sizes)]
    splits = [folds.artist(Facts(labels, groups), k=5, seed=seed) for seed in range(30)]
    assert np.mean([np.ptp([len(fold.test) for fold in split]) for split in splits]) < 3


@pytest.mark.parametrize("fraction", [0.15, 0.29, 0.4, 0.41, 0.5])
def test_validation_tracks_by_artist_are_about_the_share_asked_for(fraction: float) -> None:
    labels, groups = ["rock", "jazz"] * 200, np.arange(400)
    (fold, *_) = folds.artist(Facts(labels, groups), k=5, seed=0, val_fraction=fraction)
    share = len(fold.val) / (len(fold.val) + len(fold.train))
    assert abs(share - fraction) <= min(abs(1 / k - fraction) for k in (2, 3, 4, 5, 6, 7)) + 0.01


def test_an_artist_with_most_of_a_genre_is_refused_unless_tolerated() -> None:
    groups = np.array([0] * 14 + [*range(1, 7)] + [*range(7, 27)])
    labels = ["reggae"] * 20 + ["rock"] * 20
    with pytest.raises(SplitError, match=r"folds.tolerance=0.3: fold \d would test 70 % of genre reggae"):
        folds.artist(Facts(labels, groups), k=4, seed=0)
    assert_disjoint(folds.artist(Facts(labels, groups), k=4, seed=0, tolerance=0.5), groups)
    with pytest.raises(SplitError, match=r"; allow more$"):  # of two folds there are no fewer
        folds.artist(Facts(labels, groups), k=2, seed=0, tolerance=0.1)


@pytest.mark.parametrize("make", [folds.random, folds.artist])
def test_each_repetition_tests_every_track_once_and_is_shuffled_differently(make: Callable[..., list[Fold]]) -> None:
    groups = np.arange(len(HALF)) // 2
    split = make(Facts(HALF, groups), k=5, seed=0, repeats=3)
    assert [fold.index for fold in split] == list(range(15))
    parts = [split[first : first + 5] for first in (0, 5, 10)]
    for part in parts:
        assert_sound(part, len(HALF))
    assert len({str(sorted(fold.test.tolist() for fold in part)) for part in parts}) == 3
    assert as_lists(parts[0]) == as_lists(make(Facts(HALF, groups), k=5, seed=0))


UNEQUAL = [12, 10, 9, 8, 7, 6, 5, 4]  # tracks of each artist of a genre
OF_UNEQUAL = ["rock"] * sum(UNEQUAL) + ["jazz"] * sum(UNEQUAL), np.repeat(np.arange(16), UNEQUAL * 2)


def test_repetitions_by_artist_are_other_folds_where_artists_are_unequal_too() -> None:
    labels, groups = OF_UNEQUAL
    split = folds.artist(Facts(labels, groups), k=5, seed=0, repeats=3)
    assert_disjoint(split[:5], groups)
    assert len({tuple(fold.test.tolist()) for fold in split}) == 15


def test_no_artist_is_always_in_the_validation_tracks() -> None:
    labels, groups = OF_UNEQUAL
    split = folds.artist(Facts(labels, groups), k=5, seed=0, repeats=4, val_fraction=0.25)
    assert_disjoint(split, groups)
    stopping = [set(groups[fold.val].tolist()) for fold in split]
    assert not set.intersection(*stopping[:4]) and len({frozenset(each) for each in stopping}) > 5
    for fold in split:
        kept = np.bincount(groups[fold.val], minlength=16).reshape(2, 8).sum(axis=1)
        assert (kept < 0.45 * np.bincount(groups[fold.train], minlength=16).reshape(2, 8).sum(axis=1)).all()


def test_validation_tracks_by_unequal_artists_are_nearly_the_share_asked_for_of_each_genre() -> None:
    labels, groups = OF_UNEQUAL
    for fold in folds.artist(Facts(labels, groups), k=5, seed=0, repeats=10, val_fraction=0.25):
        kept, known = (Counter(labels[i] for i in part) for part in (fold.val, fold.known))
        assert all(kept[genre] / known[genre] == pytest.approx(0.25, abs=0.04) for genre in known)


@pytest.mark.parametrize("make", [folds.random, folds.artist])
def test_no_repetition_has_the_folds_of_another_seed(make: Callable[..., list[Fold]]) -> None:
    groups = np.arange(len(HALF)) // 2
    repeated, other = make(Facts(HALF, groups), k=5, seed=0, repeats=3), make(Facts(HALF, groups), k=5, seed=1)
    test_sets = [fold.test.tolist() for fold in (*other, *repeated)]
    assert all(sorted(test_sets[:5]) != sorted(test_sets[first : first + 5]) for first in (5, 10, 15))


PARTS = [("train", "valid", "test", None)[i % 4] for i in range(20)]
IDS = [f"track {i}" for i in range(20)]
MIXED = [("rock", "jazz")[i // 4 % 2] for i in range(20)]  # both are in each part


@pytest.mark.parametrize(
    ("val_fraction", "train", "val"), [(0.0, ("train", "valid"), ()), (0.2, ("train",), ("valid",))]
)
def test_the_published_split_is_used_unchanged(val_fraction: float, train: Sequence[str], val: Sequence[str]) -> None:
    split = folds.filtered(Facts(MIXED, None, PARTS), repeats=3, val_fraction=val_fraction)
    assert [fold.index for fold in split] == [0, 1, 2]
    for fold in split:
        assert {PARTS[i] for i in fold.train} == set(train) and len(fold.train) == 5 * len(train)
        assert [PARTS[i] for i in fold.val] == ["valid"] * 5 * len(val)
        assert [PARTS[i] for i in fold.test] == ["test"] * 5


def test_a_published_split_that_lacks_a_part_is_refused_with_counts() -> None:
    without = [part if part != "test" else None for part in PARTS]
    with pytest.raises(SplitError, match=r"complete, test missing \(5 of 443 train, 5 of 197 valid, 0 of 290 test"):
        folds.filtered(Facts(MIXED, None, without), repeats=1)


@pytest.mark.parametrize(("part", "val_fraction"), [("test", 0.0), ("train", 0.2)])
def test_a_published_split_with_a_part_that_lacks_a_genre_is_refused(part: str, val_fraction: float) -> None:
    """Otherwise its recall would be 0."""
    without = [each if (each, genre) != (part, "jazz") else None for each, genre in zip(PARTS, MIXED, strict=True)]
    with pytest.raises(SplitError, match=rf"no {part} track of genre jazz is here"):
        folds.filtered(Facts(MIXED, None, without), repeats=1, val_fraction=val_fraction)


def test_a_split_is_described_by_its_least_even_genre() -> None:
    labels = ["reggae"] * 10 + ["rock"] * 10
    groups = np.array([0] * 5 + [*range(1, 6)] + [*range(6, 16)])
    split = folds.artist(Facts(labels, groups), k=4, seed=0)
    line = folds.describe(Facts(labels), split)
    assert re.fullmatch(r"4 folds of \d( to \d)? test tracks; most uneven: fold \d tests 50 % of reggae", line)
    even = folds.describe(Facts(HALF), folds.random(Facts(HALF), k=2, seed=0))
    assert even == f"2 folds of {len(HALF) // 2} test tracks"
    published = folds.describe(Facts(MIXED, None, PARTS), folds.filtered(Facts(MIXED, None, PARTS), repeats=2))
    assert published.startswith("2 trainings on one split: 5 of 443 train")


def test_a_split_within_some_tracks_is_described_by_these_alone() -> None:
    labels = ["reggae"] * 12 + ["rock"] * 12
    groups = np.array([*range(6), 0, 0, 0, *range(6, 9), *range(9, 21)])
    subset = np.array([*range(9), *range(12, 20)])
    split = partial(folds.artist, k=3, seed=0)
    facts = Facts(labels, groups)
    line = folds.describe(facts, folds.within(subset, split, facts))
    assert line == folds.describe(facts.of(subset), split(facts.of(subset)))
    assert "of reggae" in line


def test_a_genre_with_fewer_artists_than_folds_is_named() -> None:
    groups = np.array([0, 1] * 10)
    with pytest.raises(
        UserError, match=r"^folds=artist, folds.k=4: genre jazz has only 1 artist; [^;]*; add artists, .*; folds=random"
    ):
        folds.artist(Facts(HALF, groups), k=4, seed=0)
    with pytest.raises(UserError, match=r"only 10 tracks; .* at most folds.k=10 is possible$"):
        folds.random(Facts(HALF), k=11, seed=0)


def test_folds_by_artist_need_artists() -> None:
    with pytest.raises(UserError, match="the dataset names no artists"):
        folds.artist(Facts(HALF, None), k=2, seed=0)


def test_a_fold_may_be_given_as_lists_in_any_order_but_has_no_track_twice() -> None:
    fold = Fold(0, cast(Any, [3, 1]), cast(Any, []), cast(Any, (2, 0)))
    assert [(part.tolist(), part.dtype) for part in (fold.train, fold.val, fold.test)] == [
        ([1, 3], np.int64), ([], np.int64), ([0, 2], np.int64),
    ]  # fmt: skip
    for train, val, test in (([0, 1], [], [1]), ([0], [1], [1]), ([0, 1], [1], [2]), ([0, 0], [], [1])):
        with pytest.raises(UserError, match="folds: fold 7 has a track twice"):
            Fold(7, np.array(train), np.array(val), np.array(test))


@pytest.mark.parametrize("part", [[True, False], [0.5, 1.7], [[0, 1]], ["a"], np.array([2**63], np.uint64), 0, None])
def test_what_are_no_places_of_tracks_is_refused(part: Any) -> None:
    with pytest.raises(UserError, match="folds: fold 0: train must be whole numbers, the places of tracks"):
        Fold(0, part, EMPTY, np.array([5]))


@pytest.mark.parametrize(
    ("train", "test", "problem"),
    [
        ([1, 2], [3, 0], ""),
        ([1, 2], [], "fold 0 must test some of 20 tracks"),
        ([1, 2], [0, 20], "fold 0 must test some of 20 tracks"),
        ([2, -1], [0], "fold 0 must test some of 20 tracks"),
        ([1, 3], [5, 0], "fold 0 tests genre rock, but trains on no track of it"),
        ([], [0], "fold 0 tests genre rock, but trains on no track of it"),
    ],
)
def test_folds_of_ones_own_that_cannot_be_used_are_refused(train: list[int], test: list[int], problem: str) -> None:
    split = [Fold(0, np.array(train), EMPTY, np.array(test)), Fold(1, np.arange(10), EMPTY, np.arange(10, 20))]
    with pytest.raises(UserError, match=f"folds: {problem}") if problem else nullcontext():
        folds.check_usable(split, Facts(HALF))
    with pytest.raises(UserError, match="folds: fold 1 must be number 0, its place in the list"):
        folds.check_usable(split[1:], Facts(HALF))


@settings(deadline=None, max_examples=20)
@given(labels_and_k(at_least=12), SEEDS, st.sampled_from([0.0, 0.4]), st.data())
def test_a_split_within_some_tracks_contains_no_others(
    case: tuple[list[str], int], seed: int, val_fraction: float, data: st.DataObject
) -> None:
    labels, _ = case
    outer = data.draw(st.sampled_from(folds.random(Facts(labels), k=2, seed=seed)))
    split = partial(folds.random, k=2, seed=seed, val_fraction=val_fraction)
    inner = folds.within(outer.train, split, Facts(labels))
    assert sorted(np.concatenate([fold.test for fold in inner])) == outer.train.tolist()
    for fold in inner:
        assert bool(len(fold.val)) == bool(val_fraction)
        assert sorted(np.concatenate([fold.train, fold.val, fold.test])) == outer.train.tolist()


def test_a_split_within_some_tracks_keeps_their_artists_apart() -> None:
    labels, artists = ["rock", "jazz"] * 12, np.arange(24) // 2
    split = partial(folds.artist, k=2, seed=0, tolerance=1.0)
    outer = split(Facts(labels, artists))[0]
    for fold in folds.within(outer.train, split, Facts(labels, artists)):
        assert not set(artists[fold.train]) & set(artists[fold.test])


def test_a_split_within_some_tracks_is_told_what_is_known_of_these_and_no_others() -> None:
    told: list[tuple[object, ...]] = []

    def split(facts: Facts) -> list[Fold]:
        groups = facts.groups.tolist() if facts.groups is not None else None
        told.append((facts.genres, groups, facts.parts, facts.ids))
        return []

    for groups in (np.arange(20) // 2, None):
        assert folds.within(np.array([1, 4, 11]), split, Facts(MIXED, groups, PARTS, IDS)) == []
    genres, parts, ids = ["rock", "jazz", "rock"], ["valid", "train", None], ["track 1", "track 4", "track 11"]
    assert told == [(genres, [0, 2, 5], parts, ids), (genres, None, parts, ids)]


@pytest.mark.parametrize("tolerance", [0.3, 1.0])
def test_a_fold_that_would_test_no_track_of_a_genre_is_refused_whatever_is_tolerated(tolerance: float) -> None:
    """As may happen where artists play several genres: of these four no three sets have all genres each."""
    labels, groups = ["rock", "jazz", "pop", "rock", "jazz", "rock", "pop", "jazz", "pop"], [1, 1, 1, 2, 2, 3, 3, 4, 4]
    for seed in range(20):
        # To allow more would not help.
        with pytest.raises(SplitError, match=r"^folds\.k=3: fold \d would test 0 % of genre .*; take fewer folds"):
            folds.artist(Facts(labels, np.array(groups)), k=3, seed=seed, tolerance=tolerance)


def test_sets_in_which_a_genre_is_missing_by_chance_are_drawn_again() -> None:
    labels = ["rock", *["jazz"] * 4, *["rock"] * 4, "jazz", "rock", "jazz"]
    groups = np.array([1, 1, 1, 2, 2, 3, 3, 3, 4, 4, 5, 5])
    drawn = [folds._even_sets(labels, groups, 4, [seed, 0]) for seed in range(20)]
    full = [all({labels[track] for track in test} == {"rock", "jazz"} for test in tests) for tests in drawn]
    assert set(full) == {True, False}
    for seed, tests in enumerate(drawn):
        split = folds.artist(Facts(labels, groups), k=4, seed=seed, tolerance=1.0)
        assert all({labels[i] for i in fold.test} == {"rock", "jazz"} for fold in split)
        if full[seed]:
            assert [fold.test.tolist() for fold in split] == [test.tolist() for test in tests]


def test_validation_tracks_that_cannot_be_had_are_refused_with_what_helps() -> None:
    for labels, k, share, told in (
        (["rock"] * 2 + ["jazz"] * 50, 2, 0.15, "genre rock has a single training track, .*; add some, .*"),
        (
            ["rock"] * 20 + ["jazz"] * 20,
            2,
            0.01,
            "20 training tracks are too few .*; take at least 0.10, or add tracks",
        ),
    ):
        with pytest.raises(SplitError, match=rf"^recipe\.early_stopping\.val_fraction={share:g}: {told}$"):
            folds.random(Facts(labels), k=k, seed=0, val_fraction=share)
        folds.random(Facts(labels * 2), k=k, seed=0, val_fraction=max(share, 0.1))
