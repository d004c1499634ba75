"""The words of Hydra's command line: what is wrong with them, in one line, and how to write right ones."""

import re
import shlex
from collections.abc import Iterable, Sequence
from itertools import takewhile

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException

from genre_cls.configuration.arguments import OneLineParser
from genre_cls.configuration.settings import GROUPS, RULES, Text
from genre_cls.errors import UserError

SPECIAL = re.compile(r"""["$`!]|\\(?!')""")  # within double quotes
SEVERAL = '"{}": is more than one setting; write each without these quotes'


def check_command_line(words: Sequence[str]) -> None:
    """Refuse command lines that Hydra fails on or reports in many lines.

    Args:
        words: of the command line, without the program.

    Raises:
        UserError: an unknown option, or a word that is not KEY=VALUE.
    """
    for word in words:
        _check_word(word)
    _check_folds(words)
    _check_experiments(words)
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


def key_of(word: str) -> str:
    """Return the setting that a word sets, adds (`+KEY=VALUE`) or deletes (`~KEY`)."""
    return word.lstrip("+~").partition("=")[0]


def _check_word(word: str) -> None:
    """Refuse a word that names no setting, has dashes before one, leaves a group out, or chooses no option of it."""
    if word[:1] in ("+", "~") and not key_of(word):
        raise UserError(f"{word}: names no setting; --cfg job lists them")
    name, _, value = word.lstrip("+-~").partition("=")
    if word.startswith("-") and (key := name.replace("-", "_")) in (*GROUPS, *RULES):
        raise UserError(f"{word}: settings have no dashes; write {key}={value or 'VALUE'}")
    if name in GROUPS and name != "experiment":
        if word.startswith("~"):
            raise UserError(f"{word}: every configuration has one; {name}=NAME chooses another")
        _check_option(name, value)


def _check_folds(words: Sequence[str]) -> None:
    """Refuse a number of folds for the split that is fixed."""
    if "folds=filtered" not in words:
        return
    for word in words:
        if key_of(word) == "folds.k" and "=" in word:
            raise UserError(f"{word}: the split of folds=filtered is fixed; leave folds.k out")


def _check_experiments(words: Sequence[str]) -> None:
    """Refuse a sweep over presets, and a second preset beside the first."""
    chosen = [word for word in words if key_of(word) == "experiment" and "=" in word]
    presets = [word.partition("=")[2] for word in chosen]
    for word in filter(is_sweep, chosen):
        raise UserError(f"{word}: a preset may bring a grid of its own; run one command for each")
    if len(presets) > 1:
        each = dict.fromkeys(name for preset in presets for name in preset.strip("[]").split(","))
        raise UserError(f"experiment={presets[1]}: is a second one; 'experiment=[{','.join(each)}]' takes both")


def _check_option(group: str, value: str) -> None:
    """Refuse what cannot be the name of a group's option, but may be taken for one."""
    if value.startswith("[") and group in ("dataset", "features", "model"):  # whose choice names a run
        raise UserError(f"{group}={value}: takes one option; -m {group}={value.strip('[]')} compares several")
    if holds_another(value):
        raise UserError(SEVERAL.format(f"{group}={value}"))
    if value.startswith(("/", "~", "./", "../")):
        of_folder = f"; for a folder write dataset=folder {typed([as_word('dataset.root', value)])}"
        raise UserError(f"{group}={value}: no name of an option{of_folder if group == 'dataset' else ''}")
    if group == "folds" and value.isdecimal():
        hint = f"the number of folds is folds.k={value}; folds=random and others are ways to split"
        raise UserError(f"folds={value}: {hint}")


def holds_another(value: str) -> bool:
    """Return whether a value goes on with another setting, as in `mel model=deep`."""
    return any(key in GROUPS or key in RULES for key in re.findall(r"\s([\w.]+)=", value))


def _no_pair(word: str, parts: Sequence[str]) -> str:
    """The message for words without `=`, with a hint to quote them where they may belong to the value before."""
    key, _, value = word.partition("=")
    reason, rule = f"{parts[0]}: is not KEY=VALUE", RULES.get(key)
    if not isinstance(rule, Text) or rule.choices:
        return reason
    whole = typed([quoted(key, " ".join([value, *parts]))])
    return f"{reason}; if it belongs to a value with spaces, quote it: {whole}"


def as_word(key: str, value: object) -> str:
    """Return a setting as a word of the command line, quoted if Hydra would read the bare value as something else."""
    word = f"{key}={value}"
    return quoted(key, value) if isinstance(value, str) and _parsed(word) != value else word


def typed(words: Iterable[str]) -> str:
    """Join words as one would type them in a shell: `"dataset.root='/my music'"`, where `shlex` knows single quotes."""
    return " ".join(f'"{word}"' if "'" in word and not SPECIAL.search(word) else shlex.quote(word) for word in words)


def is_sweep(word: str) -> bool:
    """Return whether Hydra reads several values from a word."""
    try:
        return OverridesParser.create().parse_override(word).is_sweep_override()
    except HydraException:
        return False


def _parsed(word: str) -> object:
    """The value that Hydra reads from a word, or the error that it raises."""
    try:
        return OverridesParser.create().parse_override(word).value()
    except HydraException as error:
        return error


def quoted(key: str, value: str) -> str:
    """Return a setting as a word of which Hydra takes the value as text, whatever is in it."""
    return f"{key}={QuotedString(value, Quote.single).with_quotes()}"
