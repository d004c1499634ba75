"""The command `python -m genre_cls.train`: cross-validates one configuration, with `-m` a grid of them.

Nothing heavy is imported before it is needed, so that `--help` and typos are answered at once.
"""

import logging
import os
import shutil
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from multiprocessing import parent_process
from typing import Any, ClassVar

import hydra
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus, configure_log
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from genre_cls.configuration.commands import AGAIN, as_command, find_modules_here, one_line_errors
from genre_cls.configuration.overrides import as_word, check_command_line, is_sweep, key_of, typed
from genre_cls.configuration.provenance import name_command
from genre_cls.configuration.settings import CONF, REPORTED, as_yaml, at_least, check, without_hydra
from genre_cls.errors import UserError, without_credentials
from genre_cls.extras import how_to_install, program
from genre_cls.processes.interrupts import ends_at_once, raise_again
from genre_cls.processes.workers import end_with, import_ahead, stop, stopped_by_failure
from genre_cls.progress import waiting

log = logging.getLogger(__name__)

NOT_SEARCHED = ("dataset", "drop_faults", "fold", "folds", "inside", "max_unreadable", "seed", "shuffle_genres")
IMPORTED_AHEAD = ("genre_cls.training.member", "genre_cls.training.module")  # by workers, which takes seconds


def main() -> None:
    """Run what the command line asks for; a mistake in it is reported in one line, with exit code 2."""
    sys.argv[1:] = sorted(sys.argv[1:], key=lambda word: word not in ("-m", "--multirun"))  # Hydra wants them first
    find_modules_here()
    with as_command(AGAIN), stopped_by_failure(), ends_at_once():
        check_command_line(sys.argv[1:])
        try:
            evaluate_one()
        except Exception:
            with suppress(UserError):  # of an unreachable store, say, which has been reported already
                Sweep.finish(complete=False)  # what did finish deserves a report all the same
            raise
        Sweep.finish()


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def evaluate_one(cfg: DictConfig) -> float:
    """Run one of Hydra's jobs: evaluate a configuration and return its mean accuracy to the sweeper."""
    from genre_cls.configuration.identity import identify
    from genre_cls.experiments.experiment import evaluate

    if parent_process():  # in a launcher's worker, which would train on if the command were killed
        end_with(os.getppid())
    _check_settings(cfg)
    return evaluate(cfg, identify(cfg, HydraConfig.get()))


