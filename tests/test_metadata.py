"""metadata.csv: whatever it holds, facts are read as meant or refused."""

import unicodedata
from pathlib import Path
from typing import Any

import pytest
from catalogues import described, told, touch
from hypothesis import given, settings
from hypothesis import strategies as st

from genre_cls.errors import UserError
from genre_cls.tracks.folder import folder
from genre_cls.tracks.metadata import NOBODY


def test_metadata_names_artists_and_leaves_tracks_out(tmp_path: Path) -> None:
    lines = "\ufeffpath,artist,exclude\nrock/a.wav, Ann ,0\nrock/b.wav,Bob,1\n"
    found = folder(described(tmp_path, lines, "rock/b.wav"))
    assert [(track.id, track.artist) for track in found.tracks] == [("jazz/c.wav", None), ("rock/a.wav", "Ann")]
    assert found.notes == ("1 track is excluded by metadata.csv.",)


@pytest.mark.parametrize("forms", [("NFD", "NFC"), ("NFC", "NFD")])
def test_metadata_may_be_typed_on_another_system_than_the_file_names(tmp_path: Path, forms: tuple[Any, Any]) -> None:
    for name in ("rock/ä.wav", "jazz/c.wav"):
        touch(tmp_path / unicodedata.normalize(forms[0], name))
    rows = unicodedata.normalize(forms[1], "path,artist,exclude\nrock/ä.wav,Ann,0.0\njazz/c.wav,Bob,\n")
    (tmp_path / "metadata.csv").write_text(rows, "utf-8")
    found = folder(str(tmp_path))
    assert [track.artist for track in found.tracks] == ["Bob", "Ann"] and not found.notes


@pytest.mark.parametrize("nobody", [*NOBODY, "Various Artists", "NaN"])
def test_what_is_written_where_an_artist_is_unknown_names_none(tmp_path: Path, nobody: str) -> None:
    found = folder(described(tmp_path, f"path,artist\nrock/a.wav,{nobody}\njazz/c.wav,Bob\n"))
    assert [track.artist for track in found.tracks] == ["Bob", None]


def test_empty_cells_and_lines_that_spreadsheets_leave_do_no_harm(tmp_path: Path) -> None:
    found = folder(described(tmp_path, "path,artist\nrock/a.wav,Ann,,\njazz/c.wav,Bob\n,,,\n"))
    assert [track.artist for track in found.tracks] == ["Bob", "Ann"] and not found.notes


def test_where_metadata_excludes_all_that_is_reported(tmp_path: Path) -> None:
    root = described(tmp_path, "path,exclude\nrock/a.wav,1\njazz/c.wav,1\n")
    assert told(lambda: folder(root)).endswith(f"; {tmp_path / 'metadata.csv'} excludes 2")


def test_a_column_of_metadata_that_comes_twice_is_refused(tmp_path: Path) -> None:
    root = described(tmp_path, "path,artist,Artist\nrock/a.wav,Ann,\njazz/c.wav,Bob,\n")
    assert "it has several columns artist" in told(lambda: folder(root))


@pytest.mark.parametrize("word", ["no", "2", "-"])
def test_an_exclude_other_than_0_or_1_is_refused(tmp_path: Path, word: str) -> None:
    root = described(tmp_path, f"path,exclude\nrock/a.wav,{word}\n")
    assert f"metadata.csv: exclude={word} of rock/a.wav: must be 1, 0 or empty" in told(lambda: folder(root))


def test_metadata_that_matches_no_track_is_reported(tmp_path: Path) -> None:
    (note,) = folder(described(tmp_path, "path,artist\nrock\\a.wav,Ann\njazz/c.wav,Bob\n")).notes
    assert note.startswith("metadata.csv: 1 path matches no track ('rock") and "rock/a.wav" in note


def test_metadata_under_a_name_of_other_case_is_read_or_reported(tmp_path: Path) -> None:
    root = described(tmp_path, "path,artist,exclude\nrock/a.wav,Ann,\njazz/c.wav,Bob,0\n")
    (tmp_path / "metadata.csv").rename(tmp_path / "Metadata.csv")
    found = folder(root)
    is_read = (tmp_path / "metadata.csv").exists()  # by a file system that knows no case
    assert [track.artist for track in found.tracks] == (["Bob", "Ann"] if is_read else [None, None])
    assert found.notes == (() if is_read else ("Metadata.csv is ignored; rename it to metadata.csv.",))


def test_metadata_of_which_not_one_line_matches_a_track_is_refused(tmp_path: Path) -> None:
    root = described(tmp_path, "path,artist\nrock\\a.wav,Ann\njazz\\c.wav,Bob\n")
    reason = told(lambda: folder(root))
    assert reason.startswith(f"{tmp_path / 'metadata.csv'}: 2 paths match no track (such as 'jazz")
    assert reason.endswith("; write paths like rock/a.wav")
    (note,) = folder(described(tmp_path, "path,exclude\nrock/deleted.wav,1\n")).notes  # of which nothing is lost
    assert note.startswith("metadata.csv: 1 path matches no track ('rock/deleted.wav')")


