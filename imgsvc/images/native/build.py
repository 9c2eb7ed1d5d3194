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
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).resolve().parent
MODULE = "_requantise.abi3.so"
STAMP = "_requantise.built"
"""The file with the digest of the sources and the platform of the module, or why it cannot be built."""
SOURCES = ("requantise.c", "huffman_tables.h", "build.py")
FLAGS = ("-O3", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror=implicit")
MACOS_FLAGS = ("-bundle", "-undefined", "dynamic_lookup")
PACKAGES = {
    "apt-get": "apt install gcc libjpeg-dev python3-dev",
    "dnf": "dnf install gcc libjpeg-turbo-devel python3-devel",
    "apk": "apk add gcc musl-dev libjpeg-turbo-dev python3-dev",
    "brew": "brew install jpeg-turbo pkg-config",
}
"""The command that installs what the build needs, by package manager."""


class BuildError(Exception):
    """The module cannot be built. The message says why."""


class Library(NamedTuple):
    """The flags of the compiler and of the linker for libjpeg."""

    cflags: Sequence[str]
    libs: Sequence[str]


def build(folder: Path = FOLDER, *extra_flags: str, library: Library | None = None) -> Path:
    """Compile the module into `folder`, and return its path. Raise `BuildError`.

    `library` None is the libjpeg of the system.
    """
    target = folder / MODULE
    partial = folder / f"{MODULE}.{os.getpid()}"
    library = library or _system_libjpeg()
    command = [
        *compiler(),
        *FLAGS,
        *extra_flags,
        *(MACOS_FLAGS if sys.platform == "darwin" else ["-shared"]),
        f"-I{sysconfig.get_path('include')}",
        *library.cflags,
        str(FOLDER / "requantise.c"),
        "-o",
        str(partial),
        *library.libs,
    ]
    result = _run(command)
    if result.returncode != 0:
        partial.unlink(missing_ok=True)
        raise BuildError(_reason(result.stderr))
    partial.replace(target)
    return target


def build_if_changed() -> str | None:
    """Build the module beside this file, unless it is built from the present sources already.

    Return what is missing and how to install it, or None if the module is there.
    """
    stamp = FOLDER / STAMP
    digest = _digest()
    try:
        if not (FOLDER / MODULE).exists() or read_stamp() != digest:
            build()
            stamp.write_text(digest)
    except (BuildError, OSError) as error:
        reason = f"{error} ({_advice()})"
        with suppress(OSError):
            stamp.write_text(reason)
        return reason
    return None


def read_stamp() -> str:
    """Return the text of the stamp, or an empty one."""
    try:
        return (FOLDER / STAMP).read_text()
    except OSError:
        return ""


def _digest() -> str:
    digest = hashlib.sha256(f"{sys.platform} {platform.machine()}".encode())
    for name in SOURCES:
        digest.update((FOLDER / name).read_bytes())
    return digest.hexdigest()


def compiler() -> list[str]:
    """Return the command of the C compiler: `$CC`, or `cc`. Raise `BuildError` if there is none."""
    command = shlex.split(os.environ.get("CC", "")) or ["cc"]
    if shutil.which(command[0]) is None:
        raise BuildError("there is no C compiler")
    return command


def _system_libjpeg() -> Library:
    if shutil.which("pkg-config") is not None:
        results = [_run(["pkg-config", flag, "libjpeg"]) for flag in ("--cflags", "--libs")]
        if all(result.returncode == 0 for result in results):
            return Library(*(shlex.split(result.stdout) for result in results))
    return Library([], ["-ljpeg"])


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "LC_ALL": "C"}
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=False)


def _reason(output: str) -> str:
    """Return the reason of a failure in a few words, given the compiler's messages."""
    for header, name in {"Python.h": "Python's", "jpeglib.h": "libjpeg's"}.items():
        if f"{header}" in output and "such file" in output:
            return f"{name} headers are missing"
    return next((line for line in output.splitlines() if "error" in line), output.strip())


def _advice() -> str:
    """Return what installs what the build needs on this system."""
    commands = (command for program, command in PACKAGES.items() if shutil.which(program))
    command = next(commands, None)
    return f"`{command}`" if command else "install a C compiler, and Python's and libjpeg's headers"


def main() -> int:
    """Build the module, and return the exit code. Print why it cannot be built."""
    reason = build_if_changed()
    if reason is not None:
        print(reason)  # noqa: T201 - the result of the script
    return 0 if reason is None else 1


if __name__ == "__main__":
    sys.exit(main())
