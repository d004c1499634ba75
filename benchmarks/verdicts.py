"""Simulate how often a report's statistics are right, with learners of known true accuracy as configurations.

Run as `python benchmarks/verdicts.py`; docs/statistics.md has results.
"""

import argparse
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations, product
from pathlib import Path

import numpy as np
from common import markdown
from numpy.typing import NDArray
from scipy import stats

from genre_cls.evaluation.comparisons import ALPHA, Difference, each_pair, main_effects, mcnemar, names
from genre_cls.evaluation.predictions import FoldResult, WindowPredictions
from genre_cls.evaluation.scoring import ConfigResult
from genre_cls.tracks import folds
from genre_cls.tracks.artists import artist_groups
from genre_cls.tracks.catalogue import Track
from genre_cls.tracks.folds import Fold
from genre_cls.tracks.gtzan import gtzan_facts

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Learner = Callable[[Floats, Ints, np.random.Generator], tuple[Floats, Ints]]
Figures = dict[str, float]

GENRES = tuple(f"genre {number}" for number in range(10))
AXES = {"features": ("mel", "mfcc"), "model": ("basic", "deep"), "batch_size": ("16", "32")}
GRID = [dict(zip(AXES, values, strict=True)) for values in product(*AXES.values())]
ROPE = 0.01  # as in conf/
N_FEATURES = 20
SEPARATION = 2.8  # distance of the genres' centres from the origin, in standard deviations of tracks of a genre
NOISE = 0.6  # standard deviation of each learner's own noise per track, unless it is one of the worse
N_FRESH = 1000  # test tracks of each training set that a true accuracy is the mean over
ARTIST = 0.5  # standard deviation of what an artist's tracks have in common, and of each learner's own noise per artist


def class_means(features: Floats, labels: Ints, random: np.random.Generator) -> tuple[Floats, Ints]:
    """Learn the mean of each genre's tracks."""
    members = np.eye(len(GENRES))[labels]
    return (members / members.sum(axis=0)).T @ features, np.arange(len(GENRES))


def restless_class_means(features: Floats, labels: Ints, random: np.random.Generator) -> tuple[Floats, Ints]:
    """Learn the same means with random deviations, as different trainings of a network give."""
    means, genres = class_means(features, labels, random)
    return means + 0.3 * random.normal(size=means.shape), genres


def nearest_neighbour(features: Floats, labels: Ints, random: np.random.Generator) -> tuple[Floats, Ints]:
    """Memorise every track."""
    return features, labels


@dataclass(frozen=True)
class Condition:
    """What is simulated.

    Args:
        learner: learns points in the feature space and their genres; a track's prediction is its nearest point's genre.
        n_tracks: in a data set, equally many of each genre.
        repeats: of 5-fold cross-validation; 0 for five trainings on 70 % of the tracks that are tested on the others.
        each: tracks by each artist.
        by_artist: whether folds share no artist.
        published: whether the tracks have GTZAN's genres and artists, split as published; `n_tracks` is ignored then.
        drop: by how much the true accuracy of `model=basic` is lower, a share.
        noise: standard deviation for each of the grid's configurations, from `calibrated`.
        truth: true accuracy of each when trained on as many tracks as in a fold, from `calibrated`.
    """

    learner: Learner = class_means
    n_tracks: int = 200
    repeats: int = 1
    each: int = 1
    by_artist: bool = False
    published: bool = False
    drop: float = 0.0
    noise: tuple[float, ...] = ()
    truth: tuple[float, ...] = ()

    @property
    def cells(self) -> tuple[str, ...]:
        """The cells that identify it in a table."""
        split = f"{self.repeats} x 5 folds by artist" if self.by_artist else f"{self.repeats} x 5 folds"
        how = split if self.repeats else "one test set, 5 trainings"
        by = ", GTZAN's artists" if self.published else f", {self.each} an artist" if self.each > 1 else ""
        return self.learner.__name__.replace("_", " "), f"{len(self.tracks[0])}{by}", how

    @property
    def n_train(self) -> int:
        """Number of training tracks."""
        if self.published:
            return published()[2]
        return self.n_tracks * 8 // 10 if self.repeats else self.n_tracks * 7 // 10

    @property
    def tracks(self) -> tuple[Ints, Ints]:
        """Genre and artist of each track of a data set, each `(n_tracks,)`."""
        return published()[:2] if self.published else regular(self.n_tracks, self.each)

    def beside(self, n_fresh: int) -> tuple[Ints, Ints]:
        """Return genre and artist of the training tracks, followed by `n_fresh` others by new artists."""
        if not self.published:
            return regular(self.n_train + n_fresh, self.each)
        labels, artists = self.tracks
        genres = np.resize(labels[self.n_train :], n_fresh)  # as many of each as the test part has, in proportion
        new = 1 + artists.max() + np.arange(n_fresh)
        return np.append(labels[: self.n_train], genres), np.append(artists[: self.n_train], new)


