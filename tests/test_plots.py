"""Test figures by matplotlib's objects, not by pixels."""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import made
import numpy as np
import pytest
from matplotlib import rcParams
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.text import Text
from statsmodels.stats.proportion import proportion_confint

from genre_cls.evaluation import figures, plots
from genre_cls.evaluation.calibration import Calibration, calibration
from genre_cls.evaluation.comparisons import Difference, names
from genre_cls.evaluation.estimates import Estimate
from genre_cls.evaluation.genre_means import GenreMeans
from genre_cls.evaluation.predictions import FoldResult
from genre_cls.evaluation.scoring import ConfigResult

GENRES = ("blues", "jazz", "rock")


def a_fold(index: int = 0, accuracy: float = 0.8, genres: Sequence[str] = GENRES, n_epochs: int = 4) -> FoldResult:
    """Ten tracks a genre, of which a share is recognised and the others are predicted as the next genre."""
    (fold,) = made.a_result(accuracy, genres=tuple(genres)).folds  # of the same tracks whatever the index
    loss = np.linspace(2 + 0.1 * index, 1, n_epochs).tolist()
    curves = {"train_loss": loss, "held_out_loss": [value + 0.5 for value in loss]}
    return replace(fold, index=index, curves=curves, seconds=10.0 + index)


def a_result(*accuracies: float, genres: Sequence[str] = GENRES, **params: str) -> ConfigResult:
    folds = tuple(a_fold(i, accuracy, genres) for i, accuracy in enumerate(accuracies))
    return ConfigResult({"features": "mel", "model": "cnn", "batch_size": "16"} | params, folds, 1234)


def a_difference(
    mean: float, error: float, p_value: float = 0.01, better: str = "mel", worse: str = "mfcc", rope: float = 0.01
) -> Difference:
    return Difference(better, worse, Estimate(mean, error, 4), p_value, None, rope)


def some_means(kind: str, genres: Sequence[str]) -> GenreMeans:
    matrices = np.random.default_rng(0).normal(size=(len(genres), 12, 30)).astype(np.float32)
    frequencies = np.geomspace(100, 10_000, 12) if kind == "mel" else np.array([])
    return GenreMeans(kind, tuple(genres), matrices, 0.1, frequencies)


def whiskers(axes: Axes) -> list[list[float]]:
    """Both ends of each horizontal error bar."""
    return [bar.lines[2][0].get_segments()[0][:, 0].tolist() for bar in axes.containers]


def legend(figure: Figure) -> dict[str, Artist]:
    """The handles of the legend by label."""
    (box,) = figure.legends
    return {text.get_text(): handle for text, handle in zip(box.get_texts(), box.legend_handles, strict=True)}


def row_labels(figure: Figure) -> list[str]:
    return [label.get_text() for label in figure.axes[0].get_yticklabels()]


def recall_dots(figure: Figure) -> dict[str, dict[str, float]]:
    """The recall that is drawn (%), by split and genre."""
    axes = figure.axes[0]
    rows = dict(zip(axes.get_yticks(), row_labels(figure), strict=True))
    splits = [line for line in axes.get_lines() if line.get_label() in legend(figure)]
    return {line.get_label(): {rows[y]: float(x) for x, y in line.get_xydata()} for line in splits}


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
    assert left.get_ylim() == right.get_ylim() and left.get_ylim()[0] == 0
    assert "best: mel · big · batch 16" in left.get_title() and "85.0 %" in left.get_title()
    assert "worst: mel · small · batch 16" in right.get_title() and "25.0 %" in right.get_title()


