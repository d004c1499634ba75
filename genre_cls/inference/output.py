"""Print predictions as a table, JSON or CSV."""

import csv
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import cycle
from pathlib import Path
from string import ascii_letters

from rich.console import Console
from rich.text import Text

from genre_cls.errors import in_one_line
from genre_cls.inference.prediction import Prediction

Predictions = Iterable[tuple[Path, Prediction]]

FEW = 3  # genres of a file in a table by default
LONG = 60.0  # s, above which a file's genres are shown over time
STRETCH = 30.0  # s that a letter stands for
PER_ROW = 20  # letters in a row
COLOURS = ("red", "green", "yellow", "blue", "magenta", "cyan")


def _print_table(predictions: Predictions, genres: Sequence[str], top: int | None) -> None:
    """Print a few lines per file: its most probable genres and, if it is long, the genres over time."""
    console = Console(highlight=False, soft_wrap=True)
    for path, prediction in predictions:
        lines = [Text(f"{in_one_line(path)}  {_clock(max(1, prediction.seconds))}", "bold")]
        lines += [
            Text(f"  {100 * probability:6.1f} %  {in_one_line(genre)}")
            for genre, probability in prediction.ranked[: top or FEW]
        ]
        if prediction.seconds > LONG:
            lines += _strip(prediction, genres)
        console.print(*lines, sep="\n")


def _strip(prediction: Prediction, genres: Sequence[str]) -> Iterator[Text]:
    """Rows with a letter for the genre of each stretch of time, and a legend."""
    stretches, letters = prediction.over_time(STRETCH), _letters(genres)
    for row in (stretches[first : first + PER_ROW] for first in range(0, len(stretches), PER_ROW)):
        shown = (letters[genre] for *_, genre in row)
        yield Text.assemble(f"  {_clock(row[0][0]):>8} ", *shown, f" {_clock(row[-1][1])}")
    present = {genre for *_, genre in stretches}
    listed = [genre for genre in letters if genre in present]
    legend = [part for genre in listed for part in (letters[genre], f" {in_one_line(genre or 'silence')}  ")]
    yield Text.assemble(" " * 11, *legend, f"(a letter stands for {STRETCH:g} s)")


def _letters(genres: Sequence[str]) -> dict[str | None, tuple[str, str]]:
    """A unique letter and its style for each genre, if possible the first of its name that is free; a dot for None."""
    letters: dict[str | None, tuple[str, str]] = {}
    for genre, colour in zip(genres, cycle(COLOURS), strict=False):
        taken = {letter for letter, _ in letters.values()}
        free = (c for c in genre + ascii_letters if c.isalnum() and c not in taken)
        letters[genre] = next(free, "?"), f"reverse {colour}"
    return letters | {None: ("·", "")}


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"


def _print_json(predictions: Predictions, genres: Sequence[str], top: int | None) -> None:
    """Print a list with one object per file."""
    separator = "["
    for path, prediction in predictions:
        print(separator, json.dumps(_as_json(path, prediction, top)), sep="\n", end="")
        separator = ","
    print("\n]" if separator == "," else "[]")


def _as_json(path: Path, prediction: Prediction, top: int | None) -> dict[str, object]:
    """A prediction as plain data; times in s."""
    return {
        "path": str(path),
        "seconds": prediction.seconds,
        "temperature": prediction.temperature,
        "note": prediction.note,
        "genres": [{"genre": genre, "probability": probability} for genre, probability in prediction.ranked[:top]],
        "windows": [
            {"start": start, "end": end, "votes": dict(zip(prediction.genres, votes, strict=True))}
            for start, end, votes in _windows(prediction)
        ],
    }


def _print_csv(predictions: Predictions, genres: Sequence[str], top: int | None) -> None:
    """Print a row per file with the probabilities of all genres, then a row for each of its windows with the votes."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["path", "part", "start", "end", "predicted", *(f"p({genre})" for genre in genres)])
    for path, prediction in predictions:
        file = str(path).encode(errors="backslashreplace").decode()  # names need not be valid UTF-8
        writer.writerow([file, "file", 0.0, prediction.seconds, prediction.genre, *prediction.probabilities.tolist()])
        for start, end, votes in _windows(prediction):
            writer.writerow([file, "window", start, end, genres[votes.index(max(votes))], *votes])


def _windows(prediction: Prediction) -> Iterator[tuple[float, float, list[float]]]:
    columns = (prediction.starts.tolist(), prediction.ends.tolist(), prediction.windows.tolist())
    return zip(*columns, strict=True)


FORMATS: dict[str, Callable[[Predictions, Sequence[str], int | None], None]] = {
    "table": _print_table,
    "json": _print_json,
    "csv": _print_csv,
}
