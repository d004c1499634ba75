"""Write results as artifacts and read them back exactly: folds, facts about tracks, average features."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genre_cls.evaluation.calibration import Ints
from genre_cls.evaluation.genre_means import GenreMeans
from genre_cls.evaluation.predictions import FoldResult, WindowPredictions

FACTS = ("genre", "artist", "group", "fault", "path")  # about each track
FOLD, PREDICTIONS, WINDOWS = "fold.json", "predictions.csv", "windows.npz"
RESULTS = (FOLD, PREDICTIONS, WINDOWS)  # a fold's, that `load_fold` reads
MODEL, REPORT = "model.safetensors", "report.html"
TRACKS, GENRE_MEANS = "tracks.csv", "genre_means_{}.npz"  # the latter by kind of features
SUMMARIES = (TRACKS, *map(GENRE_MEANS.format, ("mel", "mfcc")))  # a configuration's, that reports read
DAMAGED = (ValueError, LookupError, TypeError, csv.Error)  # that loading damaged files raises

Files = Mapping[str, bytes]  # name of an artifact to its content


def fold_files(fold: FoldResult) -> Files:
    """Return a fold's result as artifacts, from which `load_fold` restores it exactly."""
    rest = {
        "index": fold.index, "genres": fold.genres, "curves": fold.curves,
        "n_train": fold.n_train, "seconds": fold.seconds,
    }  # fmt: skip
    return {
        FOLD: json.dumps(rest, indent=1).encode(),
        PREDICTIONS: csv_file(_predictions(fold)),
        "confusion_matrix.csv": confusion_file(fold.confusion, fold.genres),
        WINDOWS: _npz(asdict(fold.windows)),
    }


def confusion_file(confusion: Ints, genres: Sequence[str]) -> bytes:
    """Return a confusion matrix `(n_genres, n_genres)` as CSV, rows true, columns predicted."""
    rows = ((genre, *counts) for genre, counts in zip(genres, confusion.tolist(), strict=True))
    return csv_file([("true \\ predicted", *genres), *rows])


def load_fold(folder: Path) -> FoldResult:
    """Restore a fold from the files of `fold_files`.

    Raises:
        ValueError, LookupError, TypeError, csv.Error: a file is damaged.
        OSError: a file is missing or cannot be read.
    """
    rest = json.loads((folder / FOLD).read_text())
    (_, *rows), genres = _rows(folder / PREDICTIONS), tuple(rest["genres"])
    return FoldResult(
        index=rest["index"],
        track_ids=tuple(row[0] for row in rows),
        labels=np.array([genres.index(row[1]) for row in rows]),
        probabilities=np.array([row[3:] for row in rows], dtype=float),
        genres=genres,
        curves=rest["curves"],
        n_train=rest["n_train"],
        seconds=rest["seconds"],
        windows=WindowPredictions(**_arrays(folder / WINDOWS)),
    )


def tracks_file(facts: Mapping[str, Mapping[str, str]]) -> bytes:
    """Return the facts about each track as CSV.

    Args:
        facts: of each track by its id, each with all of `FACTS`.
    """
    rows = ((track, *(values[fact] for fact in FACTS)) for track, values in facts.items())
    return csv_file([("track", *FACTS), *rows])


def load_tracks(path: Path) -> dict[str, dict[str, str]]:
    """Restore the facts about each track from the file of `tracks_file`.

    Raises:
        ValueError, csv.Error: the file is damaged.
        OSError: it is missing or cannot be read.
    """
    (_, *names), *rows = _rows(path)
    none = dict.fromkeys(FACTS, "")  # in case of a file that lacks one
    return {track: none | dict(zip(names, facts, strict=True)) for track, *facts in rows}


def _rows(path: Path) -> list[list[str]]:
    """Read the rows of a file of `csv_file`, the header first."""
    text = path.read_bytes().decode()
    if not text.endswith("\n"):
        raise ValueError(f"{path.name}: the last line is cut short")
    return list(csv.reader(io.StringIO(text, newline="")))


def genre_means_file(means: GenreMeans) -> bytes:
    """Return average features as an npz file without pickles."""
    return _npz(asdict(means))


def load_genre_means(path: Path) -> GenreMeans:
    """Restore average features from the file of `genre_means_file`."""
    arrays = _arrays(path)
    return GenreMeans(
        str(arrays["kind"]), tuple(arrays["genres"].tolist()), arrays["matrices"],
        float(arrays["seconds_per_frame"]), arrays["frequencies"],
    )  # fmt: skip


def _predictions(fold: FoldResult) -> list[tuple[object, ...]]:
    header = ("track", "genre", "predicted", *(f"p({genre})" for genre in fold.genres))
    rows = zip(fold.track_ids, fold.labels, fold.predictions, fold.probabilities.tolist(), strict=True)
    return [header, *((track, fold.genres[true], fold.genres[predicted], *p) for track, true, predicted, p in rows)]


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Return the arrays of an npz file."""
    content = io.BytesIO(path.read_bytes())  # an OSError below is then a decompressor's, not the disk's
    try:
        with np.load(content, allow_pickle=False) as file:
            return dict(file)
    except Exception as error:  # parsers and decompressors raise anything on damaged data
        raise ValueError(f"{path.name}: {error}") from error


def _npz(arrays: Mapping[str, Any]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def csv_file(rows: Sequence[Sequence[object]]) -> bytes:
    """Return rows, the header first, as CSV."""
    text = io.StringIO()
    csv.writer(text).writerows(rows)  # floats are written with all digits, so reading restores them exactly
    return text.getvalue().encode()
