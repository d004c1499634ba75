"""Which tracks a file is most like, by what a model's networks say of both."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from genre_cls.calibration import Floats
from genre_cls.scoring import ConfigResult, FoldResult


@dataclass(frozen=True)
class SimilarTrack:
    """A track that a file is like.

    Args:
        track: its id.
        genre: its true one.
        artist: empty if unknown.
        similarity: 0 to 1.
    """

    track: str
    genre: str
    artist: str
    similarity: float


@dataclass(frozen=True)
class Library:
    """Tracks that a file can be compared with.

    Args:
        tracks: their ids.
        genres: the true genre of each.
        artists: of each, empty where unknown.
        probabilities: what networks that had not learned from a track said of it `(n_tracks, n_genres)`, rows sum to 1.
    """

    tracks: tuple[str, ...]
    genres: tuple[str, ...]
    artists: tuple[str, ...]
    probabilities: Floats

    def most_similar(self, probabilities: Floats, n: int) -> list[SimilarTrack]:
        """The tracks that a file is most like, the most alike first.

        Likeness is the Bhattacharyya coefficient of the two distributions over genres: 1 if they are the same, 0 if no
        genre is probable in both. It hears with the networks' ears alone: what sounds different and gets the same
        probabilities is alike.

        Args:
            probabilities: the networks' vote on the file `(n_genres,)`.
            n: tracks at most.

        Source: Bhattacharyya, On a measure of divergence between two multinomial populations, Sankhyā 7 (1946).
        """
        similarity = np.sqrt(self.probabilities) @ np.sqrt(probabilities)
        best = np.argsort(-similarity, kind="stable")[:n]
        return [SimilarTrack(self.tracks[i], self.genres[i], self.artists[i], float(similarity[i])) for i in best]


def library(folds: Sequence[FoldResult], facts: Mapping[str, Mapping[str, str]]) -> Library:
    """The tracks that a configuration was judged by, each with the mean of what was said of it.

    Args:
        folds: of one configuration, one at least.
        facts: what is known of each track, by its id: `artist`.
    """
    judged = ConfigResult({}, tuple(folds), 0).tracks
    genres = tuple(folds[0].genres[label] for label in judged.labels)
    artists = tuple(facts.get(track, {}).get("artist", "") for track in judged.track_ids)
    return Library(judged.track_ids, genres, artists, judged.probabilities)
