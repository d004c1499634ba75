"""Inference with trained models: the same numbers as in evaluation, from files that are not trusted."""

import ast
import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import combinations, pairwise, product
from pathlib import Path
from threading import get_ident
from typing import Any, cast

import numpy as np
import pytest
import soundfile
import torch
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from networks import SPECS, a_classifier, music, usage_of
from omegaconf import OmegaConf
from safetensors import safe_open
from safetensors.torch import save, save_file
from shared import GENRES, RATE, Compose

from genre_cls import GenreClassifier, OnnxClassifier, Prediction
from genre_cls.configuration.members import VIEWS
from genre_cls.configuration.sources import digest
from genre_cls.errors import UserError
from genre_cls.evaluation.calibration import tempered
from genre_cls.evaluation.predictions import ensemble_probabilities
from genre_cls.inference.prediction import SLIVER
from genre_cls.models import modelfile
from genre_cls.models.modelfile import serialised
from genre_cls.processes import threads
from genre_cls.processes.device import resolve_precision
from genre_cls.tracks import windows
from genre_cls.tracks.audio import UnreadableAudio
from genre_cls.tracks.features import FeatureSpec

Edit = Callable[[dict[str, Any], dict[str, Any], dict[str, torch.Tensor]], object]
Write = Callable[[str, str], object]
MINE = "from genre_cls.models import GenreCNN\nclass Mine(GenreCNN): pass\n"  # a module with a model of one's own


@pytest.fixture(scope="session")
def model(trained: Any) -> Path:
    """The model file of one fold of a good configuration."""
    assert trained.code == 0, trained.err
    parent = next(run for run in trained.parents if run.data.params["model"] == "basic")
    return trained.files(trained.children(parent)[0])["model.safetensors"]


def load(trained: Any, source: str | Path) -> GenreClassifier:
    return GenreClassifier.load(source, tracking=trained.folder / "mlruns")


def contents(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["genre_cls"]), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def forged(path: Path, model: Path, edit: Edit) -> Path:
    """A copy of a model file with its description, configuration and weights edited."""
    description, weights = contents(model)
    config = yaml.safe_load(description["config"])
    edit(description, config, weights)
    return written(path, weights, description | {"config": yaml.safe_dump(config)})


def in_float32(description: dict[str, Any], _: object, __: object) -> None:
    """An edit of a model, since some CPUs compute in bfloat16 for the package's models only."""
    description["precision"] = "32-true"


def written(path: Path, weights: dict[str, torch.Tensor], description: dict[str, Any]) -> Path:
    """A model file, good or bad."""
    save_file(weights, path, {"genre_cls": json.dumps(description)})
    return path


def refusal(path: Path) -> str:
    """The reason for refusing a model file, which is one line that names it."""
    with pytest.raises(UserError) as error:
        GenreClassifier.load(path)
    assert str(error.value).startswith(f"{path}: ") and len(str(error.value).splitlines()) == 1
    return str(error.value).removeprefix(f"{path}: ")


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write a module with a model of one's own, from where it can be imported."""
    monkeypatch.syspath_prepend(tmp_path)
    return lambda name, code: (tmp_path / f"{name}.py").write_text(code)


def sound(path: Path, *seconds: float, rate: int = RATE) -> Path:
    """A file of noise, then a tone, then noise …, each for so long."""
    random = np.random.default_rng(0)
    with soundfile.SoundFile(path, "w", rate, 1) as file:
        for place, length in enumerate(seconds):
            time = np.arange(round(length * rate)) / rate
            file.write(0.5 * np.sin(2 * np.pi * 660 * time) if place % 2 else random.normal(0, 0.2, len(time)))
    return path


def assert_predicts_as_in_evaluation(outcome: Any, child: Any, music: Path) -> int:
    """Compare a fold's predictions for its tracks, and return their number."""
    classifier = load(outcome, child.info.run_id)
    with outcome.files(child)["predictions.csv"].open(newline="") as file:
        _, *rows = csv.reader(file)
    for track, _, predicted, *probabilities in rows:
        prediction = classifier.predict(music / track)
        assert prediction.vote == pytest.approx(np.array(probabilities, float), abs=1e-5)
        assert prediction.genre == predicted and prediction.genres == GENRES
    return len(rows)


def test_a_folds_model_predicts_for_the_tracks_what_it_did_in_evaluation(trained: Any, tiny_music: Path) -> None:
    children = [child for parent in trained.parents for child in trained.children(parent)]
    assert sum(assert_predicts_as_in_evaluation(trained, child, tiny_music) for child in children) == 4 * 12


def test_so_does_one_whose_last_layers_were_fitted_again(sweep: Any, tiny_music: Path) -> None:
    assert all(float(parent.data.params["recipe.ridge"]) > 0 for parent in sweep.parents)
    for parent in sweep.parents:
        assert assert_predicts_as_in_evaluation(sweep, sweep.children(parent)[0], tiny_music) == 6


def test_a_configuration_is_the_ensemble_of_its_folds(trained: Any, tiny_music: Path) -> None:
    track = tiny_music / GENRES[1] / "0.wav"
    assert any(parent.data.metrics["accuracy_mean"] < 1 for parent in trained.parents)
    for parent in trained.parents:
        folds = [load(trained, child.info.run_id).predict(track) for child in trained.children(parent)]
        together = load(trained, parent.info.run_id).predict(track)
        assert len(folds) == 2
        np.testing.assert_allclose(
            together.windows, ensemble_probabilities([fold.windows for fold in folds]), atol=1e-12
        )
        temperature, perfect = parent.data.metrics["temperature"], parent.data.metrics["accuracy_mean"] == 1
        assert (temperature == 1) == perfect
        assert [one.temperature for one in (together, *folds)] == pytest.approx([temperature] * 3)
        assert together.probabilities == pytest.approx(tempered(together.windows.mean(axis=0), temperature))


