"""A client that openapi-python-client generates from the OpenAPI document works."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import StartService
from tests.origin import ROOT, Origin, Reply

pytestmark = pytest.mark.external
LOCK = ROOT / "tests" / "openapi-client.lock"
API_KEY = "a-key-of-this-test"


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the generator in an environment of its own, and return the folder of its programs."""
    folder = tmp_path_factory.mktemp("generator")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = str(folder / "bin" / "python")
    install = [python, "-m", "pip", "install", "--quiet", "--require-hashes", "-r", str(LOCK)]
    subprocess.run(install, check=True)
    return folder / "bin"


@pytest.mark.timeout(600)
def test_generated_client_has_no_warnings_and_works(
    generator: Path, start_service: StartService, origin: Origin, tmp_path: Path
) -> None:
    service = start_service(server={"api_keys": [API_KEY]})
    origin.script("/slow.jpg", Reply(gate="never"))
    generated = subprocess.run(
        [
            str(generator / "openapi-python-client"),
            "generate",
            "--fail-on-warning",
            *("--url", f"{service.url}/openapi.json"),
            *("--meta", "none"),
            *("--output-path", str(tmp_path / "imgsvc_client")),
        ],
        env=os.environ | {"PATH": f"{generator}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    output = generated.stdout + generated.stderr
    assert generated.returncode == 0, output
    assert "warning" not in output.lower(), output
    program = ROOT / "tests" / "generated_client.py"
    arguments = [service.url, API_KEY, origin.url("/photo/1.jpg"), origin.url("/slow.jpg")]
    used = subprocess.run(
        [str(generator / "python"), str(program), *arguments],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert used.returncode == 0, used.stderr
