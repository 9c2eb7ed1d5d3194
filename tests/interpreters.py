"""Finds the supported Python interpreters of this machine. As a script, prints the other ones."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

VERSIONS = ("3.11", "3.12", "3.13", "3.14")


def find_interpreters() -> dict[str, str]:
    """Return the paths of the interpreters, by version. They can create environments."""
    home = Path.home()
    folders = [
        *(Path(folder) for folder in os.get_exec_path()),
        *(home / ".pyenv" / "versions").glob("*/bin"),
        *(home / ".local" / "share" / "uv" / "python").glob("*/bin"),
    ]
    found: dict[str, str] = {}
    for version in VERSIONS:
        for folder in folders:
            path = folder / f"python{version}"
            # An interpreter of pyenv's shims may be one that is not selected.
            if path.exists() and _version_of(path) == version:
                found.setdefault(version, str(path))
    return found


def _version_of(python: Path) -> str:
    code = "import sys, venv, ensurepip; print('%d.%d' % sys.version_info[:2])"
    command = [str(python), "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


if __name__ == "__main__":
    running = "{}.{}".format(*sys.version_info)
    for version, python in find_interpreters().items():
        if version != running:
            print(version, python)
