"""Synthesise seeded music in ten genres: the default dataset, for experiments without a download."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from functools import cache, partial

import numpy as np
import numpy.typing as npt
from scipy import fft, signal

from genre_cls.tracks.gtzan import GENRES

Audio = npt.NDArray[np.float32]  # mono, (n_samples,)
Array = npt.NDArray[np.float64]
Spectrum = npt.NDArray[np.complex64]

CROSSOVER = 0.1  # probability that an ingredient of a track comes from a neighbouring genre
LOYALTY = 0.7  # probability that a track keeps each of its artist's habits
PARTS = ("drums", "bass", "comp", "pad", "lead")
PRESENCE = (0.92, 0.92, 1.0, 0.75, 0.8)  # probability that a track has each of PARTS


@dataclass(frozen=True)
class DemoTrack:
    """A track for `synthesise` to render; `id` has GTZAN's form (`blues.00003`)."""

    id: str
    genre: str
    artist: str
    seed: int


def plan(*, tracks_per_genre: int, seed: int) -> list[DemoTrack]:
    """List the tracks of a set, genre by genre; a larger set contains the tracks of a smaller one.

    Args:
        tracks_per_genre: number of tracks in each of the ten genres.
        seed: of the set. Artists are the same in every set, with other songs.
    """
    return [
        DemoTrack(
            id=f"{genre}.{index:05d}",
            genre=genre,
            artist=f"{genre} artist {1 + 2 * index // 7}",  # four tracks, then three, then four, ...
            seed=int(np.random.SeedSequence([seed, number, index]).generate_state(1)[0]),
        )
        for number, genre in enumerate(GENRES)
        for index in range(tracks_per_genre)
    ]


def synthesise(track: DemoTrack, *, seconds: float, sample_rate: int = 22050, crossover: float = CROSSOVER) -> Audio:
    """Render a track, bit for bit the same on every call.

    Args:
        track: from `plan`.
        seconds: length, s.
        sample_rate: of the result, Hz.
        crossover: probability that an ingredient comes from a neighbouring genre, 0 to 1.

    Returns:
        Mono audio `(round(seconds * sample_rate),)`, float32, peak at most 1.
    """
    rng = np.random.default_rng(track.seed)
    song = _song(track, rng, crossover)
    stage = Stage(song, rng, rng.uniform(0, 16), round(seconds * sample_rate), sample_rate)
    mix = np.zeros(stage.n_samples, np.float32)
    for part, presence, level in zip(PARTS, PRESENCE, song.mix, strict=True):
        fader = _gain(level + rng.normal(0, 2))
        if rng.random() < presence:
            mix += fader * _perform(stage, part)
    return _master(mix, stage)


# Composition: what is played, and by whom


@dataclass(frozen=True)
class Song:
    """All choices that determine a track, but for its random performance."""

    tempo: float  # BPM, before the track's own deviation of a few per cent
    swing: tuple[float, float]  # unit in beats, and where its middle falls: 1/2 is straight, 2/3 triplets
    groove: str  # of GROOVES
    kit: str  # of KITS
    harmony: str  # one chord a bar, written in C
    bass: str  # line, in the notation of `_notes`
    bass_voice: str  # of VOICES
    comp: str  # accompaniment: the line of the chords
    comp_voice: str
    pad: str  # held chords underneath
    pad_voice: str
    lead: str
    lead_voice: str
    mix: tuple[float, ...]  # dB, level of each of PARTS
    recording: str  # of RECORDINGS
    expression: float  # 0 to 1, depth of rubato and of dynamics
    key: int  # semitones above C


STRAIGHT = (1.0, 0.5)
HELD = "x_______________"


@dataclass(frozen=True)
class Style:
    """A genre: its options for each choice in `Song`, and the neighbouring genres that it borrows from."""

    neighbours: tuple[str, ...]
    tempo: tuple[float, ...]
    groove: tuple[str, ...]
    kit: tuple[str, ...]
    harmony: tuple[str, ...]
    bass: tuple[str, ...]
    bass_voice: tuple[str, ...]
    comp: tuple[str, ...]
    comp_voice: tuple[str, ...]
    lead: tuple[str, ...]
    lead_voice: tuple[str, ...]
    mix: tuple[tuple[float, ...], ...]
    recording: tuple[str, ...]
    swing: tuple[tuple[float, float], ...] = (STRAIGHT,)
    pad: tuple[str, ...] = ("", "", HELD)
    pad_voice: tuple[str, ...] = ("organ",)
    expression: tuple[float, ...] = (0.0,)
    key: tuple[int, ...] = tuple(range(-5, 7))


def _song(track: DemoTrack, rng: np.random.Generator, crossover: float) -> Song:
    """Choose a song: the artist's habits where this track keeps to them, and new choices elsewhere."""
    artist = np.random.default_rng(zlib.crc32(track.artist.encode()))
    habits = _choose(artist, track.genre, crossover)
    kept = {field.name: getattr(habits, field.name) for field in fields(Song) if rng.random() < LOYALTY}
    song = replace(_choose(rng, track.genre, crossover), **kept)
    return replace(song, tempo=song.tempo * rng.normal(1, 0.04))


def _choose(rng: np.random.Generator, genre: str, crossover: float) -> Song:
    style = STYLES[genre]
    neighbour = STYLES[style.neighbours[rng.integers(len(style.neighbours))]]
    palettes = {f.name: getattr(neighbour if rng.random() < crossover else style, f.name) for f in fields(Song)}
    return Song(**{name: palette[rng.integers(len(palette))] for name, palette in palettes.items()})


