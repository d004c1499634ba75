"""Draw results as figures: losses, confusion, recall, intervals, comparisons, calibration, average features."""

from collections.abc import Mapping, Sequence
from math import ceil, floor, isnan
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import AsinhNorm, LinearSegmentedColormap, Normalize, to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from scipy import stats

from genre_cls.evaluation.calibration import Calibration, Floats, Ints
from genre_cls.evaluation.comparisons import (
    ALPHA,
    SURE,
    Difference,
    Finding,
    accuracy_drop,
    names,
    rank,
    recall_drops,
)
from genre_cls.evaluation.figures import (
    AMBER,
    BLUE,
    GREEN,
    GREY,
    INK,
    LINK,
    RED,
    SHADE,
    label_rows,
    mark_frequencies,
    new_figure,
    plain,
    style_bar,
    tidy,
    wrapped,
)
from genre_cls.evaluation.genre_means import GenreMeans
from genre_cls.evaluation.predictions import FoldResult, mean_curve
from genre_cls.evaluation.scoring import ConfigResult

# curve, label, colour, line style: the styles are for readers who cannot tell red from green
LOSSES = (
    ("train_loss", "training (crops)", RED, "-"),
    ("held_out_loss", "held out (centre windows)", GREEN, "--"),
)
LOOKS: dict[Finding, dict[str, Any]] = {  # of a difference, by its finding
    "different": {"label": f"different (p < {ALPHA:g}, adjusted for all comparisons)", "color": BLUE, "marker": "o"},
    "equal": {"label": f"practically equal ({100 * SURE:.0f} % sure)", "color": GREEN, "marker": "s"},
    "undecided": {"label": "undecided", "color": GREY, "marker": "D", "markerfacecolor": "white"},
}
PANELS_PER_ROW = 5
SMALLEST_DOT, LARGEST_DOT = 4, 15  # diameters in points


def loss_curves(folds: Sequence[FoldResult], *, title: str, note: str = "") -> Figure:
    """Draw training loss in red and held-out loss in green over the epochs: folds thin, their mean bold.

    Args:
        folds: of one configuration, at least one.
        title: above the curves.
        note: small print below them.
    """
    figure = new_figure(6.4, 4.4, note)
    axes = figure.subplots()
    _draw_losses(axes, folds)
    _scale_losses(axes)
    _legend(figure, axes.get_legend_handles_labels()[0], title)
    return figure


def compare_loss_curves(best: ConfigResult, worst: ConfigResult, *, note: str = "") -> Figure:
    """Draw the loss curves of two configurations side by side, on the same axes.

    Args:
        best: drawn on the left.
        worst: drawn on the right.
        note: small print below.
    """
    figure = new_figure(9.6, 4.6, note)
    panels = figure.subplots(1, 2, sharey=True)
    named = zip(panels, ("best", "worst"), (best, worst), names([best, worst]), strict=True)
    for axes, place, result, name in named:
        _draw_losses(axes, result.folds)
        accuracy = 100 * result.estimate("accuracy").mean
        axes.set_title(f"{place}: {plain(name, 44)}\naccuracy {accuracy:.1f} %")
    first = next((axes for axes in panels if axes.axison), panels[0])
    _scale_losses(first)  # only now, since it fixes the top for both
    first.tick_params(labelleft=True)
    _legend(figure, first.get_legend_handles_labels()[0])
    return figure


def confusion_matrix(confusion: Ints, genres: Sequence[str], *, title: str, note: str = "") -> Figure:
    """Draw a confusion matrix: numbers of tracks, coloured by their share of the true genre's tracks.

    Args:
        confusion: counts `(n_genres, n_genres)`, rows true, columns predicted.
        genres: names in the order of both axes.
        title: above the matrix.
        note: small print below it.
    """
    n = len(genres)
    side = float(np.clip(0.42 * n, 2.6, 13))
    cell = 72 * side / n  # points
    size = min(9, 0.75 * cell)
    labels = [plain(genre) for genre in genres]
    margin = max(map(len, labels)) * size / 110  # inches for the longest name
    figure = new_figure(side + margin + 1.5, side + margin + 0.9, note, title)
    axes = figure.subplots()
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if cell >= 9:
        for row, column in np.argwhere(confusion):
            color = "white" if shares[row, column] > 0.5 else INK
            count = axes.text(column, row, str(confusion[row, column]), ha="center", va="center")
            count.set(size=min(9, cell / 3), color=color, in_layout=False)  # it lies within the axes
    axes.set_xticks(range(n), labels, size=size, rotation=90)
    axes.set_yticks(range(n), labels, size=size)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set(xlabel="predicted genre", ylabel="true genre")
    bar = figure.colorbar(image, ax=axes, shrink=0.7, format=lambda share, _: f"{100 * share:.0f} %")
    style_bar(bar, "share of the true genre's tracks")
    return figure


