"""What a configuration is called, what tells it apart, and where a run of it came from."""

import getpass
import inspect
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path

from hydra.conf import HydraConf
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

import genre_cls
from genre_cls.errors import in_one_line, without_credentials
from genre_cls.scoring import AXES
from genre_cls.settings import CONF, is_incidental, leaves
from genre_cls.windows import is_of_statistics

# The package as it is when this process begins; who edits it meanwhile does not change what is running.
SOURCES = {path.stem: path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("*.py")}
# Of it, what only words, draws or stores results. A new file counts until it is named here: to train once too often
# is better than to take over what the present code would not compute.
NO_EFFECT_ON_RESULTS = (
    "__main__", "app", "artifacts", "classifier", "clip_plots", "commands", "comparisons", "connection", "database",
    "die_with_parent", "download", "errors", "estimates", "evidence", "explanation", "extras", "findings", "lifeline",
    "similarity", "locks", "memory", "modelfile", "mps", "naming", "onnx_export", "onnx_model", "page", "plots",
    "predict", "prediction", "progress", "registry", "report", "served", "spool", "stored_runs", "tracking", "train",
    "files", "workers",
)  # fmt: skip
LONGEST_TITLE, LONGEST_VALUE = 80, 24  # letters


def is_part(cfg: DictConfig) -> bool:
    """Whether a job is to train one fold of a configuration, which others of its jobs make whole."""
    return cfg.fold is not None and not (cfg.inside or cfg.alone)


@dataclass(frozen=True)
class Identity:
    """A configuration's name and fingerprint.

    Args:
        named: what a reader tells it by: the three axes, then recipe, folds and every overridden value.
        params: every setting by its dotted key, for MLflow's table.
        dataset: which option of the setting `dataset` was chosen, until the data are there and have a name.
        yaml: the resolved configuration.
        fingerprint: equal for two runs that would compute the same from the same data.
        setup: equal for two runs that would differ in nothing but who trains and who is judged.
        sources: digests of the code that computes: this package's, and by each `_target_` outside of it that file's.
        code: equal for two runs of code that computes the same.
        title: in short, for a line on the terminal, MLflow's list of runs and figures: `mel deep 16 lr=0.003`.
    """

    named: Mapping[str, str]
    params: Mapping[str, str]
    dataset: str
    yaml: str
    fingerprint: str
    setup: str
    sources: Mapping[str, str]
    code: str
    title: str

    def key(self, *inputs: str) -> str:
        """Equal for two configurations whose folds may stand for each other: the same settings, code and data.

        Args:
            inputs: digest of what the data give to training, and what computes.
        """
        return digest(self.fingerprint, self.code, inputs)

    @property
    def tags(self) -> dict[str, str]:
        """MLflow tags: the identity, and where the run comes from."""
        return {
            "identity": self.fingerprint,
            "setup": self.setup,
            "sources": json.dumps(dict(self.sources)),
            "code": self.code,
            "named": json.dumps(dict(self.named)),
            "dataset": self.dataset,
            "folds": self.named["folds"],
            "version": genre_cls.__version__,
            "machine": _machine(),
            "command": command(),
            "mlflow.source.name": "genre_cls.train",
            "mlflow.source.git.commit": _git_commit(),
            "mlflow.user": _user(),
        }


def identify(cfg: DictConfig, hydra_config: HydraConf) -> Identity:
    """Name a configuration; a job that trains a part of one has the name of the whole.

    Args:
        cfg: composed.
        hydra_config: Hydra's account of the job: chosen options and overrides.
    """
    if is_part(cfg):
        cfg = cfg.copy()
        cfg.fold = None
    choices = hydra_config.runtime.choices
    named = {"features": choices["features"], "model": choices["model"], "batch_size": str(cfg.batch_size)}
    # Of several experiments Hydra knows no choice; they are named as they were asked for, among the overrides.
    named |= {group: choices[group] for group in ("recipe", "folds", "experiment") if choices.get(group)}
    overrides = dict(override.lstrip("+").split("=", 1) for override in hydra_config.overrides.task if "=" in override)
    if cfg.fold is None:
        overrides.pop("fold", None)
    named |= {
        key: without_credentials(value)
        for key, value in overrides.items()
        if key not in choices and not is_incidental(key)
    }
    settings = {key: without_credentials(_text(value)) for key, value in leaves(cfg)}
    computed = sorted((key, value) for key, value in settings.items() if not is_incidental(key))
    setup = [(key, value) for key, value in computed if not key.startswith("folds.")]
    resolved = without_credentials(OmegaConf.to_yaml(cfg, resolve=True))
    sources = _sources(value for key, value in settings.items() if key.endswith("_target_"))
    code = digest(sorted(sources.items()), version("torch").partition("+")[0])
    dataset, fingerprint = choices["dataset"], digest(computed)
    title = _title(cfg, named, {key: without_credentials(value) for key, value in overrides.items()})
    return Identity(named, named | settings, dataset, resolved, fingerprint, digest(setup), sources, code, title)


