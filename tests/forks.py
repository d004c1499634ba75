"""The command in a fork of this process, which need not import all anew."""

import os
import sys
from collections.abc import Callable

from hydra.core.global_hydra import GlobalHydra

from genre_cls import train


def fork(prepare: Callable[[], None], *arguments: str) -> int:
    """Begin the command in a process of its own, of which this gives the id.

    Args:
        prepare: what that process does before.
        arguments: of the command.
    """
    child = os.fork()
    if child:
        return child
    try:
        GlobalHydra.instance().clear()
        sys.argv = ["genre_cls/train.py", *arguments]
        prepare()
        train.main()
        os._exit(0)
    except SystemExit as end:
        os._exit(int(end.code or 0))
    finally:
        os._exit(70)


def ended(child: int) -> int:
    """The exit code of such a process, which is waited for."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
