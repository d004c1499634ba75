"""Building: what is tried out before the work, and what rules alone have checked."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from shared import Compose
from torch.optim import AdamW, Optimizer

from genre_cls.configuration.members import VIEWS, is_of_modulations
from genre_cls.configuration.settings import CONF, RULES
from genre_cls.errors import UserError
from genre_cls.training import building
from genre_cls.training.building import check_buildable, crops_of

RECIPES = sorted(path.stem for path in (CONF / "recipe").glob("*.yaml"))
CHECK = """
import sys
from hydra import compose, initialize_config_dir
from genre_cls.training.building import check_buildable

conf, *models = sys.argv[1:]
for model in models:
    with initialize_config_dir(version_base="1.3", config_dir=conf):
        check_buildable(compose("config", ["model=basic", f"model._target_={model}"]))
    print("torch._dynamo" in sys.modules)
"""


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_arguments_of_each_recipes_optimizer_and_schedule_have_rules_and_can_be_built(
    composed: Compose, recipe: str
) -> None:
    cfg = composed(f"recipe={recipe}").recipe
    assert building._has_rules(cfg.optimizer) and building._has_rules(cfg.schedule)
    given = {f"recipe.{part}.{name}" for part in ("optimizer", "schedule") for name in cfg[part] if name[0] != "_"}
    assert given <= RULES.keys()
    optimizer = instantiate(cfg.optimizer)([torch.zeros(2, requires_grad=True)])
    instantiate(cfg.schedule)(optimizer, total_steps=100)


@pytest.mark.parametrize(
    "override",
    [
        "~recipe.schedule.warmup", "+recipe.schedule.steps=3",
        "recipe.schedule._target_=genre_cls.training.recipe.constant", "+recipe.optimizer.betas=[0.5,0.9]",
        "recipe.optimizer._target_=torch.optim.SGD", "~recipe.optimizer._target_",
    ],
)  # fmt: skip
def test_other_arguments_and_other_optimizers_are_left_to_be_tried(composed: Compose, override: str) -> None:
    cfg = composed(override).recipe
    assert not (building._has_rules(cfg.optimizer) and building._has_rules(cfg.schedule))


@pytest.mark.parametrize("optimizer", ["LBFGS", "SparseAdam"])
def test_an_optimizer_that_cannot_train_a_model_is_reported_before_the_work(composed: Compose, optimizer: str) -> None:
    others = ("~recipe.optimizer.weight_decay", "~recipe.optimizer.fused")
    cfg = composed(f"recipe.optimizer._target_=torch.optim.{optimizer}", *others)
    with pytest.raises(UserError, match=rf"^recipe\.optimizer: torch\.optim\.{optimizer} fails: \w+Error.*"):
        check_buildable(cfg)


def no_schedule(optimizer: Optimizer, total_steps: int) -> int:
    return total_steps


def test_a_schedule_that_is_none_is_reported_before_the_work(composed: Compose) -> None:
    target = f"recipe.schedule._target_={__name__}.no_schedule"
    with pytest.raises(UserError, match=rf"^{target}: makes no LRScheduler but a\w* int"):
        check_buildable(composed(target, "~recipe.schedule.warmup"))


def test_pytorchs_own_schedule_is_told_how_long_the_training_is(composed: Compose) -> None:
    names = ("_target_=torch.optim.lr_scheduler.OneCycleLR", "max_lr=0.01", "total_steps=1")
    cfg = composed(*(f"++recipe.schedule.{name}" for name in names), "~recipe.schedule.warmup")
    check_buildable(cfg)
    schedule = instantiate(cfg.recipe.schedule)(AdamW([torch.zeros(1, requires_grad=True)]), total_steps=100)
    assert schedule.total_steps == 100


def test_a_model_that_fails_in_training_alone_is_reported_as_such(
    composed: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "from genre_cls.models import GenreCNN\nclass Mine(GenreCNN):\n    def forward(self, features):\n"
    code += "        logits = super().forward(features)\n        return (logits,) if self.training else logits\n"
    (tmp_path / "fails_in_training.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=r"^model: fails in training: AttributeError: 'tuple' object has no"):
        check_buildable(composed("model=basic", "model._target_=fails_in_training.Mine"))


def test_pytorchs_compiler_is_imported_for_the_check_of_a_model_of_ones_own_alone(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("from genre_cls.models import GenreCNN\nclass Mine(GenreCNN): pass\n")
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{CONF.parent}"}
    code = [sys.executable, "-c", CHECK, str(CONF), "genre_cls.models.GenreCNN", "own.Mine"]
    done = subprocess.run(code, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "False\nTrue\n"


def test_all_recipes_pass_the_check(composed: Compose) -> None:
    for recipe in RECIPES:
        check_buildable(composed(f"recipe={recipe}", "model=tutorial_basic", "recipe.first_crop=1"))


@pytest.mark.parametrize("view", VIEWS)
def test_crops_grow_to_whole_windows_but_those_of_modulations_are_whole_from_the_start(
    composed: Compose, view: str
) -> None:
    cfg = composed("recipe.first_crop=0.25", "recipe.epochs=12")
    spec = instantiate(cfg.features)
    crops = crops_of(cfg, spec, view)
    whole = spec.n_frames(cfg.recipe.window)
    assert len(crops) == 12 and crops == sorted(crops) and crops[-1] == whole
    assert crops[0] == (whole if is_of_modulations(view) else round(whole / 4))
