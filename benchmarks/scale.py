"""Time and memory of a start as a function of the number of tracks, with a cold and with a warm cache.

Run as `python benchmarks/scale.py --plot docs/scale.png`; docs/benchmarks.md has results.
"""

import argparse
import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import wraps
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import soundfile
from common import markdown, measured_apart, peak_memory

SIZES = (100, 300, 1000, 3000)
ALL = (*SIZES, 12_000)
N_GENRES = 10
RATE = 22050
COLUMNS = {
    "features": "features, s",
    "first_step": "to the first training step, s",
    "memory": "peak memory, MB",
}
SETTINGS = (
    "dataset=folder", "dataset.root=audio", "cache_dir=cache", "features=mel", "model=basic", "recipe.window=1.0",
    "trainer.device=cpu", "trainer.workers=1",
)  # fmt: skip

Costs = Mapping[str, float]
Row = tuple[int, Costs, Costs]  # number of tracks; costs with a cold cache and with a warm one


def main() -> None:
    """Start the command on data sets of growing size, twice on each."""
    options = _options()
    if options.start:
        start()
        return
    sizes = ALL if options.all else options.sizes
    costs(sizes[0], options.seconds)  # not counted, as the system loads libraries from disk at the very first start
    rows = [costs(n, options.seconds) for n in sizes]
    print(f"tracks of {options.seconds:g} s, {os.cpu_count()} cores; times without imports\n\n{table(rows)}")
    if len(rows) > 1:
        print(f"\n{growth(rows)}")
    if options.plot:
        plot(rows, options.plot)


def costs(n_tracks: int, seconds: float) -> Row:
    """Measure the costs of the first start on new tracks and of the second one."""
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder, "audio"), n_tracks, seconds)
        return n_tracks, in_a_process(folder), in_a_process(folder)


def generate(folder: Path, n_tracks: int, seconds: float) -> None:
    """Write different noise to each file."""
    random = np.random.default_rng(0)
    for number in range(n_tracks):
        path = folder / f"genre {number % N_GENRES}" / f"{number:05}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, 0.1 * random.standard_normal(int(seconds * RATE), dtype=np.float32), RATE)


def in_a_process(folder: str) -> Costs:
    """Measure one start in a separate process."""
    return measured_apart(__file__, "--start", cwd=folder)


def start() -> None:
    """Run the command as a user does up to its first training step, in this process, and print its costs as JSON."""
    import mlflow.store.tracking.sqlalchemy_store  # noqa: F401  # MLflow itself imports it when a store is opened

    # The command would import these later.
    from genre_cls import report, train  # noqa: F401
    from genre_cls.experiments import experiment  # noqa: F401
    from genre_cls.tracks import feature_cache
    from genre_cls.training import module

    began, seconds = perf_counter(), Counter[str]()
    load = feature_cache.FeatureCache.load

    @wraps(load)
    def timed_load(*arguments: Any) -> Any:
        called = perf_counter()
        try:
            return load(*arguments)
        finally:
            seconds["features"] += perf_counter() - called

    def stop(*arguments: Any) -> None:
        print(json.dumps({**seconds, "first_step": perf_counter() - began, "memory": peak_memory()}), flush=True)
        os._exit(0)

    feature_cache.FeatureCache.load = timed_load  # type: ignore[method-assign]
    module.GenreModule.training_step = stop  # type: ignore[method-assign, assignment]
    sys.argv = ["genre_cls.train", *SETTINGS]
    train.main()


def table(rows: Sequence[Row]) -> str:
    """Format all measurements, and the time per track, as Markdown."""
    heads = [f"{cache}: {text}" for text in COLUMNS.values() for cache in ("cold", "warm")]
    lines = []
    for n_tracks, cold, warm in rows:
        cells = [f"{each[name]:.4g}" for name in COLUMNS for each in (cold, warm)]
        lines.append([str(n_tracks), *cells, f"{1000 * cold['features'] / n_tracks:.2f}"])
    return markdown(["tracks", *heads, "cold: ms a track"], lines, texts=())


def growth(rows: Sequence[Row]) -> str:
    """Describe the factors by which the number of tracks and the costs grow from the smallest to the largest set."""
    (few, cold, warm), (many, more_cold, more_warm) = rows[0], rows[-1]
    ratios = [
        f"{cache} {name.replace('_', ' ')} {more[name] / less[name]:.2f}"
        for cache, less, more in (("cold", cold, more_cold), ("warm", warm, more_warm))
        for name in COLUMNS
    ]
    return f"{many / few:g} times the tracks, times the cost: {', '.join(ratios)}"


def plot(rows: Sequence[Row], path: Path) -> None:
    """Plot each cost against the number of tracks, on linear axes, where linear growth is a straight line."""
    from matplotlib.figure import Figure

    tracks = [n_tracks for n_tracks, *_ in rows]
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    for axes, (name, text) in zip(figure.subplots(1, len(COLUMNS)), COLUMNS.items(), strict=True):
        for place, cache in ((1, "cold cache"), (2, "warm cache")):
            axes.plot(tracks, [row[place][name] for row in rows], marker="o", label=cache)  # type: ignore[index]
        highest = max(row[place][name] for row in rows for place in (1, 2))  # type: ignore[index]
        axes.set(xlabel="tracks", ylabel=text, xlim=(0, 1.05 * tracks[-1]), ylim=(0, 1.1 * highest))
        axes.legend()
    figure.savefig(path, dpi=120)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="numbers of tracks (default: %(default)s)")
    parser.add_argument("--all", action="store_true", help=f"up to {ALL[-1]:,} tracks")
    parser.add_argument("--seconds", type=float, default=2, help="length of a track (default: %(default)s)")
    parser.add_argument("--plot", type=Path, help="file for a figure")
    parser.add_argument("--start", action="store_true", help=argparse.SUPPRESS)  # in the separate process
    return parser.parse_args()


if __name__ == "__main__":
    main()