def test_the_best_may_be_that_of_an_experiment(trained: Any) -> None:
    store = trained.folder / "mlruns"
    client = trained.client
    (name,) = {client.get_experiment(run.info.experiment_id).name for run in trained.parents}
    found = GenreClassifier.load(tracking=store, experiment=name)
    assert found.configuration == GenreClassifier.load(tracking=store).configuration
    with pytest.raises(UserError, match=f"finished there in experiment trials; some have in '{name}'$"):
        GenreClassifier.load(tracking=store, experiment="trials")
    with pytest.raises(UserError, match=f"experiment {name}: chooses a model by itself; leave out 0"):
        GenreClassifier.load("0" * 32, tracking=store, experiment=name)


def test_best_is_the_most_accurate_configuration_not_the_last(trained: Any, tiny_music: Path) -> None:
    track = tiny_music / GENRES[0] / "0.wav"
    accuracy = {run.info.run_id: run.data.metrics["accuracy_mean"] for run in trained.parents}
    assert accuracy[trained.parents[-1].info.run_id] < max(accuracy.values())
    best = GenreClassifier.load(tracking=str(trained.folder / "mlruns")).predict(track).probabilities
    same = [run for run in accuracy if np.allclose(load(trained, run).predict(track).probabilities, best, atol=1e-12)]
    assert [accuracy[run] for run in same] == [max(accuracy.values())]


def test_a_folder_of_model_files_is_their_ensemble(trained: Any, tiny_music: Path, tmp_path: Path) -> None:
    parent = trained.parents[0]
    for number, child in enumerate(trained.children(parent)):
        shutil.copy(trained.files(child)["model.safetensors"], tmp_path / f"{number}.safetensors")
    (tmp_path / "._0.safetensors").write_bytes(b"what macOS leaves")
    track = tiny_music / GENRES[1] / "3.wav"
    expected = load(trained, parent.info.run_id).predict(track).windows
    np.testing.assert_allclose(GenreClassifier.load(tmp_path).predict(track).windows, expected, atol=1e-12)


def test_paths_may_begin_with_a_tilde(
    model: Path, tiny_music: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    song = shutil.copy(tiny_music / GENRES[1] / "3.wav", tmp_path / "song.wav")
    classifier = GenreClassifier.load(model)
    classifier.save("~/saved.safetensors")
    saved = GenreClassifier.load("~/saved.safetensors")
    np.testing.assert_array_equal(saved.predict("~/song.wav").windows, classifier.predict(song).windows)
    np.testing.assert_array_equal(classifier.first_clip("~/song.wav").mel, classifier.first_clip(song).mel)


def test_one_exported_file_holds_all_the_models_and_their_origin(
    trained: Any, tiny_music: Path, tmp_path: Path
) -> None:
    for parent in trained.parents:
        classifier = load(trained, parent.info.run_id)
        classifier.save(tmp_path / "one.safetensors")
        alone = GenreClassifier.load(tmp_path / "one.safetensors", tracking="nowhere")
        for track in sorted(tiny_music.rglob("*.wav"))[::5]:
            np.testing.assert_allclose(alone.predict(track).windows, classifier.predict(track).windows, atol=1e-12)
            assert alone.predict(track).probabilities == pytest.approx(classifier.predict(track).probabilities)
        description, weights = contents(tmp_path / "one.safetensors")
        assert description["genres"] == list(GENRES) and description["origin"]["mlflow.source.git.commit"]
        assert {name.partition(".")[0] for name in weights} == {"0", "1", "2", "3"}  # two folds of two members
        assert sorted(t for fold in description["folds"] for t in fold["trained_on"]) == sorted(
            str(path.relative_to(tiny_music)) for path in tiny_music.rglob("*.wav")
        )
        alone.save(tmp_path / "again.safetensors")
        assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "one.safetensors").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"one.safetensors", "again.safetensors"}


def test_a_file_of_exported_files_says_of_each_fold_what_it_was_trained_on(trained: Any, tmp_path: Path) -> None:
    parent, both = trained.parents[0], tmp_path / "both"
    both.mkdir()
    load(trained, parent.info.run_id).save(both / "a.safetensors")
    fold, _ = trained.children(parent)
    load(trained, fold.info.run_id).save(both / "b.safetensors")
    GenreClassifier.load(both).save(tmp_path / "all.safetensors")
    a, b, merged = (contents(path)[0] for path in (*sorted(both.iterdir()), tmp_path / "all.safetensors"))
    assert len(a["folds"]) == 2 and merged["folds"] == [*a["folds"], {key: b[key] for key in ("trained_on", "scores")}]
    assert not {"trained_on", "scores"} & (a.keys() | merged.keys())


def test_no_models_and_onnx_files_are_refused_with_what_is_needed() -> None:
    with pytest.raises(UserError, match="needs at least one"):
        GenreClassifier([])
    for name in ("genres.onnx", "GENRES.ONNX"):
        with pytest.raises(UserError, match=rf"{name}: is an \.onnx file, which genre_cls\.OnnxClassifier"):
            GenreClassifier.load(name)


def test_tied_weights_are_saved_under_each_of_their_names(tmp_path: Path) -> None:
    weights = torch.arange(3.0)
    (tmp_path / "tied.safetensors").write_bytes(serialised([{"model.a": weights, "model.b": weights}], {}))
    with safe_open(tmp_path / "tied.safetensors", "pt") as file:
        assert all(torch.equal(file.get_tensor(f"0.model.{name}"), weights) for name in "ab")


def test_models_of_different_configurations_form_no_ensemble(trained: Any, tmp_path: Path) -> None:
    for one, other in combinations(trained.parents, 2):
        for number, parent in enumerate((one, other)):
            file = trained.files(trained.children(parent)[0])["model.safetensors"]
            shutil.copy(file, tmp_path / f"{number}.safetensors")
        with pytest.raises(UserError, match="cannot vote together"):
            GenreClassifier.load(tmp_path)


