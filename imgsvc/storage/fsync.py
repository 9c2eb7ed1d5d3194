"""Functions that wait until written data is on the disk."""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import suppress
from pathlib import Path

_FULL_SYNC: int | None = getattr(fcntl, "F_FULLFSYNC", None)
"""The macOS command to sync to the disk. There, `fsync` hands the bytes to the drive, which may keep
them in its cache. None on other systems."""


def sync_file(fd: int) -> None:
    """Return once the file's bytes survive a power cut."""
    if _FULL_SYNC is not None:
        with suppress(OSError):  # some file systems lack it
            fcntl.fcntl(fd, _FULL_SYNC)
            return
    os.fsync(fd)


def begin_sync(fd: int) -> None:
    """Start to write the file to the disk, and return at once. Later syncs of many files overlap."""
    if hasattr(os, "posix_fadvise"):
        with suppress(OSError):  # only a hint
            # Linux starts to write dirty pages that are no longer needed, and keeps them meanwhile.
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


def sync_folder(folder: Path) -> None:
    """Return once the folder's entries survive a power cut."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        sync_file(fd)
    except OSError as error:
        if error.errno != errno.EINVAL:  # EINVAL: the file system cannot sync folders
            raise
    finally:
        os.close(fd)
