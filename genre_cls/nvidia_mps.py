"""NVIDIA's Multi-Process Service, with which processes compute on a GPU side by side; without it they take turns."""

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
USUAL = Path("/tmp/nvidia-mps/control")  # and where they look if nothing is said
PATIENCE = 20.0  # s

# It ends with this process, even if that is killed.
SERVE = "import genre_cls.die_with_parent, os, sys; os.execv(sys.argv[1], [sys.argv[1], '-f'])"
# What any process does first on a GPU. By the driver alone it takes half a second, by torch five.
USE = (
    "import ctypes, sys; cuda = ctypes.CDLL('libcuda.so.1'); "
    "sys.exit(bool(cuda.cuInit(0) or cuda.cuDevicePrimaryCtxRetain(ctypes.byref(ctypes.c_void_p()), 0)))"
)


@cache
def start() -> None:
    """Start the service for the processes that get this one's environment from now on, until this one ends.

    Nothing happens where it is not installed, runs already, or does not work.
    """
    control = shutil.which(CONTROL)
    if not control or PIPES in os.environ or USUAL.exists():
        return
    folder = tempfile.mkdtemp(prefix="mps-")
    places = {PIPES: folder, "CUDA_MPS_LOG_DIRECTORY": folder}
    # It serves all GPUs; which of them a process uses is that one's own setting.
    others = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    command, quiet = [sys.executable, "-c", SERVE, control], subprocess.DEVNULL
    service = subprocess.Popen(command, env=others | places, stdin=quiet, stdout=quiet, stderr=quiet)
    if _works(places):
        os.environ |= places
        atexit.register(_stop, service, folder)
    else:
        _stop(service, folder)


def _works(places: dict[str, str]) -> bool:
    """Whether a process that is told of the service can use a GPU."""
    try:
        return not subprocess.run([sys.executable, "-c", USE], env=os.environ | places, timeout=PATIENCE).returncode
    except subprocess.TimeoutExpired:
        return False


def _stop(service: subprocess.Popen[bytes], folder: str) -> None:
    service.terminate()
    service.wait()
    shutil.rmtree(folder, ignore_errors=True)
