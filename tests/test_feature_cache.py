"""The feature cache: nothing is computed twice, and no damage to its files leads to wrong features."""

import inspect
import json
import multiprocessing
import os
import pickle
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray
from shared import held_for_a_second

from genre_cls import files
from genre_cls.errors import UserError
from genre_cls.processes import threads
from genre_cls.tracks import audio, feature_cache, features
from genre_cls.tracks.catalogue import Track
from genre_cls.tracks.feature_cache import FeatureCache, Features, spec_key
from genre_cls.tracks.features import FeatureSpec
from genre_cls.tracks.ledger import Ledger, _file_digest

MEL = FeatureSpec(kind="mel", sample_rate=8000, n_fft=256, hop_length=128, n_mels=16, n_mfcc=5, f_max=4000.0)
MFCC = replace(MEL, kind="mfcc")
LATER = 5_000_000_000  # ns, added to a file's time where a test might be too quick for the clock


def write(path: Path, seed: int, n_samples: int = 4000) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.random.default_rng(seed).normal(scale=0.1, size=n_samples), 8000)
    return path


def touch_later(path: Path) -> None:
    stat = path.stat()
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + LATER))


def expected(track: Track, spec: FeatureSpec) -> NDArray[np.float16]:
    return features.extract(audio.decode(track.path, spec.sample_rate), [spec])[0]


def assert_same(a: NDArray[np.float16], b: NDArray[np.float16]) -> None:
    """Equal up to the order of torch's sums, which depends on its number of threads: at most one step of float16."""
    np.testing.assert_allclose(a.astype(float), b.astype(float), rtol=2**-10, atol=1e-3)


def assert_right(loaded: Sequence[Features]) -> None:
    for part in loaded:
        assert len(part.tracks) == len(part.clips) > 0
        for track, clip in zip(part.tracks, part.clips, strict=True):
            assert clip.dtype == np.float16
            assert_same(clip, expected(track, part.spec))


def entries(cache: Path) -> list[Path]:
    return sorted(cache.rglob("*.npy"))


