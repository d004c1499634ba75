"""ONNX export: the same probabilities from a waveform, without PyTorch, from a file that states what it needs."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import onnx
import pytest
import soundfile
import torch
from hydra.utils import instantiate
from hypothesis import example, given, settings
from hypothesis import strategies as st
from networks import GENRES, RATE, SPECS, a_classifier, music, sound, unstandardised, usage_of
from shared import Compose
from torch import Tensor, nn
from torch.nn.functional import conv2d

from genre_cls import GenreClassifier, OnnxClassifier, Prediction, predict
from genre_cls.configuration.settings import CONF
from genre_cls.errors import UserError
from genre_cls.extras import how_to_install
from genre_cls.inference.onnx_export import TOLERANCE, exported
from genre_cls.inference.onnx_model import OUTPUTS, session
from genre_cls.models.modelfile import SavedModel
from genre_cls.models.network import Network
from genre_cls.models.views import shape_of
from genre_cls.tracks.listing import audio_files
from genre_cls.training.building import network_views, new_model

MODELS = sorted(path.stem for path in (CONF / "model").glob("*.yaml"))
GTZAN = Path(os.environ.get("GTZAN_ROOT", "no GTZAN_ROOT"))


class Opaque(nn.Module):
    """A model that ONNX has no operators for."""

    def forward(self, features: Tensor) -> Tensor:
        return torch.linalg.eigvals(features[:, 0, :3, :3]).abs()


class Elastic(nn.Module):
    """A model whose kernel depends on its input, which the export finds out late."""

    def forward(self, features: Tensor) -> Tensor:
        return conv2d(features, torch.ones(3, 1, 1, 3)[..., : features.shape[3]]).mean(dim=(2, 3))


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[GenreClassifier, OnnxClassifier]]:
    """A classifier and its export, made once for each spec."""
    made: dict[str, tuple[GenreClassifier, OnnxClassifier]] = {}

    def of(name: str) -> tuple[GenreClassifier, OnnxClassifier]:
        if name not in made:
            path, classifier = tmp_path_factory.mktemp("onnx") / "a.onnx", a_classifier(SPECS[name])
            classifier.save(path)
            made[name] = classifier, OnnxClassifier.load(path)
        return made[name]

    return of


def assert_same(one: Prediction, other: Prediction, atol: float = 1e-4) -> None:
    assert one.genres == other.genres and one.seconds == other.seconds
    np.testing.assert_allclose(one.windows, other.windows, atol=atol, rtol=0)
    np.testing.assert_allclose(one.probabilities, other.probabilities, atol=atol, rtol=0)
    np.testing.assert_allclose(one.starts, other.starts, atol=1e-9)
    np.testing.assert_allclose(one.ends, other.ends, atol=1e-9)


@pytest.mark.parametrize("name", SPECS)
def test_the_graph_gives_the_probabilities_that_pytorch_gives(
    pair: Callable[..., Any], tmp_path: Path, name: str
) -> None:
    classifier, graph = pair(name)
    predictions = [classifier.predict(music(tmp_path / f"{n}.wav", 1 + 2.3 * n, n)) for n in range(5)]
    for n, prediction in enumerate(predictions):
        assert_same(graph.predict(tmp_path / f"{n}.wav"), prediction)
    spread = np.ptp([prediction.probabilities for prediction in predictions], axis=0).max()
    assert spread > 0.01  # else agreement would say little


@settings(max_examples=40, deadline=None)
@given(seconds=st.floats(0.5, 6))
def test_a_clip_of_any_length_has_the_same_windows(
    pair: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory, seconds: float
) -> None:
    path = music(tmp_path_factory.getbasetemp() / "any.wav", seconds)
    classifier, graph = pair("mel")
    assert_same(graph.predict(path), classifier.predict(path))


def test_a_long_file_is_classified_in_the_same_segments(pair: Callable[..., Any], tmp_path: Path) -> None:
    path = music(tmp_path / "long.wav", 61)
    classifier, graph = pair("another rate")
    assert_same(graph.predict(path), classifier.predict(path))


@pytest.mark.parametrize("name", ["mel", "mfcc", "odd"])
def test_a_clip_with_a_pause_has_the_same_levels(pair: Callable[..., Any], tmp_path: Path, name: str) -> None:
    waveform = sound(6, 0, RATE)
    waveform[len(waveform) // 3 : -len(waveform) // 3] = 0
    soundfile.write(tmp_path / "paused.wav", waveform, RATE)
    classifier, graph = pair(name)
    assert_same(graph.predict(tmp_path / "paused.wav"), classifier.predict(tmp_path / "paused.wav"))


@settings(max_examples=8, deadline=None)
@example(window=0.5625, overlap=0.0, seconds=6.879866626048244)
@given(window=st.floats(0.3, 3), overlap=st.floats(0, 0.9), seconds=st.floats(0.5, 7))
def test_any_window_and_overlap_gives_what_pytorch_gives(
    tmp_path_factory: pytest.TempPathFactory, window: float, overlap: float, seconds: float
) -> None:
    folder = tmp_path_factory.getbasetemp()
    classifier = a_classifier(SPECS["another rate"], window, overlap)
    classifier.save(folder / "any.onnx")
    path = music(folder / "any.wav", seconds)
    assert_same(OnnxClassifier.load(folder / "any.onnx").predict(path), classifier.predict(path))


def test_for_trained_models_of_every_kind_the_graph_gives_what_they_give(
    trained: Any, tiny_music: Path, tmp_path: Path
) -> None:
    for parent in trained.parents:
        classifier = GenreClassifier.load(parent.info.run_id, tracking=trained.folder / "mlruns")
        classifier._usage = replace(classifier._usage, precision="32-true")
        classifier.save(tmp_path / "a.onnx")
        graph = OnnxClassifier.load(tmp_path / "a.onnx")
        for path in sorted(tiny_music.rglob("*.wav"))[::3]:
            assert_same(graph.predict(path), classifier.predict(path), TOLERANCE)  # short windows: one bit may matter


@pytest.mark.skipif(not GTZAN.is_dir(), reason="GTZAN_ROOT names no folder")
@pytest.mark.parametrize("name", ["mel", "mfcc"])
def test_on_real_music_the_graph_gives_what_pytorch_gives(pair: Callable[..., Any], name: str) -> None:
    classifier, graph = pair(name)
    files = audio_files(GTZAN)[::25]
    assert files
    for path in files:
        assert_same(graph.predict(path), classifier.predict(path))


@pytest.mark.parametrize("features", ["mel", "mfcc"])
@pytest.mark.parametrize("model", MODELS)
def test_every_model_of_the_package_becomes_a_graph(composed: Compose, model: str, features: str) -> None:
    cfg = composed(f"features={features}", f"model={model}")
    spec, networks = instantiate(cfg.features), []
    for view in network_views(cfg):
        shape = shape_of(view, spec.n_bins)
        networks.append(Network(new_model(cfg, len(GENRES), view), view, torch.zeros(shape), torch.full(shape, 15.0)))
    usage = replace(usage_of(spec), window=cfg.recipe.window, longest=60)
    content = exported([network.eval() for network in networks], usage, 1.0, {"origin": {}})  # compares with PyTorch
    assert session(content).get_inputs()[0].name == "waveform"


def test_the_file_states_its_inputs_and_origin(tmp_path: Path) -> None:
    a_classifier(SPECS["another rate"], window=40).save(tmp_path / "a.onnx")
    graph = onnx.load(tmp_path / "a.onnx")
    onnx.checker.check_model(graph, full_check=True)
    metadata = {entry.key: json.loads(entry.value) for entry in graph.metadata_props}
    assert metadata["genres"] == list(GENRES) and metadata["sample_rate"] == 8000 and metadata["longest_clip"] == 80
    assert metadata["origin"] == {"dataset": "folder"}
    assert metadata["genre_cls"]["features"]["n_mels"] == 32 and metadata["genre_cls"]["scores"] == {"a": 1}
    assert metadata["genre_cls"]["temperature"] == 0.6
    assert [value.name for value in graph.graph.input] == ["waveform"]
    assert [value.name for value in graph.graph.output] == ["probabilities", "windows", "starts", "ends"]
    assert [path.name for path in tmp_path.iterdir()] == ["a.onnx"]


@pytest.mark.parametrize("model", [Opaque(), Elastic()])
def test_a_model_that_cannot_be_exported_is_reported_and_no_file_is_left(
    tmp_path: Path, model: nn.Module, capfd: pytest.CaptureFixture[str]
) -> None:
    spec = SPECS["another rate"]
    description = {"genres": list(GENRES), "features": vars(spec), "origin": {"dataset": "folder"}}
    networks = (unstandardised(model, spec),)
    opaque = GenreClassifier([SavedModel(networks, usage_of(spec), "folder", 1.0, description, Path("none"))])
    with pytest.raises(UserError, match="cannot be written as ONNX: ") as error:
        opaque.save(tmp_path / "a.onnx")
    assert len(str(error.value).splitlines()) == 1 and not list(tmp_path.iterdir())
    assert capfd.readouterr().out == ""  # where PyTorch would print the whole graph


def test_a_graph_that_computes_something_else_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    class Fickle(nn.Module):
        """Branches on its input, which tracing misses."""

        def forward(self, features: Tensor) -> Tensor:
            return features.mean(dim=(2, 3)).repeat(1, 3) * torch.tensor([0.0, 1, 2]) * (1 if len(features) > 2 else -1)

    spec = SPECS["another rate"]
    description = {"genres": [], "origin": {"dataset": "folder"}}
    with pytest.raises(UserError, match="differ from PyTorch's"):
        exported([unstandardised(Fickle(), spec)], usage_of(spec), 1.0, description)


def test_the_command_exports_a_model_and_predicts_with_it(
    command: Callable[..., Any], trained: Any, tiny_music: Path, tmp_path: Path
) -> None:
    store, path = str(trained.folder / "mlruns"), str(tmp_path / "a.onnx")
    before = command(predict.main, str(tiny_music), "--tracking", store, "--format", "json", "--export", path)
    assert before.code == 0 and before.err.splitlines()[1:] == [f"exported: {path}"]
    after = command(predict.main, str(tiny_music), "--model", path, "--format", "json")
    assert after.code == 0 and after.err == ""
    for one, other in zip(json.loads(before.out), json.loads(after.out), strict=True):
        assert one["path"] == other["path"] and one["genres"][0]["genre"] == other["genres"][0]["genre"]
        # bfloat16, in which PyTorch may compute, has three digits
        shares = [{entry["genre"]: entry["probability"] for entry in result["genres"]} for result in (one, other)]
        assert shares[0] == pytest.approx(shares[1], abs=0.02)
    again = command(predict.main, "--model", path, "--export", str(tmp_path / "b.onnx"))
    assert again.code == 2 and "cannot be exported again" in again.err and not (tmp_path / "b.onnx").exists()


def test_prediction_with_the_graph_needs_no_pytorch(tmp_path: Path) -> None:
    a_classifier(SPECS["mel"]).save(tmp_path / "a.onnx")
    music(tmp_path / "a.wav", 1)
    code = (
        "import sys\nfrom genre_cls.predict import main\ntry:\n    main()\n"
        "finally:\n    print({'torch', 'torchaudio', 'mlflow', 'onnx', 'scipy'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "--model", "a.onnx", "a.wav"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "set()"


def test_without_the_extra_the_command_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.onnx", "a.wav"):
        (tmp_path / name).touch()
    code = "import sys\nsys.modules['onnxruntime'] = None\nfrom genre_cls.predict import main\nmain()"
    done = subprocess.run(
        [sys.executable, "-c", code, "--model", "a.onnx", "a.wav"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == f"error: onnxruntime is not installed; {how_to_install('onnx')} installs it\n"


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("content") / "a.onnx"
    a_classifier(SPECS["another rate"]).save(path)
    return path.read_bytes()


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as error:
        OnnxClassifier.load(path)
    assert str(error.value).startswith(f"{path}: ") and len(str(error.value).splitlines()) == 1
    return str(error.value)


@settings(max_examples=20, deadline=None)
@given(share=st.floats(0, 0.999))
def test_a_file_cut_short_is_refused(content: bytes, tmp_path_factory: pytest.TempPathFactory, share: float) -> None:
    path = tmp_path_factory.getbasetemp() / "cut.onnx"
    path.write_bytes(content[: int(share * len(content))])
    refusal(path)


@pytest.mark.parametrize(
    "metadata",
    [{}, {"genre_cls": "{"}, {"genre_cls": "[]"}, {"genre_cls": '{"genres": ["a"], "origin": {"dataset": "x"}}'}],
)
def test_a_graph_without_the_metadata_of_genre_cls_is_refused(
    content: bytes, tmp_path: Path, metadata: dict[str, str]
) -> None:
    graph = onnx.load_from_string(content)
    del graph.metadata_props[:]
    onnx.helper.set_model_props(graph, metadata)
    (tmp_path / "a.onnx").write_bytes(graph.SerializeToString())
    assert "is not an ONNX model of genre_cls" in refusal(tmp_path / "a.onnx")


DESCRIPTION = {
    "genres": ["a", "b"], "origin": {"dataset": "x"}, "features": {"sample_rate": 8000, "f_max": 4000}, "longest": 60,
    "temperature": 1,
}  # fmt: skip


@pytest.mark.parametrize(
    ("windows", "starts", "ends", "reason"),
    [
        ([[0.5, 0.5]], [0.0], [1.0], ""),
        ([[0.5, 0.5]], 0.0, [1.0], "no probabilities per window"),
        ([[0.5, 0.5]], [0.0], [1.0, 2.0], "no probabilities per window"),
        ([[1.0]], [0.0], [1.0], "no probabilities per window"),
        (0.5, [0.0], [1.0], "no probabilities per window"),
        ([[-5.0, 6.0]], [0.0], [1.0], "no probabilities"),
        ([[0.5, 0.9]], [0.0], [1.0], "no probabilities"),
        ([[np.nan, 0.5]], [0.0], [1.0], "no probabilities"),
        ([[0.5, 0.5]], [0.0], [np.inf], "no probabilities"),
        (np.empty((0, 2)), [], [], "no probabilities per window"),
    ],
)
def test_the_outputs_of_a_graph_are_checked(windows: Any, starts: Any, ends: Any, reason: str, tmp_path: Path) -> None:
    graph: Any = mock.Mock(run=lambda *_: [np.zeros(2), *map(np.asarray, (windows, starts, ends))])
    classifier = OnnxClassifier(graph, DESCRIPTION)
    with pytest.raises(UserError, match=reason) if reason else nullcontext():
        classifier.predict(music(tmp_path / "a.wav", 1))


@pytest.mark.parametrize("genres", [["a"], ["a", "a"], []])
def test_a_graph_of_fewer_than_two_genres_is_refused(genres: list[str]) -> None:
    with pytest.raises(ValueError, match="two names or more"):
        OnnxClassifier(mock.Mock(), DESCRIPTION | {"genres": genres})


@pytest.mark.parametrize("rate", [0, 999, 192_001])
def test_a_graph_for_an_absurd_sample_rate_is_refused(rate: int) -> None:
    with pytest.raises(ValueError, match=f"^rate {rate} must be 1000 to 192000 Hz"):
        OnnxClassifier(mock.Mock(), DESCRIPTION | {"features": {"sample_rate": rate, "f_max": 4000}})


@pytest.mark.parametrize("nonsense", [{"longest": 0.9}, {"longest": np.inf}, {"longest": np.nan}, {"temperature": 0}])
def test_a_graph_for_clips_of_absurd_lengths_or_at_no_temperature_is_refused(nonsense: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(nonsense.values())):g}"):
        OnnxClassifier(mock.Mock(), DESCRIPTION | nonsense)


def test_a_graph_that_fails_is_reported_in_one_line_that_is_all(capfd: pytest.CaptureFixture[str]) -> None:
    outputs = [f"float[n] {name}" for name in OUTPUTS]
    same = [f"{name} = Gather(one, places)" for name in OUTPUTS]
    text = f"""<ir_version: 8, opset_import: ["": 17]> g (float[n] waveform) => ({", ".join(outputs)})
        <float[1] one = {{1}}> {{ places = Cast<to = 7>(waveform)  {"  ".join(same)} }}"""
    graph = session(onnx.parser.parse_model(text).SerializeToString())
    with pytest.raises(UserError, match=r"^the model cannot classify this file: ") as told:
        OnnxClassifier(graph, DESCRIPTION)._predict_clip(np.full(8000, 9, np.float32))  # places that there are not
    assert len(str(told.value).splitlines()) == 1 and capfd.readouterr().err == ""


def test_a_missing_file_is_reported(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none.onnx").endswith("no such file or directory")


def test_a_graph_may_not_read_its_weights_from_another_file(content: bytes, tmp_path: Path) -> None:
    graph = onnx.load_from_string(content)
    onnx.save_model(graph, tmp_path / "a.onnx", save_as_external_data=True, location="w", size_threshold=0)
    assert (tmp_path / "w").exists()
    refusal(tmp_path / "a.onnx")


@pytest.mark.parametrize(("share", "n_threads"), [(1, 1), (4, 0)])  # 0: as many as onnxruntime sees fit
def test_a_graph_takes_no_more_threads_than_a_container_may(
    content: bytes, monkeypatch: pytest.MonkeyPatch, share: int, n_threads: int
) -> None:
    monkeypatch.setattr("genre_cls.inference.onnx_model.cpu_count", lambda: share)
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    assert session(content).get_session_options().intra_op_num_threads == n_threads


def test_a_graph_may_not_disclose_other_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret").write_bytes(b"password")
    secret = onnx.TensorProto(name="s", data_type=onnx.TensorProto.UINT8, dims=[8], data_location="EXTERNAL")
    secret.external_data.add(key="location", value="secret")
    places, letters = (
        onnx.helper.make_tensor_value_info(name, kind, [8])
        for name, kind in (("x", onnx.TensorProto.INT64), ("y", onnx.TensorProto.UINT8))
    )
    gather = onnx.helper.make_node("Gather", ["s", "x"], ["y"])
    graph = onnx.helper.make_graph([gather], "thief", [places], [letters], [secret])
    thief = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    with pytest.raises(Exception, match="secret"):
        session(thief.SerializeToString())


def test_the_windows_of_the_graph_cover_the_clip(pair: Callable[..., Any], tmp_path: Path) -> None:
    prediction = pair("mel")[1].predict(music(tmp_path / "a.wav", 5))
    assert prediction.starts[0] == 0 and prediction.ends[-1] == pytest.approx(5)
    assert (prediction.starts[1:] < prediction.ends[:-1]).all()
