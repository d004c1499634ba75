"""The one line that reports a user's mistake, be it this package's, Hydra's or the system's error."""

import difflib
import errno
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from hydra.errors import InstantiationException, MissingConfigException, OverrideParseException

from genre_cls.configuration.overrides import SEVERAL, holds_another, quoted, typed
from genre_cls.configuration.settings import CONF, RULES, no_such_key
from genre_cls.errors import UserError, in_short, place_of, system_reason
from genre_cls.extras import how_to_install

QUOTED = """put the value in quotes of its own: "key='~/my music'\""""
UNREADABLE = "LexerNoViableAltException|mismatched input|no viable"  # what Hydra's parser says of special characters
PLUGINS = {  # Hydra options, and the extra that installs each
    "hydra/sweeper=optuna": "hpo",
    "hydra/launcher=joblib": "joblib",
    "hydra/launcher=submitit_local": "slurm",
    "hydra/launcher=submitit_slurm": "slurm",
}
GIVEN = {  # arguments that this package gives to classes and functions of one's own
    "n_genres": "; its first argument must be n_genres",
    "total_steps": "; it must be a function of an optimiser and total_steps that returns one of PyTorch's schedules",
}
LOST_JOBS = ("TerminatedWorkerError", "UncompletedJobError")  # joblib's and submitit's, which need not be installed


def error_message(error: BaseException) -> str:
    """Return the one line that reports a user's mistake."""
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {system_reason(error)}"
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "the disk that the output goes to is full"
    if isinstance(error, OSError) and error.errno in (errno.EFBIG, errno.EDQUOT):
        return f"the output cannot be written: {system_reason(error)}"
    if type(error).__name__ in LOST_JOBS:
        return "a job was killed; if memory was short, let fewer run at once; the same command resumes it"
    text = " ".join(line.strip() for line in str(error).splitlines() if not line.startswith("See https"))
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return _no_such_option(error.missing_cfg_file, error.options or [])
    # Hydra's own errors for an unnamed option, or a list nested in a list of options, say nothing useful.
    if isinstance(error, AssertionError) or text.startswith(("Config group override", "can only concatenate str")):
        return "an option is chosen by its name, as in model=deep (--help lists them)"
    if match := re.search(r"Environment variable '(\w+)' not found\W* full_key: (\S+)", text):
        return f"{match[2]}: is taken from the environment variable {match[1]}, which is not set"
    if match := re.match(r"Could not override '(.+?)'", text):
        return no_such_key(match[1])
    if match := re.match(r"Ambiguous value for argument '(.+?)' 1\.", text):
        return f"{match[1]}: several values need -m ({QUOTED}, if it is one with a comma)"
    if isinstance(error, OverrideParseException) and re.match(UNREADABLE, text):
        return _needs_quotes(error.override)
    if isinstance(error, InstantiationException) and error.__cause__:
        return _bad_argument(error.__cause__, text)
    if (match := re.match("Error merging override (.*)", text)) and error.__cause__:
        return f"{match[1]}: {str(error.__cause__).partition(chr(10))[0]}"
    match = re.match(r"(.+?) full_key: (\S+)", text)
    return f"{match[2]}: {match[1]}" if match else text


def _needs_quotes(word: str) -> str:
    key, _, value = word.partition("=")
    if holds_another(value):
        return SEVERAL.format(word)
    unclosed = any(value.count(one) > value.count(other) for one, other in ("()", "[]", "{}"))
    if unclosed and re.match(r"\w+\(|\[|{", value):  # a function, a list or a mapping, rather than a path
        return f"{word}: has a bracket that is not closed"
    if " " in key:
        return f'"{word}": has spaces around its equals sign; leave them out'
    return f"{word}: contains a character special to Hydra, so it needs quotes: {typed([quoted(key, value)])}"


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
    if place := place_of(cause):
        return f"{key}: {in_short(cause)}{place}"
    if match := re.search(r"unexpected keyword argument '(\w+)'", reason):
        removal = f"; '~{key}.{match[1]}' removes it" if f"{key}.{match[1]}" in RULES else ""
        return f"{key}: {reason}{GIVEN.get(match[1], removal)}"
    return f"{key}.{reason}" if re.match(r"\w+=", reason) else f"{key}: {reason}"
