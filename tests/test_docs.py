"""What the documents say, held against what is there."""

from __future__ import annotations

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
    """The README's table of settings, as config.toml has it."""
    rows, section, said = [], "", ""
    for line in (ROOT / "config.toml").read_text().splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif line.startswith("# "):
            said = line.removeprefix("# ")
        elif " = " in line:
            key, _, value = line.partition(" = ")
            rows.append(f"| `{section}.{key}` | `{value}` | {said} |")
    return rows


def test_the_readme_has_every_setting_with_its_default() -> None:
    assert re.findall(r"^\| `[a-z]+\.[a-z_]+` .*$", README, re.MULTILINE) == settings_table()


@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_files_it_speaks_of_are_there(name: str) -> None:
    text = DOCUMENTS[name]
    linked = re.findall(r"\]\((?!https?://|#)([^)#]+)", text)
    rooms = re.findall(r"`((?:imgsvc|tests|packaging)/[^`*]*|[a-z]+\.(?:py|toml|yaml))`", text)
    assert linked or rooms
    assert [each for each in linked + rooms if not (ROOT / each).exists()] == []


@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_commands_it_tells_are_there(name: str) -> None:
    told = re.findall(r"(?:imgsvc|run\.py) ([a-z]+)(?: ([a-z]+))?", code_of(DOCUMENTS[name]))
    for command, sub in told:
        if command in {"test", "check", "bench"}:
            continue
        found = cli.commands.get(command)
        assert found is not None, command
        if isinstance(found, Group):
            assert sub in found.commands, f"{command} {sub}"


def code_of(text: str) -> str:
    """What stands in code blocks and between backticks."""
    blocks = re.findall(r"^```.*?^```", text, re.MULTILINE | re.DOTALL)
    rest = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return "\n".join(blocks + re.findall(r"`([^`\n]+)`", rest))


def test_the_options_of_the_readme_are_the_commands_own() -> None:
    for line in code_of(README).splitlines():
        match = re.search(r"imgsvc (\w+)(.*)", line)
        if match and match[1] in cli.commands:
            options = {o for p in cli.commands[match[1]].params for o in p.opts}
            assert set(re.findall(r"(?<!\S)--?[a-z][a-z-]*", match[2])) <= options | {"--help"}


def test_every_room_is_on_the_map() -> None:
    rooms = {
        each.name + ("/" if each.is_dir() else "")
        for each in (ROOT / "imgsvc").iterdir()
        if not each.name.startswith("__")
    }
    on_the_map = set(re.findall(r"`imgsvc/([a-z_]+(?:\.py|/))", README))
    assert rooms - on_the_map == set()


@pytest.mark.external
def test_the_unit_is_one_that_systemd_takes(tmp_path: Path) -> None:
    unit = (ROOT / "packaging" / "imgsvc.service").read_text()
    assert "/opt/imgsvc/.venv/bin/python" in unit
    file = tmp_path / "imgsvc.service"
    file.write_text(unit.replace("/opt/imgsvc/.venv/bin/python", sys.executable))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(file)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "imgsvc.service" not in done.stderr, done.stderr
    assert done.returncode == 0, done.stderr


def test_the_routes_it_tells_are_there(service: Service) -> None:
    described = service.get("/openapi.json").json()["paths"]
    routes = {path.split("/")[1] for path in described}
    told = {
        route
        for text in DOCUMENTS.values()
        for route in re.findall(r"(?<![\w.])/([a-z]+[A-Z]\w*)", re.sub(r"http://[^/\s]+", "", text))
    }
    assert len(told) > 5
    assert told <= routes