def genre_means(means: GenreMeans, *, note: str = "") -> Figure:
    """Draw the average features of each genre, all on one colour scale.

    Args:
        means: of `mel` or `mfcc`.
        note: small print below.
    """
    n_rows = ceil(len(means.genres) / PANELS_PER_ROW)
    n_columns = ceil(len(means.genres) / n_rows)
    figure = new_figure(max(4.2, 1.3 + 1.75 * n_columns), 0.9 + 1.5 * n_rows, note)
    grid = figure.subplots(n_rows, n_columns, sharex=True, sharey=True, squeeze=False)
    extent = (0.0, means.matrices.shape[2] * means.seconds_per_frame, -0.5, means.matrices.shape[1] - 0.5)
    scale = _color_scale(means.kind, means.matrices)
    for axes, genre, matrix in zip(grid.flat, means.genres, means.matrices, strict=False):
        image = axes.imshow(matrix, **scale, extent=extent, origin="lower", aspect="auto")
        axes.set_title(plain(genre), size=9)
        axes.tick_params(labelsize=7)
    for axes in grid.flat[len(means.genres) :]:
        axes.set_axis_off()
    _label_panels(grid, means)
    if means.kind == "mel":
        ticks, label = None, "dB relative to each track's level"
    else:
        ticks, label = (-100, -30, -10, 0, 10, 30, 100), "coefficient (dB)"
    style_bar(figure.colorbar(image, ax=grid, aspect=12 * n_rows, pad=0.01, ticks=ticks, format="%g"), label)
    return figure


def recall_bars(recalls: Mapping[str, float], *, note: str = "") -> Figure:
    """Draw the share of each genre's tracks that was recognised, most recognised on top.

    Args:
        recalls: of each genre, 0 to 1.
        note: small print below them.
    """
    order = sorted(recalls, key=lambda genre: -recalls[genre])
    figure = new_figure(4.6, 1.3 + 0.25 * len(order), note, "Recall of each genre")
    axes = figure.subplots()
    bars = axes.barh(range(len(order)), [100 * recalls[genre] for genre in order], height=0.7, color=BLUE)
    axes.bar_label(bars, fmt="%.0f %%", padding=3, size=8, color=INK)
    label_rows(axes, range(len(order)), [*map(plain, order)])
    axes.set(xlim=(0, 112), xticks=range(0, 101, 25), xlabel="recognised tracks (%)")
    axes.invert_yaxis()
    tidy(axes)
    axes.grid(visible=False, axis="y")
    return figure


def intervals(results: Sequence[ConfigResult], *, note: str = "") -> Figure:
    """Draw each configuration's mean accuracy with its 95 % interval and its folds, best on top.

    Args:
        results: in any order.
        note: small print below.
    """
    ranked = rank(results)
    figure = new_figure(7.6, 1.2 + 0.36 * len(ranked), note)
    axes = figure.subplots()
    for y, result in enumerate(ranked):
        e = result.estimate("accuracy")
        folds = [100 * fold.scores["accuracy"] for fold in result.folds]
        axes.scatter(folds, [y + 0.22] * len(folds), s=14, color=GREY, alpha=0.55, linewidths=0)
        _whisker(axes, y, e.mean, e.share_interval, fmt="o", color=BLUE, markersize=6, zorder=3)
        _write_in_row(axes, y, f"{100 * e.mean:.1f}")
    label_rows(axes, range(len(ranked)), [plain(name, 60) for name in names(ranked)])
    axes.set(ylim=(len(ranked) - 0.5, -0.5), xlabel="accuracy (%): mean, 95 % CI, single folds in grey")
    tidy(axes)
    return figure


