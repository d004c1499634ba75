"""Test ARCHITECTURE.md's table of modules and the tests that the documents cite against the code."""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from shared import Compose

import genre_cls
from genre_cls import models
from genre_cls.configuration.settings import CONF

PACKAGE = Path(genre_cls.__file__).parent
TESTS, DOCS = (PACKAGE.parent / name for name in ("tests", "docs"))
MODULES = sorted(
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
    for path in PACKAGE.rglob("*.py")
    if path.stem != "__init__"
)


def listed() -> Iterator[str]:
    """The modules of ARCHITECTURE.md's tables, in reading order, each after its room: `tracks.audio`."""
    room = ""
    for line in (PACKAGE.parent / "ARCHITECTURE.md").read_text().splitlines():
        if line.startswith("#"):
            room = ".".join([*re.findall(r"^### `(\w+)/`", line), ""])
        elif line.startswith("| `"):
            yield from (room + name for name in re.findall(r"`(\w+)\.py`", line.split("|")[1]))


NAMES = list(listed())
PLACES = {module: place for place, module in enumerate(NAMES)}


def source(module: str) -> str:
    return (PACKAGE / f"{module.replace('.', '/')}.py").read_text()


def imported(module: str) -> Iterator[str]:
    """The modules that a module imports, wherever in its file."""
    for node in ast.walk(ast.parse(source(module))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "genre_cls":
            path = node.module.split(".")[1:]
            found = {".".join(path), *(".".join([*path, name.name]) for name in node.names)}
            yield from found & PLACES.keys()
            for room in found & {"models"}:  # the one whose `__init__` imports anything
                yield from imported(f"{room}.__init__")


def test_every_module_is_in_the_table_once() -> None:
    assert sorted(NAMES) == MODULES


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_what_is_below_it_or_on_its_right(module: str) -> None:
    above = [other for other in imported(module) if PLACES[other] < PLACES[module]]
    assert not above, f"{module} imports {', '.join(above)}"


def test_no_other_room_imports_anything_by_itself() -> None:
    assert [path.parent.name for path in PACKAGE.glob("*/__init__.py") if "import" in path.read_text()] == ["models"]


@pytest.mark.parametrize("model", sorted(path.stem for path in (CONF / "model").glob("*.yaml")))
def test_settings_name_models_as_model_files_may(composed: Compose, model: str) -> None:
    room, _, name = composed(f"model={model}").model._target_.rpartition(".")
    assert room == models.__name__ and name in models.__all__


def test_what_is_stored_and_reported_needs_no_pytorch() -> None:
    rooms = ("configuration", "evaluation", "tracking")
    alone = [f"tracks.{name}" for name in ("artists", "demo", "folder", "folds", "gtzan")]
    alone += ["inference.clip_plots", "inference.onnx_model", "inference.prediction"]
    free = [f"genre_cls.{name}" for name in MODULES if name.startswith(rooms) or name in alone]
    code = f"import sys, {', '.join(free)}\nprint('torch' in sys.modules)"
    assert len(free) > 20
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


@pytest.mark.parametrize(
    ("word", "rooms"),
    [
        ("mlflow", {"tracking.", "inference.registry", "inference.served"}),
        (
            "DictConfig",
            {"train", "report", "experiments.", "training.", "configuration.identity", "configuration.settings"},
        ),
    ],
)
def test_few_modules_know_mlflow_and_hydras_configuration(word: str, rooms: set[str]) -> None:
    users = [name for name in MODULES if re.search(rf"^\s*(?:from|import) .*\b{word}\b", source(name), re.MULTILINE)]
    assert users and not [name for name in users if not name.startswith(tuple(rooms))]


def test_what_mlflow_copies_to_serve_a_model_imports_only_what_the_package_exports() -> None:
    names = re.findall(r"^from (genre_cls\S*) import (.*)$", source("inference.served"), re.MULTILINE)
    assert [module for module, _ in names] == ["genre_cls"] and set(names[0][1].split(", ")) <= set(genre_cls.__all__)


def test_no_library_reports_its_use_to_its_maker(tmp_path: Path) -> None:
    code = (
        "import genre_cls.inference.onnx_model, mlflow.telemetry.utils, os\n"
        "assert mlflow.telemetry.utils.is_telemetry_disabled()\n"
        "print(os.environ['GRADIO_ANALYTICS_ENABLED'], os.environ['RAY_USAGE_STATS_ENABLED'])"
    )
    environment = {"HOME": str(tmp_path), "PATH": os.environ["PATH"], "PYTHONPATH": str(PACKAGE.parent)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout == "False 0\n", done.stderr
    assert not list(tmp_path.rglob("*onnxruntime*")), "where it keeps the id of the machine"


@pytest.mark.parametrize("known", [(), *(pytest.param((name,), marks=pytest.mark.slow) for name in ("HOME", "USER"))])
def test_a_user_id_without_a_name_is_no_obstacle_to_torch_and_mlflow(tmp_path: Path, known: tuple[str, ...]) -> None:
    code = (
        "import pwd\n"
        "def getpwuid(uid): raise KeyError('uid not found')\n"
        "pwd.getpwuid = getpwuid\n"
        "import genre_cls\n"
        "from torch._inductor.runtime.cache_dir_utils import cache_dir\n"
        "cache_dir()\n"
        "import mlflow.utils.credentials"
    )
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(PACKAGE.parent), "TMPDIR": str(tmp_path)}
    environment |= dict.fromkeys(known, str(tmp_path))
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_windows_is_refused_in_one_line() -> None:
    code = "import sys; sys.platform = 'win32'; import genre_cls"
    environment = os.environ | {"PYTHONPATH": str(PACKAGE.parent)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr == "error: genre_cls needs Linux or macOS; on Windows it runs in WSL\n"


def test_every_test_that_the_documents_cite_exists() -> None:
    files = {path.name: path.read_text() for path in TESTS.glob("test_*.py")}
    existing = {*files, *(name for text in files.values() for name in re.findall(r"def (test_\w+)\(", text))}
    cited = {name for path in DOCS.glob("*.md") for name in re.findall(r"\btest_\w+(?:\.py)?", path.read_text())}
    assert cited and not cited - existing
