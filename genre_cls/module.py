"""The training of one model with Lightning: the module, the fit."""

import logging
import tempfile
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from genre_cls.data import Batch, FoldData
from genre_cls.device import resolve_device, resolve_precision
from genre_cls.errors import UserError
from genre_cls.graphs import Graphs
from genre_cls.memory import keep_freed
from genre_cls.modelfile import Weights
from genre_cls.recipe import Augmentation
from genre_cls.scoring import WindowPredictions
from genre_cls.views import standardised, view_of

MakeOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer]
MakeSchedule = Callable[[Optimizer, int], LRScheduler | None]


class GenreModule(pl.LightningModule):
    """A model with its standardisation, its loss and its curves.

    Args:
        model: `(batch, 1, n_bins, n_frames)` to logits `(batch, n_genres)`.
        standardisation: mean and standard deviation of each value that is shown (`views.shape_of`).
        augmentation: what is done to training batches.
        make_optimizer: from weights to optimiser.
        make_schedule: from optimiser and total number of steps to schedule.
        view: how the model sees a window, one of `windows.VIEWS`.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        model: nn.Module,
        standardisation: tuple[Tensor, Tensor],
        augmentation: Augmentation,
        make_optimizer: MakeOptimizer,
        make_schedule: MakeSchedule,
        view: str = "plain",
    ) -> None:
        super().__init__()
        self.view = view
        # Channels last: about twice as fast on CPUs and on tensor cores.
        self.model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.augmentation = augmentation
        self.make_optimizer, self.make_schedule = make_optimizer, make_schedule
        mean, deviation = standardisation
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", deviation)
        self.curves: dict[str, list[float]] = {}
        self.graphs: Graphs | None = None  # if steps are to be replayed
        self._sums: dict[str, tuple[Tensor, int]] = {}  # losses and hits, of how many windows

    def forward(self, features: Tensor) -> Tensor:
        """Logits `(batch, n_genres)` of features `(batch, 1, n_bins, n_frames)` as extracted."""
        return self.model(self.show(features))

    def show(self, features: Tensor) -> Tensor:
        """What the model sees of them, with zero mean and unit variance, in float32."""
        return standardised(view_of(features, self.view), self.mean, self.deviation)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Smoothed cross-entropy, nats."""
        return cross_entropy(logits.float(), labels, label_smoothing=self.augmentation.label_smoothing)

    def training_step(self, batch: Batch, _: int) -> Tensor:
        """Loss of an augmented batch."""
        features, labels = self.augmentation.shift(batch[0]), batch[1]
        if self.graphs:
            # What is recorded can draw numbers on the GPU alone.
            share = torch.full((), self.augmentation.own_share(), device=self.device)
            loss, sums = self.graphs(features, labels, share)
        else:
            loss, sums = self.learn(features, labels)
        self._count("train", sums, len(labels))
        return loss

    def learn(self, features: Tensor, labels: Tensor, share: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Loss of windows that are masked and mixed, and their sums for the curves.

        Args:
            features: `(batch, 1, n_bins, n_frames)` as extracted, perhaps shifted.
            labels: `(batch,)` int64.
            share: each window's own in its blend (`Augmentation.mix`).
        """
        mixed, partner, own = self.augmentation.mix(self.augmentation.mask(self.show(features)), share)
        logits = self.model(mixed.contiguous(memory_format=torch.channels_last))
        loss = own * self.loss(logits, labels) + (1 - own) * self.loss(logits, labels[partner])
        return loss, _totals(loss.detach(), logits, labels)

    def validation_step(self, batch: Batch, _: int, dataloader_idx: int = 0) -> None:
        """Count the loss of held-out windows (first loader) or inner validation windows (second)."""
        features, labels = batch
        logits = self(features)
        part = ("held_out", "val")[dataloader_idx]
        self._count(part, _totals(cross_entropy(logits.float(), labels), logits, labels), len(labels))

    def predict_step(self, batch: Batch, _: int) -> Tensor:
        """Logits `(batch, n_genres)` of windows."""
        return self(batch[0])

    def on_train_epoch_end(self) -> None:
        """Write the epoch's means down; Lightning has run the validation by now."""
        for part, (sums, n) in self._sums.items():
            for name, mean in zip(("loss", "accuracy"), (sums / n).tolist(), strict=True):
                self.curves.setdefault(f"{part}_{name}", []).append(mean)
        self._sums.clear()

    def on_validation_epoch_end(self) -> None:
        """Tell early stopping how the inner validation went."""
        if "val" in self._sums:
            sums, n = self._sums["val"]
            self.log("val_loss", sums[0] / n)

    def configure_optimizers(self) -> Any:
        """Optimiser, and schedule stepped once a batch."""
        optimizer = self.make_optimizer(self.parameters())
        schedule = self.make_schedule(optimizer, int(self.trainer.estimated_stepping_batches))
        if schedule is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def weights(self) -> Weights:
        """Weights and standardisation by name, on the CPU."""
        return {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}

    def _count(self, part: str, sums: Tensor, n: int) -> None:
        # They stay on the device: reading a number each step would make a GPU wait.
        before, n_before = self._sums.get(part, (0, 0))
        self._sums[part] = before + sums, n_before + n


def _totals(loss: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
    """Of a batch, the sum of its losses and the number of its hits."""
    hits = (logits.argmax(dim=1) == labels).sum()
    return torch.stack([loss * len(labels), hits])


@dataclass(frozen=True)
class Training:
    """Where and for how long a module is trained.

    Args:
        epochs: passes over the training tracks.
        patience: epochs without a better inner validation loss before training stops and the best epoch's
            weights are taken; 0 trains to the end and takes the last epoch's.
        device: `auto`, `cpu`, `cuda` or `mps`.
        precision: `32-true`, `bf16-mixed`, or `auto`: bfloat16 where the hardware computes with it.
        graphs: whether an NVIDIA GPU replays training steps.
    """

    epochs: int
    patience: int
    device: str
    precision: str
    graphs: bool = True


def fit(module: GenreModule, data: FoldData, training: Training) -> WindowPredictions:
    """Train a module on a fold, then judge it by the held-out tracks.

    Args:
        module: trained in place.
        data: the fold.
        training: where and for how long.

    Returns:
        What it says of the windows that cover the held-out tracks.

    Raises:
        UserError: the weights are no longer numbers.
    """
    keep_freed()
    torch.backends.cudnn.deterministic = True  # the same command gives the same numbers
    if training.graphs and resolve_device(training.device).type == "cuda":
        module.graphs = Graphs(module, module.learn)
    with tempfile.TemporaryDirectory() as folder:
        best = ModelCheckpoint(folder, monitor="val_loss", save_weights_only=True)
        stopping = [EarlyStopping("val_loss", patience=training.patience), best] if training.patience else []
        trainer = _trainer(training, stopping)
        try:
            trainer.fit(module, data.train_dataloader(), data.val_dataloader())
            module.graphs = None  # with the memory that they hold
            if training.patience:
                module.load_state_dict(torch.load(best.best_model_path, weights_only=True)["state_dict"])
            batches = cast(list[Tensor], trainer.predict(module, data.predict_dataloader()))
        except SystemExit:  # what Lightning makes of Ctrl-C
            raise KeyboardInterrupt from None
    windows = torch.cat(batches).cpu().double().softmax(dim=1)  # (n_windows, n_genres)
    if not windows.isfinite().all():
        raise UserError("training has diverged to infinity; a lower recipe.optimizer.lr may help")
    return data.predictions(windows.numpy())


def _trainer(training: Training, callbacks: Sequence[pl.Callback]) -> pl.Trainer:
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)  # it greets each training
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    device = resolve_device(training.device)
    return pl.Trainer(
        accelerator="gpu" if device.type == "cuda" else device.type,
        devices=1,
        precision=cast(Any, resolve_precision(training.precision, device)),
        max_epochs=training.epochs,
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=bool(training.patience),
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
