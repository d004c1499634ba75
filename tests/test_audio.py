"""Decoding: every format, any rate, any number of channels, and a plain reason for refusing a file that is no audio."""

import os
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from genre_cls.tracks.audio import BLOCK, SILENT, UnreadableAudio, decode, header, no_music, refusal, segments
from genre_cls.tracks.features import FeatureSpec, extract
from genre_cls.tracks.listing import EXTENSIONS

OPUS = {"format": "OGG", "subtype": "OPUS"}
LOSSLESS = [  # extension, arguments to write it, the largest error of its samples
    (".wav", {"subtype": "PCM_U8"}, 2**-7),
    (".wav", {"subtype": "PCM_16"}, 2**-15),
    (".wav", {"subtype": "PCM_24"}, 2**-23),
    (".wav", {"subtype": "PCM_32"}, 2**-23),
    (".wav", {"subtype": "FLOAT"}, 0),
    (".wav", {"subtype": "DOUBLE"}, 0),
    (".au", {"subtype": "PCM_16"}, 2**-15),
    (".au", {"subtype": "FLOAT"}, 0),
    (".aif", {"format": "AIFF", "subtype": "PCM_16"}, 2**-15),
    (".aiff", {"format": "AIFF", "subtype": "PCM_24"}, 2**-23),
    (".flac", {"subtype": "PCM_16"}, 2**-15),
    (".flac", {"subtype": "PCM_24"}, 2**-23),
]
LOSSY: list[tuple[str, dict[str, str]]] = [(".ogg", {}), (".opus", OPUS), (".mp3", {})]
WRITTEN = dict([(e, kw) for e, kw, _ in LOSSLESS] + LOSSY)  # one way to write each extension


def tone(frequency: float, rate: int, seconds: float = 1.0) -> NDArray[np.float32]:
    time = np.arange(round(seconds * rate)) / rate
    return (0.5 * np.sin(2 * np.pi * frequency * time)).astype(np.float32)


def loudest_frequency(waveform: NDArray[np.float32], rate: int) -> float:
    spectrum = np.abs(np.fft.rfft(waveform * np.hanning(len(waveform)), 8 * rate))  # 1/8 Hz a bin
    return float(spectrum.argmax()) / 8


def rms(waveform: NDArray[Any]) -> float:
    return float(np.sqrt(np.mean(np.square(waveform))))


def reason(path: Path, rate: int = 22050) -> str:
    """Why a file is refused: one line that does not repeat the path."""
    with pytest.raises(UnreadableAudio) as refusal:
        decode(path, rate)
    text = str(refusal.value)
    assert text.strip() == text and text
    assert len(text.splitlines()) == 1
    assert str(path) not in text and path.name not in text
    return text


def test_every_extension_is_tried_below() -> None:
    assert set(WRITTEN) == set(EXTENSIONS)


@pytest.mark.parametrize(("extension", "how", "error"), LOSSLESS)
def test_lossless_formats_give_back_their_samples(
    tmp_path: Path, extension: str, how: dict[str, str], error: float
) -> None:
    waveform, path = tone(440, 48000), tmp_path / f"a{extension}"
    soundfile.write(path, waveform, 48000, **how)
    decoded = decode(path, 48000)
    assert decoded.dtype == np.float32
    assert decoded.shape == waveform.shape
    assert np.abs(decoded - waveform).max() <= error


@pytest.mark.parametrize(("extension", "how"), LOSSY)
def test_lossy_formats_give_back_the_tone(tmp_path: Path, extension: str, how: dict[str, str]) -> None:
    waveform, path = tone(440, 48000), tmp_path / f"a{extension}"
    soundfile.write(path, waveform, 48000, **how)
    decoded = decode(path, 48000)
    assert decoded.dtype == np.float32
    assert abs(len(decoded) - len(waveform)) <= 2400  # encoders add up to 50 ms of padding
    assert loudest_frequency(decoded, 48000) == pytest.approx(440, abs=1)
    assert rms(decoded) == pytest.approx(rms(waveform), rel=0.05)


