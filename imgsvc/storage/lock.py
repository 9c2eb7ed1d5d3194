"""A lock that lets only one process use a data folder."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from imgsvc.errors import StartupError
from imgsvc.storage.filesystem import has_outputs

LOCK = "lock"
"""Name of the lock file in the data folder. It contains the process id of its holder."""


@contextmanager
def lock_data_dir(data_dir: Path, database: str) -> Iterator[None]:
    """Lock the data folder for this process. Create it with mode 0700 if it does not exist.

    `database` is the name of the database file in the folder. The operating system releases the lock
    when the process ends, even if it crashes. Raise `StartupError` if another process holds the lock,
    if the folder cannot be written, or if it has outputs but no database.
    """
    try:
        fd = _open(data_dir)
    except OSError as error:
        raise StartupError(
            f"Cannot write to storage.data_dir ({data_dir}): {error.strerror}. "
            "Set storage.data_dir to a folder that this user can write to."
        ) from None
    try:
        _acquire(fd, data_dir)
        if _is_missing_or_empty(data_dir / database) and has_outputs(data_dir):
            raise StartupError(
                f"storage.data_dir ({data_dir}) contains images, but their database {database} is "
                f"missing or empty. Restore {database} from a backup, or set storage.data_dir to an "
                "empty folder."
            )
        yield
    finally:
        os.close(fd)


def _is_missing_or_empty(database: Path) -> bool:
    """Return whether the database does not exist or has 0 bytes, e.g. after a copy to a full disk."""
    return not database.exists() or not database.stat().st_size


def _open(data_dir: Path) -> int:
    if not data_dir.is_dir():
        data_dir.mkdir(mode=0o700, parents=True)
        data_dir.chmod(0o700)  # a strict umask removes permissions of the owner too
    if not os.access(data_dir, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    return os.open(data_dir / LOCK, os.O_RDWR | os.O_CREAT, 0o600)


def _acquire(fd: int, data_dir: Path) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in {errno.EWOULDBLOCK, errno.EACCES}:
            raise StartupError(
                f"Cannot lock storage.data_dir ({data_dir}): {error.strerror}. "
                "Set storage.data_dir to a folder on a file system that supports file locks."
            ) from None
        pid = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
        holder = f"process {pid}" if pid.isdigit() else "another process"
        raise StartupError(
            f"storage.data_dir ({data_dir}) is in use by {holder}. Stop that process, or set "
            "storage.data_dir to another folder."
        ) from None
    with suppress(OSError):  # full disk; the id is only for the message of another process
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
