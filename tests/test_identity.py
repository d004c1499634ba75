"""Identity: two runs that would compute the same have one, two that would not have two."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra.conf import HydraConf
from omegaconf import DictConfig, OmegaConf
from shared import Compose

from genre_cls.configuration.identity import LONGEST_TITLE, Identity, identify
from genre_cls.configuration.provenance import COMMAND_ID, COMMAND_LINE, command, command_id, name_command, provenance
from genre_cls.configuration.settings import leaves, without_hydra
from genre_cls.configuration.sources import NO_EFFECT_ON_RESULTS, SOURCES, _source, digest

INCIDENTAL = {
    "cache_dir=/x": "where features are kept",
    "report_dir=/x": "where the report goes",
    "trainer.device=cpu": "where it runs",
    "trainer.precision=32-true": "how it runs",
    "trainer.threads=3": "how it runs",
    "trainer.workers=3": "how it runs",
    "tracking.folder=/x": "where results are kept",
    "tracking.experiment=x": "where results are kept",
    "tracking.uri=sqlite:///x": "where results are kept",
    "rope=0.1": "how the report words it",
    "force=true": "whether it is computed again",
    "skip_impossible=true": "what is done about splits that are not",
    "max_unreadable=0.5": "what is done about files, which the dataset's digest knows",
    "dataset.cache_dir=/x": "where the audio is kept",
    "alone=true": "whether `fold` is a part or all of it, which by itself is nothing",
}


@pytest.fixture(scope="module")
def identity_of(composed: Compose) -> Callable[..., Identity]:
    def of(*overrides: str) -> Identity:
        return identify(*as_job(composed(*overrides)))

    return of


def as_job(cfg: DictConfig) -> tuple[DictConfig, HydraConf]:
    """As a job gets it: its settings without Hydra's, and those apart."""
    return without_hydra(cfg), cfg.hydra


