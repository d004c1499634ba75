"""Where a clip's windows start, and the names of the views of a window; without torch, which `views` needs."""

import numpy as np
from numpy.typing import NDArray

# What a model may get of a window: the window as it is; without the clip's mean spectrum and so the recording's overall
# timbre (cepstral mean normalisation, where bins are MFCCs); its modulation spectrum alone; or statistics, which have
# no neighbours to convolve, so that a kernel machine replaces the network. And the same of a mel spectrogram's MFCCs.
TREATMENTS = ("plain", "levelled", "modulation", "statistics")
OF_MFCCS = "mfcc_"
VIEWS = (*TREATMENTS, *(OF_MFCCS + treatment for treatment in TREATMENTS))


def treatment(view: str) -> str:
    """Return which of `TREATMENTS` a view is, whether of the window itself or of its MFCCs."""
    return view.removeprefix(OF_MFCCS)


def is_levelled(view: str) -> bool:
    """Return whether a view is without the clip's mean spectrum."""
    return treatment(view) == "levelled"


def is_of_mfccs(view: str) -> bool:
    """Return whether a view is of the window's MFCCs."""
    return view.startswith(OF_MFCCS)


def is_of_statistics(view: str) -> bool:
    """Return whether a view is of statistics, which a kernel machine classifies instead of a network."""
    return treatment(view) == "statistics"


def is_of_modulations(view: str) -> bool:
    """Return whether a view is a modulation spectrum, which has a fixed size."""
    return treatment(view) == "modulation"


def sees_modulations(view: str) -> bool:
    """Return whether a view is a modulation spectrum or contains one."""
    return is_of_modulations(view) or is_of_statistics(view)


def cover_starts(n_clip: int, n_window: int, overlap: float) -> list[int]:
    """Return the first frames of the fewest evenly spaced windows that cover a clip.

    Args:
        n_clip: frames of the clip, at least `n_window`.
        n_window: frames of a window.
        overlap: least overlap of neighbours, share of a window, 0 to below 1.
    """
    step = max(1, int(n_window * (1 - overlap)))
    n_windows = 1 + -(-(n_clip - n_window) // step)
    return [int(start) for start in np.linspace(0, n_clip - n_window, n_windows)]


def repeat_to(clip: NDArray[np.float16], n_frames: int) -> NDArray[np.float16]:
    """Repeat a clip `(n_bins, n_clip)` until it fills a window: `(n_bins, max(n_clip, n_frames))`."""
    if clip.shape[1] >= n_frames:
        return clip
    return np.tile(clip, -(-n_frames // clip.shape[1]))[:, :n_frames]
