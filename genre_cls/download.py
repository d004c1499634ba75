"""Download, check and unpack GTZAN: `python -m genre_cls.download [FOLDER]`, which resumes if interrupted.

The folder holds `genres.tar.gz.partial` during the download, `genres.partial/` while it is unpacked, and `genres/` once
it is complete. Neither the mirrors nor the archive are trusted.
"""

import logging
import os
import re
import shutil
import tarfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from gzip import GzipFile
from hashlib import file_digest
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from io import BufferedReader, RawIOBase
from itertools import cycle
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.error import HTTPError
from urllib.request import HTTPHandler, HTTPSHandler, Request, build_opener

import yaml

from genre_cls.configuration.arguments import OneLineParser, nonempty
from genre_cls.configuration.commands import AGAIN, as_command
from genre_cls.configuration.overrides import as_word, typed
from genre_cls.configuration.settings import CONF
from genre_cls.errors import UserError, in_one_line, system_reason, without_credentials
from genre_cls.files import disk_failure, expanduser, locked

log = logging.getLogger(__name__)

CHUNK = 1 << 18  # bytes read at once
PROGRESS = 1 << 20  # bytes that an attempt must add to count as progress
SLOWEST = 1000  # bytes per second, below which a connection has stalled
LONGEST_PAUSE = 60.0  # s
AT_ONCE = 1 << 20  # unpacked bytes in memory at once; a tar's headers may claim any size

SCHEMES = ("http://", "https://")
NO_ADDRESS = f"must begin with {' or '.join(SCHEMES)}"
HELP = "Run the command again, which resumes; --mirror ADDRESS takes the archive from elsewhere."


@dataclass(frozen=True)
class Source:
    """Where to download an archive from and what to accept: the values of `conf/download.yaml`.

    Args:
        mirrors: URLs, tried in turn.
        sha256: of the archive, hexadecimal.
        largest_archive: bytes.
        largest_content: bytes, unpacked.
        most_files: in the archive, folders included.
        timeout: for which a mirror may be silent, s.
        attempts: without progress in a row, after which the download is given up.
        pause: before the second attempt, then doubled, s.
    """

    mirrors: Sequence[str]
    sha256: str
    largest_archive: int
    largest_content: int
    most_files: int
    timeout: float
    attempts: int
    pause: float


def main() -> None:
    """Get GTZAN (1.2 GB) from a mirror and unpack it; the same command resumes an interrupted download."""
    with as_command(AGAIN):
        log.setLevel(logging.INFO)
        arguments = _parser().parse_args()
        source = configured()
        if arguments.mirror:
            source = replace(source, mirrors=tuple(map(_address, arguments.mirror)))
        folder = expanduser(arguments.folder)
        get(source, folder)
        _print_summary(folder)


def _parser() -> OneLineParser:
    parser = OneLineParser(prog="python -m genre_cls.download", description=main.__doc__)
    default = Path(os.environ.get("GTZAN_ROOT") or "gtzan")
    parser.add_argument("folder", type=nonempty, nargs="?", default=default, help="default: $GTZAN_ROOT, else ./gtzan")
    parser.add_argument(
        "--mirror", action="append", help="address to take the archive from instead of the usual ones; may be repeated"
    )
    return parser


def configured() -> Source:
    """Return the source that `conf/download.yaml` describes."""
    return Source(**yaml.safe_load((CONF / "download.yaml").read_bytes()))


def _address(text: str) -> str:
    if not text.startswith(SCHEMES):
        raise UserError(f"--mirror {text}: {NO_ADDRESS}")
    if text != (open_address := without_credentials(text)):
        raise UserError(f"--mirror {open_address}: must have no name and password before it, which are not sent")
    return text


