"""What several benchmarks share: times, memory, and measuring in a process of its own."""

import json
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

Paths = Sequence[Path]
Way = Callable[[Paths], None]


def timed(way: Way, paths: Paths) -> float:
    """Wall time, s."""
    began = perf_counter()
    way(paths)
    return perf_counter() - began


def peak_memory() -> float:
    """Of this process so far, MB, mapped features included."""
    unit = 1 if sys.platform == "darwin" else 1024  # bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def measured_apart(script: str, *arguments: str, **how: Any) -> dict[str, Any]:
    """What a benchmark measures in a process of its own, and prints as JSON in its last line.

    Args:
        script: its file.
        arguments: by which it knows what to do there.
        how: further arguments of `subprocess.run`.
    """
    command = [sys.executable, str(Path(script).resolve()), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, **how)
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)}: exit code {done.returncode}\n{done.stderr}")
    return dict(json.loads(done.stdout.splitlines()[-1]))
