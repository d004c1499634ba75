"""Test the download from misbehaving mirrors on loopback: a complete data set, or one line that says why not."""

import gzip
import io
import shlex
import shutil
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from email.message import Message
from hashlib import sha256
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import cycle
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock
from urllib.request import FTPHandler
from urllib.response import addinfourl

import numpy as np
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shared import Command, held_for_a_second

from genre_cls import download, files
from genre_cls.download import Source, configured, fetch, get, unpack
from genre_cls.errors import UserError
from genre_cls.tracks import gtzan
from genre_cls.tracks.catalogue import Catalogue
from genre_cls.tracks.gtzan import GENRES

Answer = Callable[["Handler", int], None]


class Handler(BaseHTTPRequestHandler):
    """Answers request after request in the given ways, the last one repeatedly."""

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        server: Any = self.server
        server.starts.append(start)
        server.answers[min(len(server.starts), len(server.answers)) - 1](self, start)

    def send(self, start: int, *, status: int = 206, claim: int | None = None, first: int | None = None) -> None:
        body = self.archive[start:]
        self.head(status if start else 200, len(body) if claim is None else claim, start)
        with suppress(OSError):
            self.wfile.write(body if first is None else body[:first])

    def head(self, status: int, length: int | None, start: int = 0, **further: str) -> None:
        self.send_response(status)
        headers = {"Content-Length": length, "Location": further.get("location")}
        if status == 206:
            headers["Content-Range"] = f"bytes {start}-{len(self.archive) - 1}/{len(self.archive)}"
        for name, value in headers.items():
            if value is not None:
                self.send_header(name, str(value))
        self.end_headers()

    @property
    def archive(self) -> bytes:
        server: Any = self.server
        return server.archive

    def log_message(self, *_: Any) -> None:
        pass


def well(handler: Handler, start: int) -> None:
    handler.send(start)


def drops(handler: Handler, start: int) -> None:
    """The connection ends after 20 KB, whatever was promised."""
    handler.send(start, first=20_000)


def stalls(handler: Handler, start: int) -> None:
    handler.send(start, first=20_000)
    time.sleep(1)


def trickles(handler: Handler, start: int) -> None:
    handler.head(200, len(handler.archive))
    trickle(handler, handler.archive)


def is_silent(handler: Handler, start: int) -> None:
    time.sleep(1)


def trickles_headers(handler: Handler, start: int) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
    trickle(handler, b"X-Patience: a virtue\r\n")


def trickles_the_size_of_a_chunk(handler: Handler, start: int) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10;")
    trickle(handler, b"patience=a virtue;")


def trickle(handler: Handler, text: bytes) -> None:
    """Send the text repeatedly, a byte at a time."""
    with suppress(OSError):
        for byte in cycle(text):
            handler.wfile.write(bytes([byte]))
            time.sleep(0.02)


def knows_no_ranges(handler: Handler, start: int) -> None:
    handler.head(200, len(handler.archive))
    handler.wfile.write(handler.archive)


def sends_another_range(handler: Handler, start: int) -> None:
    if not start:
        drops(handler, start)
        return
    handler.head(206, len(handler.archive), 0)
    with suppress(OSError):
        handler.wfile.write(handler.archive)


def does_not_say_which_range_it_sends(handler: Handler, start: int) -> None:
    handler.send_response(206)
    handler.end_headers()
    with suppress(OSError):
        handler.wfile.write(handler.archive)


def claims_less(handler: Handler, start: int) -> None:
    handler.send(start, claim=30_000)


def claims_more(handler: Handler, start: int) -> None:
    if start >= len(handler.archive):
        handler.head(416, 0)
    else:
        handler.send(start, claim=len(handler.archive) - start + 5000)


def claims_nothing(handler: Handler, start: int) -> None:
    handler.head(200, None)
    handler.wfile.write(handler.archive)


def claims_the_moon(handler: Handler, start: int) -> None:
    handler.head(200, 10**13)


