"""Kill a small grid again and again until it completes, and compare its results with an undisturbed grid's.

Run as `scripts/torture.sh --kills 15`, with `--interrupt` by Ctrl-C; docs/reliability.md has results.
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
import traceback
from contextlib import closing, suppress
from dataclasses import dataclass
from multiprocessing.util import _run_finalizers  # type: ignore[attr-defined]
from pathlib import Path
from typing import Any

if __name__ != "__mp_main__":  # not in a worker, which must watch its parent before any slow import
    # The command's imports, so that no start repeats them.
    from genre_cls import report, train  # noqa: F401
    from genre_cls.configuration.commands import AGAIN
    from genre_cls.experiments import experiment  # noqa: F401
    from genre_cls.tracking.database import local_path

GRID = (
    "-m", "experiment=smoke", "recipe.members=[plain]", "dataset.tracks_per_genre=3", "dataset.seconds=2", "folds.k=3",
    "features=mfcc,mel", "model=basic", "batch_size=16", "trainer.device=cpu",
)  # fmt: skip
N_CONFIGURATIONS, N_FOLDS = 2, 3
SOON = 5  # s after which no process of a killed command may be left
LATEST = 15  # s for which an interrupted one may wait for its workers' imports, where the machine is busy

LOOK_UP = "as the demo set and its features were looked up"
FEATURES = "as the demo set or its features were made"
STORE = "as the store was made"
TRAINING = "in training, or as a configuration was logged"
WRITING = "amid a write to the store"
FOLD = "as a fold was kept or logged"
REPORT = "as the report was written"
ELSE = "between configurations, or as the report was computed, or at the exit"

Table = dict[tuple[str, str], Any]
Kills = dict[str, list[float]]  # phases, each with the seconds that the kills in it took


def main() -> None:
    """Kill, resume, compare; exit code 1 if anything is lost, duplicated, left open or different."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=15, help="how many")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--interrupt", action="store_true", help=f"by Ctrl-C, which must end it within {LATEST} s")
    options = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs and their children ignore it
    moments, n_rounds = random.Random(options.seed), 0
    kills: Kills = {}
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        finish(start(Path(folder, "undisturbed")))
        longest = time.monotonic() - began
        expected = table(Path(folder, "undisturbed"))
        while total(kills) < options.kills:
            n_rounds += 1
            torment(Path(folder, str(n_rounds)), longest, moments, options, kills)
            check(Path(folder, str(n_rounds)), expected)
    for moment, seconds in sorted(kills.items()):
        print(f"killed {len(seconds)} times {moment}: over in {min(seconds):.1f} to {max(seconds):.1f} s")
    print(f"{total(kills)} kills in {n_rounds} grids, each then equal to the undisturbed one")


def total(kills: Kills) -> int:
    """Return the number of kills."""
    return sum(map(len, kills.values()))


@dataclass
class Start:
    """A running command in a folder; `code` is its exit code, None until it has ended."""

    folder: Path
    pid: int
    began: float  # s since 1970
    code: int | None = None

    @property
    def stderr(self) -> str:
        """What it has written to stderr."""
        return (self.folder / "stderr").read_text()

    def send(self, *numbers: signal.Signals) -> None:
        """Send signals to the command and its workers, as a terminal does."""
        for number in numbers:
            os.killpg(self.pid, number)

    def ended(self, within: float = 0) -> bool:
        """Return whether the command ends within some seconds."""
        end = time.monotonic() + within
        while self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > end:
                return False
            else:
                time.sleep(0.01)
        return True


def torment(folder: Path, longest: float, moments: random.Random, options: argparse.Namespace, kills: Kills) -> None:
    """Start a grid again and again, killing it each time, until one start completes."""
    while total(kills) < options.kills:
        one = start(folder, workers=moments.choice((1, 2)))
        if not halted(one, longest, moments):
            finish(one)
            break
        moment, began = phase(one), time.monotonic()
        (interrupt if options.interrupt else kill)(one)
        kills.setdefault(moment, []).append(time.monotonic() - began)
        print(f"killed {moment}: over in {kills[moment][-1]:.1f} s", file=sys.stderr)
    finish(start(folder))


def start(folder: Path, workers: int = 1) -> Start:
    """Start the grid in a folder with a cache of its own; the number of workers does not change results."""
    folder.mkdir(exist_ok=True)
    (folder / "stderr").write_text("")
    pid = os.fork()
    if not pid:
        os.setpgid(0, 0)
        run(folder, [*GRID, f"trainer.workers={workers}"])
    with suppress(OSError):  # the child has done so itself, or even ended
        os.setpgid(pid, pid)
    return Start(folder, pid, time.time())


def run(folder: Path, arguments: list[str]) -> None:
    """Run the command as a user does, and end this process."""
    code = 1
    try:
        os.chdir(folder)
        os.environ["GENRE_CLS_CACHE"] = str(folder / "cache")
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(os.open("stderr", os.O_WRONLY), 2)
        sys.argv = ["genre_cls/train.py", *arguments]
        train.main()
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # or it would go on as the process that it was forked from
        sys.stderr.flush()
        _run_finalizers(0)  # an exit that skips them has Python complain about semaphores
        os._exit(code)


