"""Model files: weights as safetensors, with all that is needed to use them as JSON inside; untrusted when read.

A model file may come from anywhere: reading it runs no code that it names, and a model too large for the memory is
refused before anything is allocated.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import yaml
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from genre_cls import models
from genre_cls.configuration.members import is_of_statistics, sees_modulations
from genre_cls.configuration.settings import RULES, Text
from genre_cls.errors import UserError, in_short, system_reason
from genre_cls.evaluation.calibration import checked_temperature
from genre_cls.models.kernel import KernelMachine
from genre_cls.models.network import Network
from genre_cls.models.views import shape_of, view_of
from genre_cls.tracks.features import FeatureSpec
from genre_cls.tracks.windows import cover_starts, windows_at_once

KEY = "genre_cls"  # of the JSON in a file's metadata
REVISION = 2  # of features and views: one more whenever their values change; files that name none are of the first
IN_FILES = {**RULES, "precision": Text(("32-true", "bf16-mixed"))}  # rules; training has resolved `auto`
LARGEST = 1 << 28  # values in a matrix, 1 GB; by default, a window of 600 s takes two thirds of it
DEEPEST = 20  # lists and mappings within each other in a configuration
SEGMENT = 60.0  # s of a file that are classified in one piece, whatever a model was trained on
LONGEST_CLIP = 600.0  # s in one piece at most, if it was trained on longer clips

Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class Usage:
    """How a model is to be used; only models of equal usage can form an ensemble.

    Args:
        spec: the features that it takes.
        genres: names in the order of its outputs.
        window: length of a window, s.
        overlap: smallest share of a window that its neighbour overlaps.
        longest: length of the longest clip that is classified in one piece, s; an ensemble takes its models' least.
        views: the view of each member of a fold's ensemble; a file of several folds repeats them in turn.
        precision: `32-true` or `bf16-mixed`, in which it was evaluated.
        model: its class (`_target_`) and arguments; kernel machines need none.
    """

    spec: FeatureSpec
    genres: tuple[str, ...]
    window: float
    overlap: float
    longest: float = field(compare=False)
    views: tuple[str, ...]
    precision: str
    model: Mapping[str, Any]

    @property
    def windows_at_once(self) -> int:
        """Number of windows in a batch, as in evaluation."""
        return windows_at_once(self.spec.n_bins, self.spec.n_frames(self.window))

    @property
    def model_class(self) -> str:
        """The model's class, `module.Class`; empty if none is named."""
        return str(self.model.get("_target_", ""))


@dataclass(frozen=True)
class SavedModel:
    """Contents of a model file.

    Args:
        networks: the members of the ensemble, in evaluation mode, on the CPU.
        usage: how they are to be used.
        dataset: name of the dataset that they were trained on.
        temperature: of the ensemble's predictions, fitted on held-out tracks; 1 if it was not fitted.
        description: the JSON, as written by the training.
        path: of the file.
    """

    networks: tuple[Network, ...]
    usage: Usage
    dataset: str
    temperature: float
    description: Mapping[str, Any]
    path: Path


def serialised(members: Sequence[Weights], description: Mapping[str, Any]) -> bytes:
    """Return the networks of an ensemble as the content of a model file, their weights named `<member>.<name>`.

    Args:
        members: weights and standardisation of each network.
        description: plain data: `config` (YAML), `features`, `genres`, the `precision` that the model was evaluated
            in, the length of the dataset's `longest` clip (s), and its `origin`; perhaps more.
    """
    weights = {f"{place}.{name}": tensor for place, member in enumerate(members) for name, tensor in member.items()}
    apart = {name: tensor.clone() for name, tensor in weights.items()}  # safetensors refuses shared (tied) weights
    return save(apart, metadata={KEY: json.dumps({**description, "revision": REVISION})})


