"""One fold's tracks as batches of windows: random crops for training, fixed windows for evaluation."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genre_cls.configuration.members import is_of_modulations
from genre_cls.evaluation.predictions import WindowPredictions
from genre_cls.models.views import view_of
from genre_cls.tracks.feature_cache import Features
from genre_cls.tracks.folds import Fold, Indices
from genre_cls.tracks.windows import AT_ONCE, repeat_to, voting_starts, windows_at_once

Batch = tuple[Tensor, Tensor]  # features (batch, 1, n_bins, n_frames), labels (batch,) int64
Cut = tuple[int, int]  # track, first frame

ON_GPU = 2**24  # values in a batch that is only evaluated: as many as keep a GPU busy


@dataclass(frozen=True)
class Windowing:
    """How tracks are cut into windows and batches.

    Args:
        n_frames: length of a window, frames.
        overlap: smallest share of a window that the next one in a cover repeats, 0 to below 1.
        batch_size: windows a batch.
        seed: of the crops and their order.
        view: how a model sees a window, one of `members.VIEWS`.
        crops: length of each epoch's crops, frames; later epochs have whole windows.
    """

    n_frames: int
    overlap: float
    batch_size: int
    seed: int
    view: str
    crops: Sequence[int]


class FoldData:
    """A fold's tracks, cut into windows.

    Centre windows are for the curves: the held-out tracks' and, if there are any, the inner validation tracks', whose
    loss also stops training early. Test windows are for the scores; they cover the held-out tracks.

    Args:
        features: of all tracks.
        labels: genre of each track `(n_tracks,)`.
        fold: training, validation and test tracks.
        windowing: how tracks are cut.
        device: of the model; 30 s of 1000 tracks take some 170 MB there, and a GPU then cuts its own crops.
    """

    def __init__(
        self, features: Features, labels: Indices, fold: Fold, windowing: Windowing, device: torch.device
    ) -> None:
        clips = [repeat_to(clip, windowing.n_frames) for clip in features.clips]
        self.starts = [voting_starts(clip, windowing.n_frames, windowing.overlap, features.spec) for clip in clips]
        self.clips = [torch.from_numpy(clip).to(device) for clip in clips]
        self.seconds_per_frame = features.spec.seconds_per_frame
        self.labels = torch.from_numpy(labels).to(device)
        self.fold, self.windowing, self.device = fold, windowing, device

    def training_crops(self) -> "Crops":
        """Return random crops, one of each training track per epoch."""
        return Crops(self)

    def centre_windows(self) -> list["Windows"]:
        """Return the centre windows of the held-out tracks and of the inner validation tracks."""
        parts = [self.fold.test, self.fold.val] if len(self.fold.val) else [self.fold.test]
        return [Windows(self, self.centres(part)) for part in parts]

    def test_windows(self) -> "Windows":
        """Return windows that cover the held-out tracks."""
        return Windows(self, self.cover(self.fold.test))

    def training_windows(self, most: int) -> "Windows":
        """Return windows that cover the tracks it may learn from, validation included: at most `most`, evenly chosen.

        For what is fitted in closed form, which nothing stops early.
        """
        cover = self.cover(self.fold.known)
        places = np.linspace(0, len(cover) - 1, min(len(cover), most)).astype(int)
        return Windows(self, [cover[place] for place in places])

    def standardisation(self) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of each value of the view (`views.shape_of`), over the training tracks.

        A modulation spectrum's are over the tracks' centre windows, the other views' over all frames.
        """
        view = self.windowing.view
        if is_of_modulations(view):
            windows = Windows(self, self.centres(self.fold.train))
            return mean_and_deviation_per_value(torch.cat([view_of(features, view) for features, _ in windows]))
        mean, deviation = mean_and_deviation_per_bin(view_of(self.clips[i], view) for i in self.fold.train)
        return mean[:, None], deviation[:, None]

    def centres(self, tracks: Indices) -> list[Cut]:
        """Return the centre window of each track."""
        return [(int(track), self.last_start(track, self.windowing.n_frames) // 2) for track in tracks]

    def cover(self, tracks: Indices) -> list[Cut]:
        """Return evenly spread windows that cover the tracks, without silent ones."""
        return [(int(track), start) for track in tracks for start in self.starts[track]]

    def predictions(self, probabilities: NDArray[np.float64]) -> WindowPredictions:
        """Assign the rows of a prediction to the windows of the held-out tracks.

        Args:
            probabilities: of the windows of `test_windows` `(n_windows, n_genres)`.
        """
        tracks, starts = np.array(self.cover(self.fold.test)).T
        places = np.searchsorted(self.fold.test, tracks)  # the fold's indices are sorted
        return WindowPredictions(places, starts * self.seconds_per_frame, probabilities)

    def batches(self, windows: Sequence[Cut], n_frames: int, size: int) -> Iterator[Batch]:
        """Yield batches of `size` windows: features `(size, 1, n_bins, n_frames)` and labels `(size,)`."""
        labels = self.labels_of(windows)  # all at once, since each copy waits for a GPU
        for first in range(0, len(windows), size):
            batch = windows[first : first + size]
            features = torch.stack([self.clips[track][:, start : start + n_frames] for track, start in batch])
            yield features[:, None], labels[first : first + size]

    def labels_of(self, windows: Sequence[Cut]) -> Tensor:
        """Return the genre of each window's track `(n_windows,)`, int64."""
        return self.labels[[track for track, _ in windows]]

    def last_start(self, track: int, n_frames: int) -> int:
        """Return the first frame of the last window of `n_frames` that fits into a track."""
        return self.clips[track].shape[1] - n_frames


class Windows:
    """Fixed windows in order, in batches."""

    def __init__(self, data: FoldData, windows: Sequence[Cut]) -> None:
        self.data, self.windows = data, windows
        n_values = AT_ONCE if data.device.type == "cpu" else ON_GPU
        self.batch_size = windows_at_once(len(data.clips[0]), data.windowing.n_frames, n_values)

    def __len__(self) -> int:
        return -(-len(self.windows) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        return self.data.batches(self.windows, self.data.windowing.n_frames, self.batch_size)

    @property
    def labels(self) -> Tensor:
        """The genre of each window's track `(n_windows,)`, int64."""
        return self.data.labels_of(self.windows)


class Crops:
    """One random crop of every training track per epoch, in random order, without an incomplete last batch."""

    def __init__(self, data: FoldData) -> None:
        self.data, self.tracks = data, data.fold.train
        self.batch_size = min(data.windowing.batch_size, len(self.tracks))
        self.generator = np.random.default_rng([data.windowing.seed, data.fold.index])
        self.lengths = iter(data.windowing.crops)

    def __len__(self) -> int:
        return len(self.tracks) // self.batch_size

    def __iter__(self) -> Iterator[Batch]:
        n_frames = next(self.lengths, self.data.windowing.n_frames)
        order = self.generator.permutation(self.tracks)
        starts = [int(self.generator.integers(self.data.last_start(track, n_frames) + 1)) for track in order]
        windows = list(zip(order.tolist(), starts, strict=True))[: len(self) * self.batch_size]
        return self.data.batches(windows, n_frames, self.batch_size)


def mean_and_deviation_per_value(windows: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of each value over windows.

    Args:
        windows: views `(n_windows, 1, n_rows, n_columns)`, float32.

    Returns:
        Two matrices `(n_rows, n_columns)`; a constant value gets a deviation of 1.
    """
    deviation, mean = torch.std_mean(windows[:, 0], dim=0, correction=0)
    return mean, torch.where(deviation > 1e-4, deviation, 1.0)


def mean_and_deviation_per_bin(clips: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of each bin over all frames of the clips.

    Args:
        clips: matrices `(n_bins, n_frames)`, of any lengths.

    Returns:
        Two float32 vectors `(n_bins,)`; a constant bin gets a deviation of 1.
    """
    moments, lengths = zip(*((_moments(clip), clip.shape[1]) for clip in clips), strict=True)
    variances, means = torch.stack(moments, dim=1).cpu().double()  # (n_clips, n_bins) each
    weights = torch.tensor(lengths, dtype=torch.float64)[:, None]
    weights /= weights.sum()
    mean = (weights * means).sum(dim=0)
    variance = (weights * (variances + (means - mean) ** 2)).sum(dim=0)
    # Rounding gives a constant bin a variance just above zero; float16 features cannot vary by so little.
    deviation = torch.where(variance > 1e-8, variance.sqrt(), 1.0)
    return mean.float(), deviation.float()


def _moments(clip: Tensor) -> Tensor:
    frames = clip.float()
    mean = frames.mean(dim=1, keepdim=True)
    return torch.stack([(frames - mean).square().mean(dim=1), mean[:, 0]])  # takes a third of `Tensor.var`'s time
