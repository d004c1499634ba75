"""Start NVIDIA's Multi-Process Service: processes then compute on a GPU concurrently; without it they take turns."""

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

CONTROL = "nvidia-cuda-mps-control"
PIPES = "CUDA_MPS_PIPE_DIRECTORY"  # where clients look for it
DEFAULT = Path("/tmp/nvidia-mps/control")  # and where they look if that is not set
PATIENCE = 20.0  # s

# The service ends with this process, even if this is killed.
SERVE = "import genre_cls.processes.die_with_parent, os, sys; os.execv(sys.argv[1], [sys.argv[1], '-f'])"
# The first two calls of any process that uses a GPU. By the driver's library they take half a second, by torch five.
USE = (
    "import ctypes, sys; cuda = ctypes.CDLL('libcuda.so.1'); "
    "sys.exit(bool(cuda.cuInit(0) or cuda.cuDevicePrimaryCtxRetain(ctypes.byref(ctypes.c_void_p()), 0)))"
)


@cache
def start() -> None:
    """Start the service for processes that inherit this one's environment from now on, until this one ends.

    Do nothing where it is not installed or runs already; stop it again where it does not work.
    """
    control = shutil.which(CONTROL)
    if not control or PIPES in os.environ or DEFAULT.exists():
        return
    folder = tempfile.mkdtemp(prefix="mps-")
    places = {PIPES: folder, "CUDA_MPS_LOG_DIRECTORY": folder}
    # It serves all GPUs; each process chooses by its own setting which of them it uses.
    others = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    command, quiet = [sys.executable, "-c", SERVE, control], subprocess.DEVNULL
    service = subprocess.Popen(command, env=others | places, stdin=quiet, stdout=quiet, stderr=quiet)
    if _works(places):
        os.environ |= places
        atexit.register(_stop, service, folder)
    else:
        _stop(service, folder)


def _works(places: dict[str, str]) -> bool:
    """Return whether a process that uses the service can use a GPU."""
    try:
        return not subprocess.run([sys.executable, "-c", USE], env=os.environ | places, timeout=PATIENCE).returncode
    except subprocess.TimeoutExpired:
        return False


def _stop(service: subprocess.Popen[bytes], folder: str) -> None:
    service.terminate()
    service.wait()
    shutil.rmtree(folder, ignore_errors=True)
