"""The configurations that a command has yet to evaluate; some start while the present one is still training.

So no worker idles until a configuration's last fold is trained and logged.
"""

from collections.abc import Sequence
from contextlib import suppress

from omegaconf import DictConfig

from genre_cls.configuration.identity import Identity, identify
from genre_cls.configuration.settings import without_hydra
from genre_cls.errors import UserError
from genre_cls.experiments.job import Job
from genre_cls.processes import workers
from genre_cls.tracking.stored_runs import FAILURES
from genre_cls.training.ensembles import n_workers
from genre_cls.training.task import load


class Upcoming:
    """The command's remaining configurations, and the jobs of the first ones, which have begun."""

    def __init__(self) -> None:
        self.coming: Sequence[DictConfig] = []  # in order, each with Hydra's own settings
        self.begun: list[Job] = []  # jobs of the first of these

    def take(self, identity: Identity) -> Job | None:
        """Return the job of the configuration whose turn it is, if it has begun; otherwise give up all that have.

        Args:
            identity: of that configuration.
        """
        self.coming = self.coming[1:]
        stopped = any(job.n_models for job in self.begun) and not workers.has_pool()  # with the models of all of them
        if self.begun and not stopped and self.begun[0].identity.fingerprint == identity.fingerprint:
            return self.begun.pop(0)
        for job in self.begun:
            job.give_up()
        self.begun = []
        return None

    def begin(self, n_at_once: int) -> None:
        """Begin enough configurations to give each worker another model; stop at one that has none or cannot begin.

        Args:
            n_at_once: number of workers.
        """
        if n_at_once < 2:
            return
        for config in self.coming[len(self.begun) :]:
            if sum(job.n_models for job in self.begun) >= n_at_once:
                return
            job = _begun(config, n_at_once)
            if not job:
                # It waits for its locks when its turn comes. If this process held later jobs' locks by then, two
                # commands could wait for each other for ever.
                return
            self.begun.append(job)
            if not job.n_models:
                return


def _begun(config: DictConfig, n_at_once: int) -> Job | None:
    """Begin a configuration's job if the same workers can train it; a reason why not is reported at its turn."""
    cfg = without_hydra(config)
    with suppress(UserError, *FAILURES):
        if (task := load(cfg)) and n_workers(cfg, task) == n_at_once:
            job = Job(cfg, task, identify(cfg, config.hydra))
            return job if job.begin(n_at_once) else None
    return None
