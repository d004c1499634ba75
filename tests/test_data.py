"""Windows: which frames train, which are evaluated, and what they are standardised with."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from shared import fold_data

from genre_cls.models.views import modulation_spectrum, shape_of
from genre_cls.tracks.features import FeatureSpec
from genre_cls.tracks.folds import Fold
from genre_cls.tracks.windows import cover_starts, repeat_to, voting, windows_at_once
from genre_cls.training import data as data_room
from genre_cls.training.data import Crops, mean_and_deviation_per_bin

EMPTY = np.array([], dtype=np.int64)
LENGTHS = (3, 8, 9, 20, 31, 8, 14, 50, 8)  # frames of nine clips; a window has eight


def numbered(lengths: tuple[int, ...] = LENGTHS) -> list[np.ndarray]:
    """Clips of two bins: the track's number, and the frame's."""
    return [np.stack([np.full(n, track), np.arange(n)]) for track, n in enumerate(lengths)]


def noise(n_clips: int, n_bins: int = 5) -> list[np.ndarray]:
    random = np.random.default_rng(n_clips)
    return [
        random.normal(random.normal(scale=30), 1 + 9 * random.random(), (n_bins, n)).astype(np.float16)
        for n in random.integers(8, 60, size=n_clips)
    ]


@st.composite
def covers(draw: st.DrawFn) -> tuple[int, int, float]:
    n_window = draw(st.integers(1, 60))
    return draw(st.integers(n_window, 400)), n_window, draw(st.integers(0, 95)) / 100


@settings(deadline=None, max_examples=300)
@example((135, 25, 0.56))  # floating point gives a little less than 11 frames
@given(covers())
def test_a_cover_has_every_frame_and_the_overlap_asked_for_in_the_fewest_windows(case: tuple[int, int, float]) -> None:
    n_clip, n_window, overlap = case
    starts = cover_starts(n_clip, n_window, overlap)
    assert starts[0] == 0 and starts[-1] + n_window == n_clip
    step = max(1, n_window * (100 - round(100 * overlap)) // 100)  # longest that keeps the overlap
    assert all(0 < after - before <= step for before, after in pairwise(starts))
    assert len(starts) == 1 or (len(starts) - 2) * step < n_clip - n_window  # one window fewer could not reach the end


@settings(deadline=None, max_examples=50)
@given(covers())
def test_the_windows_of_a_cover_are_evenly_spread(case: tuple[int, int, float]) -> None:
    steps = np.diff(cover_starts(*case))
    assert len(steps) == 0 or steps.max() - steps.min() <= 1


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 30), st.integers(1, 90))
def test_a_clip_shorter_than_a_window_is_repeated_from_its_beginning(n_clip: int, n_window: int) -> None:
    repeated = repeat_to(np.arange(n_clip)[None], n_window)
    assert repeated.shape[1] == max(n_clip, n_window)
    assert (repeated[0] == np.arange(repeated.shape[1]) % n_clip).all()


@given(st.integers(1, 200), st.integers(1, 2000), st.integers(1, 2**20))
def test_a_batch_that_is_only_evaluated_has_as_many_windows_as_its_values_allow(
    n_bins: int, n_frames: int, n_values: int
) -> None:
    n = windows_at_once(n_bins, n_frames, n_values)
    assert n >= 1 and (n == 1 or n * n_bins * n_frames <= n_values)
    assert (n + 1) * n_bins * n_frames > n_values


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1000), st.integers(2, 6))
def test_an_epoch_has_one_crop_of_each_training_track_and_none_of_another(seed: int, batch_size: int) -> None:
    data = fold_data(numbered(), range(9), seed=seed, batch_size=batch_size)
    for _ in range(3):
        crops = torch.cat([features for features, _ in data.training_crops()])
        tracks = crops[:, 0, 0, 0].tolist()
        full = len(data.fold.train) // min(batch_size, 6) * min(batch_size, 6)
        assert len(set(tracks)) == len(tracks) == full  # all that fill whole batches
        assert set(tracks) <= set(data.fold.train.tolist())


def test_crops_stay_inside_their_tracks_and_reach_both_ends() -> None:
    data = fold_data(numbered((20, 20, 20)), range(3), batch_size=2)
    loader = data.training_crops()
    crops = torch.cat([features for _ in range(200) for features, _ in loader])
    frames = crops[:, 0, 1]
    assert (frames.diff(dim=1) == 1).all()
    assert set(frames[:, 0].tolist()) == set(range(13))


def test_each_epochs_crops_have_its_length_and_stay_inside_their_tracks() -> None:
    data = fold_data(numbered((20, 9, 8)), range(3), Fold(0, np.arange(3), EMPTY, EMPTY), crops=[1, 5, 8])
    loader = data.training_crops()
    for length in (1, 5, 8, 8):  # an epoch more than lengths were given
        ((features, labels),) = loader
        assert features.shape == (3, 1, 2, length)
        for (tracks, frames), label in zip(features[:, 0], labels, strict=True):
            assert (tracks == label).all() and (frames.diff() == 1).all() and frames[-1] < (20, 9, 8)[label]


def test_epochs_differ_and_the_seed_and_fold_decide_them() -> None:
    def epochs(seed: int, index: int = 0) -> list[list[float]]:
        fold = Fold(index, np.arange(1, 9), EMPTY, np.arange(1))
        loader = fold_data(numbered(), range(9), fold, seed=seed).training_crops()
        return [torch.cat([features for features, _ in loader]).flatten().tolist() for _ in range(2)]

    first, second = epochs(0)
    assert first != second
    assert [first, second] == epochs(0)
    assert first not in epochs(1) and first not in epochs(0, index=1)


def test_a_batch_is_four_dimensional_and_knows_its_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_room, "AT_ONCE", 3 * 2 * 8)  # values of three windows
    data = fold_data(numbered(), [7, 6, 5, 4, 3, 2, 1, 0, 8])
    for loader in (data.training_crops(), *data.centre_windows(), data.test_windows()):
        batches = list(loader)
        assert len(batches) == len(loader)
        for features, labels in batches:
            assert features.shape == (len(labels), 1, 2, 8)
            assert len(labels) == 4 if isinstance(loader, Crops) else len(labels) <= 3
            assert features.dtype == torch.float16 and labels.dtype == torch.int64
            assert (labels == data.labels[features[:, 0, 0, 0].long()]).all()


def test_the_curves_see_the_centre_of_held_out_and_of_inner_validation_tracks() -> None:
    fold = Fold(0, np.array([1, 2, 5]), np.array([4, 6]), np.array([0, 3, 7, 8]))
    data = fold_data(numbered(), range(9), fold)
    for loader, tracks in zip(data.centre_windows(), (fold.test, fold.val), strict=True):
        windows = torch.cat([features for features, _ in loader])
        assert windows[:, 0, 0, 0].tolist() == tracks.tolist()
        starts = [max(LENGTHS[track] - 8, 0) // 2 for track in tracks]
        assert windows[:, 0, 1, 0].tolist() == starts


@settings(deadline=None, max_examples=30)
@given(st.floats(0, 0.9), st.integers(1, 5))
def test_a_tracks_prediction_is_the_mean_over_its_own_windows(overlap: float, batch_size: int) -> None:
    data = fold_data(numbered(), range(9), overlap=overlap, batch_size=batch_size)
    tracks = torch.cat([features for features, _ in data.test_windows()])[:, 0, 0, 0].tolist()
    rows = np.random.default_rng(batch_size).normal(size=(len(tracks), 3))
    naive = [
        np.mean([row for row, own in zip(rows, tracks, strict=True) if own == track], axis=0) for track in (0, 3, 6)
    ]
    assert np.allclose(data.predictions(rows).per_track, naive)


def test_windows_know_where_in_which_track_they_are() -> None:
    data = fold_data(numbered(), range(9), overlap=0.5)
    cut = torch.cat([features for features, _ in data.test_windows()])  # row 0 is the track, row 1 the frame
    windows = data.predictions(np.zeros((len(cut), 2)))
    assert data.fold.test[windows.track].tolist() == cut[:, 0, 0, 0].tolist()
    assert np.allclose(windows.start, cut[:, 0, 1, 0].double().numpy() * data.seconds_per_frame)


def test_modulations_are_standardised_by_the_centre_windows_of_the_training_tracks() -> None:
    clips = noise(9)
    data = fold_data(clips, range(9), view="modulation")
    (batch,) = data.batches(data.centres(data.fold.train), 8, size=99)
    windows = modulation_spectrum(batch[0])[:, 0].numpy()
    mean, deviation = data.standardisation()
    assert mean.shape == deviation.shape == shape_of("modulation", len(clips[0]))
    assert np.allclose(mean, windows.mean(axis=0), atol=1e-4) and np.allclose(deviation, windows.std(axis=0), atol=1e-4)


def test_other_views_are_standardised_by_all_frames_of_the_training_tracks() -> None:
    clips = noise(9)
    data = fold_data(clips, range(9), view="plain")
    frames = np.concatenate([clips[track] for track in data.fold.train], axis=1).astype(np.float64)
    mean, deviation = data.standardisation()
    assert mean.shape == deviation.shape == (len(clips[0]), 1)
    assert np.allclose(mean[:, 0], frames.mean(axis=1), atol=1e-4)
    assert np.allclose(deviation[:, 0], frames.std(axis=1), rtol=1e-4)


def test_a_modulation_that_never_changes_is_not_divided_by_nothing() -> None:
    _, deviation = fold_data([np.zeros((4, 20))] * 9, range(9), view="modulation").standardisation()
    assert (deviation == 1).all()


@pytest.mark.parametrize("n_clips", [1, 2, 7])
def test_standardisation_is_that_of_all_frames_together(n_clips: int) -> None:
    clips = noise(n_clips)
    mean, deviation = mean_and_deviation_per_bin([torch.from_numpy(clip) for clip in clips])
    frames = np.concatenate(clips, axis=1).astype(np.float64)
    assert mean.dtype == deviation.dtype == torch.float32
    assert np.allclose(mean, frames.mean(axis=1), atol=1e-4)
    assert np.allclose(deviation, frames.std(axis=1), rtol=1e-4)


@pytest.mark.parametrize("view", ["plain", "modulation"])
def test_standardisation_does_not_look_at_what_is_held_out(view: str) -> None:
    clips = noise(9)
    fold = Fold(0, np.array([1, 2, 5, 8]), np.array([4, 6]), np.array([0, 3, 7]))
    before = fold_data(clips, range(9), fold, view=view).standardisation()
    for track in (*fold.val, *fold.test):
        clips[track] = 100 - 3 * clips[track]
    after = fold_data(clips, range(9), fold, view=view).standardisation()
    clips[1] = clips[1] * 2 + 1
    other = fold_data(clips, range(9), fold, view=view).standardisation()
    assert all(map(torch.equal, before, after)) and not torch.equal(before[1], other[1])


@settings(deadline=None, max_examples=100)
@given(st.floats(-100, 100, width=16), st.lists(st.integers(1, 900), min_size=1, max_size=6))
def test_a_bin_that_never_changes_is_left_unscaled(value: float, lengths: list[int]) -> None:
    # The naive variance of such a bin is now and then 1e-29, and its reciprocal makes noise of everything else.
    _, deviation = mean_and_deviation_per_bin([torch.full((1, n), value).half() for n in lengths])
    assert deviation.item() == 1


def test_silent_windows_are_neither_learned_from_nor_evaluated_unless_a_clip_has_no_others() -> None:
    random = np.random.default_rng(0)
    heard, still = random.normal(-30, 10, (4, 16)), np.full((4, 16), -80.0)
    halves, short = np.concatenate([heard, still], axis=1), random.normal(-30, 10, (4, 3))
    everyone = np.arange(6)
    data = fold_data(
        [halves, still, short, halves[:, ::-1], heard, still], range(6), Fold(0, everyone[3:], EMPTY, everyone[:3])
    )
    assert data.cover(data.fold.test) == [(0, 0), (0, 8), (1, 0), (1, 8), (2, 0)]
    assert data.training_windows(100).windows == [(3, 16), (3, 24), (4, 0), (4, 8), (5, 0), (5, 8)]
    votes = np.repeat([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]], (2, 2, 1), axis=0)
    np.testing.assert_array_equal(data.predictions(votes).per_track, [[1, 0], [0, 1], [0.5, 0.5]])


@pytest.mark.parametrize(
    ("n_heard", "votes"),
    [
        ([80, 32, 16, 8, 0], [True, True, False, False, False]),
        ([16, 8, 16, 0], [True, False, True, False]),  # the least silent ones, if all are mostly silent
        ([0, 0], [True, True]),
    ],
)
def test_windows_that_are_mostly_silent_do_not_vote_unless_all_are(n_heard: list[int], votes: list[bool]) -> None:
    windows = torch.full((len(n_heard), 4, 80), -80.0)
    for window, n in zip(windows, n_heard, strict=True):
        window[::2, :n] = 0.0
    assert voting(windows, FeatureSpec(kind="mel", n_mels=4)).tolist() == votes
