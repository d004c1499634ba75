"""What was trained, put to use: an audio file in, its genres with probabilities out, the same as in evaluation."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from genre_cls import database, modelfile
from genre_cls.audio import path_noted
from genre_cls.calibration import Floats
from genre_cls.errors import UserError
from genre_cls.explanation import explained
from genre_cls.features import extract, mel_frequencies
from genre_cls.files import atomic_write, expanduser
from genre_cls.modelfile import AT_ONCE, SavedModel
from genre_cls.models import arithmetic
from genre_cls.prediction import Clip, Explanation, Prediction, first_waveform, is_onnx, longest_clip, predict_file
from genre_cls.views import view_of
from genre_cls.windows import cover_starts, is_levelled, repeat_to

if TYPE_CHECKING:
    from genre_cls.stored_runs import StoredRuns

BEST = "best"


class GenreClassifier:
    """Trained models that vote on the genre of an audio file.

    A file is decoded, turned into features, cut into windows and judged as in evaluation. What lasts longer than
    `SEGMENT` is cut into the fewest equal segments that do not, each judged as a clip of its own, and all windows are
    averaged: the memory needed does not grow with the file, and a model that has learned from clips sees clips. Up to
    that length there is one segment, the whole clip, so the numbers are those of evaluation; beyond it, the floor of
    the features (`top_db` below the peak) is each segment's, and windows do not reach across segments.

    Args:
        parts: what was read from model files, all to be used in the same way.
        temperature: that makes what they say together as sure as it is right; None for the mean of the parts' own.

    Raises:
        UserError: the parts are not models of one configuration.
    """

    def __init__(self, parts: Sequence[SavedModel], temperature: float | None = None) -> None:
        usages = {part.usage for part in parts}
        if len(usages) > 1:
            raise UserError(
                "these models cannot vote together, as they differ in model, genres, features, windows, views or "
                "precision"
            )
        (self._usage,) = usages
        self._parts = tuple(parts)
        self._networks = [network for part in parts for network in part.networks]
        self._temperature = temperature or float(np.mean([part.temperature for part in parts]))

    @classmethod
    def load(cls, source: str | Path = BEST, *, tracking: str | Path = "mlruns", trust: bool = False) -> Self:
        """Load what was trained.

        Args:
            source: `best`, the configuration with the best mean accuracy among those of the newest comparison; the id
                of an MLflow run, a configuration's (its folds' models vote) or a fold's; a .safetensors file; or a
                folder of such files, which vote.
            tracking: the tracking store: its folder, or a server's address.
            trust: whether a model file may name any class as its model, and so run any code.

        Raises:
            UserError: there is nothing there, or a file cannot be used.
        """
        if found := run_of(source, tracking):
            runs, run_id = found
            paths, temperature = runs.model_files(run_id), runs.temperature(run_id)
        else:
            paths, temperature = _model_files(source), None
        return cls([modelfile.read(path, trust=trust) for path in paths], temperature)

    @property
    def genres(self) -> tuple[str, ...]:
        """Names of the genres."""
        return self._usage.genres

    @property
    def dataset(self) -> str:
        """Name of the dataset that it has learned from."""
        return self._parts[0].dataset

    @property
    def configuration(self) -> str:
        """The settings that what was trained is told by, as one would give them; empty if its file does not say."""
        named = json.loads(self._parts[0].description["origin"].get("named", "{}"))
        return " ".join(f"{key}={value}" for key, value in named.items())

    @property
    def n_networks(self) -> int:
        """How many networks vote."""
        return len(self._networks)

    def predict(self, path: str | Path) -> Prediction:
        """Classify one audio file.

        Args:
            path: a file in any format that libsndfile reads, of any sample rate and number of channels, from
                `audio.SHORTEST` to `prediction.LONGEST`.

        Raises:
            UnreadableAudio: it is no such file, too short or long, or silent (below -80 dB of full scale throughout);
                the message is the reason, its note the path.
            UserError: the model gives no numbers.
        """
        usage = self._usage
        longest = longest_clip(usage.window)
        rate, temperature = usage.spec.sample_rate, self._temperature
        with path_noted(path):
            return predict_file(
                Path(path), self.genres, self._predict_clip, sample_rate=rate, longest=longest, temperature=temperature
            )

    def explain(self, path: str | Path, genre: str | None = None) -> Explanation:
        """Say what in an audio file speaks for a genre, by integrated gradients; takes some seconds a network.

        Args:
            path: as `predict` takes it; what is explained is the first of the clips that it judges, so all of a file
                of up to `SEGMENT`.
            genre: to explain; None for the most probable one of the file.

        Raises:
            UnreadableAudio: the clip cannot be judged.
            UserError: there is no such genre.
        """
        genre = genre or self.predict(path).genre
        return self.explain_clip(self.first_clip(path), genre)

    def explain_clip(self, clip: Clip, genre: str) -> Explanation:
        """Say what in a clip speaks for a genre, as `explain` does.

        Args:
            clip: what `first_clip` gave.
            genre: to explain.

        Raises:
            UserError: there is no such genre.
        """
        if genre not in self.genres:
            raise UserError(f"genre {genre}: must be one of {', '.join(self.genres)}")
        return explained(self._networks, self._usage, clip, self.genres.index(genre))

    def first_clip(self, path: str | Path) -> Clip:
        """Give the first of the clips that `predict` judges, so all of a file of up to `SEGMENT`, to be looked at.

        Args:
            path: as `predict` takes it.

        Raises:
            UnreadableAudio: the clip cannot be judged.
        """
        spec = replace(self._usage.spec, kind="mel")
        longest = longest_clip(self._usage.window)
        with path_noted(path):
            waveform = first_waveform(Path(path), sample_rate=spec.sample_rate, longest=longest)
        (mel,) = extract(waveform, [spec])
        centres = mel_frequencies(spec)
        return Clip(waveform, spec.sample_rate, mel.astype(np.float32), centres, spec.seconds_per_frame)

    def save(self, path: str | Path) -> None:
        """Write all of it into one file, which needs nothing else.

        Args:
            path: of the file, whose folder must be there: .onnx makes it a graph from waveform to probabilities, which
                `OnnxClassifier` runs (needs the extra `onnx`); any other ending a safetensors file, which `load` takes.

        Raises:
            UserError: the extra is not installed, the model cannot be written so, or the disk does not take it.
        """
        first, *others = (part.description for part in self._parts)
        folds = [{key: one.get(key) for key in ("trained_on", "scores")} for one in (first, *others)]
        description = {**first, **({"folds": folds} if others else {}), "temperature": self._temperature}
        content = self._as_onnx(description) if is_onnx(path) else self._saved(description)
        with atomic_write(Path(path)) as file:
            file.write(content)

    def _as_onnx(self, description: Mapping[str, Any]) -> bytes:
        from genre_cls.onnx_export import exported  # needs an extra

        return exported(self._networks, self._usage, self._temperature, description)

    def _saved(self, description: Mapping[str, Any]) -> bytes:
        weights = {
            f"{member}.{name}": tensor.contiguous()
            for member, network in enumerate(self._networks)
            for name, tensor in network.state_dict().items()
        }
        return modelfile.serialised(weights, description)

    def _predict_clip(self, waveform: NDArray[np.float32]) -> tuple[Floats, Floats, Floats]:
        """Starts and ends of the windows of a clip `(n_samples,)`, s, and what all networks say of them."""
        usage = self._usage
        (clip,) = extract(waveform, [usage.spec])
        n_frames = usage.spec.n_frames(usage.window)
        clip = repeat_to(clip, n_frames)
        first_frames = cover_starts(clip.shape[1], n_frames, usage.overlap)
        features = torch.from_numpy(np.stack([clip[None, :, first : first + n_frames] for first in first_frames]))
        level = torch.from_numpy(clip).float().mean(dim=1, keepdim=True)  # (n_bins, 1)
        starts = np.array(first_frames) * usage.spec.seconds_per_frame
        ends = np.minimum(starts + n_frames * usage.spec.seconds_per_frame, len(waveform) / usage.spec.sample_rate)
        return starts, ends, self._vote(features, level)

    def _vote(self, features: torch.Tensor, level: torch.Tensor) -> Floats:
        """What all networks' mean logits make of windows `(n_windows, 1, n_bins, n_frames)`: `(n_windows, n_genres)`.

        Levelled networks get the windows without `level`, the clip's mean spectrum `(n_bins, 1)`.
        """
        bfloat16 = arithmetic(self._usage.precision, accelerator=False) == "bf16-mixed"
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            votes = []
            for view in dict.fromkeys(network.view for network in self._networks):
                windows = features - level if is_levelled(view) else features
                batches = [
                    view_of(batch, view) for batch in torch.split(windows, AT_ONCE)
                ]  # once for all folds' networks
                networks = [network for network in self._networks if network.view == view]
                votes += [torch.cat([each.logits(batch).double() for batch in batches]) for each in networks]
            verdict: Floats = torch.stack(votes).mean(dim=0).softmax(dim=1).numpy()
        if not np.isfinite(verdict).all():
            raise UserError("the model gives no numbers for this file")
        return verdict


def run_of(source: str | Path, tracking: str | Path) -> "tuple[StoredRuns, str] | None":
    """The store and the run in it that a source of models means; None if it means files.

    Args:
        source: as `GenreClassifier.load` takes it.
        tracking: likewise.

    Raises:
        UserError: there is no store, or nothing in it.
    """
    if source != BEST and (not re.fullmatch("[0-9a-f]{32}", str(source)) or Path(source).exists()):
        return None
    if not database.is_store(tracking):
        raise UserError(f"tracking {tracking}: no tracking store in this folder; train a model, or name one")
    from genre_cls.stored_runs import StoredRuns  # takes seconds to import, which a model file need not wait for

    runs = StoredRuns.at(str(tracking))
    run_id = runs.best() if source == BEST else str(source)
    if not run_id:
        raise UserError(f"tracking {tracking}: no configuration has finished there; run genre_cls.train first")
    return runs, run_id


def _model_files(source: str | Path) -> list[Path]:
    path = expanduser(source)
    if path.is_dir():
        files = sorted(path.glob("*.safetensors"))
        if not files:
            raise UserError(f"model {source}: no .safetensors file in this folder")
        return files
    if not path.exists():
        raise UserError(
            f"model {source}: no such file; must be best, the full id of a run, a .safetensors file or a folder of "
            "them (genre_cls.predict takes an .onnx file, too)"
        )
    return [path]