def test_an_ensemble_may_mix_ways_of_training_but_not_views(model: Path, tmp_path: Path) -> None:
    shutil.copy(model, tmp_path / "0.safetensors")
    forged(tmp_path / "1.safetensors", model, lambda _, config, __: config.update(batch_size=999))
    assert GenreClassifier.load(tmp_path).n_networks == 4

    def see_the_same(_: object, config: dict[str, Any], weights: dict[str, torch.Tensor]) -> None:
        config["recipe"].update(members=["plain", "plain"])
        for name in list(weights):
            number, _, rest = name.partition(".")
            weights[name] = weights[f"{int(number) // 2 * 2}.{rest}"].clone()

    other = forged(tmp_path / "1.safetensors", model, see_the_same)
    assert GenreClassifier.load(other).n_networks == 2
    with pytest.raises(UserError, match=r"/0\.safetensors, 1\.safetensors: these .*as they differ in .*views"):
        GenreClassifier.load(tmp_path)


def test_a_model_predicts_in_the_precision_of_its_evaluation_whatever_is_fast_here(
    model: Path, tiny_music: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    description, _ = contents(model)
    assert yaml.safe_load(description["config"])["trainer"]["precision"] == "auto"
    assert description["precision"] == resolve_precision("auto", torch.device("cpu"), "genre_cls.models.GenreCNN")
    windows: dict[tuple[str, bool], Any] = {}
    for precision, fast in product(("32-true", "bf16-mixed"), (True, False)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda fast=fast: {"avx512_bf16": fast})
        copy = forged(tmp_path / "own.safetensors", model, lambda d, *_, p=precision: d.update(precision=p))
        GenreClassifier.load(copy).save(tmp_path / "exported.safetensors")
        exported = GenreClassifier.load(tmp_path / "exported.safetensors")
        windows[precision, fast] = exported.predict(tiny_music / GENRES[0] / "0.wav").windows
    for precision in ("32-true", "bf16-mixed"):
        np.testing.assert_array_equal(windows[precision, True], windows[precision, False])
    assert not np.array_equal(windows["32-true", True], windows["bf16-mixed", True])


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("0" * 32, "no store of runs there"),
        ("best", "no store of runs there"),
        ("here.safetensors", "no such file; must be best, the full id of a run (32 letters and digits), "),
        ("wo\nrd", "no such file; must be best, the full id of a run (32 letters and digits), "),
        (".", "no .safetensors file in this folder"),
        ("", "an empty name is no model"),
    ],
)
def test_a_missing_model_is_reported_with_what_may_be_given(
    source: str, reason: str, tmp_path: Path, here: Path
) -> None:
    with pytest.raises(UserError) as error:
        GenreClassifier.load(source, tracking=tmp_path)
    assert reason in str(error.value) and len(str(error.value).splitlines()) == 1
    assert not list(here.iterdir()) and not (tmp_path / "mlflow.db").exists()


def test_a_folder_may_be_called_as_a_run(here: Path) -> None:
    (here / (32 * "a")).mkdir()
    with pytest.raises(UserError, match=r"no \.safetensors file in this folder"):
        GenreClassifier.load(32 * "a")


def test_an_unknown_run_or_an_empty_store_is_reported(trained: Any, store_here: Path) -> None:
    with pytest.raises(UserError, match=f"run {'0' * 32} in sqlite"):
        load(trained, "0" * 32)
    with pytest.raises(UserError, match="no configuration has finished"):
        GenreClassifier.load(tracking=store_here)


