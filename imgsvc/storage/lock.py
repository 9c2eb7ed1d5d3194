"""One process for each `data_dir`, and the right one."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from imgsvc.errors import StartupError
from imgsvc.storage.filesystem import any_output

LOCK = "lock"


@contextmanager
def lock_data_dir(data_dir: Path, database: str) -> Iterator[None]:
    """Hold the folder for this process, and make it if need be, for its owner's eyes only.

    `database` is the name of the database's file in it. The lock ends with the process, however that
    ends. Raises `StartupError` where another process holds it, where it cannot be written, or where it
    has outputs and no database that knows them.
    """
    try:
        fd = _open(data_dir)
    except OSError as error:
        raise StartupError(
            f"cannot write to storage.data_dir, {data_dir}: {error.strerror}. "
            "Name a folder that this user may write to."
        ) from None
    try:
        _take(fd, data_dir)
        if _is_new(data_dir / database) and any_output(data_dir):
            raise StartupError(
                f"{data_dir} holds images, but not the database {database} that knows them. Put "
                f"{database} back from a backup, or name an empty folder as storage.data_dir."
            )
        yield
    finally:
        os.close(fd)


def _is_new(database: Path) -> bool:
    """Whether there is no database, or one that holds nothing: a copy that found no room, say."""
    return not database.exists() or not database.stat().st_size


def _open(data_dir: Path) -> int:
    if not data_dir.is_dir():
        data_dir.mkdir(mode=0o700, parents=True)
        data_dir.chmod(0o700)  # a strict umask would take more away
    if not os.access(data_dir, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    return os.open(data_dir / LOCK, os.O_RDWR | os.O_CREAT, 0o600)


def _take(fd: int, data_dir: Path) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in {errno.EWOULDBLOCK, errno.EACCES}:
            raise StartupError(
                f"cannot lock storage.data_dir, {data_dir}: {error.strerror}. Name a folder on a "
                "file system that can lock files."
            ) from None
        holder = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
        who = f"process {holder}" if holder.isdigit() else "another process"
        raise StartupError(
            f"{who} is using storage.data_dir, {data_dir}. Stop it, or name another folder."
        ) from None
    with suppress(OSError):  # a full disk; the number only serves another's message
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
