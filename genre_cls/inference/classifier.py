"""Inference with trained models: an audio file in, genre probabilities out, the same as in evaluation."""

import json
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genre_cls.errors import UserError
from genre_cls.evaluation.calibration import Floats
from genre_cls.files import expanduser, write_atomically
from genre_cls.inference.explanation import explained
from genre_cls.inference.prediction import Classifier, Clip, Explanation, is_onnx
from genre_cls.models import modelfile
from genre_cls.models.modelfile import SavedModel, Usage, longest_clip
from genre_cls.models.network import Network
from genre_cls.models.views import view_of
from genre_cls.processes.device import may_miscompute
from genre_cls.processes.threads import in_threads, one_thread
from genre_cls.tracking import database
from genre_cls.tracks.audio import UnreadableAudio, no_music, path_noted, segments
from genre_cls.tracks.features import extract, mel_frequencies
from genre_cls.tracks.windows import repeat_to, voting_starts

if TYPE_CHECKING:
    from genre_cls.tracking.stored_runs import StoredRuns

log = logging.getLogger(__name__)

BEST = "best"
OF_A_FOLD = ("trained_on", "scores")  # keys of a model file's description that hold for one fold only


class GenreClassifier(Classifier):
    """An ensemble of trained models that classifies audio files.

    A file is decoded, turned into features, cut into windows and classified as in evaluation. A file longer than
    `Usage.longest` is cut into the fewest equal clips that are not; each is classified by itself, and all windows are
    averaged: memory does not grow with the file, and no clip is longer than a minute, two windows or the longest clip
    of the training (of ten minutes at most). A shorter file is one clip, so the numbers are those of evaluation; in a
    longer one, level and floor of the features are each clip's own, and windows do not cross clips.

    Networks vote side by side, each on one thread, as many at once as cores that may be used.

    Args:
        parts: contents of model files, all of equal `Usage`.
        temperature: calibrates the ensemble's predictions; None for the mean of the parts' temperatures.

    Raises:
        UserError: the parts are not models of one configuration.
    """

    def __init__(self, parts: Sequence[SavedModel], temperature: float | None = None) -> None:
        usage = _common_usage(parts)
        temperature = temperature or float(np.mean([part.temperature for part in parts]))
        super().__init__(
            usage.genres,
            parts[0].dataset,
            sample_rate=usage.spec.sample_rate,
            longest=usage.longest,
            temperature=temperature,
            f_max=usage.spec.f_max,
        )
        self._usage, self._parts = usage, tuple(parts)
        self._networks = [network for part in parts for network in part.networks]

    @classmethod
    def load(
        cls,
        source: str | Path = BEST,
        *,
        tracking: str | Path = "mlruns",
        experiment: str | None = None,
        trust: bool = False,
    ) -> Self:
        """Load trained models.

        Args:
            source: `best`, the configuration with the best mean accuracy in the newest comparison; the id of an MLflow
                run, a configuration's (its folds' models form an ensemble) or a fold's; a .safetensors file; or a
                folder of such files, which form an ensemble.
            tracking: the tracking store: its folder, or a server's address.
            experiment: name of MLflow's experiment whose best configuration is meant; None for the newest one's.
            trust: whether a model file may name any class as its model, and so run any code.

        Raises:
            UserError: there is no such model, or a file cannot be used.
        """
        if run := run_of(source, tracking, experiment):
            return cls.of_run(*run, trust=trust)
        return cls(_read(_model_files(source), trust=trust))

    @classmethod
    def of_run(cls, runs: "StoredRuns", run_id: str, *, trust: bool = False) -> Self:
        """Load the models of a run, as `load` does.

        Args:
            runs: the tracking store.
            run_id: of a configuration or a fold.
            trust: as `load` takes it.

        Raises:
            UserError: there is no such run, or a file cannot be used.
        """
        return cls(_read(runs.model_files(run_id), trust=trust), runs.temperature(run_id))

    @property
    def configuration(self) -> str:
        """The settings that name the configuration, as on the command line; empty if the model file lacks them."""
        named = json.loads(self._parts[0].description["origin"].get("named", "{}"))
        return " ".join(f"{key}={value}" for key, value in named.items())

    @property
    def n_networks(self) -> int:
        """Number of networks in the ensemble."""
        return len(self._networks)

    def explain(self, path: str | Path, genre: str | None = None) -> Explanation:
        """Explain a genre's logit by integrated gradients, which takes a few seconds for each network.

        Args:
            path: as `predict` takes it; only its `first_clip` is explained.
            genre: to explain; None for the file's most probable one.

        Raises:
            UnreadableAudio: the clip cannot be classified.
            UserError: there is no such genre.
        """
        genre = genre or self.predict(path).genre
        return self.explain_clip(self.first_clip(path), genre)

    @one_thread()
    def explain_clip(self, clip: Clip, genre: str) -> Explanation:
        """Explain a genre's logit for a clip, as `explain` does for a file.

        Args:
            clip: from `first_clip`.
            genre: to explain.

        Raises:
            UserError: there is no such genre.
        """
        if genre not in self.genres:
            raise UserError(f"genre {genre}: must be one of {', '.join(self.genres)}")
        return explained(self._networks, self._usage, clip, self.genres.index(genre))

    @one_thread()
    def first_clip(self, path: str | Path) -> Clip:
        """Return the first part of a file, of `longest_clip` at most, for pictures of it.

        Args:
            path: as `predict` takes it.

        Raises:
            UnreadableAudio: the clip cannot be classified.
        """
        spec, longest = replace(self._usage.spec, kind="mel"), longest_clip(self._usage.window)
        with path_noted(path):
            waveform = next(segments(expanduser(path), spec.sample_rate, longest), np.zeros(0, np.float32))
            if reason := no_music(waveform, spec.sample_rate):
                raise UnreadableAudio(reason)  # not `refusal`, as the rest of the file may be audible
        (mel,) = extract(waveform, [spec])
        name, centres = Path(path).name, mel_frequencies(spec)
        return Clip(name, waveform, spec.sample_rate, mel.astype(np.float32), centres, spec.seconds_per_frame)

    def save(self, path: str | Path) -> None:
        """Write the ensemble into one self-contained file.

        Args:
            path: of the file, in an existing folder: .onnx for a graph from waveform to probabilities, which
                `OnnxClassifier` runs (needs the extra `onnx`); any other ending for a safetensors file for `load`.

        Raises:
            UserError: the extra is not installed, the model cannot be exported, or writing fails.
        """
        if is_onnx(path):
            from genre_cls.inference.onnx_export import exported  # needs an extra

            content = exported(self._networks, self._usage, self._temperature, self._description())
        else:
            content = modelfile.serialised([network.weights() for network in self._networks], self._description())
        write_atomically(expanduser(path), content)

    def _description(self) -> dict[str, Any]:
        """What a file of the ensemble says of it: what all parts share, and a list of what holds for one fold alone."""
        descriptions = [part.description for part in self._parts]
        folds = [{key: fold.get(key) for key in OF_A_FOLD} for one in descriptions for fold in one.get("folds", [one])]
        shared = {key: value for key, value in descriptions[0].items() if key not in (*OF_A_FOLD, "folds")}
        own = {"temperature": self._temperature, "longest": self._longest}
        return {**shared, **own, **(folds[0] if len(folds) == 1 else {"folds": folds})}

    @one_thread()
    def _predict_clip(self, waveform: NDArray[np.float32]) -> tuple[Floats, Floats, Floats]:
        usage = self._usage
        (clip,) = extract(waveform, [usage.spec])
        n_frames = usage.spec.n_frames(usage.window)
        clip = repeat_to(clip, n_frames)
        first_frames = voting_starts(clip, n_frames, usage.overlap, usage.spec)
        features = torch.from_numpy(np.stack([clip[None, :, first : first + n_frames] for first in first_frames]))
        starts = np.array(first_frames) * usage.spec.seconds_per_frame
        ends = np.minimum(starts + n_frames * usage.spec.seconds_per_frame, len(waveform) / usage.spec.sample_rate)
        return starts, ends, self._vote(features)

    def _vote(self, features: Tensor) -> Floats:
        """Return the softmax of the networks' mean logits for each window `(n_windows, n_genres)`.

        Args:
            features: windows `(n_windows, 1, n_bins, n_frames)`, as extracted.
        """
        views = dict.fromkeys(network.view for network in self._networks)
        # Once for all networks with the same view.
        seen = dict(zip(views, in_threads(partial(self._view_in_batches, features), views), strict=True))
        votes = in_threads(lambda network: self._logits(network, seen[network.view]), self._networks)
        probabilities: Floats = torch.stack([*votes]).mean(dim=0).softmax(dim=1).numpy()
        if not np.isfinite(probabilities).all():
            raise UserError("the model returns NaN for this file")
        return probabilities

    def _view_in_batches(self, features: Tensor, view: str) -> list[Tensor]:
        """Return a view of the windows, in batches."""
        with self._as_evaluated():
            return [view_of(batch, view) for batch in torch.split(features, self._usage.windows_at_once)]

    def _logits(self, network: Network, batches: Sequence[Tensor]) -> Tensor:
        """Return a network's logits `(n_windows, n_genres)`, float64, for batches of its view."""
        with self._as_evaluated():
            return torch.cat([network.logits(batch).double() for batch in batches])

    @contextmanager
    def _as_evaluated(self) -> Iterator[None]:
        """Compute as evaluation did; holds for the present thread alone."""
        bfloat16 = self._usage.precision == "bf16-mixed" and not may_miscompute(self._usage.model_class)
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            yield


