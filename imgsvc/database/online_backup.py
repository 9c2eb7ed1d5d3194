"""Consistent copies of a database that is in use, also from another process."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

BUSY_SECONDS = 60.0


class CopyError(Exception):
    """SQLite cannot read or copy the database; the message says which one, and why."""


@contextmanager
def _opened(database: Path, mode: str) -> Iterator[sqlite3.Connection]:
    uri = f"{database.absolute().as_uri()}?mode={mode}"
    try:
        with closing(sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS)) as connection:
            yield connection
    except sqlite3.Error as error:
        raise CopyError(f"cannot copy the database {database}: {error}") from error


def copy_database(source: Path, dest: Path) -> None:
    """Copy the database `source` to `dest`, which must not exist, as of one moment. Blocks.

    One read snapshot is copied: writers are not held up. On disk when it returns. Raises OSError or
    `CopyError`.
    """
    if dest.exists():
        raise FileExistsError(f"{dest} exists already")
    with _opened(source, "rw") as connection:
        connection.execute("VACUUM INTO ?", (str(dest),))
    for path, flags in ((dest, os.O_RDWR), (dest.parent, os.O_RDONLY)):
        descriptor = os.open(path, flags)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def stored_names(database: Path) -> Iterator[str]:
    """Give the names of the stored files that a database, such as a copy, knows. Blocks.

    Raises `CopyError`.
    """
    with _opened(database, "ro") as connection:
        for (name,) in connection.execute("SELECT name FROM files ORDER BY name"):
            yield name
