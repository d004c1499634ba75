"""Split tracks into training, validation and test sets by genres, artists and published parts; reads no audio."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics.cluster import contingency_matrix
from sklearn.model_selection import StratifiedKFold, train_test_split

from genre_cls.errors import UserError

Indices = NDArray[np.int64]

FILTERED = {"train": 443, "valid": 197, "test": 290}  # tracks of GTZAN in each part of the published split
ATTEMPTS = 20  # to find sets with tracks of every genre
SEEDS_APART = 10_000  # between repetitions, or members of an ensemble, so that none repeats another `seed`'s results


class SplitError(UserError):
    """The tracks do not allow the requested split."""


@dataclass(frozen=True)
class Fold:
    """Training, inner validation and test tracks, as indices `(n,)`, int64, which are sorted.

    Args:
        index: number of the fold, from 0.
        train: tracks that networks and kernel machines train on.
        val: inner validation tracks for early stopping, empty without it; kernel machines and last layers that are
            fitted again learn from them, too.
        test: held-out tracks.

    Raises:
        UserError: a part is none, or a track is in a part twice or in two parts.
    """

    index: int
    train: Indices
    val: Indices
    test: Indices

    def __post_init__(self) -> None:
        parts = {"train": np.asarray(self.train), "val": np.asarray(self.val), "test": np.asarray(self.test)}
        for name, part in parts.items():
            if part.ndim != 1 or (len(part) and part.dtype.kind != "i"):
                raise UserError(f"folds: fold {self.index}: {name} must be whole numbers, the places of tracks")
            object.__setattr__(self, name, np.sort(part.astype(np.int64)))
        tracks = np.concatenate([self.train, self.val, self.test])
        if len(np.unique(tracks)) < len(tracks):
            raise UserError(f"folds: fold {self.index} has a track twice, in train, val and test together")

    @property
    def known(self) -> Indices:
        """All tracks that models may learn from, validation included, sorted."""
        return np.union1d(self.train, self.val)


@dataclass(frozen=True)
class Facts:
    """What a split may know of each track.

    Args:
        genres: its genre.
        groups: number of its group, of tracks that share an artist or a recording `(n_tracks,)`, int64; None if none
            is known.
        parts: its part of the published split, `train`, `valid`, `test` or None.
        ids: its id, for splits of one's own.
    """

    genres: Sequence[str]
    groups: Indices | None = None
    parts: Sequence[str | None] = ()
    ids: Sequence[str] = ()

    def of(self, tracks: Indices) -> "Facts":
        """Return those of some tracks, given as indices `(n,)`."""
        groups = None if self.groups is None else self.groups[tracks]
        parts = [self.parts[i] for i in tracks] if self.parts else ()
        ids = [self.ids[i] for i in tracks] if self.ids else ()
        return Facts([self.genres[i] for i in tracks], groups, parts, ids)


Split = Callable[[Facts], list[Fold]]


def random(
    facts: Facts,
    *,
    k: int,
    seed: int,
    repeats: int = 1,
    val_fraction: float = 0.0,
) -> list[Fold]:
    """Split tracks into k stratified folds; every track is tested exactly once in each repetition.

    Args:
        facts: of the tracks; an artist's may be in both training and test set.
        k: number of folds, at least 2.
        seed: of the shuffle; the same genres and seed give the same folds for every configuration.
        repeats: repetitions, each with another shuffle.
        val_fraction: share of a fold's training tracks that is held back, stratified too, for early stopping.

    Raises:
        SplitError: k below 2, a genre with fewer tracks than folds, or too few tracks to hold some back.
    """
    ungrouped = Facts(facts.genres)
    _check(ungrouped, k, "folds=random")
    seeds = (seed + SEEDS_APART * repeat for repeat in range(repeats))
    shuffles = (StratifiedKFold(k, shuffle=True, random_state=each) for each in seeds)
    tests = [test for shuffle in shuffles for _, test in shuffle.split(facts.genres, facts.genres)]
    return _folds(ungrouped, tests, val_fraction, seed)


def artist(
    facts: Facts,
    *,
    k: int,
    seed: int,
    repeats: int = 1,
    tolerance: float = 0.3,
    val_fraction: float = 0.0,
) -> list[Fold]:
    """Split tracks into k folds that share no artist and no recording, as stratified as that allows.

    Args:
        facts: of the tracks; those of a group stay together.
        k: number of folds, at least 2.
        seed: of the shuffle.
        repeats: repetitions, each with another shuffle.
        tolerance: by how much the share of a genre's tracks that a fold tests may differ from 1/k.
        val_fraction: share of a fold's training tracks that is held back, by whole groups too, for early stopping.

    Raises:
        SplitError: no artist is known, k below 2, a genre with fewer artists than folds, a genre that its largest
            artist's tracks spread more unevenly than `tolerance` allows, or too few artists to hold some back.
    """
    if facts.groups is None:
        raise SplitError(
            "folds=artist: the dataset names no artists; dataset=folder takes them from metadata.csv, and folds=random "
            "needs none"
        )
    _check(facts, k, "folds=artist")
    tests = [test for repeat in range(repeats) for test in _full_sets(facts.genres, facts.groups, k, [seed, repeat])]
    _check_even(facts.genres, tests, k, tolerance)
    return _folds(facts, tests, val_fraction, seed)


def filtered(
    facts: Facts,
    *,
    repeats: int,
    k: int = 0,
    val_fraction: float = 0.0,
) -> list[Fold]:
    """Train on the published fault-filtered split's `train` and `valid`, test on its `test`; repeated over seeds.

    Args:
        facts: of the tracks. By Sturm's index the test part shares no artist with the others, but for one joint
            credit, and the artists of 37 of its tracks are unknown.
        repeats: trainings, each with other weights and crops.
        k: ignored, as the split is fixed; presets and sweeps give it to every split.
        val_fraction: if above 0, `valid` is held back for early stopping, whatever its share.

    Raises:
        SplitError: a part is missing, or a genre in the training or test part.

    Source: Kereliuk, Sturm & Larsen, Deep learning and music adversaries, IEEE Trans. Multimedia 17 (2015).
    """
    indices = {part: np.flatnonzero(np.array(facts.parts) == part) for part in FILTERED}
    if missing := [part for part, tracks in indices.items() if not len(tracks)]:
        raise SplitError(
            f"folds=filtered: GTZAN's published split is not complete, {' and '.join(missing)} missing "
            f"({_present(facts.parts)}); take folds=random or folds=artist"
        )
    both = np.concatenate([indices["train"], indices["valid"]])
    train, val = (indices["train"], indices["valid"]) if val_fraction else (both, both[:0])
    for part, tracks in (("train", train), ("test", indices["test"])):
        if absent := set(facts.genres) - set(facts.of(tracks).genres):
            raise SplitError(
                f"folds=filtered: no {part} track of genre {min(absent)} is here ({_present(facts.parts)}); "
                "take folds=random or folds=artist"
            )
    return [Fold(index, train, val, indices["test"]) for index in range(repeats)]


def check_usable(folds: Sequence[Fold], facts: Facts) -> None:
    """Refuse folds, as of a split of one's own, that cannot be trained or tested.

    Args:
        folds: one or more.
        facts: of all tracks.

    Raises:
        UserError: a fold's number is not its place, or it tests no track or one that there is not.
        SplitError: it tests a genre of which it trains on no track.
    """
    genres = np.asarray(facts.genres)  # `Facts.of` would collect all else, too
    for place, fold in enumerate(folds):
        tracks = np.concatenate([fold.known, fold.test])
        if fold.index != place:
            raise UserError(f"folds: fold {fold.index} must be number {place}, its place in the list")
        if not len(fold.test) or not 0 <= tracks.min() <= tracks.max() < len(genres):
            raise UserError(f"folds: fold {place} must test some of {len(genres)} tracks, and train on others")
        if unknown := set(genres[fold.test]) - set(genres[fold.train]):
            raise SplitError(f"folds: fold {place} tests genre {min(unknown)}, but trains on no track of it")


def within(tracks: Indices, split: Split, facts: Facts) -> list[Fold]:
    """Split a subset of the tracks as if there were no others.

    Args:
        tracks: indices of the subset, ascending.
        split: one of the functions above with all but its first argument bound.
        facts: of all tracks.

    Returns:
        Folds of the subset, as indices among all tracks.
    """
    folds = split(facts.of(tracks))
    return [Fold(fold.index, tracks[fold.train], tracks[fold.val], tracks[fold.test]) for fold in folds]


def describe(facts: Facts, folds: Sequence[Fold]) -> str:
    """Describe the folds' sizes and how stratified they are, in one line.

    Args:
        facts: of the tracks.
        folds: from one of the functions above.
    """
    tracks = np.unique(np.concatenate([np.append(fold.known, fold.test) for fold in folds]))
    own = facts.of(tracks)  # `within` splits only some
    tests = [np.searchsorted(tracks, fold.test) for fold in folds]
    if len(folds) == 1:
        return f"1 fold of {len(tests[0])} test tracks"
    if all(np.array_equal(test, tests[0]) for test in tests):
        return f"{len(folds)} trainings on one split: {_present(own.parts)}"
    sizes = sorted({len(test) for test in tests})
    how_many = f"{sizes[0]} to {sizes[-1]}" if len(sizes) > 1 else str(sizes[0])
    return f"{len(folds)} folds of {how_many} test tracks{_unevenness(own.genres, tests)}"


def _unevenness(genres: Sequence[str], tests: Sequence[Indices]) -> str:
    """Name the fold and genre furthest from stratified; empty if no genre's counts differ by more than one."""
    counts = _counts(genres, tests)
    if (np.ptp(counts, axis=0) <= 1).all():
        return ""
    fold, genre, share = _least_even(genres, tests)
    return f"; most uneven: fold {fold} tests {100 * share:.0f} % of {genre}"


