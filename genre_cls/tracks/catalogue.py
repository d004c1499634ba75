"""List a dataset's tracks: the loaders of `conf/dataset/`, each returning a `Catalogue`."""

import csv
import inspect
import os
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from hashlib import blake2b
from importlib.resources import files
from io import BytesIO
from itertools import chain, filterfalse, groupby, pairwise
from pathlib import Path
from posixpath import normpath
from typing import Any
from unicodedata import normalize  # file names have letters in pieces on macOS

import numpy as np
import soundfile
from joblib import cpu_count

from genre_cls.errors import UserError
from genre_cls.files import expanduser, locked, write_atomically
from genre_cls.processes import workers
from genre_cls.progress import progress_bar
from genre_cls.tracks import synthesiser
from genre_cls.tracks.listing import EXTENSIONS, audio_files, conversion, other_files

SYNTHESISER = inspect.getsource(synthesiser)  # as it was when this process began
GTZAN_GENRES = synthesiser.GENRES  # the demo set has the same
GTZAN_TRACKS_PER_GENRE = 100
GTZAN_FOLDERS = (".", "genres", "genres_original", "Data/genres_original", "Data/genres")
NOBODY = ("unknown", "unknown artist", "various", "various artists", "nan", "none", "n/a", "?", "-")  # no artist's name
KEPT, EXCLUDED = ("", "0", "0.0"), ("1", "1.0")  # values of `exclude`; pandas writes integers beside gaps as floats
GTZAN_HELP = (
    "GTZAN's audio is not freely licensed, so it does not come with genre_cls. scripts/download_gtzan.sh FOLDER gets "
    'it from a mirror (1.2 GB); or get it by hand (on Kaggle "GTZAN Dataset - Music Genre Classification"), unpack it '
    "and say where: dataset.root=/path/to/it or the environment variable GTZAN_ROOT. "
    "dataset=demo needs no download at all."
)


@dataclass(frozen=True)
class Track:
    """One music file.

    Args:
        id: unique in its catalogue and the same on every machine.
        path: of the audio.
        genre: its label.
        artist: its artists as credited, if known.
        repeats: id of another track that is the same recording, if any.
        fault: its known fault, if any.
        part: `train`, `valid` or `test`, where a split of the dataset is published.
    """

    id: str
    path: Path
    genre: str
    artist: str | None = None
    repeats: str | None = None
    fault: str | None = None
    part: str | None = None


@dataclass(frozen=True)
class Catalogue:
    """A dataset's tracks and notes about them for the user.

    Args:
        name: of the dataset.
        tracks: in any order; they are sorted by id.
        synthetic: whether the audio is generated.
        notes: sentences to report.

    Raises:
        UserError: two tracks have one id, or what is known of a track is of another type, or no valid UTF-8, which no
            file of results could hold.
    """

    name: str
    tracks: tuple[Track, ...]
    synthetic: bool = False
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        tracks = tuple(self.tracks)
        if odd := next(filterfalse(_is_typed, tracks), None):
            raise UserError(f"dataset: {odd} needs id and genre, both str, and path, a Path; artist is str or None")
        tracks = tuple(sorted(tracks, key=lambda track: track.id))
        for one, other in pairwise(tracks):
            if one.id == other.id:
                raise UserError(f"dataset: two tracks have the id {one.id}; give each its own")
        if invalid := [t.path for t in tracks if not _is_utf8(f"{t.id} {t.genre} {t.path.absolute()}")]:
            others = f" (and {len(invalid) - 1} more)" if len(invalid) > 1 else ""
            raise UserError(
                f"{invalid[0]}: its name is not valid UTF-8{others}; rename the file or its folder (convmv does)"
            )
        object.__setattr__(self, "tracks", tracks)

    @cached_property
    def genres(self) -> tuple[str, ...]:
        """Names of the genres in alphabetical order, which is that of every matrix and of all probabilities."""
        return tuple(sorted({track.genre for track in self.tracks}))

    def with_shuffled_genres(self, seed: int) -> "Catalogue":
        """Return a copy with genres permuted among the tracks, where an interval above chance hints at a leak.

        Args:
            seed: of the permutation.
        """
        genres = np.random.default_rng(seed).permutation([track.genre for track in self.tracks]).tolist()
        tracks = tuple(replace(track, genre=genre) for track, genre in zip(self.tracks, genres, strict=True))
        note = "Genres are permuted among the tracks (shuffle_genres=true): accuracy should be at chance."
        return replace(self, tracks=tracks, notes=(*self.notes, note))

    def without_faults(self) -> "Catalogue":
        """Return a copy without the tracks that have known faults."""
        faultless = tuple(track for track in self.tracks if not track.fault)
        note = f"{len(self.tracks) - len(faultless)} tracks with known faults are left out (drop_faults=true)."
        return replace(self, tracks=faultless, notes=(*self.notes, note))


