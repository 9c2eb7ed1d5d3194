"""Tests change limits through constructors: no test patches a constant of a module."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
CONSTANT = re.compile(r"_?[A-Z][A-Z0-9_]*")


def patched_constants(source: str) -> Iterator[str]:
    """Yield each constant that a module sets on another object, with its line."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "setattr":
            arguments = [each for each in node.args[:2] if isinstance(each, ast.Constant)]
            names = [each.value for each in arguments if isinstance(each.value, str)]
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store | ast.Del):
            names = [node.attr]
        else:
            continue
        for name in names:
            if CONSTANT.fullmatch(name.rpartition(".")[2]):
                yield f"line {node.lineno}: {name}"


@pytest.mark.parametrize(
    "source",
    [
        "monkeypatch.setattr(module, 'LIMIT_SECONDS', 0)",
        "monkeypatch.setattr('imgsvc.module.LIMIT_SECONDS', 0)",
        "setattr(module, '_LIMIT', 0)",
        "module.FIRST, module.second = 1, 2",
        "imgsvc.module.LIMIT += 1",
    ],
)
def test_patched_constant_is_detected(source: str) -> None:
    assert len(list(patched_constants(source))) == 1


@pytest.mark.parametrize(
    "source", ["monkeypatch.setattr(queries, 'list_requests', fail)", "LIMIT = 1", "a.b = a.LIMIT"]
)
def test_other_code_is_not_reported_as_patched_constant(source: str) -> None:
    assert list(patched_constants(source)) == []


def test_no_test_patches_a_constant() -> None:
    found = {
        str(file.relative_to(TESTS)): patched
        for file in sorted(TESTS.rglob("*.py"))
        if (patched := list(patched_constants(file.read_text("utf-8"))))
    }
    assert found == {}