@pytest.mark.parametrize(("extension", "how"), LOSSY)
def test_a_long_lossy_file_is_whole_to_its_end(tmp_path: Path, extension: str, how: dict[str, str]) -> None:
    path, waveform = tmp_path / f"a{extension}", tone(440, 48000, 25.0)
    soundfile.write(path, waveform, 48000, **how)
    decoded = decode(path, 48000)
    assert abs(len(decoded) - len(waveform)) <= 2400
    for start in range(2400, len(waveform) - 4800, 2400):  # seeks between blocks leave holes in an mp3
        assert rms(decoded[start : start + 2400]) == pytest.approx(0.5 / np.sqrt(2), rel=0.1)


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_two_channels_become_one_in_every_format(tmp_path: Path, extension: str) -> None:
    left, right = tone(440, 48000), tone(440, 48000) * 0.2
    soundfile.write(tmp_path / f"a{extension}", np.stack([left, right], axis=1), 48000, **WRITTEN[extension])
    decoded = decode(tmp_path / f"a{extension}", 48000)
    assert decoded.ndim == 1
    assert rms(decoded) == pytest.approx(rms(left) * 0.6, rel=0.05)


@settings(max_examples=30, deadline=None)
@given(arrays(np.float32, array_shapes(min_dims=2, max_dims=2, max_side=6), elements=st.floats(-1, 1, width=32)))
def test_channels_are_averaged(tmp_path_factory: pytest.TempPathFactory, channels: NDArray[np.float32]) -> None:
    path = tmp_path_factory.getbasetemp() / "channels.wav"
    soundfile.write(path, channels, 22050, subtype="FLOAT")
    np.testing.assert_allclose(decode(path, 22050), channels.mean(axis=1), atol=1e-6)


