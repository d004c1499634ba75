"""Settings: every one has a rule, every option works, and any value is accepted or refused in one line."""

import re
from math import inf, nan
from typing import Any

import numpy as np
import pytest
from hydra.utils import instantiate
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from shared import Command, Compose

from genre_cls import report, train
from genre_cls.configuration.settings import CONF, GROUPS, RULES, TAKEN_BY_ALL, Number, Several, Text, check, leaves
from genre_cls.errors import UserError
from genre_cls.experiments import experiment
from genre_cls.tracks.folds import Facts
from genre_cls.training.task import split_of

OPTIONS = sorted(
    f"{path.parent.relative_to(CONF)}={path.stem}"
    for group in GROUPS
    for path in (CONF / group).rglob("*.yaml")
)  # fmt: skip
FREE = ("model.", "recipe.optimizer.", "recipe.schedule.")  # checked by the classes that they are arguments of
HUGE = 10**400  # more than a float can hold


@pytest.fixture(autouse=True)
def _server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server:5000")


@pytest.fixture(scope="module")
def all_keys(composed: Compose) -> set[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", "http://server:5000")
        return {key for option in ["seed=0", *OPTIONS] for key, _ in leaves(composed(option))}


def test_the_options_are_found() -> None:
    assert {"model=deep", "features=mfcc", "dataset=gtzan", "tracking=server", "folds=random"} <= set(OPTIONS)


def test_every_setting_of_every_option_has_a_rule(all_keys: set[str]) -> None:
    private = {key for key in all_keys if key.rpartition(".")[2] in ("_target_", "_partial_")}
    assert {key for key in all_keys - private - RULES.keys() if not key.startswith(FREE)} == set()


def test_every_rule_is_of_a_setting(all_keys: set[str]) -> None:
    assert RULES.keys() - all_keys == set()


@pytest.mark.parametrize("option", ["seed=0", *OPTIONS])
def test_every_option_composes_passes_its_rules_and_can_be_built(composed: Compose, option: str) -> None:
    cfg = composed(option)
    check(cfg)
    model = instantiate(cfg.model, n_genres=3)
    optimizer = instantiate(cfg.recipe.optimizer)(model.parameters())
    instantiate(cfg.recipe.schedule)(optimizer, total_steps=10)
    instantiate(cfg.recipe.augmentation)
    assert instantiate(cfg.features).kind in ("mel", "mfcc")
    parts = ["train", "valid", "test", "test"] * 5
    split = instantiate(cfg.folds)(Facts(["a", "b"] * 10, np.arange(20), parts))
    assert len(split) == cfg.folds.get("k", 1) * cfg.folds.repeats


@pytest.mark.parametrize("key", TAKEN_BY_ALL)
def test_what_each_option_of_a_group_is_said_to_take_it_takes(composed: Compose, key: str) -> None:
    group = key.partition(".")[0]
    for option in (path.stem for path in (CONF / group).glob("*.yaml")):
        cfg = composed(f"{group}={option}", f"++{key}=7")
        check(cfg)
        assert split_of(cfg).keywords["k"] == 7 if group == "folds" else instantiate(cfg.features).n_mfcc == 7


def test_the_best_preset_is_one_configuration_with_m_too(composed: Compose) -> None:
    cfg = composed("experiment=best")
    swept = {"features": "mel", "model": "deep", "batch_size": "16"}
    assert cfg.hydra.sweeper.params == swept and cfg.batch_size == 16
    assert [cfg.hydra.runtime.choices[axis] for axis in ("features", "model")] == ["mel", "deep"]


def test_the_report_has_settings_of_its_own_that_have_rules(composed: Compose) -> None:
    cfg = composed(config="report")
    check(cfg)
    assert {key for key, _ in leaves(cfg)} <= RULES.keys()
    assert {key for key, _ in leaves(cfg)} | {"tracking"} == set(report.SETTINGS)


@pytest.mark.parametrize(("key", "rule"), [(key, rule) for key, rule in RULES.items() if isinstance(rule, Number)])
def test_a_range_ends_where_it_says(key: str, rule: Number) -> None:
    ends = [end for end in (rule.low, rule.high) if end < inf]
    step = 1 if rule.integer else 1e-9
    for value in (int(end) if rule.integer else end for end in ends):
        assert rule.allows(value), value
    assert rule.allows(None) == rule.optional
    wrong = [rule.low - step, inf, -inf, nan, "1", "many", True, [1], {"a": 1}]
    wrong += [rule.high + step, HUGE] if rule.high < inf else []
    wrong += [rule.low + 0.5] if rule.integer else []
    for value in wrong:
        assert not rule.allows(value), value


@pytest.mark.parametrize(("key", "rule"), [(key, rule) for key, rule in RULES.items() if isinstance(rule, Text)])
def test_a_text_rule_allows_only_its_choices(key: str, rule: Text) -> None:
    assert all(map(rule.allows, rule.choices or ["any text"]))
    assert rule.allows(None) == rule.optional
    assert not rule.allows("")
    for value in [1, 1.5, True, [1], {"a": 1}, *(["neither"] if rule.choices else [])]:
        assert not rule.allows(value), value


def test_a_rule_of_several_allows_any_of_its_choices_but_not_none() -> None:
    rule = Several(("a", "b", "c"))
    assert rule.allows(["b"]) and rule.allows(["c", "a"]) and rule.allows(["a", "a"])
    for value in ([], "a", ("a",), ["a", "d"], [["a"]], None):
        assert not rule.allows(value), value


@pytest.mark.parametrize("key", RULES)
@pytest.mark.parametrize("value", [[1], {}, {"a": 1}])
def test_a_refused_value_even_a_group_is_named_with_its_key_and_rule(key: str, value: Any) -> None:
    cfg = OmegaConf.create()
    OmegaConf.update(cfg, key, value)
    with pytest.raises(UserError) as error:
        check(cfg)
    assert str(error.value) == f"{key}={value}: must be {RULES[key]}"


def test_rules_say_what_they_allow() -> None:
    assert str(Number(1, integer=True)) == "a whole number, at least 1"
    assert str(Number(0, 1)) == "a number from 0 to 1"
    assert str(Text(("a", "b"))) == "one of a, b"
    assert str(Text(longest=3)) == "a non-empty text, at most 3 characters"
    assert str(Text(optional=True)) == "null or a non-empty text"
    assert Text(longest=3).allows("abc") and not Text(longest=3).allows("abcd")


@pytest.mark.parametrize(
    ("name", "key"),
    [("GTZAN_ROOT", "dataset.root"), ("GENRE_CLS_CACHE", "cache_dir"), ("MLFLOW_TRACKING_URI", "tracking.uri")],
)
def test_a_refused_value_of_an_environment_variable_is_told_to_be_of_that(
    composed: Compose, monkeypatch: pytest.MonkeyPatch, name: str, key: str
) -> None:
    monkeypatch.setenv(name, "")
    with pytest.raises(UserError, match=re.escape(f"{key}= (from {name}): must be ")):
        check(composed("dataset=gtzan", "tracking=server"))
    if key != "tracking.uri":
        with pytest.raises(UserError, match=re.escape(f"{key}=: must be ")):
            check(composed("dataset=gtzan", f"{key}=''"))


def test_interpolated_values_are_checked(composed: Compose) -> None:
    with pytest.raises(UserError, match=r"recipe\.epochs=0\.3"):
        check(composed("recipe.epochs=${recipe.schedule.warmup}"))


@pytest.mark.parametrize("setting", ["batch_size=1", "dataset.tracks_per_genre=1", "folds.k=1"])
def test_one_window_a_batch_one_track_a_genre_and_one_fold_are_too_few(composed: Compose, setting: str) -> None:
    with pytest.raises(UserError, match=rf"^{setting}: must be a whole number, at least 2$"):
        check(composed(setting))


STRANGE = [
    "", "null", "nan", "inf", "-inf", "1e999", "-0.0", "0x10", "1_000", "true", "'", '"', "${oc.env:HOME}",
    "${nothing}", "${..seed}", "???", "[", "[]", "[1,[2]]", "{}", "{a:1}", "a,b", "range(3)", "choice(a,b)",
    "!!python/name:os.system", "a\nb", "\N{MUSICAL SCORE}", "9" * 400, "x" * 5000, "/dev/null/x",
    "\x1b[31m", "=", "a=b",
]  # fmt: skip
VALUES = st.sampled_from(STRANGE) | st.integers().map(str) | st.floats().map(str) | st.text(max_size=9)


def _fuzz(command: Command, key: str, value: str, sign: str) -> None:
    """Whatever is given: the settings are good, or there is one line, and in no case work or an exception."""
    assert len(command(train.main, f"{sign}{key}={value}").mistake) > 10


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes after the settings' check says so and stops."""

    def prepare(configurations: Any) -> None:
        raise UserError("the settings are good")

    monkeypatch.setattr(experiment, "prepare", prepare)


FUZZED = {
    "key": st.sampled_from([*RULES, *GROUPS]) | st.text(max_size=9).filter(lambda text: not text.startswith("-")),
    "value": VALUES,
    "sign": st.sampled_from(["", "", "+", "++", "~"]),
}
LENIENT = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


@pytest.mark.usefixtures("no_work")
@settings(max_examples=25, deadline=None, suppress_health_check=LENIENT)
@given(**FUZZED)
@example(key="", value="", sign="+")
@example(key="dataset", value="[1,[2]]", sign="")
@example(key="@", value="", sign="+")
@example(key="", value="1", sign="~")
def test_any_value_of_any_setting_is_accepted_or_refused_in_one_line(
    command: Command, key: str, value: str, sign: str
) -> None:
    _fuzz(command, key, value, sign)


@pytest.mark.slow
@pytest.mark.usefixtures("no_work")
@settings(max_examples=1500, deadline=None, suppress_health_check=LENIENT)
@given(**FUZZED)
def test_many_values_of_all_settings_are_accepted_or_refused_in_one_line(
    command: Command, key: str, value: str, sign: str
) -> None:
    _fuzz(command, key, value, sign)


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("place", [0, 1, 2])
def test_m_may_stand_anywhere(command: Command, place: int) -> None:
    arguments = ["model=basic", "features=mel"]
    arguments.insert(place, "-m")
    done = command(train.main, *arguments)
    assert done.err == "error: the settings are good\n"
