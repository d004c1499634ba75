"""One fold's tracks as batches of windows: random crops to learn from, fixed windows to be judged by."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genre_cls.features import CPU
from genre_cls.folds import Fold, Indices
from genre_cls.scoring import WindowPredictions
from genre_cls.store import Features
from genre_cls.views import view_of
from genre_cls.windows import cover_starts, is_levelled, repeat_to, treatment

Batch = tuple[Tensor, Tensor]  # features (batch, 1, n_bins, n_frames), labels (batch,) int64
Cut = tuple[int, int]  # track, first frame

# Values in a batch that is only judged: what a core's caches hold, or what keeps a GPU busy.
ON_CPU, ON_GPU = 2**19, 2**24


@dataclass(frozen=True)
class Windowing:
    """How tracks are cut into windows and batches.

    Args:
        n_frames: length of a window, frames.
        overlap: smallest share of a window that its neighbour in a cover repeats, 0 to below 1.
        batch_size: windows a batch.
        seed: of the crops and their order.
        view: how a model sees a window, one of `windows.VIEWS`.
        crops: length of each epoch's crops, frames; whole windows where nothing is said.
    """

    n_frames: int
    overlap: float
    batch_size: int
    seed: int
    view: str = "plain"
    crops: Sequence[int] = ()


class FoldData:
    """A fold's tracks, cut.

    The validation loaders serve the curves: the held-out tracks, then, if there are any, the inner validation
    tracks, each by its centre window. The prediction loader serves the verdict: the held-out tracks by a
    cover of windows.

    Args:
        features: of all tracks.
        labels: genre of each track `(n_tracks,)`.
        fold: who teaches and who judges.
        windowing: how tracks are cut.
        device: where the model will be; 30 s of 1000 tracks take some 170 MB there, and a GPU then cuts its own crops.
    """

    def __init__(
        self, features: Features, labels: Indices, fold: Fold, windowing: Windowing, device: torch.device = CPU
    ) -> None:
        clips = [torch.from_numpy(repeat_to(clip, windowing.n_frames)) for clip in features.clips]
        self.clips = [clip.to(device) for clip in clips]
        to_level = self.clips if is_levelled(windowing.view) else []
        self.levels = [clip.float().mean(dim=1, keepdim=True) for clip in to_level]
        self.seconds_per_frame = features.spec.seconds_per_frame
        self.labels = torch.from_numpy(labels).to(device)
        self.fold, self.windowing = fold, windowing

    def train_dataloader(self) -> "Crops":
        """Random crops, one of each training track an epoch."""
        return Crops(self, self.fold.train)

    def val_dataloader(self) -> list["Windows"]:
        """Centre windows of the held-out tracks and of the inner validation tracks."""
        parts = [self.fold.test, self.fold.val] if len(self.fold.val) else [self.fold.test]
        return [Windows(self, self.centres(part)) for part in parts]

    def predict_dataloader(self) -> "Windows":
        """Every frame of the held-out tracks, in windows."""
        return Windows(self, self.cover(self.fold.test))

    def standardisation(self) -> tuple[Tensor, Tensor]:
        """Mean and deviation, over the training tracks alone, of each value that is shown (`views.shape_of`).

        A modulation spectrum's are those of the tracks' centre windows, the others' those of all frames.
        """
        view = self.windowing.view
        if treatment(view) == "modulation":
            windows = Windows(self, self.centres(self.fold.train))
            return mean_and_deviation_per_value(torch.cat([view_of(features, view) for features, _ in windows]))
        clips = (self.clips[i] - self.levels[i] if self.levels else self.clips[i] for i in self.fold.train)
        mean, deviation = mean_and_deviation_per_bin(view_of(clip, view) for clip in clips)
        return mean[:, None], deviation[:, None]

    def centres(self, tracks: Indices) -> list[Cut]:
        """The window in the middle of each of some tracks."""
        return [(int(track), self.last_start(track, self.windowing.n_frames) // 2) for track in tracks]

    def cover(self, tracks: Indices) -> list[Cut]:
        """Windows that cover the tracks, evenly spread, the last one ending with the track."""
        n_frames, overlap = self.windowing.n_frames, self.windowing.overlap
        return [
            (int(track), start)
            for track in tracks
            for start in cover_starts(self.clips[track].shape[1], n_frames, overlap)
        ]

    def predictions(self, probabilities: NDArray[np.float64]) -> WindowPredictions:
        """Say which window of which held-out track each row of a prediction is.

        Args:
            probabilities: of the windows of `predict_dataloader` `(n_windows, n_genres)`.
        """
        tracks, starts = np.array(self.cover(self.fold.test)).T
        places = np.searchsorted(self.fold.test, tracks)  # the fold's indices are sorted
        return WindowPredictions(places, starts * self.seconds_per_frame, probabilities)

    def batches(self, windows: Sequence[Cut], n_frames: int, size: int) -> Iterator[Batch]:
        """Cut windows of `n_frames` each and stack them, `size` at a time."""
        labels = self.labels[[track for track, _ in windows]]  # all at once: at each copy to it, a GPU is waited for
        for first in range(0, len(windows), size):
            some = windows[first : first + size]
            features = torch.stack([self.clips[track][:, start : start + n_frames] for track, start in some])
            if self.levels:
                features = features - torch.stack([self.levels[track] for track, _ in some])
            yield features[:, None], labels[first : first + size]  # (batch, 1, n_bins, n_frames)

    def last_start(self, track: int, n_frames: int) -> int:
        """First frame of the last window of `n_frames` that fits into a track."""
        return self.clips[track].shape[1] - n_frames


class Windows:
    """Fixed windows in order, in batches."""

    def __init__(self, data: FoldData, windows: Sequence[Cut]) -> None:
        self.data, self.windows = data, windows
        at_once = ON_CPU if data.labels.device.type == "cpu" else ON_GPU
        self.batch_size = max(1, at_once // (data.clips[0].shape[0] * data.windowing.n_frames))

    def __len__(self) -> int:
        return -(-len(self.windows) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        return self.data.batches(self.windows, self.data.windowing.n_frames, self.batch_size)


class Crops:
    """One random crop of every track an epoch, in random order; a last batch that is not full is left out."""

    def __init__(self, data: FoldData, tracks: Indices) -> None:
        self.data, self.tracks = data, tracks
        self.batch_size = min(data.windowing.batch_size, len(tracks))
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
    """Mean and standard deviation of each value of some windows.

    Args:
        windows: what is seen of each `(n_windows, 1, n_rows, n_columns)`, float32.

    Returns:
        Two matrices `(n_rows, n_columns)`; a value that never changes gets a deviation of 1.
    """
    deviation, mean = torch.std_mean(windows[:, 0], dim=0, correction=0)
    return mean, torch.where(deviation > 1e-4, deviation, 1.0)


def mean_and_deviation_per_bin(clips: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each bin over all frames of some clips.

    Args:
        clips: matrices `(n_bins, n_frames)`, of any lengths.

    Returns:
        Two float32 vectors `(n_bins,)`; a bin that never changes gets a deviation of 1.
    """
    moments, lengths = zip(*((_moments(clip), clip.shape[1]) for clip in clips), strict=True)
    variances, means = torch.stack(moments, dim=1).cpu().double()  # (n_clips, n_bins) each; some GPUs know no float64
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
    return torch.stack([(frames - mean).square().mean(dim=1), mean[:, 0]])  # in a third of `Tensor.var`'s time