@settings(max_examples=40, deadline=None)
@given(share=st.floats(0, 0.9999))
def test_a_model_file_cut_short_is_refused(model: Path, tmp_path_factory: pytest.TempPathFactory, share: float) -> None:
    path = tmp_path_factory.getbasetemp() / "cut.safetensors"
    path.write_bytes(model.read_bytes()[: int(share * model.stat().st_size)])
    refusal(path)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_damaged_model_file_is_refused_or_still_valid(
    model: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path, content = tmp_path_factory.getbasetemp() / "damaged.safetensors", bytearray(model.read_bytes())
    header = 8 + int.from_bytes(content[:8], "little")
    for place in data.draw(st.lists(st.integers(0, header - 1), min_size=1, max_size=3)):
        content[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    try:
        assert len(GenreClassifier.load(path).genres) == 2
    except UserError:
        refusal(path)


@pytest.mark.parametrize(
    "target",
    [
        "os.system", "builtins.eval", "subprocess.Popen", "genre_cls.models.cnn", "genre_cls.models.views",
        "genre_cls.models.cnn.PaddedConv2d", "genre_cls.models.cnn.n_parameters", "genre_cls.models.cnn.torch.load",
        "genre_cls.models.nn.Linear", "genre_cls.models.nn", "genre_cls.models.Tensor",
        "genre_cls.models.n_parameters", "genre_cls.models.modelfile.Network", "GenreCNN", "genre_cls.models.",
        "", None, ["genre_cls.models.GenreCNN"],
    ],
)  # fmt: skip
def test_a_model_file_may_name_no_class_but_a_model_of_genre_cls(model: Path, tmp_path: Path, target: object) -> None:
    path = forged(tmp_path / "a.safetensors", model, lambda _, config, __: config["model"].update(_target_=target))
    assert "not in genre_cls.models" in refusal(path) and "--trust" in refusal(path)


def test_a_class_elsewhere_is_not_even_imported_unless_the_file_is_trusted(
    model: Path, tiny_music: Path, tmp_path: Path, own_module: Write
) -> None:
    own_module("elsewhere", f"from pathlib import Path\nPath(__file__).with_name('ran').touch()\n{MINE}")
    model = forged(tmp_path / "float32.safetensors", model, in_float32)
    path = forged(tmp_path / "a.safetensors", model, lambda _, c, __: c["model"].update(_target_="elsewhere.Mine"))
    refusal(path)
    assert not (tmp_path / "ran").exists()
    track = tiny_music / GENRES[0] / "1.wav"
    expected = GenreClassifier.load(model).predict(track).windows
    np.testing.assert_allclose(GenreClassifier.load(path, trust=True).predict(track).windows, expected, atol=1e-6)
    assert (tmp_path / "ran").exists()


def test_a_trusted_model_computes_in_its_own_types(
    model: Path, tiny_music: Path, tmp_path: Path, own_module: Write
) -> None:
    own_module(
        "precise",
        "import torch\nfrom genre_cls.models import GenreCNN\n"
        "class Mine(GenreCNN):\n"
        "    def __init__(self, *arguments, **settings):\n"
        "        super().__init__(*arguments, **settings)\n"
        "        self.register_buffer('turn', torch.tensor([1 + 2j], dtype=torch.complex64))\n"
        "    def forward(self, features):\n"
        "        return (super().forward(features).to(self.turn.dtype) * self.turn).imag.float() / 2\n",
    )
    model = forged(tmp_path / "float32.safetensors", model, in_float32)

    def edit(_: object, config: dict[str, Any], weights: dict[str, torch.Tensor]) -> None:
        config["model"].update(_target_="precise.Mine")
        members = {name.partition(".")[0] for name in weights}
        weights.update({f"{member}.model.turn": torch.tensor([1 + 2j], dtype=torch.complex64) for member in members})

    path = forged(tmp_path / "a.safetensors", model, edit)
    track = tiny_music / GENRES[0] / "1.wav"
    expected = GenreClassifier.load(model).predict(track).windows
    np.testing.assert_allclose(GenreClassifier.load(path, trust=True).predict(track).windows, expected, atol=1e-6)


def test_a_trusted_model_computes_in_float32_where_bfloat16_may_give_garbage(
    model: Path, tiny_music: Path, tmp_path: Path, own_module: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_module("anothers", MINE)
    windows: dict[tuple[str, bool], Any] = {}
    for precision, amx in product(("32-true", "bf16-mixed"), (True, False)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda amx=amx: {"avx512_bf16": True, "amx_tile": amx})

        def edit(description: Any, config: Any, _: object, precision: str = precision) -> None:
            description["precision"] = precision
            config["model"]["_target_"] = "anothers.Mine"

        path = forged(tmp_path / "a.safetensors", model, edit)
        trusted = GenreClassifier.load(path, trust=True)
        windows[precision, amx] = trusted.predict(tiny_music / GENRES[0] / "1.wav").windows
    np.testing.assert_array_equal(windows["bf16-mixed", True], windows["32-true", True])
    assert not np.array_equal(windows["bf16-mixed", False], windows["32-true", False])


def test_a_trusted_model_whose_code_was_edited_after_the_training_has_a_warning(
    model: Path, tmp_path: Path, own_module: Write, caplog: pytest.LogCaptureFixture
) -> None:
    own_module("edited_model", MINE)
    path = tmp_path / "a.safetensors"
    warning = "edited_model.Mine: its file was edited after the training, so predictions may be wrong"
    for trained_with in (MINE, f"{MINE}# and more\n", None):
        sources = {} if trained_with is None else {"edited_model.Mine": digest(trained_with)}

        def edit(description: dict[str, Any], config: dict[str, Any], _: object, sources: Any = sources) -> None:
            config["model"].update(_target_="edited_model.Mine")
            description["origin"]["sources"] = json.dumps(sources)

        caplog.clear()
        loaded = GenreClassifier.load(forged(path, model, edit), trust=True)
        kernels = [weights for network in loaded._networks for weights in network.parameters() if weights.dim() == 4]
        assert kernels and all(weights.is_contiguous() for weights in kernels)  # as in training (`network.Network`)
        assert caplog.messages == ([warning] if trained_with not in (MINE, None) else [])


def test_a_classifier_shows_what_it_tells_apart(model: Path) -> None:
    shown = repr(GenreClassifier.load(model))
    assert shown.startswith("<GenreClassifier of ") and all(genre in shown for genre in GENRES)


def test_a_trusted_class_in_a_module_that_is_not_there_is_reported(model: Path, tmp_path: Path) -> None:
    path = forged(tmp_path / "a.safetensors", model, lambda _, c, __: c["model"].update(_target_="nowhere.Mine"))
    with pytest.raises(UserError, match="uses the module nowhere, which is not here; add its folder to PYTHONPATH"):
        GenreClassifier.load(path, trust=True)


def test_a_configuration_that_would_take_hours_to_read_is_refused_at_once(model: Path, tmp_path: Path) -> None:
    description, weights = contents(model)
    path = written(tmp_path / "a.safetensors", weights, description | {"config": "[" * 100_000})
    assert "has aliases or deep nesting" in refusal(path)


def test_code_in_the_configuration_and_in_nested_arguments_does_not_run(model: Path, tmp_path: Path) -> None:
    ran, description = tmp_path / "ran", contents(model)[0]
    code = f"!!python/object/apply:os.system ['touch {ran}']"
    edited = description | {"config": description["config"] + f"\nextra: {code}\n"}
    path = written(tmp_path / "yaml.safetensors", contents(model)[1], edited)
    assert "is not a usable model" in refusal(path)
    nested = {"_target_": "os.system", "_args_": [f"touch {ran}"]}
    for key in ("dropout", "bands", "channels"):
        refusal(forged(tmp_path / "a.safetensors", model, lambda _, c, __, key=key: c["model"].update({key: nested})))
    assert not ran.exists()


def _without(key: str) -> Edit:
    return lambda description, *_: description.pop(key)


ONE_LAYER = {"channels": [1], "kernel_sizes": [3], "strides": [[1, 1]]}
NONSENSE: Mapping[str, tuple[Edit, str]] = {
    "a layer that would fill the memory": (
        lambda _, c, __: c["model"].update(channels=[10**9, 10**9, 10**9]),
        "usable model",
    ),
    "a negative layer": (lambda _, c, __: c["model"].update(channels=[-1, 2, 3]), "usable model"),
    "another depth": (
        lambda _, c, __: c["model"].update(channels=[16], kernel_sizes=[3], strides=[[1, 1]]),
        "usable model",
    ),
    "an argument that it does not take": (lambda _, c, __: c["model"].update(colour="red"), "usable model"),
    "steps of nothing": (lambda _, c, __: c["model"].update(strides=[[0, 0]] * 3), "which no model"),
    "an endless window": (lambda _, c, __: c["recipe"].update(window=1e12), "recipe.window=1000000000000.0: must be"),
    "a window in words": (lambda _, c, __: c["recipe"].update(window="long"), "recipe.window=long: must be"),
    "a full overlap": (lambda _, c, __: c["recipe"].update(overlap=1.0), "recipe.overlap=1.0: must be"),
    "no members": (lambda _, c, __: c["recipe"].update(members=[]), "recipe.members=[]: must be"),
    "no recipe": (lambda _, c, __: c.pop("recipe"), "KeyError: 'recipe'"),
    "another precision": (lambda d, *_: d.update(precision="64"), "precision=64: must be"),
    "a precision that is not known yet": (lambda d, *_: d.update(precision="auto"), "precision=auto: must be"),
    "no precision": (_without("precision"), "KeyError: 'precision'"),
    "no longest clip": (_without("longest"), "KeyError: 'longest'"),
    "a longest clip in words": (lambda d, *_: d.update(longest="long"), "is not a usable model"),
    "a rate of nothing": (lambda d, *_: d["features"].update(sample_rate=0), "features.sample_rate=0: must be"),
    "a hop of one": (lambda d, *_: d["features"].update(hop_length=1, n_fft=65536), "would fill the memory"),
    "more bands than memory": (lambda d, *_: d["features"].update(n_mels=32768, n_fft=65536), "would fill the memory"),
    "maps larger than memory": (
        lambda d, c, _: (
            d["features"].update(hop_length=1, n_fft=256),
            c["recipe"].update(window=30, members=["plain"]),
        ),
        "would fill the memory: its maps take",
    ),
    "averages over more bands than memory": (
        lambda d, c, _: (
            d["features"].update(kind="mel", n_mels=8192, n_fft=16384, hop_length=4096),
            c["recipe"].update(members=["plain"]),
            c["model"].update(ONE_LAYER, bands=[100_000]),
        ),
        "would fill the memory: its maps take",
    ),
    "more bands in time than memory": (
        lambda d, c, _: (
            d["features"].update(kind="mfcc", n_mels=20, n_mfcc=20, n_fft=256, hop_length=16),
            c["recipe"].update(members=["plain"]),
            c["model"].update(ONE_LAYER, bands=[100_000]),
        ),
        "would fill the memory: its maps take",
    ),
    "more windows than memory": (
        lambda d, c, _: (d["features"].update(hop_length=4, n_fft=256), c["recipe"].update(overlap=0.95)),
        "would fill the memory: its features and views take",
    ),
    "more frames than memory": (
        lambda d, c, _: (d["features"].update(hop_length=64), c["recipe"].update(window=600, members=["modulation"])),
        "would fill the memory",
    ),
    "a text that stands for more than memory": (
        lambda _, c, __: c["model"].update(extra=[(twice := ["a"]), twice]),
        "has aliases",
    ),
    "networks taken for kernel machines": (lambda _, c, __: c["recipe"].update(members=["statistics"]), "usable model"),
    "other bins": (lambda d, *_: d["features"].update(n_mels=7), "usable model"),
    "an unknown feature": (lambda d, *_: d["features"].update(tempo=1), "features.tempo"),
    "one genre": (lambda d, *_: d.update(genres=["all"]), "at least two names"),
    "three genres": (lambda d, *_: d.update(genres=["a", "b", "c"]), "usable model"),
    "a genre twice": (lambda d, *_: d.update(genres=["a"] * 10), "must all differ"),
    "genres that are numbers": (lambda d, *_: d.update(genres=[1, 2]), "at least two names"),
    "no configuration": (lambda d, c, _: c.clear(), "KeyError"),
    "no features": (_without("features"), "KeyError: 'features'"),
    "no origin": (_without("origin"), "KeyError: 'origin'"),
    "features of earlier days": (_without("revision"), "its features are of revision 1, those of this genre_cls of"),
    "features to come": (lambda d, *_: d.update(revision=99), "its features are of revision 99"),
    "no weights": (lambda _, __, w: w.clear(), "has no weights"),
    "a weight too few": (lambda _, __, w: w.pop("0.mean"), "usable model"),
    "a weight too many": (lambda _, __, w: w.update({"0.more": torch.zeros(1)}), "usable model"),
    "weights of no member": (lambda _, __, w: w.update(mean=torch.zeros(1)), "usable model"),
    "a temperature out of range": (lambda d, *_: d.update(temperature=0), "temperature=0: must be from 0.1 to 10"),
    "weights that are no numbers": (lambda _, __, w: w["0.mean"].fill_(torch.nan), "0.mean are not numbers"),
}


@pytest.mark.parametrize("what", NONSENSE)
def test_a_model_file_with_nonsense_in_it_is_refused(model: Path, tmp_path: Path, what: str) -> None:
    edit, reason = NONSENSE[what]
    assert reason in refusal(forged(tmp_path / "a.safetensors", model, edit))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '"text"', "1", "{}", '{"config": 1}', '{"config": "{"}', "[" * 100_000]
)
def test_an_invalid_description_is_refused(model: Path, tmp_path: Path, text: str) -> None:
    path = tmp_path / "a\nb.safetensors"  # which is reported in one line all the same
    path.write_bytes(save(contents(model)[1], metadata={"genre_cls": text}))
    with pytest.raises(UserError, match="is not a usable model") as error:
        GenreClassifier.load(path)
    assert len(str(error.value).splitlines()) == 1


def test_files_without_a_model_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    for content in (b"", b"RIFF", b"\xff" * 64, b"Dear diary, today I heard a song." * 9):
        path.write_bytes(content)
        assert "is not a safetensors file" in refusal(path)
    path.write_bytes(save({"weight": torch.zeros(2)}))
    assert "is not a model of genre_cls" in refusal(path)


HUGE = {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]}
HEADERS = {
    "a tensor that is not there": {"w": HUGE},
    "a tensor larger than can be counted": {"w": HUGE | {"shape": [2**62, 2**62]}},
    "a tensor before the beginning": {"w": HUGE | {"shape": [1], "data_offsets": [-4, 0]}},
    "two tensors in one place": {name: HUGE | {"shape": [1], "data_offsets": [0, 4]} for name in "vw"},
    "a tensor of objects": {"w": HUGE | {"dtype": "O", "shape": [1], "data_offsets": [0, 4]}},
    "a list": [1, 2],
}


