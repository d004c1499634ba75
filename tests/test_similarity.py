"""Which tracks a file is like: the same probabilities first, whatever the folds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made import a_result

from genre_cls.similarity import Library, library

GENRES = ("blues", "metal", "rock")


def a_shelf(*probabilities: tuple[float, ...]) -> Library:
    n = len(probabilities)
    return Library(tuple(f"{i}.wav" for i in range(n)), GENRES[:n], ("",) * n, np.array(probabilities))


def test_what_is_said_of_a_file_is_found_again_and_what_shares_no_genre_comes_last() -> None:
    alike = a_shelf((0, 0, 1), (0.5, 0.5, 0), (0.1, 0.9, 0)).most_similar(np.array([0.1, 0.9, 0]), 3)
    assert [one.track for one in alike] == ["2.wav", "1.wav", "0.wav"]
    assert [one.genre for one in alike] == ["rock", "metal", "blues"]
    assert alike[0].similarity == pytest.approx(1) and alike[2].similarity == 0


@given(st.lists(st.floats(0, 1), min_size=3, max_size=3).filter(any))
def test_likeness_is_from_0_to_1_and_falls(weights: list[float]) -> None:
    alike = a_shelf((1, 0, 0), (0.2, 0.3, 0.5), (0.3, 0.3, 0.4)).most_similar(np.array(weights) / sum(weights), 2)
    assert len(alike) == 2 and 1 + 1e-9 >= alike[0].similarity >= alike[1].similarity >= 0


def test_a_shelf_has_each_judged_track_once_with_what_is_known_of_it() -> None:
    folds = a_result(0.8, 0.6).folds
    own = library(folds, {folds[1].track_ids[3]: {"artist": "Bessie Smith"}})
    place = {track: i for i, track in enumerate(own.tracks)}
    assert place.keys() == {*folds[0].track_ids, *folds[1].track_ids} and len(own.tracks) == 40
    own_first = [place[track] for track in folds[0].track_ids]
    assert [own.genres[i] for i in own_first] == ["blues"] * 10 + ["rock"] * 10
    assert [track for track, i in place.items() if own.artists[i]] == [folds[1].track_ids[3]]
    np.testing.assert_array_equal(own.probabilities[own_first], folds[0].probabilities)


def test_a_track_that_several_folds_judged_has_the_mean_of_what_was_said() -> None:
    first, second = (a_result(accuracy).folds[0] for accuracy in (0.9, 0.1))
    own = library([first, second], {})
    assert own.tracks == tuple(sorted(first.track_ids)) == first.track_ids
    np.testing.assert_allclose(own.probabilities, (first.probabilities + second.probabilities) / 2)