# Performance: when each note sounds


@dataclass(frozen=True)
class Stage:
    """A song's performance: it places bars and steps, sixteenths of a bar, in time."""

    song: Song
    rng: np.random.Generator
    start: float  # steps, where the excerpt begins within its first bar
    n_samples: int
    sample_rate: int

    @property
    def step(self) -> float:
        """Length of a sixteenth note, s."""
        return 15 / self.song.tempo

    @property
    def n_bars(self) -> int:
        return 2 + int(self.n_samples / self.sample_rate / (16 * self.step))

    def strike(self, bus: Audio, sound: Audio, steps: float, gain: float) -> None:
        """Add a sound to a bus `steps` after the first bar line, with swing, rubato and random timing errors."""
        unit, middle = self.song.swing
        n_units, part = divmod(steps / 4 / unit, 1)
        swung = 4 * unit * (n_units + float(np.interp(part, (0, 0.5, 1), (0, middle, 1))))
        rubato = 0.3 * self.song.expression * np.sin(steps / 9)
        start = (swung - self.start) * self.step + rubato + self.rng.normal(0, 0.004)
        first = round(start * self.sample_rate)
        audible = sound[max(-first, 0) : max(self.n_samples - first, 0)]
        bus[max(first, 0) :][: len(audible)] += np.float32(gain) * audible


VELOCITY = {"X": 1.0, "x": 0.65, "-": 0.3, "?": 0.65}
QUALITIES = {
    "": (0, 4, 7),
    "m": (0, 3, 7),
    "7": (0, 4, 7, 10),
    "m7": (0, 3, 7, 10),
    "M7": (0, 4, 7, 11),
    "5": (0, 7),
}


def _perform(stage: Stage, part: str) -> Audio:
    """Render one of PARTS alone, `(n_samples,)`, with peak 1 unless it rests throughout."""
    bus = np.zeros(stage.n_samples, np.float32)
    if part == "drums":
        _drum(stage, bus)
    else:
        voice = VOICES[getattr(stage.song, f"{part}_voice")]
        _play(stage, bus, getattr(stage.song, part), voice)
        bus = _amplify(_normalise(bus), voice.drive, stage.sample_rate)
    return _normalise(bus)


def _drum(stage: Stage, bus: Audio) -> None:
    kit, groove = KITS[stage.song.kit], GROOVES[stage.song.groove].split()
    first = 16 if stage.rng.random() < 0.2 else 0  # an intro without drums, under a bar long
    for name, steps in zip(groove[::2], groove[1::2], strict=True):
        sound = _hit(kit[name], stage.rng, stage.sample_rate)
        for step in range(first, 16 * stage.n_bars):
            symbol = steps[step % 16]
            if symbol != "." and not (symbol == "?" and stage.rng.random() < 0.5):
                gain = kit[name].level * VELOCITY[symbol] * stage.rng.uniform(0.85, 1)
                stage.strike(bus, sound, step, gain)


def _play(stage: Stage, bus: Audio, line: str, voice: Voice) -> None:
    rng, bars, chords = stage.rng, line.split("|"), _chords(stage)
    scale = {(root + tone) % 12 for root, tones in chords for tone in tones}
    # Cached, as each distinct note is synthesised once.
    note = cache(partial(_note, voice, sample_rate=stage.sample_rate))
    pitch = voice.low + 7
    for bar in range(stage.n_bars):
        root, tones = chords[bar % len(chords)]
        base = voice.low + (root - voice.low) % 12
        for step, symbol, length in _notes(bars[bar % len(bars)]):
            if symbol == "n":
                pitch = _melody(pitch, voice.low, scale, {(root + tone) % 12 for tone in tones}, rng)
            chord = {"n": (pitch,), "x": tuple(base + tone for tone in tones)}
            vowel = voice.vowels[rng.integers(len(voice.vowels))]
            gain = rng.uniform(0.6, 1)
            for sounding in chord.get(symbol) or (base + _degree(symbol, tones),):
                stage.strike(bus, note(sounding, length * stage.step, vowel), 16 * bar + step, gain)


def _notes(line: str) -> Iterator[tuple[int, str, int]]:
    """Parse a bar of a line into notes: start in steps, symbol, length in steps.

    A bar has sixteen symbols, and bars are separated by `|`: `.` rests, `_` holds, `x` is the chord, a digit one degree
    of it, `n` the next note of an improvised melody.
    """
    return ((match.start(), match[0][0], len(match[0])) for match in re.finditer(r"[^._]_*", line))


def _degree(symbol: str, tones: tuple[int, ...]) -> int:
    """Convert a degree of a chord to semitones above its root."""
    return {"1": 0, "3": tones[1], "5": 7, "6": 9, "8": 12}[symbol]


def _chords(stage: Stage) -> list[tuple[int, tuple[int, ...]]]:
    """Root (semitones above C) and tones (semitones above the root) of each bar, rotated to the excerpt's start."""
    chords = [
        ("C D EF G A B".index(letter) + {"": 0, "#": 1, "b": -1}[sign] + stage.song.key, QUALITIES[quality])
        for letter, sign, quality in re.findall(r"([A-G])([#b]?)(\S*)", stage.song.harmony)
    ]
    first = int(stage.start * len(chords) / 16)
    return chords[first:] + chords[:first]


