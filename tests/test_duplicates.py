"""Duplicates: copies are found however they were cut and coded; chance, silence and brevity produce none."""

import io
from collections.abc import Sequence

import numpy as np
import pytest
import soundfile
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from genre_cls.tracks import duplicates
from genre_cls.tracks.duplicates import FINGERPRINT, NEAREST, OVERLAP, Duplicate, Matrix, near_duplicates
from genre_cls.tracks.features import extract

SEEDS = st.integers(0, 10**6)
LENGTHS = st.integers(OVERLAP, 3 * OVERLAP)
RATE = FINGERPRINT.sample_rate


def music(seed: int, n_frames: int = 2 * OVERLAP) -> Matrix:
    """Six sounds, each with a spectrum of its own, that come and go above a floor."""
    random = np.random.default_rng(seed)
    spectra = random.gamma(0.5, size=(FINGERPRINT.n_bins, 6))
    played = random.gamma(0.3, size=(6, n_frames))
    decibels = 10 * np.log10(spectra @ played + 1e-4)
    return np.maximum(decibels, decibels.max() - FINGERPRINT.top_db).astype(np.float16)


def silence(n_frames: int) -> Matrix:
    return np.full((FINGERPRINT.n_bins, n_frames), -100, dtype=np.float16)


def noisy(clip: Matrix, decibels: float, seed: int) -> Matrix:
    return (clip + np.random.default_rng(seed).normal(0, decibels, clip.shape)).astype(np.float16)


def pairs(found: Sequence[Duplicate]) -> list[tuple[int, int]]:
    return [(pair.first, pair.second) for pair in found]


@settings(deadline=None, max_examples=60)
@given(SEEDS, LENGTHS, st.data(), st.floats(-30, 30), st.floats(0, 2), st.booleans())
def test_a_copy_is_found_whatever_its_beginning_gain_and_noise(
    seed: int, n_frames: int, data: st.DataObject, gain: float, noise: float, swap: bool
) -> None:
    original = music(seed, n_frames)
    cut = data.draw(st.integers(0, n_frames - OVERLAP))
    copy = noisy(original[:, cut:] + np.float16(gain), noise, seed)
    (pair,) = near_duplicates([copy, original] if swap else [original, copy])
    assert (pair.first, pair.second) == (0, 1) and 0.5 < pair.similarity < 1.001


@settings(deadline=None, max_examples=30)
@given(st.lists(SEEDS, min_size=2, max_size=6, unique=True), st.data())
def test_different_recordings_of_any_lengths_are_no_duplicates(seeds: list[int], data: st.DataObject) -> None:
    assert not near_duplicates([music(seed, data.draw(LENGTHS)) for seed in seeds])


def test_copies_are_found_among_many_other_recordings() -> None:
    n_tracks = 12 * NEAREST
    originals = [music(seed, 3 * OVERLAP) for seed in range(n_tracks)]
    copies = [noisy(clip[:, OVERLAP:], 1, 0) for clip in originals]
    assert pairs(near_duplicates(originals + copies)) == [(i, i + n_tracks) for i in range(n_tracks)]


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 3), min_size=0, max_size=NEAREST), st.integers(1, NEAREST))
def test_exactly_the_pairs_of_one_recording_are_found_however_many_are_looked_at_at_once(
    recordings: list[int], at_once: int
) -> None:
    clips = [noisy(music(recording), 1, seed) for seed, recording in enumerate(recordings)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duplicates, "AT_ONCE", at_once)
        found = near_duplicates(clips)
    assert pairs(found) == [
        (i, j) for i in range(len(clips)) for j in range(i + 1, len(clips)) if recordings[i] == recordings[j]
    ]


