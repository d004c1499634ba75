"""The registry: a version that MLflow loads without a pickle, with a signature, and that answers requests."""

import base64
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest.mock import Mock
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import mlflow
import pandas as pd
import pytest
import soundfile
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from networks import GENRES, SPECS, a_classifier, music, sound
from shared import free_port

import genre_cls
from genre_cls import GenreClassifier, predict
from genre_cls.errors import UserError
from genre_cls.inference import registry
from genre_cls.inference.registry import register
from genre_cls.tracking.tracker import Tracker

Registered = tuple[GenreClassifier, str, Path]


@pytest.fixture(scope="module")
def version(fresh_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registered]:
    """A classifier, the address under which it is registered, and the store."""
    store = shutil.copytree(fresh_store, tmp_path_factory.mktemp("registry") / "my runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("elsewhere"))
        address, command = register(loadable(), "genres", str(store))
        assert f"sqlite:///{store}/mlflow.db" in command and address in command and not list(Path().iterdir())
    yield loadable(), address, store
    mlflow.set_tracking_uri(None)


def loadable() -> GenreClassifier:
    return a_classifier(SPECS["another rate"])


def test_a_version_has_a_signature_and_an_example(version: Registered) -> None:
    _, address, _ = version
    info = mlflow.models.get_model_info(address)
    assert [(one["name"], one["type"]) for one in info.signature.inputs.to_dict()] == [("audio", "binary")]
    assert info.signature.outputs.input_names() == ["genre", "note", *(f"p({genre})" for genre in GENRES)]
    example = Model.load(address).load_input_example(address)
    assert list(example.columns) == ["audio"] and len(example) == 1


def test_a_version_needs_the_genre_cls_that_registered_it(version: Registered, tmp_path: Path) -> None:
    _, address, _ = version
    folder = Path(mlflow.artifacts.download_artifacts(address, dst_path=tmp_path))
    assert f"genre_cls=={genre_cls.__version__}" in (folder / "requirements.txt").read_text().splitlines()


def test_a_version_predicts_what_the_classifier_predicts(version: Registered, tmp_path: Path) -> None:
    classifier, address, _ = version
    paths = [music(tmp_path / f"{n}.{kind}", 1 + n, n) for n, kind in enumerate(("wav", "flac", "mp3"))]
    loaded = mlflow.pyfunc.load_model(address)
    given = loaded.predict(pd.DataFrame({"audio": [path.read_bytes() for path in paths]}))
    for (_, row), path in zip(given.iterrows(), paths, strict=True):
        prediction = classifier.predict(path)
        assert (row["genre"], row["note"]) == (prediction.genre, prediction.note)
        assert [row[f"p({genre})"] for genre in GENRES] == pytest.approx(prediction.probabilities.tolist(), abs=1e-6)
    with pytest.raises(MlflowException, match="audio file 1: Format not recognised"):
        loaded.predict(pd.DataFrame({"audio": [paths[0].read_bytes(), b"Dear diary"]}))


def test_a_version_says_why_to_doubt_a_prediction(version: Registered, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", sound(2, 0, 4000), 4000)
    given = mlflow.pyfunc.load_model(version[1]).predict(pd.DataFrame({"audio": [(tmp_path / "a.wav").read_bytes()]}))
    assert given["note"][0].startswith("recorded at 4000 Hz, ")


def test_a_model_whose_name_has_a_space_is_served_by_the_command_as_printed(
    version: Registered, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_logged", lambda *_: "models:/my genres/1")
    assert "models:/my genres/1" in shlex.split(register(version[0], "my genres", str(version[2]))[1])


def test_no_file_of_a_version_is_a_pickle(version: Registered, tmp_path: Path) -> None:
    _, address, _ = version
    files = list(Path(mlflow.artifacts.download_artifacts(address, dst_path=tmp_path)).rglob("*"))
    assert {"served.py", "genres.safetensors"} <= {path.name for path in files}
    assert not [path for path in files if path.suffix in (".pkl", ".pickle", ".pt", ".pth", ".joblib")]
    assert not [path for path in files if path.is_file() and path.read_bytes()[:1] == b"\x80"]  # how pickles begin


def test_registering_again_makes_another_version(version: Registered) -> None:
    classifier, address, store = version
    assert address == "models:/genres/1"
    assert register(classifier, "genres", str(store))[0] == "models:/genres/2"
    versions = MlflowClient(f"sqlite:///{store}/mlflow.db").search_model_versions("name = 'genres'")
    assert sorted(one.version for one in versions) == [1, 2]


def test_a_store_that_was_moved_has_its_registered_models(version: Registered, tmp_path: Path) -> None:
    classifier, address, store = version
    before = shutil.copytree(store, tmp_path / "before")
    Tracker.at(str(before))  # which makes the copy a store of its own
    moved = before.rename(tmp_path / "after")
    mlflow.set_tracking_uri(Tracker.at(str(moved)).uri)
    try:
        assert Path(mlflow.artifacts.download_artifacts(address)).is_relative_to(moved)
        path = music(tmp_path / "a.wav", 2)
        given = mlflow.pyfunc.load_model(address).predict(pd.DataFrame({"audio": [path.read_bytes()]}))
    finally:
        mlflow.set_tracking_uri(f"sqlite:///{store}/mlflow.db")
    assert given["genre"].tolist() == [classifier.predict(path).genre]


def test_a_name_that_mlflow_refuses_is_reported_in_one_line(version: Registered) -> None:
    with pytest.raises(UserError, match=r"^register no/slash: Invalid model name 'no/slash'\. Names") as error:
        register(version[0], "no/slash", str(version[2]))
    assert len(str(error.value).splitlines()) == 1


def test_a_store_that_fails_is_reported_in_one_line(version: Registered, monkeypatch: pytest.MonkeyPatch) -> None:
    failure = "(raised as a result of autoflush; …)\n(sqlite3.OperationalError) database or disk is full\n[SQL: …"
    monkeypatch.setattr(registry, "_logged", Mock(side_effect=MlflowException(failure)))
    reason = r"^register mine: .*mlflow.db: \(sqlite3.OperationalError\) database or disk is full; make room"
    with pytest.raises(UserError, match=reason):
        register(version[0], "mine", str(version[2]))


def test_the_command_registers_and_says_how_to_serve(
    command: Callable[..., Any], store_here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(GenreClassifier, "load", lambda *_, **__: loadable())
    done = command(predict.main, "--register", "mine")
    assert done.code == 0 and done.out == "", done.err
    (line,) = done.err.splitlines()
    assert line.startswith("registered: models:/mine/1; serve it: env ") and "--env-manager local" in line
    assert [path.name for path in done.folder.iterdir()] == ["mlruns"]


@pytest.mark.slow
def test_mlflow_serves_it_and_answers_a_real_request(version: Registered, tmp_path: Path) -> None:
    classifier, address, store = version
    path = music(tmp_path / "a.wav", 2)
    port = free_port()
    with subprocess.Popen(
        [sys.executable, "-m", "mlflow", "models", "serve", "-m", address, "--env-manager", "local",
         "--host", "127.0.0.1", "--port", str(port)],
        env=os.environ | {
            "MLFLOW_TRACKING_URI": f"sqlite:///{store}/mlflow.db",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",  # of uvicorn, which it starts
        }, cwd=tmp_path,
        start_new_session=True,
    ) as server:  # fmt: skip
        try:
            wait_for(f"http://127.0.0.1:{port}/ping", server)
            code, answer = ask(port, path.read_bytes())
            bad, reason = ask(port, b"Dear diary")
        finally:
            with suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGTERM)
    prediction = classifier.predict(path)
    assert code == 200 and answer["predictions"][0]["genre"] == prediction.genre
    shares = [answer["predictions"][0][f"p({genre})"] for genre in GENRES]
    assert shares == pytest.approx(prediction.probabilities.tolist(), abs=1e-6)
    assert bad == 400 and "Format not recognised" in json.dumps(reason)


def ask(port: int, audio: bytes) -> tuple[int, Any]:
    """Status and answer of the server for a file."""
    rows = {"dataframe_split": {"columns": ["audio"], "data": [[base64.b64encode(audio).decode()]]}}
    request = Request(
        f"http://127.0.0.1:{port}/invocations", json.dumps(rows).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urlopen(request, timeout=60) as response:
            return response.status, json.load(response)
    except HTTPError as error:
        return error.code, json.load(error)


def wait_for(address: str, server: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        assert server.poll() is None
        try:
            urlopen(address, timeout=5).close()
            return
        except (URLError, OSError):
            time.sleep(0.5)
    raise TimeoutError(address)
