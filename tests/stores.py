"""Stored configurations as if they had been trained, for tests of what is stored and compared."""

import json
import multiprocessing
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import unquote

import numpy as np
from made import a_result
from mlflow import MlflowClient
from mlflow.entities import Run

from genre_cls.evaluation.genre_means import GenreMeans
from genre_cls.evaluation.predictions import FoldResult
from genre_cls.evaluation.scoring import ConfigResult
from genre_cls.tracking.artifacts import fold_files, genre_means_file, tracks_file
from genre_cls.tracking.stored_comparison import newest
from genre_cls.tracking.stored_runs import PARENT
from genre_cls.tracking.tracker import Tracker

GENRES = ("blues", "rock & roll")
QUICKEST = multiprocessing.get_context("fork" if sys.platform == "linux" else None)  # a fork spares the imports
TRACKS = {
    "0.0.0": {"genre": "blues", "artist": 'Ann, "the" First', "group": "", "fault": "", "path": "/a\nb.wav"},
    "0.0.1": {"genre": "rock & roll", "artist": "", "group": "", "fault": "distorted", "path": "/c.wav"},
}
MEANS = GenreMeans("mel", GENRES, np.ones((2, 3, 4), np.float32), 0.1, np.array([100.0, 200, 400]))


def folds_of(*accuracies: float) -> tuple[FoldResult, ...]:
    return a_result(*accuracies, genres=GENRES).folds


def store(
    tracker: Tracker, identity: str, *accuracies: float, experiment: str = "e", comparison: str = "same",
    split: str = "random", named: Mapping[str, str] = {}, tags: Mapping[str, str] = {},
    params: Mapping[str, str] = {}, tracks: Mapping[str, Mapping[str, str]] = TRACKS,
) -> str:  # fmt: skip
    """Log a configuration as training does and return the id of its run."""
    where = tracker.experiment(experiment)
    names = {"features": "mel", "model": identity, "batch_size": "16", **named}
    all_tags = {"identity": identity, "named": json.dumps(names), "comparison": comparison, "dataset": "own"}
    all_tags |= {"setup": identity.lower(), "folds": split, "dataset_digest": "d", "sources": "{}", **tags}
    k = {} if split == "filtered" else {"folds.k": "5"}
    all_params = {"n_parameters": "12", **k, **params}
    with tracker.run(where, identity, all_tags | {"kind": "config"}, all_params) as parent:
        for fold in folds_of(*accuracies):
            log_fold(tracker, where, fold, all_tags | {"kind": "fold", PARENT: parent.run_id})
        files = {"genre_means_mel.npz": genre_means_file(MEANS), "tracks.csv": tracks_file(tracks)}
        means = {"accuracy_mean": float(np.mean(accuracies)), "seconds_per_fold": 12.0}
        parent.log(means | {"seconds": 12.0 * len(accuracies)}, files)
    time.sleep(0.005)  # MLflow orders by milliseconds
    return parent.run_id


def log_fold(tracker: Tracker, where: str, fold: FoldResult, tags: Mapping[str, str]) -> None:
    with tracker.run(where, f"fold {fold.index}", tags, {}) as child:
        child.log(fold.scores | {"seconds": fold.seconds}, fold_files(fold), fold.curves)


def compared(tracker: Tracker, experiment: str | None = None, command_id: str | None = None) -> Sequence[ConfigResult]:
    """Return the results that `newest` returns; none if it returns nothing."""
    comparison = newest(tracker, experiment, command_id=command_id)
    return comparison.results if comparison else ()


def found(tracker: Tracker, experiment: str | None = None) -> dict[str, float]:
    """Return the mean accuracy of each configuration that is `compared`, by its model."""
    return {result.named["model"]: result.estimate("accuracy").mean for result in compared(tracker, experiment)}


def run(tracker: Tracker, run_id: str) -> Run:
    return MlflowClient(tracker.uri).get_run(run_id)


def artifacts(tracker: Tracker, run_id: str) -> Path:
    return Path(unquote(run(tracker, run_id).info.artifact_uri.removeprefix("file://")))


def children(tracker: Tracker, run_id: str) -> list[str]:
    experiment = run(tracker, run_id).info.experiment_id
    found = MlflowClient(tracker.uri).search_runs([experiment], f"tags.`{PARENT}` = '{run_id}'")
    return [child.info.run_id for child in found]
