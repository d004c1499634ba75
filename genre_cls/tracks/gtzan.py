"""Find the tracks of GTZAN, and what is known of them."""

import csv
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path

from genre_cls.errors import UserError
from genre_cls.files import expanduser
from genre_cls.tracks.catalogue import Catalogue, Track, plain_name
from genre_cls.tracks.listing import EXTENSIONS, audio_files

GENRES = ("blues", "classical", "country", "disco", "hiphop", "jazz", "metal", "pop", "reggae", "rock")
TRACKS_PER_GENRE = 100
FOLDERS = (".", "genres", "genres_original", "Data/genres_original", "Data/genres")
HELP = (
    "GTZAN's audio is not freely licensed, so it does not come with genre_cls. python -m genre_cls.download FOLDER "
    'gets it from a mirror (1.2 GB); or get it by hand (on Kaggle "GTZAN Dataset - Music Genre Classification"), '
    "unpack it and say where: dataset.root=/path/to/it or the environment variable GTZAN_ROOT. "
    "dataset=demo needs no download at all."
)


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
        raise UserError(f"neither dataset.root nor GTZAN_ROOT is set. {HELP}")
    places = [_genre_folders(expanduser(root) / name) for name in FOLDERS]
    if folders := max(places, key=lambda folders: (sum(map(len, folders.values())), len(folders))):
        return _catalogue(folders, Path(root))
    source = " (from GTZAN_ROOT)" if root == os.environ.get("GTZAN_ROOT") else ""
    raise UserError(f"dataset.root={root}{source}: {_nothing_found(expanduser(root))}")


def _nothing_found(base: Path) -> str:
    """Say why there is no GTZAN at a path, and what to do."""
    if not base.is_dir():
        return f"no such folder. {HELP}"
    problem = "has no folder named after a GTZAN genre"
    if any(entry.suffix.lower() in EXTENSIONS for entry in base.iterdir()):
        sort = "sort them into folders called blues, classical and so on (dataset=folder takes other music)"
        return f"{problem}, but audio files; {sort}"
    return f"{problem}. {HELP}"


def _genre_folders(place: Path) -> dict[Path, list[Path]]:
    """The folders of GTZAN's genres at a place, each with its audio files."""
    if not place.is_dir():
        return {}
    folders = [entry for entry in sorted(place.iterdir()) if entry.is_dir() and not entry.name.startswith(".")]
    return {entry: audio_files(entry) for entry in folders if plain_name(entry.name) in GENRES}


def _catalogue(folders: dict[Path, list[Path]], root: Path) -> Catalogue:
    tracks = _tracks(folders)
    counts = Counter(track.genre for track in tracks)
    if empty := [genre for genre in GENRES if not counts[genre]]:
        raise UserError(f"dataset.root={root}: no audio for {', '.join(empty)}; 100 tracks each expected. {HELP}")
    return Catalogue("gtzan", tuple(tracks), notes=tuple(_notes(tracks, counts)))


def _tracks(folders: dict[Path, list[Path]]) -> list[Track]:
    """The tracks in the genres' folders, each once."""
    tracks: dict[str, Track] = {}
    used: dict[str, Path] = {}
    for folder, paths in folders.items():
        genre = plain_name(folder.name)
        if paths and (other := used.setdefault(genre, folder)) != folder:
            raise UserError(f"{folder}: {other.name} beside it is the same genre; merge them, or move one away")
        for path in paths:
            track = _track(path, genre)
            same = tracks.get(track.id, track)
            if plain_name(same.path.stem) != plain_name(path.stem):
                raise UserError(f"{path}: has the number of {same.path.name}; move one of them away")
            if track is same or path.suffix.lower() == ".wav":  # of .au and .wav, the latter
                tracks[track.id] = track
    return list(tracks.values())


def _notes(tracks: Sequence[Track], counts: Mapping[str, int]) -> Iterator[str]:
    if short := [f"{genre} {counts[genre]}" for genre in GENRES if counts[genre] != TRACKS_PER_GENRE]:
        # Where all genres are short, it would repeat the sizes that training lists.
        found = f", found {', '.join(short)}" if len(short) < len(GENRES) else ""
        yield f"GTZAN is not complete: {len(tracks)} of 1000 tracks; 100 a genre expected{found}."
    if others := [track.path for track in tracks if track.id not in gtzan_facts()]:
        yield f"Not named like tracks of GTZAN, so nothing is known of them: {len(others)}, such as {others[0]}."


def _track(path: Path, genre: str) -> Track:
    """The track that a file's name tells: "hip-hop.00042", "hiphop_00042" and "42" are one in a folder of hip-hop."""
    number = path.stem[len(path.stem.rstrip("0123456789")) :]
    of = plain_name(path.stem.removesuffix(number))
    if number and of in GENRES and of != genre:
        raise UserError(f"{path}: is a track of {of} by its name; move it there, or name it otherwise")
    track = f"{genre}.{int(number):05}" if number and of in ("", genre) else f"{genre}.{path.stem}"
    known = gtzan_facts().get(track, {})
    return Track(track, path, genre, **{key: known.get(key) or None for key in ("artist", "repeats", "fault", "part")})


@cache
def gtzan_facts() -> dict[str, dict[str, str]]:
    """Return the line of gtzan.csv for each track, by id."""
    lines = files("genre_cls.tracks").joinpath("gtzan.csv").read_text("utf-8").splitlines()
    return {row["track"]: row for row in csv.DictReader(lines)}
