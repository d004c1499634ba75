"""Which tracks a file resembles, by the probabilities that a model's networks predict for both."""

import numpy as np

from genre_cls.calibration import Floats
from genre_cls.scoring import TrackPredictions


def most_similar(probabilities: Floats, tracks: TrackPredictions, n: int) -> list[tuple[int, float]]:
    """Find the tracks whose predictions resemble those for a file.

    Similarity is the Bhattacharyya coefficient of the two distributions over genres: 1 if they are the same, 0 if no
    genre is probable in both. Tracks that sound different but get the same probabilities count as similar.

    Args:
        probabilities: mean over the file's windows `(n_genres,)`, before its temperature.
        tracks: to compare with; predictions by networks that were not trained on them.
        n: number of tracks at most.

    Returns:
        Index of each track and its similarity, 0 to 1, the most similar first.

    Source: Bhattacharyya, On a measure of divergence between two multinomial populations, Sankhyā 7 (1946).
    """
    similarity = np.sqrt(tracks.probabilities) @ np.sqrt(probabilities)
    best = np.argsort(-similarity, kind="stable")[:n]
    return [(int(i), float(similarity[i])) for i in best]