def read(path: Path, *, trust: bool = False) -> SavedModel:
    """Load the networks from a model file.

    Args:
        path: of a file with the content that `serialised` returns.
        trust: whether the file may name any class as its model, and so run any code; else one that the package
            exports.

    Raises:
        UserError: there is no such file, or it is no usable model of genre_cls.
    """
    try:
        weights, text = _contents(path)
        description = json.loads(text)
        _check_revision(description)
        config = _parsed_yaml(description["config"])
        usage = _usage(description, config)
        dataset = str(description["origin"]["dataset"])
        temperature = checked_temperature(description.get("temperature", 1.0))
        return SavedModel(_networks(weights, usage, trust), usage, dataset, temperature, description, path)
    except OSError as error:
        raise UserError(f"{path}: {system_reason(error)}") from error
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except Exception as error:  # whatever parsers and constructors raise for nonsense
        raise UserError(f"{path}: is not a usable model: {in_short(error)}") from error


def _contents(path: Path) -> tuple[dict[str, Tensor], str]:
    try:
        with path.open("rb"), safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get(KEY)
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        reason = f"is not a safetensors file, or is truncated: {in_short(error)}"
        raise UserError(f"{reason}; copy it again, or train it again with force=true") from error
    if text is None:
        raise UserError("is not a model of genre_cls: nothing in it says how to use its weights")
    return weights, text


def _check_revision(description: Mapping[str, Any]) -> None:
    if (revision := description.get("revision", 1)) != REVISION:
        raise UserError(
            f"is not a usable model: its features are of revision {revision!s:.40}, those of this genre_cls of "
            f"{REVISION}; train it again with force=true, or use the genre_cls that made it"
        )


def _parsed_yaml(text: str) -> Any:
    """Parse YAML without aliases, with which a short text may expand to more than memory holds, or hours of nesting."""
    depth = 0
    for event in yaml.parse(text):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent) or depth > DEEPEST:
            raise UserError("has aliases or deep nesting in its configuration, which no model of genre_cls has")
    return yaml.safe_load(text)


def _usage(description: Mapping[str, Any], config: Mapping[str, Any]) -> Usage:
    recipe, features, genres = config["recipe"], description["features"], description["genres"]
    window, overlap, views, precision = recipe["window"], recipe["overlap"], recipe["members"], description["precision"]
    settings = {"recipe.window": window, "recipe.overlap": overlap, "recipe.members": views, "precision": precision}
    for key, value in (settings | {f"features.{name}": value for name, value in features.items()}).items():
        if not IN_FILES[key].allows(value):
            raise UserError(f"{key}={value!s:.40}: must be {IN_FILES[key]}")
    if not isinstance(genres, list) or len(genres) < 2 or not all(isinstance(genre, str) for genre in genres):
        raise UserError(f"genres={genres!s:.40}: must be a list of at least two names")
    if len(set(genres)) < len(genres):
        raise UserError(f"genres={genres!s:.40}: must all differ")
    longest = longest_clip(window, float(description["longest"]))
    model = dict(config["model"])
    usage = Usage(FeatureSpec(**features), tuple(genres), window, overlap, longest, tuple(views), precision, model)
    if _largest(usage) > LARGEST:
        usage = replace(usage, longest=longest_clip(window))  # a data set of long clips must not make models useless
    _check_size("features and views take", _largest(usage))
    return usage


def longest_clip(window: float, trained_on: float = 0.0) -> float:
    """Return the length of the longest clip that is classified in one piece, s.

    Args:
        window: length of the model's windows, s.
        trained_on: length of the longest clip of its dataset, s: so songs are classified as they were in evaluation.
    """
    return max(SEGMENT, 2 * window, min(trained_on, LONGEST_CLIP))


def _check_size(what: str, n_values: float) -> None:
    if n_values > LARGEST:
        raise UserError(f"would fill the memory: its {what} a matrix of {n_values:.0e} values")


def _largest(usage: Usage) -> float:
    """Number of values in the largest matrix between a clip and the networks' views."""
    spec, copies = usage.spec, 1 / (1 - usage.overlap)  # of each frame, in overlapping windows
    n_frames = usage.longest * spec.sample_rate / spec.hop_length
    sizes = [spec.n_fft / 2 * n_frames, spec.n_fft / 2 * spec.n_mels, spec.n_bins * n_frames * copies]
    if any(map(sees_modulations, usage.views)):
        sizes += [float(spec.n_frames(usage.window)) ** 2, float(spec.n_bins) ** 2]
    return max(sizes)


