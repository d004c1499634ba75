"""Trains one ensemble member on one fold and predicts the held-out tracks.

Lightning takes seconds to import, so only processes that train import it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from genre_cls.configuration.members import is_of_statistics
from genre_cls.errors import UserError
from genre_cls.evaluation.predictions import Curves, WindowPredictions
from genre_cls.models.kernel import MAX_WINDOWS, KernelMachine
from genre_cls.models.modelfile import Weights
from genre_cls.models.network import Network, standardised
from genre_cls.models.views import view_of
from genre_cls.processes.device import resolve_device, resolve_precision
from genre_cls.tracks.folds import SEEDS_APART, Fold
from genre_cls.training.building import augmentation, crops_of, new_model
from genre_cls.training.data import FoldData, Windowing, mean_and_deviation_per_value
from genre_cls.training.task import Task

Learned = tuple[Weights, Curves, WindowPredictions]


@dataclass(frozen=True)
class Member:
    """A trained member of an ensemble.

    Args:
        fold: that it was trained on.
        place: in the ensemble, from 0.
        weights: as `modelfile` stores them.
        curves: loss (nats) and accuracy of each epoch; empty for a kernel machine.
        windows: its predictions of the held-out tracks.
        seconds: of training and prediction, s.
    """

    fold: Fold
    place: int
    weights: Weights
    curves: Curves
    windows: WindowPredictions
    seconds: float


@contextmanager
def _shortage_in_one_line() -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        less = "trainer.workers=1 or a smaller batch_size takes less, trainer.device=cpu none"
        raise UserError(f"the GPU's memory is too small for this; {less}") from error


@_shortage_in_one_line()
def train_member(cfg: DictConfig, task: Task, fold: Fold, place: int) -> Member:
    """Train a new ensemble member on a fold and predict the held-out tracks.

    Args:
        cfg: the configuration.
        task: its data.
        fold: to train on.
        place: of the member in `recipe.members`.

    Raises:
        UserError: the GPU's memory is too small, or training diverges.
    """
    from pytorch_lightning import seed_everything

    started = perf_counter()
    torch.set_num_threads(cfg.trainer.threads)
    seed = cfg.seed + SEEDS_APART * place
    seed_everything(seed + fold.index, verbose=False)
    recipe, spec, view = cfg.recipe, task.features.spec, cfg.recipe.members[place]
    crops = crops_of(cfg, spec, view)
    windowing = Windowing(spec.n_frames(recipe.window), recipe.overlap, cfg.batch_size, seed, view, crops)
    data = FoldData(task.features, task.labels, fold, windowing, resolve_device(cfg.trainer.device))
    n_genres = len(task.catalogue.genres)
    learned = _fit_kernel_machine(data, n_genres) if is_of_statistics(view) else _train_network(cfg, data, n_genres)
    return Member(fold, place, *learned, perf_counter() - started)


def _train_network(cfg: DictConfig, data: FoldData, n_genres: int) -> Learned:
    from genre_cls.training.module import GenreModule, Training, fit

    recipe, view = cfg.recipe, data.windowing.view
    network = Network(new_model(cfg, n_genres, view), view, *data.standardisation())
    module = GenreModule(network, augmentation(cfg), instantiate(recipe.optimizer), instantiate(recipe.schedule))
    precision = resolve_precision(cfg.trainer.precision, data.device, cfg.model._target_)
    patience = recipe.early_stopping.patience
    training = Training(recipe.epochs, patience, precision, cfg.trainer.graphs, recipe.ridge)
    windows = fit(module, data, training)
    return network.weights(), module.curves, windows


def _fit_kernel_machine(data: FoldData, n_genres: int) -> Learned:
    view, windows = data.windowing.view, data.training_windows(MAX_WINDOWS)
    with torch.inference_mode():
        statistics = torch.cat([view_of(features, view).cpu() for features, _ in windows])
        mean, deviation = mean_and_deviation_per_value(statistics)
        values = standardised(statistics, mean, deviation).flatten(1)
        machine = KernelMachine.fitted(values, windows.labels.cpu(), n_genres)
        network = Network(machine, view, mean, deviation)
        held_out = (view_of(features, view).cpu() for features, _ in data.test_windows())
        logits = torch.cat([network.logits(values) for values in held_out])
    return network.weights(), {}, data.predictions(logits.double().softmax(dim=1).numpy())
