"""Where a run comes from: the command line, the machine, the user and the commit."""

import getpass
import os
import platform
import subprocess
import sys
from functools import cache
from pathlib import Path
from uuid import uuid4

import genre_cls
from genre_cls.configuration.overrides import typed
from genre_cls.configuration.settings import CONF, PACKAGE
from genre_cls.errors import without_credentials

COMMAND_ID = "GENRE_CLS_COMMAND"  # the environment variable with the random id of the present command
COMMAND_LINE = "GENRE_CLS_COMMAND_LINE"  # the environment variable in which launchers' jobs find the command's


def provenance() -> dict[str, str]:
    """Return MLflow tags of this process; passwords are removed."""
    system = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    return {
        "version": genre_cls.__version__,
        "machine": f"{os.cpu_count()} cores, {system}",
        "command": os.environ.get(COMMAND_LINE) or command(),
        "mlflow.source.name": "genre_cls.train",
        "mlflow.source.git.commit": _git_commit(),
        "mlflow.user": getpass.getuser(),
    }


def name_command() -> str:
    """Give the present command a random id, which jobs in other processes inherit with its line; return the id."""
    os.environ |= {COMMAND_ID: uuid4().hex, COMMAND_LINE: command()}
    return command_id()


def command_id() -> str:
    """Return the id of the present command; empty if it has none."""
    return os.environ.get(COMMAND_ID, "")


def command() -> str:
    """Return the command line as it can be typed again."""
    program = "python -m genre_cls.train" if sys.argv[0].endswith("train.py") else Path(sys.argv[0]).name
    return without_credentials(typed([*program.split(), *sys.argv[1:]]))


@cache  # all runs of a command name the commit it began with
def _git_commit() -> str:
    if CONF.parent == PACKAGE:  # installed, perhaps in the midst of somebody else's repository
        return "unknown"
    git = ["git", "-C", str(PACKAGE), "rev-parse", "HEAD"]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
