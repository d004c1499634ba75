"""The command: `python -m genre_cls.train` judges one configuration by cross-validation, with `-m` a grid of them.

Nothing heavy is imported before it is needed, so that `--help` and a typo are answered at once.
"""

import logging
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from contextlib import suppress
from itertools import product
from multiprocessing import parent_process
from pathlib import Path
from typing import Any, ClassVar
from uuid import uuid4

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.utils import JobReturn, JobStatus, configure_log
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from genre_cls.commands import AGAIN, as_word, check_command_line, one_line_errors
from genre_cls.errors import UserError, without_credentials
from genre_cls.extras import program
from genre_cls.lifeline import end_with
from genre_cls.settings import CONF, at_least, check, without_hydra
from genre_cls.workers import import_ahead, stopped_by_failure

log = logging.getLogger(__name__)

TRAINING = ("genre_cls.training", "genre_cls.data", "genre_cls.module")  # what workers import, which takes seconds


def main() -> None:
    """Run what the command line asks for; a mistake in it is told in one line, with exit code 2."""
    sys.argv[1:] = sorted(sys.argv[1:], key=lambda word: word not in ("-m", "--multirun"))  # Hydra wants them first
    with one_line_errors(AGAIN), stopped_by_failure():
        check_command_line(sys.argv[1:])
        try:
            evaluate_one()
        except Exception:
            with suppress(UserError):  # of a store that is away, say, which is told already
                Sweep.finish(complete=False)  # what did finish is worth one all the same
            raise
        Sweep.finish()


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def evaluate_one(cfg: DictConfig) -> float:
    """One job of Hydra's: judge one configuration, give its mean accuracy to the sweeper."""
    from genre_cls.experiment import evaluate
    from genre_cls.identity import identify

    if parent_process():  # in a launcher's worker, which would train on if the command were killed
        end_with(os.getppid())
    check(cfg)
    return evaluate(cfg, identify(cfg, HydraConfig.get()))


class Sweep(Callback):
    """What belongs to a whole command rather than to one configuration.

    Before the first job: every configuration is checked, and all features are extracted in one pass over the
    audio. After the last: the report. Hydra has a callback for that too, but calls it only if no job has failed.
    A search (`inside`) ends with its winner being judged by the fold that took no part in it, each fold its own winner.
    Hydra turns what a callback raises into a warning, but lets SystemExit pass: callbacks tell mistakes themselves.
    """

    # The class's own, since Hydra makes the instance, which `main` has no way to get.
    _under_way: tuple[DictConfig, str] | None = None  # the sweep's settings, and its command's id
    _best: ClassVar[dict[int, tuple[float, DictConfig]]] = {}  # accuracy and settings of a search's best, by its fold

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Prepare a single configuration."""
        _name_command()
        with one_line_errors(AGAIN):
            _prepare(config, [config])

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Prepare all configurations of a sweep, wherever the launcher runs them."""
        with one_line_errors(AGAIN):
            trials = config.hydra.sweeper.get("n_trials", 1)
            if not at_least(1).allows(trials):
                raise UserError(f"hydra.sweeper.n_trials={trials}: must be {at_least(1)}")
            _check_launcher(config)
            if config.inside and not _runs_here(config):
                raise UserError("inside=true: a search hears of its jobs with hydra/launcher=basic alone")
            _prepare(config, expand(config) or [config])
        Sweep._under_way = config, _name_command()

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Remember the best configuration of a search inside of each fold."""
        if job_return.status == JobStatus.COMPLETED and config.inside and Sweep._under_way:
            accuracy = job_return.return_value  # not a number if its split is impossible
            if accuracy > Sweep._best.get(config.fold, (-1,))[0]:
                Sweep._best[config.fold] = accuracy, config

    def on_run_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Say where to look at a single configuration."""
        if kwargs["job_return"].status != JobStatus.COMPLETED:
            return
        from genre_cls.connection import store_uri, ui_command

        log.info("look at the runs: %s", ui_command(store_uri(config.tracking.uri, Path(config.tracking.folder))))
        log.info("compare it with others: %s", _report_command(config))

    @classmethod
    def finish(cls, *, complete: bool = True) -> None:
        """Write the report of a sweep, if any configuration of it has finished, and judge the winners of a search.

        Args:
            complete: whether all jobs have ended well; a search that broke off has no winner yet.
        """
        if not cls._under_way:
            return
        from genre_cls.report import write_newest

        (config, command_id), cls._under_way = cls._under_way, None
        write_newest(config, sweep=command_id)
        best, cls._best = cls._best, {}
        for _, winner in best.values() if complete else ():
            _evaluate_winner(winner)