@pytest.mark.parametrize("factors", [(1, 3), (3, 1)])
def test_no_loss_of_best_or_worst_is_beyond_the_axis(factors: tuple[int, int]) -> None:
    pair = []
    for factor in factors:
        folds = a_result(0.9, 0.8).folds
        higher = [{name: [factor * loss for loss in curve] for name, curve in fold.curves.items()} for fold in folds]
        scaled = tuple(replace(fold, curves=curves) for fold, curves in zip(folds, higher, strict=True))
        pair.append(replace(a_result(0.9, 0.8), folds=scaled))
    for axes in plots.compare_loss_curves(*pair).axes:
        assert axes.lines and all(max(line.get_ydata()) < axes.get_ylim()[1] for line in axes.lines)


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
    assert sum(label in ("dB relative to each track's level", "coefficient (dB)") for label in texts(figure)) == 1


def test_frequency_ticks_lie_on_the_bands_of_their_frequency() -> None:
    axes = plots.genre_means(some_means("mel", GENRES)).axes[0]
    ticks = dict(zip([t.get_text() for t in axes.get_yticklabels()], axes.get_yticks(), strict=True))
    centres = np.geomspace(100, 10_000, 12)
    assert ticks and all(np.isclose(np.interp(row, range(12), centres), float(hz)) for hz, row in ticks.items())


def test_recall_bars_are_sorted_and_labelled() -> None:
    axes = plots.recall_bars(dict(zip(GENRES, (0.2, 0.9, 0.5), strict=True))).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["jazz", "rock", "blues"]
    assert [bar.get_width() for bar in axes.patches] == [90, 50, 20]
    assert [text.get_text() for text in axes.texts] == ["90 %", "50 %", "20 %"]
    assert axes.yaxis_inverted()


def test_intervals_put_the_best_on_top_and_end_at_100_percent() -> None:
    good, bad = a_result(1.0, 0.9, model="good"), a_result(0.3, 0.2, model="bad")
    axes = plots.intervals([bad, good]).axes[0]
    assert axes.get_yticklabels()[0].get_text().startswith("mel · good")
    assert axes.yaxis_inverted()
    of_good, of_bad = whiskers(axes)
    assert max(of_good) == 100
    assert np.isclose(min(of_bad), max(0, 100 * bad.estimate("accuracy").low))
    assert sum(len(dots.get_offsets()) for dots in axes.collections[::2]) == 4


def test_differences_are_rows_in_their_order_with_mean_and_interval_in_points() -> None:
    drawn = [a_difference(0.08, 0.02), a_difference(0.003, 0.03, better="batch 16", worse="batch 32")]
    figure = plots.differences(drawn)
    axes = figure.axes[0]
    assert row_labels(figure) == ["mel − mfcc", "batch 16 − batch 32"]
    assert axes.yaxis_inverted()
    assert [text.get_text() for text in axes.texts] == ["8.0", "0.3"]
    assert [float(bar.lines[0].get_xdata()[0]) for bar in axes.containers] == pytest.approx([8, 0.3])
    assert np.allclose(whiskers(axes), [(100 * d.gain.low, 100 * d.gain.high) for d in drawn])


def test_colour_and_marker_tell_what_a_comparison_found_and_the_legend_says_so() -> None:
    different, equal = a_difference(0.08, 0.01, 0.001), a_difference(0.004, 0.001, 0.04)
    figure = plots.differences([different, equal, a_difference(0.03, 0.02, 0.3)])
    dots = [bar.lines[0] for bar in figure.axes[0].containers]
    explained = list(legend(figure).items())[:3]
    for dot, (says, handle), finding in zip(dots, explained, ("different", "equal", "undecided"), strict=True):
        assert finding in says
        assert (dot.get_color(), dot.get_marker()) == (handle.get_color(), handle.get_marker())
    assert len({dot.get_color() for dot in dots}) == len({dot.get_marker() for dot in dots}) == 3


def test_the_region_of_practical_equivalence_is_shaded_around_a_line_at_zero() -> None:
    figure = plots.differences([a_difference(0.08, 0.02, rope=0.015)])
    (band,), (zero, *_) = figure.axes[0].patches, figure.axes[0].get_lines()
    assert (band.get_x(), band.get_width()) == pytest.approx((-1.5, 3))
    assert list(zero.get_xdata()) == [0, 0]
    assert any("±1.5 points)" in says for says in legend(figure))
    assert any("±1 point)" in says for says in legend(plots.differences([a_difference(0.08, 0.02, rope=0.01)])))