def differences(differences: Sequence[Difference], *, note: str = "") -> Figure:
    """Draw differences in accuracy (points) with their 95 % intervals and the region of practical equivalence.

    Args:
        differences: at least one, drawn from top to bottom, all with the same `rope`.
        note: small print below.
    """
    figure = new_figure(7.6, 1.5 + 0.36 * len(differences), note)
    axes = figure.subplots()
    rope = 100 * differences[0].rope
    negligible = f"too small to matter (±{rope:g} point{'' if rope == 1 else 's'})"
    band = axes.axvspan(-rope, rope, color=SHADE, linewidth=0, zorder=0, label=negligible)
    axes.axvline(0, color=INK, linewidth=0.8)
    for y, difference in enumerate(differences):
        e, look = difference.gain, LOOKS[difference.finding]
        _whisker(axes, y, e.mean, e.difference_interval, linestyle="", markersize=6, zorder=3, **look)
        _write_in_row(axes, y, f"{100 * e.mean:.1f}", color=look["color"])
    label_rows(axes, range(len(differences)), [_minus(d.better, d.worse) for d in differences])
    axes.set(ylim=(len(differences) - 0.5, -0.5))
    axes.set_xlabel("difference in accuracy (points): mean, 95 % CI (not adjusted)")
    tidy(axes)
    marks = [Line2D([], [], linestyle="", **look) for look in LOOKS.values()]
    _legend(figure, [*marks, band])
    return figure


def reliability(calibration: Calibration, *, note: str = "") -> Figure:
    """Draw a reliability diagram: accuracy against confidence, a dot per bin with an area for its number of tracks.

    Args:
        calibration: of one configuration; bins without tracks are left out.
        note: small print below.

    Source: Wilson, J. American Statistical Association 22 (1927), for the thin lines, 95 % confidence intervals that
    treat tracks as independent.
    """
    figure = new_figure(4.2, 4.8, note)
    axes = figure.subplots()
    filled = calibration.counts > 0
    confidence, accuracy, counts = (
        values[filled] for values in (100 * calibration.confidence, 100 * calibration.accuracy, calibration.counts)
    )
    (ideal,) = axes.plot([0, 100], [0, 100], color=GREY, linestyle="--", linewidth=1, label="perfect calibration")
    gap = axes.vlines(confidence, confidence, accuracy, color=RED, linewidth=1.2, alpha=0.6, label="gap to it")
    areas = np.maximum(LARGEST_DOT**2 * counts / counts.max(), SMALLEST_DOT**2)
    axes.scatter(confidence, accuracy, s=areas, color=BLUE, edgecolors="white", linewidths=0.7, zorder=3)
    axes.vlines(confidence, *_wilson(accuracy / 100, counts), color=BLUE, linewidth=0.8, alpha=0.5, zorder=1)
    axes.text(1, 99, "underconfident", size=8, color=GREY, va="top")
    axes.text(99, 1, "overconfident", size=8, color=GREY, ha="right")
    axes.set(xlabel="confidence (%)", ylabel="recognised tracks (%)", aspect="equal")
    axes.set(xlim=(-5, 105), ylim=(-5, 105), xticks=range(0, 101, 20), yticks=range(0, 101, 20))
    tidy(axes)
    area = f"tracks (area: their number, up to {round(float(counts.max()), 1):g})"
    dot = Line2D([], [], linestyle="", marker="o", color=BLUE, label=area)
    bar = Line2D([], [], color=BLUE, linewidth=0.8, alpha=0.5, label="95 % CI, were tracks independent")
    _legend(figure, [ideal, gap, dot, bar], f"expected calibration error {100 * calibration.error:.1f} %", n_columns=1)
    return figure


def _wilson(shares: Floats, counts: Floats) -> tuple[list[float], list[float]]:
    """Return the lower and upper ends (%) of the 95 % intervals of shares of `counts` tracks each."""
    numbers = np.maximum(counts.round().astype(int), 1)  # tracks that are predicted several times count in parts
    tests = [stats.binomtest(round(share * n), n) for share, n in zip(shares.tolist(), numbers.tolist(), strict=True)]
    intervals = [test.proportion_ci(method="wilson") for test in tests]
    return [100 * interval.low for interval in intervals], [100 * interval.high for interval in intervals]


