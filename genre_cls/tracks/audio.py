"""Decode audio files to mono float32 waveforms at the sample rate of the features, whole or in parts."""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from genre_cls.errors import system_reason

SHORTEST = 0.5  # s; anything shorter is refused
BRIEF = 0.1  # s of sound; less is a click, or the edge of what the next part of a long file holds
SILENT = "is silent"
SILENCE = 1e-4  # of full scale, -80 dB; above the noise of 16-bit quantisation
LONGEST = 1 << 31  # samples, 13 hours at 44.1 kHz; a header that claims more is wrong
AT_ONCE = 1 << 28  # samples of a part, before or after resampling: 3.4 hours at 22.05 kHz, 1 GB
FASTEST = 1_000_000  # Hz, above any real sample rate
LOUDEST = 1e12  # full scale is 1; the power of anything louder may overflow
EVERY = 8  # only every eighth sample is looked at for whether there is sound, which suffices
BLOCK = 1 << 20  # samples of all channels together that are read at once


class UnreadableAudio(ValueError):
    """A file without usable audio; the message is the reason, without the path, which may be in a note."""


class Header(NamedTuple):
    """What a file claims: its duration, s, and its sample rate, Hz."""

    seconds: float
    sample_rate: int


def decode(path: Path, sample_rate: int) -> NDArray[np.float32]:
    """Decode one file to mono at a given rate.

    Args:
        path: a file in any format that libsndfile knows (`listing.EXTENSIONS`).
        sample_rate: rate of the result, Hz; other rates are resampled by soxr's HQ sinc.

    Returns:
        Waveform `(n_samples,)`, float32, full scale at ±1, the channels averaged.

    Raises:
        UnreadableAudio: no such file, no audio format, no samples, NaN, infinite or absurdly large samples, or too
            many for memory.
    """
    for waveform in segments(path, sample_rate, math.inf):
        return waveform
    raise UnreadableAudio("has no samples")