@pytest.mark.parametrize("what", HEADERS)
def test_a_header_that_lies_about_its_tensors_is_refused(tmp_path: Path, what: str) -> None:
    header = json.dumps(HEADERS[what]).encode()
    for claimed in (len(header), 2**40, 2**64 - 1):
        path = tmp_path / "a.safetensors"
        path.write_bytes(claimed.to_bytes(8, "little") + header + bytes(4))
        assert "is not a safetensors file" in refusal(path)


def test_a_file_up_to_the_length_of_a_segment_is_classified_as_one_clip(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    classifier, path = GenreClassifier.load(model), sound(tmp_path / "a.wav", 20, 20, 19.9)
    segmented = classifier.predict(path)
    monkeypatch.setattr(classifier, "_longest", 1e9)
    whole = classifier.predict(path)
    for part in ("starts", "ends", "windows", "probabilities"):
        np.testing.assert_array_equal(getattr(segmented, part), getattr(whole, part))


@pytest.mark.parametrize(
    ("longest", "clips"), [(100.5, 1), (99, 2), (1, 2), (-5, 2), (float("nan"), 2), (1e300, 1), (float("inf"), 1)]
)
def test_a_model_of_long_clips_classifies_as_long_ones_in_one_piece_as_in_evaluation(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, longest: float, clips: int
) -> None:
    classified: list[int] = []
    real = GenreClassifier._predict_clip

    def counted(classifier: GenreClassifier, waveform: Any) -> Any:
        classified.append(len(waveform))
        return real(classifier, waveform)

    monkeypatch.setattr(GenreClassifier, "_predict_clip", counted)
    own = forged(tmp_path / "own.safetensors", model, lambda d, *_: d.update(longest=longest))
    GenreClassifier.load(own).predict(sound(tmp_path / "a.wav", 100))
    assert len(classified) == clips and sum(classified) == 100 * RATE


def test_an_ensemble_takes_clips_as_long_as_each_of_its_models_does(model: Path, tmp_path: Path) -> None:
    for name, longest in (("a", 100), ("b", 80), ("c", 90)):
        forged(tmp_path / f"{name}.safetensors", model, lambda d, *_, longest=longest: d.update(longest=longest))
    GenreClassifier.load(tmp_path).save(tmp_path / "all.safetensors")
    assert GenreClassifier.load(tmp_path / "all.safetensors")._longest == 80


def test_clips_are_no_longer_than_memory_allows(model: Path, tmp_path: Path) -> None:
    def edit(description: dict[str, Any], *_: object) -> None:
        description["longest"] = 600
        description["features"].update(sample_rate=44100, n_fft=8192, hop_length=256)

    assert GenreClassifier.load(forged(tmp_path / "own.safetensors", model, edit))._longest == 60


def test_a_model_file_names_the_longest_clip_of_its_data_set(trained: Any, model: Path, tiny_music: Path) -> None:
    seconds = max(soundfile.info(path).duration for path in tiny_music.rglob("*.wav"))
    assert seconds < contents(model)[0]["longest"] < seconds + 0.1


def test_a_longer_file_is_classified_in_segments_with_similar_results(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    classifier = GenreClassifier.load(model)
    path = sound(tmp_path / "a.flac", *[5] * 30)  # a similar mixture in every segment
    segmented = classifier.predict(path)
    assert segmented.seconds == 150 and segmented.ends[-1] == pytest.approx(150)
    assert (segmented.starts[1:] <= segmented.ends[:-1] + 1e-9).all()  # no gap
    monkeypatch.setattr(classifier, "_longest", 1e9)
    assert classifier.predict(path).probabilities == pytest.approx(segmented.probabilities, abs=0.02)


@pytest.mark.parametrize("name", ["another rate", "odd"])
@pytest.mark.parametrize("before", [True, False])
def test_silent_windows_do_not_vote(name: str, before: bool, tmp_path: Path) -> None:
    spec = SPECS[name]
    classifier = a_classifier(spec, window=0.5)
    heard = np.random.default_rng(0).normal(0, 0.2, 2 * spec.sample_rate)
    silence = 1e-5 * np.random.default_rng(1).normal(size=6 * spec.sample_rate)  # as dither leaves it
    soundfile.write(tmp_path / "a.wav", np.concatenate([silence, heard][:: 1 if before else -1]), spec.sample_rate)
    prediction = classifier.predict(tmp_path / "a.wav")
    first, last = (6, 8) if before else (0, 2)
    assert first - 0.6 < prediction.starts[0] <= first and last <= prediction.ends[-1] < last + 0.6
    assert len(prediction.windows) <= 6 and prediction.over_time(1)[4 if before else 3][2] is None
    classifier.save(tmp_path / "a.onnx")
    graph = OnnxClassifier.load(tmp_path / "a.onnx")
    np.testing.assert_allclose(graph.predict(tmp_path / "a.wav").starts, prediction.starts)


def test_a_silent_segment_does_not_count(model: Path, tmp_path: Path) -> None:
    classifier, random = GenreClassifier.load(model), np.random.default_rng(0)
    loud = random.normal(0, 0.2, 60 * RATE)
    soundfile.write(tmp_path / "loud.wav", loud, RATE)
    soundfile.write(tmp_path / "then silent.wav", np.concatenate([loud, np.zeros(60 * RATE)]), RATE)
    alone, followed = classifier.predict(tmp_path / "loud.wav"), classifier.predict(tmp_path / "then silent.wav")
    np.testing.assert_array_equal(alone.windows, followed.windows)
    assert [genre for *_, genre in followed.over_time()] == [alone.genre, alone.genre, None, None]
    assert followed.seconds == 120


def test_nor_does_one_that_is_silent_but_for_the_edge_of_the_next(model: Path, tmp_path: Path) -> None:
    classifier, loud = GenreClassifier.load(model), np.random.default_rng(0).normal(0, 0.2, 60 * RATE)
    early = np.concatenate([loud, np.zeros(60 * RATE), loud])
    early[-len(loud) - 200 : -len(loud)] = 0.2  # 9 ms
    soundfile.write(tmp_path / "a.wav", early, RATE)
    genres = [genre for *_, genre in classifier.predict(tmp_path / "a.wav").over_time()]
    assert genres[2:4] == [None, None] and None not in genres[:2] + genres[4:]
    soundfile.write(tmp_path / "a.wav", early[60 * RATE :], RATE)
    with pytest.raises(UnreadableAudio, match="has sound for less than"):
        classifier.first_clip(tmp_path / "a.wav")


@pytest.mark.parametrize("extension", [".wav", ".au", ".aiff", ".flac", ".ogg", ".mp3"])
@pytest.mark.parametrize(("rate", "n_channels"), [(8000, 1), (22050, 6), (48000, 2)])
def test_any_format_rate_and_number_of_channels_is_classified(
    model: Path, tmp_path: Path, extension: str, rate: int, n_channels: int
) -> None:
    path = tmp_path / f"a{extension}"
    noise, n = np.random.default_rng(0).normal(0, 0.1, (2 * rate, 1)), 2 if extension == ".mp3" else n_channels
    soundfile.write(path, np.repeat(noise, n, axis=1), rate)
    prediction = GenreClassifier.load(model).predict(path)
    assert prediction.seconds == pytest.approx(2, abs=0.1)
    assert prediction.probabilities.sum() == pytest.approx(1) and prediction.windows.shape[0] == len(prediction.starts)


@settings(max_examples=60, deadline=None)
@example(seconds=60.3, stretch=30, n=1, seed=0)  # a remainder of 1 %
@example(seconds=60.9, stretch=30, n=1, seed=0)  # and of 3 %
@given(seconds=st.floats(0.5, 500), stretch=st.floats(5, 60), n=st.integers(1, 40), seed=st.integers(0, 99))
def test_stretches_of_time_cover_the_file_and_each_has_a_genre(
    seconds: float, stretch: float, n: int, seed: int
) -> None:
    bounds = np.linspace(0, seconds, n + 1)
    windows = np.random.default_rng(seed).dirichlet([1, 1, 1], n)
    prediction = Prediction(("a", "b", "c"), seconds, bounds[:-1], bounds[1:], windows)
    stretches = prediction.over_time(stretch)
    assert stretches[0][0] == 0 and stretches[-1][1] == seconds
    assert all(one[1] == next_[0] for one, next_ in pairwise(stretches))
    lengths = [end - start for start, end, _ in stretches]
    assert max(lengths) < 1.0001 * (1 + SLIVER) * stretch
    assert len(lengths) == 1 or min(lengths) > 0.9999 * SLIVER * stretch
    assert {genre for *_, genre in stretches} <= {"a", "b", "c"}
    assert prediction.over_time(1000) == [(0, seconds, prediction.genre)]
    assert prediction.over_time(seconds * (1 - 1e-12)) == prediction.over_time(seconds)  # as a sum of many segments is
    for wrong in (0, -1, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="must be above 0"):
            prediction.over_time(wrong)
    names, shares = zip(*prediction.ranked, strict=True)
    assert sorted(names) == ["a", "b", "c"] and list(shares) == sorted(shares, reverse=True)


def test_a_stretch_that_is_silent_but_for_a_tenth_has_no_genre() -> None:
    starts, votes = np.array([0.0, 28.0, 57.5]), np.array([[0.9, 0.1], [0.9, 0.1], [0.2, 0.8]])
    prediction = Prediction(("a", "b"), 90.0, starts, starts + 5, votes)  # 2 + 5, 3 + 2.5 and 2.5 of 30 s
    assert [genre for *_, genre in prediction.over_time(30)] == ["a", "a", None]


def test_importing_is_quick_and_only_training_imports_lightning(model: Path, tmp_path: Path) -> None:
    code = (
        "import sys, genre_cls\nheavy = {'torch', 'mlflow', 'pytorch_lightning', 'hydra', 'numpy'}\n"
        "print(heavy & set(sys.modules))\n"
        f"genre_cls.GenreClassifier.load({str(model)!r})\nprint(heavy - set(sys.modules))\n"
        "import genre_cls.experiments.experiment\nprint(heavy - set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=os.environ, capture_output=True, text=True, check=True
    )
    first, second, third = map(ast.literal_eval, done.stdout.replace("set()", "()").splitlines())
    assert not first and second == {"mlflow", "pytorch_lightning"} and third == {"pytorch_lightning"}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=8), st.integers(0, 99), st.floats(0.3, 3))
