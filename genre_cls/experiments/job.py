"""One job of a configuration: train its folds, log what is finished, and complete the run if no fold is missing."""

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

from filelock import Timeout
from omegaconf import DictConfig

from genre_cls.configuration.identity import Identity
from genre_cls.errors import UserError
from genre_cls.evaluation.predictions import FoldResult
from genre_cls.evaluation.scoring import ConfigResult
from genre_cls.experiments import logged_files
from genre_cls.experiments.outbox import Outbox, Pictures
from genre_cls.experiments.spool import Spool
from genre_cls.models.cnn import n_parameters
from genre_cls.processes.device import resolve_device, resolve_precision
from genre_cls.tracking.artifacts import GENRE_MEANS, Files
from genre_cls.tracking.stored_runs import FAILURES, PARENT, WAITING, Texts
from genre_cls.tracking.tracker import NOTE, Earlier, Tracker
from genre_cls.tracks.folds import Fold
from genre_cls.training.building import network_views, new_model
from genre_cls.training.ensembles import EnsembleTrainings, n_workers
from genre_cls.training.task import Task

log = logging.getLogger(__name__)

MANY_MODELS = 3  # trained at once; with fewer, the main process draws the pictures meanwhile


class Job:
    """One job of a configuration.

    It locks its folds until they are on disk, and the configuration while it reads or logs; a job of all folds locks it
    throughout, so that the run shows as running.

    Args:
        cfg: the configuration.
        task: its data; the job trains the folds in `to_train`.
        identity: of the configuration.
    """

    def __init__(self, cfg: DictConfig, task: Task, identity: Identity) -> None:
        self.cfg, self.task = cfg, task
        self.tracker = Tracker(cfg.tracking.uri, cfg.tracking.folder)
        self.identity = replace(identity, dataset=task.dataset(identity.dataset))
        device = resolve_device(cfg.trainer.device)
        # Precision, device, threads and recorded steps change the bits, so they are part of the resume key, but they do
        # not make another configuration to compare.
        self.precision = resolve_precision(cfg.trainer.precision, device, cfg.model.get("_target_", ""))
        graphs = str(cfg.trainer.graphs) if device.type == "cuda" else ""
        self.key = identity.key(task.inputs, device.type, self.precision, str(cfg.trainer.threads), graphs)
        self.spool, self.pictures = Spool(cfg.tracking.folder, self.key), Pictures(identity.title, task.note)
        self.done: dict[int, FoldResult] = {}
        n_genres, views = len(task.catalogue.genres), network_views(cfg)
        self.n_parameters = sum(n_parameters(new_model(cfg, n_genres, view)) for view in views)
        self.locks = ExitStack()
        self.trainings: EnsembleTrainings | None = None

    @property
    def missing(self) -> list[int]:
        """Indices of the unfinished folds, this job's or others'."""
        return [fold.index for fold in self.task.folds if fold.index not in self.done]

    @property
    def result(self) -> ConfigResult:
        """The finished folds."""
        folds = tuple(self.done[index] for index in sorted(self.done))
        return ConfigResult(self.identity.named, folds, self.n_parameters, self.task.group_of)

    def begin(self, n_at_once: int) -> bool:
        """Start training before the job's turn; return False if another process holds its locks, or the store fails.

        Args:
            n_at_once: number of models that workers train at once.
        """
        try:
            self._hold(wait=False)
            with self.tracker.claim(self.key, self.identity.title, wait=False):
                self._take_over()
            self.trainings = EnsembleTrainings(self.cfg, self.task, self._unfinished, n_at_once)
        except (Timeout, UserError, *FAILURES):
            self.locks.close()  # or its turn would wait for this very process
            return False
        return True

    @property
    def n_models(self) -> int:
        """How many models it has begun to train."""
        return len(self.trainings.models) if self.trainings else 0

    def give_up(self) -> None:
        """Cancel what was begun and release the locks."""
        self.locks.close()
        if self.trainings:
            self.trainings.cancel()

    def run(self, begin_next: Callable[[int], None], *, is_last: bool) -> None:
        """Train the job's unfinished folds and log all finished ones.

        Args:
            begin_next: called with the number of workers once the job has its models, so that idle workers get others.
            is_last: whether no job of the command comes after it.

        Raises:
            UserError: another command has restarted a fold, or its files are damaged.
        """
        with self.locks:
            if not self.trainings:
                self._hold()
            with self._claimed() as outbox:
                self._announce_reused()
                if len(self.task.to_train) == len(self.task.folds):
                    self._train(outbox, begin_next, is_last)
                    return
            self._train(None, begin_next, is_last)
        with self._claimed():
            pass  # which logs what is in the spool by now
        if lost := ",".join(str(fold.index) for fold in self._unfinished):
            raise UserError(
                f"{self.identity.title}: fold={lost} no longer exists: another command has restarted it "
                "(force=true), or its files are damaged; the same command trains it again"
            )

    def _announce_reused(self) -> None:
        n, n_reused = len(self.task.to_train), len(self.task.to_train) - len(self._unfinished)
        if n_reused:
            reused = f"{n_reused} of {n} folds" if n > 1 else f"fold {self.task.to_train[0].index}"
            log.info("%s: %s reused (force=true retrains)", self.identity.title, reused)

    @property
    def _unfinished(self) -> list[Fold]:
        return [fold for fold in self.task.to_train if fold.index not in self.done]

    def _hold(self, *, wait: bool = True) -> None:
        keys = [f"{self.key}/{fold.index}" for fold in self.task.to_train]
        self.locks.enter_context(self.tracker.held(keys, self.identity.title, wait=wait))

    def _train(self, outbox: Outbox | None, begin_next: Callable[[int], None], is_last: bool) -> None:
        """Train the unfinished folds; log each when it is finished, if there is an outbox, or leave it in the spool."""
        n_at_once = n_workers(self.cfg, self.task)
        if not self.trainings:
            is_sole = is_last and len(self._unfinished) * len(self.cfg.recipe.members) == 1
            self.trainings = EnsembleTrainings(self.cfg, self.task, self._unfinished, 1 if is_sole else n_at_once)
        begin_next(n_at_once)
        for result, weights in self.trainings.results(self.identity.title):
            files = logged_files.of_fold(self.task, self.identity, self.precision, weights, result)
            self.spool.put(result.index, files)
            self.done[result.index] = result
            if n_at_once >= MANY_MODELS:
                self.pictures.begin(result)
            if outbox:
                outbox.flush_if_possible()

    @contextmanager
    def _claimed(self) -> Iterator[Outbox | None]:
        """Lock the configuration, and log the spooled folds before and after; yield None if it is complete already."""
        with self.tracker.claim(self.key, self.identity.title) as claim:
            earlier = self._take_over()
            if earlier.run_id and earlier.finished and len(earlier.folds) == len(self.task.folds):
                run_id = earlier.run_id
                self.tracker.refresh(run_id, self.result.summary, self._files_to_refresh(run_id))
                yield None
            else:
                with self._open(earlier, claim) as (run_id, outbox):
                    yield outbox
            if not self.missing:
                self.tracker.confirm(run_id)
                self.spool.clear()

    def _files_to_refresh(self, run_id: str) -> Files:
        """Those files of a complete configuration that may have changed; all if those that reports read are lost."""
        if self.tracker.has_file(run_id, GENRE_MEANS.format(self.task.features.spec.kind)):
            return logged_files.of_tracks(self.task)
        return logged_files.of_configuration(self.task, self.identity, self.result)

    def _take_over(self) -> Earlier:
        """Load the folds that earlier commands and other jobs have finished; `force=true` first empties the spool."""
        experiment = self.tracker.experiment(self.cfg.tracking.experiment or f"genre_cls {self.identity.dataset}")
        earlier = self.tracker.earlier(experiment, self.key, force=self.cfg.force)
        if self.cfg.force and not earlier.run_id:
            self.spool.clear()
        self.done = {**earlier.folds, **self.spool.folds(earlier.folds)}
        return earlier

    @contextmanager
    def _open(self, earlier: Earlier, claim: Texts) -> Iterator[tuple[str, Outbox]]:
        """Open the configuration's run; log folds first and last, then the whole, unless other jobs train folds."""
        task, identity, experiment = self.task, self.identity, earlier.experiment_id
        params = {**identity.params, "n_parameters": str(self.n_parameters)}
        data = {"dataset_digest": task.features.digest, "comparison": task.digest, NOTE: task.note}
        tags = {**identity.tags, **data, **claim}
        parent_tags = tags | {"kind": "config"}
        with self.tracker.run(experiment, identity.title, parent_tags, params, run_id=earlier.run_id) as parent:
            fold_tags = tags | {"kind": "fold", PARENT: parent.run_id}
            outbox = Outbox(self.spool, self.pictures, self.tracker, experiment, fold_tags, params)
            outbox.flush()
            yield parent.run_id, outbox
            outbox.flush()
            if self.missing:
                parent.status = WAITING
            else:
                result = self.result
                parent.log(result.summary, logged_files.of_configuration(task, identity, result))