def get(source: Source, folder: Path) -> None:
    """Download the archive and unpack it into a folder.

    Args:
        source: of the archive.
        folder: is made if it is missing; nothing is downloaded if it holds `genres/`.

    Raises:
        UserError: no mirror has the archive, the disk does not take it, or it is not what was expected.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / "download.lock", "the download"):
        if (folder / "genres").exists():
            return
        archive = folder / "genres.tar.gz.partial"
        try:
            fetch(source, archive)
            unpack(source, archive, folder)
            archive.unlink()
        except OSError as error:  # that of a full disk names no file
            raise UserError(disk_failure(folder, error)) from error


def _print_summary(folder: Path) -> None:
    from genre_cls.tracks.gtzan import gtzan

    catalogue = gtzan(str(folder))
    root = typed([as_word("dataset.root", str(folder))])
    print(f"{folder}: {len(catalogue.tracks)} tracks; train on them with dataset=gtzan {root}")
    for note in catalogue.notes:
        print(note)


class _Failed(Exception):
    """One attempt at one mirror failed; the message says why."""


def fetch(source: Source, archive: Path) -> None:
    """Download the whole archive, from as many mirrors as it takes.

    Args:
        source: of the archive.
        archive: its path; a file that exists is taken as the archive's beginning.

    Raises:
        UserError: several attempts in a row made no progress, or the disk has no room for it.
    """
    most, idle = _size(archive), 0
    for mirror in cycle(source.mirrors):
        try:
            if not _is_complete(source, archive):
                _transfer(source, mirror, archive)
                _verify(source, archive)
            return
        except _Failed as error:
            idle = 0 if _size(archive) >= most + PROGRESS else idle + 1
            most = max(most, _size(archive))
            reason = in_one_line(f"{mirror}: {error}")
            if idle >= source.attempts:
                raise UserError(f"{reason}; gave up after {idle} attempts that made no progress. {HELP}") from error
            pause = min(LONGEST_PAUSE, source.pause * 2**idle / 2)
            log.warning("%s; trying again in %.3g s", reason, pause)
            time.sleep(pause)


def _is_complete(source: Source, archive: Path) -> bool:
    """Whether there is nothing left to download, for example because an earlier command could not unpack it."""
    return archive.exists() and _digest(archive) == source.sha256


def _transfer(source: Source, mirror: str, archive: Path) -> None:
    """Append to the archive what a mirror sends."""
    asked = _size(archive)
    answer = _request(source, mirror, asked)
    if not answer:
        return
    with answer:
        start = _start(answer, asked)
        end = start + int(answer.length or 0)
        _check_size(source, end, start, archive)
        _write(source, answer, archive, start)
    if _size(archive) < end:
        raise _Failed(f"cut off after {_mb(_size(archive))} of {_mb(end)}")


def _request(source: Source, mirror: str, start: int) -> HTTPResponse | None:
    """Return a mirror's answer, from a byte of the archive on; None if the archive ends there."""
    if not mirror.startswith(SCHEMES):
        raise _Failed(NO_ADDRESS)
    headers = {"User-Agent": "genre_cls"} | ({"Range": f"bytes={start}-"} if start else {})
    with _network_failures():
        try:
            answer = build_opener(_OverHTTP, _OverHTTPS).open(Request(mirror, headers=headers), timeout=source.timeout)
        except HTTPError as error:
            if error.code == 416 and start:
                return None
            raise
    if not isinstance(answer, HTTPResponse):
        answer.close()
        raise _Failed("redirects to a non-HTTP address")
    return answer


def _write(source: Source, answer: HTTPResponse, archive: Path, start: int) -> None:
    """Write an answer to the archive, from a byte on; an archive that becomes too large is deleted."""
    with archive.open("ab" if start else "wb") as file:
        for chunk in _chunks(answer):
            file.write(chunk)
            if file.tell() > source.largest_archive:
                archive.unlink()
                raise _Failed(f"sends more than {_mb(source.largest_archive)}")


def _start(answer: HTTPResponse, asked: int) -> int:
    """Return where in the archive an answer begins: servers need not support ranges."""
    if answer.status != 206:
        return 0
    given = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range", ""))
    if not given or int(given[1]) != asked:
        raise _Failed("sends another range than was asked for")
    return asked


def _check_size(source: Source, size: int, start: int, archive: Path) -> None:
    if size > source.largest_archive:
        raise _Failed(f"offers {_mb(size)}, at most {_mb(source.largest_archive)} are expected")
    needed = size - start + source.largest_content
    free = shutil.disk_usage(archive.parent).free
    if free < needed:
        raise UserError(
            f"{archive.parent}: {_mb(free)} free, {_mb(needed)} needed for the rest of the archive and its content; "
            "make room or name another folder"
        )


def _chunks(answer: HTTPResponse) -> Iterator[bytes]:
    """Yield an answer's bytes as they arrive."""
    while True:
        with _network_failures():
            chunk = answer.read1(CHUNK)
        if not chunk:
            return
        yield chunk


