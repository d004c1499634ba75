"""Digests of files, valid while these are as they were when recorded."""

import json
import os
from hashlib import file_digest
from pathlib import Path
from typing import NamedTuple

from xxhash import xxh3_128

from genre_cls.files import locked, write_atomically

CHANGED = "changed while it was read; the next start reads it again"
DIGEST = xxh3_128  # fast; a cryptographic one would only tell files that are made to be taken for others
FILE = "ledger_xxh3.json"  # named after it: beside other digests, files of equal bytes would seem to differ
EXTRACTED = "extracted"  # in the ledger, instead of an entry's digest: only that it is unchanged since matters


class _Line(NamedTuple):
    """What is recorded of a file: its size, bytes, the time of its last change, ns since 1970, and its digest."""

    size: int
    time: int
    digest: str

    @property
    def stamp(self) -> tuple[int, int]:
        return self.size, self.time


class Ledger:
    """Digests of files by path, valid while a file's size and the time of its last change are those recorded.

    It saves reading every file at every start. A cache entry that something else wrote, truncated or overwrote no
    longer matches its line, so it is extracted again.

    Args:
        path: of the ledger.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._own = f"{path.parent.absolute()}{os.sep}"
        self._lines: dict[str, _Line] = {}
        self._new: dict[str, _Line] = {}
        self.load()

    def load(self) -> None:
        """Read what other processes have saved; treat a damaged ledger as empty."""
        try:
            saved = json.loads(self._path.read_text())
            lines = {path: _Line(size, time, str(digest)) for path, (size, time, digest) in saved.items()}
            self._lines = lines | self._new
        except (OSError, ValueError, TypeError, AttributeError):  # no file, no JSON, or JSON of another structure
            self._lines = dict(self._new)

    def digest(self, path: Path) -> str | None:
        """Return a file's recorded digest, or None if there is none or the file has changed since."""
        line = self._lines.get(self._key(path))
        try:
            return line.digest if line and line.stamp == _stamp(path, is_ours=line.digest == EXTRACTED) else None
        except OSError:
            return None

    def read(self, path: Path) -> str:
        """Return the digest of a file's bytes, and record it.

        Raises:
            OSError: the file cannot be read, or changes meanwhile.
        """
        before, digest = _stamp(path), _file_digest(path)
        if _stamp(path) != before:
            raise OSError(CHANGED)
        self.record(path, digest)
        return digest

    def record(self, path: Path, digest: str) -> None:
        """Record a file's digest with its present size and time of change."""
        key = self._key(path)
        self._lines[key] = self._new[key] = _Line(*_stamp(path, is_ours=digest == EXTRACTED), digest)

    def _key(self, path: Path) -> str:
        """A file's absolute path; below the ledger's own folder the relative one, so that the cache may be moved."""
        return str(path.absolute()).removeprefix(self._own)

    def save(self) -> None:
        """Merge the new lines into the ledger's file; in a read-only folder they are found anew each time."""
        if not self._new or not os.access(self._path.parent, os.W_OK):
            return
        with locked(self._path.with_suffix(".lock"), str(self._path)):
            self.load()
            write_atomically(self._path, json.dumps(self._lines).encode(), durable=False)
        self._new.clear()


def _stamp(path: Path, *, is_ours: bool = False) -> tuple[int, int]:
    """A file's size, bytes, and the time of its last change, ns since 1970.

    Of a track it is the ctime, which also tells that it was exchanged for another file with the same mtime; of the
    cache's own files the mtime, so that the cache may be moved or copied.
    """
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns if is_ours else stat.st_ctime_ns


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, DIGEST).hexdigest()
