"""Free space of the file system that holds the data folder."""

from __future__ import annotations

import os
from pathlib import Path


class DiskSpace:
    """The file system that contains `data_dir`. `min_free_bytes` of it are kept free."""

    def __init__(self, data_dir: Path, min_free_bytes: int) -> None:
        self._data_dir = data_dir
        self._min_free_bytes = min_free_bytes

    def free(self) -> int:
        """Return the bytes that this process can still write.

        0 if the file system cannot be read or has no free inodes.
        """
        try:
            found = os.statvfs(self._data_dir)
        except OSError:
            return 0
        if found.f_files and not found.f_favail:
            return 0
        return found.f_bavail * found.f_frsize

    def has_free_space(self) -> bool:
        """Return whether more outputs can be stored."""
        return self.free() > self._min_free_bytes
