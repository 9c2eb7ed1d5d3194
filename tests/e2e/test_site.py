"""The documents become a static site without a warning."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.origin import ROOT

pytestmark = pytest.mark.external
LOCK = ROOT / "docs" / "site.lock"


@pytest.fixture(scope="module")
def sphinx(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Install Sphinx in an environment of its own, and return its command."""
    folder = tmp_path_factory.mktemp("sphinx")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = str(folder / "bin" / "python")
    install = [python, "-m", "pip", "install", "--quiet", "--require-hashes", "-r", str(LOCK)]
    subprocess.run(install, check=True)
    return [python, "-m", "sphinx"]


@pytest.mark.timeout(600)
def test_site_has_every_page_and_no_broken_link(sphinx: list[str], tmp_path: Path) -> None:
    docs, site = ROOT / "docs", tmp_path / "site"
    build = [*sphinx, "-W", "--keep-going", "-n", "-q", "-d", str(tmp_path / "cache")]
    result = subprocess.run(
        [*build, str(docs), str(site)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    for page in docs.rglob("*.md"):
        assert (site / page.relative_to(docs).with_suffix(".html")).exists(), page
    assert "how-to/shops.html" in (site / "index.html").read_text("utf-8")
