"""Figures hold what they say: counted in matplotlib's own objects, not in pixels."""

import warnings
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.text import Text

from genre_cls import plots
from genre_cls.scoring import ConfigResult, FoldResult, GenreMeans, names

GENRES = ("blues", "jazz", "rock")
HOSTILE = ("$\\frac{1$", "a genre with a name far too long for any figure", "_x\n$y$")


def a_fold(index: int = 0, accuracy: float = 0.8, genres: Sequence[str] = GENRES, n_epochs: int = 4) -> FoldResult:
    """Ten tracks a genre, of which a share is recognised and the others are taken for the next genre."""
    labels = np.repeat(np.arange(len(genres)), 10)
    wrong = np.tile(np.arange(10) >= round(10 * accuracy), len(genres))
    probabilities = 0.9 * np.eye(len(genres))[(labels + wrong) % len(genres)] + 0.1 / len(genres)
    loss = np.linspace(2 + 0.1 * index, 1, n_epochs).tolist()
    curves = {"train_loss": loss, "held_out_loss": [value + 0.5 for value in loss]}
    ids = tuple(map(str, range(len(labels))))
    return FoldResult(index, ids, labels, probabilities, tuple(genres), curves, 4 * len(labels), 10.0 + index)


def a_result(*accuracies: float, genres: Sequence[str] = GENRES, **params: str) -> ConfigResult:
    folds = tuple(a_fold(i, accuracy, genres) for i, accuracy in enumerate(accuracies))
    return ConfigResult({"features": "mel", "model": "cnn", "batch_size": "16"} | params, folds, 1234)


def some_means(kind: str, genres: Sequence[str]) -> GenreMeans:
    matrices = np.random.default_rng(0).normal(size=(len(genres), 12, 30)).astype(np.float32)
    matrices[:, 0] = 1000  # as the 0th coefficient of an MFCC dwarfs the others
    frequencies = np.geomspace(100, 10_000, 12) if kind == "mel" else np.array([])
    return GenreMeans(kind, tuple(genres), matrices, 0.1, frequencies)


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def images(figure: Figure) -> list[AxesImage]:
    return [image for axes in figure.axes for image in axes.get_images()]


def test_a_single_fold_is_two_lines_red_for_training_and_green_for_held_out() -> None:
    fold = a_fold(n_epochs=6)
    train, held_out = plots.loss_curves([fold], title="t").axes[0].get_lines()
    for line, loss in ((train, "train_loss"), (held_out, "held_out_loss")):
        assert line.get_xdata().tolist() == [1, 2, 3, 4, 5, 6]
        assert np.allclose(line.get_ydata(), fold.curves[loss])
    (red, *others), (r, green, b) = to_rgb(train.get_color()), to_rgb(held_out.get_color())
    assert red > 2 * max(others) and green > 2 * max(r, b)
    assert train.get_linestyle() != held_out.get_linestyle()


def test_several_folds_are_a_thin_line_each_and_a_bold_mean() -> None:
    folds = [a_fold(i) for i in range(3)]
    lines = plots.loss_curves(folds, title="t").axes[0].get_lines()
    assert len(lines) == 2 * (3 + 1)
    bold = max(lines[:4], key=lambda line: line.get_linewidth())
    assert np.allclose(bold.get_ydata(), np.mean([fold.curves["train_loss"] for fold in folds], axis=0))


def test_the_mean_of_folds_of_unequal_length_ends_with_the_shortest() -> None:
    lines = plots.loss_curves([a_fold(0, n_epochs=3), a_fold(1, n_epochs=5)], title="t").axes[0].get_lines()
    assert sorted(len(line.get_xdata()) for line in lines[:3]) == [3, 3, 5]


def test_a_single_epoch_is_still_visible() -> None:
    for line in plots.loss_curves([a_fold(n_epochs=1)], title="t").axes[0].get_lines():
        assert line.get_marker() == "o"


def test_best_and_worst_share_their_axis_and_carry_name_and_accuracy() -> None:
    best, worst = a_result(0.9, 0.8, model="big"), a_result(0.3, 0.2, model="small")
    left, right = plots.compare_loss_curves(best, worst).axes
    assert left.get_ylim() == right.get_ylim()
    assert "best: mel · big · batch 16" in left.get_title() and "85.0 %" in left.get_title()
    assert "worst: mel · small · batch 16" in right.get_title() and "25.0 %" in right.get_title()


def test_confusion_cells_show_the_counts_and_are_coloured_by_the_share_of_the_row() -> None:
    confusion = np.array([[30, 10], [0, 5]])
    axes = plots.confusion_matrix(confusion, ["a", "b"], title="t").axes[0]
    cells = {text.get_position()[::-1]: text.get_text() for text in axes.texts}
    assert cells == {(0, 0): "30", (0, 1): "10", (1, 1): "5"}
    assert np.allclose(axes.get_images()[0].get_array(), [[0.75, 0.25], [0, 1]])


