"""The command in a fork of this process, which need not import all anew."""

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
        # What other threads held when it began stays held in a fork.
        faulthandler.register(signal.SIGALRM, sys.__stderr__, chain=True)
        signal.alarm(PATIENCE)
        GlobalHydra.instance().clear()
        sys.argv = ["genre_cls/train.py", *arguments]
        prepare()
        train.main()
        os._exit(0)
    except SystemExit as end:
        os._exit(int(end.code or 0))
    except BaseException:
        traceback.print_exc(file=sys.__stderr__)
    finally:
        os._exit(70)


def ended(child: int) -> int:
    """The exit code of such a process, which is waited for."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def gone(pid: int, seconds: float = 10) -> bool:
    """Whether a process ends soon, be it that nobody asks how it ended."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        listed = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False)
        if not listed.stdout.strip() or listed.stdout.startswith("Z"):
            return True
        time.sleep(0.05)
    return False
