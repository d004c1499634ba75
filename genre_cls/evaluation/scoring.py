"""Scores of a configuration: from the predictions of its folds to numbers with intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import precision_recall_fscore_support

from genre_cls.evaluation.calibration import Calibration, Floats, Ints, best_temperature, calibration, tempered
from genre_cls.evaluation.estimates import Estimate, crossed, estimate, sampled, with_error_floor
from genre_cls.evaluation.predictions import FoldResult, TrackPredictions, means_at

TELLING = 100  # tracks: chance may recognise 16 % of so many if there are ten genres, but 23 % of 20 tracks


@dataclass(frozen=True)
class GenreScores:
    """Precision, recall, their harmonic mean F1, and the number of tracks of each genre `(n_genres,)`."""

    precision: Floats
    recall: Floats
    f1: Floats
    n_tracks: Ints


@dataclass(frozen=True)
class ConfigResult:
    """The result of one configuration.

    Args:
        named: the settings that name it: features, model, batch_size and others that were set.
        folds: results of its folds, by index.
        n_parameters: trainable weights of its networks; kernel machines have none.
        groups: by track, equal for tracks that share an artist or a recording; empty if no artist is known.
        other_splits: by the name of the split, what the same configuration scored on the same dataset under other ones.
    """

    named: Mapping[str, str]
    folds: tuple[FoldResult, ...]
    n_parameters: int
    groups: Mapping[str, str] = field(default_factory=dict)
    other_splits: Mapping[str, "ConfigResult"] = field(default_factory=dict)

    def value(self, key: str) -> str:
        """Return the value of a setting that names it, or `?`."""
        return self.named.get(key, "?")

    @property
    def genres(self) -> tuple[str, ...]:
        """Names of the genres."""
        return self.folds[0].genres

    @cached_property
    def confusion(self) -> Ints:
        """Counts pooled over the folds `(n_genres, n_genres)`, rows true, columns predicted."""
        return np.sum([fold.confusion for fold in self.folds], axis=0, dtype=np.int64)

    @cached_property
    def tracks(self) -> TrackPredictions:
        """The folds' predictions, their mean for each track, in the order of ids."""
        pooled, first = self._pooled, self._first
        probabilities = means_at(pooled.probabilities, self._places)
        return TrackPredictions(tuple(pooled.track_ids[i] for i in first), pooled.labels[first], probabilities)

    @cached_property
    def first_hits(self) -> Floats:
        """1 for each track that the first fold to test it classified correctly, else 0, in the order of ids."""
        return self._pooled.hits[self._first]

    @cached_property
    def per_genre(self) -> GenreScores:
        """Precision, recall and F1 of each genre, pooled over the folds."""
        pooled, columns = self._pooled, range(len(self.genres))
        scores = precision_recall_fscore_support(pooled.labels, pooled.predictions, labels=columns, zero_division=0)
        return GenreScores(*scores)

    @property
    def recalls(self) -> dict[str, float]:
        """The share of its tracks that were recognised, of each genre that has test tracks."""
        scores = self.per_genre
        return {genre: float(scores.recall[i]) for i, genre in enumerate(self.genres) if scores.n_tracks[i]}

    @cached_property
    def temperature(self) -> float:
        """The temperature fitted to all held-out tracks (`calibration.best_temperature`)."""
        return best_temperature(self._pooled.probabilities, self._pooled.labels)

    @cached_property
    def tempered(self) -> "ConfigResult":
        """The same result with calibrated probabilities, each fold's at the temperature of the other folds' tracks.

        The result itself if there are no other tracks, as on a published split.
        """
        return self if self.single_test_set else replace(self, folds=tuple(map(self._tempered, self.folds)))

    @cached_property
    def calibration(self) -> Calibration:
        """Confidence against accuracy, pooled over the folds."""
        return calibration(self._pooled.probabilities.max(axis=1), self._pooled.hits, len(self.tracks.track_ids))

    def _tempered(self, fold: FoldResult) -> FoldResult:
        others = self._others(fold.track_ids)
        fitted = best_temperature(self._pooled.probabilities[others], self._pooled.labels[others])
        return replace(fold, probabilities=tempered(fold.probabilities, fitted))

    def _others(self, track_ids: Sequence[str]) -> NDArray[np.bool_]:
        """Which of the pooled predictions are of other tracks."""
        return ~np.isin(self._pooled.track_ids, track_ids)

    @cached_property
    def _first(self) -> Ints:
        """The first of the pooled predictions of each track `(n_tracks,)`, in the order of ids."""
        return np.unique(self._pooled.track_ids, return_index=True)[1]

    @cached_property
    def _places(self) -> Ints:
        """Which track, in the order of ids, each of the pooled predictions is of."""
        return _numbered(self._pooled.track_ids)

    @cached_property
    def _pooled(self) -> TrackPredictions:
        """The predictions of all folds, one fold after the other; a track may come several times."""
        ids = tuple(chain.from_iterable(fold.track_ids for fold in self.folds))
        labels = np.concatenate([fold.labels for fold in self.folds])
        return TrackPredictions(ids, labels, np.concatenate([fold.probabilities for fold in self.folds]))

    @cached_property
    def test_share(self) -> float:
        """Test tracks per training track, mean over the folds."""
        return float(np.mean([len(fold.labels) / fold.n_train for fold in self.folds]))

    @cached_property
    def single_test_set(self) -> bool:
        """Whether all folds test the same tracks, as a single one does, and several trainings on a published split."""
        return len({fold.track_ids for fold in self.folds}) == 1

    def estimate(self, score: str) -> Estimate:
        """Return the mean of a score (a key of `FoldResult.scores`) over the folds, with its standard error."""
        if score != "accuracy":
            return estimate([fold.scores[score] for fold in self.folds], self.test_share)
        return self.over_folds([fold.hits for fold in self.folds], pseudo_values=(1, 1, 0, 0))

    def std(self, score: str) -> float:
        """Return the standard deviation of a score over the folds, with n - 1; 0 if there is a single one."""
        values = [fold.scores[score] for fold in self.folds]
        return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0

    def over_folds(self, values: Sequence[Floats], pseudo_values: Sequence[float], step: float = 1.0) -> Estimate:
        """Return the mean of a value that each test track has, with its standard error.

        Args:
            values: of each fold's tracks `(n_tracks,)`.
            pseudo_values: that are added to each track's mean over the folds that test it (`with_error_floor`).
            step: smallest difference between two different values.
        """
        if self.single_test_set:
            found, smallest = self._over_trainings(values), 0.0
        else:
            found = estimate([own.mean() for own in values], self.test_share)
            one_track_apart = [step / max(map(len, values)), *[0.0] * (len(values) - 1)]
            smallest = estimate(one_track_apart, self.test_share).standard_error
        of_tracks = means_at(np.concatenate(values)[:, None], self._places)
        of_units = means_at(of_tracks, self._units)[:, 0]
        return with_error_floor(found, of_units, pseudo_values, smallest)

    def _over_trainings(self, values: Sequence[Floats]) -> Estimate:
        """Return the mean over one or several trainings that are tested on the same tracks."""
        groups = self._groups[: len(values[0])]
        return crossed(np.stack(values), groups) if len(values) > 1 else sampled(values[0], groups)

    @cached_property
    def _units(self) -> Ints:
        """Number, from 0, of the independent unit that each track belongs to `(n_tracks,)`, in the order of ids.

        A group of tracks that share an artist or a recording, unless folds share such groups; then each track.
        """
        return np.arange(len(self._first)) if self.artist_overlap else _numbered(self._groups[self._first])

    @cached_property
    def artist_overlap(self) -> float:
        """Share of the held-out tracks that share an artist or a recording with tracks that other folds test.

        Models were trained on these. It may be more, as artists are unknown or folds are missing. 0 if nothing is known
        of artists, or if all folds test the same tracks, as a single one does.
        """
        if self.single_test_set:
            return 0.0
        others = [self._groups[self._others(fold.track_ids)] for fold in self.folds]
        by_fold = np.split(self._groups, np.cumsum([len(fold.labels) for fold in self.folds])[:-1])
        return float(np.concatenate([np.isin(own, other) for own, other in zip(by_fold, others, strict=True)]).mean())

    @property
    def largest_genre(self) -> float:
        """Share of the held-out tracks of the largest genre, which always predicting it would recognise."""
        n_tracks = self.confusion.sum(axis=1)
        return float(n_tracks.max() / n_tracks.sum())

    @property
    def is_untrained(self) -> bool:
        """Whether it beats chance although its networks have learned nothing.

        They are judged by the end of their curves, the accuracy on one centre window of each held-out track: that is
        before last layers are fitted again, and such a fit finds genres even in the features of random weights. With
        fewer than `TELLING` tracks it is False.
        """
        ends = [curve[-1] for fold in self.folds if (curve := fold.curves.get("held_out_accuracy"))]
        chance, n_tracks = self.largest_genre, len(self.tracks.track_ids)
        if not ends or n_tracks < TELLING:
            return False
        most = chance + 2 * (chance * (1 - chance) / n_tracks) ** 0.5  # that chance may well come to
        return float(np.mean(ends)) <= most < self.estimate("accuracy").low

    @property
    def has_groups(self) -> bool:
        """Whether it is known which test tracks share an artist or a recording."""
        return self.groups.keys() >= set(self._pooled.track_ids)

    @cached_property
    def _groups(self) -> Ints:
        """Number of each pooled prediction's group: of one artist or recording, or else of the track alone."""
        ids = self._pooled.track_ids
        return _numbered([self.groups[track] for track in ids] if self.has_groups else ids)

    @property
    def summary(self) -> dict[str, float]:
        """All metrics by name: mean, standard deviation and interval of each score, and each genre's scores."""
        figures: dict[str, float] = {}
        for score in self.folds[0].scores:
            e = self.estimate(score)
            figures |= {f"{score}_mean": e.mean, f"{score}_std": self.std(score)}
            if score == "accuracy" or not self.single_test_set:  # else its error is unknown
                low, high = (max(e.low, 0.0), e.high) if score == "log_loss" else e.share_interval
                figures |= {f"{score}_low": low, f"{score}_high": high}
        figures |= {"calibration_error": self.calibration.error, "temperature": self.temperature}
        if not self.single_test_set:
            figures["tempered_calibration_error"] = self.tempered.calibration.error
            figures["tempered_log_loss"] = self.tempered.estimate("log_loss").mean
        scores = self.per_genre
        for name in ("precision", "recall", "f1"):
            values = getattr(scores, name)
            figures |= {f"{name}_{genre}": float(v) for genre, v in zip(self.genres, values, strict=True)}
        return figures | {
            "seconds": sum(fold.seconds for fold in self.folds),
            "seconds_per_fold": self.seconds_per_fold,
        }

    @property
    def seconds_per_fold(self) -> float:
        """Sum of the times of a fold's models, mean over the folds, s."""
        return float(np.mean([fold.seconds for fold in self.folds]))


def _numbered(values: Sequence[str] | Ints) -> Ints:
    """Return a number for each of some values, from 0, the same for equal ones."""
    return np.unique(values, return_inverse=True)[1]