def _melody(last: int, low: int, scale: set[int], chord: set[int], rng: np.random.Generator) -> int:
    """Draw a note near the last one within the voice's twenty semitones, preferably from the chord."""
    steps = [pitch for pitch in range(low, low + 20) if pitch % 12 in scale and pitch != last]
    weights = np.exp([-abs(pitch - last) / 2.5 + (pitch % 12 in chord) for pitch in steps])
    return steps[int(rng.choice(len(steps), p=weights / weights.sum()))]


# Instruments: what each note sounds like


@dataclass(frozen=True)
class Voice:
    """A pitched instrument, whose harmonics h = 1, 2, ... start at amplitude h ** -slope."""

    low: int  # lowest root, MIDI note number
    slope: float
    decay: float = 9.0  # s, in which the note decays to 1/e; long for bowed, blown and electronic sounds
    damping: float = 0.0  # 1/s, how much faster a harmonic decays at 1 kHz
    attack: float = 0.004  # s
    release: float = 0.02  # s
    pluck: float = 0.0  # where the string is plucked, as a share of its length: 1/2 leaves odd harmonics; 0 for none
    partials: int = 100
    vibrato: float = 0.0  # semitones
    scoop: float = 0.0  # semitones below the pitch at which a bent or slurred note starts
    detune: float = 0.0  # semitones between the players of a section
    vowels: str = "-"  # of FORMANTS, sung in random order
    drive: float = 0.0  # of the amplifier


VOICES = {
    "upright bass": Voice(low=28, slope=1.3, decay=0.5, damping=14, attack=0.012, pluck=0.2),
    "finger bass": Voice(low=28, slope=1.0, decay=0.9, damping=6, pluck=0.25),
    "pick bass": Voice(low=28, slope=0.7, decay=1.2, damping=2.5, pluck=0.12, drive=2),
    "deep bass": Voice(low=26, slope=1.7, decay=1.2, damping=9, attack=0.01, partials=12),
    "sub bass": Voice(low=24, slope=2.2, decay=1.5, attack=0.01, release=0.06, partials=4, drive=1),
    "synth bass": Voice(low=28, slope=1.0, decay=0.5, damping=6),
    "cello": Voice(low=36, slope=1.1, attack=0.09, release=0.12, vibrato=0.2, detune=0.05),
    "piano": Voice(low=53, slope=1.2, decay=0.8, damping=1.5, release=0.06, pluck=0.12, partials=30),
    "electric piano": Voice(low=55, slope=2.2, decay=0.9, damping=2, release=0.04, partials=12),
    "organ": Voice(low=55, slope=0.5, partials=6, vibrato=0.12, drive=1),
    "nylon guitar": Voice(low=52, slope=1.2, decay=0.5, damping=4, pluck=0.3),
    "steel guitar": Voice(low=52, slope=0.6, decay=0.7, damping=0.8, pluck=0.15),
    "twang guitar": Voice(low=55, slope=0.4, decay=0.45, damping=1.0, pluck=0.07, scoop=0.3),
    "banjo": Voice(low=60, slope=0.3, decay=0.18, damping=0.6, pluck=0.1),
    "clean guitar": Voice(low=55, slope=0.9, decay=0.5, damping=1.2, pluck=0.2),
    "blues guitar": Voice(low=60, slope=0.7, decay=1.2, damping=0.5, pluck=0.13, vibrato=0.3, scoop=1.8, drive=3),
    "crunch guitar": Voice(low=43, slope=0.8, decay=1.0, damping=0.8, pluck=0.15, drive=4),
    "high-gain guitar": Voice(low=34, slope=0.5, decay=1.5, damping=0.5, pluck=0.1, drive=40),
    "screaming guitar": Voice(low=64, slope=0.5, decay=2.5, pluck=0.1, vibrato=0.35, scoop=0.6, drive=20),
    "pedal steel": Voice(low=62, slope=1.0, decay=1.6, damping=0.3, attack=0.02, pluck=0.1, vibrato=0.25, scoop=1.2),
    "strings": Voice(low=57, slope=1.0, attack=0.1, release=0.2, vibrato=0.15, detune=0.12),
    "violin": Voice(low=64, slope=0.9, attack=0.06, release=0.1, vibrato=0.35, partials=30),
    "fiddle": Voice(low=62, slope=0.6, attack=0.02, vibrato=0.1, scoop=0.7),
    "flute": Voice(low=67, slope=2.0, attack=0.05, release=0.06, vibrato=0.25, partials=6),
    "sax": Voice(low=55, slope=0.6, attack=0.03, release=0.04, vibrato=0.25, scoop=0.5, vowels="o"),
    "trumpet": Voice(low=60, slope=0.5, attack=0.02, vibrato=0.2, partials=20, vowels="a"),
    "brass": Voice(low=58, slope=0.6, attack=0.03, detune=0.08, partials=20),
    "harmonica": Voice(low=62, slope=0.5, attack=0.03, vibrato=0.2, scoop=0.8, partials=16, drive=3),
    "melodica": Voice(low=64, slope=0.7, attack=0.03, vibrato=0.1, partials=16),
    "bright synth": Voice(low=60, slope=0.8, decay=1.5, damping=0.2, detune=0.1),
    "synth pad": Voice(low=55, slope=1.2, attack=0.15, release=0.2, detune=0.15),
    "voice": Voice(low=57, slope=0.8, attack=0.04, release=0.06, vibrato=0.35, scoop=0.8, vowels="aeiou"),
    "rap": Voice(low=43, slope=0.6, decay=0.25, attack=0.015, scoop=-1.5, vowels="aeiou"),
    "growl": Voice(low=36, slope=0.3, attack=0.02, detune=0.5, vowels="ao", drive=25),
}
FORMANTS = {  # Hz, of a man's vowels (Peterson & Barney 1952); `-` stands for an instrument without formants
    "-": (),
    "a": (730, 1090, 2440),
    "e": (530, 1840, 2480),
    "i": (270, 2290, 3010),
    "o": (570, 840, 2410),
    "u": (300, 870, 2240),
}
PERIOD = 2048  # samples of a wavetable
FRAMES = 24  # wavetables along a note


