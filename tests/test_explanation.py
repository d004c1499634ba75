"""Explanations: evidence that adds up to the logit, and lies where the model uses the input."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from matplotlib.image import imread
from networks import GENRES, RATE, SPECS, a_classifier, a_network, music, sound, unstandardised, usage_of
from torch import Tensor, nn

from genre_cls import GenreClassifier, predict
from genre_cls.configuration.members import TREATMENTS, VIEWS, treatment
from genre_cls.errors import UserError
from genre_cls.evaluation import figures
from genre_cls.inference import clip_plots
from genre_cls.inference.explanation import explained, overlap
from genre_cls.inference.prediction import Clip
from genre_cls.models.modelfile import SavedModel
from genre_cls.models.network import Network
from genre_cls.models.views import mfccs, patterns, view_of
from genre_cls.tracks.audio import UnreadableAudio
from genre_cls.tracks.features import FeatureSpec, extract
from genre_cls.tracks.windows import cover_starts, repeat_to

SMALL = replace(SPECS["another rate"], n_mels=24)
SMALL_MFCC = replace(SMALL, kind="mfcc", n_mfcc=10)


class Listener(nn.Module):
    """A linear model of the mean of some bands."""

    def forward(self, features: Tensor) -> Tensor:
        heard = features[:, 0, 5:9].mean(dim=(1, 2))
        return torch.stack([heard, -heard, 0 * heard], dim=1)


def a_clip(folder: Path, seconds: float, spec: FeatureSpec = SMALL) -> Clip:
    """The first clip of some music, for any classifier of these features."""
    return GenreClassifier([SavedModel((), usage_of(spec), "", 1.0, {}, Path("none"))]).first_clip(
        music(folder / "a.wav", seconds)
    )


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("spec", [SMALL, SMALL_MFCC], ids=["mel", "mfcc"])
@pytest.mark.parametrize("seconds", [0.5, 1.9])
def test_the_evidence_adds_up_to_the_difference_of_the_logits(
    tmp_path: Path, spec: Any, view: str, seconds: float
) -> None:
    clip, network, usage = a_clip(tmp_path, seconds, spec), a_network(spec, 3, view), usage_of(spec)
    (features,) = extract(clip.waveform, [spec])
    n_frames = spec.n_frames(usage.window)
    repeated = torch.from_numpy(repeat_to(features, n_frames)).float()
    starts = cover_starts(repeated.shape[1], n_frames, overlap(view, usage.overlap))
    windows = torch.stack([repeated[None, :, start : start + n_frames] for start in starts])
    with torch.no_grad():
        gained = (network(windows) - logits_of_the_baseline(network, windows)).mean(dim=0)
    for genre in range(len(GENRES)):
        explanation = explained([network], usage, clip, genre)
        difference, evidence = explanation.difference, explanation.evidence
        assert explanation.genre == GENRES[genre] and evidence.shape == clip.mel.shape == (24, features.shape[1])
        assert difference == pytest.approx(float(gained[genre] - gained.mean()), abs=0.02)
        assert evidence.sum() == pytest.approx(difference, abs=0.02 + 0.02 * abs(difference))
        assert np.abs(evidence).sum() > 0.2


def logits_of_the_baseline(network: Network, windows: Tensor) -> Tensor:
    """The logits `(1, n_genres)` of what windows are compared with: the training tracks' mean, or their medians."""
    n_bins, of_mfccs, mean = windows.shape[2], network.view.startswith("mfcc"), network.mean
    if treatment(network.view) == "modulation":
        return network.logits(mean[None, None])
    if treatment(network.view) == "statistics":
        n_rows = min(n_bins, 20) if of_mfccs else n_bins
        mean = mean[0, : 5 * n_rows].view(n_rows, 5)[:, 2:3]  # the middle one of five quantiles
    features = mfccs(torch.eye(n_bins)).T @ mean if of_mfccs else mean
    return network(features.expand_as(windows[:1]))


class Rhythm(nn.Module):
    """A linear model of one energy of a modulation spectrum."""

    def forward(self, spectra: Tensor) -> Tensor:
        heard = spectra[:, 0, 7, 3]  # of the eighth pattern, which averages bins of one band
        return torch.stack([heard, -heard, 0 * heard], dim=1)


