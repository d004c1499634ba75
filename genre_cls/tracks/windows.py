"""Where a clip's windows start, which of them vote, and how many are evaluated at once."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genre_cls.tracks.features import FeatureSpec, unevenness

AT_ONCE = 2**19  # values of windows in a batch that is only evaluated on a CPU: as many as fit a core's caches
SILENT = 0.5  # dB, most unevenness of a silent frame; white noise has 1 (in MFCCs) to 2, music 4 and more
SOUNDING = 0.25  # least share of frames that are not silent in a window that votes; GTZAN's have 0.92 and more
EVERY = 8  # only every eighth frame of a window is looked at, which suffices


def windows_at_once(n_bins: int, n_frames: int, n_values: int = AT_ONCE) -> int:
    """Return how many windows `(n_bins, n_frames)` a batch that is only evaluated has, at least one.

    Args:
        n_bins: bins of a window.
        n_frames: frames of a window.
        n_values: that a batch may have.
    """
    return max(1, n_values // (n_bins * n_frames))


def cover_starts(n_clip: int, n_window: int, overlap: float) -> list[int]:
    """Return the first frames of the fewest evenly spaced windows that cover a clip.

    Args:
        n_clip: frames of the clip, at least `n_window`.
        n_window: frames of a window.
        overlap: least overlap of neighbours, share of a window, 0 to below 1.
    """
    n_windows = 1 + -(-(n_clip - n_window) // longest_step(n_window, overlap))
    return [int(start) for start in np.linspace(0, n_clip - n_window, n_windows)]


def longest_step(n_window: int, overlap: float) -> int:
    """Return the most frames from one window to the next that keep an overlap, at least one.

    Args:
        n_window: frames of a window.
        overlap: share of a window, 0 to below 1.
    """
    return max(1, int(n_window * (1 - overlap) + 1e-9))  # 90 * 0.7 is a little less than 63


def voting_starts(clip: NDArray[np.float16], n_window: int, overlap: float, spec: FeatureSpec) -> list[int]:
    """Return the first frames of the windows that cover a clip and vote.

    Models know nothing of silence: they take it for any genre, and are sure of it.

    Args:
        clip: features `(n_bins, n_clip)`, at least `n_window` frames.
        n_window: frames of a window.
        overlap: least overlap of neighbours, share of a window, 0 to below 1.
        spec: of the features.
    """
    starts = cover_starts(clip.shape[1], n_window, overlap)
    windows = torch.from_numpy(np.stack([clip[:, start : start + n_window] for start in starts]))
    return [start for start, votes in zip(starts, voting(windows, spec).tolist(), strict=True) if votes]


def voting(windows: Tensor, spec: FeatureSpec) -> Tensor:
    """Return which of a clip's windows vote `(n_windows,)`: all but mostly silent ones, or the least silent of these.

    Args:
        windows: features `(n_windows, n_bins, n_frames)`.
        spec: of the features.
    """
    sounding = (unevenness(windows[..., ::EVERY].float(), spec) > SILENT).float().mean(dim=1)
    return sounding >= sounding.amax().clamp(max=SOUNDING)


def repeat_to(clip: NDArray[np.float16], n_frames: int) -> NDArray[np.float16]:
    """Repeat a clip `(n_bins, n_clip)` until it fills a window: `(n_bins, max(n_clip, n_frames))`."""
    if clip.shape[1] >= n_frames:
        return clip
    return np.tile(clip, -(-n_frames // clip.shape[1]))[:, :n_frames]