class Sweep(Callback):
    """What belongs to a whole command rather than to one configuration.

    Before the first job, every configuration is checked and all features are extracted in one pass over the audio.
    After the last comes the report (Hydra's own callback for that is called only if no job has failed). A search
    (`inside`) ends with testing the winner of each fold on that fold, which took no part in the search.
    Hydra turns what a callback raises into a warning but lets SystemExit pass, so callbacks report mistakes themselves.
    """

    # Attributes of the class, since Hydra makes the instance and `main` has no way to get it.
    _under_way: tuple[DictConfig, str] | None = None  # the sweep's settings, and its command's id
    # Accuracy and settings of a search's best trial, by what decides the tracks that it sets aside: trials that set
    # others aside have learned from these.
    _best: ClassVar[dict[str, tuple[float, DictConfig]]] = {}

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Prepare a single configuration."""
        with one_line_errors(AGAIN):
            if not _runs_here(config):
                raise UserError("hydra/launcher: starts only the jobs of a sweep; add -m")
            _prepare(config, [config])
        name_command()

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Prepare all configurations of a sweep, wherever the launcher will run them."""
        with one_line_errors(AGAIN):
            _check_sweep(config)
            _keep_what_a_preset_sets(config)
            if config.hydra.sweeper._target_.endswith(".OptunaSweeper"):
                _check_search(config)
                _silence_optuna()
            _prepare(config, _expand(config) or [config])
        Sweep._under_way = config, name_command()

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Remember the best trial of a search inside each fold, and keep passwords from Hydra's line on a failure."""
        job_return.overrides = [without_credentials(word) for word in job_return.overrides or ()]
        if job_return.status == JobStatus.COMPLETED and config.inside and Sweep._under_way:
            from genre_cls.training.dataset import data_settings

            accuracy = job_return.return_value  # 0 if it has diverged, or its split is impossible
            set_aside = as_yaml(config, "fold", "folds") + data_settings(config)
            if accuracy > Sweep._best.get(set_aside, (0.0,))[0]:
                Sweep._best[set_aside] = accuracy, config

    def on_run_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Log how to look at a single configuration."""
        if kwargs["job_return"].status != JobStatus.COMPLETED:
            return
        from genre_cls.configuration.identity import is_part
        from genre_cls.tracking.connection import store_uri, ui_command

        log.info("look at the runs: %s", ui_command(store_uri(config.tracking.uri, config.tracking.folder)))
        if not is_part(config):  # which reports leave out until all folds are there
            log.info("compare it with others: %s", _report_command(config))

    @classmethod
    def finish(cls, *, complete: bool = True) -> None:
        """Write the report of a sweep if any configuration has finished, and test the winners of a search.

        Args:
            complete: whether all jobs have succeeded; a search that broke off has no winner yet.
        """
        if not cls._under_way:
            return
        from genre_cls.report import write_newest

        (config, command_id), cls._under_way = cls._under_way, None
        stop()  # workers keep what memory they once had, and the report takes some
        write_newest(config, command_id=command_id)
        best, cls._best = cls._best, {}
        if not complete:
            return
        if config.inside and not best:
            raise UserError(
                "every trial of this search has diverged or recognises nothing, so it has no winner to test"
            )
        for _, winner in best.values():
            _evaluate_winner(winner)


def _evaluate_winner(config: DictConfig) -> None:
    """Train a search's winner on all tracks of the search, and test it on the fold that was set aside."""
    from genre_cls.configuration.identity import identify
    from genre_cls.experiments.experiment import evaluate

    cfg = without_hydra(config)
    cfg.inside, cfg.alone = False, True
    words = [word for word in config.hydra.overrides.task if key_of(word) != "inside"]
    with read_write(config.hydra):
        config.hydra.overrides.task = words  # which name the run
    chosen = " ".join(words)
    log.info("chosen within fold=%d, the most accurate of this command's trials: %s", config.fold, chosen)
    log.info("tested on fold=%d, which was not used for selection:", config.fold)
    evaluate(cfg, identify(cfg, config.hydra))


def _prepare(config: DictConfig, configurations: Sequence[DictConfig]) -> None:
    """Check all configurations of a command and extract their features, before the first is trained."""
    raise_again()
    configure_log(config.hydra.job_logging)  # Hydra does so at each job, which is too late here
    if config.hydra.job.chdir:
        raise UserError("hydra.job.chdir=true: would put runs and the report elsewhere than is said; leave it out")
    for cfg in configurations:
        _check_settings(cfg)
        _check_root(cfg)
    if len({as_yaml(cfg, *REPORTED) for cfg in configurations}) > 1:
        raise UserError("tracking, report_dir, rope: must be the same for all configurations, which get one report")
    if _runs_here(config) and any(cfg.trainer.workers != 1 for cfg in configurations):
        import_ahead(*IMPORTED_AHEAD)
    with waiting("starting"):
        from genre_cls.experiments.experiment import prepare

    prepare(configurations)


def _check_settings(cfg: DictConfig) -> None:
    """Check each setting by itself, and those that choose a fold together."""
    check(cfg)
    if cfg.inside and cfg.alone:
        raise UserError("inside=true alone=true: a fold is either split again or evaluated; choose one")
    if cfg.inside and cfg.fold is None:
        raise UserError("inside=true: needs the fold within which settings are chosen, such as fold=0")
    if cfg.alone and cfg.fold is None:
        raise UserError("alone=true: needs the fold to evaluate, such as fold=0")


def _check_root(cfg: DictConfig) -> None:
    """Let a data set say what is wrong with its folder before all else is imported, which takes seconds."""
    if "root" in cfg.dataset:
        from genre_cls.training.dataset import catalogue_of

        catalogue_of(cfg)


def _report_command(config: DictConfig) -> str:
    """Return the command that reports on the store of a configuration, as it can be typed here."""
    defaults = OmegaConf.load(CONF / "report.yaml")
    defaults.tracking = OmegaConf.load(CONF / "tracking" / "local.yaml")
    values = {key: OmegaConf.select(config, key) for key in REPORTED}
    others = {key: value for key, value in values.items() if value != OmegaConf.select(defaults, key)}
    words = typed(as_word(key, value) for key, value in others.items())
    return f"{program('python')} -m genre_cls.report {words}".rstrip()


