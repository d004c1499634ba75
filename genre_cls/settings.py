"""What every setting may be, and how a wrong one is told in one line."""

import atexit
import difflib
import gc
import math
import os
import re
import signal
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from threading import Timer
from traceback import walk_tb
from typing import Any, NoReturn

from hydra.errors import HydraException, InstantiationException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from genre_cls.errors import UserError, in_one_line
from genre_cls.extras import how_to_install
from genre_cls.windows import VIEWS

HERE = Path(__file__).parent
CONF = HERE / "conf" if (HERE / "conf").is_dir() else HERE.parent / "conf"  # in a wheel, in a checkout

OmegaConf.register_new_resolver("at_home", os.path.expanduser, replace=True)  # ~ in a path that Hydra itself uses


@dataclass(frozen=True)
class Number:
    """A number in a range."""

    low: float
    high: float = math.inf
    whole: bool = False
    optional: bool = False

    def allows(self, value: object) -> bool:
        """Whether a value is one of them."""
        if value is None:
            return self.optional
        kinds = (int,) if self.whole else (int, float)
        if not isinstance(value, kinds) or isinstance(value, bool):
            return False
        return self.low <= value <= self.high and value < math.inf

    def __str__(self) -> str:
        kind = ("null or " if self.optional else "") + ("a whole number" if self.whole else "a number")
        if self.high == math.inf:
            return f"{kind}, at least {self.low:g}"
        return f"{kind} from {self.low:g} to {self.high:g}"


@dataclass(frozen=True)
class Text:
    """A text, of a few if they are named; it may be empty, or nothing, where that is allowed."""

    choices: tuple[str, ...] = ()
    optional: bool = False
    empty: bool = False

    def allows(self, value: object) -> bool:
        """Whether a value is one of them."""
        if value is None:
            return self.optional
        if self.choices or not isinstance(value, str):
            return value in self.choices
        return bool(value) or self.empty

    def __str__(self) -> str:
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        return "a text" if self.empty else "a text that is not empty"


@dataclass(frozen=True)
class Several:
    """A list, not empty, of texts of a few."""

    choices: tuple[str, ...]

    def allows(self, value: object) -> bool:
        """Whether a value is one of them."""
        return isinstance(value, list) and bool(value) and all(item in self.choices for item in value)

    def __str__(self) -> str:
        *others, last = self.choices
        return f"a list of {', '.join(others)} or {last}, such as [{','.join(self.choices[:2])}]"


@dataclass(frozen=True)
class Switch:
    """True or false."""

    def allows(self, value: object) -> bool:
        """Whether a value is one of them."""
        return isinstance(value, bool)

    def __str__(self) -> str:
        return "true or false"


def at_least(low: int) -> Number:
    """Whole numbers from `low` on."""
    return Number(low, whole=True)


GROUPS = ("dataset", "features", "model", "recipe", "folds", "trainer", "tracking", "experiment")
# What is handed to a class or a function as arguments, which refuses those that it does not know.
ARGUMENTS = (
    "dataset.",
    "features.",
    "model.",
    "folds.",
    "recipe.optimizer.",
    "recipe.schedule.",
    "recipe.augmentation.",
)
PLUGINS = {  # options of Hydra's that an extra brings
    "hydra/sweeper=optuna": "hpo",
    "hydra/launcher=joblib": "joblib",
    "hydra/launcher=submitit_local": "slurm",
    "hydra/launcher=submitit_slurm": "slurm",
}
TINY = 1e-12  # stands for "above zero"
SHARE = Number(0, 1)
SEED = Number(0, 1e9, whole=True)  # random generators stop at 2³²
RULES: Mapping[str, Number | Text | Several | Switch] = {
    "batch_size": at_least(2),  # batch normalisation needs two
    "seed": SEED,
    "max_unreadable": SHARE,
    "drop_faults": Switch(),
    "shuffle_genres": Switch(),
    "force": Switch(),
    "fold": Number(0, whole=True, optional=True),
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
    "dataset.sample_rate": Number(8000, 192000, whole=True),
    "dataset.crossover": SHARE,
    "dataset.seed": SEED,
    "features._target_": Text(("genre_cls.features.FeatureSpec",)),
    "features.kind": Text(("mel", "mfcc")),
    "features.sample_rate": Number(1000, 192000, whole=True),
    "features.n_fft": Number(16, 65536, whole=True),
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
    "recipe.optimizer.lr": Number(TINY),
    "recipe.optimizer.weight_decay": Number(0),
    "recipe.optimizer.fused": Switch(),
    "recipe.schedule.warmup": Number(0.01, 0.99),
    "recipe.augmentation.bin_shift": at_least(0),
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
    "trainer.device": Text(("auto", "cpu", "cuda", "mps")),
    "trainer.precision": Text(("auto", "32-true", "bf16-mixed")),
    "trainer.threads": at_least(1),
    "trainer.workers": at_least(0),
    "tracking.uri": Text(empty=True),
    "tracking.folder": Text(),
    "tracking.experiment": Text(optional=True),
}
# Settings that say where and how a run happens but not what it computes.
INCIDENTAL = (
    "alone", "cache_dir", "report_dir", "max_unreadable", "rope", "force", "skip_impossible",
    "dataset.root", "dataset.cache_dir", "trainer", "tracking",
)  # fmt: skip


