"""Where a clip's windows are, and the names of the views of a window; without torch, which `views` needs."""

import numpy as np
from numpy.typing import NDArray

# How a model may see a window: as it is; without the clip's mean spectrum, and with it what the whole recording sounds
# like (cepstral mean normalisation, where bins are MFCCs); as its modulation spectrum alone; or as statistics, which
# have no neighbours, so that a kernel machine takes a network's place. And so, of a mel spectrogram, its MFCCs.
TREATMENTS = ("plain", "levelled", "modulation", "statistics")
OF_MFCCS = "mfcc_"
VIEWS = (*TREATMENTS, *(OF_MFCCS + treatment for treatment in TREATMENTS))


def treatment(view: str) -> str:
    """Which of `TREATMENTS` a view is, be it of the window itself or of its MFCCs."""
    return view.removeprefix(OF_MFCCS)


def is_levelled(view: str) -> bool:
    """Whether a view is one of the window without the clip's mean spectrum."""
    return treatment(view) == "levelled"


def is_of_mfccs(view: str) -> bool:
    """Whether a view is one of the window's MFCCs."""
    return view.startswith(OF_MFCCS)


def is_of_statistics(view: str) -> bool:
    """Whether a view is one of statistics, which a kernel machine judges instead of a network."""
    return treatment(view) == "statistics"


def sees_modulations(view: str) -> bool:
    """Whether modulation spectra are what a view is, or a part of it."""
    return treatment(view) in ("modulation", "statistics")


def cover_starts(n_clip: int, n_window: int, overlap: float) -> list[int]:
    """First frames of the fewest evenly spread windows that cover a clip and overlap by at least a share.

    Args:
        n_clip: frames of the clip, at least `n_window`.
        n_window: frames of a window.
        overlap: share of a window, 0 to below 1.
    """
    step = max(1, int(n_window * (1 - overlap)))
    n_windows = 1 + -(-(n_clip - n_window) // step)
    return [int(start) for start in np.linspace(0, n_clip - n_window, n_windows)]


def repeat_to(clip: NDArray[np.float16], n_frames: int) -> NDArray[np.float16]:
    """Repeat a clip that is shorter than a window until it fills one."""
    if clip.shape[1] >= n_frames:
        return clip
    return np.tile(clip, -(-n_frames // clip.shape[1]))[:, :n_frames]