def gtzan(root: str | None) -> Catalogue:
    """Find GTZAN in any of the folder layouts in which it is distributed.

    Artists and exact repetitions are from Sturm's index (The GTZAN dataset: its contents, its faults, their effects on
    evaluation, and its future use, arXiv:1306.1461, 2013), in which the artists of 81 tracks are unknown. The tracks
    that the fault-filtered split leaves out (Kereliuk, Sturm & Larsen, IEEE Trans. Multimedia 17, 2015) are faulty.

    Args:
        root: folder that holds the genre folders, or one or two levels above them.

    Raises:
        UserError: no root, no such folder, a genre without audio, or another file with a track's number.
    """
    if not root:
        raise UserError(f"neither dataset.root nor GTZAN_ROOT is set. {GTZAN_HELP}")
    places = [_gtzan_genre_folders(expanduser(root) / name) for name in GTZAN_FOLDERS]
    if folders := max(places, key=lambda folders: (sum(map(len, folders.values())), len(folders))):
        return _gtzan_from(folders, Path(root))
    source = " (from GTZAN_ROOT)" if root == os.environ.get("GTZAN_ROOT") else ""
    raise UserError(f"dataset.root={root}{source}: {_no_gtzan(expanduser(root))}")


def _no_gtzan(base: Path) -> str:
    """Say why there is no GTZAN at a path, and what to do."""
    if not base.is_dir():
        return f"no such folder. {GTZAN_HELP}"
    problem = "has no folder named after a GTZAN genre"
    if any(entry.suffix.lower() in EXTENSIONS for entry in base.iterdir()):
        sort = "sort them into folders called blues, classical and so on (dataset=folder takes other music)"
        return f"{problem}, but audio files; {sort}"
    return f"{problem}. {GTZAN_HELP}"


def _gtzan_genre_folders(place: Path) -> dict[Path, list[Path]]:
    """The folders of GTZAN's genres at a place, each with its audio files."""
    if not place.is_dir():
        return {}
    folders = [entry for entry in sorted(place.iterdir()) if entry.is_dir() and not entry.name.startswith(".")]
    return {entry: audio_files(entry) for entry in folders if _plain(entry.name) in GTZAN_GENRES}


def _plain(name: str) -> str:
    """A genre's folder or track in one spelling: "hip-hop", "Hip Hop", "hip.hop"."""
    return re.sub("[-_. ]", "", name.lower())


def _gtzan_from(folders: dict[Path, list[Path]], root: Path) -> Catalogue:
    tracks = _gtzan_tracks(folders)
    counts = Counter(track.genre for track in tracks)
    if empty := [genre for genre in GTZAN_GENRES if not counts[genre]]:
        raise UserError(f"dataset.root={root}: no audio for {', '.join(empty)}; 100 tracks each expected. {GTZAN_HELP}")
    return Catalogue("gtzan", tuple(tracks), notes=tuple(_gtzan_notes(tracks, counts)))


def _gtzan_tracks(folders: dict[Path, list[Path]]) -> list[Track]:
    """The tracks in the genres' folders, each once."""
    tracks: dict[str, Track] = {}
    used: dict[str, Path] = {}
    for folder, paths in folders.items():
        if paths and (other := used.setdefault(genre := _plain(folder.name), folder)) != folder:
            raise UserError(f"{folder}: {other.name} beside it is the same genre; merge them, or move one away")
        for path in paths:
            track = _gtzan_track(path, genre)
            same = tracks.get(track.id, track)
            if _plain(same.path.stem) != _plain(path.stem):
                raise UserError(f"{path}: has the number of {same.path.name}; move one of them away")
            if track is same or path.suffix.lower() == ".wav":  # of .au and .wav, the latter
                tracks[track.id] = track
    return list(tracks.values())


