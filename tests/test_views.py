"""Views of a window: the same MFCCs as those extracted, and what fluctuates in it, nothing else."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from genre_cls.configuration.members import TREATMENTS, VIEWS
from genre_cls.models import modelfile
from genre_cls.models.views import (
    _fourier,
    averages,
    medians,
    modulation_spectrum,
    patterns,
    shape_of,
    statistics,
    view_of,
)
from genre_cls.tracks.features import CPU, FeatureSpec, cosines, extract


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
        got, expected = view_of(bands, f"mfcc_{view}"), view_of(coefficients, view)
        assert got.shape == expected.shape and got.shape[2:][0] == shape_of(f"mfcc_{view}", n_mels)[0]
        assert (got - expected).abs().max() < 0.02  # float16's steps, of up to 30 dB
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(view_of(bands, "mfcc_plain"), view_of(bands.clone(), "mfcc_plain").float())
        assert view_of(bands, "mfcc_plain").dtype == torch.float32


@settings(deadline=None, max_examples=30)
@given(st.floats(3, 50), st.integers(0, 31))
def test_a_fluctuation_of_a_band_at_a_rate_shows_there_in_the_modulation_spectrum(cycles: float, band: int) -> None:
    (spectrum,) = modulation_spectrum(waves(cycles, slice(2 * band, 2 * band + 2)))[0]
    assert spectrum.shape == (78, 12)
    strongest, rate = divmod(int(spectrum[:32].argmax()), 12)
    edges = np.geomspace(2, 54, 13)
    assert strongest == band and edges[rate] - 2 <= cycles <= edges[rate + 1] + 2  # a Hann window blurs by two cycles


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 4), st.floats(0, 2 * np.pi), st.floats(4, 40))
def test_a_fluctuating_ripple_shows_in_the_wavelets_of_its_own_scale(octave: int, phase: float, cycles: float) -> None:
    n_bins, n_frames = 64, 108
    ripple = torch.cos(2**octave * 2 * np.pi * torch.arange(n_bins) / n_bins + phase)
    swell = torch.sin(2 * np.pi * cycles * torch.arange(n_frames) / n_frames)
    (spectrum,) = modulation_spectrum(-40 + 5 * ripple[:, None] * swell[None, None, None])[0]
    wavelets = spectrum[32 + 20 :].amax(dim=1)  # 1, 3, 7 and 15 of them
    first, last = 2**octave - octave - 1, 2 ** (octave + 1) - octave - 2
    inside, outside = wavelets[first:last], torch.cat([wavelets[:first], wavelets[last:]])
    assert len(inside) == 2**octave - 1 and len(wavelets) == 26
    assert inside.min() > outside.max()  # wherever they are, and whatever the ripple's phase


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 200))
def test_wavelets_have_zero_mean_and_unit_norm_wherever_they_are(n_bins: int) -> None:
    filters, rows = patterns(n_bins)
    n_octaves = int(np.log2(max(n_bins / 4, 1)))
    n_wavelets = 2 ** (n_octaves + 1) - n_octaves - 2
    assert rows.shape == (len(filters) - n_wavelets, len(filters))
    assert rows.sum(dim=0).eq(1).all() and shape_of("modulation", n_bins) == (len(rows), 12)
    wavelets = torch.complex(*filters[min(n_bins, 32) + min(n_bins, 20) :].view(2, n_wavelets, n_bins))
    assert torch.allclose(wavelets.abs().square().sum(dim=1), torch.ones(len(wavelets)), atol=1e-5)
    assert not len(wavelets) or wavelets.sum(dim=1).abs().max() < 0.1


def test_patterns_first_used_without_gradients_or_device_can_be_differentiated_later() -> None:
    patterns.cache_clear()
    cosines.cache_clear()
    with torch.inference_mode(), torch.device("meta"):
        shape_of("modulation", 50)
    features = torch.randn(1, 1, 50, 30, requires_grad=True)
    modulation_spectrum(features).sum().backward()
    assert features.grad is not None and features.grad[..., 1:].all()  # a Hann window begins with nothing


def test_rates_are_computed_in_one_place_whatever_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others round powers in other ways."""
    made, logspace = [], torch.logspace
    monkeypatch.setattr(torch, "logspace", lambda *args, **options: made.append(logspace(*args, **options)) or made[-1])
    assert {each.device.type for each in _fourier.__wrapped__(31, torch.device("meta"))} == {"meta"}
    assert [edges.device.type for edges in made] == ["cpu"]


