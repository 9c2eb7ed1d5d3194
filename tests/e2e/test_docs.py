"""The documents agree with the code, the configuration and the API."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click import Command, Group

from imgsvc.cli import cli
from tests.docs.pages import generated_pages
from tests.origin import ROOT
from tests.service_process import Service

README = (ROOT / "README.md").read_text("utf-8")
DOCUMENTS_OF_ROOT = ("README.md", "OPERATIONS.md", "CONTRIBUTING.md", "SECURITY.md", "llms.txt")
DOCUMENTS = {
    str(file.relative_to(ROOT)): file.read_text("utf-8")
    for file in [
        *(ROOT / name for name in DOCUMENTS_OF_ROOT),
        *sorted((ROOT / "docs").rglob("*.md")),
    ]
}


async def test_generated_pages_are_current(tmp_path: Path) -> None:
    pages = await generated_pages(tmp_path)
    assert len(pages) > 5
    old = [name for name, text in pages.items() if (ROOT / name).read_text("utf-8") != text]
    assert old == [], "run `python3 run.py docs`"


def test_page_of_settings_has_every_setting_with_its_default() -> None:
    shipped = (ROOT / "config.toml").read_text("utf-8")
    page = DOCUMENTS["docs/reference/settings.md"]
    keys = re.findall(r"^#(\w+) = (.*)$", shipped, re.MULTILINE)
    rows = re.findall(r"^\| `\w+\.(\w+)` \| `(.*?)` \|", page, re.MULTILINE)
    assert [(key, value) for key, value in keys if value] == rows


def test_readme_is_short_and_has_a_small_screenshot() -> None:
    assert len(README.split()) <= 600
    images = re.findall(r"^!\[[^]]+\]\((.*?)\)$", README, re.MULTILINE)
    assert len(images) == 2
    assert all((ROOT / image).stat().st_size < 200_000 for image in images)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_files_named_in_document_exist(name: str) -> None:
    text = re.sub(r"^```.*?^```", "", DOCUMENTS[name], flags=re.MULTILINE | re.DOTALL)
    folder = (ROOT / name).parent
    linked = re.findall(r"\]\((?!https?://|#)([^)#]+)", text)
    modules = re.findall(r"`((?:imgsvc|tests|packaging)/[^`*]*|[a-z]+\.(?:py|toml|yaml))`", text)
    new = {
        "imgsvc/images/formats/NAME.py",
        "imgsvc/storage/example.py",
        "imgsvc/execution/example.py",
    }
    example = {"tests/data/layouts/example.csv"}
    assert [each for each in linked if not (folder / each).exists()] == []
    named = set(modules) - new - example
    assert [each for each in named if not exists_as_named(each)] == []


def exists_as_named(path: str) -> bool:
    """Return whether a file exists: in the repository, or a module by its name alone."""
    return (ROOT / path).exists() or any((ROOT / "imgsvc").rglob(path))


def test_links_to_headings_exist() -> None:
    for name, text in DOCUMENTS.items():
        for path, anchor in re.findall(r"\]\(([^):#]*)#([^)]+)\)", text):
            target = (ROOT / name).parent / path if path else ROOT / name
            assert anchor in anchors(target.read_text("utf-8")), f"{name}: {path}#{anchor}"


def anchors(text: str) -> Iterator[str]:
    """Yield the anchors of a document, as GitHub makes them from headings."""
    yield from re.findall(r'<a id="([^"]+)">', text)
    for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE):
        yield re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-")


def test_index_links_to_every_page() -> None:
    folder = ROOT / "docs"
    linked = set(re.findall(r"\]\(([^)#]+)", DOCUMENTS["docs/index.md"]))
    pages = {str(file.relative_to(folder)) for file in folder.glob("*/*.md")}
    assert pages <= linked


@pytest.mark.parametrize("name", DOCUMENTS)
def test_commands_named_in_document_exist(name: str) -> None:
    code = re.sub(r" # .*", "", code_of(DOCUMENTS[name]))
    commands = re.findall(r"(?:imgsvc|run\.py) ([a-z]+)(?: ([a-z]+))?", code)
    for command, subcommand in commands:
        if command in tasks():
            continue
        found = cli.commands.get(command)
        assert found is not None, command
        if isinstance(found, Group):
            assert subcommand in found.commands, f"{command} {subcommand}"


def tasks() -> set[str]:
    """Return the commands that run.py has beside those of imgsvc."""
    (names,) = re.findall(r"^TASKS = (.*)$", (ROOT / "run.py").read_text(), re.MULTILINE)
    return set(ast.literal_eval(names))


def test_tasks_of_run_script_hide_no_command() -> None:
    assert not tasks() & set(cli.commands)


def code_of(text: str) -> str:
    """Return the contents of code blocks and of backticks."""
    blocks = re.findall(r"^```.*?^```", text, re.MULTILINE | re.DOTALL)
    rest = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return "\n".join(blocks + re.findall(r"`([^`\n]+)`", rest))


@pytest.mark.parametrize("name", DOCUMENTS)
def test_options_named_in_document_exist(name: str) -> None:
    for line in code_of(DOCUMENTS[name]).splitlines():
        match = re.search(r"imgsvc (\w+)( \w+)?(.*)", line.partition(" #")[0])
        if match and match[1] in cli.commands:
            command: Command | None = cli.commands[match[1]]
            if isinstance(command, Group):
                command = command.commands.get((match[2] or "").strip())
            options = {
                option for each in (command.params if command else []) for option in each.opts
            }
            named = set(re.findall(r"(?<!\S)--?[a-z][a-z-]*", f"{match[2] or ''}{match[3]}"))
            assert named <= options | {"--help"}, line


def test_code_map_has_every_module() -> None:
    modules = {
        each.name + ("/" if each.is_dir() else "")
        for each in (ROOT / "imgsvc").iterdir()
        if (each.is_dir() or each.suffix == ".py") and not each.name.startswith("__")
    }
    page = DOCUMENTS["docs/explanation/architecture.md"]
    on_map = set(re.findall(r"`imgsvc/([a-z_]+(?:\.py|/))", page.partition("## Code map")[2]))
    assert modules - on_map == set()


def test_metrics_named_in_documents_and_dashboard_exist() -> None:
    page = DOCUMENTS["docs/reference/metrics.md"]
    known = set(re.findall(r"^\| `(imgsvc_\w+)`", page, re.MULTILINE))
    known |= {f"{name}_bucket" for name in known if name.endswith("_seconds")}
    documents = "\n".join(text for name, text in DOCUMENTS.items() if "metrics.md" not in name)
    assert set(re.findall(r"`(imgsvc_[a-z_]+)`", documents)) <= known
    panels = json.loads((ROOT / "docs/reference/grafana.json").read_text("utf-8"))["panels"]
    queries = [target["expr"] for panel in panels for target in panel["targets"]]
    in_dashboard = set(re.findall(r"imgsvc_\w+", "\n".join(queries)))
    assert in_dashboard <= known
    assert {name for name in known if f"{name}_bucket" not in known} <= in_dashboard


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
