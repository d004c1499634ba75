"""What figures are made with: an empty figure, its fonts, colours and labels, and a figure as PNG."""

import textwrap
import warnings
from collections.abc import Sequence
from functools import cache
from io import BytesIO

import numpy as np
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colorbar import Colorbar
from matplotlib.figure import Figure
from matplotlib.font_manager import get_font_names
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import ArrayLike

from genre_cls.evaluation.calibration import Floats

DPI = 200  # dots an inch
RED, GREEN, BLUE, INK, GREY = "#c8102e", "#1b8a3a", "#2f5d8c", "#222222", "#6b6b6b"
AMBER, LINK, SHADE = "#e09f1f", "#b9c0c9", "#eaeef3"
HERTZ = (125, 250, 500, 1000, 2000, 4000, 8000, 16000)
FONTS = ("Noto Sans CJK JP", "Hiragino Sans", "Apple SD Gothic Neo", "Arial Unicode MS", "WenQuanYi Zen Hei")


def new_figure(width: float, height: float, note: str, title: str = "") -> Figure:
    """Return an empty figure of a size in inches, to which the note's lines add height; title and note are wrapped."""
    _add_fonts()
    lines = textwrap.wrap(note, int(width * 19))
    size = (width, height + 0.14 * len(lines))
    figure = Figure(figsize=size, dpi=DPI, layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08))
    if title:
        figure.suptitle(wrapped(title, width), size=11)
    if lines:
        figure.supxlabel("\n".join(plain(line, 999) for line in lines), x=0.01, ha="left", size=7, color=GREY)
    return figure


def wrapped(title: str, width: float) -> str:
    """Return a title as plain text on lines that fit a figure's width in inches."""
    return textwrap.fill(plain(title, 120), int(width * 11))


@cache
def _add_fonts() -> None:
    """Add fallback fonts for letters that the default font lacks, since genres may be named in any script."""
    installed = set(get_font_names())
    rcParams["font.family"] = [*rcParams["font.family"], *(font for font in FONTS if font in installed)]


def plain(text: str, length: int = 20) -> str:
    """Return text as one line of limited length, with dollar signs that matplotlib does not take for mathematics."""
    line = " ".join(text.split())
    return (line if len(line) <= length else line[: length - 1] + "…").replace("$", r"\$")


def tidy(axes: Axes) -> None:
    """Remove the upper and the right spine and draw a faint grid behind the data."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e3e3e3", linewidth=0.7)
    axes.set_axisbelow(True)


def label_rows(axes: Axes, places: ArrayLike, labels: Sequence[str], size: float = 9) -> None:
    """Write labels without tick marks at places on the vertical axis."""
    axes.set_yticks(places, labels, size=size)
    axes.tick_params(axis="y", length=0)


def style_bar(bar: Colorbar, label: str) -> None:
    """Label a colour bar, in small print."""
    bar.set_label(label, size=8)
    bar.ax.tick_params(labelsize=7)
    bar.minorticks_off()


def mark_frequencies(axes: Axes, centres: Floats) -> None:
    """Mark round frequencies on the vertical axis of a mel spectrogram.

    Args:
        axes: with one unit per mel band.
        centres: of the bands `(n_mels,)`, Hz.
    """
    ticks = [hz for hz in HERTZ if centres[0] <= hz <= centres[-1]][-5:]
    axes.set_yticks(np.interp(ticks, centres, range(len(centres))), [str(hz) for hz in ticks])


def png(figure: Figure) -> bytes:
    """Render a figure as PNG."""
    buffer = BytesIO()
    # `savefig` would draw everything twice. The default compression saves a sixth of the size, at an eighth more time.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)  # for example an emoji in a file name
        FigureCanvasAgg(figure).print_png(buffer, pil_kwargs={"compress_level": 1})  # type: ignore[no-untyped-call]
    return buffer.getvalue()