def _present(parts: Sequence[str | None]) -> str:
    counts = [f"{sum(each == part for each in parts)} of {n} {part}" for part, n in FILTERED.items()]
    return ", ".join(counts) + " tracks"


def _check(facts: Facts, k: int, split: str) -> None:
    if k < 2:
        raise SplitError(f"folds.k={k}: must be at least 2")
    if not len(facts.genres):
        raise SplitError("there is no track to split into folds")
    counts = _units(facts)
    rarest = min(counts, key=lambda genre: counts[genre])
    if (n := counts[rarest]) < k:
        unit = "track" if facts.groups is None else "artist"
        few = f"{n} {unit}" if n == 1 else f"{n} {unit}s"
        most = f"; at most folds.k={n} is possible" if n > 1 else f"; add {unit}s, or leave the genre out"
        other = "; folds=random needs no artists" if unit == "artist" else ""
        hint = f"every fold needs one to test{most}{other}"
        raise SplitError(f"{split}, folds.k={k}: genre {rarest} has only {few}; {hint}")


def _units(facts: Facts) -> dict[str, int]:
    """Return the number of groups in each genre, in their order; of tracks, where there are no groups."""
    genres = np.asarray(facts.genres)
    groups = np.arange(len(genres)) if facts.groups is None else facts.groups
    return {genre: len(np.unique(groups[genres == genre])) for genre in sorted(set(facts.genres))}


