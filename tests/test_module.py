"""Training: losses, what may influence the weights, and what is saved of them."""

import json
from collections.abc import Iterable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from safetensors import safe_open
from shared import fold_data
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from genre_cls.configuration.members import VIEWS, is_of_statistics
from genre_cls.errors import UserError
from genre_cls.models import GenreCNN
from genre_cls.models.modelfile import REVISION, serialised
from genre_cls.models.network import Network
from genre_cls.tracks.folds import Fold
from genre_cls.training.data import FoldData
from genre_cls.training.module import GenreModule, Training, fit
from genre_cls.training.recipe import Augmentation, constant, one_cycle

FOLD = Fold(0, np.arange(2, 14), np.array([], dtype=np.int64), np.array([0, 1, 14, 15]))
STOPPING = Fold(0, np.arange(2, 10), np.arange(10, 14), np.array([0, 1, 14, 15]))
FULL = Augmentation(bin_mask=0.2, frame_mask=0.2, n_masks=2, mixup=0.3, label_smoothing=0.1)
LABELS = np.tile([0, 1], 8)


def clips(labels: Iterable[int] = LABELS) -> list[np.ndarray]:
    """Noise of 12 bins, louder in the lower half or in the upper one."""
    random = np.random.default_rng(1)
    return [random.normal(size=(12, 20)) + 3 * (np.arange(12) // 6 == label)[:, None] for label in labels]


def a_module(data: FoldData, augmentation: Augmentation = FULL, lr: float = 0.01, **model: Any) -> GenreModule:
    shape = {"channels": [4, 8], "kernel_sizes": [3, 3], "strides": [[2, 2], [2, 2]], "bands": [2, 2], "dropout": 0.1}
    cnn = GenreCNN(2, **(shape | model))
    network = Network(cnn, data.windowing.view, *data.standardisation())
    return GenreModule(network, augmentation, partial(AdamW, lr=lr), partial(one_cycle, warmup=0.3))


def trained(
    data: FoldData, *, epochs: int = 3, patience: int = 0, seed: int = 0, precision: str = "32-true",
    ridge: float = 0.0, **module: Any,
) -> tuple[GenreModule, np.ndarray]:  # fmt: skip
    pl.seed_everything(seed, verbose=False)
    fresh = a_module(data, **module)
    return fresh, fit(fresh, data, Training(epochs, patience, precision, graphs=True, ridge=ridge)).per_track


def weights(module: GenreModule) -> bytes:
    return serialised([module.network.weights()], {})


def test_a_blends_loss_is_the_blend_of_both_labels_smoothed_losses() -> None:
    data = fold_data(clips(), LABELS, FOLD)
    module = a_module(data, Augmentation(mixup=1.0, label_smoothing=0.2), dropout=0)
    features, labels = next(iter(data.training_crops()))
    torch.manual_seed(3)
    loss = module.training_step((features, labels), 0)
    torch.manual_seed(3)
    blends, partner, share = module.augmentation.mix(module.network.standardised(features))
    logits = module.network.model(blends)  # in training mode as before; the batch's own statistics are the same
    smooth = torch.full((len(labels), 2), 0.1)
    targets = [smooth + 0.8 * nn.functional.one_hot(own, 2) for own in (labels, labels[partner])]
    expected = cross_entropy(logits, share * targets[0] + (1 - share) * targets[1])
    assert share < 1 and loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_standardised_features_have_no_mean_and_unit_deviation() -> None:
    data = fold_data(clips(), LABELS, FOLD)
    frames = torch.cat([data.clips[i] for i in FOLD.train], dim=1)[None, None]
    standard = a_module(data).network.standardised(frames)
    assert standard.dtype == torch.float32
    assert torch.allclose(standard.mean(dim=3), torch.zeros(12), atol=1e-4)
    assert torch.allclose(standard.std(dim=3, correction=0), torch.ones(12), atol=1e-3)


class Shortcut(nn.Module):
    """A model of one's own, built like a ResNet, that remembers the layouts of its maps."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow, self.output = nn.Conv2d(1, 4, 3, 2, 1), nn.Conv2d(1, 4, 1, 2), nn.LazyLinear(2)
        self.layouts: set[bool] = set()

    def forward(self, features: Tensor) -> Tensor:
        maps = self.wide(features) + self.narrow(features)
        self.layouts.add(maps.is_contiguous())
        return self.output(maps.mean(dim=(2, 3)))


def test_only_the_packages_models_have_their_channels_last() -> None:
    """In others PyTorch may write past the end of maps, from 2 to 8 channels by strided 1 x 1 kernels."""
    data, model = fold_data(clips(), LABELS, FOLD), Shortcut()
    model(torch.zeros(1, 1, 12, 20))
    network = Network(model, "plain", *data.standardisation())
    module = GenreModule(network, FULL, partial(AdamW, lr=0.01), partial(one_cycle, warmup=0.3))
    fit(module, data, Training(2, 0, "32-true", graphs=True, ridge=0.3))
    assert model.layouts == {True}
    ours = a_module(data).network
    maps = ours.model.blocks[0](ours.standardised(next(iter(data.training_crops()))[0]))
    assert maps.is_contiguous(memory_format=torch.channels_last)
    for kernel_sizes, layout in (([3, 1], torch.contiguous_format), ([1, 3], torch.contiguous_format)):
        assert a_module(data, kernel_sizes=kernel_sizes).network.layout == layout
    assert a_module(data, kernel_sizes=[3, 1], strides=[[2, 2], [1, 1]]).network.layout == torch.channels_last


def test_separable_genres_are_learned_and_the_curves_show_it() -> None:
    module, probabilities = trained(fold_data(clips(), LABELS, FOLD), epochs=15, augmentation=Augmentation())
    assert probabilities.argmax(axis=1).tolist() == LABELS[FOLD.test].tolist()
    assert np.allclose(probabilities.sum(axis=1), 1)
    assert set(module.curves) == {f"{part}_{score}" for part in ("train", "held_out") for score in ("loss", "accuracy")}
    assert all(len(curve) == 15 for curve in module.curves.values())
    assert module.curves["held_out_accuracy"][-1] == 1
    for part in ("train", "held_out"):
        assert module.curves[f"{part}_loss"][-1] < module.curves[f"{part}_loss"][0]


def test_the_last_point_of_the_held_out_curve_is_the_loss_of_the_centre_windows() -> None:
    data = fold_data(clips(), LABELS, FOLD)
    module, _ = trained(data)
    logits = torch.cat([module.eval()(features) for features, _ in data.centre_windows()[0]])
    expected = cross_entropy(logits, data.labels[FOLD.test])
    assert module.curves["held_out_loss"][-1] == pytest.approx(expected.item(), rel=1e-5)


def test_a_prediction_is_the_mean_probability_over_the_windows_of_a_track() -> None:
    data = fold_data(clips(), LABELS, FOLD)
    module, probabilities = trained(data)
    with torch.no_grad():
        for track, prediction in zip(FOLD.test, probabilities, strict=True):
            windows = torch.stack([data.clips[track][None, :, start : start + 8] for start in (0, 6, 12)])
            assert np.allclose(module.eval()(windows).softmax(dim=1).mean(dim=0), prediction, atol=1e-5)


def test_the_last_layer_is_fitted_again_at_the_end_and_predicts() -> None:
    data = fold_data(clips(), LABELS, FOLD)
    untrained, _ = trained(data, epochs=1, lr=1e-9)
    module, probabilities = trained(data, epochs=1, lr=1e-9, ridge=0.1)
    assert probabilities.argmax(axis=1).tolist() == LABELS[FOLD.test].tolist()
    before, after = untrained.network.state_dict(), module.network.state_dict()
    changed = {name for name, tensor in after.items() if not tensor.equal(before[name])}
    assert changed == {"model.classifier.weight", "model.classifier.bias"} and module.curves == untrained.curves
    with torch.no_grad():
        logits = torch.cat([module.eval()(features) for features, _ in data.test_windows()])
    expected = data.predictions(logits.double().softmax(dim=1).numpy()).per_track
    assert np.allclose(probabilities, expected, atol=1e-6)


@pytest.mark.parametrize("ridge", [0, 0.3])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_the_same_seed_gives_the_same_bits(precision: str, ridge: float) -> None:
    runs = [trained(fold_data(clips(), LABELS, FOLD), precision=precision, ridge=ridge) for _ in range(2)]
    (first, predictions), (second, repeated) = runs
    assert weights(first) == weights(second)
    assert predictions.tobytes() == repeated.tobytes() and first.curves == second.curves
    assert weights(first) != weights(trained(fold_data(clips(), LABELS, FOLD), precision=precision, seed=1)[0])


@pytest.mark.parametrize("ridge", [0, 0.3])
def test_held_out_labels_do_not_reach_the_weights(ridge: float) -> None:
    swapped = LABELS.copy()
    swapped[FOLD.test] = 1 - swapped[FOLD.test]
    honest, predictions = trained(fold_data(clips(), LABELS, FOLD), ridge=ridge)
    blind, same = trained(fold_data(clips(), swapped, FOLD), ridge=ridge)
    assert weights(honest) == weights(blind) and predictions.tobytes() == same.tobytes()
    assert honest.curves["held_out_loss"] != blind.curves["held_out_loss"]


@pytest.mark.parametrize("ridge", [0, 0.3])
def test_held_out_sound_does_not_reach_the_weights(ridge: float) -> None:
    sounds = clips()
    honest, _ = trained(fold_data(sounds, LABELS, STOPPING), patience=2, epochs=6, ridge=ridge)
    for track in STOPPING.test:
        sounds[track] = -10 * sounds[track]
    deaf, _ = trained(fold_data(sounds, LABELS, STOPPING), patience=2, epochs=6, ridge=ridge)
    assert weights(honest) == weights(deaf)


class Recorder(GenreModule):
    """Keeps the weights of every epoch."""

    def on_train_epoch_end(self) -> None:
        self.epochs = [*getattr(self, "epochs", []), self.weights_now()]
        super().on_train_epoch_end()

    def weights_now(self) -> dict[str, Tensor]:
        return {name: tensor.clone() for name, tensor in self.state_dict().items()}


@pytest.mark.parametrize("view", [view for view in VIEWS if not is_of_statistics(view)])
def test_a_step_on_another_device_neither_leaves_it_nor_waits_for_it(
    view: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # it does not support the meta device
    meta = torch.device("meta")  # has shapes and no values, so what mixes devices or reads a number fails on it
    module = a_module(fold_data(clips(), LABELS, FOLD, view=view), FULL).to(meta)
    data = fold_data(clips(), LABELS, FOLD, device=meta, view=view)
    for batch in data.training_crops():
        module.training_step(batch, 0).backward()  # type: ignore[no-untyped-call]
    for batch in data.centre_windows()[0]:
        module.validation_step(batch, 0)
    assert all(weights.grad is not None and weights.grad.device == meta for weights in module.parameters())


def test_early_stopping_uses_the_inner_validation_alone_and_restores_its_best_weights() -> None:
    wrong = LABELS.copy()
    wrong[STOPPING.val] = 1 - wrong[STOPPING.val]  # the better the training, the worse their loss
    data = fold_data(clips(), wrong, STOPPING)
    pl.seed_everything(0, verbose=False)
    model = GenreCNN(2, channels=[4], kernel_sizes=[3], strides=[[2, 2]], bands=[2], dropout=0)
    make = partial(SGD, lr=0.05)
    module = Recorder(Network(model, "plain", *data.standardisation()), Augmentation(), make, constant)
    fit(module, data, Training(30, 3, "32-true", graphs=True, ridge=0.0))
    val, held_out = module.curves["val_loss"], module.curves["held_out_loss"]
    best = int(np.argmin(val))
    assert len(val) == best + 1 + 3 < 30  # three epochs without a better one
    assert np.argmin(held_out) == len(held_out) - 1  # by the held-out tracks it would have gone on
    kept = module.state_dict()
    assert all(torch.equal(kept[name], tensor) for name, tensor in module.epochs[best].items())
    assert not all(torch.equal(kept[name], tensor) for name, tensor in module.epochs[-1].items())


def test_the_best_epochs_weights_are_restored_before_the_last_layer_is_fitted_again() -> None:
    data = fold_data(clips(), LABELS, STOPPING)
    stopped, refitted = (trained(data, epochs=6, patience=2, ridge=ridge)[0] for ridge in (0, 0.3))
    expected, actual = stopped.network.state_dict(), refitted.network.state_dict()
    changed = {name for name, tensor in actual.items() if not tensor.equal(expected[name])}
    assert changed == {"model.classifier.weight", "model.classifier.bias"}


class Tempered(GenreCNN):
    """Ends in a learned temperature, which is the identity before it is trained."""

    def __init__(self, *arguments: Any, **shape: Any) -> None:
        super().__init__(*arguments, **shape)
        self.temperature = nn.Parameter(torch.ones(1))

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features) * self.temperature


def test_a_layer_that_training_has_put_behind_another_one_is_not_fitted_again() -> None:
    data = fold_data(clips(), LABELS, FOLD)

    def weights_with(ridge: float) -> bytes:
        pl.seed_everything(0, verbose=False)
        cnn = Tempered(2, channels=[4], kernel_sizes=[3], strides=[[2, 2]], bands=[2], dropout=0.1)
        make = partial(AdamW, lr=0.01)
        module = GenreModule(Network(cnn, "plain", *data.standardisation()), FULL, make, constant)
        fit(module, data, Training(3, 0, "32-true", graphs=True, ridge=ridge))
        return weights(module)

    assert weights_with(0.3) == weights_with(0)


def test_without_patience_training_goes_on_to_the_end() -> None:
    module, _ = trained(fold_data(clips(), LABELS, FOLD), epochs=5)
    assert len(module.curves["train_loss"]) == 5 and "val_loss" not in module.curves


def test_the_schedule_takes_one_step_for_each_batch_of_the_whole_training() -> None:
    data, made = fold_data(clips(), LABELS, FOLD), []

    def schedule(optimizer: Optimizer, total_steps: int) -> LRScheduler:
        made.append((LambdaLR(optimizer, lambda step: 1 - step / total_steps), total_steps))
        return made[0][0]

    module = GenreModule(a_module(data).network, FULL, partial(AdamW, lr=0.01), schedule)
    fit(module, data, Training(3, 0, "32-true", graphs=True, ridge=0))
    ((taken, n_steps),) = made
    assert n_steps == 3 * len(list(data.training_crops())) == 9 and taken.get_last_lr() == [0]


def test_training_leaves_nothing_in_the_folder_it_runs_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    trained(fold_data(clips(), LABELS, STOPPING), patience=1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("ridge", [0, 0.3])
def test_a_training_that_diverges_is_reported_as_such(ridge: float) -> None:
    with pytest.raises(UserError, match=r"diverged.*recipe\.optimizer\.lr"):
        trained(fold_data(clips(), LABELS, FOLD), lr=1e30, epochs=4, ridge=ridge)


def test_a_saved_module_is_read_back_with_its_description(tmp_path: Path) -> None:
    module, _ = trained(fold_data(clips(), LABELS, FOLD))
    description = {"genres": ["a", 'b "é"'], "features": {"kind": "mel"}}
    (tmp_path / "model.safetensors").write_bytes(serialised([module.network.weights()], description))
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert json.loads(file.metadata()["genre_cls"]) == {**description, "revision": REVISION}
        back = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no dict
    state = module.network.state_dict()
    assert back.keys() == {f"0.{name}" for name in state} and {"0.mean", "0.deviation"} < back.keys()
    assert all(torch.equal(back[f"0.{name}"], tensor) for name, tensor in state.items())
