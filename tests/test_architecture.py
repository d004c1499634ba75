"""The map for newcomers against the code."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import genre_cls

PACKAGE = Path(genre_cls.__file__).parent
TABLE = [line for line in (PACKAGE.parent / "ARCHITECTURE.md").read_text().splitlines() if line.startswith("| `")]
PLACES = {room: place for place, line in enumerate(TABLE) for room in re.findall(r"`(\w+)\.py`", line.split("|")[1])}
MODULES = sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__")


def imported(room: str) -> Iterator[str]:
    """The rooms that a room names in its imports, wherever these stand."""
    for node in ast.walk(ast.parse((PACKAGE / f"{room}.py").read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "genre_cls":
            yield from (name.name for name in node.names if name.name in MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from re.findall(r"^genre_cls\.(\w+)$", node.module)


def test_every_room_has_its_place_on_the_map() -> None:
    assert sorted(PLACES) == MODULES


@pytest.mark.parametrize("room", MODULES)
def test_a_room_imports_only_what_stands_below_it(room: str) -> None:
    above = [other for other in imported(room) if PLACES[other] < PLACES[room]]
    assert not above, f"{room} imports {', '.join(above)}"
