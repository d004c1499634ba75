"""GTZAN in every folder layout, and what is known of its tracks."""

import shutil
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
from catalogues import IDS, ids, make_gtzan, told, touch

from genre_cls.tracks.gtzan import GENRES, gtzan, gtzan_facts

LAYOUTS = [".", "genres", "genres_original", "Data/genres_original", "Data/genres"]


@pytest.mark.parametrize("extension", [".wav", ".au", ".WAV", ".mp3"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_gtzan_is_found_in_every_layout(tmp_path: Path, layout: str, extension: str) -> None:
    make_gtzan(tmp_path / layout, extension=extension)
    found = gtzan(str(tmp_path))
    assert ids(found) == IDS
    assert found.genres == GENRES
    assert found.name == "gtzan" and not found.synthetic
    assert all(track.path.exists() and track.id.startswith(track.genre + ".") for track in found.tracks)


@pytest.mark.parametrize("name", ["hiphop", "hip-hop", "Hip Hop", "HipHop", "hip_hop"])
def test_hiphop_has_one_name_however_its_folder_is_spelled(tmp_path: Path, name: str) -> None:
    make_gtzan(tmp_path, hiphop=name)
    assert ids(gtzan(str(tmp_path))) == IDS


def test_the_images_beside_gtzans_audio_are_not_tracks(tmp_path: Path) -> None:
    make_gtzan(tmp_path / "Data" / "genres_original")
    make_gtzan(tmp_path / "Data" / "images_original", extension=".png")
    touch(tmp_path / "Data" / "features_30_sec.csv")
    assert ids(gtzan(str(tmp_path))) == IDS


def test_an_incomplete_gtzan_is_noted_with_its_counts(tmp_path: Path) -> None:
    make_gtzan(tmp_path, per_genre=100)
    assert gtzan(str(tmp_path)).notes == ()
    (tmp_path / "jazz" / "jazz.00054.wav").unlink()
    touch(tmp_path / "rock" / "rock.00100.wav")
    note, of_another = gtzan(str(tmp_path)).notes
    assert "rock.00100.wav" in of_another
    assert "jazz 99, rock 101" in note
    assert "1000 of 1000" in note
    assert "blues" not in note


def test_a_track_under_two_spellings_of_its_genre_is_listed_once(tmp_path: Path) -> None:
    make_gtzan(tmp_path)
    touch(tmp_path / "hiphop" / "hip-hop.00001.au")
    assert ids(gtzan(str(tmp_path))) == IDS


def test_another_file_with_a_tracks_number_does_not_replace_it(tmp_path: Path) -> None:
    make_gtzan(tmp_path)
    touch(tmp_path / "blues" / "00001.wav")
    reason = told(lambda: gtzan(str(tmp_path)))
    assert " 00001.wav" in reason and "blues.00001.wav" in reason and "move one of them away" in reason


def test_a_file_that_is_not_named_like_a_track_of_gtzan_is_none_and_is_noted(tmp_path: Path) -> None:
    make_gtzan(tmp_path)
    touch(tmp_path / "blues" / "my.song.00001.wav")
    found = gtzan(str(tmp_path))
    (own,) = (track for track in found.tracks if track.id not in IDS)
    assert own.id == "blues.my.song.00001" and own.artist is None
    assert found.notes[-1].startswith("Not named like tracks of GTZAN, so nothing is known of them: 1, such as ")


@pytest.mark.parametrize("name", ["blues_00042.wav", "Blues00042.wav", "42.wav", "blues.000042.wav", "blues 42.wav"])
def test_a_track_of_gtzan_is_known_by_its_number_however_it_is_written(tmp_path: Path, name: str) -> None:
    make_gtzan(tmp_path)
    touch(tmp_path / "blues" / name)
    (track,) = (track for track in gtzan(str(tmp_path)).tracks if track.path.name == name)
    assert track.id == "blues.00042" and track.artist == gtzan_facts()["blues.00042"]["artist"]


def test_a_track_of_another_genre_is_refused(tmp_path: Path) -> None:
    make_gtzan(tmp_path)
    touch(tmp_path / "blues" / "rock.00077.wav")
    assert "rock.00077.wav: is a track of rock by its name" in told(lambda: gtzan(str(tmp_path)))


def test_hidden_and_empty_folders_of_a_genre_are_passed_over(tmp_path: Path) -> None:
    make_gtzan(tmp_path)
    (tmp_path / "Rock").mkdir()
    touch(tmp_path / ".rock" / "rock.00050.wav")
    assert ids(gtzan(str(tmp_path))) == IDS


def test_two_folders_of_one_genre_are_refused(tmp_path: Path) -> None:
    make_gtzan(tmp_path)
    touch(tmp_path / "hip-hop" / "hiphop.00050.wav")
    assert "hip-hop beside it is the same genre" in told(lambda: gtzan(str(tmp_path)))


def test_of_several_places_the_one_with_most_of_gtzan_counts(tmp_path: Path) -> None:
    make_gtzan(tmp_path / "genres_original")
    touch(tmp_path / "rock" / "rock.00001.wav")
    touch(tmp_path / "genres" / "blues" / "blues.00001.wav")
    assert ids(gtzan(str(tmp_path))) == IDS


def test_a_track_as_wav_and_as_au_is_listed_once(tmp_path: Path) -> None:
    make_gtzan(tmp_path, extension=".au")
    make_gtzan(tmp_path, extension=".wav")
    found = gtzan(str(tmp_path))
    assert ids(found) == IDS
    assert {track.path.suffix for track in found.tracks} == {".wav"}


@pytest.mark.parametrize("emptied", [True, False])
def test_a_genre_without_audio_stops_with_its_name(tmp_path: Path, emptied: bool) -> None:
    make_gtzan(tmp_path)
    shutil.rmtree(tmp_path / "reggae")
    if emptied:
        touch(tmp_path / "reggae" / "readme.txt")
    text = told(lambda: gtzan(str(tmp_path)))
    assert "no audio for reggae;" in text
    assert str(tmp_path) in text


def test_a_missing_gtzan_is_reported_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for root in (None, ""):
        assert "neither dataset.root nor GTZAN_ROOT is set" in told(partial(gtzan, root))
    assert f"{tmp_path}/typo: no such folder" in told(lambda: gtzan(f"{tmp_path}/typo"))
    assert f"{tmp_path}: has no folder named after a GTZAN genre" in told(lambda: gtzan(str(tmp_path)))
    for text in (told(lambda: gtzan(None)), told(lambda: gtzan(str(tmp_path)))):
        assert "GTZAN_ROOT" in text and "dataset=demo" in text
    touch(tmp_path / "blues.00000.wav")
    assert "sort them into folders called blues, classical" in told(lambda: gtzan(str(tmp_path)))
    assert "from GTZAN_ROOT" not in told(lambda: gtzan("/nope"))
    monkeypatch.setenv("GTZAN_ROOT", "/nope")
    assert told(lambda: gtzan("/nope")).startswith("dataset.root=/nope (from GTZAN_ROOT): no such folder")


def test_the_facts_about_gtzan_are_complete_and_refer_only_to_its_tracks() -> None:
    facts = gtzan_facts()
    assert sorted(facts) == [f"{genre}.{n:05d}" for genre in GENRES for n in range(100)]
    assert Counter(row["part"] for row in facts.values()) == {"train": 443, "valid": 197, "test": 290, "": 70}
    assert sum(not row["artist"] for row in facts.values()) == 81
    assert all(not facts[row["repeats"]]["repeats"] for row in facts.values() if row["repeats"]), "chains end at once"
    assert sum(bool(row["repeats"]) for row in facts.values()) == 50  # as many as Sturm counts
    assert all(row["fault"] for row in facts.values() if not row["part"])


def test_faulty_tracks_can_be_left_out_of_gtzan(tmp_path: Path) -> None:
    make_gtzan(tmp_path)
    for name in ("reggae/reggae.00086.wav", "metal/metal.00058.wav"):
        touch(tmp_path / name)
    with_them = gtzan(str(tmp_path))
    faults = {track.id: track.fault for track in with_them.tracks if track.fault}
    assert faults["reggae.00086"] == "distorted" and faults["metal.00058"] == "the same recording as rock.00016"
    without = with_them.without_faults()
    assert {*with_them.tracks} - {*without.tracks} == {track for track in with_them.tracks if track.fault}
    assert f"{len(faults)} tracks with known faults" in without.notes[-1]


def test_gtzans_tracks_know_their_part_of_the_published_split(tmp_path: Path) -> None:
    make_gtzan(tmp_path)
    parts = {track.id: track.part for track in gtzan(str(tmp_path)).tracks}
    assert parts["blues.00000"] == "valid" and set(parts.values()) <= {"train", "valid", "test", None}


def test_the_published_split_shares_no_artist_between_its_test_part_and_the_rest() -> None:
    sides: dict[str, set[bool]] = {}
    for row in gtzan_facts().values():
        if row["artist"] and row["part"]:
            sides.setdefault(row["artist"], set()).add(row["part"] == "test")
    assert all(len(side) == 1 for side in sides.values())
