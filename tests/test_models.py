"""The networks: any input size, the depths and sizes that their names promise, no window that sees its neighbours."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig
from torch import Tensor, nn

from genre_cls.features import FeatureSpec, extract
from genre_cls.models import TimeStatistics, TutorialCNN, modulation_spectrum, n_parameters, seen, shape_of
from genre_cls.windows import TREATMENTS

Compose = Callable[..., DictConfig]


@pytest.fixture(scope="module", params=["basic", "deep"])
def model(request: pytest.FixtureRequest, composed: Compose) -> nn.Module:
    torch.manual_seed(0)
    return instantiate(composed(f"model={request.param}").model, n_genres=10).eval()


@pytest.mark.parametrize(("name", "n_blocks"), [("tutorial_basic", 3), ("tutorial_deep", 5)])
@pytest.mark.parametrize("shape", [(13, 130), (128, 44), (1, 1)])
def test_the_tutorials_networks_take_their_size_from_what_they_see_first(
    composed: Compose, name: str, n_blocks: int, shape: tuple[int, int]
) -> None:
    model = instantiate(composed(f"model={name}").model, n_genres=10)
    assert model(torch.randn(2, 1, *shape)).shape == (2, 10) and depth(model) == n_blocks
    n_bins, n_frames = (-(-size // 2**n_blocks) for size in shape)  # each block halves them
    assert (
        model.dense[1].in_features == model.classifier.in_features // 64 * n_bins * n_frames * (32, 64)[n_blocks == 5]
    )


@settings(deadline=None, max_examples=20)
@given(n_bins=st.integers(1, 30), n_frames=st.integers(1, 50), seed=st.integers(0, 10**6))
def test_the_tutorials_blocks_are_what_tutorials_write_in_the_order_of_tutorials(
    n_bins: int, n_frames: int, seed: int
) -> None:
    torch.manual_seed(seed)
    model, as_written, maps = (
        TutorialCNN(2, channels=[3, 4], units=5, dropout=0),
        [],
        torch.randn(4, 1, n_bins, n_frames),
    )
    for (convolution, pooling, bias, relu, norm), n_in in zip(model.blocks, (1, 3), strict=True):
        together = nn.Conv2d(n_in, convolution.out_channels, 3, padding=1)
        together.weight, together.bias = convolution.weight, nn.Parameter(bias.bias.flatten())
        as_written += [together, relu, pooling, norm]
    assert torch.allclose(model.blocks(maps), nn.Sequential(*as_written)(maps), atol=1e-5)


def depth(model: nn.Module) -> int:
    return sum(isinstance(layer, nn.Conv2d) for layer in model.modules())


def test_basic_has_three_convolutions_and_few_weights(composed: Compose) -> None:
    basic = instantiate(composed("model=basic").model, n_genres=10)
    assert depth(basic) == 3 and n_parameters(basic) <= 200_000


def test_deep_has_five_or_more_and_stays_small_enough_for_a_cpu(composed: Compose) -> None:
    deep = instantiate(composed("model=deep").model, n_genres=10)
    assert depth(deep) >= 5 and n_parameters(deep) <= 3_000_000


@settings(deadline=None, max_examples=25)
@given(n_bins=st.integers(1, 140), n_frames=st.integers(1, 240), batch=st.integers(1, 3))
def test_any_input_becomes_one_row_of_logits_per_window(
    model: nn.Module, n_bins: int, n_frames: int, batch: int
) -> None:
    with torch.no_grad():
        logits = model(torch.randn(batch, 1, n_bins, n_frames))
    assert logits.shape == (batch, 10) and logits.isfinite().all()


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 1000), batch=st.integers(2, 6))
def test_a_windows_logits_do_not_depend_on_what_else_is_in_the_batch(model: nn.Module, seed: int, batch: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    windows = torch.randn(batch, 1, 40, 60, generator=generator)
    with torch.no_grad():
        together = model(windows)
        alone = model(windows[:1])
        in_other_company = model(torch.cat([windows[:1], 100 * windows[1:]]))
    assert torch.allclose(together[:1], alone, atol=1e-5)
    assert torch.allclose(in_other_company[:1], alone, atol=1e-5)


def test_every_weight_learns(model: nn.Module) -> None:
    model.train()(torch.randn(4, 1, 40, 60)).square().sum().backward()
    model.eval()
    assert all(weights.grad is not None and weights.grad.abs().max() > 0 for weights in model.parameters())


def test_what_sounds_low_and_what_sounds_high_is_told_apart(model: nn.Module) -> None:
    low = torch.zeros(1, 1, 64, 64)
    low[:, :, :16] = 3
    with torch.no_grad():
        assert not torch.allclose(model(low), model(low.flip(2)), atol=1e-3)


@settings(deadline=None, max_examples=40)
@given(n_bands=st.integers(1, 5), n_bins=st.integers(1, 20), n_frames=st.integers(1, 50))
def test_time_statistics_are_mean_maximum_and_deviation_of_each_band(n_bands: int, n_bins: int, n_frames: int) -> None:
    maps = torch.randn(2, 3, n_bins, n_frames)
    bands = nn.functional.adaptive_avg_pool2d(maps, (n_bands, n_frames))
    expected = torch.cat([bands.mean(3), bands.amax(3), (bands.var(3, correction=0) + 1e-5).sqrt()]).view(3, 2, -1)
    statistics = TimeStatistics(n_bands)(maps)  # in whatever order
    assert torch.allclose(statistics.sort(dim=1)[0], expected.transpose(0, 1).flatten(1).sort(dim=1)[0], atol=1e-4)


def test_without_bands_there_is_nothing_to_classify(composed: Compose) -> None:
    with pytest.raises(InstantiationException, match="bands=0: must be"):
        instantiate(composed("model=basic", "model.bands=0").model, n_genres=2)


def waves(cycles: float, bands: slice, loud: float = 10.0, n_bins: int = 64, n_frames: int = 108) -> Tensor:
    """Some bins swell and fade so many times a window."""
    features = torch.full((1, 1, n_bins, n_frames), -30.0)
    features[:, :, bands] += loud * torch.sin(torch.arange(n_frames) * (2 * torch.pi * cycles / n_frames))
    return features


@pytest.mark.parametrize("n_mels", [8, 64])
def test_views_of_mfccs_are_the_views_of_extracted_mfccs(n_mels: int) -> None:
    waveform = np.random.default_rng(n_mels).normal(0, 0.1, 22050).astype(np.float32)
    mel = FeatureSpec(kind="mel", n_mels=n_mels)
    by_spec = extract(waveform, [mel, replace(mel, kind="mfcc", n_mfcc=min(n_mels, 20))])
    bands, coefficients = (torch.from_numpy(each)[None, None] for each in by_spec)
    for view in TREATMENTS:
        got, expected = seen(bands, f"mfcc_{view}"), seen(coefficients, view)
        assert got.shape == expected.shape and got.shape[2:][0] == shape_of(f"mfcc_{view}", n_mels)[0]
        assert (got - expected).abs().max() < (0.1 if view == "modulation" else 0.3)  # float16's steps, of 40 to 400 dB
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(seen(bands, "mfcc_plain"), seen(bands.clone(), "mfcc_plain").float())
        assert seen(bands, "mfcc_plain").dtype == torch.float32


@settings(deadline=None, max_examples=30)
@given(st.floats(3, 50), st.integers(0, 31))
def test_what_swells_in_a_band_at_a_rate_shows_there_in_the_modulation_spectrum(cycles: float, band: int) -> None:
    (spectrum,) = modulation_spectrum(waves(cycles, slice(2 * band, 2 * band + 2)))[0]
    assert spectrum.shape == (32, 12)
    strongest, rate = divmod(int(spectrum.argmax()), 12)
    edges = np.geomspace(2, 54, 13)
    assert strongest == band and edges[rate] - 2 <= cycles <= edges[rate + 1] + 2  # a Hann window blurs by two cycles


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 40), st.integers(2, 60), st.integers(0, 10**6))
def test_the_modulation_spectrum_is_that_of_numpys_fourier_transform(n_bins: int, n_frames: int, seed: int) -> None:
    features = np.random.default_rng(seed).normal(-40, 10, (n_bins, n_frames)).astype(np.float32)
    (got,) = modulation_spectrum(torch.from_numpy(features)[None, None])[0].numpy()
    assert got.shape == shape_of("modulation", n_bins) and np.isfinite(got).all()
    if n_bins <= 32:
        window = torch.hann_window(n_frames).numpy()
        moved = (features - features.mean(axis=1, keepdims=True)) * window
        energies = np.abs(np.fft.rfft(moved)) ** 2 + 1e-3
        assert (np.exp(got) <= energies.max(axis=1, keepdims=True) * 1.01 + 1e-2).all()
        assert (np.exp(got) >= energies.min(axis=1, keepdims=True) * 0.99 - 1e-2).all()


def test_the_modulation_spectrum_knows_neither_loudness_nor_colour() -> None:
    features, colour = waves(7, slice(10, 30)), torch.randn(64, 1) * 20
    assert torch.allclose(modulation_spectrum(features), modulation_spectrum(features + colour), atol=1e-2)


def test_bfloat16_does_not_blur_the_modulation_spectrum() -> None:
    features = torch.randn(2, 1, 64, 108) * 10 - 40
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(modulation_spectrum(features), modulation_spectrum(features.clone()))
        blurred = modulation_spectrum(features)
    assert torch.equal(blurred, modulation_spectrum(features))
