"""Scripts: what a user's mistake comes to before the program that a script starts is there."""

import os
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from genre_cls.tracking.database import LOCATIONS

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


def ui(clone: Path, port: int, *folder: str) -> subprocess.CompletedProcess[str]:
    arguments = ["bash", "scripts/ui.sh", *folder, "--port", str(port)]
    return subprocess.run(arguments, cwd=clone, env=os.environ, capture_output=True, text=True, check=False)


def test_a_store_that_was_moved_finds_its_files_before_mlflow_opens_it(tmp_path: Path) -> None:
    (code,) = re.findall("^python -c '(.+)' \"\\$folder\"$", (SCRIPTS / "ui.sh").read_text(), re.MULTILINE)
    (artifacts := tmp_path / "mlruns" / "artifacts" / "e").mkdir(parents=True)
    with closing(sqlite3.connect(tmp_path / "mlruns" / "mlflow.db")) as connection, connection:
        for table, column in LOCATIONS:
            connection.execute(f"CREATE TABLE {table} ({column} TEXT)")
        connection.execute("INSERT INTO experiments VALUES ('file:///elsewhere/mlruns/artifacts/e')")
    store = tmp_path / "mlruns"
    done = subprocess.run([sys.executable, "-c", code, store], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    with closing(sqlite3.connect(tmp_path / "mlruns" / "mlflow.db")) as connection:
        assert connection.execute("SELECT artifact_location FROM experiments").fetchone() == (artifacts.as_uri(),)


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
def test_a_port_in_use_is_reported_in_one_line_without_naming_the_others_page(clone: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = ui(clone, port)
    told = f"error: 127.0.0.1:{port}: address already in use; choose another --port\n"
    assert (done.returncode, done.stderr) == (2, told) and "ui" not in done.stdout
    after = ui(clone, port)
    assert after.returncode == 0 and "open http" in after.stderr and "ui --backend-store-uri" in after.stdout


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
def test_the_ui_opens_any_folder_of_runs(clone: Path) -> None:
    (clone / "mlruns").rename(clone / "my runs")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    done = ui(clone, port, "my runs")
    assert done.returncode == 0 and f"sqlite:///{clone}/my runs/mlflow.db" in done.stdout
    late = subprocess.run(
        ["bash", "scripts/ui.sh", "--port", str(port), "my runs"], cwd=clone, capture_output=True, text=True
    )
    assert late.returncode == 2 and late.stderr.startswith("error: my runs: must come before the options")
    assert ui(clone, port).stderr == "error: mlruns: has no mlflow.db; scripts/train.sh makes one in mlruns\n"


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
def test_help_on_the_ui_needs_neither_runs_nor_an_environment(tmp_path: Path) -> None:
    asked = ["bash", SCRIPTS / "ui.sh", "--help"]
    done = subprocess.run(asked, cwd=tmp_path, env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True)
    assert done.returncode == 0 and "scripts/ui.sh [FOLDER" in done.stdout and not done.stderr
