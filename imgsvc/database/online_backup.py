"""Consistent copies of a database that is in use, by this or another process."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

BACKUP_BUSY_SECONDS = 60.0
"""How long to wait for a lock of another process."""


class DatabaseCopyError(Exception):
    """SQLite cannot read or copy a database. The message says which one, and why."""


@contextmanager
def _opened(database: Path, mode: str) -> Iterator[sqlite3.Connection]:
    uri = f"{database.absolute().as_uri()}?mode={mode}"
    try:
        with closing(sqlite3.connect(uri, uri=True, timeout=BACKUP_BUSY_SECONDS)) as connection:
            yield connection
    except sqlite3.Error as error:
        raise DatabaseCopyError(f"Cannot copy the database {database}: {error}.") from error


_CHANGES = {
    "instance": "UPDATE instance SET is_backup = 1",
    "sessions": "DELETE FROM sessions",  # else a restore would bring back sessions that have ended
}
"""What is changed in a copy of a database, by the table, which older schemas lack."""


def copy_database(source: Path, dest: Path) -> None:
    """Copy a snapshot of the database `source` to `dest`, which must not exist. Blocks.

    The copy is marked as a backup, and has no sessions. Writers can continue meanwhile. When this
    returns, the copy is synced to the disk. Raise OSError or `DatabaseCopyError`.
    """
    if dest.exists():
        raise FileExistsError(f"{dest} already exists.")
    os.close(os.open(dest, os.O_CREAT | os.O_EXCL, 0o600))  # SQLite may write to an empty file
    with _opened(source, "rw") as connection:
        connection.execute("VACUUM INTO ?", (str(dest),))
    with _opened(dest, "rw") as copy:
        for table, sql in _CHANGES.items():
            if copy.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (table,)).fetchone():
                copy.execute(sql)
        copy.commit()
    for path, flags in ((dest, os.O_RDWR), (dest.parent, os.O_RDONLY)):
        descriptor = os.open(path, flags)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def stored_names(database: Path) -> Iterator[str]:
    """Yield the names of all stored files in a database. Blocks. Raise `DatabaseCopyError`."""
    with _opened(database, "ro") as connection:
        for (name,) in connection.execute("SELECT name FROM files ORDER BY name"):
            yield name
