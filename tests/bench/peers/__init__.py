"""Other programs for the same task. Each is installed once per machine, in a separate folder."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SHARP, IMG2DATASET = "sharp with undici", "img2dataset"
SCRIPTS = Path(__file__).parent
_INSTALLED = Path(tempfile.gettempdir()) / "imgsvc-bench-peers"
NODE = _INSTALLED / "node"
_VENV = _INSTALLED / "venv"
PYTHON = _VENV / "bin" / "python"


def install() -> set[str]:
    """Install the other programs. Return the names of those installed, and report the others."""
    available = set()
    for name, installed in ((SHARP, _install_sharp), (IMG2DATASET, _install_img2dataset)):
        if installed():
            available.add(name)
        else:
            print(f"{name} cannot be installed here and is skipped")
    return available


def _install_sharp() -> bool:
    if shutil.which("npm") is None or shutil.which("node") is None:
        return False
    NODE.mkdir(parents=True, exist_ok=True)
    (NODE / "package.json").write_text('{"private": true}')
    npm = ["npm", "install", "--silent", "--no-audit", "--no-fund", "sharp", "undici@7"]
    return subprocess.run(npm, cwd=NODE, check=False).returncode == 0


def _install_img2dataset() -> bool:
    subprocess.run([sys.executable, "-m", "venv", str(_VENV)], check=True)
    pip = [str(_VENV / "bin" / "pip"), "install", "-qq", "img2dataset", "setuptools<81"]
    return subprocess.run(pip, check=False).returncode == 0