class _Paced(RawIOBase):
    """A connection that fails if its bytes, headers included, come too slowly; its own timeout restarts with each."""

    def __init__(self, connection: RawIOBase, period: float) -> None:
        self._connection, self._period = connection, period
        self._since, self._received = time.monotonic(), 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        n_bytes: int | None = self._connection.readinto(buffer)
        self._received += n_bytes or 0
        if (passed := time.monotonic() - self._since) > self._period:
            if n_bytes and self._received < SLOWEST * passed:
                raise TimeoutError(f"stalled: {self._received} bytes in {passed:.0f} s")
            self._since, self._received = time.monotonic(), 0
        return n_bytes

    def close(self) -> None:
        self._connection.close()
        super().close()


class _Response(HTTPResponse):
    def __init__(self, sock: Any, *further: Any, **named: Any) -> None:
        super().__init__(sock, *further, **named)
        self.fp = BufferedReader(_Paced(self.fp.detach(), sock.gettimeout()))


class _HTTP(HTTPConnection):
    response_class = _Response


class _HTTPS(HTTPSConnection):
    response_class = _Response


class _OverHTTP(HTTPHandler):
    def http_open(self, req: Request) -> HTTPResponse:
        return self.do_open(_HTTP, req)


class _OverHTTPS(HTTPSHandler):
    def https_open(self, req: Request) -> HTTPResponse:
        return self.do_open(_HTTPS, req)


@contextmanager
def _network_failures() -> Iterator[None]:
    """Raise network failures as `_Failed`, because the disk's are OSErrors too."""
    try:
        yield
    except (OSError, HTTPException, ValueError) as error:  # ValueError: not a URL
        reason = system_reason(error) if isinstance(error, OSError) else str(error)
        raise _Failed(reason or type(error).__name__) from error


def _verify(source: Source, archive: Path) -> None:
    """Verify the archive's checksum; a different file is deleted, because no download can continue from it."""
    if (digest := _digest(archive)) != source.sha256:
        archive.unlink()
        raise _Failed(f"another file than expected: sha256 {digest}, must be {source.sha256}")


def _digest(archive: Path) -> str:
    with archive.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def unpack(source: Source, archive: Path, folder: Path) -> None:
    """Unpack the archive's `genres/` into a folder, completely or not at all.

    Args:
        source: with the limits.
        archive: a gzipped tar; one that is refused is deleted.
        folder: gets `genres/`.

    Raises:
        UserError: it is damaged, or holds anything but files and folders below `genres/` within the limits.
    """
    partial = folder / "genres.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        _extract(source, archive, partial)
        (partial / "genres").rename(folder / "genres")
    except Exception as error:  # parsers raise anything on damaged data
        if isinstance(error, UserError) or getattr(error, "errno", None):
            raise  # the disk's failure, not the archive's
        archive.unlink()
        raise UserError(f"{archive}: refused and deleted: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


class _Refused(Exception):
    """The archive holds what it must not; the message says what."""


def _extract(source: Source, archive: Path, folder: Path) -> None:
    if not hasattr(tarfile, "data_filter"):
        raise UserError("this Python cannot filter archives; use 3.11.4 or newer")
    total = 0
    with _Bounded(archive, source) as content, tarfile.open(fileobj=content) as tar:
        for files, member in enumerate(tar, 1):
            total += member.size
            _check_member(member)
            if files > source.most_files or total > source.largest_content:
                raise _Refused(f"more than {source.most_files} files or {_mb(source.largest_content)}")
            tar.extract(member, folder, set_attrs=False, filter="data")
        while content.read(AT_ONCE):  # to the end, where gzip has its checksum
            pass
    if not (folder / "genres").is_dir():
        raise _Refused("has no folder genres")


def _check_member(member: tarfile.TarInfo) -> None:
    path = PurePosixPath(member.name)
    if not (member.isreg() or member.isdir()) or member.issparse():
        raise _Refused(f"{member.name!r} is a link or a device, where only files and folders are expected")
    if path.parts[:1] != ("genres",) or ".." in path.parts:
        raise _Refused(f"{member.name!r} does not lie below genres/")


class _Bounded(GzipFile):
    """An archive's unpacked bytes, limited in all and at once, whatever a header claims."""

    def __init__(self, path: Path, source: Source) -> None:
        super().__init__(path, "rb")
        # A tar adds a header and padding to each file, some of them long.
        self._limit = source.largest_content + 4096 * source.most_files

    def read(self, size: int | None = -1) -> bytes:
        """Return the next bytes."""
        if size is None or not 0 <= size <= AT_ONCE:
            raise _Refused("a header that claims an absurd size")
        if self.tell() > self._limit:
            raise _Refused(f"more than {_mb(self._limit)}")
        return super().read(size)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _mb(size: float) -> str:
    return f"{size / 1e6:,.1f} MB"


if __name__ == "__main__":
    main()
