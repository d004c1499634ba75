"""Cache the features of whole tracks on disk, extracting those that are missing.

Below the cache's folder: `features/<key of spec and code>/<digest of the file's bytes>.npy` and the ledger of digests.
"""

import inspect
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import astuple, dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from threading import BoundedSemaphore
from time import monotonic
from typing import Any, TypeVar

import numpy as np
import soundfile
import soxr
import torch
from numpy.typing import NDArray

from genre_cls.errors import UserError, system_reason
from genre_cls.files import expanduser, locked, write_atomically
from genre_cls.processes.threads import in_threads, one_thread
from genre_cls.progress import progress_bar
from genre_cls.tracks import audio, features, ledger
from genre_cls.tracks.audio import UnreadableAudio
from genre_cls.tracks.catalogue import Track
from genre_cls.tracks.features import FeatureSpec
from genre_cls.tracks.ledger import CHANGED, DIGEST, EXTRACTED, Ledger

TOO_MANY = "as the system limits how many files a process maps; sudo sysctl vm.max_map_count=1000000 allows more"
LONG = 600.0  # s; a longer clip takes up to 1.5 GB an hour while its features are extracted
LONG_ONES = BoundedSemaphore(2)  # held by what extracts one, so that many cores do not fill a small memory
SMALL = 4_000_000  # bytes; files up to that size are not opened to see how long they are
SAVE_EVERY = 10.0  # s between two saves of the ledger: the most work that a kill during extraction loses
# As it was when this process began; edits made meanwhile do not change what is running.
CODE = inspect.getsource(audio) + inspect.getsource(features)

Matrix = NDArray[np.float16]
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Unreadable:
    """A track that could not be read, and the reason."""

    track: Track
    reason: str


@dataclass(frozen=True, eq=False)
class Features:
    """The features of a catalogue's readable tracks, in its order.

    Args:
        spec: which features.
        tracks: the tracks that could be read.
        clips: per track a memory-mapped matrix `(n_bins, n_frames)`, float16.
        unreadable: the tracks that could not be read.
        digest: of the readable tracks' ids, genres and bytes; the same on every machine.
        entries: the cache's files that the clips map, if they do; these are pickled instead of the clips.
    """

    spec: FeatureSpec
    tracks: tuple[Track, ...]
    clips: tuple[Matrix, ...]
    unreadable: tuple[Unreadable, ...]
    digest: str
    entries: tuple[Path, ...] = ()

    @property
    def longest(self) -> float:
        """Length of the longest clip, s."""
        return max(clip.shape[1] for clip in self.clips) * self.spec.seconds_per_frame

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | ({"clips": ()} if self.entries else {})

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self.entries:
            self.__dict__["clips"] = tuple(map(_map, self.entries))


class FeatureCache:
    """The cache of features; several processes may use it at once.

    Args:
        cache_dir: folder that holds it, made if it is missing.
    """

    def __init__(self, cache_dir: str | Path) -> None:
        self.root = expanduser(cache_dir).resolve() / "features"
        self.root.mkdir(parents=True, exist_ok=True)

    @cached_property
    def _ledger(self) -> Ledger:
        return Ledger(self.root / ledger.FILE)

    def load(self, tracks: Sequence[Track], specs: Sequence[FeatureSpec]) -> list[Features]:
        """Return the features of all tracks for each spec, extracting what is missing in one pass.

        A track is decoded once for all specs of one sample rate, and its STFT computed once for all that share it.

        Args:
            tracks: to read.
            specs: to compute.

        Returns:
            `Features` for each spec, in the specs' order; tracks in their order.

        Raises:
            UserError: the disk is full, or the system maps no more files.
            OSError: the cache's folder is read-only, where something is missing.
        """
        digests, reasons = self._digests(tracks)
        if self._missing(digests, specs):
            with locked(self.root / "extract.lock", "features"):
                self._ledger.load()  # another process may have filled the cache while this one waited
                failed = self._extract(self._missing(digests, specs))
            reasons |= {track: failed[digest] for track, digest in digests.items() if digest in failed}
        readable = {track: digest for track, digest in digests.items() if track not in reasons}
        unreadable = tuple(Unreadable(track, reasons[track]) for track in tracks if track in reasons)
        lines = (f"{track.id} {track.genre} {digest}\n" for track, digest in readable.items())
        identity = _digest(line.encode(errors="surrogatepass") for line in lines)  # names need not be valid UTF-8
        entries = [tuple(self.entry(spec, digest) for digest in readable.values()) for spec in specs]
        return [
            Features(spec, tuple(readable), tuple(map(_map, paths)), unreadable, identity, paths)
            for spec, paths in zip(specs, entries, strict=True)
        ]

    def entry(self, spec: FeatureSpec, digest: str) -> Path:
        """Return the path of the cached features of a file whose bytes have this digest."""
        return self.root.joinpath(spec_key(spec), f"{digest}.npy")

    def size(self) -> int:
        """Return the cached features' size on disk, bytes."""
        return sum(path.stat().st_size for path in self.root.rglob("*.npy"))

    def _digests(self, tracks: Sequence[Track]) -> tuple[dict[Track, str], dict[Track, str]]:
        """The digest of each file's bytes, and the reason for each file that cannot be opened."""
        known = {track: self._ledger.digest(track.path) for track in tracks}
        unknown = [track for track, digest in known.items() if not digest]
        faults = {}
        for track, digest in _each(self._read, unknown, "Reading the files"):
            if isinstance(digest, OSError):
                faults[track] = system_reason(digest)
            else:
                known[track] = digest
        self._ledger.save()
        return {track: digest for track, digest in known.items() if digest}, faults

    def _read(self, track: Track) -> str | OSError:
        """The digest of a file's bytes; or the error, so that the other files are still read."""
        try:
            return self._ledger.read(track.path)
        except OSError as error:
            return error

    def _missing(self, digests: dict[Track, str], specs: Sequence[FeatureSpec]) -> list["_Extraction"]:
        """One job per content with missing entries: files of equal bytes share entries, which only one may write."""
        paths = {digest: track.path for track, digest in digests.items()}
        jobs = (_Extraction(digest, path, self._lacking(digest, specs)) for digest, path in paths.items())
        return [job for job in jobs if job.wanted]

    def _lacking(self, digest: str, specs: Sequence[FeatureSpec]) -> tuple[tuple[FeatureSpec, Path], ...]:
        """The entries of a content that are missing or not as they were written, each with its spec."""
        entries = ((spec, self.entry(spec, digest)) for spec in specs)
        return tuple((spec, entry) for spec, entry in entries if not self._ledger.digest(entry))

    def _extract(self, jobs: Sequence["_Extraction"]) -> dict[str, str]:
        """Fill the cache, and return the digests of the files that could not be read, each with the reason."""
        faults, saved = {}, monotonic()
        for job, reason in _each(_fill, jobs, "Extracting features"):
            if not reason and self._ledger.digest(job.path) != job.digest:
                reason = CHANGED  # its features may not belong to this digest, so they are not recorded
            if reason:
                faults[job.digest] = reason
            else:
                for _, entry in job.wanted:
                    self._ledger.record(entry, EXTRACTED)
            if monotonic() - saved > SAVE_EVERY:
                self._ledger.save()
                saved = monotonic()
        self._ledger.save()
        return faults


