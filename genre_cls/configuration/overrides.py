"""The words of Hydra's command line: what is wrong with them, in one line, and how to write right ones."""

import difflib
import errno
import re
import shlex
import sys
from collections.abc import Iterable, Sequence
from itertools import takewhile
from pathlib import Path

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException, InstantiationException, MissingConfigException, OverrideParseException

from genre_cls.configuration.arguments import OneLineParser
from genre_cls.configuration.settings import CONF, GROUPS, RULES, Text, no_such_key
from genre_cls.errors import UserError, in_short, place_of, system_reason
from genre_cls.extras import how_to_install

SPECIAL = re.compile(r"""["$`!]|\\(?!')""")  # within double quotes
QUOTED = """put the value in quotes of its own: "key='~/my music'\""""
SEVERAL = '"{}": is more than one setting; write each without these quotes'
PLUGINS = {  # Hydra options, and the extra that installs each
    "hydra/sweeper=optuna": "hpo",
    "hydra/launcher=joblib": "joblib",
    "hydra/launcher=submitit_local": "slurm",
    "hydra/launcher=submitit_slurm": "slurm",
}


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


def typed(words: Iterable[str]) -> str:
    """Join words as one would type them in a shell: `"dataset.root='/my music'"`, where `shlex` knows single quotes."""
    return " ".join(f'"{word}"' if "'" in word and not SPECIAL.search(word) else shlex.quote(word) for word in words)


def _parsed(word: str) -> object:
    """The value that Hydra reads from a word, or the error that it raises."""
    try:
        return OverridesParser.create().parse_override(word).value()
    except HydraException as error:
        return error


def _quoted(key: str, value: str) -> str:
    return f"{key}={QuotedString(value, Quote.single).with_quotes()}"


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
