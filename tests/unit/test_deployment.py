"""The files for containers set the limits that the documents promise."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from imgsvc.config_loader import load_config

ROOT = Path(__file__).parents[2]


def test_compose_limits_memory_processes_and_temporary_files() -> None:
    text = (ROOT / "compose.yaml").read_text()
    assert re.search(r"^    mem_limit: \$\{IMGSVC_MEMORY:-4g\}$", text, re.MULTILINE)
    assert re.search(r"^    pids_limit: \d+$", text, re.MULTILINE)
    assert re.search(r'^    tmpfs: \["/tmp:size=\d+m"\]$', text, re.MULTILINE)


def expanded(value: str, environ: dict[str, str]) -> str:
    """Return a value of compose.yaml with its variables replaced, as docker compose does it."""
    match = re.fullmatch(r"\$\{(\w+):([-+])(.*)\}", value)
    assert match is not None, value
    variable = environ.get(match[1], "")
    if match[2] == "-":
        return variable or match[3]
    return match[3].replace(f"${{{match[1]}}}", variable) if variable else ""


@pytest.mark.parametrize(
    ("key", "keys"), [("", ()), ("0123456789abcdef0123", ("0123456789abcdef0123",))]
)
def test_compose_needs_no_key_and_sets_the_one_of_the_environment(
    key: str, keys: tuple[str, ...], tmp_path: Path
) -> None:
    text = (ROOT / "compose.yaml").read_text()
    assert re.findall(r"^    ports: (.*)$", text, re.MULTILINE) == ['["127.0.0.1:8080:8080"]']
    environment = {
        name: expanded(value, {"IMGSVC_KEY": key})
        for name, value in re.findall(r"^      (IMGSVC_\w+): '?(.*?)'?$", text, re.MULTILINE)
    }
    file = tmp_path / "config.toml"
    file.write_text("")
    assert "IMGSVC_SERVER__API_KEYS" in environment
    config = load_config(file, environ=environment)
    assert config.server.api_keys == keys
    assert config.server.public_url == ""


def test_empty_list_in_the_environment_keeps_the_one_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text("[server]\napi_keys = ['0123456789abcdef0123']\n")
    config = load_config(file, environ={"IMGSVC_SERVER__API_KEYS": "", "IMGSVC_FETCH__HEADERS": ""})
    assert config.server.api_keys == ("0123456789abcdef0123",)