def finish(one: Start) -> None:
    """Wait for a command that is not killed, and exit if it fails."""
    one.ended(within=3600)
    if one.code:
        raise SystemExit(f"exit code {one.code}:\n{one.stderr}")


def halted(one: Start, longest: float, moments: random.Random) -> bool:
    """Stop a command at a random moment or, every other time, in a phase seldom hit so; False if it ends before."""
    fresh = not (one.folder / "mlruns").exists()
    wanted, after = moments.choice((None, None, FEATURES if fresh else FOLD, REPORT)), moments.uniform(0, longest)
    while not one.ended():
        if phase(one) == wanted if wanted else time.time() > one.began + after:
            time.sleep(moments.uniform(0, 0.05))
            one.send(signal.SIGSTOP)
            return True
        time.sleep(0.02)
    return False


def kill(one: Start) -> None:
    """Kill a command's main process; its workers must end, too."""
    os.kill(one.pid, signal.SIGKILL)
    one.send(signal.SIGCONT)
    one.ended(within=SOON)
    wait_for_the_end_of(one.pid)


def interrupt(one: Start) -> None:
    """Interrupt a command, which must end soon and report it in one line."""
    done, began = "compare the runs" in one.stderr, time.monotonic()
    one.send(signal.SIGINT, signal.SIGCONT)
    if not one.ended(within=LATEST):
        raise SystemExit(f"not over {LATEST} s after Ctrl-C:\n{one.stderr}")
    if one.code == 0 and (done or time.monotonic() - began < 0.5):  # it was ending, with nothing left to interrupt
        return
    lines = one.stderr.splitlines()
    if one.code != 130 or lines[-1:] != [f"interrupted{AGAIN}"] or "Traceback" in one.stderr:
        raise SystemExit(f"exit code {one.code}:\n{one.stderr}")
    wait_for_the_end_of(one.pid)


def phase(one: Start) -> str:
    """Return what a command is doing."""
    if any(changed(path) > one.began for path in one.folder.glob("cache/**/*.partial")):
        return FEATURES
    if "split: " not in one.stderr:
        return LOOK_UP
    if not (one.folder / "mlruns" / "mlflow.db").exists():
        return STORE
    try:
        with closing(sqlite3.connect(one.folder / "mlruns" / "mlflow.db")) as connection:
            query = "select value from tags join runs using (run_uuid) where key = 'kind' and status = 'RUNNING'"
            running = [kind for (kind,) in connection.execute(query)]
    except sqlite3.OperationalError:  # locked by the stopped command
        return WRITING
    if "fold" in running or any(one.folder.glob("mlruns/spool/*/*")):
        return FOLD
    if "report" in running or any(one.folder.glob("report/*.partial")):
        return REPORT
    return TRAINING if "config" in running else ELSE


def changed(path: Path) -> float:
    """Return when a file was last changed, s since 1970; 0 if it no longer exists."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0


def wait_for_the_end_of(group: int) -> None:
    """Wait until no process of a group is left, and exit if any is left for too long."""
    end = time.monotonic() + SOON
    while time.monotonic() < end:
        listed = subprocess.run(["ps", "-eo", "pgid=,stat="], capture_output=True, text=True, check=True).stdout
        states = [state for number, state in map(str.split, listed.splitlines()) if number == str(group)]
        if all(state.startswith("Z") for state in states):
            return
        time.sleep(0.1)
    raise SystemExit(f"workers outlive their main process by {SOON} s")


def check(folder: Path, expected: Table) -> None:
    """Compare the final store with an undisturbed grid's, and exit if it differs."""
    actual = table(folder)
    if actual != expected:
        different = [key for key in expected.keys() | actual if expected.get(key) != actual.get(key)]
        raise SystemExit(f"differs: {different}")
    if not (folder / "report" / "report.html").stat().st_size:
        raise SystemExit("no report")
    if halves := list(folder.rglob("*.partial")):
        raise SystemExit(f"half files: {halves}")


def table(folder: Path) -> Table:
    """Return metrics and predictions of each configuration and fold; exit unless each is stored once and finished."""
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
    """Return all runs: id, kind, status, name, parent's id, metrics but times, predictions."""
    with closing(sqlite3.connect(folder / "mlruns" / "mlflow.db")) as connection:
        tags = "(select value from tags where run_uuid = r.run_uuid and key = '{}')"
        runs = connection.execute(
            f"select run_uuid, {tags.format('kind')}, status, name, {tags.format('mlflow.parentRunId')}, artifact_uri "
            "from runs r"
        ).fetchall()
        return [(*run, metrics_of(connection, run[0]), predictions_of(uri)) for *run, uri in runs]


def metrics_of(connection: sqlite3.Connection, run: str) -> list[tuple[str, float]]:
    """Return a run's latest metrics, sorted by name."""
    query = "select key, value from latest_metrics where run_uuid = ? and key not like 'seconds%' order by key"
    return connection.execute(query, (run,)).fetchall()


def predictions_of(uri: str) -> bytes:
    """Return the content of a run's predictions; empty if there are none."""
    folder = local_path(uri)
    assert folder  # the store is no server's
    path = folder / "predictions.csv"
    return path.read_bytes() if path.exists() else b""


if __name__ == "__main__":
    main()
