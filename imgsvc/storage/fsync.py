"""Make the disk keep what was written."""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import suppress
from pathlib import Path

_FULL_SYNC: int | None = getattr(fcntl, "F_FULLFSYNC", None)
"""macOS: there `fsync` hands the bytes to the drive, which may keep them in its cache."""


def sync_file(fd: int) -> None:
    """Return once the file's bytes survive a power cut."""
    if _FULL_SYNC is not None:
        with suppress(OSError):  # some file systems lack it
            fcntl.fcntl(fd, _FULL_SYNC)
            return
    os.fsync(fd)


def begin_sync(fd: int) -> None:
    """Let the disk begin to write the file, and return at once: many then wait for it together."""
    if hasattr(os, "posix_fadvise"):
        with suppress(OSError):  # it is but advice
            # Linux writes dirty pages that are not needed any more, and keeps them while it does.
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


def sync_folder(folder: Path) -> None:
    """Return once the folder's entries survive a power cut."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        sync_file(fd)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that syncs no folders
            raise
    finally:
        os.close(fd)
