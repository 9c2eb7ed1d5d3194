"""Bugs in early releases of the oldest supported Python, which newer releases do not show."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "imgsvc"
POSSESSIVE_GROUP = re.compile(r"\)(?:[*+?]|\{[\d,{}]+\})\+")


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=lambda file: file.name)
def test_regular_expressions_have_no_possessive_group(file: Path) -> None:
    """Before 3.11.5, possessive groups that backtrack match incorrectly (python/cpython#106052).

    Atomic groups work.
    """
    lines = enumerate(file.read_text().splitlines(), 1)
    code = [(number, line) for number, line in lines if not line.lstrip().startswith("#")]
    assert [number for number, line in code if POSSESSIVE_GROUP.search(line)] == []
