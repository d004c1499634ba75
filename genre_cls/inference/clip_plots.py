"""Draw one audio file or a clip of it: waveform and spectrogram, genres over time, an explanation."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from genre_cls.errors import in_one_line
from genre_cls.evaluation.figures import BLUE, label_rows, mark_frequencies, new_figure, plain, style_bar, tidy
from genre_cls.inference.prediction import Clip, Explanation, Prediction

SMOOTHING = (1.5, 3.0)  # standard deviation of the evidence's Gaussian filter, in bands and frames
ENVELOPE = 1500  # stretches of a waveform that are drawn
STRETCHES, ROWS = 120, 10  # of a file's genres over time


def clip(heard: Clip) -> Figure:
    """Draw the waveform of a clip, and below it its mel spectrogram.

    Args:
        heard: the clip.
    """
    figure = new_figure(9.0, 4.2, f"{heard.part.capitalize()}.", in_one_line(heard.name))
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(1, 2))
    low, high = _envelope(heard.waveform)
    upper.fill_between(np.linspace(0, heard.seconds, len(low)), low, high, color=BLUE, linewidth=0.5)
    upper.set(ylabel="full scale ±1", ylim=(-1, 1) if max(high.max(), -low.min()) <= 1 else None)
    upper.tick_params(labelsize=7)
    upper.yaxis.label.set_size(8)
    tidy(upper)
    image = _draw_mel(lower, heard)
    lower.set_xlim(0, heard.seconds)
    lower.set_xlabel("time (s)", size=8)
    style_bar(figure.colorbar(image, ax=lower, pad=0.01), "dB relative to its level")
    return figure


def genres_over_time(prediction: Prediction) -> Figure:
    """Draw the most probable genres over time: a row per genre, the more probable the darker.

    Args:
        prediction: of one file; silent stretches are left empty.
    """
    ranked = [genre for genre, _ in prediction.ranked[:ROWS]]
    bounds, shares = prediction.shares_over_time(max(1.0, prediction.seconds / STRETCHES))
    rows = shares[:, [prediction.genres.index(genre) for genre in ranked]].T  # (n_rows, n_stretches)
    figure = new_figure(9.0, 1.1 + 0.2 * len(ranked), prediction.note, "Genres over time")
    axes = figure.subplots()
    image = axes.pcolormesh(bounds, range(len(ranked) + 1), rows, cmap="Blues", vmin=0, vmax=1, rasterized=True)
    label_rows(axes, np.arange(len(ranked)) + 0.5, [plain(genre) for genre in ranked], size=8)
    axes.set_xlabel("time (s)", size=8)
    axes.tick_params(labelsize=8)
    axes.invert_yaxis()
    style_bar(figure.colorbar(image, ax=axes, pad=0.01, format=lambda share, _: f"{100 * share:.0f} %"), "probability")
    return figure


def explanation(explained: Explanation) -> Figure:
    """Draw the mel spectrogram of a clip, and below, over the same in grey, the evidence for and against its genre.

    Args:
        explained: of one clip; its evidence is smoothed, because single values are noise.
    """
    title = in_one_line(f"{explained.clip.name}: evidence for {explained.genre}")
    figure = new_figure(9.0, 5.0, explained.note, title)
    upper, lower = figure.subplots(2, 1, sharex=True, sharey=True)
    image = _draw_mel(upper, explained.clip)
    _draw_mel(lower, explained.clip, cmap="Greys")
    smooth = gaussian_filter(explained.evidence, SMOOTHING, mode="constant")
    limit = float(np.quantile(np.abs(smooth), 0.995)) or 1.0
    opacity = np.clip(np.abs(smooth) / limit, 0, 1) ** 0.7
    extent = image.get_extent()
    shown = lower.imshow(smooth / limit, cmap="RdBu_r", vmin=-1, vmax=1, alpha=opacity, extent=extent, origin="lower")
    lower.set(aspect="auto")
    lower.set_xlabel("time (s)", size=8)
    style_bar(figure.colorbar(image, ax=upper, pad=0.01), "dB relative to its level")
    shades = ScalarMappable(shown.norm, shown.cmap)  # a bar of `shown` itself would be transparent
    bar = figure.colorbar(shades, ax=lower, pad=0.01, ticks=(-1, 0, 1))
    bar.ax.set_yticklabels(["against", "neither", "for"])
    style_bar(bar, f"evidence for {plain(explained.genre)}")
    return figure


def _draw_mel(axes: Axes, clip: Clip, *, cmap: str = "magma") -> AxesImage:
    """Draw a clip's log-mel spectrogram over time (s) and frequency (Hz)."""
    extent = (0.0, clip.mel.shape[1] * clip.seconds_per_frame, -0.5, len(clip.mel) - 0.5)
    image = axes.imshow(clip.mel, cmap=cmap, extent=extent, origin="lower", aspect="auto")
    mark_frequencies(axes, clip.frequencies)
    axes.set_ylabel("frequency (Hz)", size=8)
    axes.tick_params(labelsize=7)
    return image


def _envelope(waveform: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the lowest and highest sample of each stretch, at most `ENVELOPE` in all, of a waveform `(n_samples,)`."""
    starts = np.linspace(0, len(waveform), min(ENVELOPE, len(waveform)), endpoint=False).astype(int)
    return np.minimum.reduceat(waveform, starts), np.maximum.reduceat(waveform, starts)
