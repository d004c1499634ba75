"""Features: equal to librosa's, one STFT for all specs that share it, no clip's values dependent on another clip."""

import runpy
import warnings
from dataclasses import replace
from typing import Any, Literal

import librosa
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from genre_cls.tracks import features
from genre_cls.tracks.features import (
    BLOCK,
    FeatureSpec,
    cosines,
    extract,
    filterbank,
    mel_frequencies,
    unevenness,
)

ROUNDING = 2.0**-11  # relative error of float16
SMALL = FeatureSpec(kind="mel", sample_rate=8000, n_fft=512, hop_length=128, n_mels=40, n_mfcc=13, f_max=4000.0)


def clip(seed: int, n_samples: int = 8000) -> NDArray[np.float32]:
    """Noise that dies away under a tone: both loud and below the floor."""
    rng = np.random.default_rng(seed)
    time = np.arange(n_samples) / 8000
    noise = rng.normal(size=n_samples) * 10 ** rng.uniform(-3, -1) * np.exp(-rng.uniform(0, 20) * time)
    return (noise + 0.1 * np.sin(2 * np.pi * rng.uniform(50, 3000) * time)).astype(np.float32)


def librosas_filterbank(spec: FeatureSpec) -> NDArray[np.float64]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of bands narrower than a bin
        return librosa.filters.mel(
            sr=spec.sample_rate,
            n_fft=spec.n_fft,
            n_mels=spec.n_mels,
            fmin=spec.f_min,
            fmax=spec.f_max,
            dtype=np.float64,
        )


def amplitudes(waveform: NDArray[np.float32], spec: FeatureSpec) -> NDArray[np.float64]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of clips shorter than the FFT
        spectrum = librosa.stft(waveform.astype(np.float64), n_fft=spec.n_fft, hop_length=spec.hop_length)
    return np.abs(spectrum)


