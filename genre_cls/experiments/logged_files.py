"""The artifacts that a configuration logs: files and pictures of its folds and of the whole."""

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np

from genre_cls.configuration.identity import Identity
from genre_cls.evaluation import figures, plots
from genre_cls.evaluation.genre_means import GenreMeans
from genre_cls.evaluation.predictions import FoldResult
from genre_cls.evaluation.scoring import ConfigResult
from genre_cls.models import modelfile
from genre_cls.models.modelfile import Weights
from genre_cls.tracking.artifacts import (
    GENRE_MEANS,
    MODEL,
    TRACKS,
    Files,
    confusion_file,
    csv_file,
    fold_files,
    genre_means_file,
    tracks_file,
)
from genre_cls.tracks.catalogue import Track
from genre_cls.tracks.feature_cache import Features
from genre_cls.tracks.features import mel_frequencies
from genre_cls.tracks.folds import Indices
from genre_cls.tracks.windows import repeat_to
from genre_cls.training.task import Task

LONGEST_MEANS = 60.0  # s of genres' average features; those of hours would be large and drawn no clearer


def of_fold(task: Task, identity: Identity, precision: str, weights: Sequence[Weights], result: FoldResult) -> Files:
    """Return the files of a fold: its result, its models and its settings.

    Args:
        task: the configuration's data.
        identity: of the configuration.
        precision: that the models were trained in.
        weights: of each member of the ensemble.
        result: of the fold.
    """
    (fold,) = [fold for fold in task.folds if fold.index == result.index]
    description = {
        "config": identity.yaml,
        "features": asdict(task.features.spec),
        "genres": task.catalogue.genres,
        "precision": precision,
        "longest": task.features.longest,
        "dataset_digest": task.features.digest,
        "trained_on": [task.features.tracks[i].id for i in fold.known],
        "scores": result.scores,
        "origin": identity.tags,
    }
    models = modelfile.serialised(weights, description)
    return {**fold_files(result), "config.yaml": identity.yaml.encode(), MODEL: models}


def pictures_of_fold(result: FoldResult, title: str, note: str) -> Files:
    """Return the pictures of a fold: loss curves and confusion matrix.

    Args:
        result: of the fold.
        title: of its configuration.
        note: small print below.
    """
    return _pictures(result, [result], f"{title}, fold {result.index}", note)


def _pictures(result: FoldResult | ConfigResult, folds: Sequence[FoldResult], title: str, note: str) -> Files:
    matrix = plots.confusion_matrix(result.confusion, result.genres, title=title, note=note)
    return {
        "loss_curves.png": figures.png(plots.loss_curves(folds, title=title, note=note)),
        "confusion_matrix.png": figures.png(matrix),
    }


def of_configuration(task: Task, identity: Identity, result: ConfigResult) -> Files:
    """Return the files and pictures of all folds together, with the facts about the tracks.

    Args:
        task: the configuration's data.
        identity: of the configuration.
        result: of all its folds.
    """
    means = genre_means(task.features, task.labels, task.catalogue.genres)
    return {
        "config.yaml": identity.yaml.encode(),
        "confusion_matrix.csv": confusion_file(result.confusion, result.genres),
        **_pictures(result, result.folds, identity.title, task.note),
        "reliability.png": figures.png(plots.reliability(result.tempered.calibration, note=task.note)),
        GENRE_MEANS.format(means.kind): genre_means_file(means),
        **of_tracks(task),
    }


def of_tracks(task: Task) -> Files:
    """Return the files that say what is known of the tracks: facts, unreadable files, duplicates.

    They may change while the folds stay as they are, such as when artists become known or a folder is moved.
    """
    ids = [track.id for track in task.features.tracks]
    groups = task.group_of
    facts = {track.id: _facts(track, groups.get(track.id, "")) for track in task.features.tracks}
    files = {TRACKS: tracks_file(facts)}
    if unreadable := [(str(each.track.path), each.reason) for each in task.features.unreadable]:
        files["unreadable.csv"] = csv_file([("path", "reason"), *unreadable])
    if duplicates := [(ids[pair.first], ids[pair.second], pair.similarity) for pair in task.duplicates]:
        files["repetitions.csv"] = csv_file([("track", "repeats", "similarity"), *duplicates])
    return files


def _facts(track: Track, group: str) -> dict[str, str]:
    facts = {"genre": track.genre, "artist": track.artist or "", "group": group, "fault": track.fault or ""}
    return facts | {"path": str(track.path.absolute())}


def genre_means(features: Features, labels: Indices, genres: tuple[str, ...]) -> GenreMeans:
    """Return the average feature matrix of each genre over its tracks, cut or repeated to their median length.

    Of longer tracks it is the first `LONGEST_MEANS`.

    Args:
        features: of all tracks.
        labels: genre of each track `(n_tracks,)`.
        genres: names.

    Returns:
        With matrices `(n_genres, n_bins, n_frames)`, in the unit of the features (`GenreMeans`).
    """
    spec = features.spec
    median = int(np.median([clip.shape[1] for clip in features.clips]))
    n_frames = min(median, spec.n_frames(LONGEST_MEANS))
    means = np.zeros((len(genres), spec.n_bins, n_frames), dtype=np.float32)
    for genre, mean in enumerate(means):
        clips = [repeat_to(features.clips[i], n_frames)[:, :n_frames] for i in np.flatnonzero(labels == genre)]
        for clip in clips:
            mean += clip
        mean /= max(1, len(clips))
    frequencies = mel_frequencies(spec) if spec.kind == "mel" else np.array([])
    return GenreMeans(spec.kind, genres, means, spec.seconds_per_frame, frequencies)
