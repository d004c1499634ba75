"""List the music in a folder of genres."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, groupby
from pathlib import Path
from unicodedata import normalize  # file names have letters in pieces on macOS

from genre_cls.errors import UserError
from genre_cls.files import expanduser
from genre_cls.tracks.catalogue import Catalogue, Track, plain_name
from genre_cls.tracks.listing import EXTENSIONS, audio_files, conversion, other_files
from genre_cls.tracks.metadata import KEPT, read_metadata


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
    facts, names = read_metadata(base / "metadata.csv"), [normalize("NFC", track.id) for track in every]
    tracks = _with_metadata(every, [facts.get(name, {}) for name in names])
    genres, n_excluded = {track.genre for track in tracks}, len(every) - len(tracks)
    if len(genres) < 2:
        excluded = f"; {base / 'metadata.csv'} excludes {n_excluded}" if n_excluded else ""
        raise UserError(f"dataset.root={root}: {_too_few_genres(base, genres)}{excluded}")
    unmatched = sorted(facts.keys() - set(names))
    if len(unmatched) == len(facts) and any(fact["artist"] for fact in facts.values()):
        raise UserError(f"{base / 'metadata.csv'}: {_unmatched(unmatched)}")
    empty = [genre for genre, _ in folders if genre not in genres]
    notes = (
        _notes_on_files(base, entries, empty),
        _notes_on_metadata(base, entries, n_excluded, unmatched),
        _look_alike(genres),
    )
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


def _notes_on_metadata(base: Path, entries: Sequence[Path], n_excluded: int, unmatched: Sequence[str]) -> Iterator[str]:
    """Yield notes on what metadata.csv leaves out, on paths in it without a track, and on one of another spelling.

    Where a file system knows no case, another spelling is the same file, and has been read.
    """
    if not (base / "metadata.csv").exists():
        spelled = [entry.name for entry in entries if entry.name.lower() == "metadata.csv"]
        yield from (f"{name} is ignored; rename it to metadata.csv." for name in spelled)
    if n_excluded:
        yield f"{n_excluded} track{'s are' if n_excluded > 1 else ' is'} excluded by metadata.csv."
    if unmatched:
        yield f"metadata.csv: {_unmatched(unmatched)}."


def _look_alike(genres: Collection[str]) -> Iterator[str]:
    """Yield a note on genres whose names differ in case, spaces, hyphens, underscores or dots alone."""
    for _, group in groupby(sorted(genres, key=plain_name), key=plain_name):
        if len(names := list(group)) > 1:
            yield f"{' and '.join(names)} are {len(names)} genres; if they are one, put their tracks into one folder."


def _unmatched(paths: Sequence[str]) -> str:
    paths_match = f"{len(paths)} paths match no track (such as " if len(paths) > 1 else "1 path matches no track ("
    return f"{paths_match}{paths[0]!r}); write paths like rock/a.wav"
