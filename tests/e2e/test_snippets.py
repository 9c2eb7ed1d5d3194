"""Every command and every snippet of the documents runs, except those that are listed here by name.

Commands are the lines `$ …` of console blocks. They run in a folder of their own, with a running
service in place of the one on port 8080. An ID in a command stands for the last one that was printed.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from imgsvc.config import Config
from tests.e2e.test_docs import DOCUMENTS
from tests.origin import ROOT
from tests.service_process import Service

REQUEST_ID = re.compile(r"\b[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}\b")

NOT_RUN = {
    "run.py$": "the fixture starts the service",
    "run.py demo$": "tests/e2e/test_run.py",
    "run.py bench": "takes minutes; tests/bench",
    "run.py test|run.py lint": "this is a test",
    "docker ": "needs a daemon; see test_container.py and test_deployment.py",
    "imgsvc node ": "needs a coordinator; test_cluster.py",
    "^# ": "needs root and systemd; test_docs.py verifies the unit file",
}
"""Commands that do not run here, as patterns, and why."""

OTHER_LANGUAGES = {
    # test_reverse_proxy.py. The block in YAML needs an account of Cloudflare.
    "docs/how-to/reverse-proxy.md": {"nginx", "caddyfile", "yaml"},
    "docs/how-to/extend.md": {"diff", "python"},  # test_image_formats.py, test_seams.py
    "docs/how-to/weekly-run.md": {"bash"},  # below
    "docs/reference/client.md": {"python"},  # below
    "docs/how-to/webhooks.md": {"json", "javascript", "php", "python"},  # test_webhook_receivers.py
    "CONTRIBUTING.md": {"sh"},  # this is a test
}
"""Languages of blocks that only some documents have, and where they are tested."""


def blocks(name: str) -> list[tuple[str, str]]:
    """Return the code blocks of a document: language and content."""
    pattern = r"^( *)```(\w*)\n(.*?)^\1```$"
    found = re.findall(pattern, DOCUMENTS[name], re.MULTILINE | re.DOTALL)
    return [(language, content) for _, language, content in found]


def commands(name: str) -> Iterator[str]:
    """Yield the commands of the console blocks of a document, without their output."""
    for language, content in blocks(name):
        if language == "console":
            lines = re.findall(r"^([$#] (?:.*\\\n)*.*)$", content, re.MULTILINE)
            yield from (line.removeprefix("$ ") for line in lines)


def is_run(command: str) -> bool:
    """Return whether a command runs here."""
    bare = re.sub(r" {2,}#.*", "", command).strip()
    return not any(re.search(pattern, bare) for pattern in NOT_RUN)


PAGES_WITH_COMMANDS = [name for name in DOCUMENTS if any(map(is_run, commands(name)))]


@pytest.fixture
def environ(service: Service, tmp_path: Path) -> dict[str, str]:
    """Prepare the folder in which commands run, and return their environment."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, arguments in {"imgsvc": "-P -m imgsvc", "python3": ""}.items():
        program = programs / name
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments} "$@"\n')
        program.chmod(0o755)
    work = tmp_path / "work"
    work.mkdir()
    sample = service.get("/sample/products.csv").body.decode()
    complete = "\n".join(line for line in sample.splitlines() if "missing" not in line)
    for name in ("products.csv", "export.csv"):
        (work / name).write_text(complete)
    return {
        **{name: text for name, text in os.environ.items() if not name.startswith("IMGSVC_")},
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "IMGSVC_SERVER": service.url,
        "IMGSVC_STORAGE__DATA_DIR": str(service.data_dir),
        "IMGSVC_FETCH__ALLOWED_NETWORKS": '["127.0.0.0/8"]',
        "KEY": "a-key-of-this-test",
    }


def run(command: str, folder: Path, environ: dict[str, str]) -> str:
    """Run a command in a shell, and return what it prints. Fail if its exit code is not 0."""
    result = subprocess.run(
        ["/bin/bash", "-c", command],
        cwd=folder,
        env=environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=90,
    )
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout + result.stderr


@pytest.mark.parametrize("name", PAGES_WITH_COMMANDS)
def test_commands_of_document_run(
    name: str, service: Service, environ: dict[str, str], tmp_path: Path
) -> None:
    last_id = ""
    for command in filter(is_run, commands(name)):
        text = command.replace("http://127.0.0.1:8080", service.url)
        text = text.replace("/mnt/backup", str(tmp_path))
        if REQUEST_ID.search(text):
            assert last_id, f"{command}: no command has printed an ID"
            text = REQUEST_ID.sub(last_id, text)
        if "ftp://" not in text:  # the example of an invalid file
            text = text.replace("curl ", "curl --silent --show-error --fail-with-body ")
        output = run(text, tmp_path / "work", environ)
        last_id = next(iter(REQUEST_ID.findall(output)), last_id)


def test_every_exception_is_in_a_document() -> None:
    everything = [re.sub(r" {2,}#.*", "", c) for name in DOCUMENTS for c in commands(name)]
    everything += [content for name in DOCUMENTS for _, content in blocks(name)]
    assert [p for p in NOT_RUN if not any(re.search(p, c, re.MULTILINE) for c in everything)] == []


def test_every_block_has_a_language_that_is_tested() -> None:
    for name in DOCUMENTS:
        known = {"console", "toml", "text"} | OTHER_LANGUAGES.get(name, set())
        assert {language for language, _ in blocks(name)} <= known, name


@pytest.mark.parametrize("name", [n for n in DOCUMENTS if "toml" in dict(blocks(n))])
def test_settings_of_document_are_valid(name: str) -> None:
    for language, content in blocks(name):
        if language == "toml":
            Config.model_validate(tomllib.loads(content))


def test_python_of_the_page_of_the_client_runs(
    service: Service, environ: dict[str, str], tmp_path: Path
) -> None:
    scripts = [
        content for language, content in blocks("docs/reference/client.md") if language == "python"
    ]
    assert len(scripts) == 2
    for number, script in enumerate(scripts):
        file = tmp_path / f"{number}.py"
        file.write_text(script.replace("http://127.0.0.1:8080", service.url))
        output = run(f"python3 {file}", tmp_path / "work", environ)
        assert 0 < float(output.split()[-1]) <= 100
    assert (tmp_path / "work" / "products-compressed.csv").exists()


def test_catalogue_script_replaces_the_result_only_after_a_complete_run(
    service: Service, environ: dict[str, str], tmp_path: Path
) -> None:
    (script,) = [
        text for language, text in blocks("docs/how-to/weekly-run.md") if language == "bash"
    ]
    file, folder = tmp_path / "compress-catalogue", tmp_path / "catalogue"
    file.write_text(script)
    folder.mkdir()
    (folder / "import.csv").write_text("the last result")
    incomplete = {**environ, "EXPORT_URL": f"{service.url}/sample/products.csv"}
    with pytest.raises(AssertionError):
        run(f"sh {file} {folder}", tmp_path, incomplete)
    assert (folder / "import.csv").read_text() == "the last result"
    url = (tmp_path / "work" / "export.csv").as_uri()
    run(f"sh {file} {folder}", tmp_path, {**environ, "EXPORT_URL": url})
    assert f"{service.url}/images/" in (folder / "import.csv").read_text()