def segments(path: Path, sample_rate: int, longest: float) -> Iterator[NDArray[np.float32]]:
    """Decode one file part by part, each as if it were a file of its own, in memory independent of the file's length.

    Args:
        path: as for `decode`.
        sample_rate: rate of the results, Hz.
        longest: longest part, s; the file is cut into the fewest parts of equal length. A file that is no longer than
            this is one part, the same as from `decode`.

    Yields:
        Waveforms `(n_samples,)` as from `decode`, none if the file has no samples.

    Raises:
        UnreadableAudio: as from `decode`, and only when the iteration reaches that part.
    """
    with _opened(path) as file:
        n_parts = max(1, math.ceil(file.frames / (longest * file.samplerate)))
        largest = file.frames / n_parts * max(1, sample_rate / file.samplerate)
        if largest > AT_ONCE:
            hours = file.frames / file.samplerate / 3600
            raise UnreadableAudio(f"lasts {hours:.1f} hours at {file.samplerate} Hz, too long to be held at once")
        ends = [file.frames * part // n_parts for part in range(n_parts + 1)]
        for start, end in pairwise(ends):
            waveform = _read(file, end - start, sample_rate)
            if not waveform.size:  # the header claimed more samples than there are
                return
            yield waveform


def no_music(waveform: NDArray[np.float32], sample_rate: int) -> str:
    """Return why there is no music in a waveform `(n_samples,)` at a rate in Hz; empty if there may be some."""
    seconds = len(waveform) / sample_rate
    if not seconds:
        return "has no samples"
    if seconds < SHORTEST:
        return f"lasts less than the {SHORTEST:g} s that are needed"
    if float((np.abs(waveform[::EVERY]) >= SILENCE).mean()) * seconds >= BRIEF:
        return ""
    return SILENT if _peak(waveform) < SILENCE else f"has sound for less than {BRIEF:g} s"


def refusal(path: Path, reason: str) -> UnreadableAudio:
    """Return the error to raise for a file without music; one that is silent in mono is read again channel by channel.

    Args:
        path: of the file.
        reason: from `no_music`.

    Raises:
        UnreadableAudio: as from `decode`.
    """
    return UnreadableAudio(_why_silent(path) if reason == SILENT else reason)


@contextmanager
def path_noted(path: str | Path) -> Iterator[None]:
    """Add the path as a note to an `UnreadableAudio` from the block, for callers that do not know which file it was."""
    try:
        yield
    except UnreadableAudio as error:
        error.add_note(str(path))
        raise


def header(path: Path) -> Header:
    """Read what a file claims.

    Raises:
        UnreadableAudio: no such file, or no audio format.
    """
    with _opened(path) as file:
        return Header(file.frames / file.samplerate, file.samplerate)


class _Stream(soundfile.SoundFile):  # type: ignore[misc]
    """A file that is read from start to end.

    soundfile seeks after each block of a seekable file, which silences parts of an mp3.
    """

    def seekable(self) -> bool:
        return False


@contextmanager
def _opened(path: Path) -> Iterator[_Stream]:
    try:
        if not (path.is_file() or path.is_dir()) and path.exists():
            raise UnreadableAudio("is not a regular file")  # opening a pipe would wait for ever
        with path.open("rb"):  # the system's error says better than libsndfile's why a file cannot be opened
            pass
        with _stream(path) as file:
            _check(file)
            yield file
    except (OSError, RuntimeError) as error:  # libsndfile's are RuntimeErrors
        raise UnreadableAudio(_reason(path, error)) from error


def _stream(path: Path) -> _Stream:
    try:
        return _Stream(os.fsencode(path))
    except TypeError as error:  # soundfile asks for the rate of a .raw file
        raise RuntimeError("Format not recognised") from error


def _check(file: _Stream) -> None:
    if file.format == "RAW":  # libsndfile's guess from the name, where it does not recognise the bytes
        raise RuntimeError("Format not recognised")
    if file.frames > LONGEST:
        raise RuntimeError("does not state its length")
    if not 0 < file.samplerate <= FASTEST:
        raise RuntimeError(f"has a sample rate of {file.samplerate} Hz")


def _read(file: _Stream, n_frames: int, sample_rate: int) -> NDArray[np.float32]:
    """Read the next frames, average the channels and resample."""
    waveform = np.concatenate([np.zeros(0, np.float32), *_blocks(file, n_frames)])
    if not _peak(waveform) < LOUDEST:  # NaN included
        raise UnreadableAudio("has NaN, infinite or absurdly large samples")
    if file.samplerate == sample_rate:
        return waveform
    return soxr.resample(waveform, file.samplerate, sample_rate, quality="HQ")


def _why_silent(path: Path) -> str:
    with _opened(path) as file:
        audible = any(_peak(block) >= SILENCE for block in _channels(file, file.frames))
    return "has channels that cancel each other out when they are mixed to mono" if audible else SILENT


def _peak(waveform: NDArray[np.float32]) -> float:
    return float(max(waveform.max(initial=0), -waveform.min(initial=0)))  # `np.abs` would copy the waveform


def _blocks(file: _Stream, n_frames: int) -> Iterator[NDArray[np.float32]]:
    for block in _channels(file, n_frames):
        yield block.mean(axis=1) if file.channels > 1 else block[:, 0]  # `mean` of one channel would be slow


def _channels(file: _Stream, n_frames: int) -> Iterator[NDArray[np.float32]]:
    size = max(1, BLOCK // file.channels)  # a header may claim a thousand channels
    dtype = "int16" if file.subtype == "PCM_16" else "float32"  # from 16 bits libsndfile takes four times as long
    while n_frames and len(block := file.read(min(size, n_frames), dtype=dtype, always_2d=True)):
        n_frames -= len(block)
        yield block / np.float32(1 << 15) if dtype == "int16" else block


def _reason(path: Path, error: Exception) -> str:
    if isinstance(error, OSError):
        return system_reason(error)
    if path.stat().st_size == 0:
        return "is an empty file"
    reason = getattr(error, "error_string", str(error))  # libsndfile's, without the path
    return "Format not recognised" if "does not exist" in reason else reason.removeprefix("Error : ").rstrip(".")