def _gtzan_notes(tracks: Sequence[Track], counts: Mapping[str, int]) -> Iterator[str]:
    if short := [f"{genre} {counts[genre]}" for genre in GTZAN_GENRES if counts[genre] != GTZAN_TRACKS_PER_GENRE]:
        yield f"GTZAN is not complete: {len(tracks)} of 1000 tracks; 100 a genre expected, found {', '.join(short)}."
    if others := [track.path for track in tracks if track.id not in gtzan_facts()]:
        yield f"Not named like tracks of GTZAN, so nothing is known of them: {len(others)}, such as {others[0]}."


def _gtzan_track(path: Path, genre: str) -> Track:
    """The track that a file's name tells: "hip-hop.00042", "hiphop_00042" and "42" are one in a folder of hip-hop."""
    number = path.stem[len(path.stem.rstrip("0123456789")) :]
    of = _plain(path.stem.removesuffix(number))
    if number and of in GTZAN_GENRES and of != genre:
        raise UserError(f"{path}: is a track of {of} by its name; move it there, or name it otherwise")
    track = f"{genre}.{int(number):05}" if number and of in ("", genre) else f"{genre}.{path.stem}"
    known = gtzan_facts().get(track, {})
    return Track(track, path, genre, **{key: known.get(key) or None for key in ("artist", "repeats", "fault", "part")})


@cache
def gtzan_facts() -> dict[str, dict[str, str]]:
    """Return the line of gtzan.csv for each track, by id."""
    lines = files("genre_cls.tracks").joinpath("gtzan.csv").read_text("utf-8").splitlines()
    return {row["track"]: row for row in csv.DictReader(lines)}


def folder(root: str | None) -> Catalogue:
    """List any tree `root/<genre>/*.{wav,flac,mp3,…}`; deeper levels belong to the genre above them.

    Args:
        root: folder that holds one folder per genre and, if artists are to be kept apart, a `metadata.csv` with the
            columns `path` (below the folder), `artist` and, for tracks to leave out, `exclude` (1; others 0 or
            empty).

    Raises:
        UserError: no root, no such folder, fewer than two genres with audio, or an invalid metadata.csv.
    """
    base = _folder_root(root)
    entries = sorted(entry for entry in base.iterdir() if not entry.name.startswith("."))
    folders = [(normalize("NFC", entry.name), entry) for entry in entries if entry.is_dir()]
    every = [
        Track(path.relative_to(base).as_posix(), path, genre) for genre, place in folders for path in audio_files(place)
    ]
    facts, names = _metadata(base / "metadata.csv"), [normalize("NFC", track.id) for track in every]
    tracks = _with_metadata(every, [facts.get(name, {}) for name in names])
    genres, n_excluded = {track.genre for track in tracks}, len(every) - len(tracks)
    if len(genres) < 2:
        excluded = f"; {base / 'metadata.csv'} excludes {n_excluded}" if n_excluded else ""
        raise UserError(f"dataset.root={root}: {_too_few_genres(base, genres)}{excluded}")
    unmatched = sorted(facts.keys() - set(names))
    if len(unmatched) == len(facts) and any(fact["artist"] for fact in facts.values()):
        raise UserError(f"{base / 'metadata.csv'}: {_unmatched(unmatched)}")
    empty = [genre for genre, _ in folders if genre not in genres]
    notes = _notes_on_files(base, entries, empty), _notes_on_metadata(n_excluded, unmatched), _look_alike(genres)
    return Catalogue(base.resolve().name, tuple(tracks), notes=tuple(chain(*notes)))