def test_the_evidence_of_a_modulation_lies_in_the_bins_that_it_moves(tmp_path: Path) -> None:
    clip, network = a_clip(tmp_path, 1.5), a_network(SMALL, 0, "modulation")
    network.model = Rhythm()
    network.deviation.fill_(1)
    (band,) = patterns(SMALL.n_mels)[0][7].nonzero().T.tolist()
    for mean, sign in ((-5.0, 1), (25.0, -1)):  # the clip moves more, then less
        network.mean.fill_(mean)
        evidence = [explained([network], usage_of(SMALL), clip, genre).evidence for genre in range(3)]
        assert 0 < np.abs(np.delete(evidence[0], band, axis=0)).max() < 1e-4 * np.abs(evidence[0][band]).max()
        assert sign * evidence[0].sum() > 1
        np.testing.assert_allclose(evidence[1], -evidence[0], atol=1e-5)
        assert not evidence[2].any()


def test_several_networks_are_explained_by_their_mean(tmp_path: Path) -> None:
    clip, networks = a_clip(tmp_path, 1.5), [a_network(SMALL, n, view) for n, view in enumerate(VIEWS[:2])]
    single = [explained([network], usage_of(SMALL), clip, 1) for network in networks]
    both = explained(networks, usage_of(SMALL), clip, 1)
    np.testing.assert_allclose(both.evidence, (single[0].evidence + single[1].evidence) / 2, atol=1e-6)
    assert both.difference == pytest.approx((single[0].difference + single[1].difference) / 2)


@pytest.mark.parametrize("view", ["plain", "modulation"])
def test_however_many_windows_a_network_is_given_at_once_the_evidence_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, view: str
) -> None:
    clip, network = a_clip(tmp_path, 1.5), a_network(SMALL, 0, view)
    whole = explained([network], usage_of(SMALL), clip, 1)
    batches: list[int] = []
    network.model.register_forward_pre_hook(lambda _, inputs: batches.append(len(inputs[0])))
    window = torch.zeros(1, 1, SMALL.n_mels, SMALL.n_frames(0.7))
    for at_once in (1, 3 * view_of(window, view).numel()):
        monkeypatch.setattr("genre_cls.inference.explanation.AT_ONCE", at_once)
        parts = explained([network], usage_of(SMALL), clip, 1)
        np.testing.assert_allclose(parts.evidence, whole.evidence, atol=1e-5)
    assert set(batches) <= {1, 2, 3}


