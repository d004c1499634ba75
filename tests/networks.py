"""Networks as if they had been trained, and music for them, for tests of what is done with networks."""

from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
import yaml
from numpy.typing import NDArray
from torch import nn

from genre_cls import GenreClassifier
from genre_cls.configuration.members import VIEWS, is_of_statistics, treatment
from genre_cls.models import GenreCNN
from genre_cls.models.kernel import KernelMachine
from genre_cls.models.modelfile import SavedModel, Usage, longest_clip
from genre_cls.models.network import Network, standardised
from genre_cls.models.views import shape_of, view_of
from genre_cls.tracks.features import FeatureSpec, extract
from genre_cls.tracks.windows import repeat_to

GENRES = ("hiss & noise", "tones, pure", "else")
RATE = 22050
SPECS = {
    "mel": FeatureSpec(kind="mel"),
    "mfcc": FeatureSpec(kind="mfcc"),
    "no power of two": FeatureSpec(kind="mel", n_fft=1000, hop_length=300, n_mels=40),
    "odd": FeatureSpec(kind="mfcc", n_fft=1001, hop_length=400, n_mels=32, n_mfcc=13, top_db=30),
    "another rate": FeatureSpec(kind="mel", sample_rate=8000, n_fft=512, hop_length=128, n_mels=32, f_max=4000),
}


SHAPE: dict[str, Any] = {
    "channels": [8, 8], "kernel_sizes": [5, 3], "strides": [[2, 2], [1, 2]], "bands": [2, 3], "dropout": 0.5,
}  # fmt: skip


def a_network(spec: FeatureSpec, seed: int, view: str) -> Network:
    """A CNN with random weights, as sure as a trained one; of statistics a kernel machine."""
    torch.manual_seed(seed)
    if is_of_statistics(view):
        return a_kernel_machine(spec, seed, view)
    shape = shape_of(view, spec.n_bins)
    model = GenreCNN(len(GENRES), **SHAPE)
    mean = torch.randn(shape) * 10 + {"plain": 0, "modulation": 4}[treatment(view)]
    network = Network(model, view, mean, torch.full(shape, 15.0))
    for weights in network.model.parameters():
        weights.data *= 2
    return network.eval()


def unstandardised(model: nn.Module, spec: FeatureSpec) -> Network:
    """A model that gets the features as they are."""
    return Network(model, "plain", torch.zeros(spec.n_bins, 1), torch.ones(spec.n_bins, 1)).eval()


def a_kernel_machine(spec: FeatureSpec, seed: int, view: str) -> Network:
    """One that has learned from music whose genres mean nothing."""
    clips = [extract(sound(1, 9 * seed + n, spec.sample_rate), [spec])[0] for n in range(9)]
    windows = torch.stack([torch.from_numpy(repeat_to(clip, 20)[None, :, :20]).float() for clip in clips])
    mean, deviation = torch.zeros(shape_of(view, spec.n_bins)), torch.full(shape_of(view, spec.n_bins), 15.0)
    values = standardised(view_of(windows, view), mean, deviation).flatten(1)
    machine = KernelMachine.fitted(values, torch.arange(9) % len(GENRES), len(GENRES))
    return Network(machine, view, mean, deviation).eval()


def usage_of(spec: FeatureSpec, window: float = 0.7, overlap: float = 0.3) -> Usage:
    """How a network of these features is used, in float32."""
    return Usage(spec, GENRES, window, overlap, longest_clip(window), ("plain",), "32-true", {})


def a_classifier(spec: FeatureSpec, window: float = 0.7, overlap: float = 0.3) -> GenreClassifier:
    """A network of each view that vote, in float32; it can be saved and loaded again."""
    networks = tuple(a_network(spec, seed, view) for seed, view in enumerate(VIEWS))
    recipe = {"window": window, "overlap": overlap, "members": list(VIEWS)}
    model = {"_target_": "genre_cls.models.GenreCNN"} | SHAPE
    config = {"recipe": recipe, "model": model, "batch_size": 16, "trainer": {"precision": "32-true"}}
    description = {
        "config": yaml.safe_dump(config), "genres": list(GENRES), "features": vars(spec), "precision": "32-true",
        "origin": {"dataset": "folder"}, "scores": {"a": 1},
    }  # fmt: skip
    return GenreClassifier(
        [SavedModel(networks, usage_of(spec, window, overlap), "folder", 0.6, description, Path("none"))]
    )


def music(path: Path, seconds: float, seed: int = 0) -> Path:
    """A file of a `sound`."""
    soundfile.write(path, sound(seconds, seed, RATE), RATE)
    return path


def sound(seconds: float, seed: int, rate: int) -> NDArray[np.float32]:
    """A gliding tone with its octave that comes and goes, over noise."""
    random, time = np.random.default_rng(seed), np.arange(round(seconds * rate)) / rate
    phase = 2 * np.pi * (random.uniform(100, 1000) * time + 30 * np.sin(time))
    waves = np.sin(phase) * (np.sin(5 * time) > 0) + 0.3 * np.sin(2 * phase) + random.normal(0, 0.03, len(time))
    return (0.3 * waves).astype(np.float32)
