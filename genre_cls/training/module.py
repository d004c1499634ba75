"""Train one model on one fold with Lightning: the LightningModule and the fit."""

import logging
import tempfile
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from genre_cls.errors import DivergenceError
from genre_cls.evaluation.predictions import WindowPredictions
from genre_cls.files import place_named
from genre_cls.models.network import Network
from genre_cls.models.views import view_of
from genre_cls.processes.memory import keep_freed
from genre_cls.training.cuda_graphs import Graphs
from genre_cls.training.data import Batch, FoldData, Windows
from genre_cls.training.recipe import Augmentation
from genre_cls.training.refit import output_layer, refit

MakeOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer]


class MakeSchedule(Protocol):
    """A function from an optimiser and the number of steps of the whole training to a schedule."""

    def __call__(self, optimizer: Optimizer, /, *, total_steps: int) -> LRScheduler: ...


class GenreModule(pl.LightningModule):
    """A network with its loss, augmentation and learning curves.

    Args:
        network: maps features `(batch, 1, n_bins, n_frames)` to logits `(batch, n_genres)`.
        augmentation: of training batches.
        make_optimizer: from parameters to optimiser.
        make_schedule: from optimiser and `total_steps`, of the whole training, to schedule.
    """

    def __init__(
        self, network: Network, augmentation: Augmentation, make_optimizer: MakeOptimizer, make_schedule: MakeSchedule
    ) -> None:
        super().__init__()
        self.network: Network = network.to(memory_format=network.layout)  # type: ignore[call-overload]
        self.augmentation = augmentation
        self.make_optimizer, self.make_schedule = make_optimizer, make_schedule
        self.curves: dict[str, list[float]] = {}  # a value per epoch
        self.graphs: Graphs | None = None  # if steps are to be replayed
        self._sums: dict[str, tuple[Tensor, int]] = {}  # per part: sums of losses and hits, number of windows

    def forward(self, features: Tensor) -> Tensor:
        """Return logits `(batch, n_genres)` of features `(batch, 1, n_bins, n_frames)` as extracted."""
        return self.network(features)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the cross-entropy, nats, of logits `(batch, n_genres)` and smoothed labels `(batch,)`, int64."""
        return cross_entropy(logits.float(), labels, label_smoothing=self.augmentation.label_smoothing)

    def training_step(self, batch: Batch, _: int) -> Tensor:
        """Return the loss, nats, of an augmented batch: features `(batch, 1, n_bins, n_frames)` and labels."""
        features, labels = batch
        if self.graphs:
            # Recorded steps can draw random numbers on the GPU only.
            weight = torch.full((), self.augmentation.draw_mixing_weight(), device=self.device)
            loss, sums = self.graphs(features, labels, weight)
        else:
            loss, sums = self.augmented_loss(features, labels)
        self._count("train", sums, len(labels))
        return loss

    def augmented_loss(self, features: Tensor, labels: Tensor, weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mask and mix windows and compute their loss.

        Args:
            features: `(batch, 1, n_bins, n_frames)` as extracted.
            labels: `(batch,)` int64.
            weight: mixup's λ, a scalar; drawn if not given (`Augmentation.mix`).

        Returns:
            The mean loss, nats, and the sums of losses and hits for the curves `(2,)`.
        """
        masked = self.augmentation.mask(self.network.standardised(view_of(features, self.network.view)))
        mixed, partner, share = self.augmentation.mix(masked, weight)
        logits = self.network.model(mixed.contiguous(memory_format=self.network.layout))
        loss = share * self.loss(logits, labels) + (1 - share) * self.loss(logits, labels[partner])
        return loss, _totals(loss.detach(), logits, labels)

    def validation_step(self, batch: Batch, _: int, dataloader_idx: int = 0) -> None:
        """Add up the loss of held-out windows (first loader) or inner validation windows (second)."""
        features, labels = batch
        logits = self(features)
        part = ("held_out", "val")[dataloader_idx]
        self._count(part, _totals(cross_entropy(logits.float(), labels), logits, labels), len(labels))

    def predict_step(self, batch: Batch, _: int) -> Tensor:
        """Return logits `(batch, n_genres)` of windows `(batch, 1, n_bins, n_frames)` as extracted."""
        return self(batch[0])

    def on_train_epoch_end(self) -> None:
        """Append the epoch's means to the curves; Lightning has run the validation by now."""
        for part, (sums, n) in self._sums.items():
            for name, mean in zip(("loss", "accuracy"), (sums / n).tolist(), strict=True):
                self.curves.setdefault(f"{part}_{name}", []).append(mean)
        self._sums.clear()

    def on_validation_epoch_end(self) -> None:
        """Log the inner validation loss, nats, for early stopping."""
        if "val" in self._sums:
            sums, n = self._sums["val"]
            self.log("val_loss", sums[0] / n)

    def configure_optimizers(self) -> Any:
        """Return the optimiser, and the schedule to step once per batch."""
        optimizer = self.make_optimizer(self.parameters())
        schedule = self.make_schedule(optimizer, total_steps=int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _count(self, part: str, sums: Tensor, n: int) -> None:
        # The sums stay on the device: reading a number at each step would make a GPU wait.
        before, n_before = self._sums.get(part, (0, 0))
        self._sums[part] = before + sums, n_before + n


def _totals(loss: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
    """Sum of a batch's losses and number of its hits `(2,)`."""
    hits = (logits.argmax(dim=1) == labels).sum()
    return torch.stack([loss * len(labels), hits])


@dataclass(frozen=True)
class Training:
    """How long and how a module is trained.

    Args:
        epochs: passes over the training tracks.
        patience: epochs without a better inner validation loss before training stops and the best epoch's
            weights are restored; 0 trains all epochs and keeps the last one's.
        precision: `32-true` or `bf16-mixed`.
        graphs: whether an NVIDIA GPU replays training steps.
        ridge: penalty with which the last layer is fitted again at the end (`refit`); 0 leaves it as trained.
    """

    epochs: int
    patience: int
    precision: str
    graphs: bool
    ridge: float


def fit(module: GenreModule, data: FoldData, training: Training) -> WindowPredictions:
    """Train a module on a fold, then predict the held-out tracks.

    Args:
        module: trained in place.
        data: the fold.
        training: how long and how.

    Returns:
        Predictions for the windows that cover the held-out tracks.

    Raises:
        DivergenceError: predictions are not finite, or the last layer cannot be fitted with so small a penalty.
        UserError: a GPU cannot record the training step.
    """
    keep_freed()
    torch.backends.cudnn.deterministic = True  # the same command gives the same numbers
    if training.graphs and data.device.type == "cuda":
        module.graphs = Graphs(module, module.augmented_loss)
    with tempfile.TemporaryDirectory() as folder:
        best = ModelCheckpoint(folder, monitor="val_loss", save_weights_only=True)
        stopping = [EarlyStopping("val_loss", patience=training.patience), best] if training.patience else []
        trainer = _trainer(training, data.device, stopping)
        try:
            with place_named(folder):
                trainer.fit(module, data.training_crops(), data.centre_windows())
            module.graphs = None  # frees their memory
            if training.patience:
                module.load_state_dict(torch.load(best.best_model_path, weights_only=True)["state_dict"])
            predict = partial(_logits, trainer, module)
            # Looked for only now, as some models end in what is the identity before they are trained.
            if training.ridge and (layer := _layer_to_refit(module.network, data)):
                refit(layer, predict, data, training.ridge)
            return data.predictions(predict(data.test_windows()).double().softmax(dim=1).numpy())
        except SystemExit:  # what Lightning makes of Ctrl-C
            raise KeyboardInterrupt from None


def _layer_to_refit(network: Network, data: FoldData) -> nn.Linear | None:
    features, _ = next(iter(data.training_windows(16)))
    values = view_of(features.to(network.mean.device), network.view)
    return output_layer(network.model, network.standardised(values))


def _logits(trainer: pl.Trainer, module: GenreModule, windows: Windows) -> Tensor:
    """Logits `(n_windows, n_genres)` on the CPU, of a module in evaluation mode."""
    logits = torch.cat(cast(list[Tensor], trainer.predict(module, windows))).cpu()
    if not logits.isfinite().all():
        raise DivergenceError("training has diverged to infinity; a lower recipe.optimizer.lr may help")
    return logits


def _trainer(training: Training, device: torch.device, callbacks: Sequence[pl.Callback]) -> pl.Trainer:
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)  # it logs its devices at each start
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    return pl.Trainer(
        accelerator=device.type,
        devices=1,
        precision=cast(Any, training.precision),
        max_epochs=training.epochs,
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=bool(training.patience),
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