def _networks(weights: Weights, usage: Usage, trust: bool) -> tuple[Network, ...]:
    members = _by_member(weights)
    views = {member: usage.views[member % len(usage.views)] for member in members}
    if not trust:  # a model of one's own may hold a mask of infinities
        _check_finite(weights)
        for view in dict.fromkeys(view for view in views.values() if not is_of_statistics(view)):
            _check_size("maps take", _largest_map(usage, view))
    return tuple(_network(members[member], usage, view, trust) for member, view in views.items())


def _by_member(weights: Weights) -> dict[int, dict[str, Tensor]]:
    """Undo the naming of `serialised`: the weights of each network by its place, in order."""
    members: dict[int, dict[str, Tensor]] = {}
    for name, tensor in weights.items():
        place, _, key = name.partition(".")
        members.setdefault(int(place), {})[key] = tensor
    if not members:
        raise UserError("has no weights")
    return dict(sorted(members.items()))


def _check_finite(weights: Weights) -> None:
    if broken := [name for name, tensor in weights.items() if not tensor.isfinite().all()]:
        raise UserError(f"weights {broken[0]} are not numbers")


def _network(weights: Weights, usage: Usage, view: str, trust: bool) -> Network:
    # On the meta device nothing is allocated until the shapes are known to match the file's.
    with torch.device("cpu" if trust else "meta"):
        if is_of_statistics(view):
            n_centres, n_values = weights["model.centres"].shape
            model: nn.Module = KernelMachine(n_centres, n_values, len(usage.genres))
        else:
            model = _model(usage, trust)
        shape = shape_of(view, usage.spec.n_bins)
        network = Network(model, view, torch.zeros(shape), torch.ones(shape))
    network.load_state_dict(weights, assign=True)
    # A model of one's own may compute in another type, or have complex numbers.
    dtype = None if trust else torch.float32
    network.to(dtype=dtype, memory_format=network.layout).eval()  # type: ignore[call-overload]
    if isinstance(model, KernelMachine):  # its centres are stored as float16, and are to be saved again as they were
        model.centres = model.centres.half()
    with torch.inference_mode():
        outputs = tuple(network(torch.zeros(2, 1, usage.spec.n_bins, usage.spec.n_frames(usage.window))).shape)
    if outputs != (2, len(usage.genres)):
        raise UserError(f"gives {outputs} for two windows and {len(usage.genres)} genres")
    return network


def _largest_map(usage: Usage, view: str) -> int:
    """Number of values in the largest tensor that a model computes for a batch of windows."""
    spec = usage.spec
    n_frames, n_longest = spec.n_frames(usage.window), spec.n_frames(usage.longest)
    n_windows = min(usage.windows_at_once, len(cover_starts(n_longest, n_frames, usage.overlap)))
    window = view_of(torch.zeros(1, 1, spec.n_bins, n_frames), view)
    with torch.device("meta"), torch.no_grad():
        model = _model(usage, trust=False).eval()
        with _Largest() as largest:
            model(torch.empty(n_windows, *window.shape[1:]))
    return largest.n_values


class _Largest(TorchFunctionMode):
    """Records the number of values in the largest tensor that any layer, or a step within one, creates."""

    n_values = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.n_values = max(self.n_values, result.numel())
        return result


def _model(usage: Usage, trust: bool) -> nn.Module:
    settings, n_genres = usage.model, len(usage.genres)
    module, _, name = str(settings["_target_"]).rpartition(".")
    if trust:
        try:
            return instantiate(settings, n_genres=n_genres)
        except InstantiationException as error:
            package = module.partition(".")[0]
            if not package or find_spec(package):
                raise
            raise UserError(f"uses the module {package}, which is not here; add its folder to PYTHONPATH") from error
    if module != models.__name__ or name not in models.__all__:
        raise UserError(
            f"uses the class {settings['_target_']!s:.60}, which is not in genre_cls.models; if you trust its "
            "author to run code on this machine, pass --trust (such a model cannot be registered)"
        )
    return getattr(models, name)(n_genres, **{key: value for key, value in settings.items() if key != "_target_"})
