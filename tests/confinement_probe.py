"""A decoder that is taken over: functions for workers that try what a confined process must not do.

Each attempt is recorded as "denied" or with what it achieved. Only errors of permission are denials.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import json
import os
import platform
import resource
import signal
import socket
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from imgsvc.image_types import CompressedImage, CompressionSettings, ImageInfo

DENIALS = {errno.EPERM, errno.EACCES, errno.ENOSYS}
CALLS = {  # x86-64, aarch64
    "ptrace": (101, 117),
    "tgkill": (234, 131),
    "process_vm_readv": (310, 270),
    "unshare": (272, 97),
    "chroot": (161, 51),
    "rt_sigqueueinfo": (129, 138),
    "io_uring_setup": (425, 425),
    "pidfd_open": (434, 434),
    "openat2": (437, 437),
}
IMAGE_INFO = ImageInfo(1, 1, 1, 1, "jpeg", "jpeg", 90, 45, kept=False)

# Opened at import, before the worker is confined: to search its memory later.
_maps = Path("/proc/self/maps").open()  # noqa: SIM115
_memory = Path("/proc/self/mem").open("rb", buffering=0)  # noqa: SIM115


def system_call(name: str, *arguments: object) -> int:
    number = CALLS[name][platform.machine() == "aarch64"]
    libc = ctypes.CDLL(None, use_errno=True)
    result: int = libc.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), name)
    return result


def outcome(attempt: Callable[[], object]) -> str:
    try:
        result = attempt()
    except sqlite3.OperationalError:
        return "denied"
    except OSError as error:
        return "denied" if error.errno in DENIALS else f"allowed: {error}"
    return f"allowed: {result!r:.80}"


def fork() -> int:
    pid = os.fork()
    if not pid:
        os._exit(0)
    return os.waitpid(pid, 0)[1]


def write(path: Path) -> None:
    path.write_text("evil")
    path.unlink()


def signal_by_owner(pid: int) -> None:
    reader, writer = os.pipe()
    try:
        fcntl.fcntl(reader, fcntl.F_SETOWN, pid)
    finally:
        os.close(reader)
        os.close(writer)


def create_table(database: Path) -> None:
    with sqlite3.connect(database) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS evil (x)")


def file_attempts(task: dict[str, Any]) -> Iterator[tuple[str, Callable[[], object]]]:
    data_dir, config = Path(task["data_dir"]), Path(task["config"])
    database, package = data_dir / "imgsvc.db", config.parent / "imgsvc"
    for path in ("/etc/passwd", str(config), str(database), "/proc/self/environ", "/proc/version"):
        yield f"read {path}", lambda path=path: Path(path).read_bytes()[:20]  # type: ignore[misc]
    for folder in ("/", str(data_dir), str(config.parent), "/proc/self/fd"):
        yield f"list {folder}", lambda folder=folder: os.listdir(folder)  # type: ignore[misc]  # noqa: PTH208
    for parent in (data_dir, config.parent, package, Path("/tmp"), Path("/dev/shm")):
        yield f"write in {parent}", lambda parent=parent: write(parent / "evil")  # type: ignore[misc]
        yield f"mkdir in {parent}", lambda parent=parent: (parent / "dir").mkdir()  # type: ignore[misc]
    yield "create table", lambda: create_table(database)
    yield "append to package", lambda: os.open(package / "__init__.py", os.O_WRONLY | os.O_APPEND)
    yield "truncate", lambda: os.truncate(database, 0)
    yield "rename", lambda: database.rename(data_dir / "moved")
    yield "chmod", lambda: config.chmod(0o666)
    yield "openat2", lambda: system_call("openat2", -100, b"/etc/passwd", bytes(24), 24)
    yield "unlink", config.unlink


def process_attempts(task: dict[str, Any]) -> Iterator[tuple[str, Callable[[], object]]]:
    main = int(task["pid"])
    for name in ("environ", "mem", "maps", "cmdline", "root/etc/passwd"):
        yield f"main {name}", lambda name=name: os.open(f"/proc/{main}/{name}", os.O_RDONLY)  # type: ignore[misc]
    yield "process_vm_readv", lambda: system_call("process_vm_readv", main, 0, 0, 0, 0, 0)
    yield "ptrace", lambda: system_call("ptrace", 16, main, 0, 0)
    yield "kill", lambda: os.kill(main, 0)
    yield "kill group", lambda: os.killpg(os.getpgid(main), 0)
    yield "tgkill", lambda: system_call("tgkill", main, main, 0)
    yield "rt_sigqueueinfo", lambda: system_call("rt_sigqueueinfo", main, 0, bytes(128))
    yield "pidfd", lambda: system_call("pidfd_open", main, 0)
    yield "signal by owner", lambda: signal_by_owner(main)
    yield "limits", lambda: resource.prlimit(main, resource.RLIMIT_CORE)
    yield "priority", lambda: os.setpriority(os.PRIO_PROCESS, main, 0)
    yield "fork", fork
    yield "spawn", lambda: os.posix_spawn("/bin/true", ["true"], {})
    yield "exec", lambda: os.execv("/missing", ["missing"])
    yield "shell", lambda: os.execv("/bin/sh", ["sh", "-c", "exit 0"])
    yield "memfd", lambda: os.memfd_create("evil")
    yield "io_uring", lambda: system_call("io_uring_setup", 1, bytes(120))
    yield "chroot", lambda: system_call("chroot", b"/")
    yield "unshare", lambda: system_call("unshare", 0x10000000)


def network_attempts(task: dict[str, Any]) -> Iterator[tuple[str, Callable[[], object]]]:
    for name, family, kind in (
        ("tcp", socket.AF_INET, socket.SOCK_STREAM),
        ("udp", socket.AF_INET, socket.SOCK_DGRAM),
        ("tcp6", socket.AF_INET6, socket.SOCK_STREAM),
        ("unix", socket.AF_UNIX, socket.SOCK_STREAM),
        ("netlink", socket.AF_NETLINK, socket.SOCK_RAW),
    ):
        yield name, lambda family=family, kind=kind: socket.socket(family, kind)  # type: ignore[misc]
    yield "connect", lambda: socket.create_connection(("127.0.0.1", task["port"]), 5)
    yield "listen", lambda: socket.create_server(("127.0.0.1", 0))
    yield "socketpair", socket.socketpair


def secrets_in_memory(secrets: Sequence[dict[str, str]]) -> list[str]:
    """Return the beginnings of the secrets that this process's memory contains.

    A secret is described by its beginning, and by the length and the SHA-256 of the rest.
    """
    found = []
    _maps.seek(0)
    for line in _maps:
        span, mode = line.split()[:2]
        start, end = (int(each, 16) for each in span.split("-"))
        if mode[0] != "r" or line.rstrip().endswith(("[vvar]", "[vsyscall]", "[vvar_vclock]")):
            continue
        try:
            memory = os.pread(_memory.fileno(), end - start, start)
        except OSError:
            continue
        for secret in secrets:
            needle, size = secret["begin"].encode(), int(secret["size"])
            at = memory.find(needle)
            while at >= 0:
                rest = memory[at + len(needle) : at + len(needle) + size]
                if hashlib.sha256(rest).hexdigest() == secret["rest"]:
                    found.append(secret["begin"])
                at = memory.find(needle, at + 1)
        del memory
    return found


def threads_work() -> bool:
    results: list[int] = []
    thread = threading.Thread(target=lambda: results.append(1))
    thread.start()
    thread.join()
    return results == [1]


def allowed(task: dict[str, Any]) -> dict[str, str]:
    """Return the outcomes of what a decoder needs."""
    import wave  # noqa: PLC0415 - after the confinement: the standard library can be read

    import PIL.ImageMorph  # noqa: PLC0415 - and an installed package

    import imgsvc.offline  # noqa: F401, PLC0415 - and imgsvc

    module = Path(str(wave.__file__)).read_text()[:10], PIL.ImageMorph.__name__
    return {
        "modules": outcome(lambda: module),
        "threads": outcome(threads_work),
        "limits": outcome(lambda: resource.getrlimit(resource.RLIMIT_AS)),
        "own signal": outcome(lambda: signal.raise_signal(signal.SIGCHLD)),
    }


def probe(task: dict[str, Any]) -> dict[str, Any]:
    """Return the outcome of each attempt, and the secrets found in this process.

    `only`: the attempts to make; without it, all.
    """
    attempts = [*network_attempts(task), *process_attempts(task), *file_attempts(task)]
    attempts = [each for each in attempts if each[0] in task.get("only", [each[0]])]
    return {
        "needed": allowed(task),
        "environment": dict(os.environ),
        "secrets": secrets_in_memory(task["secrets"]),
        "attempts": {name: outcome(attempt) for name, attempt in attempts},
    }


def compress(data: bytes, settings: CompressionSettings, max_pixels: int) -> CompressedImage:
    return CompressedImage(json.dumps(probe(json.loads(data))).encode(), IMAGE_INFO)


def read(file: IO[bytes]) -> Iterator[bytes]:
    yield json.dumps(probe(json.load(file))).encode()
