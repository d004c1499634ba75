"""Shared by the benchmarks: time, memory, measuring in a separate process, and tables."""

import json
import resource
import subprocess
import sys
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

Paths = Sequence[Path]
Way = Callable[[Paths], None]


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
