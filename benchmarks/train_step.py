"""Training throughput of the usual tutorial's CNN on whole 30-s clips: Keras, plain PyTorch, genre_cls.

Run as `python benchmarks/train_step.py`; docs/benchmarks.md has results. Needs the extra `bench`.
"""

import argparse
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
from common import OURS, markdown, measured_apart
from numpy.typing import NDArray

SHAPES = {"20 x 1292 MFCCs": (20, 1292), "128 x 1292 mels": (128, 1292)}  # 30 s at 22050 Hz with a hop of 512
N_GENRES = 10
CHANNELS, UNITS, DROPOUT = (32, 32, 32), 64, 0.3  # as in conf/model/tutorial_basic.yaml
LEARNING_RATE = 0.001  # as in conf/recipe/tutorial.yaml
WARM_UP = 4  # untimed batches, in which libraries compile and memory pages are faulted in

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Stamps = list[float]


@dataclass(frozen=True)
class Work:
    """The same input for every way.

    Args:
        features: standardised clips `(n_clips, n_bins, n_frames)`, float32.
        labels: their genres `(n_clips,)`, int64.
        batch_size: clips per step.
        threads: that a way may compute with.
    """

    features: Floats
    labels: Ints
    batch_size: int
    threads: int


@dataclass(frozen=True)
class Trained:
    """A way's result: when each step ended, s, and the size of its network, which must be the same for all ways."""

    stamps: Stamps
    n_parameters: int


Way = Callable[[Work], Trained]


def main() -> None:
    """Time all ways on both inputs in turn, round by round, each in a separate process."""
    options = _options()
    if options.way:
        print(json.dumps(measured(options)))
        return
    ways, names = available(), list(SHAPES)
    rounds = [
        {(name, way): in_a_process(options, name, way) for name in names for way in ways} for _ in range(options.rounds)
    ]
    print(
        f"batches of {options.batch_size}, {options.threads} threads, {options.batches} steps, {len(rounds)} rounds\n"
    )
    for name in names:
        check_same_network({way: each[name, way]["n_parameters"] for each in rounds for way in ways})
        print(f"### {name}\n\n{table({way: [each[name, way]['clips_per_s'] for each in rounds] for way in ways})}\n")


def keras(work: Work) -> Trained:
    """Train by the tutorial's own library on TensorFlow, as is: ReLU in the convolution, batches by `fit`."""
    model, stamps = keras_network(work.features.shape[1:], work.threads), Stamps()
    import keras

    note = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: stamps.append(perf_counter()))
    model.fit(work.features[..., None], work.labels, work.batch_size, epochs=1, verbose=0, callbacks=[note])
    return Trained(stamps, sum(int(np.prod(weights.shape)) for weights in model.trainable_weights))