def test_a_stretchs_probabilities_are_its_windows_by_how_long_they_cover_it_at_the_files_temperature(
    lengths: list[int], seed: int, temperature: float
) -> None:
    bounds, stretch = np.cumsum([0, *lengths]), 7
    windows = np.random.default_rng(seed).dirichlet([1, 1, 1], len(lengths))
    prediction = Prediction(("a", "b", "c"), bounds[-1], bounds[:-1], bounds[1:], windows, temperature)
    each_second = np.repeat(windows, lengths, axis=0)
    edges, shares = prediction.shares_over_time(stretch)
    assert edges.tolist() == [*range(0, bounds[-1], stretch), bounds[-1]]
    expected = [
        tempered(each_second[start:end].mean(axis=0), temperature) for start, end in pairwise(edges.astype(int))
    ]
    np.testing.assert_allclose(shares, expected, atol=1e-12)
    assert [genre for *_, genre in prediction.over_time(stretch)] == ["abc"[int(row.argmax())] for row in expected]


def test_an_ensembles_temperature_is_the_mean_of_its_models_temperatures(
    model: Path, tiny_music: Path, tmp_path: Path
) -> None:
    for own in (0.5, 0.6, 1.3):
        forged(tmp_path / f"{own}.safetensors", model, lambda d, *_, own=own: d.update(temperature=own))
    prediction = GenreClassifier.load(tmp_path).predict(tiny_music / GENRES[0] / "0.wav")
    assert prediction.temperature == pytest.approx(0.8)
    assert prediction.probabilities == pytest.approx(tempered(prediction.vote, 0.8))