def split_comparison(by_split: Mapping[str, ConfigResult], *, note: str = "") -> Figure:
    """Draw a configuration's accuracy and its recall of each genre under several splits, the largest drop on top.

    Args:
        by_split: its result by the name of the split, at least two; drops are from the first to the last.
        note: small print below.
    """
    drops = recall_drops(by_split)
    lines = 0.6 * np.arange(len(by_split))  # the first row has a line per split, because intervals overlap
    middle, end = float(lines.mean()), float(lines[-1])
    rows = {genre: end + 1.3 + i for i, genre in enumerate(drops)}
    figure = new_figure(7.0, 1.9 + 0.28 * (end + len(rows)), note)
    axes = figure.subplots()
    axes.axhspan(-0.7, end + 0.7, color=SHADE, linewidth=0, zorder=0)
    looks = _split_looks(len(by_split))
    for line, result, look in zip(lines, by_split.values(), looks, strict=True):
        _draw_accuracy(axes, line, result, look)
    handles = _draw_recalls(axes, rows, by_split, looks)
    by_row = {rows[genre]: 100 * drop for genre, drop in drops.items() if not isnan(drop)}
    _write_drops(axes, {middle: 100 * accuracy_drop(by_split).mean} | by_row, [*by_split])
    label_rows(axes, [middle, *rows.values()], ["all genres", *map(plain, rows)])
    axes.set(ylim=(end + len(rows) + 0.9, -0.7), xlabel="recognised tracks (%); over all genres with 95 % CI")
    tidy(axes)
    _legend(figure, handles, names([*by_split.values()][:1])[0], n_columns=min(3, len(by_split)))
    return figure


def _write_in_row(axes: Axes, y: float, text: str, *, x: float = 1.02, color: str = INK, ha: str = "left") -> None:
    """Write text in a row, at a place given as a share of the axes' width; 1 is their right edge."""
    axes.text(x, y, text, transform=axes.get_yaxis_transform(), ha=ha, va="center", size=9, color=color)


