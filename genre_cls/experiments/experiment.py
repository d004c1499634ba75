"""Evaluates the configurations of a command: prepares all of them, then cross-validates one after the other."""

import gc
import logging
import math
from collections.abc import Sequence
from functools import cache
from typing import cast

from omegaconf import DictConfig, OmegaConf

from genre_cls.configuration.identity import Identity
from genre_cls.configuration.settings import as_yaml
from genre_cls.errors import DivergenceError, UserError
from genre_cls.evaluation.findings import accuracy_text, interval_text
from genre_cls.evaluation.scoring import ConfigResult
from genre_cls.experiments.job import Job
from genre_cls.experiments.upcoming import Upcoming
from genre_cls.files import check_place, expanduser
from genre_cls.progress import waiting
from genre_cls.tracking import database
from genre_cls.tracking.connection import store_uri
from genre_cls.tracking.tracker import Tracker
from genre_cls.training.building import check_buildable, network_views
from genre_cls.training.preparation import prepare_data
from genre_cls.training.task import load

log = logging.getLogger(__name__)

_upcoming = Upcoming()


def prepare(configurations: Sequence[DictConfig]) -> None:
    """Check that configurations can run, and extract their features.

    Args:
        configurations: composed, their settings checked, all with one tracking store and `report_dir`.

    Raises:
        UserError: no data, too much of it unreadable, too little for the folds, no such device or server.
    """
    gc.freeze()  # or each garbage collection among thousands of tracks visits all that is loaded, which takes 0.3 s
    first = configurations[0]
    _check_store(first.tracking)
    check_place(expanduser(first.report_dir), f"report_dir={first.report_dir}")
    with waiting("trying the models out"):
        for cfg in configurations:
            _check_buildable(cfg)
    if len(configurations) > 1 and not all(map(network_views, configurations)):
        idle = "model, batch_size, recipe.epochs and recipe.ridge change nothing"
        log.warning("recipe.members: where no network votes, %s", idle)
    prepare_data(configurations)
    with waiting("opening the store"):
        tracker = Tracker(first.tracking.uri, first.tracking.folder)
        with tracker.failures_in_one_line():
            tracker.close_dead()
    _upcoming.coming = configurations


def _check_store(tracking: DictConfig) -> None:
    """Report an unreachable server or a damaged store before the work, not after."""
    if not tracking.uri and tracking.experiment == "Default":  # whose files MLflow keeps wherever it is run
        raise UserError("tracking.experiment=Default: is MLflow's own; choose another name")
    store_uri(tracking.uri, tracking.folder)  # which refuses a folder that MLflow would mistake for another
    for part in ("spool",) if tracking.uri else ("spool", "artifacts"):
        check_place(expanduser(tracking.folder) / part, f"tracking.folder={tracking.folder}")
    if tracking.uri or database.has_database(tracking.folder):
        Tracker(tracking.uri, tracking.folder)


def evaluate(cfg: DictConfig, identity: Identity) -> float:
    """Cross-validate one configuration and log it; folds that an earlier command has finished are reused.

    A job of a single fold leaves the others to other jobs; the job that finds all of them completes the configuration.

    Args:
        cfg: the configuration, composed, its settings checked.
        identity: of the configuration.

    Returns:
        Mean accuracy of the finished folds; 0 for a trial of a search that has diverged. If the split is impossible and
        `skip_impossible` is set, NaN, or 0 for a trial.

    Raises:
        UserError: the data or the device do not allow it.
    """
    job = _upcoming.take(identity)
    if not job:
        _check_buildable(cfg)  # `prepare` does not know a search's trials
        task = load(cfg)
        if task is None:
            return 0.0 if cfg.inside else math.nan
        job = Job(cfg, task, identity)
    try:
        with job.tracker.failures_in_one_line():
            job.run(_upcoming.begin, is_last=not _upcoming.coming)
    except DivergenceError as error:
        if not cfg.inside:
            raise DivergenceError(f"{identity.title}: {error}") from error
        log.warning("%s: %s; the search goes on", identity.title, error)
        return 0.0
    log.info("%s: %s", identity.title, _in_words(job.result, job.missing))
    return job.result.estimate("accuracy").mean


def _check_buildable(cfg: DictConfig) -> None:
    _check_built_of(as_yaml(cfg, "features", "model", "recipe", "trainer"))


@cache  # most configurations of a sweep are built of the same
def _check_built_of(settings: str) -> None:
    check_buildable(cast(DictConfig, OmegaConf.create(settings)))


def _in_words(result: ConfigResult, missing: Sequence[int]) -> str:
    if missing:
        n, others = len(result.folds), ",".join(map(str, missing))
        done = f"{n} of {n + len(missing)} folds {'is' if n == 1 else 'are'} done"
        return f"{done}; other jobs, or the same command without fold=, train fold={others}"
    return (
        f"accuracy {accuracy_text(result)} % (95 % CI {interval_text(result)}), {result.seconds_per_fold:.1f} s a fold"
    )