def _title(cfg: DictConfig, named: Mapping[str, str], told: Mapping[str, str]) -> str:
    """Features, model, batch size, and what else the command line tells configurations on the same data apart by.

    Args:
        cfg: composed.
        named: the three axes, among others.
        told: what the command line said, by key.
    """
    no_network = all(map(is_of_statistics, cfg.recipe.members))  # so neither model nor batch size plays a part
    axes = [named[axis] for axis in (AXES[:1] if no_network else AXES)]
    more = {key: value for key, value in told.items() if key not in (*AXES, "dataset") and not is_incidental(key)}
    last = [key.rpartition(".")[2] for key in more]
    short = {key: end if last.count(end) == 1 else key for key, end in zip(more, last, strict=True)}
    words = [_word("" if key in ("recipe", "folds", "experiment") else short[key], more[key]) for key in more]
    return _cut(" ".join([*axes, *words]), LONGEST_TITLE)


def _word(key: str, value: str) -> str:
    """A setting as one word of a title: `lr=0.003`; of a group's option the name is enough: `artist`."""
    plain = _cut(in_one_line("".join(letter for letter in value if letter not in "[]{}'\" ")), LONGEST_VALUE)
    return f"{key}={plain}" if key else plain


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def digest(*parts: object) -> str:
    """A short fingerprint of plain data."""
    return blake2b(repr(parts).encode(), digest_size=8).hexdigest()


def command() -> str:
    """The command line as a reader would type it."""
    program = "python -m genre_cls.train" if sys.argv[0].endswith("train.py") else Path(sys.argv[0]).name
    return without_credentials(typed([*program.split(), *sys.argv[1:]]))


def typed(words: Iterable[str]) -> str:
    """Words as a reader would type them in a shell: `"dataset.root='/my music'"`, where `shlex` knows single quotes."""
    special = set('"$`\\!')  # within double quotes
    return " ".join(f'"{word}"' if "'" in word and not special & set(word) else shlex.quote(word) for word in words)


def _text(value: object) -> str:
    """A value as the command line takes it."""
    return f"[{','.join(map(_text, value))}]" if isinstance(value, list) else str(value)


def _sources(targets: Iterable[str]) -> dict[str, str]:
    """Digests of the code that computes, by whose it is."""
    own = {target: digest(source) for target in sorted(targets) if (source := _source(target))}
    return {genre_cls.__name__: digest(_package())} | own


def _package() -> list[tuple[str, str]]:
    """This package's sources that a result can depend on."""
    return sorted((name, text) for name, text in SOURCES.items() if name not in NO_EFFECT_ON_RESULTS)


@cache  # as it is when this process first asks: workers keep what they have imported then
def _source(target: str) -> str:
    """Source of the file that a `_target_` is from, which may be a user's own model; empty if there is none."""
    try:
        module = inspect.getmodule(get_object(target))
        return inspect.getsource(module) if module and module.__package__ != genre_cls.__name__ else ""
    except (ImportError, OSError, TypeError):  # no such thing, which is told where it is made, or not in Python
        return ""


def _user() -> str:
    try:
        return getpass.getuser()
    except (ImportError, KeyError, OSError):  # a number without a name, as containers have
        return "unknown"


def _machine() -> str:
    return f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}"


def _git_commit() -> str:
    if CONF.parent == Path(__file__).parent:  # installed, perhaps in the midst of somebody else's repository
        return "unknown"
    git = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
