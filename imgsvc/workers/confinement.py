"""The confinement of worker processes: what a decoder that is taken over can still do.

A confined worker computes and answers the main process. It reads only the files of Python, of the
installed packages and of imgsvc, and it writes none. On Linux two layers of the kernel enforce this:

- Landlock (kernel 5.13 and newer): files, and with newer kernels TCP and signals.
- seccomp: system calls (`seccomp.py`).

Each layer may be missing. Then the other ones apply, and the service reports the missing one.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
import sysconfig
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from imgsvc.workers import seccomp

LANDLOCK, SECCOMP = "landlock", "seccomp"
LAYERS = (LANDLOCK, SECCOMP)

_SET_DUMPABLE, _SET_NO_NEW_PRIVS = 4, 38  # linux/prctl.h
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_GET_VERSION, _PATH_BENEATH = 1, 1
_READ_FILE, _READ_DIR = 1 << 2, 1 << 3
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}
"""The number of rights to files that each version of Landlock knows; 16 in newer versions."""
_NETWORK_RIGHTS, _SCOPES = 0b11, 0b11
"""TCP: bind and connect (from version 4). Scopes: abstract sockets and signals (from version 6)."""


def unavailable_layers() -> list[str]:
    """Return the layers that the kernel, or the container around this process, does not offer."""
    if sys.platform != "linux":
        return list(LAYERS)
    offers = {LANDLOCK: _landlock_version() >= 1, SECCOMP: seccomp.available()}
    return [layer for layer in LAYERS if not offers[layer]]


def confinement_warnings() -> list[str]:
    """Return a sentence for each layer that is unavailable."""
    return [
        f"Workers run without {layer}: this system does not offer it. See OPERATIONS.md."
        for layer in unavailable_layers()
    ]


def confine() -> list[str]:
    """Confine this process permanently, and return the layers that are missing.

    Call this from the process's only thread: Landlock does not restrict threads that exist already.
    """
    os.environ.clear()
    _limit_files()
    if sys.platform != "linux":
        return list(LAYERS)
    forbid_inspection()
    libc = ctypes.CDLL(None)
    if libc.prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return list(LAYERS)
    holds = {LANDLOCK: _restrict_files(_readable_paths()), SECCOMP: seccomp.install()}
    return [layer for layer in LAYERS if not holds[layer]]


def forbid_inspection() -> None:
    """Forbid other processes of this user to read this process's memory and environment.

    The process also writes no core dump. On Linux only.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_DUMPABLE, 0, 0, 0, 0)


def _limit_files() -> None:
    """Limit the files that this process may write to 0 bytes."""
    import resource  # noqa: PLC0415 - Unix only

    for limit in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE):
        with suppress(OSError, ValueError):
            resource.setrlimit(limit, (0, 0))


def _readable_paths() -> set[str]:
    """Return the folders that hold Python, the installed packages, imgsvc and loaded libraries.

    The folder that contains `imgsvc/` is not among them: in a checkout it has the configuration.
    """
    paths = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    paths |= {path for path in sys.path if Path(path).name in {"site-packages", "dist-packages"}}
    paths.add(str(Path(__file__).resolve().parents[1]))
    return paths | _library_folders()


def _library_folders() -> set[str]:
    """Return the folders of the shared libraries that are loaded. Others of them may be needed."""
    with open("/proc/self/maps") as file:  # noqa: PTH123 - this runs at the start of each worker
        mapped = {line.rstrip("\n").split(maxsplit=5)[-1] for line in file}
    return {os.path.dirname(path) for path in mapped if path.startswith("/") and ".so" in path}  # noqa: PTH120


def _landlock_version() -> int:
    return _system_call(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(_GET_VERSION))


def _restrict_files(readable: Iterable[str]) -> bool:
    """Restrict this process by Landlock to reading these folders. Return False if that failed."""
    version = _landlock_version()
    if version < 1 or len(os.listdir("/proc/self/task")) != 1:  # noqa: PTH208
        return False
    rights = [(1 << _FILE_RIGHTS.get(version, 16)) - 1]
    rights += [_NETWORK_RIGHTS] if version >= 4 else []
    rights += [_SCOPES] if version >= 6 else []
    attributes = struct.pack(f"{len(rights)}Q", *rights)
    ruleset = _system_call(
        _CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), ctypes.c_uint32(0)
    )
    if ruleset < 0:
        return False
    try:
        for path in readable:
            _allow_reading(ruleset, path)
        return _system_call(_RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint32(0)) == 0
    finally:
        os.close(ruleset)


def _allow_reading(ruleset: int, path: str) -> None:
    """Allow reading the files beneath a folder. Skip a path that does not exist."""
    with suppress(OSError):
        folder = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        rule = struct.pack("=Qi", _READ_FILE | _READ_DIR, folder)
        _system_call(
            _ADD_RULE, ctypes.c_int(ruleset), ctypes.c_int(_PATH_BENEATH), rule, ctypes.c_uint32(0)
        )
        os.close(folder)


def _system_call(number: int, *arguments: object) -> int:
    """Make a system call. Return -1 if it fails."""
    syscall = ctypes.CDLL(None).syscall
    syscall.restype = ctypes.c_long
    return int(syscall(ctypes.c_long(number), *arguments))
