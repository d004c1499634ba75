"""NVIDIA's service by which processes share a GPU: started where it works, ended with whoever has started it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from forks import gone

# A fake of NVIDIA's program: it leaves its process id and its arguments where clients would look for it.
CONTROL = """#!/bin/sh
echo "$$ $1 ${CUDA_VISIBLE_DEVICES-all}" > "$CUDA_MPS_PIPE_DIRECTORY/control"
exec sleep 1000
"""
# A fake of a process that uses a GPU by the service, once it is there.
WORKS = """
import os, time
while not os.path.exists(os.environ["CUDA_MPS_PIPE_DIRECTORY"] + "/control"):
    time.sleep(0.01)
"""
STARTED = """
import os, sys
from pathlib import Path
from genre_cls.processes import nvidia_mps
nvidia_mps.USE, nvidia_mps.DEFAULT = sys.argv[1], Path(sys.argv[2])
nvidia_mps.start()
nvidia_mps.start()
folder = os.environ.get("CUDA_MPS_PIPE_DIRECTORY", "")
print(folder, os.path.isdir(folder) and Path(folder, "control").read_text(), sep="\\n", end="", flush=True)
exec(sys.argv[3])
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="MPS is for Linux")


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-cuda-mps-control"
    program.write_text(CONTROL)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.delenv("CUDA_MPS_PIPE_DIRECTORY", raising=False)


def started(use: str = WORKS, usual: str = "/nowhere", then: str = "") -> tuple[int, list[str]]:
    """Return the exit code of a process that starts the service, and the lines that it prints about it."""
    command = [sys.executable, "-c", STARTED, use, usual, then]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout.splitlines()


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(("then", "code"), [("", 0), ("os._exit(0)", 0), ("os.kill(os.getpid(), 9)", -signal.SIGKILL)])
def test_it_is_started_once_for_all_gpus_and_ends_with_its_process(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, then: str, code: int
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    returned, (folder, control) = started(then=then)
    pid, *arguments = control.split()
    assert returned == code and arguments == ["-f", "all"] and Path(folder).parent == tmp_path
    assert gone(int(pid))
    assert then or not Path(folder).exists()


@pytest.mark.usefixtures("installed")
def test_where_no_process_can_use_a_gpu_by_it_it_is_stopped(tmp_path: Path) -> None:
    assert started(f"{WORKS}\nraise SystemExit(1)") == (0, ["", "False"])
    assert not list(tmp_path.glob("mps-*"))


def test_where_it_is_not_installed_nothing_happens(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert started("raise AssertionError") == (0, ["", "False"])


@pytest.mark.usefixtures("installed")
def test_one_that_runs_already_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert started(usual=str(tmp_path)) == (0, ["", "False"])
    (tmp_path / "control").write_text("another's")
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", str(tmp_path))
    assert started() == (0, [str(tmp_path), "another's"])