def _common_usage(parts: Sequence[SavedModel]) -> Usage:
    """Return how all of some models are used, which must be the same but for the longest clip: then the shortest."""
    if not parts:
        raise UserError("no models: a classifier needs at least one")
    first, compared = parts[0], [each.name for each in fields(Usage) if each.compare]
    for part in parts:
        if differing := [name for name in compared if getattr(part.usage, name) != getattr(first.usage, name)]:
            reason = f"they differ in {', '.join(differing).replace('spec', 'features')}"
            raise UserError(f"{first.path}, {part.path.name}: these models cannot vote together, as {reason}")
    return replace(first.usage, longest=min(part.usage.longest for part in parts))


def _read(paths: Sequence[Path], *, trust: bool) -> list[SavedModel]:
    """Read model files; warn of trusted ones whose class was edited after the training."""
    models = [modelfile.read(path, trust=trust) for path in paths]
    if trust and (edited := {target for model in models if (target := _edited(model))}):
        classes = ", ".join(sorted(edited))
        log.warning("%s: its file was edited after the training, so predictions may be wrong", classes)
    return models


def _edited(model: SavedModel) -> str:
    """The class of a model if the file that defines it was edited after the training; else empty."""
    from genre_cls.configuration.sources import is_edited  # which reads the package's sources

    target = model.usage.model_class
    return target if is_edited(target, json.loads(model.description["origin"].get("sources", "{}"))) else ""