def test_rates_at_the_edge_of_a_band_are_in_the_same_one_however_powers_are_rounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    logspace, weights = torch.logspace, []
    for share in (1 - 1e-12, 1 + 1e-12):
        with monkeypatch.context() as patch:
            patch.setattr(torch, "logspace", lambda *args, share=share, **options: share * logspace(*args, **options))
            weights.append(_fourier.__wrapped__(256, CPU)[1])  # with edges at 2, 4, 8, …, 128 cycles
    assert torch.equal(*weights)


@settings(deadline=None, max_examples=50)
@given(st.integers(8, 300))
def test_a_band_of_rates_is_the_mean_of_the_whole_cycles_in_it_or_of_the_nearest(n_frames: int) -> None:
    cosines_, sines = _fourier(n_frames, CPU)[1].chunk(2)
    edges = np.geomspace(2, n_frames / 2, 13)
    assert torch.equal(cosines_, sines) and torch.allclose(cosines_.sum(dim=0), torch.ones(12))
    for low, high, weights in zip(edges[:-1], edges[1:], cosines_.T, strict=True):
        cycles = weights.nonzero()[:, 0].numpy()
        assert len(set(weights[cycles].tolist())) == 1
        own = [cycle for cycle in range(n_frames // 2 + 1) if low - 1e-5 < cycle < high - 1e-5]
        assert cycles.tolist() == own if own else abs(cycles - np.sqrt(low * high)) <= 0.5


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 40), st.integers(2, 60), st.integers(0, 10**6))
def test_the_modulation_spectrum_is_that_of_numpys_fourier_transform(n_bins: int, n_frames: int, seed: int) -> None:
    features = np.random.default_rng(seed).normal(-40, 10, (n_bins, n_frames)).astype(np.float32)
    (got,) = modulation_spectrum(torch.from_numpy(features)[None, None])[0].numpy()
    assert got.shape == shape_of("modulation", n_bins) and np.isfinite(got).all()
    if n_bins <= 32:
        window = torch.hann_window(n_frames).numpy()
        moved = (features - features.mean(axis=1, keepdims=True)) * window
        energies, got = np.abs(np.fft.rfft(moved)) ** 2 + 1e-3, got[:n_bins]  # the bands are the bins
        assert (np.exp(got) <= energies.max(axis=1, keepdims=True) * 1.01 + 1e-2).all()
        assert (np.exp(got) >= energies.min(axis=1, keepdims=True) * 0.99 - 1e-2).all()


def test_the_modulation_spectrum_depends_on_neither_loudness_nor_timbre() -> None:
    features, spectrum = waves(7, slice(10, 30)), torch.randn(64, 1) * 20
    assert torch.allclose(modulation_spectrum(features), modulation_spectrum(features + spectrum), atol=1e-2)


