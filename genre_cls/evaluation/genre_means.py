"""Average features of each genre."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from genre_cls.evaluation.calibration import Floats


@dataclass(frozen=True)
class GenreMeans:
    """Average features of each genre, and their axes.

    Args:
        kind: `mel` or `mfcc`.
        genres: names, in the order of the first axis.
        matrices: `(n_genres, n_bins, n_frames)`, dB relative to each track's level for `mel`,
            cosine amplitudes of these for `mfcc`.
        seconds_per_frame: time between frames, s.
        frequencies: centre of each mel band, Hz `(n_bins,)`; empty for `mfcc`.
    """

    kind: str
    genres: tuple[str, ...]
    matrices: NDArray[np.float32]
    seconds_per_frame: float
    frequencies: Floats
