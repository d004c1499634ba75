"""Run the training command in a fork of this process, which need not import everything again."""

import faulthandler
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable

from hydra.core.global_hydra import GlobalHydra

from genre_cls import train

PATIENCE = 300  # s, after which a command that stands still says where, and ends


def fork(prepare: Callable[[], None], *arguments: str, main: Callable[[], None] = train.main) -> int:
    """Start the command in a process of its own and return the process id.

    Args:
        prepare: called first in that process.
        arguments: of the command.
        main: the command.
    """
    child = os.fork()
    if child:
        return child
    try:
        # What other threads held when it began stays held in a fork.
        faulthandler.register(signal.SIGALRM, sys.__stderr__, chain=True)
        signal.alarm(PATIENCE)
        GlobalHydra.instance().clear()
        sys.argv = ["genre_cls/train.py", *arguments]
        prepare()
        main()
        os._exit(0)
    except SystemExit as end:
        os._exit(int(end.code or 0))
    except BaseException:
        traceback.print_exc(file=sys.__stderr__)
    finally:
        os._exit(70)


def ended(child: int) -> int:
    """Wait for such a process and return its exit code."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def gone(pid: int, seconds: float = 10) -> bool:
    """Return whether a process ends within some seconds; a zombie, which nobody has waited for, has ended."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        listed = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False)
        if not listed.stdout.strip() or listed.stdout.startswith("Z"):
            return True
        time.sleep(0.05)
    return False
