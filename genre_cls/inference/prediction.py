"""Predictions for audio files, and the base class of classifiers; needs neither PyTorch nor a model format."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from genre_cls.evaluation.calibration import Floats, tempered
from genre_cls.files import expanduser
from genre_cls.tracks.audio import SILENT, UnreadableAudio, header, no_music, path_noted, refusal, segments

LONGEST = 12.0  # h; no piece of music and few recordings are longer
HEARD = 0.1  # least share of a stretch that windows cover, for its genre to be told
SLIVER = 0.02  # share of a stretch; a shorter remainder of a file belongs to the stretch before it
ENOUGH = 0.9  # share of a model's frequencies that a file must have, so that little is missed


@dataclass(frozen=True, eq=False)
class Prediction:
    """A classifier's prediction for one file.

    Args:
        genres: names in the order of the columns.
        seconds: duration of the file, s.
        starts: start of each window `(n_windows,)`, s; mostly silent ones and those of silent clips are left out.
        ends: end of each window `(n_windows,)`, s.
        windows: the ensemble's vote on each window `(n_windows, n_genres)`, rows sum to 1.
        temperature: calibrates the mean over the windows.
        note: why the prediction is doubtful, whatever its probabilities; empty if nothing is known.
    """

    genres: tuple[str, ...]
    seconds: float
    starts: Floats
    ends: Floats
    windows: Floats
    temperature: float = 1.0
    note: str = ""

    @property
    def vote(self) -> Floats:
        """Mean over the windows `(n_genres,)`, as evaluation stores it for a track."""
        return self.windows.mean(axis=0)

    @property
    def probabilities(self) -> Floats:
        """Calibrated probability of each genre `(n_genres,)`; they sum to 1."""
        return tempered(self.vote, self.temperature)

    @property
    def genre(self) -> str:
        """The most probable genre."""
        return self.ranked[0][0]

    @property
    def ranked(self) -> list[tuple[str, float]]:
        """Genres with their calibrated probabilities, the most probable first."""
        probabilities = self.probabilities
        order = np.argsort(-probabilities, kind="stable")
        return [(self.genres[i], float(probabilities[i])) for i in order]

    def over_time(self, seconds: float = 30.0) -> list[tuple[float, float, str | None]]:
        """Return the most probable genre of each stretch of the file, in order.

        Args:
            seconds: length of a stretch, s; the last one ends with the file, and may be 2 % longer.

        Returns:
            (start in s, end in s, genre) by the probabilities of `shares_over_time`; None where windows add up to
            less than a tenth of the stretch, as the rest is silent.
        """
        bounds, shares = self.shares_over_time(seconds)
        genres = [None if np.isnan(row).any() else self.genres[int(row.argmax())] for row in shares]
        return [(start, end, genre) for (start, end), genre in zip(pairwise(bounds.tolist()), genres, strict=True)]

    def shares_over_time(self, seconds: float) -> tuple[Floats, Floats]:
        """Return the probabilities of each stretch of the file, in order.

        Args:
            seconds: length of a stretch, s; the last one ends with the file, and may be 2 % longer.

        Returns:
            Starts of the stretches and the end of the last one `(n_stretches + 1,)`, s; and the mean over the windows
            `(n_stretches, n_genres)`, each weighted by how much of the stretch it covers, at the file's temperature;
            NaN where windows add up to less than a tenth of the stretch, as the rest is silent.

        Raises:
            ValueError: `seconds` is not above 0, or infinite.
        """
        if not 0 < seconds < math.inf:
            raise ValueError(f"seconds={seconds}: must be above 0")
        n_stretches = max(1, math.ceil(self.seconds / seconds - SLIVER))
        bounds = np.array([*seconds * np.arange(n_stretches), self.seconds])
        return bounds, np.array([self._between(start, end) for start, end in pairwise(bounds)])

    def _between(self, start: float, end: float) -> Floats:
        covered = np.clip(np.minimum(self.ends, end) - np.maximum(self.starts, start), 0, None)  # s
        if covered.sum() < HEARD * (end - start):
            return np.full(len(self.genres), np.nan)
        return tempered(covered @ self.windows / covered.sum(), self.temperature)


@dataclass(frozen=True, eq=False)
class Clip:
    """The first part of a file, for pictures and explanations.

    Args:
        name: of the file.
        waveform: `(n_samples,)`, mono, full scale at +-1.
        sample_rate: of the waveform, Hz.
        mel: log-mel spectrogram `(n_mels, n_frames)`, dB relative to its level.
        frequencies: centre frequencies of the mel bands `(n_mels,)`, Hz.
        seconds_per_frame: hop length, s.
    """

    name: str
    waveform: NDArray[np.float32]
    sample_rate: int
    mel: NDArray[np.float32]
    frequencies: Floats
    seconds_per_frame: float

    @property
    def seconds(self) -> float:
        """Duration, s."""
        return len(self.waveform) / self.sample_rate

    @property
    def part(self) -> str:
        """How much of the file it is, in words."""
        return f"the first {round(self.seconds, 1 if self.seconds < 10 else 0):g} s"


@dataclass(frozen=True, eq=False)
class Explanation:
    """The evidence in a clip for and against a genre.

    Args:
        genre: the genre explained.
        clip: the clip explained.
        evidence: contribution of each value of the log-mel spectrogram to the genre's logit relative to the mean logit
            of all genres `(n_mels, n_frames)`; negative where it speaks against the genre.
        difference: this relative logit of the clip minus that of the baseline: the sum of the evidence up to the
            integration error.
        baseline: what it is compared with, in words.
    """

    genre: str
    clip: Clip
    evidence: NDArray[np.float32]
    difference: float
    baseline: str

    @property
    def note(self) -> str:
        """A sentence on the method and on how much of the file is explained."""
        return f"Integrated gradients from {self.baseline}, over {self.clip.part}."


class Classifier(ABC):
    """Base class of classifiers of audio files.

    Args:
        genres: names in the order of the columns.
        dataset: name of the dataset that it was trained on.
        sample_rate: of the clips that it takes, Hz.
        longest: length of the longest clip that it takes, s; a longer file is cut into the fewest equal clips that are
            not longer.
        temperature: applied to the mean over a file's windows.
        f_max: highest frequency that it listens to, Hz.
    """

    def __init__(
        self,
        genres: tuple[str, ...],
        dataset: str,
        *,
        sample_rate: int,
        longest: float,
        temperature: float,
        f_max: float,
    ) -> None:
        self.genres, self.dataset = genres, dataset
        self._sample_rate, self._longest, self._temperature, self._f_max = sample_rate, longest, temperature, f_max

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {', '.join(self.genres)}, trained on {self.dataset}>"

    def predict(self, path: str | Path) -> Prediction:
        """Classify one audio file.

        Args:
            path: a file in any format that libsndfile reads, of any sample rate and number of channels, from
                `audio.SHORTEST` to `LONGEST`.

        Raises:
            UnreadableAudio: there is no such file, or it is no audio, too short, too long, or silent (below -80 dB of
                full scale but for less than 0.1 s); the message is the reason, its note the path.
            UserError: the model's outputs are no probabilities.
        """
        with path_noted(path):
            return self._predict(expanduser(path))

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
        parts, seconds, reasons = [], 0.0, list[str]()
        claimed = header(path)
        if (hours := claimed.seconds / 3600) > LONGEST:
            raise UnreadableAudio(f"lasts {hours:.1f} h, more than the {LONGEST:g} h that are taken")
        for waveform in segments(path, self._sample_rate, self._longest):
            if reason := no_music(waveform, self._sample_rate):
                reasons.append(reason)
            else:
                starts, ends, windows = self._predict_clip(waveform)
                parts.append((seconds + starts, seconds + ends, windows))
            seconds += len(waveform) / self._sample_rate
        if not parts:  # it is silent only if all of its clips are
            raise refusal(path, min(reasons, key=lambda reason: reason == SILENT, default="has no samples"))
        starts, ends, windows = (np.concatenate(part) for part in zip(*parts, strict=True))
        note = _about_rate(claimed.sample_rate, self._f_max)
        return Prediction(self.genres, seconds, starts, ends, windows, self._temperature, note)


def _about_rate(sample_rate: int, f_max: float) -> str:
    """Return why a file's sample rate, Hz, makes a prediction doubtful; empty if it does not."""
    if sample_rate / 2 > ENOUGH * f_max:
        return ""
    lacks = f"recorded at {sample_rate} Hz, it has nothing above {sample_rate / 2:g} Hz"
    return f"{lacks}, where the model listens up to {f_max:g} Hz; if its training music has more, this is a guess"


def is_onnx(path: str | Path) -> bool:
    """Tell by its name whether a model file is, or is to be, an ONNX graph."""
    return Path(path).suffix.lower() == ".onnx"
