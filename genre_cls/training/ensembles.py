"""Trains the ensemble members of several folds in parallel and combines each fold's as soon as all are there."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from multiprocessing import parent_process

from joblib import cpu_count
from omegaconf import DictConfig

from genre_cls.evaluation.predictions import FoldResult, ensemble_probabilities, mean_curve
from genre_cls.models.modelfile import Weights
from genre_cls.processes import nvidia_mps, workers
from genre_cls.processes.device import models_that_fit, resolve_device
from genre_cls.progress import progress_bar
from genre_cls.tracks.folds import Fold
from genre_cls.training.member import Member, train_member
from genre_cls.training.task import Task

Combined = tuple[FoldResult, list[Weights]]  # a fold's result and the weights of each member


class EnsembleTrainings:
    """The ensemble members of several folds: workers train them from now on, or this process when they are asked for.

    Args:
        cfg: the configuration.
        task: its data.
        folds: to train.
        n_at_once: number of models to train at once, usually `n_workers`; one is trained in this process.
    """

    def __init__(self, cfg: DictConfig, task: Task, folds: Sequence[Fold], n_at_once: int) -> None:
        self.cfg, self.task, self.n_members = cfg, task, len(cfg.recipe.members)
        self.models = [(fold, member) for fold in folds for member in range(self.n_members)]
        if self.models and n_at_once > 1 and resolve_device(cfg.trainer.device).type == "cuda":
            nvidia_mps.start()
        for_workers = self.models if n_at_once > 1 else []
        self.calls = [workers.call(n_at_once, train_member, cfg, task, *model) for model in for_workers]

    def results(self, title: str) -> Iterator[Combined]:
        """Yield each fold's result and its members' weights as soon as all its members are trained.

        Args:
            title: of the configuration, for the progress bar.
        """
        in_turn = (train_member(self.cfg, self.task, *model) for model in self.models)
        trained = workers.results(self.calls) if self.calls else in_turn
        folds = _complete_folds(self.task, trained, self.n_members)
        yield from progress_bar(folds, title, total=len(self.models) // self.n_members)

    def cancel(self) -> None:
        """Cancel what has not begun."""
        for call in self.calls:
            call.cancel()


def n_workers(cfg: DictConfig, task: Task) -> int:
    """Return how many models this process trains at once: as many as its cores and its GPU's memory have room for.

    One model on all cores would be slower, as its threads wait for each other. A job that runs beside others trains its
    models in turn (of `submitit_local`, unless `trainer.workers` allows more).
    """
    if parent_process():  # a launcher's worker
        return 1
    if cfg.trainer.workers:
        return int(cfg.trainer.workers)
    if os.environ.get("SUBMITIT_EXECUTOR") == "local":
        return 1
    cores = max(1, cpu_count() // cfg.trainer.threads)  # that this process may use
    if resolve_device(cfg.trainer.device).type == "cpu":
        return cores
    return min(cores, models_that_fit(sum(clip.nbytes for clip in task.features.clips)))


def _complete_folds(task: Task, trained: Iterable[Member], n_members: int) -> Iterator[Combined]:
    """Collect members, in whatever order they come, and yield each fold that is complete."""
    by_fold: dict[int, list[Member]] = {}
    for member in trained:
        members = by_fold.setdefault(member.fold.index, [])
        members.append(member)
        if len(members) == n_members:
            del by_fold[member.fold.index]
            members.sort(key=lambda each: each.place)
            yield _result(task, members), [each.weights for each in members]


def _result(task: Task, members: Sequence[Member]) -> FoldResult:
    fold = members[0].fold
    networks = [member.curves for member in members if member.curves]  # kernel machines have none
    probabilities = ensemble_probabilities([member.windows.probabilities for member in members])
    windows = replace(members[0].windows, probabilities=probabilities)
    return FoldResult(
        index=fold.index,
        track_ids=tuple(task.features.tracks[i].id for i in fold.test),
        labels=task.labels[fold.test],
        probabilities=windows.per_track,
        genres=task.catalogue.genres,
        curves={name: mean_curve(curves[name] for curves in networks) for name in networks[0]} if networks else {},
        n_train=len(fold.known),
        seconds=sum(member.seconds for member in members),
        windows=windows,
    )