@pytest.mark.parametrize("native_rate", [8000, 11025, 16000, 22051, 44100, 48000, 192000])
@pytest.mark.parametrize("rate", [16000, 22050])
def test_resampling_keeps_length_pitch_and_level(tmp_path: Path, native_rate: int, rate: int) -> None:
    soundfile.write(tmp_path / "a.wav", tone(1000, native_rate), native_rate, subtype="FLOAT")
    decoded = decode(tmp_path / "a.wav", rate)
    assert decoded.dtype == np.float32
    assert abs(len(decoded) - rate) <= 1
    assert loudest_frequency(decoded, rate) == pytest.approx(1000, abs=0.5)
    middle = slice(rate // 10, -rate // 10)
    assert rms(decoded[middle]) == pytest.approx(0.5 / np.sqrt(2), rel=1e-3)


def test_a_tone_just_below_the_new_nyquist_frequency_keeps_its_level(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", tone(10_000, 44100), 44100, subtype="FLOAT")
    assert rms(decode(tmp_path / "a.wav", 22050)[2205:-2205]) == pytest.approx(0.5 / np.sqrt(2), rel=0.01)


@pytest.mark.parametrize("native_rate", [44100, 48000, 192000])
def test_a_tone_above_the_new_nyquist_frequency_vanishes(tmp_path: Path, native_rate: int) -> None:
    soundfile.write(tmp_path / "a.wav", tone(15000, native_rate), native_rate, subtype="FLOAT")
    decoded = decode(tmp_path / "a.wav", 22050)
    assert rms(decoded[2205:-2205]) < 1e-4 * 0.5  # -80 dB; its alias would be at 7050 Hz


@settings(max_examples=40, deadline=None)
@given(n_samples=st.integers(1, 3000), native_rate=st.sampled_from([8000, 22050, 22051, 44100, 192000]))
def test_any_length_becomes_features_or_is_refused(
    tmp_path_factory: pytest.TempPathFactory, n_samples: int, native_rate: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "short.wav"
    soundfile.write(path, np.full(n_samples, 0.5), native_rate)
    spec = FeatureSpec(kind="mel")
    if n_samples * 22050 / native_rate < 0.5:  # rounds to 0 samples
        assert reason(path) == "has no samples"
        return
    waveform = decode(path, 22050)
    assert len(waveform) == pytest.approx(n_samples * 22050 / native_rate, abs=1)
    (feature,) = extract(waveform, [spec])
    assert feature.shape == (spec.n_bins, 1 + len(waveform) // spec.hop_length)
    assert np.isfinite(feature).all()


@pytest.mark.parametrize("extension", [*EXTENSIONS, ".m4a", ".raw", ".vox", ".gsm", ""])
@pytest.mark.parametrize(
    "content", [b"", b"Dear diary, today\nI heard a song.\n" * 99, b"<html><body>404 not found</body></html>"]
)
def test_a_file_that_is_not_audio_is_refused_under_any_name(tmp_path: Path, extension: str, content: bytes) -> None:
    path = tmp_path / f"song{extension}"
    path.write_bytes(content)
    text = reason(path)
    if extension in (*EXTENSIONS, ".raw"):
        assert text == ("Format not recognised" if content else "is an empty file")


@pytest.mark.parametrize("extension", [".wav", ".au", ".aiff", ".flac"])
def test_a_file_without_frames_is_refused(tmp_path: Path, extension: str) -> None:
    soundfile.write(tmp_path / f"a{extension}", np.zeros(0), 22050)
    reason(tmp_path / f"a{extension}")
    if extension != ".flac":  # libsndfile writes no header for one that stays empty
        assert reason(tmp_path / f"a{extension}") == "has no samples"


@settings(max_examples=60, deadline=None)
@given(data=st.data(), extension=st.sampled_from(EXTENSIONS), share=st.floats(0, 0.999))
def test_a_file_cut_short_is_decoded_as_far_as_it_goes_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, extension: str, share: float
) -> None:
    path = tmp_path_factory.getbasetemp() / f"cut{extension}"
    waveform = tone(440, 48000, 0.25)
    soundfile.write(path, waveform, 48000, **WRITTEN[extension])
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    try:
        decoded = decode(path, 48000)
    except UnreadableAudio:
        reason(path, 48000)
    else:
        assert 0 < len(decoded) <= len(waveform) + 2400
        assert np.isfinite(decoded).all()


def test_the_reason_for_a_damaged_file_does_not_say_error_once_more(tmp_path: Path) -> None:
    whole, cut = tmp_path / "a.flac", tmp_path / "b.flac"
    soundfile.write(whole, np.random.default_rng(0).normal(0, 0.1, 100_000), 22050)
    cut.write_bytes(whole.read_bytes()[:50_000])
    with pytest.raises(UnreadableAudio, match=r"^flac decoder lost sync$"):
        decode(cut, 22050)


def test_a_wav_file_cut_short_gives_its_beginning(tmp_path: Path) -> None:
    path, waveform = tmp_path / "a.wav", tone(440, 22050)
    soundfile.write(path, waveform, 22050, subtype="FLOAT")
    path.write_bytes(path.read_bytes()[:-40000])
    decoded = decode(path, 22050)
    assert len(decoded) > 10000
    np.testing.assert_array_equal(decoded, waveform[: len(decoded)])


def test_a_header_that_claims_an_absurd_length_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    soundfile.write(path, tone(440, 22050), 22050)
    header = bytearray(path.read_bytes())
    for n_samples in (0, 2**36 - 1):  # 0 means unknown, which libsndfile takes for 2**63 - 1
        header[21] = header[21] & 0xF0 | n_samples >> 32
        header[22:26] = (n_samples & 0xFFFFFFFF).to_bytes(4, "big")
        path.write_bytes(header)
        assert reason(path) == "does not state its length"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
def test_samples_that_would_make_features_infinite_are_refused(tmp_path: Path, value: float) -> None:
    waveform = tone(440, 22050)
    waveform[1234] = value
    soundfile.write(tmp_path / "a.wav", waveform, 22050, subtype="FLOAT")
    assert reason(tmp_path / "a.wav") == "has NaN, infinite or absurdly large samples"


def test_a_missing_file_a_folder_and_an_overlong_name_are_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "folder.wav").mkdir()
    assert reason(tmp_path / "missing.wav") == "no such file or directory"
    assert reason(tmp_path / "folder.wav") == "is a directory"
    (tmp_path / "link.wav").symlink_to("/no such disk/song.flac")
    assert reason(tmp_path / "link.wav") == "is a broken link (/no such disk/song.flac)"
    assert reason(tmp_path / ("x" * 999 + ".wav")) == "file name too long"


@pytest.mark.parametrize(
    "name",
    [
        "a b",
        "it's",
        'say "hi"',
        "two\nlines",
        "emoji \N{MUSICAL SCORE}",
        "back\\slash",
        "%s {x}",
        os.fsdecode(b"caf\xe9"),
    ],
    ids=ascii,
)
def test_any_file_name_that_the_system_allows_is_read(tmp_path: Path, name: str) -> None:
    soundfile.write(tmp_path / "plain.wav", tone(440, 22050), 22050)
    path = tmp_path / f"{name}.wav"
    try:
        (tmp_path / "plain.wav").rename(path)
    except OSError:
        pytest.skip("not on this file system")
    assert len(decode(path, 22050)) == 22050
    path.write_text("no audio")
    assert reason(path) == "Format not recognised"


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(EXTENSIONS), st.integers(1, 3), st.floats(0.3, 5), st.integers(0, 100))
def test_the_segments_of_a_file_concatenate_to_the_file(
    tmp_path_factory: pytest.TempPathFactory, extension: str, n_channels: int, longest: float, seed: int
) -> None:
    path = tmp_path_factory.getbasetemp() / f"segments{extension}"
    waveform = np.random.default_rng(seed).normal(0, 0.1, (60_000 + seed, min(n_channels, 2)))
    soundfile.write(path, waveform, 48000, **WRITTEN[extension])
    parts = list(segments(path, 48000, longest))
    np.testing.assert_array_equal(np.concatenate(parts), decode(path, 48000))
    assert max(map(len, parts)) <= longest * 48000 + 1 and max(map(len, parts)) - min(map(len, parts)) <= 1
    assert len(parts) == 1 or sum(map(len, parts)) / 48000 > longest * (len(parts) - 1)


@pytest.mark.parametrize("n_parts", [1, 2, 3])
def test_a_file_of_a_whole_number_of_longest_parts_is_cut_into_no_more(tmp_path: Path, n_parts: int) -> None:
    soundfile.write(tmp_path / "a.wav", tone(440, 8000, n_parts * 0.5), 8000)
    assert [len(part) for part in segments(tmp_path / "a.wav", 8000, 0.5)] == [4000] * n_parts


def test_memory_does_not_grow_with_the_length_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    soundfile.write(path, np.tile(tone(440, 16000, 1.0), 240), 16000)  # 15 MB as float32
    tracemalloc.start()
    assert sum(map(len, segments(path, 22050, 5.0))) == pytest.approx(240 * 22050, abs=48)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2e6


def test_blocks_of_a_thousand_channels_are_small(tmp_path: Path) -> None:
    channels = np.random.default_rng(0).normal(0, 0.1, (3000, 1000)).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", channels, 22050, subtype="FLOAT")
    assert decode(tmp_path / "a.wav", 22050) == pytest.approx(channels.mean(axis=1), abs=1e-6)


def test_half_a_second_is_enough_and_one_sample_less_is_not() -> None:
    assert no_music(tone(440, 8000, 0.5), 8000) == ""
    assert no_music(tone(440, 8000, 0.5)[1:], 8000) == "lasts less than the 0.5 s that are needed"


@pytest.mark.parametrize(("seconds", "reason"), [(0.0, SILENT), (0.08, "has sound for less than 0.1 s"), (0.12, "")])
def test_a_tenth_of_a_second_of_sound_is_enough_and_a_click_is_not(seconds: float, reason: str) -> None:
    waveform = np.zeros(3 * 8000, np.float32)
    waveform[8000 : 8000 + round(seconds * 8000)] = 0.01
    assert no_music(waveform, 8000) == reason


@pytest.mark.parametrize("place", [0, -1])
def test_channels_that_cancel_each_other_out_are_found_wherever_they_sound(tmp_path: Path, place: int) -> None:
    channels = np.zeros((3 * BLOCK // 32, 32), np.float32)  # three blocks
    channels[place, :2] = 0.5, -0.5
    soundfile.write(tmp_path / "a.wav", channels, 22050)
    assert no_music(decode(tmp_path / "a.wav", 22050), 22050) == SILENT
    assert "cancel each other out" in str(refusal(tmp_path / "a.wav", SILENT))


def test_the_length_of_a_file_is_reported_without_decoding_it(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", tone(440, 8000, 2.5), 8000)
    assert header(tmp_path / "a.wav") == (2.5, 8000)


def test_a_pipe_and_an_absurd_sample_rate_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.wav")
    assert reason(tmp_path / "pipe.wav") == "is not a regular file"
    soundfile.write(tmp_path / "a.wav", tone(440, 22050), 2_000_000)
    assert reason(tmp_path / "a.wav") == "has a sample rate of 2000000 Hz"


RATES = (1, 2, 7, 100, 999, 8000, 22050, 96000, 192000, 768000)


def test_any_rate_and_any_number_of_channels_is_decoded(tmp_path: Path) -> None:
    for rate in RATES:
        for n_channels in (1, 2, 5, 32):
            n_samples = min(4000, 40 * rate)
            channels = np.random.default_rng(rate).normal(0, 0.1, (n_samples, n_channels))
            soundfile.write(tmp_path / "a.wav", channels, rate, subtype="FLOAT")
            decoded = decode(tmp_path / "a.wav", 22050)
            assert len(decoded) == pytest.approx(n_samples * 22050 / rate, abs=1) and np.isfinite(decoded).all()


def test_a_header_that_would_fill_the_memory_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, np.zeros(22050), 22050, subtype="PCM_U8")
    header = bytearray(path.read_bytes())
    header[24:28] = (1).to_bytes(4, "little")  # 22050 samples at 1 Hz are six hours
    path.write_bytes(header)
    tracemalloc.start()
    assert reason(path) == "lasts 6.1 hours at 1 Hz, too long to be held at once"
    assert len(next(segments(path, 22050, 60))) == pytest.approx(60 * 22050, rel=0.02)  # a part of it is not too long
    assert tracemalloc.get_traced_memory()[1] < 30e6
    tracemalloc.stop()


def _fuzzed(folder: Path, data: st.DataObject) -> None:
    extension = data.draw(st.sampled_from(EXTENSIONS))
    path = folder / f"fuzzed{extension}"
    soundfile.write(path, tone(440, 8000, 0.25), 48000, **WRITTEN[extension])
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):  # headers are at the beginning
        content[data.draw(st.integers(0, min(127, len(content) - 1)))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))] + data.draw(st.binary(max_size=40)))
    tracemalloc.start()
    try:
        assert np.isfinite(decode(path, 22050)).all()
    except UnreadableAudio as error:
        assert len(str(error).splitlines()) == 1
    assert tracemalloc.get_traced_memory()[1] < 3e9
    tracemalloc.stop()


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_false_header_is_refused_or_believed_within_bounds(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    _fuzzed(tmp_path_factory.getbasetemp(), data)


@pytest.mark.slow
@settings(max_examples=3000, deadline=None)
@given(data=st.data())
def test_many_false_headers_are_refused_or_believed_within_bounds(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    _fuzzed(tmp_path_factory.getbasetemp(), data)
