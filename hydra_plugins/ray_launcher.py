"""Hydra's launcher `ray`: each job of a sweep is a task of a Ray cluster, on this machine or on several.

It takes the settings of Hydra's own plugin for Ray, which cannot be installed beside joblib: they require different
versions of cloudpickle. Hydra finds launchers in this folder only, and imports all that it finds: so Ray itself is
imported when jobs are launched.
"""

import os
import pickle
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from genre_cls.errors import UserError, in_short

PATIENCE = 10  # s until a cluster's address must answer


class RayLauncher(Launcher):
    """Runs jobs as tasks of a Ray cluster and waits for all of them.

    Args:
        ray: `init`, the arguments of `ray.init`, and `remote`, each task's options (`conf/hydra/launcher/ray.yaml`).
    """

    def __init__(self, ray: DictConfig) -> None:
        self.settings: Any = OmegaConf.to_container(ray, resolve=True)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what jobs need, as Hydra's `Launcher` says."""
        self.context, self.task, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run one job per list of overrides; a job that Ray could not run counts as failed.

        Raises:
            UserError: the cluster cannot be reached, has no room for a job, or Ray refuses a setting.
        """
        ray = _connect(self.settings["init"])
        if self.settings["init"].get("address") == "local":  # other clusters may grow
            self._check_resources(ray.cluster_resources())
        numbered = enumerate(job_overrides, start=initial_job_idx)
        tasks = [self._submit(ray, number, overrides) for number, overrides in numbered]
        return [_outcome(ray, task) for task in tasks]

    def _check_resources(self, present: Mapping[str, float]) -> None:
        """Refuse jobs that this machine will never have room for, for which Ray would wait for ever."""
        for option, resource in (("num_cpus", "CPU"), ("num_gpus", "GPU")):
            wanted, there = self.settings["remote"].get(option), present.get(resource, 0)
            if isinstance(wanted, int | float) and wanted > there:
                raise UserError(f"hydra.launcher.ray.remote.{option}={wanted}: this machine has {there:g}")

    def _submit(self, ray: Any, number: int, overrides: Sequence[str]) -> Any:
        config = self.context.config_loader.load_sweep_config(self.config, list(overrides))
        with open_dict(config):
            config.hydra.job.num, config.hydra.job.id = number, f"{config.hydra.job.name}_{number}"
        job = ray.cloudpickle.dumps((self.context, config, self.task, Singleton.get_state()))
        options = {"name": f"job {number}"} | self.settings["remote"]
        try:
            environment = _environment(cores=float(options.get("num_cpus", 1)))
            return ray.remote(_run).options(**options).remote(str(Path.cwd()), sys.path, environment, job)
        except (TypeError, ValueError) as error:
            raise UserError(f"hydra.launcher.ray.remote={options}: {in_short(error)}") from error


def _connect(settings: dict[str, Any]) -> Any:
    """Import Ray and connect to a cluster, or start one that ends with this process."""
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")  # lines of different jobs may be alike
    if settings.get("address") == "local":
        os.environ.setdefault("RAY_AUTH_MODE", "token")  # Ray's default for such a cluster, but without its warning
    import ray

    if not ray.is_initialized():
        try:
            _check_address(settings.get("address"))
            ray.init(**settings)
        except (OSError, RuntimeError, TypeError, ValueError, ray.exceptions.RayError) as error:
            raise UserError(f"hydra.launcher.ray.init={settings}: {in_short(error)}") from error
    return ray


def _check_address(address: str | None) -> None:
    """Raise an `OSError` if nothing answers at `host:port`, where Ray would try for two minutes."""
    host, _, port = str(address).rpartition("//")[2].rpartition(":")
    if port.isdigit():
        socket.create_connection((host, int(port)), PATIENCE).close()


def _environment(cores: float) -> dict[str, str]:
    """Return this process's environment for a job, less what Ray sets there itself.

    Args:
        cores: of the job; `joblib.cpu_count` returns them there, so that as many models are trained at once.
    """
    own = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "CUDA_VISIBLE_"))}
    return own | {"LOKY_MAX_CPU_COUNT": str(max(1, int(cores)))}


def _run(folder: str, path: list[str], environment: dict[str, str], job: bytes) -> JobReturn:
    """Run a job in one of Ray's processes, in the folder and with the import path that the command has."""
    os.chdir(folder)
    sys.path[:] = path
    os.environ.update(environment)
    context, config, task, singletons = pickle.loads(job)
    setup_globals()
    Singleton.set_state(singletons)
    HydraConfig.instance().set_config(config)
    return run_job(
        hydra_context=context,
        task_function=task,
        config=config,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )


def _outcome(ray: Any, task: Any) -> JobReturn:
    try:
        return ray.get(task)
    except ray.exceptions.RayError as error:  # such as a process or a machine that was lost
        failed = JobReturn(status=JobStatus.FAILED)
        failed.return_value = UserError(f"a job was lost by Ray: {in_short(error)}")
        return failed
