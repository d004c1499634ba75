"""A trained model as one safetensors file, with all that is needed to use it as JSON inside; read with distrust.

A model file is data that may come from anywhere: reading it runs no code that it names, and allocates no more than it
holds.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from inspect import isclass
from pathlib import Path
from typing import Any

import torch
import yaml
from hydra.utils import instantiate
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from genre_cls import models
from genre_cls.calibration import checked_temperature
from genre_cls.errors import UserError, in_short, system_reason
from genre_cls.features import FeatureSpec
from genre_cls.kernel import KernelMachine
from genre_cls.prediction import longest_clip
from genre_cls.settings import RULES
from genre_cls.views import shape_of, standardised, view_of
from genre_cls.windows import cover_starts, is_of_statistics, sees_modulations

KEY = "genre_cls"  # of the JSON among a file's metadata
AT_ONCE = 32  # windows that a network judges
LARGEST = 1 << 28  # values of a matrix, 1 GB; a window of 600 s takes half of it

Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class Usage:
    """How a model is to be used; models of which it is equal can vote together.

    Args:
        spec: the features that it takes.
        genres: names in the order of its outputs.
        window: length of a window, s.
        overlap: smallest share of a window that its neighbour in a cover repeats.
        views: how each of a fold's networks sees a window; a file of several folds has them in turn.
        precision: `32-true` or `bf16-mixed`, in which they were judged; `auto` in files that do not say.
        model: its class and arguments, as JSON.
    """

    spec: FeatureSpec
    genres: tuple[str, ...]
    window: float
    overlap: float
    views: tuple[str, ...]
    precision: str
    model: str


@dataclass(frozen=True)
class SavedModel:
    """What a file holds.

    Args:
        networks: that vote; in evaluation mode, on the CPU.
        usage: how they are to be used.
        dataset: name of the dataset that they have learned from.
        temperature: of what they say together, as held-out tracks have found it; 1 where they have not been asked.
        description: the JSON, as written by the training.
    """

    networks: tuple["Network", ...]
    usage: Usage
    dataset: str
    temperature: float
    description: Mapping[str, Any]


class Network(nn.Module):
    """A model with its standardisation, by the names that training gives their weights.

    Args:
        model: what is shown to logits `(batch, n_genres)`; a `KernelMachine` if these are statistics.
        n_bins: rows of the feature matrices.
        view: how it sees a window, one of `windows.VIEWS`; it takes levelled windows without the clip's mean spectrum.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, model: nn.Module, n_bins: int, view: str) -> None:
        super().__init__()
        self.model, self.view = model, view
        self.register_buffer("mean", torch.zeros(shape_of(view, n_bins)))
        self.register_buffer("deviation", torch.ones(shape_of(view, n_bins)))

    def forward(self, features: Tensor) -> Tensor:
        """Logits `(batch, n_genres)` of features `(batch, 1, n_bins, n_frames)` as extracted."""
        return self.logits(view_of(features, self.view))

    def logits(self, values: Tensor) -> Tensor:
        """Logits `(batch, n_genres)` of windows in the network's view.

        Args:
            values: `view_of(features, view)`, `(batch, 1, *shape_of(view, n_bins))`; plain and levelled views have
                `n_frames` columns where `shape_of` gives one.
        """
        return self.model(standardised(values, self.mean, self.deviation))


def serialised(weights: Weights, description: Mapping[str, Any]) -> bytes:
    """Weights and standardisation as a safetensors file, with all that is needed to use them as JSON inside.

    Args:
        weights: of trained modules, named `<member>.<name>`.
        description: plain data: `config` (YAML), `features`, `genres`, the `precision` that the model was judged in,
            and where it comes from.
    """
    return save(dict(weights), metadata={KEY: json.dumps(description)})


def read(path: Path, *, trust: bool = False) -> SavedModel:
    """Rebuild what `serialised` wrote from the file alone.

    Args:
        path: of the file.
        trust: whether the file may name any class as its model, and so run any code; else one of `genre_cls.models`.

    Raises:
        UserError: no such file, no model of genre_cls, or one that cannot be used.
    """
    try:
        weights, text = _contents(path)
        description = json.loads(text)
        config = _plain(description["config"])
        usage = _usage(description, config)
        dataset = str(description["origin"]["dataset"])
        temperature = checked_temperature(description.get("temperature", 1.0))
        return SavedModel(_networks(weights, config, usage, trust), usage, dataset, temperature, description)
    except OSError as error:
        raise UserError(f"{path}: {system_reason(error)}") from error
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except Exception as error:  # whatever parsers and constructors say of nonsense
        raise UserError(f"{path}: holds no model that can be used: {in_short(error)}") from error


def _contents(path: Path) -> tuple[dict[str, Tensor], str]:
    try:
        with path.open("rb"), safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get(KEY)
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise UserError(f"is no safetensors file, or not all of one: {in_short(error)}") from error
    if text is None:
        raise UserError("is not a model of genre_cls: nothing in it says how to use its weights")
    return weights, text


def _plain(text: str) -> Any:
    """What is in a YAML text without aliases, by which a short one may stand for more than any memory holds."""
    if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text)):
        raise UserError("has aliases in its configuration, which no model of genre_cls has")
    return yaml.safe_load(text)


