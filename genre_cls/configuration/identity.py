"""What a configuration is called, and what makes it the same as another or a different one."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import cast

from hydra.conf import HydraConf, RuntimeConf
from omegaconf import DictConfig, OmegaConf

from genre_cls.configuration.members import is_of_statistics
from genre_cls.configuration.provenance import provenance
from genre_cls.configuration.settings import AXES, is_incidental, leaves, short_keys
from genre_cls.configuration.sources import digest, digests
from genre_cls.errors import in_one_line, without_credentials

NAMING = ("recipe", "folds", "experiment")  # groups whose options name a configuration, after the axes
LONGEST_TITLE, LONGEST_VALUE = 80, 24  # characters


def is_part(cfg: DictConfig) -> bool:
    """Return whether a job trains one fold of a configuration whose other folds are jobs of their own."""
    return cfg.fold is not None and not (cfg.inside or cfg.alone)


@dataclass(frozen=True)
class Identity:
    """A configuration's name and fingerprint.

    Args:
        named: the settings that readers see: the three axes, then recipe, folds, a preset that sets what results depend
            on, and every overridden value.
        params: every setting by its dotted key, for MLflow's table.
        dataset: the chosen option of the setting `dataset`; once the data are loaded, the dataset's name.
        yaml: the resolved configuration.
        fingerprint: equal for two runs that compute the same from the same data.
        setup: equal for two runs that differ at most in which tracks train and which test.
        sources: digests of the code that computes: this package's, and of the file of each `_target_` outside of it.
        code: equal for two runs of code that computes the same.
        title: short name for the terminal, MLflow's list of runs and figures: `mel deep 16 lr=0.003`.
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
        """Return the resume key, equal for two configurations whose folds are interchangeable.

        Args:
            inputs: digest of the training's inputs, and how they are computed with.
        """
        return digest(self.fingerprint, self.code, inputs)

    @property
    def tags(self) -> dict[str, str]:
        """MLflow tags: the identity and the provenance."""
        return {
            "identity": self.fingerprint,
            "setup": self.setup,
            "sources": json.dumps(dict(self.sources)),
            "named": json.dumps(dict(self.named)),
            "dataset": self.dataset,
            "folds": self.named["folds"],
            **provenance(),
        }


def identify(cfg: DictConfig, hydra_config: HydraConf) -> Identity:
    """Identify a configuration; a job that trains one of its folds has the identity of all.

    Args:
        cfg: the composed configuration.
        hydra_config: Hydra's own settings of the job, with the chosen options and the overrides.
    """
    if is_part(cfg):
        cfg = cfg.copy()
        cfg.fold = None
    choices, overrides = hydra_config.runtime.choices, _overrides(hydra_config)
    if cfg.fold is None:
        overrides.pop("fold", None)
    named = _named(cfg, hydra_config.runtime, overrides)
    settings = {key: without_credentials(_text(value)) for key, value in leaves(cfg)}
    computed = sorted((key, value) for key, value in settings.items() if not is_incidental(key))
    sources = digests(value for key, value in settings.items() if key.endswith("_target_"))
    return Identity(
        named=named,
        params=named | settings,
        dataset=choices["dataset"],
        yaml=without_credentials(OmegaConf.to_yaml(cfg, resolve=True)),
        fingerprint=digest(computed),
        setup=digest([(key, value) for key, value in computed if not key.startswith("folds.")]),
        sources=sources,
        code=digest(sorted(sources.items()), version("torch").partition("+")[0]),
        title=_title(cfg, named, overrides),
    )


def _overrides(hydra_config: HydraConf) -> dict[str, str]:
    """Return what the command line sets, by key, as it was typed, without passwords."""
    words = [word for word in hydra_config.overrides.task if "=" in word and not word.startswith("~")]
    pairs = (word.lstrip("+").split("=", 1) for word in words)
    return {key: without_credentials(value) for key, value in pairs}


def _named(cfg: DictConfig, runtime: RuntimeConf, overrides: Mapping[str, str]) -> dict[str, str]:
    """Return the settings that name a configuration (`Identity.named`)."""
    choices = dict(runtime.choices)
    if (preset := choices.get("experiment")) and not _sets_results(preset, runtime):
        choices["experiment"] = None
    named = {"features": choices["features"], "model": choices["model"], "batch_size": str(cfg.batch_size)}
    # Of several experiments Hydra records no choice; they are named among the overrides, as they were typed.
    named |= {group: choices[group] for group in NAMING if choices.get(group)}
    return named | {key: value for key, value in overrides.items() if key not in choices and not is_incidental(key)}


def _sets_results(preset: str, runtime: RuntimeConf) -> bool:
    """Whether a preset itself sets what results depend on, and not only which configurations a command compares."""
    folders = [Path(source.path) / "experiment" for source in runtime.config_sources if source.schema == "file"]
    for path in (folder / f"{preset}.yaml" for folder in folders):
        if path.exists():
            own = cast(DictConfig, OmegaConf.load(path))
            others = [each for each in own.pop("defaults", []) if isinstance(each, str) and each != "_self_"]
            return bool(others) or not all(is_incidental(key) for key, _ in leaves(own, resolve=False))
    return True


def _title(cfg: DictConfig, named: Mapping[str, str], overrides: Mapping[str, str]) -> str:
    """Return the axes, and what else the command line set that distinguishes configurations on the same data.

    Args:
        cfg: the composed configuration.
        named: the three axes, among others.
        overrides: the command line's, by key.
    """
    no_network = all(map(is_of_statistics, cfg.recipe.members))  # so neither model nor batch size matters
    axes = [named[axis] for axis in (AXES[:1] if no_network else AXES)]
    if cfg.fold is not None:  # before what may be cut off, as a search's trials and its winner differ in it alone
        axes += [f"fold={cfg.fold}", *(["inside=true"] if cfg.inside else [])]
    shown = [key for key in overrides if key not in (*AXES, "dataset", "fold", "inside") and not is_incidental(key)]
    more = {key: overrides[key] for key in shown if key in named or key not in NAMING}
    short = dict(zip(more, short_keys(list(more)), strict=True))
    short |= dict.fromkeys(NAMING, "")  # of a group's option the name is enough
    return _cut(" ".join([*axes, *(_word(short[key], value) for key, value in more.items())]), LONGEST_TITLE)


def _word(key: str, value: str) -> str:
    """Return a setting as one word of a title: `lr=0.003`, or `artist` without a key."""
    plain = _cut(in_one_line("".join(letter for letter in value if letter not in "[]{}'\" ")), LONGEST_VALUE)
    return f"{key}={plain}" if key else plain


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _text(value: object) -> str:
    """Return a value as the command line takes it; 5 and 5.0 are one."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        value = int(value)
    return f"[{','.join(map(_text, value))}]" if isinstance(value, list) else str(value)