def test_bfloat16_does_not_blur_the_modulation_spectrum() -> None:
    features = torch.randn(2, 1, 64, 108) * 10 - 40
    with torch.autocast("cpu", torch.bfloat16):
        in_bfloat16 = modulation_spectrum(features)
    assert torch.equal(in_bfloat16, modulation_spectrum(features))


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 40), st.integers(8, 60), st.integers(0, 10**6))
def test_statistics_are_quantiles_then_correlations_then_modulations(n_bins: int, n_frames: int, seed: int) -> None:
    features = np.random.default_rng(seed).normal(-40, 10, (n_bins, n_frames)).astype(np.float32)
    given_ = torch.from_numpy(features)[None, None]
    got = statistics(given_)
    assert got.shape[2:] == shape_of("statistics", n_bins) and got.isfinite().all()
    values, n_levels = got.numpy().ravel(), 5 * n_bins
    levels = np.quantile(features, (0.05, 0.25, 0.5, 0.75, 0.95), axis=1, method="nearest").T
    np.testing.assert_array_equal(medians(got[0, 0], n_bins)[:, 0], values[2:n_levels:5])
    np.testing.assert_allclose(values[:n_levels], levels.ravel())
    if 1 < n_bins <= 32:  # the bands are the bins
        correlations = np.corrcoef(features)[np.triu_indices(n_bins, 1)]
        np.testing.assert_allclose(values[n_levels : n_levels + len(correlations)], correlations, atol=1e-3)
    np.testing.assert_array_equal(
        values[-shape_of("modulation", n_bins)[0] * 12 :], modulation_spectrum(given_).ravel()
    )


def test_statistics_of_a_constant_window_are_finite_and_can_be_differentiated() -> None:
    features = torch.full((1, 1, 40, 30), -80.0, requires_grad=True)
    statistics(features).square().sum().backward()
    assert features.grad is not None and features.grad.isfinite().all()
    with torch.autocast("cpu", torch.bfloat16):
        blurred = statistics(features)
    assert torch.equal(blurred, statistics(features))


@settings(deadline=None, max_examples=20)
@given(st.integers(2, 5), st.integers(0, 10**6))
def test_correlations_are_those_of_bands_of_neighbouring_bins(width: int, seed: int) -> None:
    features = np.random.default_rng(seed).normal(-40, 10, (32 * width, 50)).astype(np.float32)
    values, n_levels = statistics(torch.from_numpy(features)[None, None]).numpy().ravel(), 5 * len(features)
    correlations = np.corrcoef(features.reshape(32, width, 50).mean(axis=1))[np.triu_indices(32, 1)]
    np.testing.assert_allclose(values[n_levels : n_levels + len(correlations)], correlations, atol=1e-3)


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 200), st.integers(1, 32))
def test_a_band_is_the_mean_of_neighbouring_bins_and_no_bin_is_left_out(n_bins: int, n_bands: int) -> None:
    weights = averages(n_bins, n_bands, CPU)
    inside = weights > 0
    assert weights.shape == (n_bands, n_bins) and torch.allclose(weights, inside / inside.sum(dim=1, keepdim=True))
    assert inside.any(dim=0).all() and inside.any(dim=1).all()
    for band, bins in enumerate(inside):
        first, last = bins.nonzero()[[0, -1], 0].tolist()
        assert bins.sum() == last - first + 1 and first == band * n_bins // n_bands


def test_features_and_views_have_the_values_of_their_revision() -> None:
    """If values are meant to change, raise REVISION, so that models trained on the old ones are refused."""
    spec = FeatureSpec(kind="mel", sample_rate=8000, n_fft=512, hop_length=256, n_mels=32, f_max=4000)
    noise = np.random.default_rng(0).normal(0, np.linspace(0, 0.1, 16000)).astype(np.float32)
    window = torch.from_numpy(extract(noise, [spec])[0][None, None]).float()
    expected = {  # mean, deviation, and a product that tells values in another order
        "plain": (-0.666, 9.523, 0.211), "mfcc_plain": (-0.206, 12.019, 0.336),
        "modulation": (4.327, 1.052, -0.030), "mfcc_modulation": (4.479, 1.076, -0.036),
        "statistics": (2.512, 3.954, 1.055), "mfcc_statistics": (2.850, 4.937, 1.058),
    }  # fmt: skip
    assert (modelfile.REVISION, {*expected}) == (2, {*VIEWS})
    for view, values in expected.items():
        seen = view_of(window, view).flatten()
        order = seen @ torch.linspace(-1, 1, len(seen)) / len(seen)
        assert (seen.mean().item(), seen.std().item(), order.item()) == pytest.approx(values, abs=0.003), view