def keras_network(shape: Sequence[int], threads: int) -> Any:
    """Build the tutorial's CNN for clips `(n_bins, n_frames)`, compiled for `fit`."""
    os.environ |= {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}
    import keras
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    layers = keras.layers
    model = keras.Sequential([keras.Input((*shape, 1))])
    for n_channels in CHANNELS:
        model.add(layers.Conv2D(n_channels, 3, padding="same", activation="relu"))
        model.add(layers.MaxPooling2D(3, 2, padding="same"))
        model.add(layers.BatchNormalization())
    for layer in (layers.Flatten(), layers.Dense(UNITS, activation="relu"), layers.Dropout(DROPOUT)):
        model.add(layer)
    model.add(layers.Dense(N_GENRES, activation="softmax"))
    model.compile(keras.optimizers.Adam(LEARNING_RATE), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def plain(work: Work) -> Trained:
    """Train in straightforward PyTorch: channels first, float32, ReLU before pooling, a loop."""
    import torch
    from torch import nn

    torch.set_num_threads(work.threads)
    blocks = [
        layer
        for n_in, n_out in zip((1, *CHANNELS[:-1]), CHANNELS, strict=True)
        for layer in (nn.Conv2d(n_in, n_out, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2, 1), nn.BatchNorm2d(n_out))
    ]
    dense = (nn.Flatten(), nn.LazyLinear(UNITS), nn.ReLU(), nn.Dropout(DROPOUT), nn.Linear(UNITS, N_GENRES))
    model, features, labels = nn.Sequential(*blocks, *dense), torch.from_numpy(work.features), work.labels
    model(features[:2, None])  # the lazy dense layer takes its size from the first input
    optimizer, stamps = torch.optim.Adam(model.parameters(), LEARNING_RATE), Stamps()
    for start in range(0, len(features), work.batch_size):
        batch = slice(start, start + work.batch_size)
        loss = nn.functional.cross_entropy(model(features[batch, None]), torch.from_numpy(labels[batch]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        stamps.append(perf_counter())
    return Trained(stamps, sum(weights.numel() for weights in model.parameters()))


def ours(precision: str, work: Work, keeps_memory: bool = True) -> Trained:
    """Train by the code that trains a fold, from cached float16 clips to the optimiser's step, Lightning included."""
    import torch

    from genre_cls.models.cnn import TutorialCNN, n_parameters
    from genre_cls.models.network import Network
    from genre_cls.processes.device import resolve_precision
    from genre_cls.tracks.folds import Fold
    from genre_cls.training import module
    from genre_cls.training.data import FoldData, Windowing
    from genre_cls.training.module import GenreModule, Training, fit
    from genre_cls.training.recipe import Augmentation, constant

    class Timed(GenreModule):
        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            stamps.append(perf_counter())

    if not keeps_memory:
        module.keep_freed = lambda: None
    torch.set_num_threads(work.threads)
    stamps, clips = Stamps(), np.arange(len(work.features))
    fold = Fold(0, clips, clips[:0], clips[-1:] + 1)  # one more clip is predicted at the end, which is not timed
    features, labels = (np.concatenate([values, values[:1]]) for values in (work.features, work.labels))
    windowing = Windowing(work.features.shape[2], 0.0, work.batch_size, seed=0, view="plain", crops=())
    data = FoldData(_as_stored(features), labels, fold, windowing, torch.device("cpu"))
    model = TutorialCNN(N_GENRES, channels=CHANNELS, units=UNITS, dropout=DROPOUT)
    model(torch.from_numpy(work.features[:2, None]))
    adam = partial(torch.optim.Adam, lr=LEARNING_RATE)
    network = Network(model, "plain", *data.standardisation())
    precision = resolve_precision(precision, data.device, "genre_cls.models.TutorialCNN")
    training = Training(1, 0, precision, graphs=True, ridge=0.0)
    fit(Timed(network, Augmentation(), adam, constant), data, training)
    return Trained(stamps, n_parameters(model))


def _as_stored(clips: Floats) -> Any:
    """Wrap clips as if they came from the feature cache."""
    from genre_cls.tracks.feature_cache import Features
    from genre_cls.tracks.features import FeatureSpec

    spec = FeatureSpec(kind="mel", n_mels=clips.shape[1])
    return Features(spec, (), tuple(clips.astype(np.float16)), (), "")


WAYS: dict[str, Way] = {
    "Keras": keras,
    "plain PyTorch": plain,
    "genre_cls in float32": partial(ours, "32-true"),
    "genre_cls, freed memory given back": partial(ours, "auto", keeps_memory=False),
    OURS: partial(ours, "auto"),
}


def available() -> list[str]:
    """Return the ways whose libraries are installed, and print the name of a missing one."""
    if find_spec("tensorflow"):
        return list(WAYS)
    print("left out Keras: TensorFlow is not installed (the extra `bench` has it)\n")
    return [name for name in WAYS if name != "Keras"]


def in_a_process(options: argparse.Namespace, name: str, way: str) -> dict[str, Any]:
    """Measure a way in a separate process, where no other library has set up its threads."""
    arguments = ["--way", way, "--input", name, "--threads", str(options.threads)]
    sizes = ["--batch-size", str(options.batch_size), "--batches", str(options.batches)]
    threads = {"OMP_NUM_THREADS": str(options.threads)}
    return measured_apart(__file__, *arguments, *sizes, env=os.environ | threads)


def measured(options: argparse.Namespace) -> dict[str, Any]:
    """Measure the clips per second of one way on one input after warming up."""
    random = np.random.default_rng(0)
    n_clips = options.batch_size * (WARM_UP + options.batches)
    features = random.standard_normal((n_clips, *SHAPES[options.input]), dtype=np.float32)
    labels = np.arange(n_clips) % N_GENRES
    trained = WAYS[options.way](Work(features, labels, options.batch_size, options.threads))
    seconds = trained.stamps[-1] - trained.stamps[WARM_UP - 1]
    return {"clips_per_s": options.batches * options.batch_size / seconds, "n_parameters": trained.n_parameters}


def check_same_network(n_parameters: dict[str, int]) -> None:
    """Exit if networks differ in size, as comparing them would be unfair."""
    if len(set(n_parameters.values())) > 1:
        raise SystemExit(f"not the same network: parameters {n_parameters}")


def table(clips: dict[str, Sequence[float]]) -> str:
    """Format each way's median and range, and by which factor ours is faster."""
    middle = {way: median(each) for way, each in clips.items()}
    rows = [
        [way, f"{middle[way]:.1f}", f"{min(each):.1f}–{max(each):.1f}", f"{middle[OURS] / middle[way]:.2f}"]
        for way, each in clips.items()
    ]
    return markdown(["way", "clips/s, median", "range", "genre_cls is faster by"], rows)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2, help="of every way (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=32, help="clips per step (default: %(default)s)")
    parser.add_argument("--batches", type=int, default=8, help="timed steps per round (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="of all ways in turn (default: %(default)s)")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)  # in the separate process
    parser.add_argument("--input", choices=SHAPES, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
