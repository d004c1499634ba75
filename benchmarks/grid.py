"""Where the wall time of a grid goes: imports, data, features, training, logging, report.

Run as `python benchmarks/grid.py [OVERRIDES]`; docs/benchmarks.md has results.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from time import perf_counter
from typing import Any

from common import markdown

GRID = ("features=mfcc,mel", "model=basic,deep", "batch_size=16,32")  # on the demo set, by the default recipe
REST = "Hydra, workers' end, the rest"
PYTHON = "Python's start and exit"
FIRST_LOOK, LAST_LOOK = 0.5, 10.0  # s between measurements of memory; ever rarer, as counting pages takes a while


class Trace:
    """Wall time of this process by phase; nested phases count for the innermost."""

    def __init__(self) -> None:
        self.seconds = Counter[str]()
        self.in_folds = 0.0  # s, sum of the times that folds report
        self._phases, self._since = [REST], perf_counter()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the time of the block as a phase."""
        self._count()
        self._phases.append(name)
        try:
            yield
        finally:
            self._count()
            self._phases.pop()

    def calls(self, owner: Any, name: str, phase: str) -> None:
        """Count each call of a function or method as a phase."""
        function = getattr(owner, name)

        def traced(*arguments: Any, **keywords: Any) -> Any:
            with self.phase(phase):
                return function(*arguments, **keywords)

        setattr(owner, name, traced)

    def waits(self, owner: Any) -> None:
        """Count the waiting for each of an owner's results, which are folds, as training."""
        function: Callable[..., Iterator[Any]] = owner.results

        def traced(*arguments: Any) -> Iterator[Any]:
            results = function(*arguments)
            while True:
                with self.phase("training"):
                    result = next(results, None)
                if result is None:
                    return
                self.in_folds += result[0].seconds
                yield result

        owner.results = traced

    def _count(self) -> None:
        now = perf_counter()
        self.seconds[self._phases[-1]] += now - self._since
        self._since = now


def main() -> None:
    """Trace one grid and print the share of its wall time that is not training."""
    options = _options()
    if options.traced:
        traced(options.overrides)
        return
    overrides = [*(options.overrides or GRID), f"trainer.workers={options.workers}"]
    with tempfile.TemporaryDirectory() as folder:
        began = perf_counter()
        trace = in_a_process(overrides, Path(folder), options.cache or Path(folder, "cache"))
        wall = perf_counter() - began
    seconds = {**trace["seconds"], PYTHON: wall - sum(trace["seconds"].values())}
    print(f"python -m genre_cls.train -m {' '.join(overrides)}: {wall:.0f} s\n\n{table(seconds)}\n")
    training = trace["in_folds"] / options.workers
    print(f"folds: {trace['in_folds']:.0f} s / {options.workers} workers = {training:.0f} s")
    print(f"not training: {1 - training / wall:.1%} of the wall time")
    print(f"peak memory of all processes: {trace['memory']:.0f} MB")


def in_a_process(overrides: list[str], folder: Path, cache: Path) -> dict[str, Any]:
    """Run a grid with a new store in a separate process; return its trace and its and its workers' peak memory, MB."""
    output, memory, pause = folder / "output", 0.0, FIRST_LOOK
    with output.open("w") as file, subprocess.Popen(
        [sys.executable, Path(__file__).resolve(), "--traced", *overrides], cwd=folder, stdout=file,
        env=os.environ | {"GENRE_CLS_CACHE": str(cache.resolve())},
    ) as process:  # fmt: skip
        while process.poll() is None:
            memory = max(memory, held(process.pid))
            with suppress(subprocess.TimeoutExpired):
                process.wait(pause)
            pause = min(1.5 * pause, LAST_LOOK)
    if process.returncode:
        raise SystemExit(process.returncode)
    return {"memory": memory, **json.loads(output.read_text().splitlines()[-1])}


def held(pid: int) -> float:
    """Return the memory of a process and all its descendants, MB; shared pages count once. 0 without /proc."""
    process, total = Path("/proc", str(pid)), 0.0
    with suppress(OSError):  # it has just ended, or this is not Linux
        lines = (process / "smaps_rollup").read_text().splitlines()
        total = sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024 / 1e6
        for thread in (process / "task").iterdir():
            total += sum(map(held, map(int, (thread / "children").read_text().split())))
    return total


def traced(overrides: list[str]) -> None:
    """Run the command as a user does, with its parts wrapped to be timed, and print the trace as JSON."""
    trace = Trace()
    with trace.phase("imports"):
        from genre_cls import train
        from genre_cls.processes import workers

        workers.import_ahead(*train.IMPORTED_AHEAD)  # as the command does, before it imports what follows itself
        # The command would import these later.
        from genre_cls import report
        from genre_cls.evaluation import figures
        from genre_cls.experiments import experiment
        from genre_cls.tracks import feature_cache
        from genre_cls.training import ensembles
    trace.calls(experiment, "prepare", "tracks and folds")
    trace.calls(experiment, "check_buildable", "checks")
    trace.calls(experiment, "Tracker", "MLflow's store")
    trace.calls(feature_cache.FeatureCache, "load", "features")
    trace.calls(experiment, "evaluate", "logging")
    trace.calls(figures, "png", "figures")
    trace.waits(ensembles.EnsembleTrainings)
    trace.calls(report, "write_newest", "report")
    sys.argv = ["genre_cls.train", "-m", *overrides]
    train.main()
    print(json.dumps({"seconds": trace.seconds, "in_folds": trace.in_folds}))


def table(seconds: Mapping[str, float]) -> str:
    """Format what the main process was doing as Markdown; while it logs, its workers go on training."""
    wall = sum(seconds.values())
    rows = [[name, f"{spent:.1f}", f"{100 * spent / wall:.1f}"] for name, spent in seconds.items()]
    return markdown(["phase", "s", "share, %"], rows)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help=f"of the grid (default: {' '.join(GRID)})")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="models at once (default: %(default)s)")
    parser.add_argument("--cache", type=Path, help="folder that is kept, for a warm start (default: a new one)")
    parser.add_argument("--traced", action="store_true", help=argparse.SUPPRESS)  # in the separate process
    return parser.parse_args()


if __name__ == "__main__":
    main()
