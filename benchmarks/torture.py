"""A small grid, killed at random moments until it is through, compared with one that nobody disturbed.

Run as `scripts/torture.sh --kills 15`; docs/reliability.md holds what came out.
"""

import argparse
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

GRID = (
    "-m", "experiment=smoke", "dataset.tracks_per_genre=4", "dataset.seconds=4", "folds.k=3", "recipe.epochs=4",
    "features=mfcc,mel", "model=basic", "batch_size=16", "trainer.device=cpu",
)  # fmt: skip
N_CONFIGURATIONS, N_FOLDS = 2, 3
SOON = 5  # s within which no process of a killed command may be left

Table = dict[tuple[str, str], Any]


def main() -> None:
    """Kill, go on, compare; exit code 1 if anything is lost, doubled, left open or different."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=15, help="how many")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args()
    moments, kills, n_rounds = random.Random(options.seed), Counter[str](), 0
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        finish(start(Path(folder, "undisturbed")))
        longest = time.monotonic() - began
        expected = table(Path(folder, "undisturbed"))
        while kills.total() < options.kills:
            n_rounds += 1
            torment(Path(folder, str(n_rounds)), longest, moments, options.kills, kills)
            check(Path(folder, str(n_rounds)), expected)
    for moment, count in sorted(kills.items()):
        print(f"killed {count} times: {moment}")
    print(f"{kills.total()} kills in {n_rounds} grids, each then equal to the undisturbed one")


def torment(folder: Path, longest: float, moments: random.Random, n_kills: int, kills: Counter[str]) -> None:
    """Start a grid again and again, each time killed at a random moment, until one start gets through."""
    while kills.total() < n_kills:
        process = start(folder, workers=moments.choice((1, 2)))
        try:
            process.wait(moments.uniform(0, longest))
            finish(process)
            break
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            wait_for_the_end_of(process.pid)
            kills[moment(folder, process.communicate()[1])] += 1
    finish(start(folder))


def start(folder: Path, workers: int = 1) -> "subprocess.Popen[str]":
    """The grid as a user starts it, in a folder with a cache of its own; how many workers there are changes nothing."""
    folder.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-m", "genre_cls.train", *GRID, f"trainer.workers={workers}"], cwd=folder,
        env=os.environ | {"GENRE_CLS_CACHE": str(folder / "cache")}, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def finish(process: "subprocess.Popen[str]") -> None:
    """Wait for a command that nobody kills."""
    _, err = process.communicate()
    if process.returncode:
        raise SystemExit(f"exit code {process.returncode}:\n{err}")


def moment(folder: Path, err: str) -> str:
    """What a command was at when it was killed."""
    if "split: " not in err:
        return "in the imports, the synthesis or the features"
    if not (folder / "mlruns" / "mlflow.db").exists():
        return "while the store was made"
    runs = [(kind, status) for _, kind, status, *_ in stored(folder)]
    if ("fold", "RUNNING") in runs:
        return "while a fold was written"
    if ("report", "RUNNING") in runs:
        return "while the report was written"
    if ("config", "RUNNING") in runs:
        return "while folds were trained or a configuration was written"
    return "between configurations, before the report, or at the exit"


def wait_for_the_end_of(group: int) -> None:
    """Wait until no process of a group is left."""
    end = time.monotonic() + SOON
    while time.monotonic() < end:
        listed = subprocess.run(["ps", "-eo", "pgid=,stat="], capture_output=True, text=True, check=True).stdout
        states = [state for number, state in map(str.split, listed.splitlines()) if number == str(group)]
        if all(state.startswith("Z") for state in states):
            return
        time.sleep(0.1)
    raise SystemExit(f"workers outlive their main process by {SOON} s")


def check(folder: Path, expected: Table) -> None:
    """Compare what is stored in the end."""
    found = table(folder)
    if found != expected:
        raise SystemExit(f"differs: {[key for key in expected.keys() | found if expected.get(key) != found.get(key)]}")
    if not (folder / "report" / "report.html").stat().st_size:
        raise SystemExit("no report")
    if halves := list(folder.rglob("*.partial")):
        raise SystemExit(f"half files: {halves}")


def table(folder: Path) -> Table:
    """Metrics and predictions of each configuration and fold, of which each must be there once and none be open."""
    runs = stored(folder)
    names = {run: name for run, kind, _, name, *_ in runs if kind == "config"}
    rows = [
        ((names.get(parent, name), name), (metrics, predictions))
        for _, kind, status, name, parent, metrics, predictions in runs
        if kind != "report" and status == "FINISHED"
    ]
    if any(status == "RUNNING" for _, _, status, *_ in runs):
        raise SystemExit("a run is open")
    if not len(rows) == len(dict(rows)) == N_CONFIGURATIONS * (1 + N_FOLDS) or len(names) != N_CONFIGURATIONS:
        raise SystemExit(f"lost or doubled: {[key for key, _ in rows]}")
    return dict(rows)


def stored(folder: Path) -> list[tuple[Any, ...]]:
    """All runs: id, kind, status, name, id of the parent, metrics that are no times, predictions."""
    with closing(sqlite3.connect(folder / "mlruns" / "mlflow.db")) as connection:
        tags = "(select value from tags where run_uuid = r.run_uuid and key = '{}')"
        runs = connection.execute(
            f"select run_uuid, {tags.format('kind')}, status, name, {tags.format('mlflow.parentRunId')}, artifact_uri "
            "from runs r"
        ).fetchall()
        return [(*run, metrics_of(connection, run[0]), predictions_of(uri)) for *run, uri in runs]


def metrics_of(connection: sqlite3.Connection, run: str) -> list[tuple[str, float]]:
    """The last values, by name."""
    query = "select key, value from latest_metrics where run_uuid = ? and key not like 'seconds%' order by key"
    return connection.execute(query, (run,)).fetchall()


def predictions_of(uri: str) -> bytes:
    """The file as it is; nothing where there is none."""
    path = Path(uri.removeprefix("file://"), "predictions.csv")
    return path.read_bytes() if path.exists() else b""


if __name__ == "__main__":
    main()