def _full_sets(genres: Sequence[str], groups: Indices, k: int, seed: Sequence[int]) -> list[Indices]:
    """Assign groups to k sets as `_even_sets` does, some times more if a set lacks a genre, which may be chance.

    Only then, as results must not depend on `tolerance`.
    """
    sets = _even_sets(genres, groups, k, seed)
    for attempt in range(1, ATTEMPTS):
        if _shares(genres, sets).all():
            break
        sets = _even_sets(genres, groups, k, [*seed, attempt])
    return sets


def _even_sets(genres: Sequence[str], groups: Indices, k: int, seed: Sequence[int]) -> list[Indices]:
    """Assign whole groups at random to k sets, as stratified and as equal in size as that allows.

    Roughly by decreasing size, each group goes to the set with the smallest shares of its genres. (scikit-learn's
    StratifiedGroupKFold shuffles only groups of equal size, so that its repetitions are nearly the same folds.)
    """
    random = np.random.default_rng(seed)
    counts = contingency_matrix(groups, genres)  # (n_groups, n_genres)
    counts = np.hstack([counts, counts.sum(axis=1, keepdims=True)])  # all tracks together as one more genre
    shares = counts / counts.sum(axis=0)
    filled, sets = np.zeros((k, counts.shape[1])), np.zeros(len(counts), dtype=np.int64)
    for group in np.argsort(-counts[:, -1] * random.uniform(0.5, 1, len(counts))):
        order = random.permutation(k)  # breaks ties at random
        sets[group] = order[(filled[order] @ shares[group]).argmin()]
        filled[sets[group]] += shares[group]
    set_of_track = sets[np.unique(groups, return_inverse=True)[1]]
    return [np.flatnonzero(set_of_track == each) for each in range(k)]


