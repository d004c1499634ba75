"""How commands report users' mistakes: one line on stderr, before any work where possible."""

import atexit
import difflib
import errno
import gc
import os
import re
import signal
import sys
from argparse import ArgumentParser, ArgumentTypeError
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

from genre_cls.errors import UserError, in_short, place_of, system_reason
from genre_cls.extras import how_to_install
from genre_cls.interrupts import came_of_ctrl_c, terminated_likewise
from genre_cls.provenance import typed
from genre_cls.settings import CONF, GROUPS, RULES, Number, Text, no_such_key

AGAIN = "; the same command resumes it"  # after Ctrl-C
QUOTED = """put the value in quotes of its own: "key='~/my music'\""""
SEVERAL = '"{}": is more than one setting; write each without these quotes'
PLUGINS = {  # Hydra options, and the extra that installs each
    "hydra/sweeper=optuna": "hpo",
    "hydra/launcher=joblib": "joblib",
    "hydra/launcher=submitit_local": "slurm",
    "hydra/launcher=submitit_slurm": "slurm",
}


@contextmanager
def as_command(interrupted: str = "") -> Iterator[None]:
    """Prepare this process for a command, which the block runs with `one_line_errors`.

    Args:
        interrupted: as for `one_line_errors`.

    Raises:
        SystemExit: as there.
    """
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # let Hydra raise instead of printing
    atexit.register(gc.freeze)  # skip the final garbage collection at exit, which takes seconds
    before, sys.unraisablehook = sys.unraisablehook, _raising_ctrl_c_again(sys.unraisablehook)
    _open_closed_streams()
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # for terminals without ±
    try:
        with terminated_likewise(), one_line_errors(interrupted):
            yield
    finally:
        sys.unraisablehook = before


@contextmanager
def one_line_errors(interrupted: str = "") -> Iterator[None]:
    """Report a user's mistake in one line on stderr and exit with code 2; other exceptions pass through.

    Args:
        interrupted: added to the message after Ctrl-C.

    Raises:
        SystemExit: with code 2 after a mistake, 130 after Ctrl-C or SIGTERM, 1 if nobody reads the output any more.
    """
    try:
        yield
    except BrokenPipeError:  # the reader of the output, such as head, has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except (Exception, KeyboardInterrupt) as error:
        if came_of_ctrl_c(error):
            print(f"interrupted{interrupted}", file=sys.stderr)
            raise SystemExit(130) from None
        if not _is_users(error):
            raise
        print(f"error: {UserError(error_message(error))}", file=sys.stderr)
        raise SystemExit(2) from None


def _open_closed_streams() -> None:
    """Give closed streams, as some daemons leave them, a sink: the next files opened would take their place."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(descriptor, "w"))


def find_modules_here() -> None:
    """Let own models be imported from the current folder, as `python -m` does and a console script does not."""
    if "" not in sys.path:
        sys.path.append("")


Hook = Callable[["sys.UnraisableHookArgs"], Any]


def _raising_ctrl_c_again(hook: Hook) -> Hook:
    """Send Ctrl-C again where Python drops the exception: in callbacks such as those of weak references."""

    def handle(dropped: "sys.UnraisableHookArgs") -> None:
        if issubclass(dropped.exc_type, KeyboardInterrupt):
            # A signal wakes a main thread that sleeps or waits, which `_thread.interrupt_main` does not.
            Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
        else:
            hook(dropped)

    return handle


def _is_users(error: BaseException) -> bool:
    """Whether an exception is due to a user's mistake; Hydra raises built-in ones, too."""
    (*_, (frame, _)) = walk_tb(error.__traceback__)
    module = str(frame.f_globals.get("__name__", ""))
    of_hydra = isinstance(error, (AssertionError, TypeError, ValueError)) and module.startswith("hydra.")
    return of_hydra or isinstance(error, (UserError, HydraException, OmegaConfBaseException, YAMLError, OSError))


class OneLineParser(ArgumentParser):
    """An argument parser that raises `UserError` instead of exiting."""

    def error(self, message: str) -> NoReturn:
        """Raise a wrong argument as a user's mistake."""
        raise UserError(f"{message} (see --help)")

    def add_model(self, help: str) -> None:
        """Add the options that choose a model: `--model`, which defaults to `best`, `--tracking` and `--trust`.

        Args:
            help: on `--model`.
        """
        take = self.add_argument
        take("--model", type=nonempty, default="best", help=help)
        take("--tracking", default="mlruns", metavar="FOLDER|ADDRESS", help="tracking store (default: mlruns)")
        take("--trust", action="store_true", help="let a model file name any class, which may run any code here")