@pytest.mark.parametrize("n", [2, 10, 50])
def test_confusion_labels_do_not_overlap(n: int) -> None:
    figure = plots.confusion_matrix(np.eye(n, dtype=np.int64), [f"genre {i}" for i in range(n)], title="t")
    figure.draw_without_rendering()
    boxes = [label.get_window_extent() for label in figure.axes[0].get_xticklabels()]
    assert all(left.x1 <= right.x0 for left, right in pairwise(boxes))
    assert all(box.y0 >= 0 for box in boxes)


@pytest.mark.parametrize("kind", ["mel", "mfcc"])
@pytest.mark.parametrize("n", [1, 7])
def test_every_genre_has_a_panel_and_all_share_one_colour_scale(kind: str, n: int) -> None:
    figure = plots.genre_means(some_means(kind, [f"g{i}" for i in range(n)]))
    drawn = images(figure)
    assert len(drawn) == n
    assert len({(image.norm.vmin, image.norm.vmax, image.get_cmap().name) for image in drawn}) == 1
    assert [text for text in texts(figure) if text.startswith("g")] == [f"g{i}" for i in range(n)]
    assert sum(label in ("dB", "coefficient (dB)") for label in texts(figure)) == 1


def test_the_0th_coefficient_is_left_out_and_the_label_says_so() -> None:
    figure = plots.genre_means(some_means("mfcc", GENRES))
    assert images(figure)[0].get_array().shape == (11, 30)
    assert images(figure)[0].norm.vmax < 10
    assert "coefficient, 0th omitted" in texts(figure)


def test_frequency_ticks_lie_on_the_bands_of_their_frequency() -> None:
    axes = plots.genre_means(some_means("mel", GENRES)).axes[0]
    ticks = dict(zip([t.get_text() for t in axes.get_yticklabels()], axes.get_yticks(), strict=True))
    centres = np.geomspace(100, 10_000, 12)
    assert ticks and all(np.isclose(np.interp(row, range(12), centres), float(hz)) for hz, row in ticks.items())


def test_recall_bars_are_sorted_and_labelled() -> None:
    axes = plots.recall_bars(np.array([0.2, 0.9, 0.5]), GENRES, title="t").axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["jazz", "rock", "blues"]
    assert [bar.get_width() for bar in axes.patches] == [90, 50, 20]
    assert [text.get_text() for text in axes.texts] == ["90 %", "50 %", "20 %"]
    assert axes.yaxis_inverted()


def test_intervals_put_the_best_on_top_and_end_at_100_percent() -> None:
    good, bad = a_result(1.0, 0.9, model="good"), a_result(0.3, 0.2, model="bad")
    axes = plots.intervals([bad, good]).axes[0]
    assert axes.get_yticklabels()[0].get_text().startswith("mel · good")
    assert axes.yaxis_inverted()
    whiskers = [container.lines[2][0].get_segments()[0] for container in axes.containers]
    assert whiskers[0][:, 0].max() == 100
    assert np.isclose(whiskers[1][:, 0].min(), max(0, 100 * bad.estimate("accuracy").low))
    assert sum(len(dots.get_offsets()) for dots in axes.collections[::2]) == 4


def test_names_tell_apart_what_differs_and_leave_out_what_does_not() -> None:
    results = [a_result(0.5, **{"recipe.lr": lr, "seed": "0"}) for lr in ("0.1", "0.2")]
    assert names(results) == ["mel · cnn · batch 16 · recipe.lr 0.1", "mel · cnn · batch 16 · recipe.lr 0.2"]


def test_a_figure_becomes_a_png() -> None:
    assert plots.png(plots.recall_bars(np.array([1.0, 0.5, 0.0]), GENRES, title="t")).startswith(b"\x89PNG")


def test_every_figure_carries_its_note_and_draws_hostile_names_without_a_warning() -> None:
    result, note = a_result(0.8, 0.6, genres=HOSTILE, model="$x"), "synthetic at 3$ and 4$"
    figures = [
        plots.loss_curves(result.folds, title="$a$ $", note=note),
        plots.compare_loss_curves(result, result, note=note),
        plots.confusion_matrix(result.confusion, HOSTILE, title="$", note=note),
        plots.genre_means(some_means("mel", HOSTILE), note=note),
        plots.recall_bars(result.recall, HOSTILE, title="$", note=note),
        plots.intervals([result], note=note),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for figure in figures:
            figure.draw_without_rendering()
            assert any(text.replace("\\$", "$") == note for text in texts(figure))