def _folder_root(root: str | None) -> Path:
    if not root:
        raise UserError("dataset.root is not set: dataset=folder needs dataset.root=FOLDER with one folder per genre")
    base = expanduser(root)
    if not base.is_dir():
        raise UserError(f"dataset.root={root}: no such folder; it must hold one folder of audio files per genre")
    return base


def _with_metadata(tracks: Sequence[Track], facts: Sequence[Mapping[str, str]]) -> list[Track]:
    """Add artists to tracks, and leave out those that metadata.csv excludes."""
    known = zip(tracks, facts, strict=True)
    return [
        replace(track, artist=fact.get("artist") or None) for track, fact in known if fact.get("exclude", "") in KEPT
    ]


def _too_few_genres(base: Path, genres: Collection[str]) -> str:
    """Say that there are not two genres below a folder, and what else is there."""
    found = f"only 1 genre folder with audio, {next(iter(genres))}" if genres else "no genre folder with audio"
    text = f"{found} ({', '.join(EXTENSIONS)}); at least two are needed"
    if unread := other_files(base):
        such = f"{unread[0].relative_to(base)}{conversion(unread[0])}"
        text += f"; files in unreadable formats: {len(unread)}, such as {such}"
    return text


def _notes_on_files(base: Path, entries: Sequence[Path], empty: Sequence[str]) -> Iterator[str]:
    """Yield notes on what is ignored: broken links, genres without tracks, files in no genre's folder or unreadable."""
    if lost := [entry for entry in entries if entry.is_symlink() and not entry.exists()]:
        links = ", ".join(f"{link.name} (to {link.readlink()})" for link in lost)
        yield f"Links to what is not there, ignored: {links}."
    if empty:
        yield f"Folders without tracks, ignored: {', '.join(empty)}."
    if loose := [entry.name for entry in entries if entry.suffix.lower() in EXTENSIONS and entry.is_file()]:
        yield f"Files outside of the genres' folders, ignored: {len(loose)}, such as {loose[0]}."
    if unread := other_files(base):
        such = f"{unread[0].name}{conversion(unread[0])}"
        yield f"Files in unreadable formats, ignored: {len(unread)}, such as {such}."


def _notes_on_metadata(n_excluded: int, unmatched: Sequence[str]) -> Iterator[str]:
    if n_excluded:
        yield f"{n_excluded} track{'s are' if n_excluded > 1 else ' is'} excluded by metadata.csv."
    if unmatched:
        yield f"metadata.csv: {_unmatched(unmatched)}."


def _look_alike(genres: Collection[str]) -> Iterator[str]:
    """Yield a note on genres whose names differ in case, spaces, hyphens, underscores or dots alone."""
    for _, group in groupby(sorted(genres, key=_plain), key=_plain):
        if len(names := list(group)) > 1:
            yield f"{' and '.join(names)} are {len(names)} genres; if they are one, put their tracks into one folder."


def _unmatched(paths: Sequence[str]) -> str:
    paths_match = f"{len(paths)} paths match no track (such as " if len(paths) > 1 else "1 path matches no track ("
    return f"{paths_match}{paths[0]!r}); write paths like rock/a.wav"


def _metadata(path: Path) -> dict[str, dict[str, str]]:
    """Artist and exclusion by a metadata.csv's paths, "" where a cell is empty; {} if there is no such file."""
    if not path.exists() and not path.is_symlink():
        return {}
    facts: dict[str, dict[str, str]] = {}
    for row in _rows(path):
        track = normpath(normalize("NFC", row["path"]))  # without ./
        fact = {name: (row.get(name) or "").strip() for name in ("artist", "exclude")}
        if fact["artist"].lower() in NOBODY:
            fact["artist"] = ""
        if facts.setdefault(track, fact) != fact:
            raise UserError(f"{path}: {track} is listed twice with different facts; keep one")
        if fact["exclude"] not in (*KEPT, *EXCLUDED):
            raise UserError(f"{path}: exclude={fact['exclude']} of {track}: must be 1, 0 or empty")
    return facts