def never_ends(handler: Handler, start: int) -> None:
    handler.head(200, None)
    with suppress(OSError):
        while True:
            handler.wfile.write(b"\0" * 100_000)


def is_gone(handler: Handler, start: int) -> None:
    handler.head(404, 0)


def is_overloaded(handler: Handler, start: int) -> None:
    handler.head(503, 0)


def sends_a_page(handler: Handler, start: int) -> None:
    handler.head(200, 20)
    handler.wfile.write(b"<html>Log in!</html>")


def speaks_no_http(handler: Handler, start: int) -> None:
    handler.wfile.write(b"220 welcome to ftp\r\n")


def redirects(handler: Handler, start: int) -> None:
    if handler.path == "/there":
        handler.send(start)
    else:
        handler.head(302, 0, location="/there")


def redirects_in_a_circle(handler: Handler, start: int) -> None:
    handler.head(302, 0, location=handler.path)


def redirects_to_a_file(handler: Handler, start: int) -> None:
    handler.head(302, 0, location="file:///etc/passwd")


def redirects_to_ftp(handler: Handler, start: int) -> None:
    handler.head(302, 0, location="ftp://127.0.0.1/genres.tar.gz")


def drips(handler: Handler, start: int) -> None:
    """The connection ends after less than counts as progress."""
    handler.send(start, first=500)


def says_that_nothing_is_there(handler: Handler, start: int) -> None:
    handler.head(416, 0)


RECOVERED = (
    drops, stalls, trickles, trickles_headers, trickles_the_size_of_a_chunk, is_silent, knows_no_ranges,
    sends_another_range, claims_less, claims_more, claims_nothing, claims_the_moon, never_ends, is_gone, is_overloaded,
    sends_a_page, speaks_no_http, redirects, redirects_in_a_circle, redirects_to_a_file, redirects_to_ftp, drips,
    says_that_nothing_is_there,
)  # fmt: skip
ALONE_ENOUGH = (well, drops, stalls, knows_no_ranges, claims_more, claims_nothing, redirects)


@pytest.fixture(scope="module")
def archive() -> bytes:
    """As GTZAN's, of ten tracks that hardly compress."""
    noise = np.random.default_rng(0).bytes
    return packed({f"genres/{genre}/{genre}.00000.au": noise(12_000) for genre in GENRES})


def packed(files: dict[str, bytes], *further: tarfile.TarInfo) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        for member in further:
            tar.addfile(member, io.BytesIO(bytes(min(member.size, 1000))))
    return buffer.getvalue()