def test_the_evidence_lies_in_the_bands_that_the_model_uses_and_has_its_sign(tmp_path: Path) -> None:
    clip, network = a_clip(tmp_path, 1.5), unstandardised(Listener(), SMALL)
    network.mean += -40
    evidence = [explained([network], usage_of(SMALL), clip, genre).evidence for genre in range(3)]
    assert not np.delete(evidence[0], range(5, 9), axis=0).any() and evidence[0][5:9].any(axis=1).all()
    heard = clip.mel[5:9] + 40  # dB above what the training tracks have
    n_windows = len(cover_starts(clip.mel.shape[1], SMALL.n_frames(0.7), 0.3))
    once = evidence[0][5:9, :5] * n_windows * 4 * SMALL.n_frames(0.7)  # frames that one window covers
    np.testing.assert_allclose(once, heard[:, :5], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(evidence[1], -evidence[0], atol=1e-6)
    assert not evidence[2].any()


def test_the_baseline_is_named_by_the_networks_views(tmp_path: Path) -> None:
    clip = a_clip(tmp_path, 2)
    plain, modulation, statistics = (a_network(SMALL, n, view) for n, view in enumerate(TREATMENTS))

    def note(*networks: Network) -> str:
        return explained(networks, usage_of(SMALL), clip, 0).note

    assert note(plain, plain) == "Integrated gradients from the training tracks' mean, over the first 2 s."
    assert note(statistics).startswith("Integrated gradients from a still clip of the training tracks' medians, over")
    assert "tracks' mean (a still clip of the training tracks' medians, for kernel machines), " in note(
        plain, statistics
    )
    assert note(modulation) == note(plain, modulation) == note(plain, plain)


@pytest.mark.parametrize(("seconds", "part"), [(9.46, "9.5 s"), (9, "9 s"), (10.46, "10 s")])
def test_how_much_is_explained_is_said_to_a_tenth_of_a_second_or_if_long_to_a_second(seconds: float, part: str) -> None:
    clip = Clip("a.wav", np.zeros(round(100 * seconds), np.float32), 100, np.zeros((1, 1), np.float32), np.ones(1), 1.0)
    assert clip.part == f"the first {part}"


def test_a_clip_is_explained_as_its_file_is(tmp_path: Path) -> None:
    classifier, path = a_classifier(SMALL_MFCC), music(tmp_path / "a.wav", 1)
    clip, explanation = classifier.first_clip(path), classifier.explain(path, GENRES[1])
    assert clip.seconds == pytest.approx(1) and clip.sample_rate == 8000
    np.testing.assert_array_equal(clip.mel, explanation.clip.mel)
    np.testing.assert_array_equal(classifier.explain_clip(clip, GENRES[1]).evidence, explanation.evidence)


def test_the_most_probable_genre_is_explained_unless_another_is_named(tmp_path: Path) -> None:
    classifier, path = a_classifier(SMALL), music(tmp_path / "a.wav", 1)
    assert classifier.explain(path).genre == classifier.predict(path).genre
    assert classifier.explain(path, GENRES[2]).genre == GENRES[2]
    with pytest.raises(UserError, match=f"genre polka: must be one of {GENRES[0]}, "):
        classifier.explain(path, "polka")
    with pytest.raises(UnreadableAudio, match="no such file"):
        classifier.explain(tmp_path / "none.wav", GENRES[0])


def test_the_picture_shows_the_clip_twice_in_hertz_and_seconds(tmp_path: Path) -> None:
    explanation = a_classifier(SMALL).explain(music(tmp_path / "costs $1 or $2.wav", 2))
    figure = clip_plots.explanation(explanation)
    heard, shown = figure.axes[:2]
    assert len(heard.images) == 1 and len(shown.images) == 2
    np.testing.assert_array_equal(heard.images[0].get_array(), explanation.clip.mel)
    assert shown.get_xlim() == pytest.approx((0, explanation.clip.mel.shape[1] * explanation.clip.seconds_per_frame))
    assert [label.get_text() for label in heard.get_yticklabels()][-1] == "2000"
    assert figures.png(figure).startswith(b"\x89PNG")


@pytest.fixture
def explain(command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """The command, with a model that needs no training."""
    monkeypatch.setattr(GenreClassifier, "load", lambda *_, **__: a_classifier(SMALL))
    return lambda *arguments: command(predict.main, *map(str, arguments))


def test_the_command_plots_the_evidence_for_the_genre(explain: Callable[..., Any], tmp_path: Path) -> None:
    done = explain(music(tmp_path / "a.wav", 1), "--explain", tmp_path / "why.png")
    assert done.code == 0 and "a.wav" in done.out
    assert done.err.splitlines() == [
        f"explaining the first 1 s of {tmp_path / 'a.wav'}, which takes some seconds for each of {len(VIEWS)} models",
        f"explained: {tmp_path / 'why.png'}",
    ]
    assert imread(tmp_path / "why.png").std() > 0.05
    assert {path.name for path in tmp_path.iterdir()} == {"a.wav", "why.png", "a place"}


def test_what_cannot_be_explained_is_reported_in_one_line(explain: Callable[..., Any], tmp_path: Path) -> None:
    path = music(tmp_path / "a.wav", 1)
    for arguments, reason in (
        ((path, music(tmp_path / "b.wav", 1)), "--explain draws one audio file, not 2; name one"),
        ((), "nothing to do"),
        ((path, "--model", "a.onnx"), "model a.onnx: an .onnx file cannot be explained"),
    ):
        assert reason in explain(*arguments, "--explain", tmp_path / "why.png").mistake
    assert "why.jpg: must end in .png" in explain(path, "--explain", tmp_path / "why.jpg").mistake
    bad = explain(tmp_path / "none.wav", "--explain", tmp_path / "why.png")
    assert bad.code == 1 and bad.err.endswith("none.wav: no such file or directory\n")
    samples, rate = soundfile.read(path)
    soundfile.write(path, np.concatenate([np.zeros(70 * rate), *[samples] * int(70 * rate / len(samples))]), rate)
    late = explain(path, "--explain", tmp_path / "why.png")
    assert late.code == 2
    assert late.err == f"error: --explain: the beginning of {path} is silent, so there is nothing to draw\n"
    assert not list(tmp_path.glob("why*"))


@pytest.mark.parametrize("view", VIEWS)
def test_windows_that_fade_at_both_ends_overlap_by_half_at_least(view: str) -> None:
    fades = treatment(view) in ("modulation", "statistics")
    assert [overlap(view, least) for least in (0.0, 0.3, 0.8)] == ([0.5, 0.5, 0.8] if fades else [0.0, 0.3, 0.8])


def test_silent_windows_are_not_explained(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, np.concatenate([sound(2, 0, RATE), np.zeros(6 * RATE)]), RATE)
    evidence = a_classifier(SMALL).explain(path).evidence
    assert evidence[:, : SMALL.n_frames(1.9)].any() and not evidence[:, SMALL.n_frames(3) :].any()
