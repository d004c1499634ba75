"""Files that are whole or absent, on disks that are full or read-only."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import Timeout
from shared import held_for_a_second

from genre_cls.errors import UserError
from genre_cls.files import check_place, expanduser, locked, make_folder, sync, write_atomically

SmallDisk = Callable[..., Path]


def test_a_tilde_is_the_home_and_a_name_that_begins_with_one_is_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert expanduser("~/a") == tmp_path / "a" and expanduser(tmp_path) == tmp_path
    assert expanduser("~backup.mp3") == Path("~backup.mp3")


def test_a_file_has_its_name_only_once_it_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, replace, seen = tmp_path / "file", Path.replace, []
    write_atomically(path, b"old")

    def noted(partial: Path, target: Path) -> Path:
        seen.append((path.read_bytes(), partial.read_bytes()))
        return replace(partial, target)

    monkeypatch.setattr(Path, "replace", noted)
    write_atomically(path, b"new")
    assert seen == [(b"old", b"new")]
    assert path.read_bytes() == b"new" and list(tmp_path.iterdir()) == [path]


def test_a_symbolic_link_stays_and_what_it_leads_to_is_written(tmp_path: Path) -> None:
    target, link = tmp_path / "disk" / "file", tmp_path / "link"
    target.parent.mkdir()
    link.symlink_to(target)
    for content in (b"new", b"newer"):  # the first makes the file
        write_atomically(link, content)
        assert link.readlink() == target and target.read_bytes() == content
    (loop := tmp_path / "loop").symlink_to(loop)
    write_atomically(loop, b"new")  # which leads nowhere, so that it is replaced
    assert loop.read_bytes() == b"new" and not loop.is_symlink()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_interrupted_write_leaves_nothing(
    tmp_path: Path, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(handle: int) -> None:
        assert (tmp_path / "file.partial").read_bytes() == b"half"
        raise error

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(error):
        write_atomically(tmp_path / "file", b"half")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_or_written_to_is_refused_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, _: path != tmp_path)  # root may write anywhere
    for place in (tmp_path, tmp_path / "a" / "b"):
        with pytest.raises(UserError, match=f"^there: nothing may be written to {tmp_path}; name another folder$"):
            check_place(place, "there")
    assert make_folder("here", tmp_path) == tmp_path  # to read what it holds
    with pytest.raises(UserError, match=rf"^there={tmp_path}/a: nothing may be written"):
        make_folder("there", tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name != "posix", reason="Windows opens no folders")
def test_a_durable_file_is_synced_before_it_has_its_name_and_its_folder_after_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[str, bool]] = []

    def noted(handle: int) -> None:
        synced.append((Path(f"/dev/fd/{handle}").resolve().name, (tmp_path / "file").exists()))

    monkeypatch.setattr(os, "fsync", noted)
    write_atomically(tmp_path / "quick", b"x", durable=False)
    assert synced == []
    write_atomically(tmp_path / "file", b"x")
    assert [exists for _, exists in synced] == [False, True]
    if Path("/proc/self/fd").exists():
        assert [name for name, _ in synced] == ["file.partial", tmp_path.name]


def test_a_folder_that_cannot_be_synced_as_some_virtual_machines_have_them_is_none_the_worse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(handle: int) -> None:
        raise OSError(errno.EINVAL, "no")

    monkeypatch.setattr(os, "fsync", refused)
    with pytest.raises(UserError, match="file: "):
        write_atomically(tmp_path / "file", b"x")
    sync(tmp_path)
    with pytest.raises(OSError, match="no"):
        sync(Path(__file__))


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_named_and_no_mere_file_takes_their_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    fcntl = pytest.importorskip("fcntl")

    def absent(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", absent)
    no_locks = pytest.raises(UserError, match=r"a.lock: this file system cannot lock files; name a folder")
    with no_locks, locked(tmp_path / "a.lock", "a"):
        pass
    monkeypatch.undo()
    with locked(tmp_path / "a.lock", "a", wait=False):
        pass


def test_a_lock_that_another_process_holds_is_waited_for_or_not_at_all(tmp_path: Path) -> None:
    held_for_a_second(tmp_path / "a.lock")
    with pytest.raises(Timeout), locked(tmp_path / "a.lock", "a", wait=False):
        pass
    with locked(tmp_path / "a.lock", "a"), pytest.raises(Timeout), locked(tmp_path / "a.lock", "a", wait=False):
        pass


def test_syncing_a_missing_file_fails(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        sync(tmp_path / "nothing")


def test_a_full_disk_is_reported_with_the_files_name_and_keeps_the_old_file(small_disk: SmallDisk) -> None:
    path = small_disk(100) / "a\nfile"
    write_atomically(path, b"old")
    with pytest.raises(UserError, match=r"a\\nfile: no space left on device; .*run the command again$"):
        write_atomically(path, bytes(200_000))
    assert path.read_bytes() == b"old" and list(path.parent.iterdir()) == [path]
    small_disk(400)
    write_atomically(path, bytes(200_000))
    assert path.stat().st_size == 200_000


def test_a_read_only_disk_a_missing_folder_and_a_folder_in_its_place_are_reported(
    small_disk: SmallDisk, tmp_path: Path
) -> None:
    (tmp_path / "folder").mkdir()
    places = {
        small_disk(100, "ro") / "file": "read-only file system",
        tmp_path / "no" / "file": "no such file or directory",
        tmp_path / "folder": "is a directory",
        Path("/dev/null/file"): "not a directory",
    }
    for path, reason in places.items():
        with pytest.raises(UserError, match=reason) as error:
            write_atomically(path, b"x")
        assert str(path) in str(error.value)
