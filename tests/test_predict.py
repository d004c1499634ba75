"""The command that predicts, end to end: its output in each format, and every input that it must refuse."""

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from networks import SPECS, a_classifier
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from shared import GENRES, RATE, Command, Outcome, lock

from genre_cls import GenreClassifier, __version__, predict
from genre_cls.inference import output
from genre_cls.inference.prediction import Prediction
from genre_cls.tracks.audio import UnreadableAudio


@pytest.fixture(scope="session")
def exported(trained: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The best of the small configurations in one file, so that tests need no tracking store."""
    path = tmp_path_factory.mktemp("exported") / "best.safetensors"
    GenreClassifier.load(tracking=trained.folder / "mlruns").save(path)
    return path


@pytest.fixture
def classify(command: Command, exported: Path) -> Command:
    """The command, with that file as its model."""
    return lambda *arguments: command(predict.main, "--model", str(exported), *map(str, arguments))


def paths(done: Outcome) -> list[str]:
    """The files that JSON lists."""
    return [one["path"] for one in json.loads(done.out)]


def track(tiny_music: Path, place: int = 0) -> Path:
    return sorted(tiny_music.rglob("*.wav"))[place]


def noise(seconds: float, rate: int = RATE) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.2, round(seconds * rate))


def test_the_best_configuration_names_the_genres_of_a_folder(command: Command, trained: Any, tiny_music: Path) -> None:
    done = command(predict.main, str(tiny_music), "--tracking", str(trained.folder / "mlruns"), "--format", "json")
    assert done.code == 0 and re.fullmatch(r"best: features=m\w+ model=\w+ batch_size=\d+ .*, of my music\n", done.err)
    predicted = {one["path"]: one["genres"][0]["genre"] for one in json.loads(done.out)}
    assert predicted == {str(path): path.parent.name for path in tiny_music.rglob("*.wav")}


def test_a_table_ranks_the_genres_of_each_file(classify: Command, tiny_music: Path) -> None:
    path = track(tiny_music)
    done = classify(path)
    head, *ranks = done.out.splitlines()
    assert done.code == 0 and done.err == "" and head == f"{path}  0:01"
    rows = [re.fullmatch(r" +(\d+\.\d) %  (.+)", rank) for rank in ranks]
    assert [row[2] for row in rows if row] == list(GENRES)
    shares = [float(row[1]) for row in rows if row]
    assert sum(shares) == pytest.approx(100, abs=0.11) and shares[0] > shares[1]
    assert classify(path, "--top", 1).out.splitlines() == [head, ranks[0]]


def test_json_and_csv_agree_on_files_and_windows(classify: Command, tiny_music: Path) -> None:
    done = classify(tiny_music, "--format", "json")
    table = list(csv.DictReader(io.StringIO(classify(tiny_music, "--format", "csv").out)))
    assert len(json.loads(done.out)) == 12
    for one in json.loads(done.out):
        whole, *windows = [row for row in table if row["path"] == one["path"]]
        assert whole["part"] == "file" and {row["part"] for row in windows} == {"window"}
        ranked = {entry["genre"]: entry["probability"] for entry in one["genres"]}
        assert ranked == {genre: float(whole[f"p({genre})"]) for genre in GENRES}
        assert whole["predicted"] == max(ranked, key=lambda genre: ranked[genre])
        assert [w["votes"] for w in one["windows"]] == [
            {genre: float(row[f"p({genre})"]) for genre in GENRES} for row in windows
        ]
        assert [(w["start"], w["end"]) for w in one["windows"]] == [
            (float(row["start"]), float(row["end"])) for row in windows
        ]
        means = {genre: np.mean([w["votes"][genre] for w in one["windows"]]) for genre in GENRES}
        powers = {genre: mean ** (1 / one["temperature"]) for genre, mean in means.items()}
        assert ranked == pytest.approx({genre: power / sum(powers.values()) for genre, power in powers.items()})
        assert one["seconds"] == float(whole["end"]) == pytest.approx(1.2) == one["windows"][-1]["end"]


@pytest.mark.parametrize(("asked", "in_table", "in_json"), [(None, 3, 5), (4, 4, 4)])
def test_a_table_shows_three_genres_and_json_all_unless_top_is_given(
    asked: int | None, in_table: int, in_json: int, capsys: pytest.CaptureFixture[str]
) -> None:
    genres, places = tuple("abcde"), np.arange(1.0)
    predicted = (Path("song.mp3"), Prediction(genres, 5.0, places, places + 5, np.array([[0.3, 0.1, 0.2, 0.25, 0.15]])))
    output.FORMATS["table"](iter([predicted]), genres, asked)
    assert len(capsys.readouterr().out.splitlines()) == 1 + in_table
    output.FORMATS["json"](iter([predicted]), genres, asked)
    assert [entry["genre"] for entry in json.loads(capsys.readouterr().out)[0]["genres"]] == list("adceb")[:in_json]


def test_a_file_is_classified_alone_as_among_many(classify: Command, tiny_music: Path) -> None:
    together = json.loads(classify(tiny_music, "--format", "json").out)
    for one in together[::4]:
        assert json.loads(classify(one["path"], "--format", "json").out) == [one]


def test_a_file_whose_name_begins_with_a_tilde_is_classified(
    classify: Command, tiny_music: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(track(tiny_music), "~song.wav")
    (result,) = json.loads(classify("~song.wav", "--format", "json").out)
    assert result["path"] == "~song.wav"


def test_a_long_file_shows_its_genres_over_time(classify: Command, tmp_path: Path) -> None:
    tone = 0.5 * np.sin(2 * np.pi * 660 * np.arange(300 * RATE) / RATE)
    soundfile.write(tmp_path / "a.flac", np.concatenate([noise(360), tone]), RATE)
    done = classify(tmp_path / "a.flac")
    head, _, _, *strip = done.out.splitlines()
    assert head.endswith("  11:00")
    assert strip[0] == "      0:00 hhhhhhhhhhhhtttttttt 10:00" and strip[1] == "     10:00 tt 11:00"
    assert strip[2].strip() == f"h {GENRES[0]}  t {GENRES[1]}  (a letter stands for 30 s)"


@pytest.mark.parametrize(
    ("seconds", "shown"), [(59.9, "0:59"), (3599, "59:59"), (3600, "1:00:00"), (36_061, "10:01:01")]
)
def test_times_from_an_hour_on_are_shown_with_hours(seconds: float, shown: str) -> None:
    assert output._clock(seconds) == shown


def test_genres_of_a_model_file_cannot_control_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    genres, places = ("rock\x1b[2J", "jazz\nblues"), np.arange(2.0) * 60
    predicted = Prediction(genres, 120.0, places, places + 60, np.eye(2))
    output.FORMATS["table"]([(Path("song.mp3"), predicted)], genres, None)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + 2 + 2 and all(line.isprintable() for line in lines)


def test_the_legend_of_a_strip_explains_silence() -> None:
    stretches = [(0.0, 30.0, "rock"), (30.0, 60.0, None), (60.0, 90.0, "jazz")]
    row, legend = output._strip(
        cast(Prediction, SimpleNamespace(over_time=lambda seconds: stretches)), ("jazz", "rock")
    )
    assert row.plain.split() == ["0:00", "r·j", "1:30"]
    assert legend.plain.strip() == "j jazz  r rock  · silence  (a letter stands for 30 s)"


@given(st.lists(st.text(min_size=1), unique=True, max_size=40))
def test_every_genre_has_a_unique_letter(genres: list[str]) -> None:
    letters = output._letters(genres)
    assert list(letters) == [*genres, None] and len({letter for letter, _ in letters.values()}) == len(letters)


def test_more_genres_than_there_are_letters_share_a_sign() -> None:
    letters = [letter for letter, _ in output._letters([f"genre {number}" for number in range(70)]).values()]
    assert letters[:3] == ["g", "e", "n"] and letters[-4:] == ["?", "?", "?", "·"]


def test_folders_are_searched_without_hidden_files_and_no_file_is_classified_twice(
    classify: Command, tiny_music: Path, tmp_path: Path
) -> None:
    content = track(tiny_music).read_bytes()
    for name in ("a.wav", "deep/er/b.WAV", "deep/._a.wav", ".hidden/c.wav", "notes.txt", "deep/c.m4a"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    done = classify(tmp_path, tmp_path / "a.wav", tmp_path / "deep", "--format", "json")
    assert f"{tmp_path}: 1 file skipped, such as c.m4a; readable formats: .wav" in done.err
    assert done.code == 0 and paths(done) == [str(tmp_path / "a.wav"), str(tmp_path / "deep/er/b.WAV")]


def _write(samples: np.ndarray, rate: int = RATE, **how: Any) -> Callable[[Path], object]:
    return lambda path: soundfile.write(path, samples, rate, **({"format": "WAV", "subtype": "FLOAT"} | how))


def _endless(path: Path) -> None:
    soundfile.write(path, noise(1), RATE, format="FLAC")
    header = bytearray(path.read_bytes())
    header[21:26] = bytes([header[21] & 0xF0, *(2**31).to_bytes(4, "big")])  # samples that it claims to have
    path.write_bytes(header)


def _cut(path: Path) -> None:
    soundfile.write(path, noise(1), RATE, format="FLAC")
    path.write_bytes(path.read_bytes()[:60])


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: None, "no such file or directory"),
    "empty": (Path.touch, "is an empty file"),
    "text": (lambda path: path.write_text("Dear diary"), "Format not recognised"),
    "html": (lambda path: path.write_text("<html>404</html>" * 999), "Format not recognised"),
    "picture": (lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(999)), "Format not recognised"),
    "cut": (_cut, "unknown error in flac decoder"),
    "without samples": (_write(noise(0)), "has no samples"),
    "opposite channels": (
        _write(np.outer(noise(130), [1, -1])),
        "has channels that cancel each other out when they are mixed to mono",
    ),
    "silent": (_write(np.zeros(3 * RATE)), "is silent"),
    "all but silent": (_write(noise(3) * 1e-6), "is silent"),
    "long and silent": (_write(np.zeros(130 * RATE), subtype="PCM_16"), "is silent"),
    "long and silent but for a click": (_write(np.eye(1, 130 * RATE)[0]), "has sound for less than 0.1 s"),
    "short": (_write(noise(0.02)), "lasts less than the 0.5 s that are needed"),
    "one sample": (_write(np.ones(1)), "less than the 0.5 s that are needed"),
    "NaN": (_write(np.full(RATE, np.nan)), "has NaN, infinite or absurdly large samples"),
    "late NaN": (_write(np.append(noise(130), np.nan)), "has NaN, infinite or absurdly large samples"),
    "infinite": (_write(np.append(noise(1), np.inf)), "has NaN, infinite or absurdly large samples"),
    "thirteen hours": (_write(np.zeros(50_000), rate=1), "lasts 13.9 h, more than the 12 h that are taken"),
    "a claim of a day": (_endless, "lasts 27.1 h, more than the 12 h that are taken"),
    "too fast": (_write(noise(1), rate=2_000_000), "has a sample rate of 2000000 Hz"),
    "folder": (Path.mkdir, "contains no audio files (.wav, .au, .aif, .aiff, .flac, .ogg, .opus, .mp3)"),
    "pipe": (os.mkfifo, "is not a regular file"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_input_is_reported_in_one_line_and_the_others_are_classified(
    classify: Command, tiny_music: Path, tmp_path: Path, what: str
) -> None:
    make, reason = BAD[what]
    bad, good = tmp_path / "song.wav", track(tiny_music)
    make(bad)
    done = classify(good, bad, track(tiny_music, -1), "--format", "json")
    assert done.code == 1 and paths(done) == [str(good), str(track(tiny_music, -1))]
    (line,) = done.err.splitlines()
    assert line.startswith(f"{bad}: ") and line.endswith(reason)
    alone = classify(bad, "--format", "json")
    assert alone.code == 1 and json.loads(alone.out) == [] and alone.err == done.err


def test_a_file_in_a_format_that_ffmpeg_converts_is_refused_with_its_command(classify: Command, tmp_path: Path) -> None:
    (tmp_path / "song.m4a").write_text("music")
    done = classify(tmp_path / "song.m4a")
    assert done.code == 1 and done.err.endswith("Format not recognised (ffmpeg -i SONG.m4a SONG.flac converts one)\n")
    lost = classify(tmp_path / "song.m4a", tmp_path / "lost.m4a")
    assert f"{tmp_path / 'lost.m4a'}: no such file or directory" in lost.err.splitlines()


def test_a_file_for_which_the_model_returns_nan_is_named_and_the_others_are_classified(
    classify: Command, tiny_music: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, factors, vote = [track(tiny_music, place) for place in range(3)], iter((1, np.nan, 1)), GenreClassifier._vote
    monkeypatch.setattr(GenreClassifier, "_vote", lambda self, features: vote(self, next(factors) * features))
    done = classify(*files, "--format", "json")
    assert done.code == 1 and paths(done) == [str(files[0]), str(files[2])]
    assert done.err.splitlines() == [f"{files[1]}: the model returns NaN for this file"]


def test_a_folder_that_cannot_be_listed_is_named_and_the_other_files_are_classified(
    classify: Command, tiny_music: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(track(tiny_music), tmp_path / "a.wav")
    (locked := tmp_path / "lost+found").mkdir()
    lock(monkeypatch, locked)
    done = classify(tmp_path)
    assert (done.code, done.err) == (1, f"{locked}: permission denied\n") and "a.wav" in done.out
    alone = classify(locked)
    assert (alone.code, alone.err, alone.out) == (1, f"{locked}: permission denied\n", "")
    drawn = classify(tmp_path, "--explain", str(tmp_path / "why.png"))
    assert drawn.code == 1 and (tmp_path / "why.png").read_bytes().startswith(b"\x89PNG")


def test_a_file_that_is_explained_is_classified_once(
    classify: Command, tiny_music: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, classified = GenreClassifier.predict, []

    def counted(self: GenreClassifier, path: Path) -> Prediction:
        classified.append(path)
        return real(self, path)

    monkeypatch.setattr(GenreClassifier, "predict", counted)
    done = classify(track(tiny_music), "--explain", str(tmp_path / "why.png"))
    assert done.code == 0 and classified == [track(tiny_music)] and "%" in done.out
    assert f"explained: {tmp_path / 'why.png'}" in done.err
    assert (tmp_path / "why.png").read_bytes().startswith(b"\x89PNG")


def test_files_may_stand_before_and_after_options(classify: Command, tiny_music: Path) -> None:
    files = [track(tiny_music, place) for place in range(3)]
    done = classify(files[0], "--format", "json", files[1], "--top", "1", files[2])
    assert paths(done) == [str(file) for file in files]
    done = classify(files[0], "--top", "1", "")
    assert (done.code, done.err) == (2, "error: argument FILE|FOLDER: an empty name (see --help)\n")


def test_a_name_that_begins_with_a_dash_is_refused_with_how_to_write_it(
    classify: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("-a.wav", "-help.wav", "b.wav"):
        soundfile.write(name, noise(1), RATE)
    done = classify("-a.wav", "b.wav")
    hint = "write ./-a.wav for that file"
    assert (done.code, done.err) == (2, f"error: unrecognized arguments: -a.wav (see --help); {hint}\n")
    assert "write ./-help.wav for that file" in classify("b.wav", "-help.wav").err
    assert classify("--", "-a.wav", "b.wav").code == classify("./-a.wav").code == 0
    assert paths(classify("b.wav", "--format", "json", "--", "-a.wav")) == ["b.wav", "-a.wav"]
    assert classify("-" + 300 * "x").err == f"error: unrecognized arguments: -{300 * 'x'} (see --help)\n"


def test_missing_files_are_reported_before_a_model_is_loaded(command: Command, tmp_path: Path) -> None:
    (tmp_path / "link.wav").symlink_to("/no such disk/song.wav")
    done = command(predict.main, "nosuch.mp3", str(tmp_path), "--format", "json", "--model", "worst")
    assert done.code == 1 and json.loads(done.out) == []
    assert done.err.splitlines() == [
        "nosuch.mp3: no such file or directory",
        f"{tmp_path}/link.wav: is a broken link (/no such disk/song.wav)",
    ]


def test_a_model_is_exported_though_a_file_is_missing(
    command: Command, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(GenreClassifier, "load", lambda *_, **__: a_classifier(SPECS["another rate"]))
    done = command(predict.main, "nosuch.mp3", "--export", "m.safetensors")
    assert done.code == 1 and done.err.splitlines() == [
        "nosuch.mp3: no such file or directory",
        "exported: m.safetensors",
    ]
    assert (here / "m.safetensors").exists()


def test_a_folder_that_is_called_as_a_command_is_searched(command: Command, here: Path) -> None:
    (here / "train").mkdir()
    assert command(predict.main, "train", "--model", "worst").mistake.startswith("error: model worst: no such file")


@pytest.mark.parametrize("trusted", [True, False])
def test_a_module_in_the_current_folder_is_found_for_models_that_are_trusted_only(
    command: Command, here: Path, monkeypatch: pytest.MonkeyPatch, trusted: bool
) -> None:
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place])
    (here / "of_mine.py").touch()
    found: list[bool] = []

    def load(*_: Any, **__: Any) -> GenreClassifier:
        found.append(find_spec("of_mine") is not None)
        return a_classifier(SPECS["another rate"])

    monkeypatch.setattr(GenreClassifier, "load", load)
    assert command(predict.main, "--export", "m.safetensors", *["--trust"] * trusted).code == 0 and found == [trusted]


def test_an_error_raised_to_python_notes_the_path(exported: Path) -> None:
    with pytest.raises(UnreadableAudio, match="no such file") as error:
        GenreClassifier.load(exported).predict("nosuch.wav")
    assert error.value.__notes__ == ["nosuch.wav"]


def test_unprintable_characters_in_names_are_escaped(classify: Command, tmp_path: Path) -> None:
    names = ("two\nlines.wav", "\x1b[31mred[bold].wav", os.fsdecode(b"caf\xe9.wav"), "emoji \N{MUSICAL SCORE}.wav")
    for name in names:
        soundfile.write(os.fsencode(tmp_path / name), noise(1), RATE)
        done = classify(tmp_path / name, tmp_path / f"not {name}")
        shown = done.out.splitlines()[0].removesuffix("  0:01")
        assert len(done.out.splitlines()) == 3 and len(done.err.splitlines()) == 1
        assert shown.isprintable() and done.err.strip().isprintable() and shown.startswith(str(tmp_path))
        assert json.loads(classify(tmp_path / name, "--format", "json").out)[0]["path"] == str(tmp_path / name)
        assert len(list(csv.reader(io.StringIO(classify(tmp_path / name, "--format", "csv").out)))) > 2


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((), "nothing to do"),
        (("export",), "export: no such file, and no command; did you mean genre-cls --export FILE?"),
        (("predict", "song.mp3"), "predict: no such file, and no command; did you mean genre-cls FILE?"),
        (("",), "FILE|FOLDER: an empty name"),
        (("a.wav", "--top", "0"), "--top: 0: must be a whole number, at least 1"),
        (("a.wav", "--top", "2", "--format", "csv"), "--top: --format csv always has all genres, a column each"),
        (("a.wav", "--top", "few"), "--top: few: must be a whole number"),
        (("a.wav", "--format", "xml"), "invalid choice: 'xml'"),
        (("a.wav", "--formatt", "csv"), "unrecognized arguments: --formatt"),
        (("a.wav", "--model"), "--model: expected one argument"),
        (("a.wav", "--model", ""), "--model: an empty name"),
        (("a.wav", "--register", ""), "--register: an empty name"),
        (("a.wav", "--register", " "), "--register: an empty name"),
        (("--register", "mine", "--model", "a.onnx"), "model a.onnx: an .onnx file cannot be registered"),
        (("--register", "mine", "--trust"), "--register: only models of genre_cls.models"),
        (("--export", "song.ogg"), "--export song.ogg: must end in .safetensors or .onnx"),
        (("a.wav", "--explain", "/no/why.png"), "--explain /no/why.png: no such folder"),
        (("--export", "/no/m.onnx"), "--export /no/m.onnx: no such folder"),
        ((__file__,), "tracking mlruns: no store of runs there"),
        ((__file__, "--model", "worst"), "model worst: no such file; must be best, "),
        (
            (__file__, "--model", "a.onnx", "--experiment", "e"),
            "experiment e: chooses a model by itself; leave out a.onnx",
        ),
        ((__file__, "--model", "0" * 32, "--tracking", "there"), "tracking there: no store of runs"),
        ((__file__, "--tracking", "http://127.0.0.1:9"), "tracking.uri=http://127.0.0.1:9: "),
        ((__file__, "--tracking", "sqlite:///runs.db"), "tracking sqlite:///runs.db: no store of runs"),
    ],
)
def test_a_wrong_command_is_reported_in_one_line(command: Command, arguments: tuple[str, ...], reason: str) -> None:
    done = command(predict.main, *arguments)
    assert reason in done.mistake and not list(done.folder.iterdir())


def test_a_file_that_cannot_be_written_is_refused_before_a_model_is_loaded(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for option, name in (("--export", "model.onnx"), ("--explain", "why.png")):
        (place := tmp_path / name).mkdir()
        mistake = command(predict.main, __file__, option, str(place)).mistake
        assert mistake == f"error: {option} {place}: cannot be written; name another file"
        (link := tmp_path / f"link to {name}").symlink_to(tmp_path / "none" / name)
        assert command(predict.main, __file__, option, str(link)).mistake == f"error: {option} {link}: no such folder"
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert command(predict.main, "--export", "m.onnx").mistake.endswith("m.onnx: cannot be written; name another file")


def test_an_exported_model_works_without_the_store(
    command: Command, trained: Any, tiny_music: Path, tmp_path: Path
) -> None:
    store, model = str(trained.folder / "mlruns"), str(tmp_path / "my model.safetensors")
    before = command(predict.main, str(tiny_music), "--tracking", store, "--format", "csv", "--export", model)
    assert before.code == 0 and before.err.splitlines()[1:] == [f"exported: {model}"]
    after = command(predict.main, str(tiny_music), "--model", model, "--tracking", "nowhere", "--format", "csv")
    for row, same in zip(csv.reader(io.StringIO(before.out)), csv.reader(io.StringIO(after.out)), strict=True):
        assert row[:2] == same[:2]
        assert row[5:] == same[5:] or np.array(row[5:], float) == pytest.approx(np.array(same[5:], float), abs=1e-12)
    nowhere = command(predict.main, "--model", model, "--export", str(tmp_path / "no folder" / "a.safetensors"))
    assert "no folder" in nowhere.mistake


def test_a_model_of_the_demo_set_says_so(command: Command, exported: Path, tiny_music: Path, tmp_path: Path) -> None:
    with safe_open(exported, "pt") as file:
        description = json.loads(file.metadata()["genre_cls"])
    description["origin"]["dataset"] = "demo"
    save_file(load_file(exported), tmp_path / "demo.safetensors", {"genre_cls": json.dumps(description)})
    done = command(predict.main, str(track(tiny_music)), "--model", str(tmp_path / "demo.safetensors"))
    assert done.code == 0 and "synthetic demo set" in done.err and len(done.err.splitlines()) == 1


@pytest.mark.skipif(os.name != "posix", reason="terminals")
def test_with_a_progress_bar_on_the_terminal_the_results_still_go_to_their_file(
    exported: Path, tiny_music: Path, tmp_path: Path
) -> None:
    terminal, end = os.openpty()
    arguments = (tiny_music, tmp_path / "missing.wav", "--model", exported, "--format", "json")
    with (tmp_path / "out.json").open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "genre_cls.predict", *map(str, arguments)],
            cwd=tmp_path, stdout=out, stderr=end, env=os.environ | {"TERM": "xterm", "COLUMNS": "300"},
        )  # fmt: skip
    os.close(end)
    shown = b""
    while True:
        try:
            shown += os.read(terminal, 1 << 16)
        except OSError:  # what Linux says when the other side is gone
            break
    os.close(terminal)
    assert process.wait(60) == 1
    assert len(json.loads((tmp_path / "out.json").read_text())) == 12
    assert b"loading the model" in shown and b"Classifying" in shown and b"probability" not in shown
    assert b"missing.wav: no such file or directory" in shown


def test_a_file_of_a_low_sample_rate_is_classified_with_a_note(classify: Command, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", noise(2, 2000), 2000)
    done = classify(tmp_path / "a.wav", "--format", "json")
    (one,) = json.loads(done.out)
    assert done.code == 0 and one["note"].startswith("recorded at 2000 Hz, it has nothing above 1000 Hz, where ")
    assert done.err.strip() == f"note: {tmp_path / 'a.wav'}: {one['note']}"


def test_a_name_that_mlflow_cannot_hold_is_refused_before_the_work(classify: Command) -> None:
    for name in ("a/b", "a:b"):
        assert f"--register {name}: MLflow takes no slash or colon" in classify("--register", name).mistake


def test_the_version_is_that_of_the_package(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["genre-cls", "--version"])
    with pytest.raises(SystemExit, match=r"^0$"):
        predict.main()
    assert capsys.readouterr().out == f"genre_cls {__version__}\n"


def test_help_is_quick(quick_help: Callable[[str], str]) -> None:
    assert "--export FILE" in quick_help("genre_cls.predict")