def _evaluate_winner(config: DictConfig) -> None:
    """Train a search's winner on all that chose it, and judge it by the fold that has not been looked at."""
    from genre_cls.experiment import evaluate
    from genre_cls.identity import identify

    log.info("chosen inside of fold=%d: %s", config.fold, " ".join(config.hydra.overrides.task))
    log.info("tested on fold=%d, which was not used for selection:", config.fold)
    cfg = without_hydra(config)
    cfg.inside, cfg.alone = False, True
    evaluate(cfg, identify(cfg, config.hydra))


def _name_command() -> str:
    """Put a random id of this command into the environment, from which jobs in other processes inherit it."""
    from genre_cls.tracking import COMMAND_ID

    os.environ[COMMAND_ID] = uuid4().hex
    return os.environ[COMMAND_ID]


def _prepare(config: DictConfig, configurations: Sequence[DictConfig]) -> None:
    """Check all configurations of a command and make what they are judged on, before the first is trained."""
    configure_log(config.hydra.job_logging)  # Hydra does so for each job, which is too late for this
    for cfg in configurations:
        check(cfg)
    if _runs_here(config) and any(cfg.trainer.workers != 1 for cfg in configurations):
        import_ahead(*TRAINING)
    from genre_cls.experiment import prepare

    prepare(configurations)


def _report_command(config: DictConfig) -> str:
    """What reports on the store that a configuration is in, from where this command runs."""
    usual = OmegaConf.load(CONF / "report.yaml")
    usual.tracking = OmegaConf.load(CONF / "tracking" / "local.yaml")
    keys = ("tracking.uri", "tracking.folder", "tracking.experiment", "report_dir", "rope")
    own = {key: value for key in keys if (value := OmegaConf.select(config, key)) != OmegaConf.select(usual, key)}
    words = (shlex.quote(without_credentials(as_word(key, value))) for key, value in own.items())
    return " ".join([program("python"), "-m genre_cls.report", *words])


def _check_launcher(config: DictConfig) -> None:
    """Refuse a launcher that cannot start a job here; submitit itself would tell it only when all is prepared."""
    if str(config.hydra.launcher._target_).endswith(".SlurmLauncher") and not shutil.which("srun"):
        way_out = "no srun on this machine; submitit_local or joblib start jobs here"
        raise UserError(f"hydra/launcher=submitit_slurm: {way_out}")


def _runs_here(config: DictConfig) -> bool:
    """Whether jobs run in this process, one after the other, rather than where a launcher takes them."""
    return str(config.hydra.launcher._target_).endswith(".BasicLauncher")


def expand(config: DictConfig) -> list[DictConfig]:
    """The configurations of a grid sweep; none for a sweeper that finds its configurations on the way.

    Args:
        config: the sweep's own, as Hydra hands it to callbacks.
    """
    if not config.hydra.sweeper._target_.endswith(".BasicSweeper"):
        return []
    loader = GlobalHydra.instance().config_loader()
    params = [f"{key}={values}" for key, values in (config.hydra.sweeper.params or {}).items()]
    overrides = OverridesParser.create(loader).parse_overrides([*params, *config.hydra.overrides.task])
    axes = {override.get_key_element(): _choices(override) for override in overrides}  # of one given twice, the last
    return [loader.load_sweep_config(config, list(job)) for job in product(*axes.values())]


def _choices(override: Override) -> list[str]:
    """The overrides of one value each that one of several stands for."""
    values = override.sweep_string_iterator() if override.is_sweep_override() else [override.get_value_element_as_str()]
    return [f"{override.get_key_element()}={value}" for value in values]


if __name__ == "__main__":
    from genre_cls import train  # the module that conf/config.yaml names; as __main__ it would be there twice

    train.main()
