"""The rooms of the package: each imports only from those below it, and opens with an example that works."""

import ast
import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# From the ground up, as in CONTRIBUTING. Files on one line may import each other.
FLOORS = [
    ["run"],
    ["metrics", "tables"],
    ["data"],
    ["model", "weighting", "checkpoint", "training", "features", "heads"],
    ["swarm"],
    ["methods"],
    ["evidence"],
    ["book"],
    ["yours"],
    ["experiment"],
    ["sweep"],
    ["export"],
    ["cli"],
]
FLOOR = {room: height for height, rooms in enumerate(FLOORS) for room in rooms}
ROOMS = sorted(str(path.parent.relative_to(ROOT)).replace("/", ".") for path in (ROOT / "fairnb").rglob("__init__.py"))


def room(module: str) -> str:
    return module.split(".")[1]


def imported(path: Path) -> set[str]:
    """Modules of the package that a file imports, also within a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "fairnb":
            found |= {node.module} if "." in node.module else {f"fairnb.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("fairnb.")}
    return found


def test_imports_run_downwards():
    upwards = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in (ROOT / "fairnb").rglob("*.py")
        if path.parent.name != "fairnb" or path.name != "__init__.py"
        for module in imported(path)
        if FLOOR[room(module)] > FLOOR[path.relative_to(ROOT / "fairnb").with_suffix("").parts[0]]
    ]
    assert not upwards


def test_every_file_has_a_floor():
    others = ("__init__.py", "__pycache__", "py.typed")
    assert {path.stem for path in (ROOT / "fairnb").iterdir() if path.name not in others} == set(FLOOR)


def test_metrics_know_nothing_of_the_rest():
    assert imported(ROOT / "fairnb" / "metrics.py") <= {"fairnb.run.messages"}


@pytest.mark.parametrize("name", ROOMS)
def test_a_room_opens_with_an_example(name):
    found = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert found.failed == 0
    assert found.attempted > 0
