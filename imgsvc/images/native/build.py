"""Build the native module beside this file. Run it as a script: it needs no other module of imgsvc.

`run.py`, the Dockerfile and the hook that builds wheels call it. The result has the limited API of
CPython 3.11, so it serves all later versions.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
MODULE = "_requantise.abi3.so"
STAMP = "_requantise.built"
"""The file that says from which sources, for which platform, the module was built."""
SOURCES = ("requantise.c", "huffman_tables.h", "build.py")
FLAGS = ("-O3", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror=implicit")
PACKAGES = {
    "apt-get": "apt install gcc libjpeg-dev python3-dev",
    "dnf": "dnf install gcc libjpeg-turbo-devel python3-devel",
    "apk": "apk add gcc musl-dev libjpeg-turbo-dev python3-dev",
    "brew": "brew install jpeg-turbo pkg-config",
}
"""The command that installs what the build needs, by package manager."""


class BuildError(Exception):
    """The module cannot be built. The message says why."""


def build(folder: Path = FOLDER, *extra_flags: str) -> Path:
    """Compile the module into `folder`, and return its path. Raise `BuildError`."""
    target = folder / MODULE
    partial = folder / f"{MODULE}.{os.getpid()}"
    command = [
        *_compiler(),
        *FLAGS,
        *(
            ("-bundle", "-undefined", "dynamic_lookup")
            if sys.platform == "darwin"
            else ("-shared",)
        ),
        f"-I{sysconfig.get_path('include')}",
        *_libjpeg("--cflags"),
        str(FOLDER / "requantise.c"),
        "-o",
        str(partial),
        *(_libjpeg("--libs") or ["-ljpeg"]),
        *extra_flags,
    ]
    result = _run(command)
    if result.returncode != 0:
        partial.unlink(missing_ok=True)
        raise BuildError(_reason(result.stderr))
    partial.replace(target)
    return target


def build_if_changed() -> None:
    """Build the module beside this file, unless it is built from the present sources already."""
    stamp = FOLDER / STAMP
    if not (FOLDER / MODULE).exists() or not stamp.exists() or stamp.read_text() != _digest():
        build()
        stamp.write_text(_digest())


def _digest() -> str:
    digest = hashlib.sha256(f"{sys.platform} {platform.machine()}".encode())
    for name in SOURCES:
        digest.update((FOLDER / name).read_bytes())
    return digest.hexdigest()


def _compiler() -> list[str]:
    command = shlex.split(os.environ.get("CC", "")) or ["cc"]
    if shutil.which(command[0]) is None:
        raise BuildError("there is no C compiler")
    return command


def _libjpeg(flag: str) -> list[str]:
    """Return compiler or linker flags of libjpeg, or [] if pkg-config does not know them."""
    if shutil.which("pkg-config") is None:
        return []
    result = _run(["pkg-config", flag, "libjpeg"])
    return shlex.split(result.stdout) if result.returncode == 0 else []


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "LC_ALL": "C"}
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=False)


def _reason(output: str) -> str:
    """Return the reason of a failure in a few words, given the compiler's messages."""
    for header, name in {"Python.h": "Python's", "jpeglib.h": "libjpeg's"}.items():
        if f"{header}" in output and "such file" in output:
            return f"{name} headers are missing"
    return next((line for line in output.splitlines() if "error" in line), output.strip())


def advice() -> str:
    """Return the command that installs what the build needs on this system."""
    found = (command for program, command in PACKAGES.items() if shutil.which(program))
    return next(found, "install a C compiler and the headers of Python and libjpeg")


def main() -> int:
    """Build the module, and return the exit code. Print the reason of a failure."""
    try:
        build_if_changed()
    except (BuildError, OSError) as error:
        print(f"{error} (`{advice()}`)")  # noqa: T201 - the result of the script
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
