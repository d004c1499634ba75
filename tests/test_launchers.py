"""Beyond one process: a launcher runs the jobs of a sweep elsewhere, and what is stored is what it would be here."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mlflow.entities import Run
from omegaconf import DictConfig
from shared import Command, Outcome, free_port, timeless
from test_resume import OnServer, Server

from genre_cls import train
from genre_cls.errors import UserError
from genre_cls.extras import how_to_install
from genre_cls.training import ensembles
from hydra_plugins import ray_launcher

GRID = ("-m", "features=mel", "model=basic", "batch_size=4,6")
PLUGINS = {"joblib": "hydra-joblib-launcher", "submitit_local": "hydra-submitit-launcher", "ray": "ray"}


def needs(launcher: str) -> pytest.MarkDecorator:
    """Skip where a launcher's plugin is not installed."""
    try:
        distribution(PLUGINS[launcher])
        missing = False
    except PackageNotFoundError:
        missing = True
    return pytest.mark.skipif(missing, reason=f"needs {PLUGINS[launcher]}")


LAUNCHERS = [pytest.param(launcher, marks=needs(launcher)) for launcher in PLUGINS]


def launched(folder: Path, *arguments: str) -> Outcome:
    """The command as a user gives it."""
    done = subprocess.run(
        [sys.executable, "-m", "genre_cls.train", *arguments], cwd=folder, capture_output=True, text=True, check=False,
        env=os.environ | {"COLUMNS": "200"},
    )  # fmt: skip
    return Outcome(folder, done.returncode, done.stdout, done.stderr)


@contextmanager
def two_jobs_at_once(launcher: str, folder: Path) -> Iterator[tuple[str, ...]]:
    """The settings with which two jobs run at once; on Ray, one on each of two machines (here, two on the loopback)."""
    if launcher != "ray":
        yield ("hydra.launcher.n_jobs=2",) if launcher == "joblib" else ()
        return
    port = free_port()
    address = f"127.0.0.1:{port}"
    head = ["--head", f"--port={port}", "--include-dashboard=false"]
    machines = []
    try:
        for options in (head, [f"--address={address}"]):
            log = folder / f"machine{len(machines)}.log"
            machines.append(ray_machine(log, *options))
            wait_until_joined(machines[-1], log)
        yield (f"hydra.launcher.ray.init.address={address}",)
    finally:
        for machine in reversed(machines):
            machine.terminate()
            machine.wait(60)


def ray_machine(log: Path, *options: str) -> subprocess.Popen[bytes]:
    """Start a machine of one core in a cluster of Ray's."""
    program = Path(sys.executable).with_name("ray")
    with log.open("w") as output:
        return subprocess.Popen(
            [program, "start", "--num-cpus=1", "--block", "--disable-usage-stats", *options],
            stdout=output, stderr=subprocess.STDOUT, env=os.environ | {"RAY_AUTH_MODE": "disabled"},
        )  # fmt: skip


def wait_until_joined(machine: subprocess.Popen[bytes], log: Path) -> None:
    waited_until = time.monotonic() + 60
    while "--block" not in log.read_text():  # its last words
        assert machine.poll() is None and time.monotonic() < waited_until, log.read_text()
        time.sleep(0.2)


def numbers(outcome: Any) -> dict[tuple[str, ...], dict[str, float]]:
    """Metrics but times, of each configuration and each fold."""
    return {
        (parent.info.run_name, run.info.run_name): _numbers(run)
        for parent in outcome.parents
        for run in (parent, *outcome.children(parent))
    }


def _numbers(run: Run) -> dict[str, float]:
    assert run.info.status == "FINISHED"
    return timeless(run)


@pytest.mark.slow
@pytest.mark.usefixtures("store_here")
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_jobs_that_run_elsewhere_end_as_those_that_run_here_with_one_report(
    command: Command, on_music: tuple[str, ...], tmp_path: Path, launcher: str
) -> None:
    here = command(train.main, *GRID, *on_music, "trainer.workers=1")
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    there = launched(folder, *GRID, *on_music, f"hydra/launcher={launcher}", "trainer.workers=1")
    assert there.code == 0, there.err
    assert {run.data.tags["command"] for run in there.parents} == {there.parents[0].data.tags["command"]}
    assert there.parents[0].data.tags["command"].startswith("python -m genre_cls.train -m ")
    assert numbers(there) == numbers(here) and len(numbers(there)) == 2 * (1 + 2)
    report = (folder / "report" / "report.md").read_text()
    assert "rank" in there.out and "| 4 |" in report and "| 6 |" in report
    assert there.err.count("features: ") == 1  # said by whoever prepares them