def nonempty(text: str) -> str:
    """Return an argument that is a name, unless it is empty, such as from an unset variable of the shell."""
    if not text:
        raise ArgumentTypeError("an empty name")
    return text


def whole_number(rule: Number) -> Callable[[str], int]:
    """Return how an argument is read that is a whole number under a rule."""

    def read(text: str) -> int:
        if not (text.isdecimal() and rule.allows(int(text))):
            raise ArgumentTypeError(f"{text}: must be {rule}")
        return int(text)

    return read


def check_command_line(words: Sequence[str]) -> None:
    """Refuse command lines that Hydra fails on or reports in many lines.

    Args:
        words: of the command line, without the program.

    Raises:
        UserError: an unknown option, or a word that is not KEY=VALUE.
    """
    _check_words(words)
    pairs = OneLineParser(parents=[get_args_parser()], add_help=False).parse_args(words).overrides
    if pairs and "=" not in pairs[0] and not pairs[0].startswith("~"):
        raise UserError(f"{pairs[0]}: is not KEY=VALUE")
    for index, word in enumerate(pairs):
        parts = list(takewhile(lambda other: "=" not in other, pairs[index + 1 :]))  # rest of a value with spaces
        if word.endswith(","):
            lists = f": {''.join([word, *parts])}" if parts else ", such as features=mel,mfcc"
            raise UserError(f"{word}: ends in a comma; write lists without spaces{lists}")
        if parts and not parts[0].startswith("~"):
            raise UserError(_no_pair(word, parts))


def _check_words(words: Sequence[str]) -> None:
    """Refuse words that Hydra fails on, or silently accepts.

    Raises:
        UserError: a word that adds or deletes a setting without a name, or has dashes before one; a list, a folder or a
            number for an option; a second experiment; a number of folds for the split that is fixed.
    """
    for word in words:
        if word[:1] in ("+", "~") and word.lstrip("+~")[:1] in ("", "="):
            raise UserError(f"{word}: names no setting; --cfg job lists them")
        name, _, value = word.lstrip("+-").partition("=")
        if word.startswith("-") and (key := name.replace("-", "_")) in (*GROUPS, *RULES):
            raise UserError(f"{word}: settings have no dashes; write {key}={value or 'VALUE'}")
        if name in GROUPS and name != "experiment":
            _check_option(name, value)
    n_folds = next((word for word in words if word.lstrip("+").startswith("folds.k=")), "")
    if n_folds and "folds=filtered" in words:
        raise UserError(f"{n_folds}: the split of folds=filtered is fixed; leave folds.k out")
    presets = [word.partition("=")[2] for word in words if word.startswith("experiment=")]
    if len(presets) > 1:
        each = dict.fromkeys(name for preset in presets for name in preset.strip("[]").split(","))
        raise UserError(f"experiment={presets[1]}: is a second one; 'experiment=[{','.join(each)}]' takes both")


def _check_option(group: str, value: str) -> None:
    """Refuse what cannot be the name of a group's option, but may be taken for one."""
    if value.startswith("[") and group in ("dataset", "features", "model"):  # whose choice names a run
        raise UserError(f"{group}={value}: takes one option; -m {group}={value.strip('[]')} compares several")
    if _holds_another(value):
        raise UserError(SEVERAL.format(f"{group}={value}"))
    if value.startswith(("/", "~", "./", "../")):
        hint = f"write dataset=folder {typed([as_word('dataset.root', value)])}"
        raise UserError(
            f"{group}={value}: no name of an option" + (f"; for a folder {hint}" if group == "dataset" else "")
        )
    if group == "folds" and value.isdecimal():
        raise UserError(
            f"folds={value}: the number of folds is folds.k={value}; folds=random and others are ways to split"
        )


def _holds_another(value: str) -> bool:
    """Whether a value goes on with another setting, as in `mel model=deep`."""
    return any(key in GROUPS or key in RULES for key in re.findall(r"\s([\w.]+)=", value))


def _no_pair(word: str, parts: Sequence[str]) -> str:
    """The message for words without `=`, with a hint to quote them where they may belong to the value before."""
    key, _, value = word.partition("=")
    reason, rule = f"{parts[0]}: is not KEY=VALUE", RULES.get(key)
    if not isinstance(rule, Text) or rule.choices:
        return reason
    quoted = typed([_quoted(key, " ".join([value, *parts]))])
    return f"{reason}; if it belongs to a value with spaces, quote it: {quoted}"


