"""The demo set: reproducible, well-formed, and ten genres that can be told apart."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection
from dataclasses import astuple
from itertools import combinations

import numpy as np
import numpy.typing as npt
import pytest
from scipy import signal

from genre_cls import demo

RATE = 22050  # Hz
Audio = npt.NDArray[np.float32]
Tracks = dict[str, list[Audio]]


@pytest.fixture(scope="module")
def music() -> Tracks:
    """Six tracks of 4 s by two artists in each genre, with nothing borrowed from the neighbours."""
    tracks = defaultdict(list)
    for track in demo.plan(tracks_per_genre=6, seed=1):
        tracks[track.genre].append(demo.synthesise(track, seconds=4, crossover=0))
    return tracks


def spectrogram(audio: Audio) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Frequencies (n_bins,) in Hz, and power (n_bins, n_frames) every 256 samples."""
    hertz, _, spectrum = signal.stft(audio, RATE, nperseg=1024, noverlap=768)
    return hertz, np.abs(spectrum) ** 2 + 1e-12


def median_of(music: Tracks, genre: str, measure: Callable[[Audio], float]) -> float:
    return float(np.median([measure(audio) for audio in music[genre]]))


def kick_strength(audio: Audio) -> float:
    """Share of the whole power that comes and goes below 100 Hz at some beat of 105 to 135 BPM."""
    hertz, power = spectrogram(audio)
    kick, beats = power[hertz < 100].sum(axis=0), np.arange(105, 136) / 60
    seconds = np.arange(len(kick)) * 256 / RATE
    pulses = np.exp(-2j * np.pi * np.outer(beats, seconds)) @ kick
    return float(np.abs(pulses).max() / power.sum())


def flatness(audio: Audio) -> float:
    """Spectral flatness, geometric over arithmetic mean of the power, between 200 Hz and 4 kHz."""
    hertz, power = spectrogram(audio)
    mean = power[(hertz > 200) & (hertz < 4000)].mean(axis=1)
    return float(np.exp(np.log(mean).mean()) / mean.mean())


def sub_bass(audio: Audio) -> float:
    """Share of the power below 90 Hz."""
    hertz, power = spectrogram(audio)
    return float(power[hertz < 90].sum() / power.sum())


