"""Test figures of one file by matplotlib's objects, not by pixels."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
from made import HOSTILE
from matplotlib.text import Text

from genre_cls.inference import clip_plots
from genre_cls.inference.prediction import Clip, Explanation, Prediction

GENRES = ("blues", "jazz", "rock")


def a_prediction(seconds: float, *shares: tuple[float, ...]) -> Prediction:
    """Windows of equal length, one after the other."""
    bounds, windows = np.linspace(0, seconds, len(shares) + 1), np.array(shares)
    return Prediction(GENRES, seconds, bounds[:-1], bounds[1:], windows)


def a_clip(loudness: float = 0.5, name: str = "a.wav") -> Clip:
    wave = loudness * np.sin(np.arange(16000, dtype=np.float32))
    return Clip(name, wave, 8000, np.zeros((32, 63), np.float32), np.geomspace(50, 4000, 32), 256 / 8000)


def test_genres_over_time_are_ranked_and_as_probable_as_they_were() -> None:
    figure = clip_plots.genres_over_time(a_prediction(4, (0.1, 0.7, 0.2), (0.3, 0.5, 0.2)))
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["jazz", "blues", "rock"]
    shown = np.asarray(axes.collections[0].get_array()).reshape(3, 4)
    np.testing.assert_allclose(shown, [[0.7, 0.7, 0.5, 0.5], [0.1, 0.1, 0.3, 0.3], [0.2] * 4])
    assert axes.get_xlim() == (0, 4)


def test_a_clip_is_drawn_as_loud_and_as_long_as_it_is() -> None:
    for loudness in (0.5, 3.0):
        waveform, mel = clip_plots.clip(a_clip(loudness)).axes[:2]
        heights = waveform.collections[0].get_paths()[0].vertices[:, 1]
        assert heights.max() == pytest.approx(loudness, rel=0.01) and waveform.get_ylim()[1] >= loudness
        assert mel.get_xlim() == (0, 2) and mel.images[0].get_array().shape == (32, 63)  # type: ignore[union-attr]


def test_every_figure_carries_its_title_and_note_and_draws_hostile_names_without_a_warning() -> None:
    hostile = replace(a_prediction(9, (0.2, 0.3, 0.5)), genres=HOSTILE)
    clip = a_clip(name="$\udcff\n")
    explanation = Explanation(HOSTILE[0], clip, np.ones((32, 63), np.float32), 1.0, "synthetic at 3$ and 4$")
    figures = {
        ("Genres over time",): clip_plots.genres_over_time(hostile),
        ("$\\udcff\\n", "The first 2 s."): clip_plots.clip(clip),
        (f"$\\udcff\\n: evidence for {HOSTILE[0]}", explanation.note): clip_plots.explanation(explanation),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for texts, figure in figures.items():
            figure.draw_without_rendering()
            shown = {text.get_text().replace("\\$", "$") for text in figure.findobj(Text)}
            assert shown.issuperset(texts)