def check(cfg: DictConfig) -> None:
    """Hold every setting against its rule; what has none here is judged by the class that takes it.

    Args:
        cfg: the composed configuration.

    Raises:
        UserError: a value is not allowed, or a setting is one that nothing would take.
    """
    for key, value in sorted(leaves(cfg), key=lambda leaf: "." in leaf[0]):  # groups take values from the top level
        rule = RULES.get(key)
        if rule and not rule.allows(value):
            raise UserError(f"{key}={value}: must be {rule}")
        if not rule and not key.startswith(ARGUMENTS):
            raise UserError(_no_such_key(key))


def check_words(words: Sequence[str]) -> None:
    """Refuse what Hydra stumbles over in the words of a command line, or takes without a word.

    Raises:
        UserError: a word that adds or deletes a setting without a name, or has dashes before one; a second experiment.
    """
    for word in words:
        if word[:1] in ("+", "~") and word.lstrip("+~")[:1] in ("", "="):
            raise UserError(f"{word}: names no setting; --cfg job lists them")
        name = word.lstrip("-").partition("=")[0]
        if word.startswith("-") and name in (*GROUPS, *RULES):
            raise UserError(f"{word}: settings have no dashes; write {name}=VALUE")
    presets = [word.partition("=")[2] for word in words if word.startswith("experiment=")]
    if len(presets) > 1:
        raise UserError(f"experiment={presets[1]}: is a second one; 'experiment=[{','.join(presets)}]' takes both")


def is_incidental(key: str) -> bool:
    """Whether a setting says where or how a run happens, so that configurations do not differ by it."""
    return any(key == name or key.startswith(f"{name}.") for name in INCIDENTAL)


def leaves(cfg: DictConfig) -> Iterator[tuple[str, Any]]:
    """Every setting as (dotted key, resolved value); lists are values."""
    yield from _flatten(OmegaConf.to_container(without_hydra(cfg), resolve=True), "")


def without_hydra(cfg: DictConfig) -> DictConfig:
    """A configuration's own settings, in a copy."""
    return OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])