def _usage(description: Mapping[str, Any], config: Mapping[str, Any]) -> Usage:
    recipe, features, genres = config["recipe"], description["features"], description["genres"]
    settings = {f"recipe.{name}": recipe[name] for name in ("window", "overlap", "members")}
    settings |= {"trainer.precision": description.get("precision", config["trainer"]["precision"])}
    for key, value in (settings | {f"features.{name}": value for name, value in features.items()}).items():
        if not RULES[key].allows(value):
            raise UserError(f"{key}={value!s:.40}: must be {RULES[key]}")
    if not isinstance(genres, list) or len(genres) < 2 or not all(isinstance(genre, str) for genre in genres):
        raise UserError(f"genres={genres!s:.40}: must be a list of at least two names")
    spec = FeatureSpec(**features)
    model = json.dumps(config["model"], sort_keys=True)
    window, overlap, views, precision = settings.values()
    _check_size("features and views take", _largest(spec, window, overlap, views))
    return Usage(spec, tuple(genres), window, overlap, tuple(views), precision, model)


def _check_size(what: str, n_values: float) -> None:
    if n_values > LARGEST:
        raise UserError(f"would fill the memory: its {what} a matrix of {n_values:.0e} values")


def _largest(spec: FeatureSpec, window: float, overlap: float, views: Sequence[str]) -> float:
    """Values of the largest matrix on the way from a clip to what a network sees."""
    n_frames, windows_share = longest_clip(window) * spec.sample_rate / spec.hop_length, 1 / (1 - overlap)
    sizes = [spec.n_fft / 2 * n_frames, spec.n_fft / 2 * spec.n_mels, spec.n_bins * n_frames * windows_share]
    if any(map(sees_modulations, views)):
        sizes += [float(spec.n_frames(window)) ** 2, float(spec.n_bins) ** 2]
    return max(sizes)


def _networks(weights: Weights, config: Mapping[str, Any], usage: Usage, trust: bool) -> tuple[Network, ...]:
    members: dict[int, dict[str, Tensor]] = {}
    for name, tensor in weights.items():
        member, _, own = name.partition(".")
        members.setdefault(int(member), {})[own] = tensor
        if not tensor.isfinite().all():
            raise UserError(f"weights {name} are not numbers")
    if not members:
        raise UserError("has no weights")
    views = {member: usage.views[member % len(usage.views)] for member in sorted(members)}
    for view in dict.fromkeys(views.values()):
        if not (trust or is_of_statistics(view)):
            _check_size("maps take", _largest_map(config["model"], usage, view))
    return tuple(_network(members[member], config["model"], usage, view, trust) for member, view in views.items())


def _network(weights: Weights, settings: Mapping[str, Any], usage: Usage, view: str, trust: bool) -> Network:
    # On the meta device nothing is allocated before the shapes are known to be the file's.
    with torch.device("cpu" if trust else "meta"):
        if is_of_statistics(view):
            model: nn.Module = _kernel_machine(weights["model.centres"], len(usage.genres))
        else:
            model = _model(settings, len(usage.genres), trust)
        network = Network(model, usage.spec.n_bins, view)
    network.load_state_dict(weights, assign=True)
    # Channels last, as in training.
    network.to(dtype=torch.float32, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    if isinstance(model, KernelMachine):  # whose centres take half the bytes, to be written again as they were
        model.centres = model.centres.half()
    with torch.inference_mode():
        shape = tuple(network(torch.zeros(2, 1, usage.spec.n_bins, usage.spec.n_frames(usage.window))).shape)
    if shape != (2, len(usage.genres)):
        raise UserError(f"gives {shape} for two windows and {len(usage.genres)} genres")
    return network


def _largest_map(settings: Mapping[str, Any], usage: Usage, view: str) -> int:
    """Values of the largest tensor that a model makes of all windows that it judges at once."""
    spec = usage.spec
    n_frames, n_longest = spec.n_frames(usage.window), spec.n_frames(longest_clip(usage.window))
    n_windows = min(AT_ONCE, len(cover_starts(n_longest, n_frames, usage.overlap)))
    window = view_of(torch.zeros(1, 1, spec.n_bins, n_frames), view)
    with torch.device("meta"), torch.no_grad():
        model = _model(settings, len(usage.genres), trust=False).eval()
        with _Largest() as largest:
            model(torch.empty(n_windows, *window.shape[1:]))
    return largest.n_values


class _Largest(TorchFunctionMode):
    """Keeps count of the values of the largest tensor that anything makes, be it a layer or a step within one."""

    n_values = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        if isinstance(made, Tensor):
            self.n_values = max(self.n_values, made.numel())
        return made


def _kernel_machine(centres: Tensor, n_genres: int) -> KernelMachine:
    n_centres, n_values = centres.shape
    return KernelMachine(n_centres, n_values, n_genres)


def _model(settings: Mapping[str, Any], n_genres: int, trust: bool) -> nn.Module:
    if trust:
        return instantiate(settings, n_genres=n_genres)
    room, _, name = str(settings["_target_"]).rpartition(".")
    found = vars(models).get(name) if room == models.__name__ else None
    if not (isclass(found) and issubclass(found, nn.Module) and found.__module__ == models.__name__):
        raise UserError(
            f"uses the class {settings['_target_']!s:.60}, which is not in genre_cls.models; if you trust its author "
            "to run code on this machine, pass --trust"
        )
    return found(n_genres, **{key: value for key, value in settings.items() if key != "_target_"})