def test_paths_in_metadata_may_begin_with_the_folder_that_they_are_in(tmp_path: Path) -> None:
    found = folder(described(tmp_path, "path,artist\n./rock/a.wav,Ann\njazz//c.wav,Bob\n"))
    assert [track.artist for track in found.tracks] == ["Bob", "Ann"]


def test_columns_of_metadata_may_be_separated_by_semicolons_as_excel_does_in_some_countries(tmp_path: Path) -> None:
    found = folder(described(tmp_path, "\ufeffpath;artist\r\nrock/a.wav;Ann, Bob\r\njazz/c.wav;Cy\r\n"))
    assert [track.artist for track in found.tracks] == ["Cy", "Ann, Bob"]


def test_a_semicolon_in_the_name_of_a_column_separates_nothing(tmp_path: Path) -> None:
    found = folder(described(tmp_path, "path,artist,mood; tempo\nrock/a.wav,Ann,fast\njazz/c.wav,Bob,slow\n"))
    assert [track.artist for track in found.tracks] == ["Bob", "Ann"]


def test_metadata_that_cannot_be_read_is_not_ignored(tmp_path: Path) -> None:
    for name in ("rock/a.wav", "jazz/c.wav"):
        touch(tmp_path / name)
    (tmp_path / "metadata.csv").symlink_to(tmp_path / "gone.csv")
    with pytest.raises(OSError):
        folder(str(tmp_path))
    (tmp_path / "metadata.csv").unlink()
    (tmp_path / "metadata.csv").mkdir()
    with pytest.raises(OSError):
        folder(str(tmp_path))


def test_a_genre_whose_tracks_are_all_excluded_is_reported(tmp_path: Path) -> None:
    found = folder(described(tmp_path, "path,exclude\nnoise/d.wav,1\n", "noise/d.wav"))
    assert found.genres == ("jazz", "rock") and found.notes[0].endswith(", ignored: noise.")
    assert found.notes[1] == "1 track is excluded by metadata.csv."


@pytest.mark.parametrize(
    "content",
    [
        b'path,artist\na,"B\nc,D\n',
        b"name,artist\nx,y\n",
        b"name,artist\n",
        b"path,Artist name\na/1.wav,Ann\n",
        b"",
        b"path\n\xff\xfe\xfa\n",
    ],
)
def test_an_invalid_metadata_file_is_refused(tmp_path: Path, content: bytes) -> None:
    for genre in "ab":
        touch(tmp_path / genre / "1.wav")
    (tmp_path / "metadata.csv").write_bytes(content)
    with pytest.raises(UserError, match=r"metadata\.csv: must be UTF-8 CSV with a column path, and artist or exclude"):
        folder(str(tmp_path))


LINES = st.lists(st.lists(st.sampled_from(["path", "artist", "exclude", "a/1.wav", "1", '"', "\r", "\0", "é", ""])))


ROWS = LINES.map(lambda lines: "\n".join(",".join(line) for line in lines).encode())


@settings(max_examples=100, deadline=None)
@given(content=st.binary() | st.text().map(lambda text: text.encode("utf-8", "surrogatepass")) | ROWS)
def test_any_metadata_file_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    base = tmp_path_factory.getbasetemp() / "with metadata"
    for genre in "ab":
        touch(base / genre / "1.wav")
    (base / "metadata.csv").write_bytes(content)
    try:
        assert {track.genre for track in folder(str(base)).tracks} == {"a", "b"}
    except UserError as error:
        assert len(str(error).splitlines()) == 1 and str(base) in str(error)


def test_metadata_is_read_however_its_header_is_spelled(tmp_path: Path) -> None:
    rows = "Path, Artist ,EXCLUDE\nrock/a.wav,Ann,\nrock/b.wav,Bob,1\njazz/c.wav,Cid,0\n"
    root = described(tmp_path, rows, "rock/b.wav")
    found = {track.id: track.artist for track in folder(root).tracks}
    assert found == {"jazz/c.wav": "Cid", "rock/a.wav": "Ann"}


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ("rock/a.wav,Ann,1\nrock/a.wav,Ann,\n", "rock/a.wav is listed twice with different facts"),
        ("rock/a.wav,Ann, the singer,1\n", "a name with a comma needs quotes around it"),
    ],
)
def test_metadata_that_would_lose_facts_are_refused(tmp_path: Path, rows: str, reason: str) -> None:
    root = described(tmp_path, "path,artist,exclude\n" + rows)
    assert reason in told(lambda: folder(root))