def run_of(source: str | Path, tracking: str | Path, experiment: str | None = None) -> "tuple[StoredRuns, str] | None":
    """Return the tracking store and the id of the run that a source of models names; None if it names files.

    Args:
        source: as `GenreClassifier.load` takes it.
        tracking: likewise.
        experiment: likewise.

    Raises:
        UserError: there is no store, or nothing in it has finished; an experiment is named, but another source than
            `best`.
    """
    if experiment and source != BEST:
        raise UserError(f"experiment {experiment}: chooses a model by itself; leave out {source}")
    if source != BEST and (not re.fullmatch("[0-9a-f]{32}", str(source)) or Path(source).exists()):
        return None
    if not database.is_store(tracking):
        hint = "go to where you trained, name that place (--tracking FOLDER), or run python -m genre_cls.train first"
        raise UserError(f"tracking {tracking}: no store of runs there; {hint}")
    # They take seconds to import; model files do without them.
    from genre_cls.tracking.stored_comparison import best
    from genre_cls.tracking.stored_runs import StoredRuns

    runs = StoredRuns.at(str(tracking))
    with runs.failures_in_one_line():
        if run_id := best(runs, experiment) if source == BEST else str(source):
            return runs, run_id
        where = f" in experiment {experiment}" if experiment else ""
        if runs.ended(experiment):
            reason = "what has finished there lacks a fold, which its command trains again, or has shuffled genres"
            raise UserError(f"tracking {tracking}: {reason}{where}")
        hint = f"some have in {others}" if (others := runs.elsewhere()) else "run python -m genre_cls.train first"
        raise UserError(f"tracking {tracking}: no configuration has finished there{where}; {hint}")


def _model_files(source: str | Path) -> list[Path]:
    if source == "":
        raise UserError("model '': an empty name is no model")  # it would be the current folder
    path = expanduser(source)
    if is_onnx(path):
        raise UserError(f"model {source}: is an .onnx file, which genre_cls.OnnxClassifier and genre_cls.predict take")
    if path.is_dir():
        files = sorted(path.glob("[!.]*.safetensors"))  # macOS leaves ._name beside name
        if not files:
            raise UserError(f"model {source}: no .safetensors file in this folder")
        return files
    if not path.exists():
        raise UserError(
            f"model {source}: no such file; must be best, the full id of a run (32 letters and digits), a "
            ".safetensors file, a folder of them or, to predict with, an .onnx file"
        )
    return [path]
