"""What values each setting may have; settings by flat keys, and what was meant by unknown ones."""

import difflib
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from genre_cls.configuration.members import VIEWS
from genre_cls.errors import UserError

PACKAGE = Path(__file__).parents[1]
CONF = PACKAGE / "conf" if (PACKAGE / "conf").is_dir() else PACKAGE.parent / "conf"  # in a wheel, in a checkout

OmegaConf.register_new_resolver("expanduser", os.path.expanduser, replace=True)  # ~ in a path that Hydra itself uses


@dataclass(frozen=True)
class Number:
    """A number in a range.

    Args:
        low: least value.
        high: greatest value.
        integer: whether it must be a whole number.
        optional: whether it may be null.
    """

    low: float
    high: float = math.inf
    integer: bool = False
    optional: bool = False

    def allows(self, value: object) -> bool:
        """Return whether the setting may have a value."""
        if value is None:
            return self.optional
        kinds = (int,) if self.integer else (int, float)
        if not isinstance(value, kinds) or isinstance(value, bool):
            return False
        return self.low <= value <= self.high and value < math.inf

    def __str__(self) -> str:
        kind = ("null or " if self.optional else "") + ("a whole number" if self.integer else "a number")
        if self.high == math.inf:
            return f"{kind}, above 0" if self.low == TINY else f"{kind}, at least {self.low:g}"
        return f"{kind} from {self.low:g} to {self.high:g}"


@dataclass(frozen=True)
class Text:
    """A string that is not empty.

    Args:
        choices: all that it may be; anything if there are none.
        optional: whether it may be null.
        longest: most characters; None for any number.
    """

    choices: tuple[str, ...] = ()
    optional: bool = False
    longest: int | None = None

    def allows(self, value: object) -> bool:
        """Return whether the setting may have a value."""
        if value is None:
            return self.optional
        if self.choices:
            return value in self.choices
        return isinstance(value, str) and 0 < len(value) <= (self.longest or math.inf)

    def __str__(self) -> str:
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        limit = f", at most {self.longest} characters" if self.longest else ""
        return f"{'null or ' if self.optional else ''}a non-empty text{limit}"


@dataclass(frozen=True)
class Several:
    """A non-empty list of some of `choices`."""

    choices: tuple[str, ...]

    def allows(self, value: object) -> bool:
        """Return whether the setting may have a value."""
        return isinstance(value, list) and bool(value) and all(item in self.choices for item in value)

    def __str__(self) -> str:
        *others, last = self.choices
        return f"a list of {', '.join(others)} or {last}, such as [{','.join(self.choices[:2])}]"


@dataclass(frozen=True)
class Switch:
    """True or false."""

    def allows(self, value: object) -> bool:
        """Return whether the setting may have a value."""
        return isinstance(value, bool)

    def __str__(self) -> str:
        return "true or false"


def at_least(low: int) -> Number:
    """Return the rule for an integer of at least `low`."""
    return Number(low, integer=True)


