"""What is said of one file, and how a file is heard part by part; needs neither PyTorch nor a model's format."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from genre_cls.audio import UnreadableAudio, duration, no_music, path_noted, refusal, segments
from genre_cls.calibration import Floats, tempered

SEGMENT = 60.0  # s, of audio that is in memory at once
LONGEST = 12.0  # h, no piece of music and few recordings are longer


@dataclass(frozen=True, eq=False)
class Prediction:
    """What is said of one file.

    Args:
        genres: names in the order of the columns.
        seconds: how long the file lasts, s.
        starts: where each window begins `(n_windows,)`, s; windows do not cover what is silent for a minute.
        ends: where each window ends `(n_windows,)`, s.
        windows: the networks' vote on each window `(n_windows, n_genres)`, rows sum to 1.
        temperature: that makes the mean over windows as sure as it is right.
    """

    genres: tuple[str, ...]
    seconds: float
    starts: Floats
    ends: Floats
    windows: Floats
    temperature: float = 1.0

    @property
    def vote(self) -> Floats:
        """The mean over windows `(n_genres,)`, which is what evaluation keeps of a track."""
        mean: Floats = self.windows.mean(axis=0)
        return mean

    @property
    def probabilities(self) -> Floats:
        """How probable each genre is `(n_genres,)`, their sum is 1."""
        return tempered(self.vote, self.temperature)

    @property
    def genre(self) -> str:
        """The most probable genre."""
        return self.ranked[0][0]

    @property
    def ranked(self) -> list[tuple[str, float]]:
        """Genres with their probabilities, the most probable first."""
        probabilities = self.probabilities
        order = np.argsort(-probabilities, kind="stable")
        return [(self.genres[i], float(probabilities[i])) for i in order]

    def over_time(self, seconds: float = 30.0) -> list[tuple[float, float, str | None]]:
        """The most probable genre of one stretch of the file after the other.

        Args:
            seconds: length of a stretch, s; the last one ends with the file.

        Returns:
            (start in s, end in s, genre): the windows' mean, each weighted by how much of the stretch it covers; None
            where no window covers any of it.
        """
        bounds, shares = self.shares_over_time(seconds)
        genres = [None if np.isnan(own).any() else self.genres[int(own.argmax())] for own in shares]
        return [(start, end, genre) for (start, end), genre in zip(pairwise(bounds.tolist()), genres, strict=True)]

    def shares_over_time(self, seconds: float) -> tuple[Floats, Floats]:
        """The probabilities of one stretch of the file after the other.

        Args:
            seconds: length of a stretch, s; the last one ends with the file.

        Returns:
            Where the stretches begin, and where the last one ends `(n_stretches + 1,)`, s; and the windows' mean
            `(n_stretches, n_genres)`, each weighted by how much of the stretch it covers, at the same temperature as
            the file; NaN where no window covers any of it.
        """
        n_stretches = max(1, math.ceil(self.seconds / seconds - 1e-3))  # a thousandth is a rounding error's
        bounds = np.array([*seconds * np.arange(n_stretches), self.seconds])
        return bounds, np.array([self._between(start, end) for start, end in pairwise(bounds)])

    def _between(self, start: float, end: float) -> Floats:
        covered = np.clip(np.minimum(self.ends, end) - np.maximum(self.starts, start), 0, None)  # s
        if not covered.any():
            return np.full(len(self.genres), np.nan)
        return tempered(covered @ self.windows / covered.sum(), self.temperature)


@dataclass(frozen=True, eq=False)
class Clip:
    """A part of a file that is parts as one, to be looked at.

    Args:
        waveform: `(n_samples,)`, mono, full scale at +-1.
        sample_rate: of the waveform, Hz.
        mel: log-mel spectrogram `(n_mels, n_frames)`, dB.
        frequencies: centres of the mel bands `(n_mels,)`, Hz.
        seconds_per_frame: time between frames, s.
    """

    waveform: NDArray[np.float32]
    sample_rate: int
    mel: NDArray[np.float32]
    frequencies: Floats
    seconds_per_frame: float

    @property
    def seconds(self) -> float:
        """How long it lasts, s."""
        return len(self.waveform) / self.sample_rate


@dataclass(frozen=True, eq=False)
class Explanation:
    """What in a clip speaks for a genre and what against it.

    Args:
        genre: that is explained.
        clip: that is explained.
        evidence: what each value of its log-mel spectrogram adds to the genre's logit less the mean of all genres'
            logits `(n_mels, n_frames)`; negative where it speaks against the genre.
        difference: that logit of the clip less that of the clip that it is compared with: the sum of the evidence, but
            for the error of integration.
        origin: the clip that it is compared with, in words.
    """

    genre: str
    clip: Clip
    evidence: NDArray[np.float32]
    difference: float
    origin: str

    @property
    def note(self) -> str:
        """How it was made and of how much of a file, in a sentence."""
        seconds = self.clip.mel.shape[1] * self.clip.seconds_per_frame
        return f"Integrated gradients from {self.origin}, over the first {seconds:.0f} s."


class Classifier(ABC):
    """Base class of classifiers of audio files.

    Args:
        genres: names in the order of the columns.
        dataset: name of the dataset that it was trained on.
        sample_rate: of the clips that it takes, Hz.
        longest: length of the longest clip that it takes, s; a longer file is cut into the fewest equal clips that are
            not longer.
        temperature: applied to the mean over a file's windows.
    """

    def __init__(
        self, genres: tuple[str, ...], dataset: str, sample_rate: int, longest: float, temperature: float
    ) -> None:
        self.genres, self.dataset = genres, dataset
        self._sample_rate, self._longest, self._temperature = sample_rate, longest, temperature

    def predict(self, path: str | Path) -> Prediction:
        """Classify one audio file.

        Args:
            path: a file in any format that libsndfile reads, of any sample rate and number of channels, from
                `audio.SHORTEST` to `LONGEST`.

        Raises:
            UnreadableAudio: there is no such file, or it is no audio, too short, too long, or silent (below -80 dB of
                full scale throughout); the message is the reason, its note the path.
            UserError: the model's outputs are no probabilities.
        """
        with path_noted(path):
            return self._predict(Path(path))

    @abstractmethod
    def _predict_clip(self, waveform: NDArray[np.float32]) -> tuple[Floats, Floats, Floats]:
        """Classify the windows of a clip.

        Args:
            waveform: `(n_samples,)`, mono at the sample rate, full scale at +-1.

        Returns:
            Starts and ends of the windows `(n_windows,)`, s from the beginning of the clip, and their probabilities
            `(n_windows, n_genres)`.
        """

    def _predict(self, path: Path) -> Prediction:
        parts, seconds, reason = [], 0.0, "has no samples"
        if (hours := duration(path) / 3600) > LONGEST:
            raise UnreadableAudio(f"lasts {hours:.1f} h, more than the {LONGEST:g} h that are taken")
        for waveform in segments(path, self._sample_rate, self._longest):
            if not (reason := no_music(waveform, self._sample_rate)):
                starts, ends, windows = self._predict_clip(waveform)
                parts.append((seconds + starts, seconds + ends, windows))
            seconds += len(waveform) / self._sample_rate
        if not parts:
            raise refusal(path, reason)
        starts, ends, windows = (np.concatenate(part) for part in zip(*parts, strict=True))
        return Prediction(self.genres, seconds, starts, ends, windows, self._temperature)


def first_waveform(path: Path, *, sample_rate: int, longest: float) -> NDArray[np.float32]:
    """The first of the clips that `Classifier.predict` classifies, as a waveform `(n_samples,)`.

    Raises:
        UnreadableAudio: the file, or this part of it, cannot be parts.
    """
    waveform = next(segments(path, sample_rate, longest), np.zeros(0, np.float32))
    if reason := no_music(waveform, sample_rate):
        raise UnreadableAudio(reason)
    return waveform


def is_onnx(path: str | Path) -> bool:
    """Whether a model's file is, or is to be, an ONNX graph, by its name."""
    return Path(path).suffix.lower() == ".onnx"


def longest_clip(window: float) -> float:
    """How long a clip may be that is parts as one, s, for a model that hears windows of so many s."""
    return max(SEGMENT, 2 * window)
