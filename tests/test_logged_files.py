"""What configurations are logged with."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from shared import features_of

from genre_cls.experiments.logged_files import genre_means, of_tracks
from genre_cls.tracks.catalogue import Catalogue, Track
from genre_cls.tracks.duplicates import Duplicate
from genre_cls.tracks.feature_cache import Unreadable
from genre_cls.tracks.folds import Facts
from genre_cls.training.task import Task


def test_genre_means_are_means_over_tracks_cut_or_repeated_to_the_median_length() -> None:
    clips = [np.full((2, n), value) for n, value in ((3, 1.0), (6, 3.0), (9, 10.0))]
    clips[0][:, 0] = 4  # comes again at frame 3
    means = genre_means(features_of(clips), np.array([0, 0, 1]), ("a", "b", "c")).matrices
    assert means.shape == (3, 2, 6)
    assert means[0, 0].tolist() == [3.5, 2, 2, 3.5, 2, 2]
    assert (means[1] == 10).all() and (means[2] == 0).all()


def test_genre_means_of_long_tracks_are_of_their_first_minute() -> None:
    long = features_of([np.ones((2, 5000))] * 2)
    minute = long.spec.n_frames(60)
    for clip in long.clips:
        clip[:, minute:] = 9
    means = genre_means(long, np.array([0, 1]), ("a", "b")).matrices
    assert means.shape == (2, 2, minute) and (means == 1).all()


def test_what_is_known_of_tracks_is_logged_with_paths_that_are_good_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tracks = (Track("1", Path("a/1.wav"), "a", artist="Ann"), Track("2", Path("b/2.wav"), "b", fault="distorted"))
    features = replace(features_of([np.zeros((2, 3))] * 2), tracks=tracks)
    task = Task(Catalogue("mine", tracks), features, np.array([0, 1]), (), (), Facts("ab"), (), "")
    assert {name: content.decode().splitlines() for name, content in of_tracks(task).items()} == {
        "tracks.csv": [
            "track,genre,artist,group,fault,path",
            f"1,a,Ann,,,{tmp_path}/a/1.wav",
            f"2,b,,,distorted,{tmp_path}/b/2.wav",
        ]
    }
    unreadable = (Unreadable(Track("3", Path("c.wav"), "b"), "is silent, all of it"),)
    more = replace(task, features=replace(features, unreadable=unreadable), duplicates=[Duplicate(0, 1, 0.75)])
    files = {name: content.decode().splitlines() for name, content in of_tracks(more).items()}
    assert files["unreadable.csv"] == ["path,reason", 'c.wav,"is silent, all of it"']
    assert files["repetitions.csv"] == ["track,repeats,similarity", "1,2,0.75"]