def _note(voice: Voice, pitch: int, seconds: float, vowel: str, *, sample_rate: int) -> Audio:
    """Synthesise a note `(n_samples,)` by wavetables, read at the rate of its pitch, that get duller as it rings."""
    length = seconds + voice.release
    time = np.arange(int(length * sample_rate), dtype=np.float32) / np.float32(sample_rate)
    hertz = 440 * 2 ** ((pitch - 69) / 12)
    vibrato = voice.vibrato * np.sin(2 * np.pi * 5.5 * time) * np.minimum(3 * time, 1)
    bend = 2 ** ((vibrato - voice.scoop * np.exp(-time / 0.06)) / 12)
    cycles = np.cumsum(hertz / sample_rate * bend, dtype=np.float64)
    tables = _wavetables(voice, hertz, vowel, np.linspace(0, length, FRAMES + 1), sample_rate)
    players = 2 ** (np.array((-1, 0, 1) if voice.detune else (0,)) * voice.detune / 12)
    wave = sum(_read(tables, time / length, cycles * player) for player in players)
    fade = np.minimum(time / voice.attack, 1) * np.minimum((length - time) / voice.release, 1)
    return np.asarray(wave * fade * np.exp(-time / voice.decay), np.float32)


def _wavetables(voice: Voice, hertz: float, vowel: str, ages: Array, sample_rate: int) -> Audio:
    """Compute one period at each age (s) of a note, `(len(ages), PERIOD)`.

    Plucking a string at a share p of its length weights harmonic h by |sin(pi h p)|, 0 where it has a node there.
    Harmonics' decay rates grow with the square of their frequency, as in a delay line looped through an averaging
    filter (Karplus & Strong 1983; Jaffe & Smith 1983).
    """
    harmonic = np.arange(1, 1 + min(voice.partials, int(0.45 * sample_rate / hertz)))
    frequency = harmonic * hertz
    level = harmonic**-voice.slope
    if voice.pluck:
        level *= np.abs(np.sin(np.pi * harmonic * voice.pluck))
    if FORMANTS[vowel]:
        level *= 0.03 + sum(np.exp(-(((frequency - peak) / 130) ** 2)) for peak in FORMANTS[vowel])
    spectra = np.zeros((len(ages), PERIOD // 2 + 1), np.complex64)
    spectra[:, harmonic] = -1j * level * np.exp(-np.outer(ages, voice.damping * (frequency / 1000) ** 2))
    return np.asarray(fft.irfft(spectra, axis=1), np.float32) * PERIOD


def _read(tables: Audio, progress: Audio, cycles: Array) -> Audio:
    """Look up the wavetables at a progress of 0 to 1 through the note, interpolating between them."""
    frame, blend = np.divmod(progress * np.float32(FRAMES), 1)
    index = frame.astype(np.intp) * PERIOD + (cycles * PERIOD).astype(np.intp) % PERIOD
    early, late = tables.ravel().take(index), tables.ravel().take(index + PERIOD)
    return np.asarray(early + blend * (late - early), np.float32)


@dataclass(frozen=True)
class Hit:
    """A drum: a falling tone for its skin, and band-passed noise for its wires or metal."""

    level: float
    tone: float = 0.0  # Hz, to which the pitch falls; 0 for noise alone
    drop: float = 0.0  # how far above that it starts, in multiples of it
    ring: float = 0.1  # s, decay of the tone
    noise: float = 0.0  # amplitude of the noise
    band: tuple[float, float] = (500.0, 9000.0)  # Hz
    wires: float = 0.05  # s, decay of the noise


ACOUSTIC = {
    "kick": Hit(1.0, tone=58, drop=1.5, ring=0.11, noise=0.3, band=(300, 3000), wires=0.01),
    "snare": Hit(0.8, tone=190, drop=0.3, ring=0.06, noise=1.2, band=(1200, 7500), wires=0.08),
    "rim": Hit(0.6, tone=1150, ring=0.02, noise=0.5, band=(1500, 6000), wires=0.012),
    "clap": Hit(0.7, noise=1.5, band=(900, 3500), wires=0.09),
    "hat": Hit(0.35, noise=1.5, band=(6500, 10500), wires=0.025),
    "open": Hit(0.4, noise=1.5, band=(6000, 10500), wires=0.14),
    "ride": Hit(0.35, tone=3400, ring=0.05, noise=1.0, band=(5000, 10500), wires=0.25),
    "crash": Hit(0.6, noise=1.5, band=(3000, 10500), wires=0.5),
    "shaker": Hit(0.3, noise=1.5, band=(4500, 9500), wires=0.04),
}
KITS = {
    "acoustic": ACOUSTIC,
    "brushes": ACOUSTIC
    | {
        "kick": Hit(0.6, tone=65, drop=0.8, ring=0.1),
        "snare": Hit(0.5, tone=210, ring=0.03, noise=1.0, band=(1500, 6000), wires=0.12),
    },
    "machine": ACOUSTIC
    | {
        "kick": Hit(1.0, tone=52, drop=3, ring=0.16),
        "snare": Hit(0.8, tone=220, drop=0.5, ring=0.09, noise=1.2, band=(2000, 9500), wires=0.12),
        "hat": Hit(0.4, noise=1.5, band=(8000, 10500), wires=0.02),
    },
    "dusty": ACOUSTIC
    | {
        "kick": Hit(1.2, tone=48, drop=1.2, ring=0.2, noise=0.4, band=(200, 2000), wires=0.03),
        "snare": Hit(0.9, tone=170, drop=0.2, ring=0.08, noise=1.4, band=(800, 4500), wires=0.1),
        "hat": Hit(0.25, noise=1.5, band=(5000, 8000), wires=0.03),
    },
    "tight": ACOUSTIC
    | {
        "kick": Hit(0.9, tone=62, drop=2, ring=0.06, noise=1.0, band=(2500, 6000), wires=0.008),
        "snare": Hit(0.9, tone=200, drop=0.5, ring=0.07, noise=1.5, band=(1500, 9000), wires=0.1),
    },
}


def _hit(hit: Hit, rng: np.random.Generator, sample_rate: int) -> Audio:
    """Synthesise a drum, tuned up to 15 % differently in each track."""
    ring, wires, tone = np.array((hit.ring, hit.wires, hit.tone)) * rng.uniform(0.85, 1.15, 3)
    time = np.arange(int(5 * max(ring, wires) * sample_rate)) / sample_rate
    phase = np.cumsum(2 * np.pi * tone / sample_rate * (1 + hit.drop * np.exp(-time / 0.02)))
    edges = np.minimum(hit.band, (0.4 * sample_rate, 0.48 * sample_rate))
    wires_filter = signal.butter(2, edges, "bandpass", fs=sample_rate, output="sos")
    noise = signal.sosfilt(wires_filter, rng.normal(size=time.size))
    skin = np.sin(phase) * np.exp(-time / ring)
    return np.asarray(skin + hit.noise * noise * np.exp(-time / wires), np.float32)


# Effects: amplifier, room and recording


def _gain(decibels: float) -> float:
    return float(10 ** (decibels / 20))


def _normalise(audio: Audio) -> Audio:
    """Scale to peak 1; silence stays silent."""
    return np.asarray(audio / max(np.abs(audio).max(), 1e-9), np.float32)


def _amplify(bus: Audio, drive: float, sample_rate: int) -> Audio:
    """Saturate as a valve does, then cut above 4.5 kHz as a guitar's loudspeaker does."""
    if not drive:
        return bus
    cabinet = signal.butter(3, min(4500, 0.4 * sample_rate), fs=sample_rate, output="sos")
    return np.asarray(signal.sosfilt(cabinet, np.tanh(np.float32(1 + drive) * bus)), np.float32)


@dataclass(frozen=True)
class Recording:
    """The acoustics of a room, and the recording medium."""

    room: float  # s, in which the reverberation falls by 60 dB
    band: tuple[float, float]  # Hz, that the medium passes
    loudness: float  # drive into the limiter
    tilt: float  # dB per octave, of the equaliser
    hiss: float  # dB, background noise


RECORDINGS = {
    "shellac": Recording(room=0.3, band=(110, 4500), loudness=0.8, tilt=-2, hiss=-42),
    "tape": Recording(room=0.5, band=(60, 7000), loudness=1.0, tilt=-1, hiss=-52),
    "vinyl": Recording(room=0.4, band=(45, 8500), loudness=1.2, tilt=-0.5, hiss=-50),
    "studio": Recording(room=0.4, band=(40, 10000), loudness=1.2, tilt=0, hiss=-70),
    "chamber": Recording(room=1.2, band=(50, 8500), loudness=0.5, tilt=-2, hiss=-62),
    "hall": Recording(room=2.2, band=(35, 9500), loudness=0.4, tilt=-1.5, hiss=-70),
    "club": Recording(room=0.8, band=(32, 10500), loudness=1.8, tilt=-0.5, hiss=-65),
    "radio": Recording(room=0.6, band=(40, 10500), loudness=2.6, tilt=0.5, hiss=-80),
    "lo-fi": Recording(room=0.2, band=(32, 6500), loudness=2.2, tilt=-2, hiss=-48),
    "dub": Recording(room=1.4, band=(30, 8000), loudness=1.2, tilt=-2, hiss=-58),
    "arena": Recording(room=0.7, band=(50, 10000), loudness=2.0, tilt=-0.5, hiss=-70),
    "loud": Recording(room=0.3, band=(60, 10500), loudness=3.2, tilt=0, hiss=-75),
}


def _master(mix: Audio, stage: Stage) -> Audio:
    """Add the room's reverberation, the dynamics, the medium and its hiss, limit, and set a level."""
    rng, rate = stage.rng, stage.sample_rate
    recording = _vary(RECORDINGS[stage.song.recording], rng)
    size = fft.next_fast_len(len(mix) + int(recording.room * rate), real=True)
    spectrum = fft.rfft(mix, size) * _room(recording, rng, size, rate) * _medium(recording, size, rate)
    cycles = np.arange(len(mix), dtype=np.float32) / np.float32(rng.uniform(5, 9) * rate)
    swell = np.float32(1.15 * stage.song.expression) * np.sin(2 * np.pi * (cycles + np.float32(rng.uniform())))
    recorded = _normalise(fft.irfft(spectrum, size)[: len(mix)] * np.exp(swell))
    recorded += np.float32(_gain(recording.hiss)) * rng.standard_normal(len(mix), np.float32)
    limited = _normalise(np.tanh(np.float32(recording.loudness) * recorded))
    return np.asarray(rng.uniform(0.4, 1) * limited, np.float32)


def _vary(recording: Recording, rng: np.random.Generator) -> Recording:
    """Vary a recording's parameters at random, so that no two sessions sound the same."""
    room, top, loudness = np.exp(rng.normal(0, (0.3, 0.12, 0.25)))
    low, high = recording.band
    return Recording(
        room=recording.room * room,
        band=(low, high * top),
        loudness=recording.loudness * loudness,
        tilt=recording.tilt + rng.normal(0, 0.6),
        hiss=recording.hiss + rng.normal(0, 6),
    )


def _room(recording: Recording, rng: np.random.Generator, size: int, sample_rate: int) -> Spectrum:
    """Spectrum of an impulse and its reverberation, noise that decays exponentially (Moorer 1979)."""
    time = np.arange(int(recording.room * sample_rate)) / sample_rate
    echo = rng.standard_normal(len(time)) * 10 ** (-3 * time / recording.room)
    echo *= 0.3 * np.sqrt(recording.room) / np.linalg.norm(echo)
    echo[0] = 1
    return np.asarray(fft.rfft(echo.astype(np.float32), size), np.complex64)


def _medium(recording: Recording, size: int, sample_rate: int) -> Audio:
    """Gain at each frequency: a tilt about 1 kHz, and Butterworth edges of second and fourth order."""
    hertz = np.maximum(fft.rfftfreq(size, 1 / sample_rate), 1)
    low, high = recording.band
    edges = np.sqrt((1 + (low / hertz) ** 4) * (1 + (hertz / high) ** 8))
    return np.asarray((hertz / 1000) ** (recording.tilt / 6.02) / edges, np.float32)


# The genres

STYLES = {
    "blues": Style(
        neighbours=("rock", "jazz", "country"),
        tempo=(66, 78, 92, 108, 122),
        swing=((1, 0.67), (1, 0.64), (1, 0.66)),
        groove=("shuffle", "slow shuffle", "shuffle", "backbeat"),
        kit=("acoustic", "acoustic", "brushes"),
        harmony=("C7 F7 C7 C7 F7 F7 C7 C7 G7 F7 C7 G7", "Cm7 Cm7 Cm7 Cm7 Fm7 Fm7 Cm7 Cm7 Ab7 G7 Cm7 G7"),
        bass=("1_1_3_3_5_5_6_6_", "1___3___5___6___", "1_.11_.15_.51_.1"),
        bass_voice=("upright bass", "finger bass"),
        comp=("1_1_5_5_6_6_5_5_", "x_.x....x_.x....", "....x_......x_.."),
        comp_voice=("clean guitar", "crunch guitar", "piano", "organ"),
        lead=("..n_n_n_n___....|....n_nnn___....", "n___nn_n________|..........n_n_n_", "nn_nn_n_____...."),
        lead_voice=("blues guitar", "blues guitar", "harmonica"),
        mix=((-6, -6, -8, -18, -3), (-9, -5, -6, -16, -2)),
        recording=("shellac", "tape", "vinyl"),
    ),
    "classical": Style(
        neighbours=("jazz", "jazz", "pop"),
        tempo=(58, 72, 88, 104, 126),
        groove=("none",),
        kit=("brushes",),
        harmony=("C G Am Em F C F G", "Cm Gm Ab Eb Fm Cm Fm G", "C F G C Am Dm G C", "Am Dm G C F Dm E Am"),
        bass=("1_______5_______", "1_______________", "1___5___3___5___", ""),
        bass_voice=("cello", "cello", "piano"),
        comp=("1_5_3_5_1_5_3_5_", "1535153515351535", "1_3_5_8_5_3_5_3_", "x_______x_______"),
        comp_voice=("piano", "piano", "nylon guitar", "strings"),
        pad=("", HELD, "x_______x_______"),
        pad_voice=("strings",),
        lead=("n_____n_n___n___|n_______n___....", "n___n___n_n_n_n_|n_n_n___n_______", "n_n_nnnnn___n_n_"),
        lead_voice=("violin", "violin", "flute", "piano"),
        mix=((-22, -9, -5, -8, -2), (-24, -12, -2, -12, -6), (-22, -8, -9, -3, -3)),
        recording=("hall", "chamber", "hall", "tape"),
        expression=(0.5, 0.8, 1.0),
    ),
    "country": Style(
        neighbours=("rock", "blues", "pop"),
        tempo=(86, 98, 110, 122, 134),
        swing=(STRAIGHT, (1, 0.54), (1, 0.62)),
        groove=("train", "train", "two-beat", "backbeat"),
        kit=("brushes", "acoustic"),
        harmony=("C C F F C C G C", "C F C G", "C G C F C G C C", "C Am F G"),
        bass=("1_......5_......", "1___....5___....", "1_..1_..5_..5_.."),
        bass_voice=("upright bass", "finger bass", "pick bass"),
        comp=("..x_..x_..x_..x_", "....x_x_....x_x_", "1358135813581358", "x_xxx_xxx_xxx_xx"),
        comp_voice=("steel guitar", "twang guitar", "banjo"),
        pad_voice=("pedal steel",),
        lead=("n_n_n___n_n_n___|n_n_n_n_n___....", "n_nnn_n_n_nnn_n_|n___....n_nnn_n_", "....n_n_n_n_n_n_"),
        lead_voice=("twang guitar", "fiddle", "pedal steel", "voice"),
        mix=((-10, -6, -5, -14, -3), (-8, -5, -4, -13, -5)),
        recording=("tape", "studio", "vinyl"),
    ),
    "disco": Style(
        neighbours=("pop", "pop", "hiphop", "reggae"),
        tempo=(108, 114, 119, 125, 130),
        groove=("four on the floor", "four on the floor", "disco"),
        kit=("acoustic", "machine"),
        harmony=("Am7 Dm7 G7 CM7", "Cm7 Cm7 Fm7 G7", "Cm7 Bb Ab Bb", "FM7 Em7 Dm7 G7"),
        bass=("1_8_1_8_1_8_1_8_", "1.8.1.8.1.8.5.8.", "1_..8_1_.1..8_8_"),
        bass_voice=("finger bass", "synth bass"),
        comp=("..x...x...x...x.", "x.xx.xx.x.xx.xx.", "..xx..x...xx..x."),
        comp_voice=("clean guitar", "electric piano"),
        pad=(HELD, HELD, "x___________x_x_"),
        pad_voice=("strings", "strings", "synth pad"),
        lead=("n___n_n_n_______|................", "n_n_..n_n_..n___|n_______........", "n_______n_nnn_n_"),
        lead_voice=("strings", "brass", "voice"),
        mix=((-2, -4, -9, -7, -8), (-1, -3, -11, -9, -7)),
        recording=("club", "vinyl"),
    ),
    "hiphop": Style(
        neighbours=("reggae", "disco", "pop", "jazz"),
        tempo=(74, 82, 88, 94, 100),
        swing=((0.5, 0.56), (0.5, 0.6), (0.5, 0.64)),
        groove=("boom bap", "syncopated", "trap"),
        kit=("dusty", "machine", "dusty"),
        harmony=("Cm7 Cm7 Ab Ab", "Cm7 Fm7", "Cm Ab Cm G7", "Cm7 Cm7"),
        bass=("1_____.1..5_....", "1________.......", "1__1....1_....5_"),
        bass_voice=("sub bass",),
        comp=("x_..........x_..", "x_____..........", "..x_......x_....", "1_3_5_..8_5_...."),
        comp_voice=("electric piano", "piano", "strings"),
        pad_voice=("synth pad",),
        lead=("n_nnn_n_nn_nn_..", "nnn_nnn_n_nnn_..|nn_nn_nnn_n_....", "..nnn_nn..n_nnn_"),
        lead_voice=("rap",),
        mix=((-3, -7, -9, -14, -4), (-4, -8, -7, -12, -5)),
        recording=("lo-fi", "radio", "club"),
    ),
    "jazz": Style(
        neighbours=("blues", "classical", "hiphop"),
        tempo=(88, 112, 136, 160, 184),
        swing=((1, 0.6), (1, 0.64), (1, 0.67)),
        groove=("swing", "swing", "brush swing", "swing"),
        kit=("brushes", "acoustic"),
        harmony=("Dm7 G7 CM7 A7", "CM7 Am7 Dm7 G7", "Cm7 F7 BbM7 EbM7 Am7 D7 Gm7 Gm7", "C7 A7 Dm7 G7"),
        bass=("1___n___n___n___", "1___3___5___n___", "1___n___5___n_n_"),
        bass_voice=("upright bass",),
        comp=("......x_......x_", "x_....x_........|....x_....x_....", "x_____x_........"),
        comp_voice=("piano", "piano", "clean guitar"),
        pad=("",),
        lead=("n_n_n_n_n_nnn_n_|n_n_n___....n_n_", "..n_n_n___n_n___|n_nnn_n_n___....", "n_nnn_nnn_n_n___"),
        lead_voice=("sax", "sax", "trumpet", "piano"),
        mix=((-9, -5, -8, -20, -2), (-11, -4, -6, -20, -4)),
        recording=("shellac", "chamber", "studio"),
        expression=(0.0, 0.0, 0.2),
    ),
    "metal": Style(
        neighbours=("rock",),
        tempo=(96, 116, 138, 160, 182),
        groove=("double kick", "gallop", "thrash"),
        kit=("tight",),
        harmony=("C5 C5 Db5 Eb5", "C5 Ab5 Bb5 C5", "C5 C5 F#5 F5", "C5 Db5 C5 Bb5"),
        bass=("1111111111111111", "1.111.111.111.11", "1_1_1_1_1_1_1_1_"),
        bass_voice=("pick bass",),
        comp=("xxx_xxx_xxx_x_x_", "x.xxx.xxx.xxx.xx", "xxxxxxxxx___x___", "x.x.x.xxx_______"),
        comp_voice=("high-gain guitar",),
        pad_voice=("high-gain guitar",),
        lead=(
            "nnnnnnnnnnnnnnnn",
            "................|n_nnn_nnnnnnn_nn",
            "n_______n_n_n_n_",
            "n_nnn_nnn___n_nn",
        ),
        lead_voice=("screaming guitar", "growl"),
        mix=((-3, -7, -4, -10, -9), (-3, -9, -3, -10, -10)),
        recording=("arena", "loud"),
    ),
    "pop": Style(
        neighbours=("disco", "rock", "hiphop", "country"),
        tempo=(88, 98, 108, 118, 126),
        swing=(STRAIGHT, STRAIGHT, (0.5, 0.54)),
        groove=("pop", "backbeat", "four on the floor", "pop"),
        kit=("machine", "acoustic"),
        harmony=("C G Am F", "Am F C G", "F G Em Am", "C Am F G"),
        bass=("1_1_1_1_1_1_1_1_", "1_____1_1_____5_", "1___....1___..5_"),
        bass_voice=("synth bass", "finger bass"),
        comp=("x___x___x___x___", "x_____x_____x___", "1_5_8_5_3_5_8_5_", "x_x_x_x_x_x_x_x_"),
        comp_voice=("bright synth", "electric piano", "steel guitar"),
        pad=(HELD, "x_______x_______", ""),
        pad_voice=("synth pad", "strings"),
        lead=("n___n_n_n___n___|n_n_n_______....", "..n_n_n_n_____n_|n_____n_n___....", "n_n_n_n_n_n_n___"),
        lead_voice=("voice", "voice", "bright synth"),
        mix=((-4, -5, -7, -9, -3), (-5, -6, -6, -11, -2)),
        recording=("radio", "radio", "studio"),
    ),
    "reggae": Style(
        neighbours=("hiphop", "hiphop", "disco", "rock"),
        tempo=(66, 72, 78, 84, 92),
        swing=((0.5, 0.5), (0.5, 0.56), (0.5, 0.6)),
        groove=("one drop", "one drop", "steppers"),
        kit=("acoustic", "dusty"),
        harmony=("Am Dm Am Dm", "C F C F", "Am G Am G", "C Am F G"),
        bass=("1__15_3_....5_1_", "..1_3_5_1___....", "1_1_..3_5_..1_..|1_5_..5_3_1_...."),
        bass_voice=("deep bass",),
        comp=("..x...x...x...x.", "..x...x...x...x.", "..xx..x...xx..x."),
        comp_voice=("clean guitar", "piano", "organ"),
        pad=("", ".1.1.1.1.1.1.1.1", ".x_x...x.x_x...x"),
        lead=("n___n_n_n___....|..n_n_n_n_______", "....n_n_n_n_....|................", "n_n_n___........"),
        lead_voice=("voice", "voice", "melodica", "brass"),
        mix=((-6, -5, -5, -11, -6), (-5, -6, -5, -10, -4)),
        recording=("dub", "dub", "vinyl"),
    ),
    "rock": Style(
        neighbours=("metal", "pop", "blues", "country"),
        tempo=(92, 106, 118, 130, 144),
        swing=(STRAIGHT, STRAIGHT, (1, 0.54)),
        groove=("backbeat", "driving", "driving", "backbeat"),
        kit=("acoustic",),
        harmony=("C5 F5 G5 F5", "C Bb F C", "C5 Eb5 F5 C5", "A5 F5 C5 G5", "C G F F"),
        bass=("1_1_1_1_1_1_1_1_", "1_1_1_1_1_1_5_5_", "1___1_1_1___5_3_"),
        bass_voice=("pick bass", "finger bass"),
        comp=("x_x_x_x_x_x_x_x_", "x_____x_x___x_x_", "x___x_x_..x_x___", "x_______x___x___"),
        comp_voice=("crunch guitar", "crunch guitar", "steel guitar"),
        pad_voice=("organ", "crunch guitar"),
        lead=("n___n_n_n_n_n___|n_n_n_______....", "....n_n_n___n_n_|n_______........", "n_n_n_n_nnn_n___"),
        lead_voice=("blues guitar", "voice"),
        mix=((-3, -5, -7, -14, -6), (-3, -6, -5, -14, -6)),
        recording=("arena", "studio", "vinyl"),
    ),
}

GROOVES = {  # sixteen steps a bar: X accent, x hit, - ghost note, ? every other time
    "none": "",
    "shuffle": "kick X.....?.X.....?. snare ....X.......X... hat X.x.X.x.X.x.X.x.",
    "slow shuffle": "kick X.......X.?..... rim ....X.......X... ride Xx?.Xx?.Xx?.Xx?.",
    "train": "kick x...x...x...x... snare --X---X---X---X- hat ....x.......x...",
    "two-beat": "kick X.......X....... snare ....x.......x... hat ..x...x...x...x.",
    "four on the floor": "kick X...X...X...X... snare ....X.......X... open ..X...X...X...X.",
    "disco": "kick X...X...X...X... clap ....X.......X... open ..x...x...x...x. hat Xx.xXx.xXx.xXx.x",
    "boom bap": "kick X......?..X..... snare ....X.......X..? hat x.x.x.x.x.x.x.x.",
    "syncopated": "kick X..x...?..Xx.... snare ....X.......X... hat x.x-x.x-x.x-x.x?",
    "trap": "kick X.....x...x..?.. clap ........X....... hat x-x-x-x-x-xxx-x-",
    "swing": "ride X...X.x.X...X.x. hat ....x.......x... kick -...?...-...?... snare ......-......?..",
    "brush swing": "snare -.-.X.-.-.-.X.-. ride x...x.x.x...x.x. hat ....-.......-...",
    "double kick": "kick xxxxxxxxxxxxxxxx snare ....X.......X... crash X.......X.......",
    "gallop": "kick X.xxX.xxX.xxX.xx snare ....X.......X... hat X...X...X...X...",
    "thrash": "kick X...X...X...X... snare ..X...X...X...X. ride x.x.x.x.x.x.x.x.",
    "backbeat": "kick X.......X.x...?. snare ....X.......X... hat X.x.X.x.X.x.X.x.",
    "driving": "kick X.....x.X.x...?. snare ....X.......X..? open x.x.x.x.x.x.x.x. crash ?...............",
    "pop": "kick X.....x.X.....?. clap ....X.......X... shaker x-x-x-x-x-x-x-x-",
    "one drop": "kick ........X....... rim ........X......? hat x.x.x.x-x.x.x.x-",
    "steppers": "kick X...X...X...X... rim ........X....... hat ..x...x...x...x?",
}
