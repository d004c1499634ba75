"""Results as if they had been trained, for tests of what is made of results."""

from collections.abc import Iterable, Sequence

import numpy as np
from hypothesis import strategies as st

from genre_cls.evaluation.predictions import FoldResult, WindowPredictions
from genre_cls.evaluation.scoring import ConfigResult

CURVE = [2.0, 1.0]
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)  # commas, quotes, line ends, …
GENRES = ("a", "b", "c")
HOSTILE = ("$\\frac{1$", "a genre with a name far too long for any figure", "_x\n$y$")  # to a figure


def a_result(*accuracies: float, genres: tuple[str, ...] = ("blues", "rock"), **params: str) -> ConfigResult:
    """Folds of ten tracks a genre, of which a share is recognised and the others are taken for the next genre."""
    folds = []
    for index, accuracy in enumerate(accuracies):
        labels = np.repeat(np.arange(len(genres)), 10)
        wrong = np.tile(np.arange(10) >= round(10 * accuracy), len(genres))
        probabilities = 0.9 * np.eye(len(genres))[(labels + wrong) % len(genres)] + 0.1 / len(genres)
        ids = (f"{index}.{genre}.{i}" for i, genre in enumerate(labels))
        losses = {"train_loss": CURVE, "held_out_loss": CURVE}
        folds.append(a_fold(index, ids, labels, probabilities, genres, 4 * len(labels), seconds=12.0, **losses))
    names = {"features": "mel", "model": "cnn", "batch_size": "16", "recipe.epochs": "2"} | params
    return ConfigResult(names, tuple(folds), 1_234_567)


def a_fold(
    index: int, ids: Iterable[str], labels: np.ndarray, probabilities: np.ndarray, genres: tuple[str, ...],
    n_train: int, *, seconds: float = 1.0, **curves: Sequence[float],
) -> FoldResult:  # fmt: skip
    """A fold whose tracks have one window each."""
    windows = WindowPredictions(np.arange(len(labels)), np.zeros(len(labels)), probabilities)
    return FoldResult(index, tuple(ids), labels, probabilities, genres, curves, n_train, seconds, windows)


def guesses(random: np.random.Generator, n: int, n_genres: int) -> np.ndarray:
    """Probabilities, one row a guess, none quite 0 or 1."""
    return 0.02 / n_genres + 0.98 * random.dirichlet(np.full(n_genres, 0.5), size=n)


@st.composite
def folds(draw: st.DrawFn, index: int = 0, genres: tuple[str, ...] = ()) -> FoldResult:
    genres = genres or tuple(draw(st.lists(NAMES, min_size=2, max_size=5, unique=True)))
    n_tracks = draw(st.integers(1, 30))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    curve = draw(st.lists(st.floats(0, 1e6), min_size=1, max_size=4))
    names = draw(st.lists(NAMES, min_size=n_tracks, max_size=n_tracks))
    track = np.repeat(np.arange(n_tracks), random.integers(1, 4, size=n_tracks))
    cover = WindowPredictions(track, random.random(len(track)), guesses(random, len(track), len(genres)))
    return FoldResult(
        index=index,
        track_ids=tuple(f"{index} {number} {name}" for number, name in enumerate(names)),
        labels=random.integers(len(genres), size=n_tracks),
        probabilities=cover.per_track,
        genres=genres,
        curves={"train_loss": curve, "held_out_loss": curve[::-1]},
        n_train=draw(st.integers(1, 100)),
        seconds=draw(st.floats(0, 1e5)),
        windows=cover,
    )


@st.composite
def results(draw: st.DrawFn) -> ConfigResult:
    n_folds = draw(st.integers(1, 4))
    return ConfigResult({}, tuple(draw(folds(index=i, genres=GENRES)) for i in range(n_folds)), 1)


@st.composite
def on_the_same_tracks(draw: st.DrawFn, single_test_set: bool = False) -> list[ConfigResult]:
    """Configurations in repeated folds that are the same for all, or in several trainings on one test set."""
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    k, times, n_tracks = draw(st.integers(2, 4)), draw(st.integers(1, 3)), draw(st.integers(4, 20))
    labels = random.integers(len(GENRES), size=n_tracks)
    if single_test_set:
        tests = [np.arange(n_tracks)] * k
    else:
        tests = [part for _ in range(times) for part in np.array_split(random.permutation(n_tracks), k)]

    def fold(index: int, test: np.ndarray) -> FoldResult:
        ids = (f"{track:02}" for track in test)
        return a_fold(index, ids, labels[test], guesses(random, len(test), len(GENRES)), GENRES, n_tracks)

    return [
        ConfigResult({}, tuple(fold(index, test) for index, test in enumerate(tests)), 1)
        for _ in range(draw(st.integers(1, 4)))
    ]