@settings(deadline=None, max_examples=8)
@given(st.permutations(range(3 * NEAREST)))
def test_the_order_of_the_tracks_does_not_matter(order: list[int]) -> None:
    clips = [noisy(music(i // 3, 3 * OVERLAP)[:, : OVERLAP + 10 * i], 1, i) for i in range(3 * NEAREST)]
    found = {tuple(sorted((order[i], order[j]))) for i, j in pairs(near_duplicates([clips[i] for i in order]))}
    assert found == set(pairs(near_duplicates(clips))) and len(found) == 3 * NEAREST


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "clip",
    [silence(1), silence(300), music(0, 1), music(0, 2), np.tile(music(0, 1), 300), music(0, OVERLAP - 1)],
    ids=["one silent frame", "silence", "one frame", "two frames", "one frame held", "just below 10 s"],
)
def test_a_clip_with_too_little_sound_is_no_duplicate_even_of_itself(clip: Matrix) -> None:
    assert not near_duplicates([clip])
    assert not near_duplicates([clip, clip])
    assert pairs(near_duplicates([clip, music(1), clip, music(1), music(2)])) == [(1, 3)]


@pytest.mark.parametrize("n_silent", [OVERLAP, 4 * OVERLAP])
def test_silence_neither_makes_duplicates_nor_hides_them(n_silent: int) -> None:
    clips = [np.hstack([music(seed), music(seed).min() + 100 + silence(n_silent)]) for seed in (0, 1, 2)]
    assert pairs(near_duplicates([*clips, music(1)])) == [(1, 3)]


@settings(deadline=None, max_examples=8)
@given(st.integers(0, 8 * RATE), st.floats(0.05, 1))
def test_a_recoded_copy_is_found_by_its_sound_wherever_it_begins(start: int, gain: float) -> None:
    sounds = melody(0), melody(1), recoded(gain * melody(0)[start:])
    assert pairs(near_duplicates([extract(sound, [FINGERPRINT])[0] for sound in sounds])) == [(0, 2)]


def melody(seed: int, n_notes: int = 72) -> NDArray[np.float32]:
    """Decaying tones, four a second, at random pitches from 110 to 1760 Hz."""
    pitches = 110 * 16 ** np.random.default_rng(seed).random((n_notes, 1))
    time = np.arange(RATE // 4) / RATE
    return (0.5 * np.exp(-8 * time) * np.sin(2 * np.pi * pitches * time)).ravel().astype(np.float32)


def recoded(sound: NDArray[np.float32]) -> NDArray[np.float32]:
    """Encode to Ogg Vorbis and decode."""
    file = io.BytesIO()
    soundfile.write(file, sound, RATE, format="OGG", subtype="VORBIS")
    file.seek(0)
    return np.asarray(soundfile.read(file, dtype="float32")[0])


@settings(deadline=None, max_examples=20)
@given(SEEDS, st.integers(0, 2 * OVERLAP), st.integers(0, 2 * OVERLAP))
@example(0, 2 * OVERLAP, 2 * OVERLAP)
def test_two_parts_of_a_recording_are_found_by_what_they_share(seed: int, n_before: int, n_after: int) -> None:
    shared, *others = (music(seed + place, OVERLAP + 10) for place in range(2))
    before, after = music(seed + 2, n_before + 1), music(seed + 3, n_after + 1)
    begins, ends = np.hstack([before, shared]), np.hstack([shared, after])
    for one, other in ((begins, ends), (ends, begins)):
        assert pairs(near_duplicates([one, *others, other])) == [(0, 2)]


def test_silences_of_recordings_of_one_timbre_are_not_alike() -> None:
    """Whose mean spectra are similar, which a silence lacks."""
    clips = []
    for seed in (0, 1, 2):
        dull = music(seed) - np.linspace(0, 40, FINGERPRINT.n_bins, dtype=np.float16)[:, None]
        floor = dull.max() - np.float16(FINGERPRINT.top_db)
        clips.append(np.hstack([np.maximum(dull, floor), np.full((FINGERPRINT.n_bins, 4 * OVERLAP), floor)]))
    assert pairs(near_duplicates([*clips, clips[1]])) == [(1, 3)]