def error_message(error: BaseException) -> str:
    """Return the one line that reports a user's mistake."""
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {system_reason(error)}"
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "the disk that the output goes to is full"
    text = " ".join(line.strip() for line in str(error).splitlines() if not line.startswith("See https"))
    if isinstance(error, MissingConfigException):
        return _no_such_option(str(error.missing_cfg_file), error.options or [])
    # Hydra's own errors for an unnamed option, or a list nested in a list of options, say nothing useful.
    if isinstance(error, AssertionError) or text.startswith(("Config group override", "can only concatenate str")):
        return "an option is chosen by its name, as in model=deep (--help lists them)"
    if match := re.search(r"Environment variable '(\w+)' not found\W* full_key: (\S+)", text):
        return f"{match[2]}: is taken from the environment variable {match[1]}, which is not set"
    if match := re.match(r"Could not override '(.+?)'", text):
        return no_such_key(match[1])
    if match := re.match(r"Ambiguous value for argument '(.+?)' 1\.", text):
        return f"{match[1]}: several values need -m ({QUOTED}, if it is one with a comma)"
    if isinstance(error, OverrideParseException) and re.match("LexerNoViableAltException|mismatched input", text):
        return _needs_quotes(error.override)
    if isinstance(error, InstantiationException) and error.__cause__:
        return _bad_argument(error.__cause__, text)
    match = re.match(r"(.+?) full_key: (\S+)", text)
    return f"{match[2]}: {match[1]}" if match else text


def as_word(key: str, value: object) -> str:
    """Return a setting as a word of the command line, quoted if Hydra would read the bare value as something else."""
    word = f"{key}={value}"
    return _quoted(key, value) if isinstance(value, str) and _parsed(word) != value else word


def _parsed(word: str) -> object:
    """The value that Hydra reads from a word, or the error that it raises."""
    try:
        return OverridesParser.create().parse_override(word).value()
    except HydraException as error:
        return error


def _quoted(key: str, value: str) -> str:
    escaped = re.sub(r"(\\*)(?='|$)", r"\1\1", value).replace("'", "\\'")  # backslashes count before a quote alone
    return f"{key}='{escaped}'"


def _needs_quotes(word: str) -> str:
    key, _, value = word.partition("=")
    if _holds_another(value):
        return SEVERAL.format(word)
    if " " in key:
        return f'"{word}": has spaces around its equals sign; leave them out'
    return f"{word}: contains a character special to Hydra, so it needs quotes: {typed([_quoted(key, value)])}"


def _no_such_option(config_file: str, options: Sequence[str]) -> str:
    group, _, option = config_file.rpartition("/")
    if not group:
        return f"--config-name={option}: no such file in {CONF}"
    if extra := PLUGINS.get(f"{group}={option}"):
        return f"{group}={option}: its plugin is not installed; {how_to_install(extra)}"
    options = options or sorted(path.stem for path in (CONF / group).glob("*.yaml"))  # for lists Hydra gives none
    return f"{group}={option}: no such option; {group} may be {', '.join(options)}"


def _not_loaded(target: str, error: BaseException) -> str:
    """Why a class cannot be loaded from an existing module; empty if there is no such module."""
    module, _, name = target.rpartition(".")
    if isinstance(error, SyntaxError):
        return f"{Path(error.filename or module).name}, line {error.lineno}: {error.msg}"
    if isinstance(error, ModuleNotFoundError) and error.name == target and module in sys.modules:
        close = difflib.get_close_matches(name, vars(sys.modules[module]))
        return f"{module} has no {name}" + (f"; did you mean {' or '.join(close)}?" if close else "")
    place = place_of(error)
    return in_short(error) + place if place else ""


def _bad_argument(cause: BaseException, text: str) -> str:
    reason = " ".join(str(cause).split())
    if isinstance(cause, UserError):
        return reason
    if isinstance(cause, OSError):
        return error_message(cause)
    key = text.rpartition("full_key: ")[2]
    if (match := re.match("Error loading '(.+?)'", reason)) and cause.__cause__:
        hint = "" if "." in match[1] else "; write module.Class, such as mine.Net for the class Net in mine.py"
        return f"{key}: {_not_loaded(match[1], cause.__cause__) or reason}{hint}"
    if match := re.search(r"unexpected keyword argument '(\w+)'", reason):
        hint = f"; '~{key}.{match[1]}' removes it" if f"{key}.{match[1]}" in RULES else ""
        hint = "; its first argument must be n_genres" if match[1] == "n_genres" else hint
        return f"{key}: {reason}{hint}"
    return f"{key}.{reason}" if re.match(r"\w+=", reason) else f"{key}: {reason}"
