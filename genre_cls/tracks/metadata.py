"""Read `metadata.csv`: artists of the tracks in a folder, and tracks to leave out."""

import csv
from pathlib import Path
from posixpath import normpath
from unicodedata import normalize

from genre_cls.errors import UserError

NOBODY = ("unknown", "unknown artist", "various", "various artists", "nan", "none", "n/a", "?", "-")  # no artist's name
KEPT, EXCLUDED = ("", "0", "0.0"), ("1", "1.0")  # values of `exclude`; pandas writes integers beside gaps as floats


def read_metadata(path: Path) -> dict[str, dict[str, str]]:
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
