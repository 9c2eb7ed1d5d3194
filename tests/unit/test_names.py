"""One name means one thing: each class and constant of the package has one definition."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "imgsvc"

INTERFACES = {
    "CODEC": "each image format's codec",
    "T": "a type variable",
    "_T": "a type variable",
    "__all__": "Python's own",
    "log": "each module's logger",
}
"""Names that many modules define on purpose, and their one meaning."""


def definitions(module: ast.Module) -> Iterator[tuple[str, str]]:
    """Yield the name and the source of each class and constant at the top of a module."""
    for node in module.body:
        if isinstance(node, ast.ClassDef):
            yield node.name, ast.unparse(node)
        elif isinstance(node, ast.Assign):
            for target in node.targets:
                for name in ast.walk(target):
                    if isinstance(name, ast.Name):
                        yield name.id, ast.unparse(node)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id, ast.unparse(node)


def test_class_and_constant_names_have_one_definition() -> None:
    found: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for file in sorted(PACKAGE.rglob("*.py")):
        for name, source in definitions(ast.parse(file.read_text("utf-8"))):
            found[name][source].append(str(file.relative_to(PACKAGE)))
    ambiguous = {
        name: [file for files in sources.values() for file in files]
        for name, sources in found.items()
        if len(sources) > 1 and name not in INTERFACES
    }
    assert not ambiguous, "\n".join(ambiguous)


def test_exception_names_end_in_error() -> None:
    wrong = [
        f"{file.relative_to(PACKAGE)}: {node.name}"
        for file in sorted(PACKAGE.rglob("*.py"))
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, ast.ClassDef)
        and any(ast.unparse(base).endswith(("Error", "Exception")) for base in node.bases)
        and not node.name.endswith("Error")
    ]
    assert not wrong
