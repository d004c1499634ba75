"""Builds what a configuration trains, and checks beforehand that it can be built, trained and stored."""

import logging
from functools import cache

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim.lr_scheduler import LRScheduler

from genre_cls.configuration.members import is_of_mfccs, is_of_modulations, is_of_statistics, treatment
from genre_cls.errors import UserError, of_other_kind, with_place
from genre_cls.models.modelfile import serialised
from genre_cls.models.network import layout_of
from genre_cls.models.views import view_of
from genre_cls.processes.device import is_ours, resolve_device
from genre_cls.processes.threads import one_thread
from genre_cls.tracks.features import FeatureSpec
from genre_cls.training.recipe import Augmentation, crop_lengths
from genre_cls.training.refit import WIDEST, output_layer

log = logging.getLogger(__name__)

OF_RECIPES = {  # conf/recipe: optimisers and schedules with their arguments
    "torch.optim.AdamW": {"lr", "weight_decay", "fused"},
    "torch.optim.Adam": {"lr"},
    "genre_cls.training.recipe.one_cycle": {"warmup"},
    "genre_cls.training.recipe.constant": set(),
}


@one_thread()  # the cores are busy with what workers import
def check_buildable(cfg: DictConfig) -> None:
    """Build once what training will build, so that a wrong argument is reported before the work, not after.

    Raises:
        UserError: something cannot be built, or there is no such device.
    """
    resolve_device(cfg.trainer.device)
    if cfg.features.kind == "mfcc" and (views := [v for v in cfg.recipe.members if is_of_mfccs(v)]):
        raise UserError(f"recipe.members: {views[0]} needs features=mel; with MFCCs it is {treatment(views[0])}")
    spec: FeatureSpec = instantiate(cfg.features)
    crop = f"a crop (recipe.first_crop={cfg.recipe.first_crop}; 1 suits a model that takes whole windows only)"
    views = list(dict.fromkeys(network_views(cfg)))
    left: list[str] = []  # views whose networks stay as trained
    for view in views:
        model = new_model(cfg, 2, view)
        _check_output(model, _blank_windows(spec, crops_of(cfg, spec, view)[0], view), 2, crop, view)
        windows = _blank_windows(spec, spec.n_frames(cfg.recipe.window), view)
        ours = is_ours(cfg.model._target_)
        if not ours:
            _check_own_model(cfg, model, windows)
        if cfg.recipe.ridge and not output_layer(model, windows):
            left.append(view)
        # A first optimiser makes PyTorch import its compiler, which takes a second and 100 MB.
        if not (ours and _has_rules(cfg.recipe.optimizer) and _has_rules(cfg.recipe.schedule)):
            _check_training(cfg, model, windows)
    if left:
        _say_left_as_trained(cfg.model._target_, ", ".join(left) if left != views else "")
    augmentation(cfg)


def _check_training(cfg: DictConfig, model: nn.Module, windows: Tensor) -> None:
    """Take a step, as some models fail only in training, and some optimisers only on gradients as they are."""
    device = resolve_device(cfg.trainer.device)
    model.to(device, memory_format=layout_of(model)).train()  # type: ignore[call-overload]
    optimizer = instantiate(cfg.recipe.optimizer, model.parameters(), _partial_=False)
    schedule = instantiate(cfg.recipe.schedule, optimizer, total_steps=100, _partial_=False)
    if not isinstance(schedule, LRScheduler):
        raise of_other_kind("recipe.schedule", cfg.recipe.schedule.get("_target_"), "LRScheduler", schedule)

    def loss() -> Tensor:
        optimizer.zero_grad()
        try:
            value: Tensor = model(windows.to(device)).square().sum()
            value.backward()  # type: ignore[no-untyped-call]
        except Exception as error:
            raise UserError(f"model: fails in training: {with_place(error)}") from error
        return value

    try:
        optimizer.step(loss)
    except UserError:
        raise
    except Exception as error:  # any optimiser of the user's
        raise UserError(f"recipe.optimizer: {cfg.recipe.optimizer._target_} fails: {with_place(error)}") from error


def _has_rules(settings: DictConfig) -> bool:
    """Whether an optimiser or schedule is a recipe's, with its arguments, which `settings.RULES` has checked."""
    return OF_RECIPES.get(settings.get("_target_")) == {str(name) for name in settings} - {"_target_", "_partial_"}


@cache  # once, whatever its features
def _say_left_as_trained(model: str, members: str) -> None:
    """Warn that a model's last layer is not fitted again; `members` are those that it concerns, empty for all."""
    where = f" as {members}, though not as the other members" if members else ""
    fit = f"a learned nn.Linear of its own, float32, with a bias and at most {WIDEST} inputs"
    log.warning("%s: stays as trained%s; recipe.ridge fits the last layer again only if it is %s", model, where, fit)


