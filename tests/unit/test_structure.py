"""The package stays readable: limits on files, functions and constructors, and no copied blocks."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "imgsvc"
MODULES = sorted(PACKAGE.rglob("*.py"))

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
MAX_CONSTRUCTOR_PARAMETERS = 7
BLOCK_LINES = 6

Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(file: Path) -> Iterator[tuple[str, Function]]:
    """Yield each function of a module, with its position."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, Function):
            yield f"{file.relative_to(PACKAGE)}:{node.lineno}: {node.name}", node


def line_count(node: Function) -> int:
    """Return the number of lines of a function, with its signature and docstring."""
    return (node.end_lineno or node.lineno) - node.lineno + 1


def parameter_count(node: Function) -> int:
    """Return the number of parameters without `self`."""
    arguments = node.args
    return len(arguments.posonlyargs) + len(arguments.args) + len(arguments.kwonlyargs) - 1


def logic_lines(file: Path) -> Iterator[tuple[int, str]]:
    """Yield the number and the text of each line that holds logic.

    Imports, signatures, docstrings and comments hold none, and neither do lines without a letter, such
    as a closing bracket or a row of numbers.
    """
    source = file.read_text()
    skipped: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import() | ast.ImportFrom() | ast.Expr(value=ast.Constant()):
                skipped.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                skipped.update(range(node.lineno, node.body[0].lineno))
    for number, line in enumerate(source.splitlines(), 1):
        text = line.strip()
        if number not in skipped and re.search("[a-z]", text) and not text.startswith("#"):
            yield number, text


def test_files_have_at_most_400_lines() -> None:
    lengths = {str(f.relative_to(PACKAGE)): len(f.read_text().splitlines()) for f in MODULES}
    assert {name: n for name, n in lengths.items() if n > MAX_FILE_LINES} == {}


def test_functions_have_at_most_60_lines() -> None:
    lengths = {name: line_count(node) for file in MODULES for name, node in functions(file)}
    assert {name: n for name, n in lengths.items() if n > MAX_FUNCTION_LINES} == {}


def test_constructors_have_at_most_7_parameters() -> None:
    """Dataclasses have no constructor in their source, so they may have more fields."""
    counts = {
        name: parameter_count(node)
        for file in MODULES
        for name, node in functions(file)
        if node.name == "__init__"
    }
    assert {name: n for name, n in counts.items() if n > MAX_CONSTRUCTOR_PARAMETERS} == {}


def test_no_block_of_six_lines_is_written_twice() -> None:
    places: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for file in MODULES:
        lines = list(logic_lines(file))
        for start in range(len(lines) - BLOCK_LINES + 1):
            block = lines[start : start + BLOCK_LINES]
            place = f"{file.relative_to(PACKAGE)}:{block[0][0]}"
            places[tuple(text for _, text in block)].append(place)
    copies = {block: found for block, found in places.items() if len(found) > 1}
    assert copies == {}


def test_migrations_are_numbered_from_1_without_gaps() -> None:
    names = sorted(file.name for file in (PACKAGE / "database" / "migrations").glob("*.sql"))
    assert [int(name[:4]) for name in names] == list(range(1, len(names) + 1))