@pytest.mark.parametrize("n", [1, 28])
def test_long_names_of_differences_do_not_overlap(n: int) -> None:
    name = "mfcc · basic · batch 32 · recipe.epochs 40"
    figure = plots.differences([a_difference(0.0, 0.0, 1.0, name, name)] * n)
    figure.draw_without_rendering()
    boxes = [label.get_window_extent() for label in figure.axes[0].get_yticklabels()]
    assert len(boxes) == n and all(upper.y0 >= lower.y1 for upper, lower in pairwise(boxes))
    assert all(box.x0 >= 0 for box in boxes)


def test_reliability_is_a_dot_for_each_interval_with_tracks_and_its_gap_to_the_diagonal() -> None:
    kept = Calibration(np.array([0.3, 0.0, 0.9]), np.array([0.5, 0.0, 0.6]), np.array([100, 0, 400]), 0.28, 0.04)
    figure = plots.reliability(kept)
    gaps, dots, intervals = figure.axes[0].collections
    ends = [100 * np.array(proportion_confint(hits, n, method="wilson")) for hits, n in ((50, 100), (240, 400))]
    assert np.allclose([segment[:, 1] for segment in intervals.get_segments()], ends)
    assert np.allclose(dots.get_offsets(), [(30, 50), (90, 60)])
    assert np.isclose(dots.get_sizes()[1] / dots.get_sizes()[0], 4)
    assert np.allclose(gaps.get_segments(), [[(30, 30), (30, 50)], [(90, 90), (90, 60)]])
    assert figure.axes[0].get_lines()[0].get_xydata().tolist() == [[0, 0], [100, 100]]
    assert "expected calibration error 28.0 %" in texts(figure)


def test_a_single_track_among_thousands_is_a_dot_that_can_be_seen() -> None:
    hits = np.arange(5001) > 0
    figure = plots.reliability(calibration(np.where(hits, 1.0, 0.2), hits.astype(float), len(hits)))
    assert figure.axes[0].collections[1].get_sizes().min() >= 10
    assert "tracks (area: their number, up to 5000)" in legend(figure)


def test_splits_are_compared_by_a_dot_for_each_and_each_genre_with_the_largest_drop_on_top() -> None:
    easy, hard = a_result(1.0, 1.0), a_result(0.6, 0.6)
    labels = hard.folds[0].labels
    probabilities = hard.folds[0].probabilities.copy()
    probabilities[labels == 1] = np.eye(3)[0]  # not one of jazz is recognised
    hard = replace(hard, folds=(hard.folds[0], replace(hard.folds[1], probabilities=probabilities)))
    figure = plots.split_comparison({"random": easy, "artist": hard})
    assert row_labels(figure) == ["all genres", "jazz", "blues", "rock"]
    assert figure.axes[0].yaxis_inverted()
    dots = recall_dots(figure)
    assert dots["random"] == pytest.approx({"jazz": 100, "blues": 100, "rock": 100})
    assert dots["artist"] == pytest.approx({"jazz": 30, "blues": 60, "rock": 60})
    assert [text.get_text() for text in figure.axes[0].texts] == ["100.0 %", "50.0 %", "50", "70", "40", "40"]
    assert "drop in points, random → artist" in texts(figure)


def test_the_first_row_of_compared_splits_has_an_interval_for_each_that_ends_where_shares_do() -> None:
    by_split = {"random": a_result(1.0, 0.9), "filtered": a_result(0.7, 0.6), "artist": a_result(0.8, 0.8)}
    drawn = whiskers(plots.split_comparison(by_split).axes[0])
    expected = [100 * np.array(result.estimate("accuracy").share_interval) for result in by_split.values()]
    assert np.allclose(drawn, expected)


