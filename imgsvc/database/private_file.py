"""The mode of the database file."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def make_private(path: Path) -> None:
    """Create the database file if it is missing, and let only its owner read it. Raise OSError.

    SQLite gives its other files the mode of this one. Version 1.0 created them for all users to read.
    """
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o600))
    for name in (path.name, f"{path.name}-wal", f"{path.name}-shm"):
        # Another user may own the file. Opening it would release SQLite's locks.
        with suppress(FileNotFoundError, PermissionError):
            path.with_name(name).chmod(0o600)
