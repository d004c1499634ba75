"""What configurations are logged with."""

import numpy as np
from shared import features_of

from genre_cls.logged_files import genre_means


def test_genre_means_are_means_over_tracks_cut_or_repeated_to_the_median_length() -> None:
    clips = [np.full((2, n), value) for n, value in ((3, 1.0), (6, 3.0), (9, 10.0))]
    clips[0][:, 0] = 4  # comes again at frame 3
    means = genre_means(features_of(clips), np.array([0, 0, 1]), ("a", "b", "c")).matrices
    assert means.shape == (3, 2, 6)
    assert means[0, 0].tolist() == [3.5, 2, 2, 3.5, 2, 2]
    assert (means[1] == 10).all() and (means[2] == 0).all()