def test_compared_splits_differ_in_colour_and_marker() -> None:
    handles = legend(
        plots.split_comparison({split: a_result(0.5) for split in ("random", "filtered", "artist", "_own")})
    )
    assert list(handles) == ["random", "filtered", "artist", "_own"]
    assert len({handle.get_color() for handle in handles.values()}) == 4
    assert len({handle.get_marker() for handle in handles.values()}) == 4


def test_a_genre_that_a_split_has_no_track_of_gets_no_dot_and_no_drop_and_comes_last() -> None:
    fold = a_fold(accuracy=0.5)
    kept = np.flatnonzero(fold.labels > 0)  # no blues
    ids = tuple(fold.track_ids[i] for i in kept)
    without = replace(fold, track_ids=ids, labels=fold.labels[kept], probabilities=fold.probabilities[kept])
    result = a_result(0.8)
    figure = plots.split_comparison({"random": result, "filtered": replace(result, folds=(without,))})
    assert row_labels(figure) == ["all genres", "jazz", "rock", "blues"]
    assert recall_dots(figure)["filtered"] == pytest.approx({"jazz": 50, "rock": 50})
    assert [text.get_text() for text in figure.axes[0].texts] == ["80.0 %", "50.0 %", "30", "30", "30"]


def test_a_gain_is_a_negative_drop() -> None:
    figure = plots.split_comparison({"random": a_result(0.5), "artist": a_result(0.8)})
    assert [text.get_text() for text in figure.axes[0].texts][2:] == ["−30"] * 4


@pytest.mark.parametrize("accuracy", [0.0, 1.0])
def test_all_of_compared_splits_is_within_their_axis(accuracy: float) -> None:
    figure = plots.split_comparison({"random": a_result(accuracy, genres=["one", "two"]), "artist": a_result(accuracy)})
    figure.draw_without_rendering()
    axes = figure.axes[0]
    low, high = axes.get_xlim()
    shares = [share for recall in recall_dots(figure).values() for share in recall.values()]
    assert low < min(shares) <= max(shares) < high
    assert axes.get_xticks()[-1] == 100
    frame = axes.get_window_extent()
    assert all(frame.contains(*corner) for text in axes.texts for corner in text.get_window_extent().corners())


def test_names_tell_apart_what_differs_and_leave_out_what_does_not() -> None:
    results = [a_result(0.5, **{"recipe.lr": lr, "seed": "0"}) for lr in ("0.1", "0.2")]
    assert names(results) == ["mel · cnn · batch 16 · recipe.lr 0.1", "mel · cnn · batch 16 · recipe.lr 0.2"]


def test_a_figure_becomes_a_png() -> None:
    assert figures.png(plots.recall_bars(dict(zip(GENRES, (1.0, 0.5, 0.0), strict=True)))).startswith(b"\x89PNG")


def test_letters_that_the_usual_font_lacks_come_from_another_font(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "FONTS", ("of no system", "STIXGeneral"))
    monkeypatch.setitem(rcParams, "font.family", rcParams["font.family"][:1])
    figures._add_fonts.cache_clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figures.png(plots.recall_bars({"fa\N{COMBINING ENCLOSING CIRCLE}do": 1.0, "b": 0.5}))
    figures._add_fonts.cache_clear()