def network_views(cfg: DictConfig) -> list[str]:
    """Return the views of the members that are networks."""
    return [view for view in cfg.recipe.members if not is_of_statistics(view)]


def new_model(cfg: DictConfig, n_genres: int, view: str) -> nn.Module:
    """Build a new model and show it a window, since lazy layers take their shape from it.

    Args:
        cfg: the configuration.
        n_genres: number of its outputs.
        view: of the window.

    Raises:
        UserError: it is no model, or fails on the window.
    """
    if "_target_" not in cfg.model:
        raise UserError("model: its file lacks a line _target_: module.Class")
    model = instantiate(cfg.model, n_genres=n_genres)
    if not isinstance(model, nn.Module):
        raise of_other_kind("model", cfg.model["_target_"], "torch.nn.Module", model)
    spec: FeatureSpec = instantiate(cfg.features)
    _check_output(model, _blank_windows(spec, spec.n_frames(cfg.recipe.window), view), n_genres, "a window", view)
    if lazy := [name for name, weights in model.named_parameters() if is_lazy(weights)]:
        raise UserError(f"model: {lazy[0]} has no size, as its layer is not called in evaluation; give it one")
    return model


def crops_of(cfg: DictConfig, spec: FeatureSpec, view: str) -> list[int]:
    """Return the length, frames, of each epoch's crops.

    Args:
        cfg: the configuration.
        spec: of its features.
        view: that is made of the crops.
    """
    # A modulation spectrum has a fixed size, so short crops would save nothing, and they lack its slow rates.
    first = 1.0 if is_of_modulations(view) else cfg.recipe.first_crop
    return crop_lengths(spec.n_frames(cfg.recipe.window), first, cfg.recipe.epochs)


def augmentation(cfg: DictConfig) -> Augmentation:
    """Build the augmentation of training batches.

    Raises:
        UserError: it is something else.
    """
    settings = cfg.recipe.augmentation
    built = instantiate(settings)
    if not isinstance(built, Augmentation):
        raise of_other_kind("recipe.augmentation", settings.get("_target_"), "Augmentation", built)
    return built


def _blank_windows(spec: FeatureSpec, n_frames: int, view: str) -> Tensor:
    return view_of(torch.zeros(2, 1, spec.n_bins, n_frames), view)


def _check_output(model: nn.Module, windows: Tensor, n_genres: int, name: str, view: str) -> None:
    try:
        with torch.no_grad():
            logits = model.eval()(windows)
    except Exception as error:  # a user's own model may fail in any way
        shape = "{} bins x {} frames".format(*windows.shape[2:])
        if is_of_modulations(view):
            shape += f", as the member {view} sees it ('recipe.members=[plain]' sees the features alone)"
        raise UserError(f"model: fails on {name} of {shape}: {with_place(error)}") from error
    gives = tuple(logits.shape) if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
    if gives != (2, n_genres):
        raise UserError(f"model: gives {gives} for two windows with n_genres={n_genres}, must give (2, {n_genres})")
    model.train()


def _check_own_model(cfg: DictConfig, model: nn.Module, windows: Tensor) -> None:
    """Check that a user's own model gives logits, learns, and can be had again from what a model file holds."""
    reloaded = _reloaded(cfg, model)
    noise = torch.rand(windows.shape, generator=torch.Generator().manual_seed(0))
    try:
        logits, same, loaded = (each.eval()(noise) for each in (model, model, reloaded))
        learns = logits.requires_grad or model.train()(noise).requires_grad  # some evaluate without gradients
    except Exception as error:
        raise UserError(f"model: fails on noise from 0 to 1: {with_place(error)}") from error
    if _are_probabilities(logits):
        raise UserError("model: gives probabilities, must give logits; leave the softmax out")
    if not learns:
        raise UserError("model: nothing that it gives depends on weights that can be learned")
    if torch.equal(logits, same) and not torch.equal(logits, loaded):
        raise UserError("model: its state_dict lacks weights; make them nn.Parameter, or buffers that are persistent")


def _reloaded(cfg: DictConfig, model: nn.Module) -> nn.Module:
    """Return a model built anew with the weights that a model file would hold."""
    try:
        weights = {name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()}
        serialised([weights], {})
        again: nn.Module = instantiate(cfg.model, n_genres=2)
        again.load_state_dict(weights)
        return again
    except Exception as error:
        raise UserError(f"model: cannot be stored and loaded again: {with_place(error)}") from error


def _are_probabilities(logits: Tensor) -> bool:
    if not logits.is_floating_point() or logits[0].equal(logits[1]):  # as of weights that begin with zero
        return False
    return bool((logits >= 0).all() and ((logits.sum(dim=1) - 1).abs() < 1e-3).all())
