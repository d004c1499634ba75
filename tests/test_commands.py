"""Commands: every mistake is reported in one line before any work, and Ctrl-C ends a running command."""

import csv
import errno
import os
import shlex
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException, MissingConfigException
from hypothesis import example, given
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf
from shared import Command

from genre_cls import extras, report, train
from genre_cls.configuration.commands import as_command, one_line_errors
from genre_cls.configuration.messages import error_message
from genre_cls.configuration.overrides import as_word
from genre_cls.configuration.settings import CONF
from genre_cls.errors import UserError
from genre_cls.extras import how_to_install, program
from genre_cls.training.building import check_buildable


class Doubled(torch.nn.Module):
    """A model that returns two tensors instead of one."""

    def __init__(self, n_genres: int, **settings: object) -> None:
        super().__init__()

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return features, features


class Unbuildable(torch.nn.Module):
    """A model whose constructor fails."""

    def __init__(self, **settings: object) -> None:
        raise KeyError("width")


class OnlyInTraining(torch.nn.Module):
    """A model with a layer that evaluation does not call."""

    def __init__(self, n_genres: int, **settings: object) -> None:
        super().__init__()
        self.layer, self.auxiliary = torch.nn.LazyLinear(n_genres), torch.nn.LazyLinear(n_genres)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        values = features.mean(dim=3).flatten(1)
        return self.layer(values) + (self.auxiliary(values) if self.training else 0)


class Own(torch.nn.Module):
    """A model with a learned layer and, by the classes below, something that its `state_dict` does not hold."""

    def __init__(self, n_genres: int, **settings: object) -> None:
        super().__init__()
        self.layer = torch.nn.LazyLinear(n_genres)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.layer(features.mean(dim=3).flatten(1))


class Sure(Own):
    """A model that gives probabilities."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return super().forward(features).softmax(dim=1)


class OfOneSize(Own):
    """A model that takes the features' own number of bins alone."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return super().forward(features * torch.ones(128, 1))


class LazilyBuilt(Own):
    """A model that makes a layer when it is first called."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        if not hasattr(self, "late"):
            self.late = torch.nn.Linear(features.shape[2], features.shape[2])
        return super().forward(features + self.late.bias[:, None])


class Forgetful(Own):
    """A model with random numbers that are in no buffer."""

    def __init__(self, n_genres: int, **settings: object) -> None:
        super().__init__(n_genres)
        self.forgotten = torch.rand(1) + 1

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return super().forward(features * self.forgotten)


class Frozen(Own):
    """A model that learns nothing."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return super().forward(features).detach()


class Mindful(Own):
    """A model with a mask of infinities, which evaluates without gradients."""

    def __init__(self, n_genres: int, **settings: object) -> None:
        super().__init__(n_genres)
        self.register_buffer("mask", torch.tensor([0.0, float("-inf")]))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        with torch.set_grad_enabled(self.training):
            return super().forward(features)