def test_every_figure_carries_its_note_and_draws_hostile_names_without_a_warning() -> None:
    result, note = a_result(0.8, 0.6, genres=made.HOSTILE, model="$x"), "synthetic at 3$ and 4$"
    drawn = [
        plots.loss_curves(result.folds, title="$a$ $", note=note),
        plots.compare_loss_curves(result, result, note=note),
        plots.confusion_matrix(result.confusion, made.HOSTILE, title="$", note=note),
        plots.genre_means(some_means("mel", made.HOSTILE), note=note),
        plots.recall_bars(result.recalls, note=note),
        plots.intervals([result], note=note),
        plots.differences([a_difference(0.1, 0.01, better="$x_", worse="_y\n$\\frac{" * 9)], note=note),
        plots.reliability(result.calibration, note=note),
        plots.split_comparison({"_$x\n": result, "$\\frac{1": a_result(0.2, genres=made.HOSTILE[:2])}, note=note),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for figure in drawn:
            figure.draw_without_rendering()
            assert any(text.replace("\\$", "$") == note for text in texts(figure))


def test_a_configuration_without_epochs_has_no_axes_and_leaves_the_other_its_own() -> None:
    learned = a_result(0.6, 0.8)
    at_once = replace(learned, folds=tuple(replace(fold, curves={}) for fold in learned.folds))
    for pair in ((at_once, learned), (learned, at_once), (at_once, at_once)):
        figure = plots.compare_loss_curves(*pair)
        for axes, result in zip(figure.axes, pair, strict=True):
            assert axes.axison == bool(result.folds[0].curves) == bool(axes.lines)
            told = [] if axes.axison else ["no epochs: trained in one step"]
            assert [text.get_text() for text in axes.texts] == told
            highest = max((max(line.get_ydata()) for line in axes.lines), default=0)
            assert axes.get_ylim()[1] >= highest or not axes.axison
        labelled = [axes for axes in figure.axes if axes.axison and axes.get_ylabel()]
        assert len(labelled) == any(axes.axison for axes in figure.axes)
    assert figures.png(plots.loss_curves(at_once.folds, title="t"))


def test_a_sign_that_no_font_has_is_drawn_as_a_box_without_a_warning() -> None:
    figure = figures.new_figure(2, 1, "", "\N{PILE OF POO}\U0010fffd.wav")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert figures.png(figure)


def test_average_spectrograms_have_low_bins_below_high_ones_and_seconds_from_left_to_right() -> None:
    for kind, label in (("mel", "frequency (Hz)"), ("mfcc", "coefficient")):
        means = some_means(kind, GENRES)
        figure = plots.genre_means(means)
        assert label in texts(figure)
        for image, matrix in zip(images(figure), means.matrices, strict=True):
            assert np.array_equal(image.get_array(), matrix) and image.origin == "lower"
            assert image.get_extent() == pytest.approx([0, 3, -0.5, 11.5])  # 30 frames of 0.1 s, 12 bins


def test_a_single_coefficient_is_drawn_too() -> None:
    means = some_means("mfcc", GENRES)
    figure = plots.genre_means(replace(means, matrices=means.matrices[:, :1]))
    assert images(figure)[0].get_array().shape == (1, 30) and "coefficient" in texts(figure)


def test_rows_of_confusion_are_true_genres_and_columns_predicted_ones() -> None:
    axes = plots.confusion_matrix(np.array([[3, 1], [0, 4]]), ["a", "b"], title="t").axes[0]
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("true genre", "predicted genre")


def test_intervals_show_each_mean_as_a_number_and_each_fold_as_a_grey_dot() -> None:
    good, bad = a_result(1.0, 0.9, model="good"), a_result(0.4, 0.2, model="bad")
    axes = plots.intervals([bad, good]).axes[0]
    assert [text.get_text() for text in axes.texts] == ["95.0", "30.0"]
    of_one_genre = np.tile(np.eye(3)[0], (30, 1))  # a third is right; macro F1 is a sixth
    lopsided = replace(bad, folds=(replace(bad.folds[0], probabilities=of_one_genre), bad.folds[1]))
    for result, shown in ((good, [100, 90]), (bad, [40, 20]), (lopsided, [100 / 3, 20])):
        dots = [dots.get_offsets()[:, 0].tolist() for dots in plots.intervals([result]).axes[0].collections]
        assert dots[0] == pytest.approx(shown)


def test_the_legend_of_losses_says_which_line_is_of_training() -> None:
    handles = legend(plots.loss_curves([a_fold()], title="t"))
    assert list(handles) == ["training (crops)", "held out (centre windows)"]
    red, green = (to_rgb(handle.get_color()) for handle in handles.values())
    assert red[0] > 2 * max(red[1:]) and green[1] > 2 * max(green[0], green[2])
