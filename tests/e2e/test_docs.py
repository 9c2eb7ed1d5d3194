"""The documents agree with the code, the configuration and the API."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click import Group

from imgsvc.cli import cli
from tests.origin import ROOT
from tests.service_process import Service

README = (ROOT / "README.md").read_text()
OPERATIONS = (ROOT / "OPERATIONS.md").read_text()
DOCUMENTS = {"README.md": README, "OPERATIONS.md": OPERATIONS}


def settings_table() -> list[str]:
    """Return the rows of the README's table of settings, made from config.toml."""
    rows, section, comment = [], "", ""
    for line in (ROOT / "config.toml").read_text().splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif line.startswith("# "):
            comment = line.removeprefix("# ")
        elif line.startswith("#") and " = " in line:
            key, _, value = line.removeprefix("#").partition(" = ")
            rows.append(f"| `{section}.{key}` | `{value}` | {comment} |")
    return rows


def test_readme_has_every_setting_with_its_default() -> None:
    assert re.findall(r"^\| `[a-z]+\.[a-z_]+` .*$", README, re.MULTILINE) == settings_table()


@pytest.mark.parametrize("name", DOCUMENTS)
def test_files_named_in_document_exist(name: str) -> None:
    text = DOCUMENTS[name]
    linked = re.findall(r"\]\((?!https?://|#)([^)#]+)", text)
    modules = re.findall(r"`((?:imgsvc|tests|packaging)/[^`*]*|[a-z]+\.(?:py|toml|yaml))`", text)
    assert linked or modules
    assert [each for each in linked + modules if not (ROOT / each).exists()] == []


@pytest.mark.parametrize("name", DOCUMENTS)
def test_commands_named_in_document_exist(name: str) -> None:
    commands = re.findall(r"(?:imgsvc|run\.py) ([a-z]+)(?: ([a-z]+))?", code_of(DOCUMENTS[name]))
    for command, subcommand in commands:
        if command in {"test", "lint", "bench"}:
            continue
        found = cli.commands.get(command)
        assert found is not None, command
        if isinstance(found, Group):
            assert subcommand in found.commands, f"{command} {subcommand}"


def test_tasks_of_run_script_hide_no_command() -> None:
    (tasks,) = re.findall(r"^TASKS = (.*)$", (ROOT / "run.py").read_text(), re.MULTILINE)
    assert not set(ast.literal_eval(tasks)) & set(cli.commands)


def code_of(text: str) -> str:
    """Return the contents of code blocks and of backticks."""
    blocks = re.findall(r"^```.*?^```", text, re.MULTILINE | re.DOTALL)
    rest = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return "\n".join(blocks + re.findall(r"`([^`\n]+)`", rest))


def test_options_named_in_readme_exist() -> None:
    for line in code_of(README).splitlines():
        match = re.search(r"imgsvc (\w+)(.*)", line)
        if match and match[1] in cli.commands:
            options = {o for p in cli.commands[match[1]].params for o in p.opts}
            assert set(re.findall(r"(?<!\S)--?[a-z][a-z-]*", match[2])) <= options | {"--help"}


def test_code_map_of_readme_has_every_module() -> None:
    modules = {
        each.name + ("/" if each.is_dir() else "")
        for each in (ROOT / "imgsvc").iterdir()
        if (each.is_dir() or each.suffix == ".py") and not each.name.startswith("__")
    }
    on_map = set(re.findall(r"`imgsvc/([a-z_]+(?:\.py|/))", README))
    assert modules - on_map == set()


@pytest.mark.external
def test_systemd_accepts_the_unit_file(tmp_path: Path) -> None:
    unit = (ROOT / "packaging" / "imgsvc.service").read_text()
    assert "/opt/imgsvc/.venv/bin/python" in unit
    file = tmp_path / "imgsvc.service"
    file.write_text(unit.replace("/opt/imgsvc/.venv/bin/python", sys.executable))
    result = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(file)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "imgsvc.service" not in result.stderr, result.stderr
    assert result.returncode == 0, result.stderr


def test_routes_named_in_documents_exist(service: Service) -> None:
    paths = service.get("/openapi.json").json()["paths"]
    routes = {path.split("/")[1] for path in paths}
    named = {
        route
        for text in DOCUMENTS.values()
        for route in re.findall(r"(?<![\w.])/([a-z]+[A-Z]\w*)", re.sub(r"http://[^/\s]+", "", text))
    }
    assert len(named) > 5
    assert named <= routes
