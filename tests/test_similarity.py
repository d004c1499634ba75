"""Which tracks a file resembles: the same probabilities first, whatever the folds."""

from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made import a_result

from genre_cls import Prediction, app
from genre_cls.scoring import TrackPredictions
from genre_cls.similarity import most_similar


def tracks_of(*probabilities: tuple[float, ...]) -> TrackPredictions:
    n = len(probabilities)
    return TrackPredictions(tuple(f"{i}.wav" for i in range(n)), np.arange(n), np.array(probabilities))


def rows_of(controller: app.Controller, probabilities: np.ndarray) -> list[list[str]]:
    """The page's table of all tracks for a file with these probabilities."""
    places = np.arange(1.0)
    prediction = Prediction(controller.classifier.genres, 1.0, places, places + 1, probabilities[None])
    with mock.patch.object(app, "N_SIMILAR", 99):
        return controller._similar(prediction)


def controller_of(*arguments: Any) -> app.Controller:
    return app.Controller(mock.Mock(genres=("blues", "rock")), "", *arguments)


def test_equal_predictions_come_first_and_those_that_share_no_genre_last() -> None:
    ranked = most_similar(np.array([0.1, 0.9, 0]), tracks_of((0, 0, 1), (0.5, 0.5, 0), (0.1, 0.9, 0)), 3)
    assert [index for index, _ in ranked] == [2, 1, 0]
    assert ranked[0][1] == pytest.approx(1) and ranked[2][1] == 0


@given(st.lists(st.floats(0, 1), min_size=3, max_size=3).filter(any))
def test_similarity_is_from_0_to_1_and_falls(weights: list[float]) -> None:
    tracks = tracks_of((1, 0, 0), (0.2, 0.3, 0.5), (0.3, 0.3, 0.4))
    ranked = most_similar(np.array(weights) / sum(weights), tracks, 2)
    assert len(ranked) == 2 and 1 + 1e-9 >= ranked[0][1] >= ranked[1][1] >= 0


def test_the_page_compares_with_each_held_out_track_once_and_shows_its_genre_and_artist() -> None:
    folds = a_result(0.8, 0.6).folds
    controller = controller_of(folds, {folds[1].track_ids[3]: {"artist": "Bessie Smith"}})
    rows = {track: (genre, artist) for _, track, genre, artist in rows_of(controller, np.array([0.1, 0.9]))}
    assert rows.keys() == {*folds[0].track_ids, *folds[1].track_ids} and len(controller.tracks.track_ids) == 40
    assert [rows[track][0] for track in folds[0].track_ids] == ["blues"] * 10 + ["rock"] * 10
    assert {track: artist for track, (_, artist) in rows.items() if artist} == {folds[1].track_ids[3]: "Bessie Smith"}
    first = [controller.tracks.track_ids.index(track) for track in folds[0].track_ids]
    np.testing.assert_array_equal(controller.tracks.probabilities[first], folds[0].probabilities)


def test_the_page_shows_similarity_in_per_cent_the_most_similar_first() -> None:
    (fold,) = a_result(0.8).folds
    rows = rows_of(controller_of((fold,)), fold.probabilities[0])
    shares = [int(row[0].removesuffix(" %")) for row in rows]
    assert shares == sorted(shares, reverse=True) and shares[0] == 100
    assert rows[0][1] == fold.track_ids[0]
