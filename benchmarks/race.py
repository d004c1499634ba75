"""Wall time until a fold's held-out tracks are told as well as by what the usual tutorial ends at: Keras, genre_cls.

Run as `python benchmarks/race.py dataset=gtzan dataset.root=FOLDER`; docs/benchmarks.md holds what came out. Needs the
extra `bench`; without it genre_cls runs the tutorial's recipe, too.
"""

import argparse
import json
import os
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from time import perf_counter
from typing import Any

import numpy as np
from common import measured_apart
from train_step import keras_network

TUTORIAL = ("experiment=tutorial", "features=mfcc")
DEFAULT = ("features=mfcc", "model=basic", "batch_size=16")
EPOCHS = (1, 2, 4, 8, 16, 30)  # of the default recipe, whose learning rate falls to nothing within them

Result = Mapping[str, float]  # share of the fold's held-out tracks that are told right; s of training and judging
Way = Callable[[Any, Any], Result]


def main() -> None:
    """Let the tutorial's recipe run to its end, then the default one for more and more epochs until it is as good."""
    options = _options()
    if options.way:
        print(json.dumps(measured(WAYS[options.way], options.overrides)))
        return
    peer = "Keras" if find_spec("tensorflow") else "genre_cls"
    tutorial = in_a_process(peer, [*TUTORIAL, *options.overrides])
    rows = {f"{peer}, the tutorial's recipe": tutorial}
    for epochs in EPOCHS:
        found = in_a_process("genre_cls", [*DEFAULT, f"recipe.epochs={epochs}", *options.overrides])
        rows[f"genre_cls, the default recipe in {epochs} epochs"] = found
        if found["accuracy"] >= tutorial["accuracy"]:
            break
    print(table(rows, tutorial["seconds"]))


def keras(cfg: Any, task: Any) -> Result:
    """The tutorial's network and optimiser in its own library, on standardised whole clips."""
    (fold,) = task.folds
    n_frames = min(clip.shape[1] for clip in task.features.clips)
    clips = np.stack([clip[:, :n_frames].astype(np.float32) for clip in task.features.clips])
    mean, deviation = (of(clips[fold.train], axis=(0, 2), keepdims=True) for of in (np.mean, np.std))
    clips = (clips - mean) / deviation
    model = keras_network(clips.shape[1:], os.cpu_count() or 1)
    began = perf_counter()
    model.fit(
        clips[fold.train, ..., None], task.labels[fold.train], cfg.batch_size, epochs=cfg.recipe.epochs, verbose=0
    )
    told = model.predict(clips[fold.test, ..., None], verbose=0).argmax(axis=1)
    seconds = perf_counter() - began
    return {"accuracy": float((told == task.labels[fold.test]).mean()), "seconds": seconds}


def ours(cfg: Any, task: Any) -> Result:
    """The models of the fold side by side, each in a worker whose start counts, and their vote."""
    from genre_cls.voting import Trainings

    began = perf_counter()
    ((result, _),) = Trainings(cfg, task, task.folds).results("training")
    return {"accuracy": result.scores["accuracy"], "seconds": perf_counter() - began}


WAYS: dict[str, Way] = {"Keras": keras, "genre_cls": ours}


def measured(way: Way, overrides: Sequence[str]) -> Result:
    """One way on the first fold, whose features are in the cache."""
    from hydra import compose, initialize_config_dir

    from genre_cls import task
    from genre_cls.settings import CONF

    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        cfg = compose("config", [*overrides, "fold=0", "alone=true"])
    loaded = task.load(cfg)
    assert loaded
    return way(cfg, loaded)


def in_a_process(way: str, overrides: Sequence[str]) -> Result:
    """What a way measures where no other library has set up its threads."""
    return measured_apart(__file__, "--way", way, *overrides)


def table(rows: Mapping[str, Result], peer: float) -> str:
    """Accuracy and time of each, and what share of the tutorial's time that is, as Markdown."""
    lines = ["| way | accuracy, % | s | of the tutorial's time |", "| :-- | --: | --: | --: |"]
    for name, found in rows.items():
        accuracy, seconds = 100 * found["accuracy"], found["seconds"]
        lines.append(f"| {name} | {accuracy:.1f} | {seconds:.1f} | {seconds / peer:.3f} |")
    return "\n".join(lines)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="which dataset, and settings of both")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)  # what a process of its own is to do
    return parser.parse_args()


if __name__ == "__main__":
    main()