AXES = ("features", "model", "batch_size")  # what every configuration is named by
GROUPS = ("dataset", "features", "model", "recipe", "folds", "trainer", "tracking", "experiment")
# Groups that are passed as arguments to a class or function, which refuses unknown ones itself.
ARGUMENTS = (
    "dataset.", "features.", "model.", "folds.", "recipe.optimizer.", "recipe.schedule.", "recipe.augmentation.",
)  # fmt: skip
OPEN = ("model.", "recipe.optimizer.", "recipe.schedule.")  # those whose classes may be anybody's
TAKEN_BY_ALL = ("features.n_mfcc", "folds.k")  # what some options of a group lack, but take, and then ignore
TINY = 1e-12  # stands for "above zero"
SHARE = Number(0, 1)
SEED = Number(0, 1e9, integer=True)  # random generators stop at 2³²
RULES: Mapping[str, Number | Text | Several | Switch] = {
    "batch_size": at_least(2),  # batch normalisation needs two
    "seed": SEED,
    "max_unreadable": SHARE,
    "drop_faults": Switch(),
    "shuffle_genres": Switch(),
    "force": Switch(),
    "fold": Number(0, integer=True, optional=True),
    "inside": Switch(),
    "alone": Switch(),
    "skip_impossible": Switch(),
    "rope": SHARE,
    "cache_dir": Text(),
    "report_dir": Text(),
    "dataset.root": Text(optional=True),
    "dataset.cache_dir": Text(),
    "dataset.tracks_per_genre": at_least(2),
    "dataset.seconds": Number(1, 600),
    "dataset.sample_rate": Number(8000, 192000, integer=True),
    "dataset.crossover": SHARE,
    "dataset.seed": SEED,
    "features._target_": Text(("genre_cls.tracks.features.FeatureSpec",)),
    "features.kind": Text(("mel", "mfcc")),
    "features.sample_rate": Number(1000, 192000, integer=True),
    "features.n_fft": Number(16, 65536, integer=True),
    "features.hop_length": at_least(1),
    "features.n_mels": at_least(1),
    "features.n_mfcc": at_least(1),
    "features.f_min": Number(0),
    "features.f_max": Number(0),
    "features.top_db": Number(1, 1000),
    "recipe.epochs": at_least(1),
    "recipe.window": Number(0.1, 600),
    "recipe.overlap": Number(0, 0.95),
    "recipe.first_crop": Number(0.01, 1),
    "recipe.members": Several(VIEWS),
    "recipe.ridge": Number(0, 1e6),
    "recipe.optimizer.lr": Number(TINY),
    "recipe.optimizer.weight_decay": Number(0),
    "recipe.optimizer.fused": Switch(),
    "recipe.schedule.warmup": Number(0.01, 0.99),
    "recipe.augmentation.bin_mask": SHARE,
    "recipe.augmentation.frame_mask": SHARE,
    "recipe.augmentation.n_masks": at_least(0),
    "recipe.augmentation.mixup": Number(0),
    "recipe.augmentation.label_smoothing": Number(0, 0.99),
    "recipe.early_stopping.patience": at_least(0),
    "recipe.early_stopping.val_fraction": Number(0.01, 0.5),
    "folds.k": at_least(2),
    "folds.repeats": at_least(1),
    "folds.tolerance": SHARE,
    "folds.seed": SEED,
    "trainer.device": Text(("auto", "cpu", "cuda")),
    "trainer.precision": Text(("auto", "32-true", "bf16-mixed")),
    "trainer.threads": Number(1, 1024, integer=True),
    "trainer.workers": at_least(0),
    "trainer.graphs": Switch(),
    "tracking.uri": Text(optional=True),
    "tracking.folder": Text(),
    "tracking.experiment": Text(optional=True, longest=100),  # it names a folder
}
# Settings that say where and how a run happens, not what it computes.
INCIDENTAL = (
    "alone", "cache_dir", "report_dir", "max_unreadable", "rope", "force", "skip_impossible", "folds.tolerance",
    "dataset.root", "dataset.cache_dir", "trainer", "tracking",
)  # fmt: skip

REPORTED = ("tracking.uri", "tracking.folder", "tracking.experiment", "report_dir", "rope")  # a report's settings


def check(cfg: DictConfig) -> None:
    """Check every setting against its rule; what has none here is checked by the class that takes it.

    Args:
        cfg: the composed configuration.

    Raises:
        UserError: a value is not allowed, or nothing takes a setting.
    """
    for key, value in sorted(leaves(cfg), key=lambda leaf: "." in leaf[0]):  # groups take values from the top level
        rule = RULES.get(key)
        if rule and not rule.allows(value):
            raise UserError(f"{key}={value}{_origin(cfg, key)}: must be {rule}{_as_text(key, value, rule)}")
        if not rule and not key.startswith(ARGUMENTS):
            raise UserError(no_such_key(key))


def _origin(cfg: DictConfig, key: str) -> str:
    """Say from which environment variable a setting has its value, if it has it from one."""
    written = str(dict(leaves(cfg, resolve=False)).get(key))
    found = re.search(r"\${oc\.env:(\w+)", written)
    return f" (from {found[1]})" if found and found[1] in os.environ else ""