class Touchy(Own):
    """A model that fails on what is not all zero."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        if features.any():
            raise RuntimeError("too loud")
        return super().forward(features)


class Precise(Own):
    """A model with numbers that no model file knows."""

    def __init__(self, n_genres: int, **settings: object) -> None:
        super().__init__(n_genres)
        self.register_buffer("turn", torch.tensor([1j], dtype=torch.complex128))


class Noted(Own):
    """A model that stores something else than tensors."""

    def get_extra_state(self) -> dict[str, int]:
        return {"notes": 1}

    def set_extra_state(self, state: object) -> None:
        pass


MISTAKES = {
    "a typo": (["recipe.epocs=3"], ["recipe.epocs", "did you mean recipe.epochs"]),
    "a typo in a model's own setting": (["model.dropuot=1"], ["model.dropuot", "did you mean model.dropout"]),
    "two experiments, one in two": (
        ["experiment=smoke", "experiment=[best,smoke]"],
        ["'experiment=[smoke,best]' takes both"],
    ),
    "a setting without its group": (["epochs=3"], ["epochs", "did you mean recipe.epochs"]),
    "a setting that nothing takes": (["+foo=1"], ["foo: no such setting"]),
    "a setting that nothing takes in a group": (["+recipe.lr=1"], ["recipe.lr", "recipe.optimizer.lr"]),
    "an option that is none": (["model=depe"], ["model=depe", "basic, deep"]),
    "an option by number": (["model=3"], ["model=deep"]),
    "an empty address": (["tracking=server", "tracking.uri="], ["tracking.uri=: must be null or a non-empty text"]),
    "a database that ends with its process": (["tracking.uri=sqlite:///"], ["tracking.uri=sqlite:///: names no file"]),
    "another folder for jobs": (["hydra.job.chdir=true"], ["hydra.job.chdir=true: would put runs"]),
    "another folder for jobs, added": (["++hydra.job.chdir=1"], ["hydra.job.chdir=true: would put runs"]),
    "a database in memory": (["tracking.uri='sqlite+pysqlite://'"], ["tracking.uri=sqlite+pysqlite://: names no file"]),
    "a database whose address is none": (["tracking.uri='sqlite+x y://'"], ["sqlite+x y://"]),
    "more threads than any machine has": (["trainer.threads=100000"], ["trainer.threads=100000", "from 1 to 1024"]),
    "an address without its scheme": (["tracking.uri=localhost:5000"], ["tracking.uri=localhost:5000", "http://"]),
    "a number for a text": (["report_dir=2026"], ["report_dir=2026", "\"report_dir='2026'\""]),
    "a folder for reports that is a file": (["report_dir=/dev/null"], ["report_dir=/dev/null", "not a folder"]),
    "an experiment that is MLflow's own": (["tracking.experiment=Default"], ["tracking.experiment=Default", "own"]),
    "an address with a password": (["tracking.uri=me:secret@host:5000"], ["error: tracking.uri=host:5000: must begin"]),
    "a number of folds for a split": (["folds=5"], ["folds=5", "folds.k=5"]),
    "a list of options": (["features=[mel,mfcc]"], ["features=[mel,mfcc]", "-m features=mel,mfcc compares several"]),
    "a folder for a data set": (["dataset=/my/music"], ["dataset=/my/music", "dataset=folder dataset.root=/my/music"]),
    "two settings in one pair of quotes": (["features=mel model=deep"], ["more than one setting"]),
    "two settings, the first of which is a number": (["recipe.epochs=1 seed=2"], ["more than one setting"]),
    "spaces around the sign": (["recipe.epochs = 1"], ['"recipe.epochs = 1"', "spaces around its equals sign"]),
    "the beginning of a setting": (["features.hop=512"], ["features.hop", "did you mean features.hop_length"]),
    "an argument that an optimizer lacks": (
        ["recipe.optimizer._target_=torch.optim.RMSprop"],
        ["'fused'", "'~recipe.optimizer.fused' removes it"],
    ),
    "a class without its module": (["model._target_=Linear"], ["'Linear'", "write module.Class"]),
    "a model without a class": (["~model._target_"], ["model", "lacks a line _target_"]),
    "a group left out": (["~model"], ["~model: every configuration has one", "model=NAME"]),
    "a setting with more dashes": (["--batch-size=8"], ["write batch_size=8"]),
    "a group that is none": (["modle=deep"], ["modle", "did you mean model"]),
    "a folder of settings that there is not": (["--config-path=/no/where"], ["error: Primary", "'/no/where'"]),
    "no such preset": (["experiment=none_such"], ["experiment=none_such"]),
    "a text for a number": (["recipe.epochs=many"], ["recipe.epochs=many", "whole number"]),
    "a fraction for a whole number": (["recipe.epochs=1.5"], ["recipe.epochs=1.5", "whole number"]),
    "out of range": (["recipe.overlap=1"], ["recipe.overlap=1", "0 to 0.95"]),
    "infinite": (["recipe.window=inf"], ["recipe.window=inf", "0.1 to 600"]),
    "a seed beyond what generators take": (["seed=99999999999"], ["seed=99999999999"]),
    "a setting with dashes": (["--features", "mfcc"], ["--features", "write features=VALUE"]),
    "two presets": (
        ["experiment=smoke", "experiment=best"],
        ["experiment=best", "'experiment=[smoke,best]' takes both"],
    ),
    "a mistyped one of two presets": (["experiment=[best,smok]"], ["experiment=smok", "best, leak_gap, search, smoke"]),
    "no equals sign": (["deep"], ["error: deep: is not KEY=VALUE"]),
    "a list with spaces": (
        ["features=mel,", "mfcc"],
        ["features=mel,: ends in a comma", "without spaces: features=mel,mfcc"],
    ),
    "a list without an end": (
        ["batch_size=16,"],
        ["batch_size=16,: ends in a comma; write lists without spaces, such"],
    ),
    "a path with a space": (
        ["dataset.root=/my", "m\u00fcsic"],
        ["error: m\u00fcsic: is not KEY=VALUE; if it", "quote it: \"dataset.root='/my m\u00fcsic'\""],
    ),
    "an option of no command": (["-x"], ["unrecognized arguments: -x"]),
    "a part that there is not": (["--cfg", "jobb"], ["--cfg", "jobb"]),
    "a value for a group": (["recipe.optimizer=sgd"], ["such as recipe.optimizer.lr or recipe.optimizer._target_"]),
    "nothing behind the sign": (["batch_size="], ["batch_size=", "whole number"]),
    "a sweep without -m": (["batch_size=16,32"], ["batch_size", "-m"]),
    "a path that begins with ~": (
        ["dataset.root=~/Music"],
        ["dataset.root=~/Music: ", "quotes: \"dataset.root='~/Music'\""],
    ),
    "a path with a bracket": (
        ["dataset.root=/music/R&B (old"],
        ["dataset.root=/music/R&B (old: ", "quotes: \"dataset.root='/music/R&B (old'\""],
    ),
    "a path with a bracket and an equals sign": (
        ["dataset.root=/my (x) y=z"],
        ["dataset.root=/my (x) y=z: ", "quotes: \"dataset.root='/my (x) y=z'\""],
    ),
    "a path with a dollar sign and a bracket": (
        ["dataset.root=/A$AP (live)"],
        ["dataset.root=/A$AP (live): ", """quotes: 'dataset.root='"'"'/A$AP (live)'"'"''"""],
    ),
    "an address with a password in it and a bracket": (
        ["tracking.uri=http://me:s(ecret@host:5000"],
        ["error: tracking.uri=http://host:5000: ", "quotes"],
    ),
    "a path with an apostrophe": (
        ["dataset.root=/it's"],
        ["dataset.root=/it's: ", "quotes: \"dataset.root='/it\\'s'\""],
    ),
    "a word with a bracket": (["a b(c"], ["a b(c: ", "is not KEY=VALUE"]),
    "a path with a comma": (["dataset.root=/music/a,b"], ["dataset.root=", "quotes of its own"]),
    "an unfinished interpolation": (["recipe.window=${"], ["recipe.window=${"]),
    "an interpolation of nothing": (["recipe.window=${nope}"], ["recipe.window", "nope"]),
    "an environment variable that is not set": (["seed=${oc.env:NO_SUCH}"], ["seed: ", "NO_SUCH, which is not set"]),
    "a device that is none": (["trainer.device=tpu"], ["trainer.device=tpu", "auto, cpu, cuda"]),
    "one fold": (["folds.k=1"], ["folds.k=1", "at least 2"]),
    "more folds than tracks": (["folds.k=7"], ["folds.k=7", "only 6 tracks"]),
    "too few tracks to stop early by": (
        ["recipe.early_stopping.patience=1"],
        ["early_stopping.val_fraction=0.15: 6 training tracks", "take at least 0.34"],
    ),
    "a new argument of the optimizer": (
        ["recipe.optimizer.momentum=0.9"],
        ["recipe.optimizer.momentum: no such setting", "+recipe.optimizer.momentum=VALUE passes a new argument"],
    ),
    "a schedule that does not ask how long the training is": (
        ["recipe.schedule._target_=torch.optim.lr_scheduler.StepLR", "~recipe.schedule.warmup"],
        ["recipe.schedule: StepLR", "'total_steps'; it must be a function of an optimiser and total_steps"],
    ),
    "no folder of music": (["dataset.root=null"], ["dataset.root"]),
    "a folder that is not there": (["dataset.root=/no/such"], ["dataset.root=/no/such"]),
    "a file for a folder": ([f"dataset.root={__file__}"], [__file__]),
    "no GTZAN": (["dataset=gtzan"], ["dataset.root", "GTZAN_ROOT"]),
    "a cache that cannot be": (["cache_dir=/dev/null/a"], ["cache_dir=/dev/null/a: /dev/null is not a folder"]),
    "bands beyond the FFT": (["features.n_mels=5000"], ["features.n_mels=5000", "1024"]),
    "frequencies beyond the rate": (["features.f_max=99999"], ["f_max=99999"]),
    "an argument that the model refuses": (["model.dropout=2"], ["model: dropout"]),
    "an argument that the model does not have": (["+model.depth=2"], ["model", "depth"]),
    "steps of nothing": (["model.strides=[[0,0],[2,2],[2,2],[2,2],[1,1]]"], ["model: strides: 0 must be a whole"]),
    "a model for one size of windows": (["model=tutorial_basic"], ["model: fails on a crop", "recipe.first_crop=0.4"]),
    "lists of unequal lengths": (["model.kernel_sizes=[3]"], ["model: channels, kernel_sizes", "5, 1, 5, 5"]),
    "a model that is none": (["model._target_=builtins.dict"], ["model._target_=builtins.dict", "torch.nn.Module"]),
    "a model that gives more": ([f"model._target_={__name__}.Doubled"], ["model: gives a tuple", "must give (2, 2)"]),
    "a model that gives probabilities": (
        [f"model._target_={__name__}.Sure"],
        ["model: gives probabilities", "softmax"],
    ),
    "a model that takes features of one size": (
        [f"model._target_={__name__}.OfOneSize", "recipe.members=[plain,modulation]"],
        ["x 12 frames, as the member modulation sees it", "'recipe.members=[plain]'"],
    ),
    "a model that cannot be built": (
        [f"model._target_={__name__}.Unbuildable"],
        ["model: KeyError: 'width' (test_commands.py, line "],
    ),
    "a layer without a size": (
        [f"model._target_={__name__}.OnlyInTraining"],
        ["model: auxiliary.weight has no size", "not called in evaluation"],
    ),
    "a model that makes layers when it is called": (
        [f"model._target_={__name__}.LazilyBuilt"],
        ["stored and loaded again"],
    ),
    "a model that forgets": ([f"model._target_={__name__}.Forgetful"], ["its state_dict lacks weights"]),
    "a model that learns nothing": ([f"model._target_={__name__}.Frozen"], ["weights that can be learned"]),
    "a model that stores notes": (
        [f"model._target_={__name__}.Noted"],
        ["stored and loaded again", "dict"],
    ),
    "a model that fails on sounds": ([f"model._target_={__name__}.Touchy"], ["model: fails on noise", "too loud"]),
    "a model of numbers of 128 bits": ([f"model._target_={__name__}.Precise"], ["stored and loaded again"]),
    "a data set that is none": (["dataset._target_=builtins.dict"], ["dataset._target_=builtins.dict", "no Catalogue"]),
    "an augmentation that is none": (
        ["recipe.augmentation._target_=builtins.dict"],
        ["recipe.augmentation._target_=builtins.dict", "no Augmentation but a dict"],
    ),
    "features that are none": (["features._target_=builtins.dict"], ["features._target_=builtins.dict"]),
    "a setting of other features": (["features.n_mfcc=13"], ["features=mfcc has it", "++features.n_mfcc=VALUE gives"]),
    "an argument that the split does not have": (["+folds.size=2"], ["folds: random", "'size'"]),
    "a setting of another split": (["folds.tolerance=1"], ["folds.tolerance", "folds=artist has it"]),
    "a setting of the sweeper": (["hydra.sweeper.n_trial=2"], ["hydra.sweeper.n_trial: ", "--cfg hydra lists them"]),
    "folds of a split that is fixed": (["folds=filtered"], ["folds.k=2: the split of folds=filtered is fixed; leave"]),
    "an address for a folder": (
        ["tracking.folder=http://bob:secret@127.0.0.1:5000"],
        ["tracking.folder=http:/…: is an address and no folder; give it as tracking.uri"],
    ),
    "a store that is a file": ([f"tracking.folder={__file__}"], [f"tracking.folder={__file__}: ", "is not a folder"]),
    "a store that no disk takes": (
        ["tracking.folder=/dev/null/a"],
        ["tracking.folder=/dev/null/a: /dev/null is not a folder"],
    ),
    "a seed that others take over": (["seed=-1"], ["error: seed=-1"]),
    "no place for the cache": (["cache_dir="], ["cache_dir=", "non-empty"]),
    "no place for the report": (["report_dir="], ["report_dir=", "non-empty"]),
    "a configuration that is none": (["--config-name=foo"], ["--config-name=foo", str(CONF)]),
    "a command to do again that is none": (["--experimental-rerun=/no/such"], ["/no/such"]),
    "an optimiser that is none": (["recipe.optimizer._target_=torch.optim.Atom"], ["recipe.optimizer", "Atom"]),
    "an argument of another optimiser": (["+recipe.optimizer.momentum=0.9"], ["recipe.optimizer", "momentum"]),
    "a server that is none": (["tracking.uri=http://127.0.0.1:9"], ["tracking.uri=http://127.0.0.1:9"]),
}


@pytest.mark.parametrize(("arguments", "names"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_reported_in_one_line_before_any_work(
    command: Command, on_music: tuple[str, ...], here: Path, arguments: list[str], names: list[str]
) -> None:
    on_this = on_music if "dataset=gtzan" not in arguments else ("seed=0",)
    mistake = command(train.main, *on_this, *arguments).mistake
    assert all(name in mistake for name in names), mistake
    assert not list(here.iterdir())


@pytest.mark.parametrize("command_line", [("features=mel",), ("-m", "features=mel", "experiment=search")])
def test_a_gpu_that_is_not_there_is_reported_in_one_line_before_any_work(
    command: Command,
    on_music: tuple[str, ...],
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    command_line: tuple[str, ...],
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    mistake = command(train.main, *command_line, *on_music, "trainer.device=cuda").mistake
    assert "trainer.device=cuda" in mistake and "finds none on this machine" in mistake and not list(here.iterdir())


@pytest.mark.parametrize(
    ("sweep", "names"),
    [
        (["recipe.epochs=1,0"], ["recipe.epochs=0"]),
        (["model=basic,depe"], ["model=depe", "basic, deep"]),
        (["recipe.epocs=1,2"], ["recipe.epocs", "did you mean recipe.epochs"]),
        (["tracking.folder=one,two"], ["tracking", "the same for all configurations"]),
        (["report_dir=one,two"], ["report_dir", "the same for all configurations"]),
        (["folds.k=2,7"], ["folds.k=7", "only 6 tracks"]),
        (["model=basic", "model.dropout=0.1,7"], ["model: dropout"]),
        (["batch_size=16,'x'"], ["batch_size=x"]),
        (["hydra/sweeper=optuna", "hydra.sweeper.n_trials=0"], ["hydra.sweeper.n_trials=0", "at least 1"]),
        (["hydra/sweeper=optuna", "hydra.sweeper.direction=up"], ["hydra.sweeper.direction=up", "must be maximize"]),
        (
            ["experiment=search", "hydra.sweeper.storage=sqlite:///o.db"],
            ["hydra.sweeper.storage: is not supported; leave it out"],
        ),
        (["experiment=search", "fold=0,1"], ["fold=0,1: a search", "one command for each"]),
        (["experiment=search", "folds.seed=range(3)"], ["folds.seed=range(3): a search", "one command for each"]),
        (["experiment=search", "hydra.sweeper.search_space=3"], ["hydra.sweeper.search_space=3: Cannot assign int"]),
        (["experiment=search", "hydra.sweeper.custom_search_space=x.y"], ["custom_search_space: is not supported"]),
        (["recipe.window=choice(1.0,9.0"], ["recipe.window=choice(1.0,9.0: has a bracket that is not closed"]),
        (["features=glob(m*)", "model=glob(foo*)"], ["model=glob(foo*): gives no value"]),
        (["seed=range(5,5)"], ["seed=range(5,5): gives no value"]),
        (["experiment=tutorial,smoke"], ["experiment=tutorial,smoke: a preset", "one command for each"]),
        (["+experiment=choice(tutorial,smoke)"], ["experiment=choice(tutorial,smoke): a preset"]),
        (["--cfg", "job"], ["--multirun, --cfg"]),
    ],
)
def test_one_bad_value_stops_a_sweep_before_any_work(
    command: Command, on_music: tuple[str, ...], here: Path, sweep: list[str], names: list[str]
) -> None:
    mistake = command(train.main, "-m", *on_music, "features=mel", "batch_size=16,32", *sweep).mistake
    assert all(name in mistake for name in names), mistake
    assert not list(here.iterdir())


def test_what_m_expands_by_default_is_checked_before_any_work(
    command: Command, on_music: tuple[str, ...], here: Path
) -> None:
    mistake = command(train.main, "-m", *on_music, "recipe.members=[mfcc_plain]").mistake
    assert "recipe.members: mfcc_plain needs features=mel" in mistake and not list(here.iterdir())


@pytest.mark.parametrize("name", ["spool", "artifacts"])
def test_a_file_in_the_place_of_a_folder_for_results_is_named_before_any_work(
    command: Command, on_music: tuple[str, ...], tmp_path: Path, name: str
) -> None:
    (tmp_path / name).touch()
    mistake = command(train.main, *on_music, f"tracking.folder={tmp_path}").mistake
    assert mistake == f"error: tracking.folder={tmp_path}: {tmp_path / name} is not a folder; name another one"


def test_a_cache_in_which_the_demo_set_cannot_be_made_is_named(command: Command) -> None:
    mistake = command(train.main, "cache_dir=/dev/null/a").mistake
    assert mistake.startswith("error: cache_dir=/dev/null/a: /dev/null is not a folder")


OWN = (
    "import torch\n"
    "class Linear(torch.nn.Module):\n"
    "    def __init__(self, n_genres, **settings):\n"
    "        super().__init__()\n"
    "    def forward(self, features):\n"
    "        return torch.nn.functional.linear(features, torch.ones(2, 3))\n"
)


@pytest.mark.parametrize(
    ("source", "name", "reason"),
    [
        (OWN, "Liner", "model: {module} has no Liner; did you mean Linear?"),
        (OWN + "print(\n", "Linear", "model: {module}.py, line 7: '(' was never closed"),
        (OWN + "1 / 0\n", "Linear", "model: ZeroDivisionError: division by zero ({module}.py, line 7)"),
        (OWN, "Linear", "model: fails on a window of 128 bins x 11 frames: RuntimeError: mat1 and mat2 shapes cannot"),
        (OWN, "Linear", "shapes cannot be multiplied (256x11 and 3x2) ({module}.py, line 6)"),
        (OWN.replace("torch.ones(2, 3)", "self.weights"), "Linear", "no attribute 'weights' ({module}.py, line 6)"),
        (OWN.replace("torch.ones(2, 3)", "__import__('json').loads('')"), "Linear", "(char 0) ({module}.py, line 6)"),
    ],
)
def test_a_mistake_in_a_users_own_model_is_reported_with_its_place(
    command: Command, on_music: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    source: str, name: str, reason: str,
) -> None:  # fmt: skip
    module = f"own_{zlib.crc32((source + name).encode())}"  # unique, since a module is imported only once
    (tmp_path / f"{module}.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    mistake = command(train.main, *on_music, f"model._target_={module}.{name}").mistake
    assert reason.format(module=module) in mistake, mistake


def test_a_current_folder_that_was_deleted_is_reported_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(SystemExit) as end, as_command():
        pytest.fail("the command ran")
    assert end.value.code == 2
    assert capsys.readouterr().err == "error: the current folder no longer exists; go to another one\n"


def test_the_report_command_reports_mistakes_in_one_line_too(command: Command) -> None:
    for argument in ("tracking.folder=3", "model=deep", "report_dri=x", "dataset=gtzan", "tracking.folder", "-x=1"):
        mistake = command(report.main, argument).mistake
        assert argument.partition("=")[0] in mistake
        assert "dataset." not in mistake, "the report has no such setting"


@pytest.mark.parametrize("word", ["rope=0.01,0.02", "report_dir=choice(a,b)"])
def test_the_report_command_takes_one_value_for_a_setting(command: Command, word: str) -> None:
    mistake = command(report.main, word).mistake
    assert mistake == f"error: {word}: there is only one report of a store, so it takes one value"


def test_the_report_command_takes_a_value_with_a_comma_in_it(command: Command) -> None:
    assert "no configuration has finished there" in command(report.main, r"report_dir=a\,b").mistake


@pytest.mark.parametrize("option", ["-m", "--multirun", "--mu"])
def test_the_report_command_takes_no_sweep(command: Command, option: str) -> None:
    done = command(report.main, option)
    assert done.mistake.startswith(f"error: {option}: there is only one report") and not list(done.folder.iterdir())


def test_the_report_command_takes_hydras_options_written_with_an_equals_sign(command: Command, tmp_path: Path) -> None:
    done = command(report.main, "--cfg=job", f"--config-dir={tmp_path}")
    assert done.code == 0 and "report_dir: report" in done.out and not done.err


@pytest.mark.parametrize(
    ("option", "extra"),
    [("sweeper/optuna", "hpo"), ("launcher/joblib", "joblib"), ("launcher/submitit_slurm", "slurm")],
)
def test_an_option_whose_plugin_is_missing_says_what_to_install(option: str, extra: str) -> None:
    error = MissingConfigException("no such file", f"hydra/{option}", ["basic"])
    message = f"hydra/{option.replace('/', '=')}: its plugin is not installed; {how_to_install(extra)}"
    assert error_message(error) == message


def test_an_extra_is_installed_from_the_clone_or_else_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clone, pip = CONF.parent, program("pip")
    monkeypatch.chdir(clone)
    assert how_to_install("onnx") == f"{pip} install -c constraints.txt -e '.[onnx]'"
    monkeypatch.chdir(tmp_path)
    assert how_to_install("onnx") == f"{pip} install -c {clone}/constraints.txt -e '{clone}[onnx]'"
    monkeypatch.setattr(extras, "__file__", str(tmp_path / "site-packages" / "genre_cls" / "extras.py"))
    assert how_to_install("onnx") == f"{pip} install 'genre_cls[onnx]'"


@given(st.text(st.one_of(st.characters(exclude_categories=["Cs", "Cc"]), st.sampled_from("'\"\\${}[],=~ 10"))))
@example("my music\\")
@example("it's \\'quoted\\\\'")
def test_hydra_reads_any_text_back_from_the_word_it_is_shown_as(text: str) -> None:
    assert OverridesParser.create().parse_override(as_word("key", text)).value() == text


class Deaf:
    """An object whose finaliser fails, which Python ignores, as it does for callbacks of weak references."""

    def __del__(self) -> None:
        raise KeyboardInterrupt


def test_an_output_that_is_closed_or_full_ends_no_command_in_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    with as_command():
        csv.writer(sys.stdout).writerow(["a"])
    if Path("/dev/full").exists():  # on Linux
        buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
        for words in ("genre_cls.train --cfg job", "genre_cls.report --help", "genre_cls.predict --help"):
            with Path("/dev/full").open("w") as full:
                command = [sys.executable, "-m", *words.split()]
                done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, env=buffered)
            assert (done.returncode, done.stderr) == (2, "error: the disk that the output goes to is full\n")


def test_an_output_beyond_a_limit_is_reported() -> None:
    assert error_message(OSError(errno.EFBIG, "File too large")) == "the output cannot be written: file too large"


@pytest.mark.parametrize(
    "raised",
    ["joblib.externals.loky.process_executor.TerminatedWorkerError", "submitit.core.utils.UncompletedJobError"],
)
def test_a_killed_job_of_a_launcher_is_reported_in_one_line(raised: str, capsys: pytest.CaptureFixture[str]) -> None:
    module, _, name = raised.rpartition(".")
    error = getattr(pytest.importorskip(module), name)
    with pytest.raises(SystemExit, match="2"), one_line_errors():
        raise error("A worker process managed by the executor\nwas unexpectedly terminated.")
    told = capsys.readouterr().err
    assert told.startswith("error: a job was killed; ") and told.endswith("the same command resumes it\n")


IN_THEIR_PLACE = """
import sys
from genre_cls.configuration.commands import as_command
from genre_cls.errors import UserError
with as_command():
    with open(sys.argv[1], "w") as file:
        assert file.fileno() > 2, file.fileno()
    sys.stderr.flush()
    print("answer")
    raise UserError("nobody reads this")
