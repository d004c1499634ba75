"""What a configuration is judged on, asked for as a sweep or a search does: several times in one process."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hydra.utils import instantiate
from omegaconf import DictConfig
from shared import Compose

from genre_cls.errors import UserError
from genre_cls.tracks import folder, folds
from genre_cls.tracks.catalogue import Catalogue, Track
from genre_cls.tracks.feature_cache import FeatureCache
from genre_cls.tracks.features import filterbank
from genre_cls.tracks.folds import Facts, Fold, SplitError
from genre_cls.training import preparation, task


@pytest.fixture
def music(tiny_music: Path, tmp_path: Path) -> Path:
    """The tiny music, of which artists are known of all tracks but two."""
    root = shutil.copytree(tiny_music, tmp_path / "music")
    known = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.wav"))[1:-1]
    lines = ["path,artist", *(f'"{track}",artist {number % 6}' for number, track in enumerate(known))]
    (root / "metadata.csv").write_text("\n".join(lines))
    return root


@pytest.fixture
def cfg(composed: Compose, music: Path, tmp_path: Path) -> Callable[..., DictConfig]:
    return lambda *more: composed(
        "dataset=folder", f"dataset.root={music}", f"cache_dir={tmp_path / 'cache'}", "folds=artist", "folds.k=2",
        "max_unreadable=0.5", *more,
    )  # fmt: skip


def test_all_features_of_a_sweep_come_from_one_pass(
    cfg: Callable[..., DictConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[Any] = []
    load = FeatureCache.load
    monkeypatch.setattr(FeatureCache, "load", lambda *asked: passes.append(asked[2]) or load(*asked))
    sweep = [cfg(f"features={kind}", f"batch_size={size}") for kind in ("mel", "mfcc") for size in (16, 32)]
    preparation.prepare_data(sweep)
    tasks = [task.load(one) for one in sweep]
    assert len(passes) == 1 and len(passes[0]) == 3  # both features and what duplicates are found by
    assert [one and one.features.spec.kind for one in tasks] == ["mel", "mel", "mfcc", "mfcc"]
    assert len({one.digest for one in tasks if one}) == 1


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("my\nmusic", "my\\nmusic"),
        ("demo", "folder demo"),
        ("reports", "folder reports"),
        ("", "folder"),
        ("m" * 255, "m" * task.LONGEST_NAME),
    ],
)
def test_a_folder_of_music_is_named_after_itself(cfg: Callable[..., DictConfig], folder: str, name: str) -> None:
    judged_on = task.load(cfg("folds=random"))
    assert judged_on and judged_on.dataset("folder") == "music"
    assert replace(judged_on, catalogue=replace(judged_on.catalogue, name=folder)).dataset("folder") == name


def test_a_genre_without_readable_tracks_is_reported(cfg: Callable[..., DictConfig], music: Path) -> None:
    for path in (music / "hiss & noise").iterdir():
        path.write_text("no audio")
    with pytest.raises(UserError, match="genre hiss & noise: none of its tracks can be read"):
        task.load(cfg("folds=random"))


def made_equal(music: Path) -> set[str]:
    """Copy one of the files, whose artists are all known, over two others, and return the ids of the three tracks."""
    same = sorted((music / "hiss & noise").iterdir())[1:4]
    for other in same[1:]:
        shutil.copy(same[0], other)
    return {path.relative_to(music).as_posix() for path in same}


def by_id(facts: Facts, **_: Any) -> list[Fold]:
    places = np.arange(len(facts.ids))
    tested = np.array([int(Path(track).stem) % 2 == 0 for track in facts.ids])
    return [Fold(0, places[tested], places[:0], places[~tested]), Fold(1, places[~tested], places[:0], places[tested])]


class Broken:
    """A split that is an object, and returns no list."""

    def __call__(self, facts: Facts, **_: Any) -> tuple[()]:
        return ()


def test_a_split_of_ones_own_may_go_by_ids(cfg: Callable[..., DictConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folds, "random", by_id)
    judged_on = task.load(cfg("folds=random"))
    assert judged_on and {Path(judged_on.features.tracks[i].id).stem for i in judged_on.folds[0].test} == set("135")


@pytest.mark.parametrize(
    ("split", "problem"),
    [
        (lambda facts, **_: 1 / 0, r"folds: <lambda> fails: ZeroDivisionError: division by zero \(test_task.py, line "),
        (lambda facts, **_: [Fold(0, facts.genres, [], [])], r"folds: fold 0: train must be whole numbers"),
        (Broken(), "folds: Broken must return a list of genre_cls.tracks.folds.Fold"),
        (lambda facts, **_: [], "folds: <lambda> must return a list of genre_cls.tracks.folds.Fold"),
        (lambda facts, **_: [([0], [1])], "folds: <lambda> must return a list of genre_cls.tracks.folds.Fold"),
        (lambda facts, **_: [Fold(0, [0], [], [0, 1])], "folds: fold 0 has a track twice"),
        (lambda facts, **_: by_id(facts)[1:], "folds: fold 1 must be number 0"),
    ],
)
def test_a_split_of_ones_own_that_fails_or_leaks_is_reported_in_one_line(
    cfg: Callable[..., DictConfig], monkeypatch: pytest.MonkeyPatch, split: Any, problem: str
) -> None:
    monkeypatch.setattr(folds, "random", split)
    for words in ((), ("fold=0", "inside=true")):
        with pytest.raises(UserError, match=problem):
            task.load(cfg("folds=random", "skip_impossible=true", *words))


def test_a_split_without_validation_tracks_is_refused_to_early_stopping_alone(
    cfg: Callable[..., DictConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folds, "random", by_id)
    with pytest.raises(UserError, match=r"^folds: fold 0 has no validation tracks, which early stopping needs; by_id"):
        task.load(cfg("folds=random", "recipe.early_stopping.patience=2"))


def test_a_data_set_of_one_genre_is_refused(cfg: Callable[..., DictConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    rock = (Track(str(n), Path(str(n)), "rock") for n in range(9))
    tracks = (*rock, Track("9", Path("9"), "jazz", fault="x"))
    monkeypatch.setattr(folder, "folder", lambda root: Catalogue("mine", tracks))
    with pytest.raises(UserError, match="dataset mine: has fewer than two genres"):
        task.load(cfg("folds=random", "drop_faults=true"))


def test_copies_of_a_file_are_on_one_side(cfg: Callable[..., DictConfig], music: Path) -> None:
    same = made_equal(music)
    found = task.load(cfg())
    assert found
    for fold in found.folds:
        assert len(same & {found.features.tracks[i].id for i in fold.test}) in (0, 3)


@pytest.mark.parametrize("split", ["random", "artist"])
def test_held_out_tracks_with_a_copy_among_the_training_tracks_are_reported(
    cfg: Callable[..., DictConfig], music: Path, caplog: pytest.LogCaptureFixture, split: str
) -> None:
    same = made_equal(music)
    with caplog.at_level("WARNING"):
        preparation.prepare_data([cfg(f"folds={split}")])
    found = task.load(cfg(f"folds={split}"))
    assert found
    copies = {place for place, track in enumerate(found.features.tracks) if track.id in same}
    n = sum(len(copies & set(fold.test)) for fold in found.folds if copies & set(fold.train))
    told = f"split: {n} of 12 held-out tracks have the same recording in the training set"
    assert bool(n) == (split == "random") == (told in caplog.text)
    assert ("same recording" in caplog.text) == bool(n)


def test_a_recording_that_is_credited_to_two_artists_is_kept_on_one_side(
    cfg: Callable[..., DictConfig], music: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As on a compilation; all artists are known, and the copy is cut, quieter and of another format."""
    random, rate = np.random.default_rng(0), 22050
    tracks = sorted(path for path in music.rglob("*.wav"))
    for path in tracks:
        notes = random.normal(size=(60, 1, 1)) * np.sin(np.arange(rate // 4) * random.random((60, 3, 1)))
        soundfile.write(path, 0.1 * notes.sum(axis=1).ravel(), rate)
    original, copy = tracks[0], tracks[1].with_suffix(".ogg")
    soundfile.write(copy, 0.8 * soundfile.read(original)[0][rate:], rate)
    tracks[1].unlink()
    ids = [path.relative_to(music).as_posix() for path in (original, copy, *tracks[2:])]
    lines = ["path,artist", *(f'"{track}",artist {number}' for number, track in enumerate(ids))]
    (music / "metadata.csv").write_text("\n".join(lines))
    with caplog.at_level("WARNING"):
        preparation.prepare_data([cfg()])
    assert f"kept in the same fold, as they sound alike: {ids[0]} and {ids[1]}" in caplog.text
    found = task.load(cfg())
    assert found and len(found.duplicates) == 1 and found.facts.groups is not None
    places = [[track.id for track in found.features.tracks].index(each) for each in ids[:2]]
    groups = found.facts.groups
    assert len(set(groups[places])) == 1 and len(set(groups)) == len(ids) - 1


def test_splits_that_come_out_alike_are_both_possible(
    cfg: Callable[..., DictConfig], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(folds, "mine", folds.random, raising=False)
    with caplog.at_level("INFO"):
        preparation.prepare_data(
            [cfg("folds=random", f"folds._target_={folds.__name__}.{name}") for name in ("random", "mine")]
        )
    splits = [line.rpartition(" ")[2] for line in caplog.messages if line.startswith("split: 2 folds")]
    assert splits == ["(random)", "(mine)"] and "alone is possible" not in caplog.text


def test_splits_that_differ_in_early_stopping_are_each_tried(cfg: Callable[..., DictConfig]) -> None:
    few, enough = "recipe.early_stopping.val_fraction=0.01", "recipe.early_stopping.val_fraction=0.5"
    for order in ((few, enough), (enough, few)):
        sweep = [cfg("folds=random", "recipe.early_stopping.patience=1", fraction) for fraction in order]
        with pytest.raises(SplitError, match=r"val_fraction=0\.01"):
            preparation.prepare_data(sweep)


@pytest.mark.parametrize(
    ("settings", "note"),
    [
        ([], ""),
        (["shuffle_genres=true"], "Genres are permuted among the tracks: an interval above chance hints at leakage."),
        (["fold=0", "alone=true"], "Evaluated on one fold only."),
        (["fold=0", "inside=true", "folds=random"], "Evaluated within one fold's training tracks, to choose"),
    ],
)
def test_an_unusual_evaluation_is_labelled_as_such(
    cfg: Callable[..., DictConfig], settings: list[str], note: str
) -> None:
    found = task.load(cfg(*settings))
    assert found and found.note.startswith(note) and bool(found.note) == bool(note)


def test_features_of_one_task_are_of_the_same_tracks_whatever_happens_to_the_files(
    cfg: Callable[..., DictConfig], music: Path
) -> None:
    before = task.load(cfg("features=mel"))
    (music / "hiss & noise" / "3.wav").write_text("no audio")
    after = task.load(cfg("features=mfcc"))
    assert before and after and len(before.labels) == 12 and len(after.labels) == 11
    assert "hiss & noise/3.wav" not in {track.id for track in after.features.tracks}
    assert len(after.features.clips) == 11 == sum(len(fold.test) for fold in after.folds)


def test_a_file_that_is_in_two_genres_is_reported(
    cfg: Callable[..., DictConfig], music: Path, caplog: pytest.LogCaptureFixture
) -> None:
    genres = sorted(path.name for path in music.iterdir() if path.is_dir())
    first, second = (sorted((music / genre).iterdir())[0] for genre in genres)
    shutil.copy(first, second)
    with caplog.at_level("WARNING"):
        preparation.prepare_data([cfg("folds=random")])
    ids = (path.relative_to(music).as_posix() for path in (first, second))
    assert caplog.text.count("the same file is in two genres: {} and {}".format(*ids)) == 1


def test_many_lines_of_a_kind_are_counted_instead_of_listed(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("WARNING"):
        preparation._warn_of_each(f"line {number}" for number in range(preparation.N_LISTED + 3))
        preparation._warn_of_each(["alone"])
    lines = [record.getMessage() for record in caplog.records]
    assert lines == [*(f"line {number}" for number in range(preparation.N_LISTED)), "… and 3 more like this", "alone"]


def test_windows_longer_than_all_tracks_and_batches_larger_than_the_training_set_are_reported_once(
    cfg: Callable[..., DictConfig], caplog: pytest.LogCaptureFixture
) -> None:
    sweep = [cfg("folds=random", f"features={kind}", "recipe.window=5", "batch_size=7") for kind in ("mel", "mfcc")]
    with caplog.at_level("WARNING"):
        preparation.prepare_data([*sweep, cfg("folds=random", "recipe.window=1.2", "batch_size=6")])
    assert [record.getMessage() for record in caplog.records if "=" in record.getMessage()] == [
        "recipe.window=5: longer than every track (the longest has 1.2 s), so tracks are repeated to fill it",
        "batch_size=7: more than the 6 training tracks of a fold, so an epoch is one step",
    ]


def test_mel_bands_that_no_frequency_falls_into_are_counted(
    cfg: Callable[..., DictConfig], caplog: pytest.LogCaptureFixture
) -> None:
    small = cfg("folds=random", "features.n_fft=512", "features.hop_length=256", "features.n_mels=256")
    n_empty = int((filterbank(instantiate(small.features)).sum(dim=1) == 0).sum())
    with caplog.at_level("WARNING"):
        preparation.prepare_data([cfg("folds=random"), small])
    assert 0 < n_empty < 256
    (line,) = (message for message in caplog.messages if "n_mels" in message)
    assert line.startswith(f"features.n_mels=256: {n_empty} of the bands lie between two frequencies of an FFT")


def test_tasks_whose_models_learn_from_other_tracks_share_no_folds_though_they_test_the_same(
    cfg: Callable[..., DictConfig],
) -> None:
    found = task.load(cfg("folds=random"))
    assert found
    first, *others = found.folds
    fewer = replace(first, train=first.train[1:])
    some = [replace(found, folds=[each, *others]) for each in (first, fewer, replace(fewer, val=first.train[:1]))]
    assert len({each.inputs for each in some}) == 3 and len({each.digest for each in some}) == 1
    turned = replace(found, folds=found.folds[::-1])
    assert turned.digest != found.digest and turned.inputs != found.inputs


def test_validation_tracks_count_as_training_tracks_for_a_search_and_for_leaks(
    cfg: Callable[..., DictConfig], caplog: pytest.LogCaptureFixture
) -> None:
    stopping = (
        "folds=random",
        "folds.k=3",
        "recipe.early_stopping.patience=1",
        "recipe.early_stopping.val_fraction=0.5",
    )
    outer, inner = task.load(cfg(*stopping)), task.load(cfg(*stopping, "fold=0", "inside=true"))
    assert outer and inner and len(outer.folds[0].val)
    assert (len(outer.folds), len(inner.folds)) == (3, 2)  # of fewer tracks fewer folds
    for fold in inner.folds:
        assert sorted([*fold.test, *fold.known]) == outer.folds[0].known.tolist() and len(fold.val)
    tracks = list(outer.features.tracks)
    tested, stopping_by = outer.folds[0].test[0], outer.folds[0].val[0]
    tracks[tested] = replace(tracks[tested], repeats=tracks[stopping_by].id)
    preparation._announce_split(replace(outer, features=replace(outer.features, tracks=tuple(tracks))), "random")
    assert "split: 2 of 12 held-out tracks have the same recording in the training set" in caplog.text