def _check_even(genres: Sequence[str], tests: Sequence[Indices], k: int, tolerance: float) -> None:
    fold, genre, share = _least_even(genres, tests)
    if not share or abs(share - 1 / k) > tolerance:
        more = ["allow more"] if share else []
        fewer = ["take fewer folds (folds.k)"] if k > 2 else []
        hint = ", or ".join(more + fewer) or "add tracks by other artists"
        setting = f"folds.tolerance={tolerance:g}" if share else f"folds.k={k}"
        raise SplitError(
            f"{setting}: fold {fold} would test {100 * share:.0f} % of genre {genre} and "
            f"not about {100 / k:.0f} %, since few artists have most of its tracks; {hint}"
        )


def _least_even(genres: Sequence[str], tests: Sequence[Indices]) -> tuple[int, str, float]:
    """The fold and genre of a share of 0, or else of the share furthest from the mean over folds; and that share."""
    shares = _shares(genres, tests)
    gaps = np.where(shares, np.abs(shares - shares.mean(axis=0)), np.inf)
    fold, genre = np.unravel_index(gaps.argmax(), gaps.shape)
    return int(fold), str(np.unique(genres)[genre]), float(shares[fold, genre])


def _shares(genres: Sequence[str], parts: Sequence[Indices]) -> NDArray[np.float64]:
    """Share of each genre's tracks in each part `(n_parts, n_genres)`."""
    return _counts(genres, parts) / np.unique(genres, return_counts=True)[1]


def _counts(genres: Sequence[str], parts: Sequence[Indices]) -> Indices:
    """Number of each genre's tracks in each part `(n_parts, n_genres)`."""
    names, codes = np.unique(genres, return_inverse=True)
    return np.array([np.bincount(codes[part], minlength=len(names)) for part in parts])


def _folds(facts: Facts, tests: Sequence[Indices], val_fraction: float, seed: int) -> list[Fold]:
    """Return a fold for each test set, which learns from all other tracks."""
    tracks = np.arange(len(facts.genres))
    return [
        Fold(index, *_train_val(np.setdiff1d(tracks, test), facts, val_fraction, seed), test)
        for index, test in enumerate(tests)
    ]


def _train_val(train: Indices, facts: Facts, fraction: float, seed: int) -> tuple[Indices, Indices]:
    """Split training tracks into those to train on and the inner validation tracks."""
    if not fraction:
        return train, np.array([], dtype=np.int64)
    known = facts.of(train)
    genres, groups = known.genres, known.groups
    try:
        if groups is None:
            _, val = train_test_split(train, test_size=fraction, stratify=genres, random_state=seed)
        else:
            fewer = int(1 / fraction)
            n_sets = min(fewer, fewer + 1, key=lambda n: abs(1 / n - fraction))
            val = train[_most_even_set(genres, groups, n_sets, seed)]
    except ValueError as error:
        raise SplitError(f"recipe.early_stopping.val_fraction={fraction:g}: {_why_no_val(genres)}") from error
    kept = np.setdiff1d(train, val)
    if missing := set(genres) - set(facts.of(kept).genres):
        raise SplitError(
            f"recipe.early_stopping.val_fraction={fraction:g}: too few artists of genre {min(missing)} in a fold's "
            "training tracks to hold one back; take more folds (folds.k), or recipe.early_stopping.patience=0"
        )
    return kept, val


def _why_no_val(genres: Sequence[str]) -> str:
    """Why training tracks of these genres cannot be split with tracks of each genre on both sides, and what helps."""
    counts = Counter(genres)
    rarest = min(counts, key=lambda genre: counts[genre])
    if counts[rarest] == 1:
        hint = "add some, or take more folds (folds.k)"
        return f"genre {rarest} has a single training track, which cannot be held back; {hint}"
    least = math.ceil(100 * len(counts) / len(genres)) / 100
    few = f"{len(genres)} training tracks are too few for validation tracks of each genre"
    return f"{few}; take at least {least:.2f}, or add tracks"


def _most_even_set(genres: Sequence[str], groups: Indices, k: int, seed: int) -> Indices:
    """Return, of about k sets of whole groups, the one whose share of each genre is nearest to an equal share."""
    sets = [each for each in _even_sets(genres, groups, k, [seed]) if len(each)]
    return sets[np.abs(_shares(genres, sets) - 1 / len(sets)).max(axis=1).argmin()]