@cache
def spec_key(spec: FeatureSpec) -> str:
    """Return the name of a spec's folder, which changes with the spec's values, the code and its libraries."""
    kind, *numbers = astuple(spec if spec.kind == "mfcc" else replace(spec, n_mfcc=1))
    values = json.dumps([kind, *map(float, numbers)])  # 11025 and 11025.0 give one key
    libraries = torch.__version__.partition("+")[0], soxr.__version__, soundfile.__libsndfile_version__
    return f"{kind}-{_digest([values.encode(), CODE.encode(), ' '.join(libraries).encode()])}"


@dataclass(frozen=True)
class _Extraction:
    """What to extract: the digest of a content, a file that has it, and its missing entries."""

    digest: str
    path: Path
    wanted: tuple[tuple[FeatureSpec, Path], ...]


def _fill(job: _Extraction) -> str | None:
    """Extract and write the missing entries of one file; return the reason if it cannot be read."""
    try:
        with LONG_ONES if _is_long(job.path) else nullcontext():
            for rate in {spec.sample_rate for spec, _ in job.wanted}:
                _fill_at(rate, job)
    except UnreadableAudio as error:
        return str(error)
    return None


def _is_long(path: Path) -> bool:
    try:
        return path.stat().st_size > SMALL and audio.header(path).seconds > LONG
    except OSError:
        return False  # which decoding reports


def _fill_at(sample_rate: int, job: _Extraction) -> None:
    waveform = audio.decode(job.path, sample_rate)
    if reason := audio.no_music(waveform, sample_rate):
        raise audio.refusal(job.path, reason)
    pairs = [(spec, entry) for spec, entry in job.wanted if spec.sample_rate == sample_rate]
    matrices = features.extract(waveform, [spec for spec, _ in pairs])
    for (_, entry), matrix in zip(pairs, matrices, strict=True):
        _write(entry, matrix)


def _write(entry: Path, matrix: Matrix) -> None:
    entry.parent.mkdir(exist_ok=True)
    content = io.BytesIO()  # since numpy does not say that a disk is full
    np.save(content, matrix)
    write_atomically(entry, content.getbuffer(), durable=False)


def _map(entry: Path) -> Matrix:
    with entry.open("rb") as file:
        n_bins, n_frames, start = _layout(file.read(128))
    # Not np.memmap, which keeps a file open for each track: many systems allow 1024, macOS 256.
    # Copy-on-write (shared=False): torch warns about read-only memory, and writes cannot reach the file.
    try:
        values = torch.from_file(str(entry), shared=False, size=start + n_bins * n_frames, dtype=torch.float16)
    except RuntimeError as error:
        if "mmap" not in str(error):
            raise
        raise UserError(f"{entry}: {str(error).partition(':')[0]} {TOO_MANY}") from error
    return values[start:].view(n_bins, n_frames).numpy()


@cache  # parsing a header takes as long as the rest of mapping a file, and most headers are equal
def _layout(head: bytes) -> tuple[int, int, int]:
    """Shape of the matrix in a .npy file with this header, and the offset of its values, in float16 values."""
    file = io.BytesIO(head)
    np.lib.format.read_magic(file)
    (n_bins, n_frames), _, _ = np.lib.format.read_array_header_1_0(file)
    return n_bins, n_frames, file.tell() // 2


def _each(function: Callable[[Item], Result], items: Sequence[Item], description: str) -> Iterator[tuple[Item, Result]]:
    """Yield each item with the function's result, in order, under a progress bar.

    There are as many threads as cores, and PyTorch computes on one in each.
    """
    if items:
        with one_thread():
            results = progress_bar(in_threads(function, items), description, total=len(items))
            yield from zip(items, results, strict=True)


def _digest(parts: Iterable[bytes]) -> str:
    return DIGEST(b"".join(parts)).hexdigest()