def _draw_losses(axes: Axes, folds: Sequence[FoldResult]) -> None:
    if not any(fold.curves for fold in folds):
        axes.set_axis_off()
        axes.text(0.5, 0.5, "no epochs: trained in one step", ha="center", transform=axes.transAxes)
        return
    for key, label, color, style in LOSSES:
        curves = [fold.curves[key] for fold in folds]
        if len(folds) > 1:
            for curve in curves:
                _draw_curve(axes, curve, color=color, linestyle=style, linewidth=0.7, alpha=0.4)
        _draw_curve(axes, mean_curve(curves), color=color, linestyle=style, linewidth=2.0, label=label)
    axes.set_xlabel("epoch (strong: mean over folds, faint: single folds)" if len(folds) > 1 else "epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    tidy(axes)


def _scale_losses(axes: Axes) -> None:
    """Begin at 0, and leave some room above the curves."""
    axes.set_ylim(0, 1.05 * axes.get_ylim()[1])
    axes.set_ylabel("cross-entropy (nats)")


def _draw_curve(axes: Axes, curve: Sequence[float], **style: Any) -> None:
    marker = "o" if len(curve) == 1 else ""  # one epoch makes no line
    axes.plot(range(1, len(curve) + 1), curve, marker=marker, **style)


def _legend(figure: Figure, handles: Sequence[Artist], title: str = "", n_columns: int = 2) -> None:
    # Above the axes it hides nothing; the figure's title goes on top of it.
    labels = [str(handle.get_label()) for handle in handles]
    look = {"ncols": n_columns, "frameon": False, "fontsize": 9, "title_fontsize": 11, "handletextpad": 0.5}
    title = wrapped(title, figure.get_figwidth())
    figure.legend(handles, labels, loc="outside upper center", title=title, **look)


def _minus(better: str, worse: str) -> str:
    """Return "better − worse", on two lines if the names are long."""
    shortened = [plain(name, 48) for name in (better, worse)]
    return (" − " if sum(map(len, shortened)) <= 40 else "\n− ").join(shortened)


def _whisker(axes: Axes, y: float, mean: float, interval: tuple[float, float], **look: Any) -> None:
    """Draw a mean with its interval, both shares, in percent."""
    mean, low, high = (100 * share for share in (mean, *interval))
    axes.errorbar(mean, y, xerr=[[mean - low], [high - mean]], capsize=3, **look)


def _split_looks(n: int) -> list[dict[str, Any]]:
    """Return the style of each split's dots: the first blue, the last red."""
    colors = LinearSegmentedColormap.from_list("splits", [BLUE, AMBER, RED])(np.linspace(0, 1, n))
    common = {"linestyle": "", "markersize": 8, "markeredgecolor": "white", "zorder": 3}
    return [common | {"color": to_hex(color), "marker": "oDs^v"[i % 5]} for i, color in enumerate(colors)]


def _draw_accuracy(axes: Axes, y: float, result: ConfigResult, look: Mapping[str, Any]) -> None:
    """Draw one split's mean accuracy over all genres with its interval, and write it beside."""
    e = result.estimate("accuracy")
    _whisker(axes, y, e.mean, e.share_interval, elinewidth=1.5, **look)
    end = (100 * e.share_interval[1], y)
    axes.annotate(f"{100 * e.mean:.1f} %", end, (5, 0), textcoords="offset points", va="center", size=8, color=INK)


def _draw_recalls(
    axes: Axes, rows: Mapping[str, float], by_split: Mapping[str, ConfigResult], looks: Sequence[dict[str, Any]]
) -> list[Line2D]:
    """Draw each genre's row: each split's recall as a dot, on a line between the extremes; return the dots."""
    recalls = {
        split: {genre: 100 * share for genre, share in result.recalls.items()} for split, result in by_split.items()
    }
    for genre, y in rows.items():
        shares = [recall[genre] for recall in recalls.values() if genre in recall]
        axes.plot([min(shares), max(shares)], [y, y], color=LINK, linewidth=2)
    handles = []
    for (split, recall), look in zip(recalls.items(), looks, strict=True):
        handles += axes.plot(list(recall.values()), [rows[genre] for genre in recall], label=plain(split), **look)
    return handles


def _write_drops(axes: Axes, drops: Mapping[float, float], splits: Sequence[str]) -> None:
    """Write the drops in points, by row, right of 100 %; start the axis at the lowest share that is drawn."""
    axes.set_title(f"drop in points, {plain(splits[0])} → {plain(splits[-1])}", loc="right", size=8, color=GREY)
    low = min(90, 10 * floor(axes.dataLim.x0 / 10))
    axes.set(xlim=(low - 0.03 * (100 - low), 100 + 0.2 * (100 - low)), xticks=range(low, 101, 10))
    for y, drop in drops.items():
        _write_in_row(axes, y, f"{round(drop)}".replace("-", "−"), x=0.985, ha="right")


def _color_scale(kind: str, values: NDArray[np.float32]) -> dict[str, Any]:
    """Return the colour scale that all panels share, as arguments of `imshow`."""
    if kind == "mel":
        return {"cmap": "magma", "norm": Normalize(float(values.min()), float(values.max()))}
    # The lowest coefficients are ten times the others: a scale linear to about 10 dB, then logarithmic, shows both.
    limit = float(np.abs(values).max()) or 1.0
    return {"cmap": "RdBu_r", "norm": AsinhNorm(linear_width=10, vmin=-limit, vmax=limit)}


def _label_panels(grid: NDArray[np.object_], means: GenreMeans) -> None:
    n, n_columns = len(means.genres), grid.shape[1]
    for axes in grid.flat[n - n_columns : n]:  # the lowest panel of each column
        axes.set_xlabel("time (s)", size=8)
        axes.tick_params(labelbottom=True)
    grid[0, 0].xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    bins = "frequency (Hz)" if means.kind == "mel" else "coefficient"
    for axes in grid[:, 0]:
        axes.set_ylabel(bins, size=8)
    if means.kind == "mel":
        mark_frequencies(grid[0, 0], means.frequencies)
    else:
        grid[0, 0].yaxis.set_major_locator(MaxNLocator(5, integer=True))