def test_a_picture_is_of_a_minute_at_most_though_longer_clips_are_classified_in_one_piece(
    model: Path, tmp_path: Path
) -> None:
    long = GenreClassifier.load(forged(tmp_path / "a.safetensors", model, lambda d, *_: d.update(longest=200)))
    path = sound(tmp_path / "a.wav", 100)
    assert long.first_clip(path).seconds == pytest.approx(50)  # half of it
    assert len(long.predict(path).windows) > 2 * long.first_clip(path).seconds


def test_each_of_more_than_ten_networks_keeps_its_view_in_a_file(tmp_path: Path) -> None:
    (both := tmp_path / "both").mkdir()
    for name in "ab":
        a_classifier(SPECS["another rate"]).save(both / f"{name}.safetensors")
    path, together = music(tmp_path / "a.wav", 1), GenreClassifier.load(both)
    together.save(tmp_path / "one.safetensors")
    one = GenreClassifier.load(tmp_path / "one.safetensors")
    assert one.n_networks == together.n_networks == 2 * len(VIEWS)
    np.testing.assert_allclose(one.predict(path).windows, together.predict(path).windows, atol=1e-12)
    one.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "one.safetensors").read_bytes()


@pytest.mark.parametrize("cores", [1, 3])
def test_networks_vote_on_one_thread_each_in_no_more_threads_than_a_quota_of_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cores: int
) -> None:
    monkeypatch.setattr(threads, "cpu_count", lambda: cores)
    classifier, before, seen = a_classifier(SPECS["mel"]), torch.get_num_threads(), []
    for network in classifier._networks:
        network.model.register_forward_pre_hook(lambda *_: seen.append((torch.get_num_threads(), get_ident())))
    torch.set_num_threads(64)
    try:
        classifier.predict(music(tmp_path / "a.wav", 1))
        assert torch.get_num_threads() == 64
    finally:
        torch.set_num_threads(before)
    assert len(seen) == len(classifier._networks) > cores and {n_threads for n_threads, _ in seen} == {1}
    assert len({thread for _, thread in seen} - {get_ident()}) <= cores