@pytest.mark.slow
@pytest.mark.usefixtures("store_here")
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_one_job_a_fold_on_one_server_is_one_configuration_on_one_thread_a_job(
    command: Command, on_music: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, launcher: str
) -> None:
    (tmp_path / "noting.py").write_text(
        "import os, torch\n"
        "from genre_cls.models import GenreCNN\n"
        "class Noting(GenreCNN):\n"
        "    def forward(self, features):\n"
        "        if self.training and len(features) > 2:\n"  # which is no trial
        "            with open(os.environ['NOTES'], 'a') as notes:\n"
        "                notes.write(f'{os.getpid()} {torch.get_num_threads()} {os.getppid()}\\n')\n"
        "        return super().forward(features)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    notes = {name: tmp_path / f"{name}.txt" for name in ("here", "there")}
    one = ("-m", "features=mel", "model=basic", "model._target_=noting.Noting", "batch_size=4")
    on_three = (*on_music, "folds.k=3")
    monkeypatch.setenv("NOTES", str(notes["here"]))
    here = command(train.main, *one, *on_three, "trainer.workers=1")
    monkeypatch.setenv("NOTES", str(notes["there"]))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    server = Server(folder)
    try:
        jobs = ("fold=0,1,2", f"hydra/launcher={launcher}", f"tracking.uri={server.uri}")
        with two_jobs_at_once(launcher, folder) as settings:
            there = launched(folder, *one, *on_three, *jobs, *settings)
    finally:
        server.stop()
    assert there.code == 0, there.err
    stored = OnServer(folder, 0, "", "")
    assert numbers(stored) == numbers(here) and len(stored.parents) == 1
    assert {line.split()[1] for line in notes["there"].read_text().splitlines()} == {"1"}
    processes, _, parents = zip(*(line.split() for line in notes["there"].read_text().splitlines()), strict=True)
    assert len(set(processes)) > 1
    assert launcher != "ray" or len(set(parents)) == 2  # jobs of Ray's are children of their machine's own process
    report = (folder / "report" / "report.md").read_text()
    assert "| 1 |" in report and "| 2 |" not in report and not list(folder.glob("mlruns/spool/*"))


@pytest.mark.slow
@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_job_that_fails_elsewhere_is_reported_in_one_line_and_the_others_are_reported(
    on_music: tuple[str, ...], tmp_path: Path, launcher: str
) -> None:
    rates = "recipe.optimizer.lr=0.003,1e30"
    grid = ("-m", "features=mel", "model=basic", "batch_size=4", rates)
    got = launched(tmp_path, *grid, *on_music, "recipe.epochs=4", f"hydra/launcher={launcher}")
    assert got.code == 2 and "Traceback" not in got.err
    assert [line for line in got.err.splitlines() if line.startswith("error: ")] == [
        "error: mel basic 4 lr=1e+30 epochs=4 window=0.5 k=2 members=plain: training has diverged to infinity; "
        "a lower recipe.optimizer.lr may help"
    ]
    assert sorted(run.info.status for run in got.parents) == ["FAILED", "FINISHED"]
    assert (tmp_path / "report" / "report.html").exists()


def test_where_a_launcher_runs_jobs_in_parallel_each_trains_its_folds_in_turn(
    composed: Callable[..., DictConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ensembles, "cpu_count", lambda: 4)
    here: dict[str, str] = {}
    task: Any = None  # which only a GPU minds
    found: list[int] = []
    for parent, job in ((None, here), ("the command's process", here), (None, {"SUBMITIT_EXECUTOR": "local"})):
        monkeypatch.setattr(ensembles, "parent_process", lambda parent=parent: parent)
        for workers in (0, 3):
            with monkeypatch.context() as patch:
                for name, value in job.items():
                    patch.setenv(name, value)
                found.append(ensembles.n_workers(composed(f"trainer.workers={workers}", "trainer.device=cpu"), task))
    assert found == [4, 3, 1, 1, 1, 3]


@pytest.mark.parametrize(
    ("memory", "tracks", "models"), [(80e9, 1e6, 13), (80e9, 1e9, 13), (80e9, 15e9, 4), (24e9, 1e6, 4), (2e9, 1e6, 1)]
)
def test_a_gpu_is_shared_by_as_many_models_as_it_has_memory_for(
    composed: Callable[..., DictConfig], monkeypatch: pytest.MonkeyPatch, memory: float, tracks: float, models: int
) -> None:
    monkeypatch.setattr(ensembles, "cpu_count", lambda: 16)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda: (9, 0))
    monkeypatch.setattr("torch.cuda.get_arch_list", lambda: ["sm_90"])
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda _: SimpleNamespace(total_memory=memory))
    task: Any = SimpleNamespace(features=SimpleNamespace(clips=[SimpleNamespace(nbytes=tracks)]))
    assert ensembles.n_workers(composed("trainer.device=cuda"), task) == models