WITHOUT_DIFFERENCE = (
    Condition(),
    Condition(restless_class_means),
    Condition(nearest_neighbour),
    Condition(repeats=3),
    Condition(restless_class_means, repeats=0),
    Condition(n_tracks=1000),
    Condition(n_tracks=1000, repeats=3),
    *(Condition(learner, 1200, repeats=0, each=12) for learner in (class_means, restless_class_means)),
    *(Condition(learner, repeats=0, published=True) for learner in (class_means, restless_class_means)),
    *(
        Condition(n_tracks=600, repeats=repeats, each=12, by_artist=by_artist)
        for by_artist in (False, True)
        for repeats in (1, 3)
    ),
    Condition(n_tracks=600, repeats=10, each=12, by_artist=True),
)
WITH_DIFFERENCE = (
    *(Condition(drop=drop) for drop in (0.02, 0.03, 0.05, 0.1)),
    *(Condition(repeats=3, drop=drop) for drop in (0.05, 0.1)),
    *(Condition(n_tracks=1000, drop=drop) for drop in (0.03, 0.05)),
    Condition(n_tracks=1000, repeats=3, drop=0.03),
    *(Condition(n_tracks=600, repeats=repeats, each=12, by_artist=True, drop=0.05) for repeats in (1, 3)),
)
FALSE = {
    "accuracy": "accuracy",
    "naive": "a pair told apart: plain t-test",
    "corrected": "corrected t-test",
    "mcnemar": "McNemar",
    "any naive": "any of 28: plain t-test",
    "any mcnemar": "McNemar, Holm",
    "pair false": "verdict (corrected, Holm)",
    "axis false": "any axis: verdict",
}
STATED = {
    "accuracy": "accuracy",
    "covered": "interval of an accuracy covers it",
    "pair equal": "a pair is called practically equal",
    "axis equal": "an axis is",
}
FOUND = {
    "drop": "true difference, points",
    "pair found": "a pair is found: verdict",
    "found unadjusted": "corrected t-test alone",
    "found by mcnemar": "McNemar, Holm",
    "axis found": "the axis is found: verdict",
}
WRONG = {
    "drop": "true difference, points",
    "pair false": "any false verdict on a pair",
    "axis false": "on an axis",
    "pair called equal": "a pair is called practically equal",
    "axis called equal": "the axis is",
}
PARTS = (
    ("Without a true difference", WITHOUT_DIFFERENCE, (FALSE, STATED)),
    ("With a true difference on one axis of three", WITH_DIFFERENCE, (FOUND, WRONG)),
)


