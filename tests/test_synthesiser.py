"""The demo set: reproducible, well-formed, and ten genres that can be told apart."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection
from dataclasses import astuple, fields, replace
from itertools import combinations

import numpy as np
import numpy.typing as npt
import pytest
from scipy import signal

from genre_cls.tracks import synthesiser
from genre_cls.tracks.gtzan import GENRES

RATE = 22050  # Hz
Audio = npt.NDArray[np.float32]
Tracks = dict[str, list[Audio]]


@pytest.fixture(scope="module")
def music() -> Tracks:
    """Six tracks of 4 s by two artists in each genre, with nothing borrowed from the neighbours."""
    tracks = defaultdict(list)
    for track in synthesiser.plan(tracks_per_genre=6, seed=1):
        tracks[track.genre].append(synthesiser.synthesise(track, seconds=4, crossover=0))
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
    track = synthesiser.plan(tracks_per_genre=1, seed=3)[5]
    np.testing.assert_array_equal(synthesiser.synthesise(track, seconds=2), synthesiser.synthesise(track, seconds=2))


def test_a_larger_plan_keeps_the_tracks_of_a_smaller_one() -> None:
    assert set(synthesiser.plan(tracks_per_genre=3, seed=0)) < set(synthesiser.plan(tracks_per_genre=11, seed=0))


def test_another_seed_plans_other_tracks_under_the_same_names() -> None:
    first, second = synthesiser.plan(tracks_per_genre=5, seed=0), synthesiser.plan(tracks_per_genre=5, seed=1)
    assert [track.id for track in first] == [track.id for track in second]
    assert not {track.seed for track in first} & {track.seed for track in second}


def test_a_plan_has_equally_many_tracks_of_each_genre_with_unique_names() -> None:
    tracks = synthesiser.plan(tracks_per_genre=7, seed=0)
    assert Counter(track.genre for track in tracks) == dict.fromkeys(GENRES, 7)
    assert len({track.id for track in tracks}) == len({track.seed for track in tracks}) == 70


def test_an_artist_keeps_to_one_genre_and_makes_three_or_four_tracks() -> None:
    tracks = synthesiser.plan(tracks_per_genre=21, seed=0)
    assert len({track.artist for track in tracks}) == len({(track.artist, track.genre) for track in tracks})
    assert set(Counter(track.artist for track in tracks).values()) == {3, 4}


@pytest.mark.parametrize("genre", GENRES)
def test_every_genre_has_audio_of_the_right_shape(genre: str, music: Tracks) -> None:
    for audio in music[genre]:
        assert audio.shape == (4 * RATE,)
        assert audio.dtype == np.float32
        assert np.isfinite(audio).all()
        assert 0.3 < np.abs(audio).max() <= 1
        assert np.sqrt(np.mean(audio**2)) > 0.01


@pytest.mark.parametrize("sample_rate", [8000, 44100])
def test_length_follows_seconds_and_sample_rate(sample_rate: int) -> None:
    for track in synthesiser.plan(tracks_per_genre=1, seed=0):
        audio = synthesiser.synthesise(track, seconds=0.7, sample_rate=sample_rate)
        assert audio.shape == (round(0.7 * sample_rate),)
        assert np.isfinite(audio).all()


def test_tracks_of_one_genre_differ_even_by_one_artist(music: Tracks) -> None:
    for tracks in music.values():
        assert np.abs(np.corrcoef(tracks) - np.eye(len(tracks))).max() < 0.5


def test_crossover_changes_the_music() -> None:
    track = synthesiser.plan(tracks_per_genre=1, seed=0)[0]
    pure, mixed = (synthesiser.synthesise(track, seconds=1, crossover=crossover) for crossover in (0, 1))
    assert not np.allclose(pure, mixed)


@pytest.mark.parametrize("crossover", [0, 1])
def test_every_ingredient_is_of_the_genre_itself_or_at_full_crossover_of_its_neighbours(crossover: int) -> None:
    for track in synthesiser.plan(tracks_per_genre=7, seed=0):
        sources = synthesiser.STYLES[track.genre].neighbours if crossover else (track.genre,)
        song = synthesiser._song(track, np.random.default_rng(track.seed), crossover)
        for name in {field.name for field in fields(song)} - {"tempo"}:  # which deviates by a few per cent
            palettes = [getattr(synthesiser.STYLES[genre], name) for genre in sources]
            assert any(getattr(song, name) in palette for palette in palettes), name


def test_parts_rest_in_a_share_of_the_tracks_and_the_accompaniment_never(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[str] = []
    monkeypatch.setattr(synthesiser, "_perform", lambda stage, part: heard.append(part) or np.zeros(stage.n_samples))
    tracks = synthesiser.plan(tracks_per_genre=20, seed=0)
    for track in tracks:
        synthesiser.synthesise(track, seconds=0.01, sample_rate=8000)
    shares = [heard.count(part) / len(tracks) for part in synthesiser.PARTS]
    assert shares == pytest.approx(synthesiser.PRESENCE, abs=0.1) and shares[2] == 1


@pytest.mark.parametrize(("swing", "half"), [((1, 0.5), 0.5), ((1, 0.67), 0.67), ((0.5, 0.67), 0.5)])
def test_swing_delays_the_second_half_of_its_unit(swing: tuple[float, float], half: float) -> None:
    track = synthesiser.plan(tracks_per_genre=1, seed=0)[0]
    song = replace(synthesiser._song(track, np.random.default_rng(0), 0), tempo=60, swing=swing, expression=0)
    stage = synthesiser.Stage(song, np.random.default_rng(0), start=0, n_samples=3 * RATE, sample_rate=RATE)
    for steps, beats in ((4, 1.0), (6, 1 + half), (8, 2.0)):
        bus = np.zeros(stage.n_samples, np.float32)
        stage.strike(bus, np.ones(1, np.float32), steps, 1)
        assert bus.argmax() / RATE == pytest.approx(beats, abs=0.02)  # players are not exact


@pytest.mark.parametrize("sample_rate", [8000, 44100])
def test_a_note_has_no_partials_between_its_harmonics(sample_rate: int) -> None:
    voice, pitch = synthesiser.Voice(low=48, slope=0, attack=0.1, release=0.1), 60
    note = synthesiser._note(voice, pitch, 0.9, "-", sample_rate=sample_rate)
    power = np.abs(np.fft.rfft(note * np.hanning(len(note)))) ** 2  # a bin is 1 Hz
    harmonic = np.arange(len(power)) / (440 * 2 ** ((pitch - 69) / 12))
    between = np.abs(harmonic - harmonic.round()) > 0.1
    assert power[between].sum() < 1e-2 * power.sum()


def test_harmonics_of_a_note_fade_with_the_square_of_their_frequency() -> None:
    voice = synthesiser.Voice(low=48, slope=0, damping=0.1)
    begin, end = np.abs(np.fft.rfft(synthesiser._wavetables(voice, 1000, "-", np.array([0.0, 2.0]), 44100)))
    assert end[1:10] / begin[1:10] == pytest.approx(np.exp(-0.2 * np.arange(1, 10) ** 2), abs=1e-5)


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
    points = np.array([timbre(audio) for genre in GENRES for audio in music[genre]])
    points = (points - points.mean(axis=0)) / points.std(axis=0)
    distance = np.linalg.norm(points[:, None] - points, axis=-1) + np.diag(np.full(len(points), np.inf))
    genre = np.repeat(np.arange(10), 6)
    assert 0.5 < np.mean(genre == genre[distance.argmin(axis=1)]) < 1


def test_an_artist_repeats_their_own_choices_more_than_those_of_others_in_the_genre() -> None:
    shared = defaultdict(list)
    tracks = synthesiser.plan(tracks_per_genre=14, seed=0)
    songs = [astuple(synthesiser._song(track, np.random.default_rng(track.seed), 0.1)) for track in tracks]
    for (one, left), (other, right) in combinations(zip(tracks, songs, strict=True), 2):
        if one.genre == other.genre:
            same = np.mean([a == b for a, b in zip(left, right, strict=True)])
            shared[one.artist == other.artist].append(same)
    assert np.mean(shared[False]) + 0.1 < np.mean(shared[True]) < 0.8


def test_every_palette_names_existing_options_and_every_option_is_used() -> None:
    voices = {f"{part}_voice" for part in synthesiser.PARTS[1:]}
    tables: dict[str, Collection[str]] = {
        "groove": synthesiser.GROOVES,
        "kit": synthesiser.KITS,
        "recording": synthesiser.RECORDINGS,
    }
    for field, table in tables.items():
        assert {name for style in synthesiser.STYLES.values() for name in getattr(style, field)} == set(table)
    used = {name for style in synthesiser.STYLES.values() for field in voices for name in getattr(style, field)}
    assert used == set(synthesiser.VOICES)
    assert {name for style in synthesiser.STYLES.values() for name in style.neighbours} == set(GENRES)


def test_every_line_consists_of_full_bars_of_known_symbols() -> None:
    styles, parts = synthesiser.STYLES.values(), synthesiser.PARTS[1:]
    lines = {line for style in styles for part in parts for line in getattr(style, part)}
    assert all(re.fullmatch(r"[13568xn._]{16}", bar) for line in lines if line for bar in line.split("|"))
    grooves = [steps for groove in synthesiser.GROOVES.values() for steps in groove.split()[1::2]]
    assert all(re.fullmatch(r"[Xx?.-]{16}", steps) for steps in grooves)