def _as_text(key: str, value: object, rule: object) -> str:
    """How to write a whole number, such as a year, where a text is expected."""
    is_number = isinstance(value, int) and not isinstance(value, bool)
    expected = isinstance(rule, Text) and not rule.choices
    return f"""; as text it is "{key}='{value}'\"""" if is_number and expected else ""


def is_incidental(key: str) -> bool:
    """Return whether a setting says only where or how a run happens, so that it makes no other configuration."""
    return any(key == name or key.startswith(f"{name}.") for name in INCIDENTAL)


def leaves(cfg: DictConfig, *, resolve: bool = True) -> Iterator[tuple[str, Any]]:
    """Yield every setting as (dotted key, value), resolved or not; lists are values, and so is whatever has a rule."""
    yield from _flatten(OmegaConf.to_container(without_hydra(cfg), resolve=resolve), "")


def as_yaml(cfg: DictConfig, *keys: str) -> str:
    """Return some settings, or groups of them, as resolved YAML: equal for configurations that agree in them."""
    values = {key: OmegaConf.select(cfg, key) for key in keys}
    resolved = {
        key: OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
        for key, value in values.items()
    }
    return OmegaConf.to_yaml(resolved)


def without_hydra(cfg: DictConfig) -> DictConfig:
    """Return a copy of a configuration without Hydra's own settings."""
    return OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])


def _flatten(node: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict) and prefix not in RULES:
        for key, value in node.items():
            yield from _flatten(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, node


def short_keys(keys: Sequence[str]) -> list[str]:
    """Shorten each dotted key to its last part (`a.b._target_` to `b`), unless another one would become the same."""
    last = [key.removesuffix("._target_").rpartition(".")[2] for key in keys]
    return [part if last.count(part) == 1 else key for part, key in zip(last, keys, strict=True)]


def no_such_key(key: str) -> str:
    """Return the message about a setting that does not exist, with what may have been meant."""
    group = key.rpartition(".")[0]
    by_option = _settings_by_option(group)
    if key in RULES and by_option:
        having = [option for option, settings in by_option.items() if key in settings]
        sweep = f"; where several options are swept, ++{key}=VALUE gives it to each" if key in TAKEN_BY_ALL else ""
        return f"{key}: no such setting with this option of {group}; {group}={' or '.join(having)} has it{sweep}"
    if parts := [known for known in RULES if known.startswith(f"{key}.")]:
        also = f" or {key}._target_" if f"{key}." in ARGUMENTS else ""
        return f"{key}: is a group of settings; set one of its members, such as {parts[0]}{also}"
    close = _similar(key, {setting for settings in by_option.values() for setting in settings if "._" not in setting})
    hint = f"; did you mean {' or '.join(close)}?" if close else ""
    added = f"; +{key}=VALUE passes a new argument" if key.startswith(OPEN) else ""
    listed = "hydra" if key.startswith("hydra.") else "job"
    return f"{key}: no such setting in this configuration{hint}{added} (--cfg {listed} lists them all)"


def _settings_by_option(group: str) -> dict[str, list[str]]:
    """The keys in the file of each option of a group; {} if there is no such group."""
    files = sorted((CONF / group).glob("*.yaml")) if group in GROUPS else []
    own = {file.stem: map(str, OmegaConf.load(file) or ()) for file in files}
    return {option: [f"{group}.{name}" for name in names if name != "defaults"] for option, names in own.items()}


def _similar(key: str, of_options: set[str]) -> list[str]:
    """The settings and groups that an unknown key may stand for; `of_options` are those in the files of a group."""
    known = [each for each in (*RULES, *GROUPS, *sorted(of_options - RULES.keys())) if each != key]
    same_name = [each for each in known if each.rpartition(".")[2] == key.rpartition(".")[2]]
    longer = [each for each in known if each.startswith(key) and "." in key]
    return same_name or longer or difflib.get_close_matches(key, known, n=1)