def main() -> None:
    """Simulate every condition and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=1000, help="of each condition (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn (default: %(default)s)")
    arguments = parser.parse_args()
    began = time.time()
    for title, conditions, tables in PARTS:
        figures = [simulate(condition, arguments.simulations, arguments.seed) for condition in conditions]
        print(f"## {title}", *(table(columns, conditions, figures) for columns in tables), sep="\n\n", end="\n\n")
    minutes = (time.time() - began) / 60
    print(f"Shares in %, each of {arguments.simulations} simulations, ± half of its 95 % interval; {minutes:.1f} min.")


def simulate(condition: Condition, n: int, seed: int) -> dict[str, str]:
    """Return each figure's mean over simulations with half the width of its 95 % interval, in percent."""
    random = np.random.default_rng(seed)
    ready = calibrated(condition, n_sets=max(2, n // 10))
    figures = [examine(ready, cross_validate(ready, random)) for _ in range(n)]
    shares = {name: np.array([each[name] for each in figures]) for name in figures[0]}
    texts = {name: f"{100 * s.mean():.1f} ± {196 * s.std() / n**0.5:.1f}" for name, s in shares.items()}
    accuracies = {"accuracy": max(ready.truth), "drop": max(ready.truth) - min(ready.truth)}
    return texts | {name: f"{100 * share:.1f}" for name, share in accuracies.items()}


def table(columns: Mapping[str, str], conditions: Sequence[Condition], figures: Sequence[Mapping[str, str]]) -> str:
    """Format some figures of each condition as Markdown."""
    heads = ["learner", "tracks", "tested on", *columns.values()]
    rows = [
        [*condition.cells, *(each[name] for name in columns)]
        for condition, each in zip(conditions, figures, strict=True)
    ]
    return markdown(heads, rows, texts=(0, 2))


class AccuracyOnly(FoldResult):
    """A fold's result with no other scores than accuracy, as scikit-learn's would take most of the time."""

    @property
    def scores(self) -> dict[str, float]:
        """Accuracy, and a constant macro F1, which does not affect ranks."""
        return {"accuracy": float(self.hits.mean()), "macro_f1": 0.0}


def draw_features(labels: Ints, artists: Ints, noise: Sequence[float], random: np.random.Generator) -> Floats:
    """Draw each learner's features `(n_learners, n_tracks, n_features)` of tracks of these genres and artists."""
    common = SEPARATION * np.eye(len(GENRES), N_FEATURES)[labels] + random.normal(size=(len(labels), N_FEATURES))
    own = random.normal(size=(len(noise), len(labels), N_FEATURES))
    features = common + np.array(noise)[:, None, None] * own
    if len(np.unique(artists)) == len(artists):  # an artist's deviation is part of its only track's
        return features
    of_artists = random.normal(size=(1 + len(noise), artists.max() + 1, N_FEATURES))[:, artists]
    return features + ARTIST * (of_artists[:1] + of_artists[1:])


def regular(n_tracks: int, each: int) -> tuple[Ints, Ints]:
    """Return genres and artists; each artist has one genre and `each` tracks, the first tracks by the first artists."""
    number = np.arange(n_tracks)
    return number % len(GENRES), number // (len(GENRES) * each) * len(GENRES) + number % len(GENRES)


@cache
def published() -> tuple[Ints, Ints, int]:
    """Return genres and artists of GTZAN's published split, training tracks first, and the number of these."""
    rows = sorted((row for row in gtzan_facts().values() if row["part"]), key=lambda row: row["part"] == "test")
    genres = [row["track"].partition(".")[0] for row in rows]
    known = [
        Track(row["track"], Path(), genre, row["artist"] or None, row["repeats"] or None)
        for row, genre in zip(rows, genres, strict=True)
    ]
    artists = artist_groups(known)
    assert artists is not None
    n_train = sum(row["part"] != "test" for row in rows)
    return np.unique(genres, return_inverse=True)[1], artists, n_train


def predict(
    learner: Learner, features: Floats, labels: Ints, train: Ints, test: Ints, random: np.random.Generator
) -> Ints:
    """Train every learner on some tracks and predict the genres of others `(n_learners, n_test)`."""
    points, genres = learner(features[:, train], labels[train], random)
    nearness = 2 * features[:, test] @ points.transpose(0, 2, 1) - (points**2).sum(axis=2)[:, None]
    return genres[nearness.argmax(axis=2)]


def accuracy(condition: Condition, noise: Sequence[float], n_sets: int, seed: int) -> Floats:
    """Return the true accuracy at each noise: mean over new training sets as large as a fold's and new test tracks."""
    random = np.random.default_rng(seed)
    n_train = condition.n_train
    train, test = np.arange(n_train), n_train + np.arange(N_FRESH)
    hits = []
    for _ in range(n_sets):
        labels, artists = condition.beside(N_FRESH)
        features = draw_features(labels, artists, noise, random)
        hits.append((predict(condition.learner, features, labels, train, test, random) == labels[test]).mean(axis=1))
    return np.asarray(np.mean(hits, axis=0))


def calibrated(condition: Condition, n_sets: int) -> Condition:
    """Return the condition with the noise that causes its difference, and the resulting true accuracies."""
    noises = np.linspace(NOISE, 2 * NOISE, 9).tolist()
    accuracies = accuracy(condition, noises, n_sets, seed=1)
    losses = np.maximum.accumulate(accuracies[0] - accuracies)
    worse = float(np.interp(condition.drop, losses, noises)) if condition.drop else NOISE
    noise = tuple(worse if params["model"] == "basic" else NOISE for params in GRID)
    better, lower = accuracy(condition, [NOISE, worse], 4 * n_sets, seed=2)
    return replace(condition, noise=noise, truth=tuple(float(lower if n > NOISE else better) for n in noise))


def cross_validate(condition: Condition, random: np.random.Generator) -> list[ConfigResult]:
    """Draw a data set, train and test the grid on it."""
    labels, artists = condition.tracks
    features = draw_features(labels, artists, condition.noise, random)
    tracks = np.arange(len(labels))
    if condition.repeats:
        rule = folds.artist if condition.by_artist else folds.random
        seed = int(random.integers(2**31))
        facts = folds.Facts([GENRES[label] for label in labels], artists)
        split = rule(facts, k=5, seed=seed, repeats=condition.repeats)
    else:
        split = [Fold(index, *np.split(tracks, [condition.n_train] * 2)) for index in range(5)]
    predictions = [predict(condition.learner, features, labels, fold.train, fold.test, random) for fold in split]

    def result(place: int, fold: Fold, genre: Ints) -> FoldResult:
        ids = tuple(f"{track:04}" for track in fold.test)
        one_hot = np.eye(len(GENRES))[genre[place]]
        windows = WindowPredictions(np.arange(len(ids)), np.zeros(len(ids)), one_hot)  # one of each track
        return AccuracyOnly(fold.index, ids, labels[fold.test], one_hot, GENRES, {}, len(fold.train), 0.0, windows)

    def results(place: int) -> tuple[FoldResult, ...]:
        return tuple(result(place, fold, genre) for fold, genre in zip(split, predictions, strict=True))

    groups = {f"{track:04}": str(artist) for track, artist in enumerate(artists)}
    return [ConfigResult(params, results(place), 1, groups) for place, params in enumerate(GRID)]


def examine(condition: Condition, results: Sequence[ConfigResult]) -> Figures:
    """Return the statistics' findings on one grid, and whether they are true."""
    pairs, effects = each_pair(results, ROPE), main_effects(results, ROPE)
    truth = dict(zip(names(results), condition.truth, strict=True))
    intervals = [result.estimate("accuracy") for result in results]
    naive = naive_rejections(results)
    figures = {
        "naive": naive.mean(),
        "corrected": np.mean([pair.gain.p_value < ALPHA for pair in pairs]),
        "mcnemar": np.mean([mcnemar(*equal) < ALPHA for equal in zip(results[::2], results[1::2], strict=True)]),
        "any naive": naive.any(),
        "any mcnemar": any(_by_mcnemar(pair) for pair in pairs),
        "covered": np.mean([e.low <= true <= e.high for e, true in zip(intervals, condition.truth, strict=True)]),
        **_verdicts("pair", pairs, truth),
        **_verdicts("axis", effects, {"basic": min(condition.truth), "deep": max(condition.truth)}),
    }
    if real := [pair for pair in pairs if truth[pair.better] != truth[pair.worse]]:
        figures["found unadjusted"] = np.mean([pair.gain.p_value < ALPHA for pair in real])
        figures["found by mcnemar"] = np.mean([_by_mcnemar(pair) for pair in real])
    return {name: float(figure) for name, figure in figures.items()}


def naive_rejections(results: Sequence[ConfigResult]) -> NDArray[np.bool_]:
    """Return which pairs of configurations the plain paired t-test over the folds calls different."""
    accuracies = np.array([[fold.hits.mean() for fold in result.folds] for result in results])
    first, second = np.array(list(combinations(range(len(results)), 2))).T
    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):  # of pairs with one difference in all folds
        return np.asarray(stats.ttest_rel(accuracies[first], accuracies[second], axis=1).pvalue < ALPHA)


def _by_mcnemar(pair: Difference) -> bool:
    return pair.mcnemar is not None and pair.mcnemar < ALPHA


def _verdicts(kind: str, differences: Sequence[Difference], truth: Mapping[str, float]) -> Figures:
    """How often the verdicts on truly equal and truly different configurations are right."""
    gains = np.array([truth.get(d.better, 0.0) - truth.get(d.worse, 0.0) for d in differences])
    different, equal = (np.array([d.finding == finding for d in differences]) for finding in ("different", "equal"))
    figures = {f"{kind} false": (different & (gains <= 0)).any(), f"{kind} equal": equal[gains == 0].mean()}
    if gains.any():
        figures[f"{kind} found"] = (different & (gains > 0)).sum() / np.count_nonzero(gains)
        figures[f"{kind} called equal"] = equal[gains != 0].mean()
    return figures


if __name__ == "__main__":
    main()