@pytest.fixture
def tracks(tmp_path: Path) -> list[Track]:
    """Five tracks of different lengths."""
    return [Track(f"t{i}", write(tmp_path / f"{i}.wav", i, 4500 + 500 * i), "ab"[i % 2]) for i in range(5)]


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the decodings, STFTs and extractions, as they happen."""
    calls: list[str] = []

    def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            calls.append(name)
            return function(*args, **kwargs)

        return wrapper

    monkeypatch.setattr(audio, "decode", counted("decode", audio.decode))
    monkeypatch.setattr(features, "extract", counted("extract", features.extract))
    monkeypatch.setattr(features, "_mel_energies", counted("stft", features._mel_energies))
    return calls


def test_a_second_start_gives_the_same_and_computes_nothing(
    tracks: list[Track], cache: Path, computed: list[str]
) -> None:
    cold = FeatureCache(cache).load(tracks, [MEL, MFCC])
    assert [part.spec for part in cold] == [MEL, MFCC]
    assert_right(cold)
    computed.clear()
    warm = FeatureCache(cache).load(tracks, [MEL, MFCC])
    assert computed == []
    for before, after in zip(cold, warm, strict=True):
        assert (before.tracks, before.unreadable, before.digest) == (after.tracks, after.unreadable, after.digest)
        for a, b in zip(before.clips, after.clips, strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_track_is_decoded_once_and_transformed_once_for_both_kinds(
    tracks: list[Track], cache: Path, computed: list[str]
) -> None:
    FeatureCache(cache).load(tracks, [MEL, MFCC])
    assert {name: computed.count(name) for name in computed} == {"decode": 5, "extract": 5, "stft": 5}


def test_only_the_missing_kind_is_computed(tracks: list[Track], cache: Path, computed: list[str]) -> None:
    FeatureCache(cache).load(tracks, [MEL])
    computed.clear()
    both = FeatureCache(cache).load(tracks, [MEL, MFCC])
    assert computed.count("decode") == 5
    assert len(entries(cache)) == 10
    assert_right(both)


def test_two_sample_rates_are_kept_apart(tracks: list[Track], cache: Path) -> None:
    assert_right(FeatureCache(cache).load(tracks, [MEL, replace(MEL, sample_rate=16000)]))


def test_a_clips_features_do_not_depend_on_its_neighbours(tracks: list[Track], tmp_path: Path) -> None:
    (together,) = FeatureCache(tmp_path / "a").load(tracks, [MEL])
    for track, clip in zip(tracks, together.clips, strict=True):
        (alone,) = FeatureCache(tmp_path / track.id).load([track], [MEL])
        np.testing.assert_array_equal(alone.clips[0], clip)


CHANGES = [
    {"kind": "mfcc"}, {"sample_rate": 8001}, {"n_fft": 512}, {"hop_length": 64}, {"n_mels": 17},
    {"f_min": 1.0}, {"f_max": 3999.0}, {"top_db": 79.0},
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_the_key_changes_with_every_value_that_matters(change: dict[str, Any]) -> None:
    assert spec_key(replace(MEL, **change)) != spec_key(MEL)


def test_the_number_of_coefficients_is_in_the_key_of_mfcc_alone() -> None:
    assert spec_key(replace(MFCC, n_mfcc=6)) != spec_key(MFCC)
    assert spec_key(replace(MEL, n_mfcc=6)) == spec_key(MEL)


def test_equal_specs_have_one_key_however_their_numbers_are_written() -> None:
    whole = replace(MEL, f_max=4000, top_db=80, f_min=0)
    assert whole == MEL
    spec_key.cache_clear()
    first = spec_key(whole)
    spec_key.cache_clear()
    assert spec_key(MEL) == first


def test_new_code_makes_a_new_key(monkeypatch: pytest.MonkeyPatch) -> None:
    before = spec_key(MEL)
    spec_key.cache_clear()
    assert inspect.getsource(audio) + inspect.getsource(features) == feature_cache.CODE
    monkeypatch.setattr("genre_cls.tracks.feature_cache.CODE", "another")
    assert spec_key(MEL) != before
    spec_key.cache_clear()


@pytest.mark.parametrize("version", ["torch.__version__", "soxr.__version__", "soundfile.__libsndfile_version__"])
def test_another_version_of_a_library_makes_a_new_key(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = spec_key(MEL)
    spec_key.cache_clear()
    monkeypatch.setattr(version, "0.0.1")
    assert spec_key(MEL) != before
    spec_key.cache_clear()


def test_a_file_with_new_content_gets_new_features(tracks: list[Track], cache: Path) -> None:
    (before,) = FeatureCache(cache).load(tracks, [MEL])
    old = np.array(before.clips[2])
    write(tracks[2].path, seed=99, n_samples=5500)  # as many bytes as before
    touch_later(tracks[2].path)
    (after,) = FeatureCache(cache).load(tracks, [MEL])
    assert_right([after])
    assert not np.array_equal(after.clips[2], old)
    assert after.digest != before.digest


def test_a_file_that_was_only_touched_keeps_its_features(tracks: list[Track], cache: Path, computed: list[str]) -> None:
    (before,) = FeatureCache(cache).load(tracks, [MEL])
    computed.clear()
    for track in tracks:
        touch_later(track.path)
    (after,) = FeatureCache(cache).load(tracks, [MEL])
    assert computed == []
    assert after.digest == before.digest


def test_the_same_content_under_another_name_keeps_its_features(
    tracks: list[Track], cache: Path, computed: list[str], tmp_path: Path
) -> None:
    (before,) = FeatureCache(cache).load(tracks, [MEL])
    computed.clear()
    moved = [replace(track, path=track.path.rename(tmp_path / f"moved {track.id}.wav")) for track in tracks]
    (after,) = FeatureCache(cache).load(moved, [MEL])
    assert computed == []
    assert_right([after])
    assert after.digest == before.digest


@pytest.mark.parametrize("transfer", [shutil.move, shutil.copytree])
def test_a_cache_that_was_moved_or_copied_with_its_times_keeps_its_features(
    tracks: list[Track], cache: Path, computed: list[str], tmp_path: Path, transfer: Callable[[Path, Path], object]
) -> None:
    (before,) = FeatureCache(cache).load(tracks, [MEL])
    computed.clear()
    transfer(cache, tmp_path / "elsewhere")
    (after,) = FeatureCache(tmp_path / "elsewhere").load(tracks, [MEL])
    assert computed == [] and after.digest == before.digest
    assert_right([after])
    assert all(entry.is_relative_to(tmp_path / "elsewhere") for entry in after.entries)


def test_the_cache_is_the_same_however_its_path_is_written(
    tracks: list[Track], cache: Path, computed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    FeatureCache(cache).load(tracks, [MEL])
    computed.clear()
    monkeypatch.chdir(cache.parent)
    monkeypatch.setenv("HOME", str(cache.parent))
    Path("link").symlink_to(cache)
    for path in ("cache", "./cache", "~/cache", "link"):
        near = [replace(track, path=Path(track.path.name)) for track in tracks]
        assert_right(FeatureCache(Path(path)).load(near, [MEL]))
    assert computed.count("extract") == computed.count("decode") == 20  # those of `assert_right` alone


def overwrite(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    touch_later(path)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "cut short": lambda path: overwrite(path, path.read_bytes()[:-100]),
    "emptied": lambda path: overwrite(path, b""),
    "garbage": lambda path: overwrite(path, bytes(range(256)) * 9),
    "garbage of the same size": lambda path: overwrite(path, b"x" * path.stat().st_size),
    "one byte": lambda path: overwrite(path, path.read_bytes()[:-7] + b"\xff" + path.read_bytes()[-6:]),
    "deleted": Path.unlink,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_entry_is_extracted_again(
    tracks: list[Track], cache: Path, computed: list[str], damage: Callable[[Path], None]
) -> None:
    FeatureCache(cache).load(tracks, [MEL, MFCC])
    damaged = entries(cache)[3]
    whole = damaged.read_bytes()
    damage(damaged)
    computed.clear()
    loaded = FeatureCache(cache).load(tracks, [MEL, MFCC])
    assert computed.count("extract") == 1
    assert damaged.read_bytes() == whole
    assert_right(loaded)


LEDGERS = ["", "{", "[]", "null", "7", '{"a": 1}', '{"a": [1]}', '{"a": null}', '{"a": [1, 2, 3, 4]}', "\udcff"]


@pytest.mark.parametrize("content", LEDGERS, ids=ascii)
def test_a_damaged_ledger_is_tolerated_and_repaired(tracks: list[Track], cache: Path, content: str) -> None:
    FeatureCache(cache).load(tracks, [MEL])
    ledger = cache / "features" / "ledger_xxh3.json"
    ledger.write_bytes(content.encode(errors="surrogateescape"))
    assert_right(FeatureCache(cache).load(tracks, [MEL]))
    assert len(json.loads(ledger.read_text())) == 10  # five tracks, five entries


def test_a_deleted_ledger_and_a_deleted_cache_are_tolerated(tracks: list[Track], cache: Path) -> None:
    FeatureCache(cache).load(tracks, [MEL])
    (cache / "features" / "ledger_xxh3.json").unlink()
    assert_right(FeatureCache(cache).load(tracks, [MEL]))
    shutil.rmtree(cache)
    assert_right(FeatureCache(cache).load(tracks, [MEL]))


def test_a_full_disk_is_reported_and_keeps_the_entries_that_fit(
    tracks: list[Track], small_disk: Callable[..., Path], computed: list[str]
) -> None:
    cache = small_disk(4 * 5)  # five pages for the ledger, three folders' worth of entries, no more
    with pytest.raises(UserError, match="no space left on device") as error:
        FeatureCache(cache).load(tracks, [MEL])
    assert "\n" not in str(error.value) and str(cache) in str(error.value)
    small_disk(1000)
    for _ in range(2):
        assert_right(FeatureCache(cache).load(tracks, [MEL]))
    assert list(cache.rglob("*.partial")) == []


def test_a_read_only_cache_is_readable_and_reports_what_it_cannot_write(
    tracks: list[Track], tmp_path: Path, small_disk: Callable[..., Path]
) -> None:
    cache = small_disk(1000)
    FeatureCache(cache).load(tracks, [MEL])
    small_disk(1000, "ro")
    assert_right(FeatureCache(cache).load(tracks, [MEL]))
    copied = [replace(track, path=Path(shutil.copy(track.path, tmp_path / f"{track.id}.wav"))) for track in tracks]
    assert_right(FeatureCache(cache).load(copied, [MEL]))  # though nobody can record that these are the same files
    with pytest.raises(OSError, match="Read-only") as error:
        FeatureCache(cache).load(tracks, [MFCC])
    assert str(cache) in str(error.value.filename)


def test_an_aborted_extraction_is_completed(tracks: list[Track], cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_bytes = Path.write_bytes

    def write_half(path: Path, content: Any) -> int:
        if path.name.endswith(".json.partial"):  # the ledger, which still finds room
            return write_bytes(path, content)
        write_bytes(path, b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(UserError, match=r"npy: no space left on device; .* again"):
        patch.setattr(Path, "write_bytes", write_half)
        FeatureCache(cache).load(tracks, [MEL])
    assert entries(cache) == []
    assert_right(FeatureCache(cache).load(tracks, [MEL]))
    assert list(cache.rglob("*.partial")) == []


@pytest.fixture
def unreadable(tmp_path: Path) -> list[Track]:
    """A text, an empty file, a missing one, a folder, and one with NaN."""
    bad = tmp_path / "bad"
    (bad / "folder.wav").mkdir(parents=True)
    (bad / "text.wav").write_text("hello")
    (bad / "empty.wav").touch()
    soundfile.write(bad / "nan.wav", np.full(100, np.nan), 8000, subtype="FLOAT")
    names = ("empty", "folder", "missing", "nan", "text")
    return [Track(name, bad / f"{name}.wav", "a") for name in names]


def test_unreadable_files_are_reported_with_reasons_and_do_not_stop_the_others(
    tracks: list[Track], unreadable: list[Track], cache: Path, computed: list[str]
) -> None:
    mixed = [track for pair in zip(tracks, unreadable, strict=True) for track in pair]
    for start in ("cold", "warm"):
        computed.clear()
        for part in FeatureCache(cache).load(mixed, [MEL, MFCC]):
            assert list(part.tracks) == tracks
            assert {each.track.id: each.reason for each in part.unreadable} == {
                "empty": "is an empty file",
                "folder": "is a directory",
                "missing": "no such file or directory",
                "nan": "has NaN, infinite or absurdly large samples",
                "text": "Format not recognised",
            }
        assert computed.count("extract") == (5 if start == "cold" else 0)
    assert_right(FeatureCache(cache).load(mixed, [MEL, MFCC]))


def test_files_without_music_are_left_out(tracks: list[Track], tmp_path: Path, cache: Path) -> None:
    write(tmp_path / "short.wav", 0, 3000)
    soundfile.write(tmp_path / "silent.wav", np.zeros(8000), 8000)
    soundfile.write(tmp_path / "opposite.wav", np.outer(np.full(8000, 0.5), [1, -1]), 8000)
    without = [Track(name, tmp_path / f"{name}.wav", "a") for name in ("opposite", "short", "silent")]
    (part,) = FeatureCache(cache).load([*without, *tracks], [MEL])
    assert list(part.tracks) == tracks
    assert [each.reason for each in part.unreadable] == [
        "has channels that cancel each other out when they are mixed to mono",
        "lasts less than the 0.5 s that are needed",
        "is silent",
    ]


def test_a_file_that_was_repaired_or_has_gone_is_noticed(tracks: list[Track], cache: Path) -> None:
    content = tracks[0].path.read_bytes()
    tracks[0].path.write_text("broken")
    assert [each.track for each in FeatureCache(cache).load(tracks, [MEL])[0].unreadable] == [tracks[0]]
    overwrite(tracks[0].path, content)
    assert FeatureCache(cache).load(tracks, [MEL])[0].unreadable == ()
    tracks[1].path.unlink()
    (gone,) = FeatureCache(cache).load(tracks, [MEL])
    assert [each.track for each in gone.unreadable] == [tracks[1]]
    assert_right([gone])


def test_a_file_that_changes_or_vanishes_while_it_is_read_is_reported_and_spoils_nothing(
    tracks: list[Track], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode, digest = audio.decode, _file_digest
    contents = [track.path.read_bytes() for track in tracks]

    def meddled(path: Path, rate: int) -> NDArray[np.float32]:
        if path == tracks[0].path:
            write(path, 99)
            touch_later(path)
        if path == tracks[1].path:
            path.unlink()
        return decode(path, rate)

    def meddled_earlier(path: Path) -> str:
        read = digest(path)
        if path == tracks[2].path:
            touch_later(path)
        return read

    with monkeypatch.context() as patch:
        patch.setattr(audio, "decode", meddled)
        patch.setattr("genre_cls.tracks.ledger._file_digest", meddled_earlier)
        (part,) = FeatureCache(cache).load(tracks, [MEL])
    reasons = {each.track.id: each.reason for each in part.unreadable}
    assert part.tracks == tuple(tracks[3:]) and reasons.pop("t1") == "no such file or directory"
    assert reasons.keys() == {"t0", "t2"} and all(reason.startswith("changed while") for reason in reasons.values())
    assert_right([part])
    for _ in range(2):  # as they are now, then as they were
        (part,) = FeatureCache(cache).load([track for track in tracks if track.path.exists()], [MEL])
        assert not part.unreadable
        assert_right([part])
        for track, content in zip(tracks, contents, strict=True):
            overwrite(track.path, content)


def test_only_unreadable_tracks_give_no_features(unreadable: list[Track], cache: Path) -> None:
    (part,) = FeatureCache(cache).load(unreadable, [MEL])
    assert (part.tracks, part.clips, len(part.unreadable)) == ((), (), 5)
    assert FeatureCache(cache).load([], [MEL])[0].unreadable == ()


def test_files_of_equal_bytes_are_all_tracks(tmp_path: Path, cache: Path, computed: list[str]) -> None:
    copies = [Track(f"t{i:02d}", write(tmp_path / f"{i}.wav", i // 8, 60_000), "a") for i in range(40)]
    copies += [Track(f"u{i}", write(tmp_path / f"u{i}.txt.wav", 0), "b") for i in range(2)]
    for track in copies[-2:]:
        track.path.write_text("no audio")
    (part,) = FeatureCache(cache).load(copies, [MEL])
    assert computed.count("extract") == 5
    assert list(part.tracks) == copies[:-2]
    assert [each.track for each in part.unreadable] == copies[-2:]
    assert_right([part])


def test_the_digest_is_of_ids_genres_and_bytes_alone(tracks: list[Track], tmp_path: Path) -> None:
    def digest(of: Sequence[Track], spec: FeatureSpec = MEL) -> str:
        return FeatureCache(tmp_path / "one").load(of, [spec])[0].digest

    first = digest(tracks)
    (tmp_path / "elsewhere").mkdir()
    copies = [
        replace(track, path=Path(shutil.copyfile(track.path, tmp_path / "elsewhere" / f"{i}.x.wav")))
        for i, track in enumerate(tracks)
    ]
    assert FeatureCache(tmp_path / "two").load(copies, [MFCC])[0].digest == first
    variants = [
        digest(tracks[:-1]),
        digest([replace(tracks[0], id="other"), *tracks[1:]]),
        digest([replace(tracks[0], genre="other"), *tracks[1:]]),
        digest([replace(tracks[0], path=tracks[1].path), *tracks[1:]]),
        digest(tracks[::-1]),
    ]
    assert len({first, *variants}) == 6


def test_a_name_that_is_not_utf8_is_read(tmp_path: Path, cache: Path) -> None:
    name = os.fsdecode(b"caf\xe9.wav")
    try:
        path = write(tmp_path / "plain.wav", 0).rename(tmp_path / name)
    except OSError:
        pytest.skip("not on this file system")
    for _ in range(2):
        assert_right(FeatureCache(cache).load([Track(f"a/{name}", path, "a")], [MEL]))


def test_writing_to_a_matrix_does_not_change_the_file(tracks: list[Track], cache: Path) -> None:
    (part,) = FeatureCache(cache).load(tracks, [MEL])
    for clip in part.clips:
        assert clip.flags.writeable and clip.flags.c_contiguous
        clip[:] = 7
    assert_right(FeatureCache(cache).load(tracks, [MEL]))


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux")
def test_matrices_are_mapped_and_not_read(tracks: list[Track], cache: Path) -> None:
    loaded = FeatureCache(cache).load(tracks, [MEL, MFCC])
    mapped = Path("/proc/self/maps").read_text()
    for entry in entries(cache.resolve()):
        assert str(entry) in mapped
    assert len(loaded) == 2


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on open files")
def test_more_tracks_than_files_may_be_open_at_once(tmp_path: Path, cache: Path) -> None:
    import resource

    many = [Track(f"t{i:03d}", write(tmp_path / f"{i}.wav", i), "a") for i in range(150)]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    n_open = max(os.open(os.devnull, os.O_RDONLY), 0)
    os.close(n_open)
    resource.setrlimit(resource.RLIMIT_NOFILE, (n_open + 60, hard))
    try:
        (part,) = FeatureCache(cache).load(many, [MEL])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(part.clips) == 150


def test_loading_leaves_torch_its_threads(tracks: list[Track], cache: Path) -> None:
    seen = []

    def work() -> None:
        FeatureCache(cache).load(tracks, [MEL])
        seen.append(torch.get_num_threads())

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        thread = threading.Thread(target=work)  # one that has not used torch yet, as a program at its start
        thread.start()
        thread.join()
    finally:
        torch.set_num_threads(before)
    assert seen == [3]


def test_of_long_clips_two_are_held_at_once_on_any_number_of_cores(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "cpu_count", lambda: 8)
    monkeypatch.setattr(feature_cache, "LONG", 0.9)
    monkeypatch.setattr(feature_cache, "SMALL", 0)
    long = [Track(f"long {i}", write(tmp_path / f"long {i}.wav", i, 8000), "a") for i in range(6)]
    short = [Track(f"short {i}", write(tmp_path / f"short {i}.wav", 10 + i, 4000), "b") for i in range(6)]
    (tmp_path / "empty.wav").touch()
    held, most, lock, decode = 0, 0, threading.Lock(), audio.decode

    def counted(path: Path, sample_rate: int) -> object:
        nonlocal held, most
        with lock:
            held += path.name.startswith("long")
            most = max(most, held)
        time.sleep(0.05)
        waveform = decode(path, sample_rate)
        with lock:
            held -= path.name.startswith("long")
        return waveform

    monkeypatch.setattr(audio, "decode", counted)
    (part,) = FeatureCache(cache).load([*long, *short, Track("empty", tmp_path / "empty.wav", "b")], [MEL])
    assert most == 2
    assert len(part.tracks) == 12 and [each.reason for each in part.unreadable] == ["is an empty file"]


def test_a_ledger_may_be_written_by_many_threads(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.txt" for i in range(400)]
    for path in paths:
        path.write_text(path.name)
    ledger = Ledger(tmp_path / "ledger.json")
    start = threading.Barrier(8)

    def record(part: list[Path]) -> None:
        start.wait()
        for path in part:
            ledger.record(path, f"digest of {path.name}")

    threads = [threading.Thread(target=record, args=(paths[i::8],)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ledger.save()
    reread = Ledger(tmp_path / "ledger.json")
    assert [reread.digest(path) for path in paths] == [f"digest of {path.name}" for path in paths]


def test_ledgers_of_one_file_keep_each_others_lines(tmp_path: Path) -> None:
    paths = [tmp_path / "a", tmp_path / "b"]
    ledgers = [Ledger(tmp_path / "ledger.json") for _ in paths]
    for path, ledger in zip(paths, ledgers, strict=True):
        path.write_text(path.name)
        ledger.record(path, path.name)
        assert ledger.digest(path) == path.name
    for ledger in ledgers:
        ledger.save()
    reread = Ledger(tmp_path / "ledger.json")
    assert [reread.digest(path) for path in paths] == ["a", "b"]
    touch_later(paths[0])
    paths[1].unlink()
    assert [reread.digest(path) for path in paths] == [None, None]


def _load_at_once(start: Any, answers: Any, cache: Path, tracks: list[Track]) -> None:
    start.wait()
    loaded = FeatureCache(cache).load(tracks, [MEL, MFCC])
    answers.put([(part.digest, [np.array(clip) for clip in part.clips]) for part in loaded])


def test_processes_that_fill_one_cache_at_once_all_get_the_right_features(tmp_path: Path, cache: Path) -> None:
    tracks = [Track(f"t{i:02d}", write(tmp_path / f"{i}.wav", i % 25, 20_000), "a") for i in range(30)]
    context = multiprocessing.get_context("forkserver")
    start, answers = context.Barrier(3), context.Queue()
    processes = [context.Process(target=_load_at_once, args=(start, answers, cache, tracks)) for _ in range(3)]
    for process in processes:
        process.start()
    given = [answers.get(timeout=120) for _ in processes]
    for process in processes:
        process.join()
        assert process.exitcode == 0
    reference = [[expected(track, spec) for track in tracks] for spec in (MEL, MFCC)]
    for answer in given:
        for (digest, clips), right in zip(answer, reference, strict=True):
            assert digest == given[0][0][0]
            for clip, matrix in zip(clips, right, strict=True):
                assert_same(clip, matrix)
    assert list(cache.rglob("*.partial")) == []


def test_the_size_is_that_of_all_entries(tracks: list[Track], cache: Path) -> None:
    filled = FeatureCache(cache)
    filled.load(tracks, [MEL])
    assert filled.size() == sum(entry.stat().st_size for entry in entries(cache)) > 0


def test_features_are_pickled_as_file_names_not_values(tracks: list[Track], cache: Path) -> None:
    long = [Track(track.id, write(track.path, seed, 400_000), track.genre) for seed, track in enumerate(tracks)]
    (loaded,) = FeatureCache(cache).load(long, [FeatureSpec(kind="mel")])
    sent = pickle.dumps(loaded)
    assert len(sent) < loaded.clips[0].nbytes / 10
    for clip, restored in zip(loaded.clips, pickle.loads(sent).clips, strict=True):
        assert_same(clip, restored)


def test_too_many_files_for_one_process_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> torch.Tensor:
        raise RuntimeError("unable to mmap 84 bytes from file <x>: Cannot allocate memory (12)")

    tracks = [Track("a", write(tmp_path / "a.wav", 1), "blues")]
    monkeypatch.setattr(torch, "from_file", full)
    with pytest.raises(UserError, match=r"npy: unable to mmap .* vm\.max_map_count"):
        FeatureCache(tmp_path).load(tracks, [MEL])


def test_waiting_for_another_process_that_extracts_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(files, "PATIENCE", 0.1)
    tracks, cache = [Track("a", write(tmp_path / "a.wav", 1), "blues")], FeatureCache(tmp_path)
    held_for_a_second(cache.root / "extract.lock")
    with caplog.at_level("INFO"):
        assert_right(cache.load(tracks, [MEL]))
    assert "features: another process is working on it; waiting" in caplog.text


def test_a_file_of_another_size_has_changed_though_its_time_is_the_same(tracks: list[Track], cache: Path) -> None:
    """As of one that is unpacked again, with the time that the archive gives it."""
    FeatureCache(cache).load(tracks, [MEL])
    path, stat = tracks[2].path, tracks[2].path.stat()
    write(path, seed=99, n_samples=6000)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert_right(FeatureCache(cache).load(tracks, [MEL]))


def test_what_another_process_has_extracted_meanwhile_is_not_extracted_again(
    tracks: list[Track], cache: Path, computed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, real = FeatureCache(cache), feature_cache.locked

    @contextmanager
    def after_others(path: Path, *arguments: Any) -> Iterator[None]:
        if path.name == "extract.lock":  # held by another process until it is done
            monkeypatch.setattr(feature_cache, "locked", real)
            FeatureCache(cache).load(tracks, [MEL])
        with real(path, *arguments):
            yield

    monkeypatch.setattr(feature_cache, "locked", after_others)
    assert_right(ours.load(tracks, [MEL]))
    assert feature_cache.locked is real  # so the other one has been there
    assert computed.count("extract") == 2 * len(tracks)  # the other one's, and those of `assert_right`


def test_a_ledger_is_saved_when_no_other_process_saves_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(files, "PATIENCE", 0.1)
    ledger = Ledger(tmp_path / "ledger.json")
    (tmp_path / "a").touch()
    ledger.record(tmp_path / "a", "its digest")
    held_for_a_second(tmp_path / "ledger.lock")
    with caplog.at_level("INFO"):
        ledger.save()
    assert "ledger.json: another process is working on it; waiting" in caplog.text
    assert Ledger(tmp_path / "ledger.json").digest(tmp_path / "a") == "its digest"


def test_a_kill_during_extraction_loses_no_more_than_the_last_seconds_of_it(
    tracks: list[Track], cache: Path, computed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, filled = feature_cache._fill, []

    def killed(job: Any) -> str | None:
        filled.append(job)
        if len(filled) == len(tracks):
            raise KeyboardInterrupt
        return real(job)

    monkeypatch.setattr(feature_cache, "SAVE_EVERY", 0)
    monkeypatch.setattr("genre_cls.processes.threads.cpu_count", lambda: 1)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(feature_cache, "_fill", killed)
        FeatureCache(cache).load(tracks, [MEL])
    computed.clear()
    FeatureCache(cache).load(tracks, [MEL])
    assert computed.count("extract") == 1


def test_the_longest_clip_is_measured_in_seconds_wherever_it_is(tracks: list[Track], cache: Path) -> None:
    for order in (tracks, tracks[::-1]):
        (part,) = FeatureCache(cache).load(order, [MEL])
        assert part.longest == pytest.approx(6500 / 8000, abs=MEL.seconds_per_frame)
