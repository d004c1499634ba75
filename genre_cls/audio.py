"""Any audio file to a mono float32 waveform at the rate the features want."""

import os
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

EXTENSIONS = (".wav", ".au", ".aif", ".aiff", ".flac", ".ogg", ".opus", ".mp3")
LONGEST = 1 << 31  # samples, 13 hours at 44.1 kHz; no header that claims more is right
LOUDEST = 1e12  # full scale is 1; the power of what is louder may overflow


class UnreadableAudio(ValueError):
    """A file that holds no usable audio; the message is the reason, without the path."""


def decode(path: Path, sample_rate: int) -> NDArray[np.float32]:
    """Decode one file to mono at a given rate.

    Args:
        path: a file in any format libsndfile knows (`EXTENSIONS`).
        sample_rate: rate of the result in Hz; other rates are resampled by soxr's HQ sinc.

    Returns:
        Waveform `(n_samples,)`, float32, full scale at +-1, the channels averaged.

    Raises:
        UnreadableAudio: no such file, no audio format, no samples, or NaN or infinite samples.
    """
    try:
        waveform, native_rate = _read(path)
    except (OSError, RuntimeError, TypeError) as error:  # libsndfile's are RuntimeErrors; TypeError for .raw
        raise UnreadableAudio(_reason(path, error)) from error
    if not np.abs(waveform).max(initial=0) < LOUDEST:  # of NaN, too
        raise UnreadableAudio("has NaN, infinite or absurdly large samples")
    if native_rate != sample_rate:
        waveform = soxr.resample(waveform, native_rate, sample_rate, quality="HQ")
    if not waveform.size:
        raise UnreadableAudio("has no samples")
    return waveform


def _read(path: Path) -> tuple[NDArray[np.float32], int]:
    with path.open("rb"):  # where the system will not open it, it knows better than libsndfile why
        pass
    with soundfile.SoundFile(os.fsencode(path)) as file:
        if file.format == "RAW":  # libsndfile's guess from the name, for bytes of no format that it knows
            raise RuntimeError("Format not recognised")
        if file.frames > LONGEST:
            raise RuntimeError("does not tell its length")
        # At once: soundfile seeks between blocks, which silences parts of an mp3.
        return file.read(dtype="float32", always_2d=True).mean(axis=1), file.samplerate


def _reason(path: Path, error: Exception) -> str:
    if isinstance(error, OSError):
        return (error.strerror or str(error)).lower()
    if path.stat().st_size == 0:
        return "is an empty file"
    reason = getattr(error, "error_string", str(error))  # libsndfile's, without the path
    return "Format not recognised" if "does not exist" in reason else reason.rstrip(".")
