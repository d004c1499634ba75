"""How a command tells a user's mistake in one line."""

import atexit
import difflib
import gc
import os
import re
import signal
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from itertools import takewhile
from pathlib import Path
from threading import Timer
from traceback import walk_tb
from typing import Any, NoReturn

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, InstantiationException, MissingConfigException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from genre_cls.errors import UserError, in_one_line, in_short, place_of
from genre_cls.extras import how_to_install
from genre_cls.settings import CONF, GROUPS, RULES, Text, no_such_key

AGAIN = "; the same command resumes it"  # after Ctrl-C
QUOTED = """put the value in quotes of its own: "key='~/my music'\""""
PLUGINS = {  # options of Hydra's that an extra brings
    "hydra/sweeper=optuna": "hpo",
    "hydra/launcher=joblib": "joblib",
    "hydra/launcher=submitit_local": "slurm",
    "hydra/launcher=submitit_slurm": "slurm",
}


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


def check_command_line(words: Sequence[str]) -> None:
    """Refuse what Hydra stumbles over in a command line, or tells in many lines.

    Raises:
        UserError: an option that is none, or a word that is no setting with its value.
    """
    _check_words(words)
    pairs = OneLineParser(parents=[get_args_parser()], add_help=False).parse_args(words).overrides
    if pairs and "=" not in pairs[0] and not pairs[0].startswith("~"):
        raise UserError(f"{pairs[0]}: is not KEY=VALUE")
    for place, word in enumerate(pairs):
        parts = list(takewhile(lambda other: "=" not in other, pairs[place + 1 :]))  # of its value, if it has spaces
        if word.endswith(","):
            lists = f": {''.join([word, *parts])}" if parts else ", such as features=mel,mfcc"
            raise UserError(f"{word}: ends in a comma; write lists without spaces{lists}")
        if parts and not parts[0].startswith("~"):
            raise UserError(_no_pair(word, parts))


def _check_words(words: Sequence[str]) -> None:
    """Refuse what Hydra stumbles over in the words of a command line, or takes without a word.

    Raises:
        UserError: a word that adds or deletes a setting without a name, or has dashes before one; a second experiment;
            a number of folds for the split that has none.
    """
    for word in words:
        if word[:1] in ("+", "~") and word.lstrip("+~")[:1] in ("", "="):
            raise UserError(f"{word}: names no setting; --cfg job lists them")
        name = word.lstrip("-").partition("=")[0]
        if word.startswith("-") and name in (*GROUPS, *RULES):
            raise UserError(f"{word}: settings have no dashes; write {name}=VALUE")
    number = next((word for word in words if word.lstrip("+").startswith("folds.k=")), "")
    if number and "folds=filtered" in words:
        raise UserError(f"{number}: the split of folds=filtered is fixed; leave folds.k out")
    presets = [word.partition("=")[2] for word in words if word.startswith("experiment=")]
    if len(presets) > 1:
        raise UserError(f"experiment={presets[1]}: is a second one; 'experiment=[{','.join(presets)}]' takes both")


def _no_pair(word: str, parts: Sequence[str]) -> str:
    """What is told of words without a sign between key and value, with what may be meant after a path or a name."""
    key, _, value = word.partition("=")
    told, rule = f"{parts[0]}: is not KEY=VALUE", RULES.get(key)
    if not isinstance(rule, Text) or rule.choices:
        return told
    return f'{told}; if it belongs to a value with spaces, quote it: "{_quoted(key, " ".join([value, *parts]))}"'


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
        return no_such_key(found[1])
    if found := re.match(r"Ambiguous value for argument '(.+?)' 1\.", text):
        return f"{found[1]}: several values are a sweep, which needs -m ({QUOTED}, if it is one with a comma)"
    if isinstance(error, OverrideParseException) and re.match("LexerNoViableAltException|mismatched input", text):
        return _needs_quotes(error.override)
    if isinstance(error, InstantiationException) and error.__cause__:
        return _bad_argument(error.__cause__, text)
    found = re.match(r"(.+?) full_key: (\S+)", text)
    return f"{found[2]}: {found[1]}" if found else text


def as_word(key: str, value: object) -> str:
    """A setting as Hydra takes it, quoted if Hydra would read the bare value as something else."""
    word = f"{key}={value}"
    return _quoted(key, value) if isinstance(value, str) and _parsed(word) != value else word


def _parsed(word: str) -> object:
    """The value that Hydra reads from a setting; the error if it refuses it."""
    try:
        return OverridesParser.create().parse_override(word).value()
    except HydraException as error:
        return error


def _quoted(key: str, value: str) -> str:
    escaped = re.sub(r"(\\*)(?='|$)", r"\1\1", value).replace("'", "\\'")  # backslashes count before a quote alone
    return f"{key}='{escaped}'"


def _needs_quotes(word: str) -> str:
    key, _, value = word.partition("=")
    way_out = f'so it needs quotes: "{_quoted(key, value)}"'
    return f"{word}: has a sign in it that means something to Hydra, {way_out}"


def _no_such_option(config_file: str, options: Sequence[str]) -> str:
    group, _, option = config_file.rpartition("/")
    if not group:
        return f"--config-name={option}: no such file in {CONF}"
    if extra := PLUGINS.get(f"{group}={option}"):
        return f"{group}={option}: its plugin is not installed; {how_to_install(extra)}"
    options = options or sorted(path.stem for path in (CONF / group).glob("*.yaml"))  # of one in a list Hydra has none
    return f"{group}={option}: no such option; {group} may be {', '.join(options)}"


def _not_loaded(target: str, error: BaseException) -> str:
    """Why a class cannot be had from a module that is there; empty if that is not there."""
    room, _, name = target.rpartition(".")
    if isinstance(error, SyntaxError):
        return f"{Path(error.filename or room).name}, line {error.lineno}: {error.msg}"
    if isinstance(error, ModuleNotFoundError) and error.name == target and room in sys.modules:
        close = difflib.get_close_matches(name, vars(sys.modules[room]))
        return f"{room} has no {name}" + (f"; did you mean {' or '.join(close)}?" if close else "")
    place = place_of(error)
    return in_short(error) + place if place else ""


def _bad_argument(cause: BaseException, text: str) -> str:
    reason = " ".join(str(cause).split())
    if isinstance(cause, UserError):
        return reason
    key = text.rpartition("full_key: ")[2]
    if (found := re.match("Error loading '(.+?)'", reason)) and cause.__cause__:
        return f"{key}: {_not_loaded(found[1], cause.__cause__) or reason}"
    return f"{key}.{reason}" if re.match(r"\w+=", reason) else f"{key}: {reason}"
