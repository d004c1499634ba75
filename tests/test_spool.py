"""Test that the spool keeps finished folds complete until the store has them."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from made import a_result

from genre_cls.errors import UserError
from genre_cls.experiments.spool import Spool
from genre_cls.tracking.artifacts import fold_files

FILES = {"fold.json": b"{}", "model.safetensors": bytes(1000)}


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path, "key")


def test_folds_come_back_in_order_and_are_dropped_one_by_one_until_nothing_is_left(spool: Spool) -> None:
    assert spool.folders() == []
    for index in (10, 2, 0):
        spool.put(index, FILES)
    assert [folder.name for folder in spool.folders()] == ["0", "2", "10"]
    for left in (2, 1, 0):
        assert spool.files(spool.folders()[0]) == FILES
        spool.drop(spool.folders()[0])
        assert len(spool.folders()) == left
    spool.clear()
    assert not spool.path.exists()


def test_an_incomplete_fold_does_not_count_and_is_replaced(spool: Spool) -> None:
    half = spool.path / "1.partial"
    half.mkdir(parents=True)
    (half / "predictions.csv").write_text("half")
    assert spool.folders() == []
    spool.put(1, FILES)
    assert spool.files(spool.folders()[0]) == FILES and len(list(spool.path.iterdir())) == 1


@pytest.mark.parametrize("damage", ["a byte", "cut short", "a file is gone", "a file too many", "no checksums"])
def test_a_damaged_fold_is_not_returned(spool: Spool, damage: str) -> None:
    spool.put(1, FILES)
    (folder,) = spool.folders()
    match damage:
        case "a byte":
            (folder / "fold.json").write_bytes(b"{]")
        case "cut short":
            (folder / "model.safetensors").write_bytes(bytes(999))
        case "a file is gone":
            (folder / "fold.json").unlink()
        case "a file too many":
            (folder / "x").touch()
        case _:
            (folder / "sums.json").unlink()
    with pytest.raises((ValueError, LookupError)):
        spool.files(folder)


def test_keys_are_kept_apart(spool: Spool, tmp_path: Path) -> None:
    spool.put(0, FILES)
    other = Spool(tmp_path, "other")
    other.clear()
    assert other.folders() == [] and len(spool.folders()) == 1
    spool.clear()
    assert spool.folders() == []


def test_a_full_disk_keeps_no_half_fold_and_the_others(small_disk: Callable[..., Path]) -> None:
    spool = Spool(small_disk(100), "key")
    spool.put(0, FILES)
    with pytest.raises(UserError, match="no space left"):
        spool.put(1, FILES | {"z": bytes(200_000)})
    assert [folder.name for folder in spool.folders()] == ["0"]
    small_disk(400)
    spool.put(1, FILES | {"z": bytes(200_000)})
    assert len(spool.folders()) == 2


def test_a_fold_that_is_only_half_deleted_does_not_count(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    spool.put(0, FILES)

    def killed(folder: Path) -> None:
        (folder / "fold.json").unlink()
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        spool.drop(spool.folders()[0])
    assert spool.folders() == []


def test_of_the_folds_in_the_spool_those_that_the_store_has_are_deleted_and_the_damaged_ones_too(
    spool: Spool, caplog: pytest.LogCaptureFixture
) -> None:
    for fold in a_result(0.9, 0.8, 0.7).folds:
        spool.put(fold.index, fold_files(fold))
    (spool.path / "2" / "windows.npz").write_bytes(b"damaged")
    assert list(spool.folds(logged={0})) == [1] and [folder.name for folder in spool.folders()] == ["1"]
    (message,) = caplog.messages
    assert message.startswith(f"{spool.path / '2'}: is damaged and trained again: ")
