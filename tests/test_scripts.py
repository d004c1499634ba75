"""Scripts: what a user's mistake comes to before the program that a script starts is there."""

import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone with a store, in which nothing needs to be installed and MLflow only says that it was started."""
    shutil.copytree(SCRIPTS, tmp_path / "scripts")
    (tmp_path / "scripts" / "environment.sh").write_text('PATH="$PWD:$PATH"')
    (tmp_path / "mlruns").mkdir()
    (tmp_path / "mlruns" / "mlflow.db").touch()
    for program in ("mlflow", "python"):
        (tmp_path / program).write_text('#!/bin/sh\necho started "$@"\n')
        (tmp_path / program).chmod(0o755)
    return tmp_path


def ui(clone: Path, port: int) -> subprocess.CompletedProcess[str]:
    arguments = ["bash", "scripts/ui.sh", "--port", str(port)]
    return subprocess.run(arguments, cwd=clone, env=os.environ, capture_output=True, text=True, check=False)


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
def test_a_port_in_use_is_reported_in_one_line_without_naming_the_others_page(clone: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = ui(clone, port)
    told = f"error: 127.0.0.1:{port}: address already in use; choose another --port\n"
    assert (done.returncode, done.stderr) == (2, told) and "ui" not in done.stdout
    after = ui(clone, port)
    assert after.returncode == 0 and "open http" in after.stderr and "ui --backend-store-uri" in after.stdout