def as_librosa(
    waveform: NDArray[np.float32], spec: FeatureSpec, bank: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """Librosa's features, in float64, with its filterbank or another one."""
    mel = (librosas_filterbank(spec) if bank is None else bank) @ amplitudes(waveform, spec) ** 2
    log_mel = librosa.power_to_db(mel, ref=1.0, amin=1e-20, top_db=spec.top_db)
    log_mel -= log_mel[:, sounding(log_mel, spec)].mean()
    return log_mel if spec.kind == "mel" else librosa.feature.mfcc(S=log_mel, n_mfcc=spec.n_mfcc)


def sounding(log_mel: NDArray[np.float64], spec: FeatureSpec) -> NDArray[np.bool_]:
    """Which frames `(n_frames,)` tell the clip's level."""
    return np.asarray(log_mel.max(axis=0) > log_mel.max() - min(40, spec.top_db / 2))


def rounding(waveform: NDArray[np.float32], spec: FeatureSpec, bank: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far float32 may take the features `(n_bins, n_frames)` from exact ones.

    The Fourier transform errs at every frequency by about 1e-7 of the frame's greatest amplitude, which may lie outside
    of all bands. The root of a band's energy is a norm weighted by the filterbank, so it errs by that times the root of
    the weights' sum. Levels of some 100 dB err by a few times 1e-5 when they are rounded and summed. The clip's level
    errs as well.
    """
    heard = amplitudes(waveform, spec)
    error = np.sqrt(bank.sum(axis=1))[:, None] * 1e-7 * heard.max(axis=0)
    levels = as_librosa(waveform, replace(spec, kind="mel"), bank)
    root = np.sqrt((bank @ heard**2).max()) * 10 ** ((levels - levels.max()) / 20)
    decibels = 20 * np.log10(root / np.maximum(root - error, 1e-9)) + 5e-5
    decibels += decibels[:, sounding(levels, spec)].mean()
    return decibels if spec.kind == "mel" else np.abs(cosines(spec.n_mfcc, spec.n_mels).double().numpy()) @ decibels


def unrounded(waveform: NDArray[np.float32], spec: FeatureSpec) -> NDArray[np.float32]:
    """What `extract` gives before it rounds to float16."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "half", lambda tensor: tensor)
        (feature,) = extract(waveform, [spec])
    assert feature.dtype == np.float32
    return feature.astype(np.float32)


@st.composite
def specs(draw: st.DrawFn) -> FeatureSpec:
    kind: Literal["mel", "mfcc"] = draw(st.sampled_from(["mel", "mfcc"]))
    sample_rate = draw(st.sampled_from([8000, 8001, 11025, 16000, 22050, 44100, 48000]))
    n_fft = draw(st.sampled_from([256, 401, 512, 1023, 2048]))
    n_mels = draw(st.integers(1, min(128, n_fft // 8)))
    f_min = draw(st.floats(0, sample_rate / 8))
    return FeatureSpec(
        kind=kind,
        sample_rate=sample_rate,
        n_fft=n_fft,
        hop_length=draw(st.integers(n_fft // 8, n_fft)),
        n_mels=n_mels,
        n_mfcc=draw(st.integers(1, n_mels)),
        f_min=f_min,
        f_max=draw(st.floats(sample_rate / 4, sample_rate / 2)),
        top_db=draw(st.floats(20, 120)),
    )


@pytest.mark.filterwarnings("ignore:At least one mel filterbank")
@settings(max_examples=40, deadline=None)
@given(spec=specs(), seed=st.integers(0, 99))
@example(
    spec=FeatureSpec(kind="mel", hop_length=292, n_mels=110, n_mfcc=1, f_max=5513.0, top_db=114.0), seed=23
)  # 114 dB below the peak, where float32 no longer suffices for a tenth of a decibel
@example(
    spec=FeatureSpec(
        kind="mel", sample_rate=16000, n_fft=1024, hop_length=128, n_mels=31, n_mfcc=1, f_max=4000.0, top_db=70.0
    ),
    seed=13,
)  # a tone above the highest band is far louder than all that is in the bands
def test_features_agree_with_librosa(spec: FeatureSpec, seed: int) -> None:
    waveform = clip(seed)
    bank = filterbank(spec).double().numpy()
    reference = as_librosa(waveform, spec, bank)
    exact = unrounded(waveform, spec)
    assert exact.shape == reference.shape
    tolerance = 1e-4 * max(np.ptp(reference), 1.0) + rounding(waveform, spec, bank)
    assert (np.abs(exact - reference) <= tolerance).all()  # false for NaN, too
    (rounded,) = extract(waveform, [spec])
    assert rounded.dtype == np.float16
    np.testing.assert_allclose(rounded, exact, rtol=ROUNDING, atol=1e-6)


@pytest.mark.filterwarnings("ignore:At least one mel filterbank")
@settings(max_examples=50, deadline=None)
@given(spec=specs())
def test_the_filterbank_agrees_with_librosa(spec: FeatureSpec) -> None:
    reference = librosas_filterbank(spec)
    np.testing.assert_allclose(filterbank(spec), reference, rtol=0, atol=1e-4 * reference.max())


@pytest.mark.parametrize("kind", ["mel", "mfcc"])
def test_the_default_features_agree_with_librosa(kind: Literal["mel", "mfcc"]) -> None:
    waveform, spec = clip(1, 8 * 22050), FeatureSpec(kind=kind)
    assert spec.n_frames(8) > 2 * BLOCK
    reference = as_librosa(waveform, spec)
    np.testing.assert_allclose(unrounded(waveform, spec), reference, rtol=0, atol=1e-4 * np.ptp(reference))


def count_stfts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    calls: list[int] = []
    real = torch.fft.rfft

    def counting(frames: Tensor) -> Tensor:
        calls.append(frames.shape[1])
        return real(frames)

    monkeypatch.setattr(torch.fft, "rfft", counting)
    return calls


def test_mel_and_mfcc_share_one_stft(monkeypatch: pytest.MonkeyPatch) -> None:
    stfts = count_stfts(monkeypatch)
    extract(clip(0), [SMALL, replace(SMALL, kind="mfcc"), replace(SMALL, n_mels=20), replace(SMALL, top_db=40.0)])
    assert stfts == [512]
    extract(clip(0), [SMALL, replace(SMALL, n_fft=256)])
    assert stfts[1:] == [512, 256]


def test_mfccs_of_any_number_share_the_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    computed: list[FeatureSpec] = []
    real = features.decibels
    monkeypatch.setattr(features, "decibels", lambda energies, spec: computed.append(spec) or real(energies, spec))
    extract(clip(0), [SMALL, replace(SMALL, kind="mfcc"), replace(SMALL, kind="mfcc", n_mfcc=5)])
    assert len(computed) == 1


def test_a_specs_features_do_not_depend_on_the_other_specs() -> None:
    others = [
        replace(SMALL, kind="mfcc"),
        replace(SMALL, top_db=20.0),
        replace(SMALL, n_fft=256),
        replace(SMALL, n_mels=9),
    ]
    (alone,) = extract(clip(0), [SMALL])
    for other in others:
        (reference,) = extract(clip(0), [other])
        for order in ([SMALL, other], [other, SMALL]):
            together = dict(zip(order, extract(clip(0), order), strict=True))
            np.testing.assert_array_equal(together[SMALL], alone)
            np.testing.assert_array_equal(together[other], reference)


@settings(max_examples=30, deadline=None)
@given(decibels=st.floats(-100, 200), seed=st.integers(0, 99), kind=st.sampled_from(["mel", "mfcc"]))
def test_a_clips_features_do_not_depend_on_its_volume(decibels: float, seed: int, kind: Literal["mel", "mfcc"]) -> None:
    spec, gain = replace(SMALL, kind=kind), np.float32(10 ** (decibels / 20))
    np.testing.assert_allclose(unrounded(gain * clip(seed), spec), unrounded(clip(seed), spec), atol=2e-2)


@settings(max_examples=30, deadline=None)
@given(
    n_hops=st.integers(20, 2000),
    at=st.sampled_from([0, 32000, 64000]),
    noise=st.sampled_from([0.0, 1e-7, 1e-5, 1e-4]),
    top_db=st.sampled_from([80.0, 1000.0]),
    seed=st.integers(0, 99),
)
def test_pauses_leave_the_levels_of_what_is_heard_as_they_are(
    n_hops: int, at: int, noise: float, top_db: float, seed: int
) -> None:
    spec = replace(SMALL, top_db=top_db)
    heard = (0.1 * np.random.default_rng(seed).normal(size=64000)).astype(np.float32)
    pause = (noise * np.random.default_rng(seed + 1).normal(size=128 * n_hops)).astype(np.float32)
    with_pause = np.concatenate([heard[:at], pause, heard[at:]])
    alone, beside = unrounded(heard, spec), unrounded(with_pause, spec)
    first = 4 if at else n_hops + 4  # clear of the pause's edges
    np.testing.assert_allclose(beside[:, first : first + 20], alone[:, 4:24], atol=0.5)


def test_the_level_is_the_mean_of_all_frames_where_none_is_a_pause() -> None:
    noise = (0.1 * np.random.default_rng(0).normal(size=8000)).astype(np.float32)
    assert unrounded(noise, SMALL).mean() == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("kind", ["mel", "mfcc"])
def test_bands_are_uneven_in_noise_and_music_and_even_in_silence(kind: Literal["mel", "mfcc"]) -> None:
    spec, random = replace(SMALL, kind=kind), np.random.default_rng(0)
    parts = [clip(0), 0.1 * random.normal(size=8000), 1e-7 * random.normal(size=8000)]
    (feature,) = extract(np.concatenate(parts).astype(np.float32), [spec])
    heard = [unevenness(torch.from_numpy(feature[:, at : at + 50]).float(), spec) for at in (5, 67, 130)]
    assert [frames.shape for frames in heard] == [(50,)] * 3
    assert heard[0].min() > 4 and heard[1].mean() > 1 and heard[2].max() < 0.01


def test_a_frame_is_as_uneven_as_its_bands_deviate_which_all_of_its_mfccs_tell_too() -> None:
    bands = 10 * torch.randn(SMALL.n_mels, 9, generator=torch.Generator().manual_seed(0))
    deviations = bands.std(dim=0, correction=0)
    torch.testing.assert_close(unevenness(bands, SMALL), deviations)
    mfccs = cosines(SMALL.n_mels, SMALL.n_mels) @ bands
    torch.testing.assert_close(unevenness(mfccs, replace(SMALL, kind="mfcc", n_mfcc=SMALL.n_mels)), deviations)


def test_mfccs_without_their_higher_coefficients_are_no_more_uneven_than_the_bands() -> None:
    waveform = (0.1 * np.random.default_rng(0).normal(size=8000)).astype(np.float32)
    mel, mfcc = (
        unevenness(torch.from_numpy(feature).float(), spec)
        for spec in (SMALL, replace(SMALL, kind="mfcc"))
        for feature in extract(waveform, [spec])
    )
    assert (mfcc <= mel + 0.01).all() and mfcc.mean() > mel.mean() / 4


@settings(max_examples=20, deadline=None)
@given(hops=st.integers(1, 20), seed=st.integers(0, 99))
def test_a_later_clip_has_the_same_spectrogram_some_frames_on(hops: int, seed: int) -> None:
    delayed = np.concatenate([np.zeros(hops * SMALL.hop_length, np.float32), clip(seed)])
    (early,), (late,) = extract(clip(seed), [SMALL]), extract(delayed, [SMALL])
    change = late[:, hops:].astype(float) - early.astype(float)
    assert np.ptp(change) < 0.07  # two steps of float16
    assert abs(change.mean()) < 1  # the frames in which the clip begins are among those that tell its level


def test_no_value_is_further_below_the_clips_peak_than_top_db() -> None:
    for top_db in (20.0, 60.0, 80.0):
        log_mel = unrounded(clip(3), replace(SMALL, top_db=top_db))
        assert log_mel.max() - log_mel.min() == pytest.approx(top_db, abs=1e-3)


@pytest.mark.filterwarnings("ignore:At least one mel filterbank")
def test_a_band_that_lies_between_two_frequencies_is_silent() -> None:
    (feature,) = extract(clip(0), [replace(SMALL, n_mels=1, f_min=1.0, f_max=15.0)])
    assert feature.shape[0] == 1 and not feature.any()


@pytest.mark.parametrize("n_samples", [1, 2, 127, 128, 511, 8000])
@pytest.mark.parametrize("kind", ["mel", "mfcc"])
def test_silence_is_zero(kind: Literal["mel", "mfcc"], n_samples: int) -> None:
    (feature,) = extract(np.zeros(n_samples, np.float32), [replace(SMALL, kind=kind)])
    assert not feature.any()


@settings(max_examples=50, deadline=None)
@example(n_samples=1024, hop_length=256, n_fft=511, rate=8000)
@given(
    n_samples=st.integers(1, 40000),
    hop_length=st.integers(1, 500),
    n_fft=st.sampled_from([512, 501]),
    rate=st.sampled_from([8000, 8001, 11025]),
)
def test_the_frames_of_a_duration_are_those_that_extract_gives(
    n_samples: int, hop_length: int, n_fft: int, rate: int
) -> None:
    spec = replace(SMALL, sample_rate=rate, n_fft=n_fft, hop_length=max(hop_length, n_samples // 200 + 1))
    (feature,) = extract(np.zeros(n_samples, np.float32), [spec])
    assert spec.n_frames(n_samples / rate) == feature.shape[1] == 1 + (n_samples - n_fft % 2) // spec.hop_length
    assert spec.seconds_per_frame == spec.hop_length / rate


@settings(max_examples=300, deadline=None)
@given(frames=st.integers(1, 10_000), hop_length=st.sampled_from([512, 1024, 441]), rate=st.integers(8000, 48000))
def test_a_whole_number_of_hops_is_never_a_frame_short(frames: int, hop_length: int, rate: int) -> None:
    spec = replace(SMALL, sample_rate=rate, n_fft=2048, hop_length=hop_length)
    assert spec.n_frames(frames * hop_length / rate) == frames + 1


@settings(max_examples=50, deadline=None)
@given(spec=specs())
def test_mel_frequencies_are_librosas(spec: FeatureSpec) -> None:
    reference = librosa.mel_frequencies(spec.n_mels + 2, fmin=spec.f_min, fmax=spec.f_max)[1:-1]
    np.testing.assert_allclose(mel_frequencies(spec), reference, rtol=1e-9)


@pytest.mark.filterwarnings("ignore:At least one mel filterbank")
@settings(max_examples=20, deadline=None)
@given(spec=specs())
def test_the_shape_is_the_specs(spec: FeatureSpec) -> None:
    (feature,) = extract(clip(0), [spec])
    n_samples = 8000 - spec.n_fft % 2  # of an odd FFT half a sample at each end is lost, as in librosa
    assert feature.shape == (spec.n_bins, 1 + n_samples // spec.hop_length)
    assert spec.n_bins == (spec.n_mels if spec.kind == "mel" else spec.n_mfcc)
    assert feature.flags.c_contiguous


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ({"hop_length": 0}, ["hop_length=0", "1 to n_fft=2048"]),
        ({"hop_length": 2049}, ["hop_length=2049", "n_fft=2048"]),
        ({"n_mels": 0}, ["n_mels=0", "1 to"]),
        ({"n_mels": 1025}, ["n_mels=1025", "1024"]),
        ({"kind": "mfcc", "n_mfcc": 0}, ["n_mfcc=0", "1 to"]),
        ({"kind": "mfcc", "n_mfcc": 129}, ["n_mfcc=129", "n_mels=128"]),
        ({"f_min": -1.0}, ["f_min=-1.0", "0 <= f_min"]),
        ({"f_min": 11025.0}, ["f_min=11025.0", "f_min < f_max"]),
        ({"f_max": 11026.0}, ["f_max=11026.0", "11025"]),
        ({"sample_rate": 16000}, ["f_max=11025.0", "sample_rate/2=8000"]),
        ({"f_max": float("nan")}, ["f_max=nan", "11025"]),
    ],
)
def test_an_impossible_value_is_named_with_its_limit(values: dict[str, Any], texts: list[str]) -> None:
    with pytest.raises(ValueError) as refusal:
        FeatureSpec(**{"kind": "mel", **values})
    assert len(str(refusal.value).splitlines()) == 1
    for text in texts:
        assert text in str(refusal.value)


def test_the_number_of_coefficients_is_ignored_where_there_are_none() -> None:
    assert FeatureSpec(kind="mel", n_mels=10, n_mfcc=20).n_bins == 10


def test_empty_bands_bring_no_warning_of_torchaudios() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.resetwarnings()
        module = runpy.run_path(features.__file__)  # as when it is imported, which sets what is ignored
        bank = module["filterbank"](module["FeatureSpec"](kind="mel", n_fft=512, n_mels=256))
        warnings.warn("At least another one", stacklevel=1)
    assert (bank == 0).all(dim=1).any() and [str(each.message) for each in caught] == ["At least another one"]