def test_a_launchers_worker_ends_with_the_command(
    composed: Callable[..., DictConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    ends_with: list[int] = []
    monkeypatch.setattr(train, "end_with", ends_with.append)
    for parent, watched in ((None, []), ("the command's process", [os.getppid()])):
        monkeypatch.setattr(train, "parent_process", lambda parent=parent: parent)
        with pytest.raises(UserError, match="seed"):  # there is nothing to judge here
            train.evaluate_one.__wrapped__(composed("seed=-1"))
        assert ends_with == watched


@needs("submitit_local")
def test_a_job_for_slurm_where_there_is_none_is_refused_before_any_work(
    command: Command, on_music: tuple[str, ...], here: Path
) -> None:
    got = command(train.main, *GRID, *on_music, "hydra/launcher=submitit_slurm")
    reason = "hydra/launcher=submitit_slurm: no srun on this machine; submitit_local or joblib start jobs here"
    assert got.mistake == f"error: {reason}" and not list(here.iterdir())


@needs("ray")
@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ("init.address=127.0.0.1:1", "Connection refused"),
        ("init.colour=red", "RuntimeError: Unknown keyword argument(s): colour"),
    ],
)
def test_a_cluster_that_ray_cannot_use_is_named_in_one_line(
    command: Command, on_music: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, setting: str, reason: str
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")  # as the launcher sets it, but not for other tests
    got = command(train.main, *GRID, *on_music, "hydra/launcher=ray", f"++hydra.launcher.ray.{setting}")
    (line,) = (line for line in got.err.splitlines() if line.startswith("error: "))
    assert got.code == 2 and line.startswith("error: hydra.launcher.ray.init={") and line.endswith(reason)


@pytest.mark.slow
@needs("ray")
@pytest.mark.usefixtures("here")
def test_a_job_of_rays_trains_as_many_models_at_once_as_it_has_cores_and_is_refused_more_than_there_are(
    on_music: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "counting.py").write_text(
        "import os\n"
        "from genre_cls.models import GenreCNN\n"
        "class Counting(GenreCNN):\n"
        "    def forward(self, features):\n"
        "        with open('processes', 'a') as notes:\n"
        "            self.training and len(features) > 2 and notes.write(f'{os.getpid()}\\n')\n"
        "        return super().forward(features)\n"
    )
    one = ("-m", *on_music, "features=mel", "model=basic", "batch_size=4", "model._target_=counting.Counting")
    jobs = ("hydra/launcher=ray", "+hydra.launcher.ray.init.num_cpus=2", "trainer.workers=0", "force=true")
    got = launched(tmp_path, *one, *jobs, "hydra.launcher.ray.remote.num_cpus=2")
    assert got.code == 0 and len(set((tmp_path / "processes").read_text().split())) == 2, got.err
    refused = launched(tmp_path, *one, *jobs, "hydra.launcher.ray.remote.num_cpus=3")
    assert refused.code == 2
    assert refused.err.splitlines()[-1] == "error: hydra.launcher.ray.remote.num_cpus=3: this machine has 2"


@needs("ray")
def test_a_job_of_rays_has_the_commands_environment_but_for_what_ray_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GTZAN_ROOT", "RAY_ADDRESS", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.setenv(name, "mine")
    environment = ray_launcher._environment(cores=4.0)
    assert environment["LOKY_MAX_CPU_COUNT"] == "4" and environment["GTZAN_ROOT"] == "mine"
    assert not environment.keys() & {"RAY_ADDRESS", "CUDA_VISIBLE_DEVICES"}
    assert ray_launcher._environment(cores=0.5)["LOKY_MAX_CPU_COUNT"] == "1"


def test_without_ray_its_launcher_says_how_to_install_it(
    command: Command, on_music: tuple[str, ...], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    got = command(train.main, *GRID, *on_music, "hydra/launcher=ray")
    reason = f"hydra/launcher=ray: Ray is not installed; {how_to_install('ray')} installs it"
    assert got.mistake == f"error: {reason}" and not list(here.iterdir())


@needs("joblib")
def test_a_launcher_without_a_sweep_to_start_is_refused(command: Command, on_music: tuple[str, ...]) -> None:
    got = command(train.main, *on_music, "hydra/launcher=joblib")
    assert got.mistake == "error: hydra/launcher: starts only the jobs of a sweep; add -m"


@needs("joblib")
def test_a_search_is_refused_on_a_launcher(command: Command, on_music: tuple[str, ...]) -> None:
    got = command(train.main, *GRID, *on_music, "fold=0", "inside=true", "hydra/launcher=joblib")
    assert got.code == 2
    assert got.err.splitlines() == ["error: inside=true: a search runs with hydra/launcher=basic alone"]