def _rows(path: Path) -> list[dict[str, str]]:
    """The lines of a metadata.csv that name a path, by its columns' names in lower case."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            head = file.readline()
            file.seek(0)
            delimiter = ";" if ";" in head and "," not in head else ","  # Excel's in some countries
            reader = csv.DictReader(file, delimiter=delimiter, strict=True)
            reader.fieldnames = [name.strip().lower() for name in reader.fieldnames or ()]
            if "path" not in reader.fieldnames or not {"artist", "exclude"}.intersection(reader.fieldnames):
                raise csv.Error(f"its columns are {', '.join(reader.fieldnames)}")
            if twice := [name for name in ("path", "artist", "exclude") if reader.fieldnames.count(name) > 1]:
                raise csv.Error(f"it has several columns {twice[0]}")
            rows = _strictly_read(reader)
            if any(any(row.get(None, ())) for row in rows):  # type: ignore[call-overload]  # more cells than columns
                raise csv.Error(f"a name with a {'comma' if delimiter == ',' else 'semicolon'} needs quotes around it")
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: must be UTF-8 CSV with a column path, and artist or exclude ({error})") from error
    return [row for row in rows if row["path"]]


def _strictly_read(reader: "csv.DictReader[str]") -> list[dict[str, str]]:
    try:
        return list(reader)
    except csv.Error as error:  # such as a quote that is opened and not closed
        raise csv.Error(f"line {reader.line_num}: {error}; a quote within quotes is written twice") from error


def demo(
    *, cache_dir: str, tracks_per_genre: int, seconds: float, sample_rate: int, crossover: float, seed: int
) -> Catalogue:
    """Synthesise the demo set on first use, once per machine, and list it.

    Args:
        cache_dir: where the audio is kept; a folder is made there for each set of arguments.
        tracks_per_genre: tracks of each of the ten genres.
        seconds: length of a track, s.
        sample_rate: of the files, Hz.
        crossover: probability that an ingredient comes from a neighbouring genre, 0 to 1.
        seed: of all random choices.
    """
    plan = synthesiser.plan(tracks_per_genre=tracks_per_genre, seed=seed)
    recipe = {"seconds": float(seconds), "sample_rate": sample_rate, "crossover": float(crossover)}
    # A change to the synthesiser makes a new set, never a mixture of old and new.
    key = blake2b((SYNTHESISER + repr(recipe)).encode(), digest_size=6).hexdigest()
    base = expanduser(cache_dir) / "demo" / key
    tracks = [Track(t.id, base / f"{t.id}.{t.seed}.wav", t.genre, t.artist) for t in plan]
    base.mkdir(parents=True, exist_ok=True)
    if not all(track.path.exists() for track in tracks):  # what is complete may be read-only
        with locked(base / ".lock", "demo set"):
            todo = [(d, t.path, recipe) for d, t in zip(plan, tracks, strict=True) if not t.path.exists()]
            _synthesise_all(todo)
    notes = ("The demo set is synthetic: generated sounds in the manner of ten genres, not recordings.",)
    return Catalogue("demo", tuple(tracks), synthetic=True, notes=notes)


def _synthesise_all(todo: Sequence[tuple[synthesiser.DemoTrack, Path, Mapping[str, Any]]]) -> None:
    if not todo:
        return
    calls = [workers.call(cpu_count(), _synthesise_one, *job) for job in todo]
    for _ in progress_bar(workers.results(calls), "Synthesising the demo set", total=len(calls)):
        pass


def _synthesise_one(track: synthesiser.DemoTrack, path: Path, recipe: Mapping[str, Any]) -> None:
    waveform = synthesiser.synthesise(track, **recipe)
    encoded = BytesIO()  # since libsndfile does not report a full disk
    soundfile.write(encoded, waveform, recipe["sample_rate"], subtype="PCM_16", format="WAV")
    write_atomically(path, encoded.getbuffer())  # durable, as a file that exists is never checked again


def _is_typed(track: Track) -> bool:
    """Whether a track is described by values of the right types, which a loader of one's own may miss."""
    texts = isinstance(track.id, str) and isinstance(track.genre, str) and isinstance(track.artist, str | None)
    return texts and isinstance(track.path, Path) and bool(track.id and track.genre)


def _is_utf8(name: str) -> bool:
    return name.encode(errors="ignore").decode() == name