def _check_sweep(config: DictConfig) -> None:
    """Refuse a sweep that would fail only after all the preparation, such as by a launcher that cannot work here."""
    if config.inside and not _runs_here(config):
        raise UserError("inside=true: a search runs with hydra/launcher=basic alone")
    launcher = str(config.hydra.launcher._target_)
    if launcher.endswith(".SlurmLauncher") and not shutil.which("srun"):
        hint = "no srun on this machine; submitit_local or joblib start jobs here"
        raise UserError(f"hydra/launcher=submitit_slurm: {hint}")
    if launcher.endswith(".RayLauncher") and not find_spec("ray"):
        raise UserError(f"hydra/launcher=ray: Ray is not installed; {how_to_install('ray')} installs it")


def _keep_what_a_preset_sets(config: DictConfig) -> None:
    """Take those axes out of the default sweep that a preset sets to anything but the default.

    A preset that names the default sweep's very values as its own is not told from one that names none.

    Args:
        config: the sweep's own, from which Hydra then makes its sweeper.
    """
    own = OmegaConf.load(CONF / "config.yaml")
    defaults = OmegaConf.merge(own, *filter(OmegaConf.is_dict, own.defaults))
    sweeper, options = config.hydra.sweeper, config.hydra.runtime.choices
    for axis, values in own.hydra.sweeper.params.items():
        is_set = options.get(axis, config.get(axis)) != defaults[axis]
        if is_set and (sweeper.params or {}).get(axis) == values:
            with read_write(sweeper), open_dict(sweeper):
                del sweeper.params[axis]


def _check_search(config: DictConfig) -> None:
    """Refuse what Optuna fails on in many lines, and to search for the fold or the data that are easiest."""
    sweeper = config.hydra.sweeper
    if not at_least(1).allows(sweeper.n_trials):
        raise UserError(f"hydra.sweeper.n_trials={sweeper.n_trials}: must be {at_least(1)}")
    if (direction := str(sweeper.direction).rpartition(".")[2]) != "maximize":  # the plugin has an enumeration for it
        raise UserError(f"hydra.sweeper.direction={direction}: must be maximize, as trials return their accuracy")
    for option in ("storage", "search_space", "custom_search_space"):
        if sweeper.get(option):
            raise UserError(f"hydra.sweeper.{option}: is not supported; leave it out")
    for word in (*(sweeper.params or ()), *filter(is_sweep, config.hydra.overrides.task)):
        if key_of(word).partition(".")[0] in NOT_SEARCHED:
            raise UserError(f"{word}: a search compares trials on the same tracks; run one command for each")


def _silence_optuna() -> None:
    """Keep Optuna from announcing its study on stderr; our own lines name each trial."""
    import optuna

    optuna.logging.set_verbosity(logging.WARNING)


def _runs_here(config: DictConfig) -> bool:
    """Return whether jobs run in this process, one after the other, rather than in a launcher's."""
    return str(config.hydra.launcher._target_).endswith(".BasicLauncher")


def _expand(config: DictConfig) -> list[DictConfig]:
    """Return the configurations of a grid sweep; none for a sweeper that chooses its configurations as it goes.

    Args:
        config: the sweep's own, as Hydra passes it to callbacks.
    """
    if not config.hydra.sweeper._target_.endswith(".BasicSweeper"):
        return []
    loader = GlobalHydra.instance().config_loader()
    params = [f"{key}={values}" for key, values in (config.hydra.sweeper.params or {}).items()]
    overrides = OverridesParser.create(loader).parse_overrides([*params, *config.hydra.overrides.task])
    (jobs,) = BasicSweeper.split_arguments(overrides, max_batch_size=None)
    if not jobs:
        swept = [override for override in overrides if override.is_sweep_override()]
        word = next(override.input_line for override in swept if not list(override.sweep_string_iterator()))
        raise UserError(f"{word}: gives no value, so that there is nothing to train")
    return [loader.load_sweep_config(config, job) for job in jobs]


if __name__ == "__main__":
    from genre_cls import train  # the module that conf/config.yaml names; as __main__ it would be there twice

    train.main()
