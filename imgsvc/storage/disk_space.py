"""How much room is left."""

from __future__ import annotations

import os
from pathlib import Path


class DiskSpace:
    """The file system that `data_dir` is on, of which `min_free_bytes` are to stay free."""

    def __init__(self, data_dir: Path, min_free_bytes: int) -> None:
        self._data_dir = data_dir
        self._min_free_bytes = min_free_bytes

    def free(self) -> int:
        """The bytes that this process may still write; 0 where no more files can be made."""
        try:
            found = os.statvfs(self._data_dir)
        except OSError:
            return 0
        if found.f_files and not found.f_favail:
            return 0
        return found.f_bavail * found.f_frsize

    def has_free_space(self) -> bool:
        """Whether there is room for more outputs."""
        return self.free() > self._min_free_bytes