def changed(value: Any) -> Any:
    """Another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, list):
        return [*value, 1]
    return f"{value}x" if isinstance(value, str) or value is None else value + 1


def test_where_and_how_it_runs_does_not_change_it(identity_of: Callable[..., Identity]) -> None:
    plain = identity_of()
    for override in INCIDENTAL:
        other = identity_of(override)
        assert (other.fingerprint, other.named) == (plain.fingerprint, plain.named), override
        assert other.params != plain.params


def test_how_uneven_folds_may_be_does_not_change_it(identity_of: Callable[..., Identity]) -> None:
    one, other = (identity_of("folds=artist", f"folds.tolerance={tolerance}") for tolerance in (0.3, 0.4))
    assert one.fingerprint == other.fingerprint and one.title == other.title and one.params != other.params


def test_the_folder_of_the_music_does_not_change_it(identity_of: Callable[..., Identity]) -> None:
    here, there = (identity_of("dataset=folder", f"dataset.root=/{place}") for place in ("here", "there"))
    assert here.fingerprint == there.fingerprint and here.named == there.named


def test_a_job_that_trains_one_fold_is_named_as_the_whole_unless_that_fold_is_a_task_of_its_own(
    identity_of: Callable[..., Identity],
) -> None:
    assert identity_of("fold=0") == identity_of("fold=3") == identity_of("fold=null") == identity_of()
    own = [
        identity_of(*words) for words in (("fold=0", "alone=true"), ("fold=1", "alone=true"), ("fold=0", "inside=true"))
    ]
    assert len({identity.key("data") for identity in (*own, identity_of())}) == 4
    assert [identity.named["fold"] for identity in own] == ["0", "1", "0"]


def test_a_job_still_knows_which_fold_it_trains_after_it_is_identified(composed: Compose) -> None:
    cfg, hydra = as_job(composed("fold=1"))
    identify(cfg, hydra)
    assert cfg.fold == 1


@pytest.mark.parametrize("features", ["mel", "mfcc"])
def test_every_other_setting_changes_it(composed: Compose, features: str) -> None:
    cfg, hydra = as_job(composed(f"features={features}"))
    elsewhere = {override.partition("=")[0] for override in INCIDENTAL}
    elsewhere |= {"fold", "trainer.graphs"}  # a part of the whole; part of the key where it changes a bit
    original = identify(cfg, hydra)
    for key, value in leaves(cfg):
        other = cfg.copy()
        OmegaConf.update(other, key, changed(value), force_add=True)
        identity = identify(other, hydra)
        assert (identity.fingerprint == original.fingerprint) == (key in elsewhere), key
        assert (identity.key("data") == original.key("data")) == (key in elsewhere), key
        assert (identity.setup == original.setup) == (key in elsewhere or key.startswith("folds.")), key


def test_other_data_or_other_code_is_never_reused(composed: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    job = as_job(composed())
    original = identify(*job)
    assert original.key("data") == identify(*job).key("data") != original.key("other data")
    assert original.key("data", "cpu") != original.key("data", "cuda")
    rooms = {name.partition(".")[0] for name in SOURCES}
    assert SOURCES.keys() | rooms > NO_EFFECT_ON_RESULTS
    for name, text in SOURCES.items():
        with monkeypatch.context() as patch:
            patch.setitem(SOURCES, name, f"{text}# edited")
            edited = identify(*job)
        without_effect = not NO_EFFECT_ON_RESULTS.isdisjoint((name, name.partition(".")[0]))
        assert (edited.key("data") == original.key("data")) == without_effect, name
        assert edited.fingerprint == original.fingerprint


def test_another_version_of_torch_is_other_code_and_its_build_for_other_hardware_is_not(
    identity_of: Callable[..., Identity], monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = []
    for version in ("2.11.0", "2.11.0+cpu", "2.11.0+cu128", "2.11.1"):
        monkeypatch.setattr("genre_cls.configuration.identity.version", lambda _, version=version: version)
        keys.append(identity_of().key("data"))
    assert keys[0] == keys[1] == keys[2] != keys[3]


def test_an_edit_of_a_users_own_model_is_other_code(
    identity_of: Callable[..., Identity], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    mine = tmp_path / "my_own_model.py"
    mine.write_text("class Model:\n    width = 1\n")
    before, again = (identity_of("model._target_=my_own_model.Model").key("") for _ in range(2))
    sources = identity_of("model._target_=my_own_model.Model").sources
    mine.write_text("class Model:\n    width = 10\n")
    assert before == again == identity_of("model._target_=my_own_model.Model").key("")  # of which workers keep the old
    _source.cache_clear()  # as in a process that begins
    assert before != identity_of("model._target_=my_own_model.Model").key("")
    after = json.loads(identity_of("model._target_=my_own_model.Model").tags["sources"])
    assert sources.keys() == after.keys() > {"genre_cls", "my_own_model.Model"}
    assert [name for name in after if sources[name] != after[name]] == ["my_own_model.Model"]


def test_no_password_is_shown(identity_of: Callable[..., Identity], monkeypatch: pytest.MonkeyPatch) -> None:
    uri = "tracking.uri=https://ann:hunter2@runs.example:8080/a@b"
    monkeypatch.setattr(sys, "argv", ["genre_cls/train.py", uri])
    identity = identity_of(uri)
    assert identity.params["tracking.uri"] == "https://runs.example:8080/a@b"
    assert "hunter2" not in f"{identity} {identity.tags}" and "https://runs.example:8080/a@b" in identity.yaml


def test_it_does_not_depend_on_how_a_setting_was_given(identity_of: Callable[..., Identity]) -> None:
    plain, chosen, set_again = identity_of(), identity_of("features=mel", "batch_size=32"), identity_of("seed=0")
    assert plain.fingerprint == chosen.fingerprint == set_again.fingerprint


def test_a_number_is_the_same_with_and_without_a_point(identity_of: Callable[..., Identity]) -> None:
    fingerprints = {identity_of(f"recipe.window={window}").fingerprint for window in ("5", "5.0", "5e0")}
    assert fingerprints == {identity_of().fingerprint} != {identity_of("recipe.window=5.5").fingerprint}


def test_it_is_named_by_the_axes_the_recipe_the_folds_and_what_was_set(identity_of: Callable[..., Identity]) -> None:
    identity = identity_of(
        "features=mfcc", "model=basic", "batch_size=16", "recipe.epochs=2", "+model.x='a=b'", "cache_dir=/x"
    )
    axes = {"features": "mfcc", "model": "basic", "batch_size": "16", "recipe": "default", "folds": "random"}
    assert {**identity.named} == axes | {"recipe.epochs": "2", "model.x": "'a=b'"}


@pytest.mark.parametrize(
    ("overrides", "title"),
    [
        ("features=mfcc model=basic batch_size=16", "mfcc basic 16"),
        ("dataset=demo dataset.cache_dir=/x trainer.workers=2 rope=0.1 fold=1", "mel deep 32"),
        ("batch_size=16 recipe.optimizer.lr=0.003", "mel deep 16 lr=0.003"),
        ("recipe.optimizer.lr=0.001", "mel deep 32 lr=0.001"),
        ("experiment=[best,smoke]", "mel deep 16 best,smoke"),
        ("folds=artist folds.k=3 seed=1", "mel deep 32 artist k=3 seed=1"),
        ("recipe.members=[statistics,mfcc_statistics]", "mel members=statistics,mfcc_statist…"),
        ("recipe.window=3 +model.window=4", "mel deep 32 recipe.window=3 model.window=4"),
        ("fold=1 alone=true", "mel deep 32 fold=1"),
        ("recipe.optimizer._target_=torch.optim.SGD", "mel deep 32 optimizer=torch.optim.SGD"),
        ("recipe.window=3 inside=true fold=2", "mel deep 32 fold=2 inside=true window=3"),
        ("experiment=search fold=1", "mel deep 32 fold=1 inside=true search"),
        ("~recipe.optimizer.fused=true", "mel deep 32"),  # it deletes the argument
        ("+model.x='a\nb'", "mel deep 32 x=a\\nb"),
    ],
)
def test_a_title_is_the_axes_and_what_else_distinguishes_configurations(
    identity_of: Callable[..., Identity], overrides: str, title: str
) -> None:
    assert identity_of(*overrides.split(" ")).title == title


def test_a_title_stays_short(identity_of: Callable[..., Identity]) -> None:
    many = [f"+model.some_setting_{i}={'x' * 99}" for i in range(9)]
    title = identity_of(*many).title
    assert len(title) == LONGEST_TITLE and title.startswith("mel deep 32 some_setting_0=xxx") and title.endswith("…")


@pytest.mark.parametrize(("preset", "named"), [("leak_gap", False), ("smoke", True), ("best", True), ("search", True)])
def test_a_preset_names_a_configuration_only_if_it_sets_what_results_depend_on(
    identity_of: Callable[..., Identity], preset: str, named: bool
) -> None:
    assert identity_of(f"experiment={preset}", "dataset=demo").named.get("experiment") == (preset if named else None)


@pytest.mark.parametrize(
    ("preset", "named"),
    [
        ("defaults: [best]", True),
        ("folds: {tolerance: 0.5}\ntrainer: {workers: 1}", False),
        ("folds: {tolerance: 0.5, k: 3}", True),
        ("defaults: [override /model: basic, _self_]\nrope: 0.02", False),
    ],
)
def test_so_does_a_preset_of_a_users_own(composed: Compose, tmp_path: Path, preset: str, named: bool) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(f"# @package _global_\n{preset}\n")
    identity = identify(*as_job(composed("experiment=mine", f"hydra.searchpath=[file://{tmp_path}]", "folds=artist")))
    assert identity.named.get("experiment") == ("mine" if named else None)
    assert ("mine" in identity.title) == named


def test_several_experiments_at_once_are_named_as_requested(identity_of: Callable[..., Identity]) -> None:
    identity = identity_of("experiment=[best,smoke]", "dataset=demo")
    assert identity.named["experiment"] == "[best,smoke]" and "[plain," in identity.params["recipe.members"]


def test_params_are_all_settings_and_the_names(identity_of: Callable[..., Identity], composed: Compose) -> None:
    identity = identity_of("features=mfcc")
    texts = {key: str(value).replace(", ", ",").replace("'", "") for key, value in leaves(composed("features=mfcc"))}
    settings = {key: text.removesuffix(".0") for key, text in texts.items()}
    assert settings.items() <= identity.params.items() and identity.params["features"] == "mfcc"


def test_the_yaml_is_resolved_and_gives_the_settings_back(identity_of: Callable[..., Identity]) -> None:
    back = OmegaConf.create(identity_of("seed=7").yaml)
    assert back.folds.seed == back.seed == 7 and "hydra" not in back
    assert "${" not in identity_of().yaml


def test_tags_are_texts_that_say_where_a_run_comes_from(identity_of: Callable[..., Identity]) -> None:
    identity = identity_of("dataset=demo")
    tags = identity.tags
    assert all(isinstance(value, str) for value in tags.values())
    assert json.loads(tags["named"]) == identity.named and tags["identity"] == identity.fingerprint
    assert tags["dataset"] == "demo" and tags["folds"] == "random"
    assert {"command", "machine", "version", "mlflow.source.git.commit"} <= tags.keys()


@pytest.mark.parametrize("program", [Path("/somewhere/genre_cls/train.py"), Path("/bin/genre-cls-train")])
def test_the_command_can_be_typed_again(monkeypatch: pytest.MonkeyPatch, program: Path) -> None:
    monkeypatch.setattr(sys, "argv", [str(program), "-m", "dataset.root=/my music"])
    start = "python -m genre_cls.train" if program.suffix else "genre-cls-train"
    assert command() == f"{start} -m 'dataset.root=/my music'"
    monkeypatch.setattr(sys, "argv", [str(program), "dataset.root='/my müsic'", "'$x'"])
    assert command() == f"{start} \"dataset.root='/my müsic'\" ''\"'\"'$x'\"'\"''"


def test_a_launchers_jobs_say_which_command_they_belong_to_rather_than_how_they_were_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for variable in (COMMAND_ID, COMMAND_LINE):
        monkeypatch.setenv(variable, "")  # as it was before, after the test
    monkeypatch.setattr(sys, "argv", ["genre_cls/train.py", "-m", "seed=1,2"])
    name = name_command()
    monkeypatch.setattr(sys, "argv", ["/lib/joblib/loky/popen.py", "--pipe", "3"])
    assert command_id() == name and provenance()["command"] == "python -m genre_cls.train -m seed=1,2"
    assert name_command() != name and provenance()["command"] == "popen.py --pipe 3"


def test_a_digest_changes_with_every_part_and_with_their_order() -> None:
    assert digest("a", [1, 2]) == digest("a", [1, 2])
    assert len({digest("a", [1, 2]), digest("a", [2, 1]), digest("b", [1, 2]), digest([1, 2], "a"), digest()}) == 5
