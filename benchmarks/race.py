"""Wall time until genre_cls reaches the usual tutorial's final accuracy (in Keras) on a fold's held-out tracks.

Run as `python benchmarks/race.py dataset=gtzan dataset.root=FOLDER`; docs/benchmarks.md has results. Needs the extra
`bench`; without it genre_cls runs the tutorial's recipe, too.
"""

import argparse
import json
import os
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from time import perf_counter
from typing import Any

import numpy as np
from common import markdown, measured_apart
from train_step import keras_network

TUTORIAL = ("experiment=tutorial", "features=mfcc")
DEFAULT = ("features=mfcc", "model=basic", "batch_size=16")
EPOCHS = (1, 2, 4, 8, 16, 30)  # of the default recipe, whose learning rate falls to almost 0 within them

Result = Mapping[str, float]  # accuracy on the fold's held-out tracks; s of training and prediction
Way = Callable[[Any, Any], Result]


def main() -> None:
    """Run the tutorial's recipe to its end, then the default one for more and more epochs until it is as accurate."""
    options = _options()
    if options.way:
        print(json.dumps(measured(WAYS[options.way], options.overrides)))
        return
    peer = "Keras" if find_spec("tensorflow") else "genre_cls"
    tutorial = in_a_process(peer, [*TUTORIAL, *options.overrides])
    rows = {f"{peer}, the tutorial's recipe": tutorial}
    for epochs in EPOCHS:
        result = in_a_process("genre_cls", [*DEFAULT, f"recipe.epochs={epochs}", *options.overrides])
        rows[f"genre_cls, the default recipe in {epochs} epochs"] = result
        if result["accuracy"] >= tutorial["accuracy"]:
            break
    print(table(rows, tutorial["seconds"]))


def keras(cfg: Any, task: Any) -> Result:
    """Train the tutorial's network with its own optimiser and library, on standardised whole clips."""
    (fold,) = task.folds
    n_frames = min(clip.shape[1] for clip in task.features.clips)
    clips = np.stack([clip[:, :n_frames].astype(np.float32) for clip in task.features.clips])
    mean, std = (of(clips[fold.train], axis=(0, 2), keepdims=True) for of in (np.mean, np.std))
    clips = (clips - mean) / std
    model = keras_network(clips.shape[1:], os.cpu_count() or 1)
    began = perf_counter()
    model.fit(
        clips[fold.train, ..., None], task.labels[fold.train], cfg.batch_size, epochs=cfg.recipe.epochs, verbose=0
    )
    predicted = model.predict(clips[fold.test, ..., None], verbose=0).argmax(axis=1)
    seconds = perf_counter() - began
    return {"accuracy": float((predicted == task.labels[fold.test]).mean()), "seconds": seconds}


def ours(cfg: Any, task: Any) -> Result:
    """Train the fold's ensemble in parallel, each model in a worker whose start counts, and average their outputs."""
    from genre_cls.training.ensembles import EnsembleTrainings, n_workers

    began = perf_counter()
    ((result, _),) = EnsembleTrainings(cfg, task, task.folds, n_workers(cfg, task)).results("training")
    return {"accuracy": result.scores["accuracy"], "seconds": perf_counter() - began}


WAYS: dict[str, Way] = {"Keras": keras, "genre_cls": ours}


def measured(way: Way, overrides: Sequence[str]) -> Result:
    """Measure one way on the first fold, whose features are in the cache."""
    from hydra import compose, initialize_config_dir

    from genre_cls.configuration.settings import CONF
    from genre_cls.training import task

    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        cfg = compose("config", [*overrides, "fold=0", "alone=true"])
    loaded = task.load(cfg)
    assert loaded
    return way(cfg, loaded)


def in_a_process(way: str, overrides: Sequence[str]) -> Result:
    """Measure a way in a separate process, where no other library has set up its threads."""
    return measured_apart(__file__, "--way", way, *overrides)


def table(rows: Mapping[str, Result], peer: float) -> str:
    """Format accuracy and time of each as Markdown, the time also as a share of the tutorial's."""
    cells = [
        [name, f"{100 * each['accuracy']:.1f}", f"{each['seconds']:.1f}", f"{each['seconds'] / peer:.3f}"]
        for name, each in rows.items()
    ]
    return markdown(["way", "accuracy, %", "s", "of the tutorial's time"], cells)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="which dataset, and settings of both")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)  # in the separate process
    return parser.parse_args()


if __name__ == "__main__":
    main()
