"""Data flows one way: who may import whom, held against the code."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "imgsvc"

LEAVES = {"", "models", "pictures", "errors", "config", "urls", "logs", "metrics"}
CORE = {"table", "database", "network", "images", "storage"}
ALLOWED: dict[str, set[str]] = {
    **dict.fromkeys(LEAVES, LEAVES),
    **{room: LEAVES | {room} for room in CORE},
    "intake": LEAVES | {"table", "database"},
    "report": LEAVES | {"table", "database"},
    "processing": LEAVES | {"processing", "database", "network", "images", "storage"},
    "web": LEAVES | {"web", "table", "database", "storage", "processing", "intake", "report"},
    "service": LEAVES | CORE | {"processing", "intake", "report", "web"},
    "client": LEAVES,
    "terminal": LEAVES,
    "backup": LEAVES | {"database", "storage", "service"},
    "whole_file": LEAVES | {"service", "intake", "report", "storage", "table"},
    "demo": LEAVES | {"service", "client", "terminal"},
    "cli": LEAVES | {"service", "client", "terminal", "backup", "whole_file", "demo"},
    "__main__": {"cli"},
}
"""A room of the house (a module or a package of imgsvc), and the rooms that it may import."""

OUTSIDE: dict[str, set[str]] = {
    "PIL": {"images", "demo"},
    "imagecodecs": {"images"},
    "aiohttp.web": {"web", "service", "demo"},
    "aiohttp": {"web", "service", "demo", "network", "client"},
    "aiosqlite": {"database"},
    "sqlite3": {"database"},
    "click": {"cli"},
    "rich": {"cli", "terminal", "demo"},
    "concurrent.futures.process": {"images"},
    "multiprocessing": {"images"},
    "prometheus_client": {"metrics", "web"},
}
"""Libraries that have one place, and the rooms that are it."""

BRINGS = {"pillow": "PIL", "scikit-image": "skimage"}
"""Packages whose module has another name."""

MODULES = sorted(PACKAGE.rglob("*.py"))


def room_of(file: Path) -> str:
    first = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return "" if first == "__init__" else first


def imported(file: Path) -> set[str]:
    """The dotted names that a module imports, wherever in it: `from a import b` is `a` and `a.b`."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: a relative import"
            names |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


@pytest.mark.parametrize("file", MODULES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_a_module_imports_what_its_room_may(file: Path) -> None:
    room = room_of(file)
    rooms = {str(each.relative_to(PACKAGE).parts[0]).removesuffix(".py") for each in MODULES}
    ours = {name.split(".")[1] for name in imported(file) if name.startswith("imgsvc.")}
    assert (ours & rooms) - ALLOWED[room] == set()


@pytest.mark.parametrize("library", OUTSIDE)
def test_a_library_has_its_place(library: str) -> None:
    used = {
        room_of(file)
        for file in MODULES
        for name in imported(file)
        if name == library or name.startswith(f"{library}.")
    }
    assert used - OUTSIDE[library] == set()


def test_no_room_but_those_of_the_table() -> None:
    assert {room_of(file) for file in MODULES} <= set(ALLOWED)


def declared(requirements: list[str]) -> set[str]:
    """The modules that those packages bring."""
    names = {re.split("[>=]", each)[0] for each in requirements}
    return {BRINGS.get(name, name.replace("-", "_")) for name in names}


def outside(files: Iterable[Path]) -> set[str]:
    tops = {name.split(".")[0] for file in files for name in imported(file)}
    return tops - set(sys.stdlib_module_names) - {"imgsvc", "tests", "run", "_typeshed"}


def test_the_libraries_that_are_imported_are_those_that_are_declared() -> None:
    """`yarl`, say, comes with aiohttp today; what is not declared may be gone tomorrow."""
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())
    runtime = declared(project["project"]["dependencies"])
    extras = project["project"]["optional-dependencies"].values()
    extra = set().union(*map(declared, extras))
    assert outside(MODULES) - extra == runtime
    peers = PACKAGE.parent / "tests" / "bench" / "peers"
    tests = [f for f in (PACKAGE.parent / "tests").rglob("*.py") if peers not in f.parents]
    assert outside(tests) <= runtime | extra | declared(project["dependency-groups"]["dev"])