@pytest.mark.parametrize("seconds", [0.3, 5.0, 30.0])
@pytest.mark.parametrize("name", ["basic", "deep", "tutorial_basic", "tutorial_deep"])
def test_no_model_of_the_package_on_fine_features_is_refused_as_too_large(
    composed: Compose, name: str, seconds: float
) -> None:
    fine = FeatureSpec(kind="mel", sample_rate=44100, hop_length=128, n_mels=256, f_max=22050)
    model = cast(Any, OmegaConf.to_container(composed(f"model={name}").model))
    usage = replace(usage_of(fine, seconds, 0.5), model=model)
    assert modelfile._largest_map(usage, "plain") < modelfile.LARGEST
    assert usage.windows_at_once == 1 or usage.windows_at_once * 256 * fine.n_frames(seconds) <= windows.AT_ONCE


@pytest.mark.parametrize(("rate", "told"), [(8000, False), (7300, False), (4000, True), (192000, False)])
def test_a_file_that_lacks_what_the_model_listens_to_is_noted(rate: int, told: bool, tmp_path: Path) -> None:
    classifier = a_classifier(SPECS["another rate"])
    soundfile.write(tmp_path / "a.wav", np.random.default_rng(0).normal(0, 0.1, rate), rate)
    note = "recorded at 4000 Hz, it has nothing above 2000 Hz, where the model listens up to 4000 Hz; if its training "
    assert classifier.predict(tmp_path / "a.wav").note.startswith(note if told else "")
    assert bool(classifier.predict(tmp_path / "a.wav").note) == told


@settings(max_examples=10, deadline=None)
@given(level=st.floats(-60, 100))
def test_how_loud_a_recording_is_changes_no_prediction(level: float, tmp_path_factory: pytest.TempPathFactory) -> None:
    classifier, path = a_classifier(SPECS["another rate"]), tmp_path_factory.getbasetemp() / "level.wav"
    music, windows = np.random.default_rng(0).normal(0, 0.1, 16000), []
    for decibels in (0, level):
        soundfile.write(path, 10 ** (decibels / 20) * music, 8000, subtype="FLOAT")
        windows.append(classifier.predict(path).windows)
    np.testing.assert_allclose(*windows, atol=1e-3)