def _flatten(node: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _flatten(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, node


@contextmanager
def one_line_errors(interrupted: str = "") -> Iterator[None]:
    """Tell a user's mistake in one line on stderr and exit with code 2; anything else goes on as it is.

    Args:
        interrupted: what else is to be said after Ctrl-C.
    """
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # let Hydra raise instead of printing
    atexit.register(gc.freeze)  # skip the final garbage collection at exit, which takes seconds
    before, sys.unraisablehook = sys.unraisablehook, _never_lost(sys.unraisablehook)
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal without ± is no mistake
    try:
        yield
    except BrokenPipeError:  # whoever read the output, head say, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except Exception as error:
        if not _is_users(error):
            raise
        print(f"error: {in_one_line(error_message(error))}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print(f"interrupted{interrupted}", file=sys.stderr)
        raise SystemExit(130) from None
    finally:
        sys.unraisablehook = before


def _never_lost(told: Callable[["sys.UnraisableHookArgs"], Any]) -> Callable[["sys.UnraisableHookArgs"], Any]:
    """Have Ctrl-C come again where Python drops it: in what it calls itself, such as weak references' callbacks."""

    def tell(dropped: "sys.UnraisableHookArgs") -> None:
        if issubclass(dropped.exc_type, KeyboardInterrupt):
            # A signal wakes a main thread that sleeps or waits, which `_thread.interrupt_main` does not.
            Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
        else:
            told(dropped)

    return tell


def _is_users(error: Exception) -> bool:
    """Whether an exception tells of a user's mistake; Hydra raises bare ones, too."""
    (*_, (frame, _)) = walk_tb(error.__traceback__)
    room = str(frame.f_globals.get("__name__", ""))
    of_hydra = isinstance(error, (AssertionError, TypeError, ValueError)) and room.startswith("hydra.")
    return of_hydra or isinstance(error, (UserError, HydraException, OmegaConfBaseException, YAMLError, OSError))


class OneLineParser(ArgumentParser):
    """A parser to whom a wrong argument is a user's mistake."""

    def error(self, message: str) -> NoReturn:
        """Tell it as such."""
        raise UserError(f"{message} (--help says more)")

    def add_model(self, help: str) -> None:
        """Take what says which model to use: `--model`, which defaults to `best`, `--tracking` and `--trust`."""
        take = self.add_argument
        take("--model", default="best", help=help)
        take("--tracking", default="mlruns", metavar="FOLDER|ADDRESS", help="tracking store (default: mlruns)")
        take("--trust", action="store_true", help="let a model file name any class, which may run any code here")


def error_message(error: Exception) -> str:
    """The one line for a user's mistake."""
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    text = " ".join(line.strip() for line in str(error).splitlines() if not line.startswith("See https"))
    if isinstance(error, MissingConfigException):
        return _no_such_option(str(error.missing_cfg_file), error.options or [])
    # Hydra's own errors for an unnamed option, or a list nested in a list of options, say nothing useful.
    if isinstance(error, AssertionError) or text.startswith(("Config group override", "can only concatenate str")):
        return "an option is chosen by its name, as in model=deep (--help lists them)"
    if found := re.search(r"Environment variable '(\w+)' not found\W* full_key: (\S+)", text):
        return f"{found[2]}: is taken from the environment variable {found[1]}, which is not set"
    if found := re.match(r"Could not override '(.+?)'", text):
        return _no_such_key(found[1])
    if found := re.match(r"Ambiguous value for argument '(.+?)' 1\.", text):
        return f"{found[1]}: several values are a sweep, which needs -m ({QUOTED}, if it is one with a comma)"
    if isinstance(error, OverrideParseException) and re.match("LexerNoViableAltException|mismatched input", text):
        return _needs_quotes(error.override)
    if isinstance(error, InstantiationException) and error.__cause__:
        return _bad_argument(error.__cause__, text)
    found = re.match(r"(.+?) full_key: (\S+)", text)
    return f"{found[2]}: {found[1]}" if found else text


AGAIN = "; the same command resumes it"  # after Ctrl-C
QUOTED = """put the value in quotes of its own: "key='~/my music'\""""


def _needs_quotes(word: str) -> str:
    key, equals, value = word.partition("=")
    quoted = value.replace("'", "\\'")
    way = f"so it needs quotes: \"{key}='{quoted}'\"" if equals else "and is no KEY=VALUE"
    return f"{word}: has a sign in it that means something to Hydra, {way}"


def _no_such_option(config_file: str, options: Sequence[str]) -> str:
    group, _, option = config_file.rpartition("/")
    if not group:
        return f"--config-name={option}: no such file in {CONF}"
    if extra := PLUGINS.get(f"{group}={option}"):
        return f"{group}={option}: its plugin is not installed; {how_to_install(extra)}"
    options = options or sorted(path.stem for path in (CONF / group).glob("*.yaml"))  # of one in a list Hydra has none
    return f"{group}={option}: no such option; {group} may be {', '.join(options)}"


def _no_such_key(key: str) -> str:
    group, _, name = key.rpartition(".")
    if key in RULES and group in GROUPS:
        own = [path.stem for path in sorted((CONF / group).glob("*.yaml")) if name in (OmegaConf.load(path) or {})]
        return f"{key}: no such setting with this option of {group}; {group}={' or '.join(own)} has it"
    others = [known for known in (*RULES, *GROUPS) if known != key]
    same_name = [known for known in others if known.rpartition(".")[2] == name]
    close = same_name or difflib.get_close_matches(key, others, n=1)
    hint = f"; did you mean {' or '.join(close)}?" if close else ""
    return f"{key}: no such setting in this configuration{hint} (--cfg job lists them all)"


def _bad_argument(cause: BaseException, text: str) -> str:
    reason = " ".join(str(cause).split())
    if isinstance(cause, UserError):
        return reason
    key = text.rpartition("full_key: ")[2]
    return f"{key}.{reason}" if re.match(r"\w+=", reason) else f"{key}: {reason}"
