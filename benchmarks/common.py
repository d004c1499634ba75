"""Shared by the benchmarks: time, memory, measuring in a separate process, and tables."""

import json
import resource
import subprocess
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

OURS = "genre_cls"

Paths = Sequence[Path]
Way = Callable[[Paths], None]


def in_turn(ways: Mapping[str, Way], paths: Paths, n_rounds: int) -> dict[str, list[float]]:
    """Return the wall times of each way, s: round by round, so that another load on the machine slows all alike."""
    for way in ways.values():
        way(paths[:1])  # loads and compiles what the first call does
    rounds = [{name: timed(way, paths) for name, way in ways.items()} for _ in range(n_rounds)]
    return {name: [each[name] for each in rounds] for name in ways}


def timed(way: Way, paths: Paths) -> float:
    """Return the wall time of a way, s."""
    began = perf_counter()
    way(paths)
    return perf_counter() - began


def peak_memory() -> float:
    """Return this process's peak memory so far, MB, mapped features included."""
    unit = 1 if sys.platform == "darwin" else 1024  # bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def measured_apart(script: str, *arguments: str, **how: Any) -> dict[str, Any]:
    """Run a benchmark's script in a separate process and return the JSON of its last line.

    Args:
        script: its file.
        arguments: of the script, which select what it measures.
        how: further arguments of `subprocess.run`.

    Raises:
        SystemExit: the process failed.
    """
    command = [sys.executable, str(Path(script).resolve()), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, **how)
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)}: exit code {done.returncode}\n{done.stderr}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def markdown(heads: Sequence[str], rows: Iterable[Sequence[str]], *, texts: Collection[int] = (0,)) -> str:
    """Format a table as Markdown.

    Args:
        heads: of the columns.
        rows: of cells.
        texts: places of the columns that are no numbers.
    """
    rule = [":--" if place in texts else "--:" for place in range(len(heads))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, rule, *rows))


def compared(measured: Mapping[str, Sequence[float]], unit: str, digits: int) -> str:
    """Format each way's median and range as Markdown, and the median as a multiple of ours.

    Args:
        measured: by way, a number per round.
        unit: of the numbers.
        digits: after their decimal point.
    """
    middle = {name: median(each) for name, each in measured.items()}
    rows = []
    for name, each in measured.items():
        typical, low, high = (f"{value:.{digits}f}" for value in (middle[name], min(each), max(each)))
        rows.append([name, typical, f"{low}–{high}", f"{middle[name] / middle[OURS]:.2f}"])
    return markdown(["way", f"{unit}, median", "range", "times genre_cls's"], rows)