def dynamics(audio: Audio) -> float:
    """Spread of the loudness of successive half seconds, dB."""
    blocks = audio[: len(audio) // (RATE // 2) * (RATE // 2)].reshape(-1, RATE // 2)
    return float(np.std(10 * np.log10((blocks**2).mean(axis=1) + 1e-9)))


def timbre(audio: Audio) -> npt.NDArray[np.float64]:
    """Mean and spread of the log power in 24 bands, each a third of an octave wide, without the level."""
    hertz, power = spectrogram(audio)
    band = np.searchsorted(np.geomspace(50, 10000, 23), hertz)
    bands = np.log(np.array([power[band == b].mean(axis=0) for b in np.unique(band)]) + 1e-9)
    return np.concatenate([bands.mean(axis=1) - bands.mean(), bands.std(axis=1)])


def test_a_track_is_bit_for_bit_the_same_on_every_call() -> None:
    track = demo.plan(tracks_per_genre=1, seed=3)[5]
    np.testing.assert_array_equal(demo.synthesise(track, seconds=2), demo.synthesise(track, seconds=2))


def test_a_larger_plan_keeps_the_tracks_of_a_smaller_one() -> None:
    assert set(demo.plan(tracks_per_genre=3, seed=0)) < set(demo.plan(tracks_per_genre=11, seed=0))


def test_another_seed_plans_other_tracks_under_the_same_names() -> None:
    first, second = demo.plan(tracks_per_genre=5, seed=0), demo.plan(tracks_per_genre=5, seed=1)
    assert [track.id for track in first] == [track.id for track in second]
    assert not {track.seed for track in first} & {track.seed for track in second}


def test_a_plan_has_equally_many_tracks_of_each_genre_with_unique_names() -> None:
    tracks = demo.plan(tracks_per_genre=7, seed=0)
    assert Counter(track.genre for track in tracks) == dict.fromkeys(demo.GENRES, 7)
    assert len({track.id for track in tracks}) == len({track.seed for track in tracks}) == 70


def test_an_artist_keeps_to_one_genre_and_makes_three_or_four_tracks() -> None:
    tracks = demo.plan(tracks_per_genre=21, seed=0)
    assert len({track.artist for track in tracks}) == len({(track.artist, track.genre) for track in tracks})
    assert set(Counter(track.artist for track in tracks).values()) == {3, 4}


@pytest.mark.parametrize("genre", demo.GENRES)
def test_every_genre_has_audio_of_the_right_shape(genre: str, music: Tracks) -> None:
    for audio in music[genre]:
        assert audio.shape == (4 * RATE,)
        assert audio.dtype == np.float32
        assert np.isfinite(audio).all()
        assert 0.3 < np.abs(audio).max() <= 1
        assert np.sqrt(np.mean(audio**2)) > 0.01


@pytest.mark.parametrize("sample_rate", [8000, 44100])
def test_length_follows_seconds_and_sample_rate(sample_rate: int) -> None:
    for track in demo.plan(tracks_per_genre=1, seed=0):
        audio = demo.synthesise(track, seconds=0.7, sample_rate=sample_rate)
        assert audio.shape == (round(0.7 * sample_rate),)
        assert np.isfinite(audio).all()


def test_tracks_of_one_genre_differ_even_by_one_artist(music: Tracks) -> None:
    for tracks in music.values():
        assert np.abs(np.corrcoef(tracks) - np.eye(len(tracks))).max() < 0.5


def test_crossover_changes_the_music() -> None:
    track = demo.plan(tracks_per_genre=1, seed=0)[0]
    pure, mixed = (demo.synthesise(track, seconds=1, crossover=crossover) for crossover in (0, 1))
    assert not np.allclose(pure, mixed)


def test_disco_has_a_kick_on_the_beat_unlike_classical_metal_and_rock(music: Tracks) -> None:
    disco = median_of(music, "disco", kick_strength)
    others = ("classical", "metal", "rock")
    assert all(disco > 1.5 * median_of(music, genre, kick_strength) for genre in others)


def test_metal_is_more_distorted_than_classical_jazz_and_blues(music: Tracks) -> None:
    metal = median_of(music, "metal", flatness)
    assert all(metal > 1.5 * median_of(music, genre, flatness) for genre in ("classical", "jazz", "blues"))


def test_hiphop_has_more_sub_bass_than_classical_country_and_rock(music: Tracks) -> None:
    hiphop = median_of(music, "hiphop", sub_bass)
    assert all(hiphop > 1.5 * median_of(music, genre, sub_bass) for genre in ("classical", "country", "rock"))


def test_classical_has_wider_dynamics_than_metal_and_pop(music: Tracks) -> None:
    classical = median_of(music, "classical", dynamics)
    assert all(classical > 2 * median_of(music, genre, dynamics) for genre in ("metal", "pop"))


def test_a_nearest_neighbour_recognises_most_genres_but_not_every_track(music: Tracks) -> None:
    points = np.array([timbre(audio) for genre in demo.GENRES for audio in music[genre]])
    points = (points - points.mean(axis=0)) / points.std(axis=0)
    distance = np.linalg.norm(points[:, None] - points, axis=-1) + np.diag(np.full(len(points), np.inf))
    genre = np.repeat(np.arange(10), 6)
    assert 0.5 < np.mean(genre == genre[distance.argmin(axis=1)]) < 1


def test_an_artist_repeats_their_own_choices_more_than_those_of_others_in_the_genre() -> None:
    shared = defaultdict(list)
    tracks = demo.plan(tracks_per_genre=14, seed=0)
    songs = [astuple(demo._song(track, np.random.default_rng(track.seed), 0.1)) for track in tracks]
    for (one, left), (other, right) in combinations(zip(tracks, songs, strict=True), 2):
        if one.genre == other.genre:
            same = np.mean([a == b for a, b in zip(left, right, strict=True)])
            shared[one.artist == other.artist].append(same)
    assert np.mean(shared[True]) > np.mean(shared[False]) + 0.1


def test_every_palette_names_existing_options_and_every_option_is_used() -> None:
    voices = {f"{part}_voice" for part in demo.PARTS[1:]}
    tables: dict[str, Collection[str]] = {
        "groove": demo.GROOVES,
        "kit": demo.KITS,
        "recording": demo.RECORDINGS,
    }
    for field, table in tables.items():
        assert {name for style in demo.STYLES.values() for name in getattr(style, field)} == set(table)
    used = {name for style in demo.STYLES.values() for field in voices for name in getattr(style, field)}
    assert used == set(demo.VOICES)
    assert {name for style in demo.STYLES.values() for name in style.neighbours} == set(demo.GENRES)


def test_every_line_consists_of_full_bars_of_known_symbols() -> None:
    lines = {line for style in demo.STYLES.values() for part in demo.PARTS[1:] for line in getattr(style, part)}
    assert all(re.fullmatch(r"[13568xn._]{16}", bar) for line in lines if line for bar in line.split("|"))
    grooves = [steps for groove in demo.GROOVES.values() for steps in groove.split()[1::2]]
    assert all(re.fullmatch(r"[Xx?.-]{16}", steps) for steps in grooves)
