"""Any audio file to a mono float32 waveform at the rate the features want."""

from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

EXTENSIONS = (".wav", ".au", ".aif", ".aiff", ".flac", ".ogg", ".opus", ".mp3")


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
        channels, native_rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (OSError, RuntimeError) as error:  # libsndfile's errors derive from RuntimeError
        raise UnreadableAudio(_reason(path, error)) from error
    waveform: NDArray[np.float32] = channels.mean(axis=1)
    if not waveform.size:
        raise UnreadableAudio("has no samples")
    if not np.isfinite(waveform).all():
        raise UnreadableAudio("has NaN or infinite samples")
    if native_rate != sample_rate:
        waveform = soxr.resample(waveform, native_rate, sample_rate, quality="HQ")
    return waveform


def _reason(path: Path, error: Exception) -> str:
    if not path.exists():
        return "no such file"
    if path.stat().st_size == 0:
        return "is an empty file"
    return str(error).replace(f"Error opening {str(path)!r}: ", "").strip().rstrip(".")
