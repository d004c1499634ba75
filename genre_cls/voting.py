"""The models of some folds: trained side by side, until those of a fold can vote."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from multiprocessing import parent_process

import numpy as np
import torch
from joblib import cpu_count
from omegaconf import DictConfig

from genre_cls import nvidia_mps, workers
from genre_cls.folds import Fold
from genre_cls.modelfile import Weights
from genre_cls.models import device_of
from genre_cls.progress import progress_bar
from genre_cls.scoring import Curves, FoldResult, ensemble_probabilities
from genre_cls.task import Task
from genre_cls.training import Member, train_member

# Bytes of a GPU's memory for each model that shares it, and for its tracks, of which there are seldom more.
MODEL, TRACKS = 5e9, 1e9


class Trainings:
    """The models of some folds, which workers train from now on, or this process itself, once they are asked for.

    Each model has few threads, and there are as many models at once as there are cores: that is faster than one model
    on all cores, where the threads wait for each other, and the numbers do not depend on how many cores there are. A
    GPU is shared by as many models as it has memory for (`nvidia_mps`). A job that runs beside others trains its models
    in turn (for `submitit_local`'s jobs `trainer.workers` may allow more).

    Args:
        cfg: the configuration.
        task: what it is judged on.
        folds: those to train.
    """

    def __init__(self, cfg: DictConfig, task: Task, folds: Sequence[Fold]) -> None:
        self.cfg, self.task, self.n_members = cfg, task, len(cfg.recipe.members)
        self.models = [(fold, member) for fold in folds for member in range(self.n_members)]
        n_at_once = n_workers(cfg, task) if len(self.models) > 1 else 1
        if n_at_once > 1 and device_of(cfg.trainer.device).type == "cuda":
            nvidia_mps.start()
        apart = self.models if n_at_once > 1 else []
        self.calls = [workers.call(n_at_once, train_member, cfg, task, *model) for model in apart]

    def results(self, title: str) -> Iterator[tuple[FoldResult, Weights]]:
        """Give each fold as soon as its models can vote.

        Args:
            title: of the configuration, for a bar.
        """
        in_turn = (train_member(self.cfg, self.task, *model) for model in self.models)
        trained = workers.results(self.calls) if self.calls else in_turn
        folds = _complete_folds(self.task, trained, self.n_members)
        yield from progress_bar(folds, title, total=len(self.models) // self.n_members)

    @property
    def lost(self) -> bool:
        """Whether the workers have been stopped since."""
        return bool(self.calls) and not workers.at_hand()

    def cancel(self) -> None:
        """Leave what has not begun."""
        for each in self.calls:
            each.cancel()


def n_workers(cfg: DictConfig, task: Task) -> int:
    """How many models this process trains at once."""
    if parent_process():  # a launcher's worker, beside others
        return 1
    if cfg.trainer.workers:
        return int(cfg.trainer.workers)
    if os.environ.get("SUBMITIT_EXECUTOR") == "local":  # likewise
        return 1
    cores = max(1, cpu_count() // cfg.trainer.threads)  # that this process may use
    return cores if device_of(cfg.trainer.device).type == "cpu" else min(cores, _room_on_gpu(task))


def _room_on_gpu(task: Task) -> int:
    memory = torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else 0
    tracks = sum(clip.nbytes for clip in task.features.clips)
    return max(1, int(memory / (MODEL + max(TRACKS, tracks))))


def _complete_folds(task: Task, trained: Iterable[Member], n_members: int) -> Iterator[tuple[FoldResult, Weights]]:
    """Bring the members of each fold together, in whatever order they come."""
    waiting: dict[int, list[Member]] = {}
    for member in trained:
        there = waiting.setdefault(member.fold.index, [])
        there.append(member)
        if len(there) == n_members:
            members = sorted(waiting.pop(member.fold.index), key=lambda each: each.place)
            yield _result(task, members), _weights(members)


def _result(task: Task, members: Sequence[Member]) -> FoldResult:
    fold = members[0].fold
    probabilities = ensemble_probabilities([member.windows.probabilities for member in members])
    windows = replace(members[0].windows, probabilities=probabilities)
    return FoldResult(
        index=fold.index,
        track_ids=tuple(task.features.tracks[i].id for i in fold.test),
        labels=task.labels[fold.test],
        probabilities=windows.per_track,
        genres=task.catalogue.genres,
        curves=_mean_curves([member.curves for member in members]),
        n_train=len(fold.train),
        seconds=sum(member.seconds for member in members),
        windows=windows,
        groups=None if task.groups is None else tuple(task.groups[fold.test].tolist()),
    )


def _weights(members: Sequence[Member]) -> Weights:
    return {f"{member.place}.{name}": weights for member in members for name, weights in member.weights.items()}


def _mean_curves(members: Sequence[Curves]) -> Curves:
    """Epoch by epoch, as far as all members came that learn by epochs."""
    learning = [own for own in members if own]
    epochs = {name: list(zip(*(own[name] for own in learning), strict=False)) for name in (learning or [{}])[0]}
    return {name: np.mean(values, axis=1).tolist() for name, values in epochs.items()}