@pytest.fixture
def mirror(archive: bytes, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Start servers that answer in given ways."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(download, "PROGRESS", 1000)
    monkeypatch.setattr(
        FTPHandler, "ftp_open", lambda _, asked: addinfourl(io.BytesIO(archive), Message(), asked.full_url)
    )
    servers: list[Any] = []

    def start(*answers: Answer) -> Any:
        server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.answers, server.starts, server.archive = answers, [], archive
        server.address = f"http://127.0.0.1:{server.server_port}/genres.tar.gz"
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def source(archive: bytes, *mirrors: Any, **change: Any) -> Source:
    values: dict[str, Any] = {
        "mirrors": tuple(m.address for m in mirrors), "sha256": sha256(archive).hexdigest(),
        "largest_archive": 500_000, "largest_content": 500_000, "most_files": 30,
        "timeout": 0.2, "attempts": 3, "pause": 0.001,
    }  # fmt: skip
    return Source(**values | change)


def content(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def is_whole(folder: Path) -> bool:
    """Whether ten tracks are there and nothing partial."""
    left = content(folder).keys() - {"download.lock"}
    return len(left) == 10 and all(name.startswith("genres/") for name in left)


@pytest.mark.parametrize("fault", RECOVERED, ids=lambda fault: fault.__name__)
def test_whatever_one_mirror_does_another_one_completes_the_download(
    mirror: Callable[..., Any], archive: bytes, tmp_path: Path, fault: Answer
) -> None:
    get(source(archive, mirror(fault), mirror(well)), tmp_path)
    assert is_whole(tmp_path)


@pytest.mark.parametrize("fault", ALONE_ENOUGH, ids=lambda fault: fault.__name__)
def test_a_single_mirror_with_temporary_failures_is_enough(
    mirror: Callable[..., Any], archive: bytes, tmp_path: Path, fault: Answer
) -> None:
    get(source(archive, mirror(fault)), tmp_path)
    assert is_whole(tmp_path)


@pytest.mark.parametrize("fault", sorted({*RECOVERED} - {*ALONE_ENOUGH}, key=lambda f: f.__name__))
def test_when_no_mirror_gets_any_further_it_ends_in_one_line_and_bounded_space(
    mirror: Callable[..., Any], archive: bytes, tmp_path: Path, fault: Answer
) -> None:
    only = mirror(fault)
    with pytest.raises(UserError, match=r"gave up after 3 attempts.*--mirror") as told:
        get(source(archive, only), tmp_path)
    assert "\n" not in str(told.value) and only.address in str(told.value)
    assert not (tmp_path / "genres").exists() and sum(map(len, content(tmp_path).values())) < 1_000_000


def test_bytes_that_were_downloaded_are_not_downloaded_again_even_from_another_mirror(
    mirror: Callable[..., Any], archive: bytes, tmp_path: Path
) -> None:
    one, other = mirror(drops), mirror(drops)
    get(source(archive, one, other), tmp_path)
    starts = sorted(one.starts + other.starts)
    assert starts == list(range(0, len(archive), 20_000)) and is_whole(tmp_path)


@pytest.mark.parametrize("fault", [sends_another_range, does_not_say_which_range_it_sends])
def test_what_does_not_continue_the_file_is_not_added_to_it(
    mirror: Callable[..., Any], archive: bytes, tmp_path: Path, fault: Answer
) -> None:
    server = mirror(drops, fault, well)
    get(source(archive, server), tmp_path)
    assert server.starts == [0, 20_000, 20_000] and is_whole(tmp_path)


def test_bytes_that_are_thrown_away_and_come_again_are_no_progress(
    mirror: Callable[..., Any], archive: bytes, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="gave up after 3 attempts"):
        get(source(archive, mirror(drops, drops, well), mirror(sends_a_page)), tmp_path)


def test_an_https_mirror_is_asked_for_nothing_without_encryption(
    mirror: Callable[..., Any], archive: bytes, tmp_path: Path
) -> None:
    plain = mirror(well)
    with pytest.raises(UserError, match="gave up after 3 attempts"):
        get(source(archive, mirrors=(plain.address.replace("http:", "https:"),)), tmp_path)
    assert plain.starts == []


def test_an_https_mirror_that_trickles_has_stalled_too(
    mirror: Callable[..., Any], archive: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download._HTTPS, "connect", HTTPConnection.connect)  # without encryption
    address = mirror(trickles_headers).address.replace("http:", "https:")
    with pytest.raises(UserError, match="stalled"):
        get(source(archive, mirrors=(address,), attempts=1), tmp_path)


def test_a_mirror_stalls_however_fast_it_began_but_not_by_ending_late(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(download, "time", SimpleNamespace(monotonic=lambda: clock.now))

    def read(connection: download._Paced, n_bytes: int, *, after: float) -> int | None:
        clock.now += after
        return connection.readinto(bytearray(n_bytes))

    connection: Any = io.BytesIO(bytes(1_000_100))
    paced = download._Paced(connection, 10)
    assert read(paced, 1_000_000, after=11) == 1_000_000
    with pytest.raises(TimeoutError, match="stalled: 100 bytes in 11 s"):
        read(paced, 100, after=11)
    assert read(paced, 100, after=11) == 0


def test_pauses_between_attempts_double_up_to_a_minute_and_begin_anew_with_each_progress(
    mirror: Callable[..., Any], archive: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    answers = [is_gone] * 4 + [drops] + [is_gone] * 2 + [drops] + [well]
    server = mirror(*answers)
    monkeypatch.setattr(download, "time", SimpleNamespace(sleep=pauses.append, monotonic=time.monotonic))
    get(source(archive, server, attempts=5, pause=20), tmp_path)
    assert pauses == [20, 40, 60, 60, 10, 20, 40, 10] and is_whole(tmp_path)


def test_an_interrupted_command_resumes(mirror: Callable[..., Any], archive: bytes, tmp_path: Path) -> None:
    (tmp_path / "genres.tar.gz.partial").write_bytes(archive[:50_000])
    (tmp_path / "genres.partial" / "genres").mkdir(parents=True)
    server = mirror(well)
    get(source(archive, server), tmp_path)
    assert server.starts == [50_000] and is_whole(tmp_path)
    get(source(archive, server), tmp_path)
    assert server.starts == [50_000]


@pytest.mark.parametrize("left", [b"rubbish " * 10_000, b"rubbish " * 100_000])
def test_a_partial_file_of_other_content_is_discarded(
    mirror: Callable[..., Any], archive: bytes, tmp_path: Path, left: bytes
) -> None:
    (tmp_path / "genres.tar.gz.partial").write_bytes(left)
    get(source(archive, mirror(claims_more, well)), tmp_path)
    assert is_whole(tmp_path)


def test_a_complete_archive_needs_no_network(archive: bytes, tmp_path: Path) -> None:
    (tmp_path / "genres.tar.gz.partial").write_bytes(archive)
    get(source(archive, mirrors=("http://127.0.0.1:9/none",)), tmp_path)
    assert is_whole(tmp_path)


def test_waiting_for_another_download_is_reported(
    archive: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(files, "PATIENCE", 0.1)
    (tmp_path / "genres.tar.gz.partial").write_bytes(archive)
    held_for_a_second(tmp_path / "download.lock")
    with caplog.at_level("INFO"):
        get(source(archive, mirrors=("http://127.0.0.1:9/none",)), tmp_path)
    assert is_whole(tmp_path) and "the download: another process is working on it; waiting" in caplog.text


def test_a_damaged_archive_is_refused_and_deleted_even_if_it_has_the_right_checksum(
    archive: bytes, tmp_path: Path
) -> None:
    damaged = archive[:30_000] + b"!" + archive[30_001:]
    (tmp_path / "genres.tar.gz.partial").write_bytes(damaged)
    with pytest.raises(UserError, match="refused and deleted"):
        get(source(damaged, mirrors=("http://127.0.0.1:9/none",)), tmp_path)
    assert content(tmp_path).keys() == {"download.lock"}


def test_too_little_space_is_reported_before_anything_is_fetched(
    mirror: Callable[..., Any], archive: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**6, 0, 550_000))
    with pytest.raises(UserError, match=r"0\.6 MB free, 0\.6 MB needed .* make room"):
        fetch(source(archive, mirror(well)), tmp_path / "a")
    assert not (tmp_path / "a").exists()
    (tmp_path / "a").write_bytes(archive[:100_000])  # which takes no room again
    fetch(source(archive, mirror(well)), tmp_path / "a")


def test_a_disk_that_fills_up_nevertheless_is_reported_with_the_folder_and_nothing_is_lost(
    mirror: Callable[..., Any], archive: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(UserError, match=f"{tmp_path}: no space left on device"):
        patch.setattr(tarfile.TarFile, "extract", full)
        get(source(archive, mirror(well)), tmp_path)
    assert content(tmp_path).keys() == {"download.lock", "genres.tar.gz.partial"}
    get(source(archive, mirrors=("http://127.0.0.1:9/none",)), tmp_path)
    assert is_whole(tmp_path)


def member(name: str, **values: Any) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    for key, value in values.items():
        setattr(made, key, value)
    return made


def claiming(size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    """An archive whose first header claims a size that is not there."""
    return gzip.compress(member("genres/a.au", size=size, type=kind).tobuf(tarfile.GNU_FORMAT) + bytes(5000))


HOSTILE = {
    "a path upwards": packed({"genres/../../evil": b"x"}),
    "a path beside genres": packed({"genres/a": b"x", "genres/../evil": b"x"}),
    "an absolute path": packed({"/tmp/evil": b"x"}),
    "another folder": packed({"evil/a.au": b"x"}),
    "a link": packed({}, member("genres/a", type=tarfile.SYMTYPE, linkname="/etc/passwd")),
    "a hard link": packed({}, member("genres/a", type=tarfile.LNKTYPE, linkname="genres/b")),
    "a file through a link": packed({}, member("genres/a", type=tarfile.SYMTYPE, linkname="/"), member("genres/a/b")),
    "a device": packed({}, member("genres/a", type=tarfile.CHRTYPE, devmajor=1, devminor=5)),
    "a pipe": packed({}, member("genres/a", type=tarfile.FIFOTYPE)),
    "an unknown kind": packed({}, member("genres/a", type=b"Z")),
    "a sparse file": packed({}, member("genres/a", type=tarfile.GNUTYPE_SPARSE)),
    "too many files": packed({f"genres/{i}": b"" for i in range(31)}),
    "too large a file": claiming(10**12),
    "too large a name": claiming(10**12, tarfile.GNUTYPE_LONGNAME),
    "too large a header": claiming(10**12, tarfile.XHDTYPE),
    "too much in all": packed({f"genres/{i}": bytes(100_000) for i in range(6)}),
    "a bomb after the end": packed({"genres/a": b""}) + gzip.compress(bytes(5_000_000)),
    "a bomb": gzip.compress(bytes(10_000_000)),
    "a file as genres": packed({"genres": b"x"}),
    "nothing": packed({}),
    "no tar": gzip.compress(b"hello" * 1000),
    "no gzip": b"hello" * 1000,
    "not a byte": b"",
}  # fmt: skip


@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_archive_is_refused_as_a_whole(tmp_path: Path, hostile: bytes) -> None:
    folder = tmp_path / "outer" / "gtzan"
    folder.mkdir(parents=True)
    path = folder / "archive"
    path.write_bytes(hostile)
    with pytest.raises(UserError, match="refused and deleted") as told:
        unpack(source(hostile, most_files=30), path, folder)
    assert "\n" not in str(told.value)
    assert list(folder.iterdir()) == [] and list(folder.parent.iterdir()) == [folder]


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE])
def test_what_a_header_claims_is_not_even_tried_to_be_read(tmp_path: Path, kind: bytes) -> None:
    (tmp_path / "archive").write_bytes(claiming(10**12, kind))
    with pytest.raises(UserError, match="refused and deleted: a header that claims an absurd size"):
        unpack(source(b""), tmp_path / "archive", tmp_path)


def test_an_archive_is_kept_where_python_is_too_old_to_unpack_it_safely(
    archive: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "genres.tar.gz.partial").write_bytes(archive)
    monkeypatch.delattr(tarfile, "data_filter")
    with pytest.raises(UserError, match=r"^this Python cannot filter archives; use 3\.11\.4 or newer$"):
        get(source(archive), tmp_path)
    assert (tmp_path / "genres.tar.gz.partial").exists()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_archive_gives_all_of_it_or_nothing(
    archive: bytes, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    plain = bytearray(gzip.decompress(archive))
    if data.draw(st.booleans()):  # within the tar, where gzip's checksum does not help
        for place in data.draw(st.lists(st.integers(0, len(plain) // 512 - 1).map(lambda b: 512 * b), max_size=3)):
            plain[place + data.draw(st.integers(0, 511))] = data.draw(st.integers(0, 255))
        damaged = gzip.compress(bytes(plain), 0)
    else:
        damaged = archive[: data.draw(st.integers(0, len(archive) - 1))]
    (folder / "archive").write_bytes(damaged)
    try:
        unpack(source(damaged), folder / "archive", folder)
    except (UserError, OSError):
        assert not (folder / "genres").exists()
    assert not (folder / "genres.partial").exists() and {p.name for p in folder.iterdir()} <= {"archive", "genres"}
    shutil.rmtree(folder)


def test_the_command_ends_with_a_data_set_that_training_finds(
    mirror: Callable[..., Any], archive: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    monkeypatch.setattr(download, "configured", lambda: source(archive))
    done = command(download.main, str(tmp_path / "my" / "gtzan"), "--mirror", mirror(drops).address)
    assert f"10 tracks; train on them with dataset=gtzan dataset.root={tmp_path / 'my' / 'gtzan'}" in done.out
    assert done.code == 0 and "GTZAN is not complete" in done.out


@pytest.mark.parametrize(("root", "folder"), [("/data/gtzan", "/data/gtzan"), ("", "gtzan")])
def test_gtzan_goes_where_training_looks_for_it_unless_a_folder_is_named(
    root: str, folder: str, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    folders: list[Path] = []
    monkeypatch.setenv("GTZAN_ROOT", root)
    monkeypatch.setattr(download, "get", lambda _, folder: folders.append(folder))
    monkeypatch.setattr(download, "_print_summary", folders.append)
    assert command(download.main).code == 0 and folders == [Path(folder)] * 2


def test_an_interrupted_command_says_that_it_can_be_resumed(
    monkeypatch: pytest.MonkeyPatch, command: Command, tmp_path: Path
) -> None:
    monkeypatch.setattr(download, "get", mock.Mock(side_effect=KeyboardInterrupt))
    interrupted = command(download.main, str(tmp_path))
    assert (interrupted.code, interrupted.err) == (130, "interrupted; the same command resumes it\n")


@pytest.mark.parametrize("name", ["gtzan", "my music", "rock, jazz & Ann's"])
def test_the_setting_that_it_prints_can_be_pasted_whatever_the_folder(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gtzan, "gtzan", lambda root: Catalogue("gtzan", ()))
    download._print_summary(Path(name))
    (word,) = shlex.split(capsys.readouterr().out.partition("dataset=gtzan ")[2])
    override = OverridesParser.create().parse_override(word)
    assert (override.key_or_group, override.value()) == ("dataset.root", name)


def test_the_command_reports_in_one_line_that_nothing_can_be_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    monkeypatch.setattr(download, "configured", lambda: source(b"", attempts=1))
    addresses = ("http://127.0.0.1:9/none", "http://[", "no address", "file:///etc/passwd\n")
    for mistake in (*(["--mirror", address] for address in addresses), ["--mirrors"], ["--mirror"], ["another folder"]):
        assert command(download.main, str(tmp_path), *mistake).mistake


def test_an_address_with_a_password_is_refused_without_showing_it(tmp_path: Path, command: Command) -> None:
    mistake = command(download.main, str(tmp_path), "--mirror", "http://bob:secret@127.0.0.1:9/a.tar.gz").mistake
    assert mistake.startswith("error: --mirror http://127.0.0.1:9/a.tar.gz: must have no name and pass")


def test_the_configured_source_has_mirrors_a_checksum_and_limits() -> None:
    known = configured()
    assert all(address.startswith("http") for address in known.mirrors) and len(known.mirrors) == 2
    assert known.sha256 and len(bytes.fromhex(known.sha256)) == 32
    assert known.largest_archive + known.largest_content < 4e9 and known.most_files > 1000


def test_help_is_quick(quick_help: Callable[[str], str]) -> None:
    assert "GTZAN" in quick_help("genre_cls.download")