"""


@pytest.mark.parametrize("closed", ["2>&-", "<&- 2>&-", "<&- >&- 2>&-"])
def test_no_file_takes_the_place_of_a_closed_stream(closed: str, tmp_path: Path) -> None:
    words = [sys.executable, "-c", IN_THEIR_PLACE, str(tmp_path / "file")]
    done = subprocess.run(f"exec {shlex.join(words)} {closed}", shell=True, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "" if " >&-" in closed else "answer\n")


@pytest.mark.parametrize("model", [Own, Mindful])
def test_an_own_model_that_a_file_can_hold_is_taken(composed: Callable[..., DictConfig], model: type) -> None:
    check_buildable(composed(f"model._target_={__name__}.{model.__name__}"))


@pytest.mark.parametrize("in_between", [RuntimeError, ConfigCompositionException])
def test_ctrl_c_of_which_a_library_makes_another_error_is_ctrl_c(
    capsys: pytest.CaptureFixture[str], in_between: type[Exception]
) -> None:
    with pytest.raises(SystemExit) as end, as_command("!"):
        try:
            try:
                raise KeyboardInterrupt
            finally:
                raise in_between
        except in_between as error:
            raise UserError("the disk is full") from error
    assert end.value.code == 130 and capsys.readouterr().err == "interrupted!\n"


def test_ctrl_c_that_omegaconf_hides_behind_an_error_of_its_own_is_ctrl_c(capsys: pytest.CaptureFixture[str]) -> None:
    settings = OmegaConf.create({"a": 1}, flags={"struct": True})
    with pytest.raises(SystemExit) as end, as_command("!"):
        try:
            raise KeyboardInterrupt
        finally:
            settings.b  # noqa: B018
    assert end.value.code == 130 and capsys.readouterr().err == "interrupted!\n"


def test_an_error_that_hides_ctrl_c_or_causes_itself_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    def hides() -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            raise UserError("no room") from None

    def causes_itself() -> None:
        error = UserError("no room")
        raise error from error

    for fail in (hides, causes_itself):
        with pytest.raises(SystemExit) as end, as_command("!"):
            fail()
        assert end.value.code == 2 and capsys.readouterr().err == "error: no room\n"


def test_ctrl_c_that_python_drops_is_sent_again(capsys: pytest.CaptureFixture[str], heeding_ctrl_c: None) -> None:
    hook, began = sys.unraisablehook, time.monotonic()
    with pytest.raises(SystemExit) as end, as_command("!"):
        Deaf()
        time.sleep(10)
    assert time.monotonic() - began < 5
    assert end.value.code == 130 and capsys.readouterr().err == "interrupted!\n" and sys.unraisablehook is hook
