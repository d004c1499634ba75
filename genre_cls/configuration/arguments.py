"""Arguments of the commands that argparse reads; a wrong one is reported in one line."""

import os
import re
import sys
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable
from itertools import takewhile
from typing import Any, NoReturn

from genre_cls.configuration.settings import Number
from genre_cls.errors import UserError


class OneLineParser(ArgumentParser):
    """An argument parser that raises `UserError` instead of exiting."""

    def error(self, message: str) -> NoReturn:
        """Raise a wrong argument as a user's mistake; it may be a file whose name begins with a dash."""
        files = filter(os.path.exists, sys.argv[1:])  # `Path.exists` raises for a word that is too long for a name
        dashed = next((name for name in files if name.startswith("-")), "")
        raise UserError(f"{message} (see --help)" + (f"; write ./{dashed} for that file" if dashed else ""))

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse words; those such as -help.wav are files, though Python 3.13 would take them for -h and more."""
        words = sys.argv[1:] if args is None else args
        for word in takewhile(lambda word: word != "--", words):
            if re.match(r"-[^-\d].", word):
                self.error(f"unrecognized arguments: {word}")
        return super().parse_known_args(args, namespace)

    def add_model(self, help: str) -> None:
        """Add the options that choose a model: `--model` (by default `best`), `--tracking`, `--experiment`, `--trust`.

        Args:
            help: on `--model`.
        """
        self.add_argument("--model", type=nonempty, default="best", help=help)
        place = "tracking store (default: mlruns)"
        self.add_argument("--tracking", default="mlruns", metavar="FOLDER|ADDRESS", help=place)
        of_one = "take the best of this one (default: of what was trained last)"
        self.add_argument("--experiment", type=nonempty, metavar="NAME", help=of_one)
        code = "let a model file name any class, which may run any code here"
        self.add_argument("--trust", action="store_true", help=code)


def nonempty(text: str) -> str:
    """Return a name as it is; an empty one, as an unset variable of the shell gives, or a blank one is refused."""
    if not text.strip():
        raise ArgumentTypeError("an empty name")
    return text


def whole_number(rule: Number) -> Callable[[str], int]:
    """Return the function that reads an argument as a whole number, which a rule must allow."""

    def read(text: str) -> int:
        if not (text.isdecimal() and rule.allows(int(text))):
            raise ArgumentTypeError(f"{text}: must be {rule}")
        return int(text)

    return read
