"""Applies the migrations/NNNN_name.sql in order, and records the last number in `user_version`."""

from __future__ import annotations

import sqlite3
from importlib.resources import files

from imgsvc.database.index_keys import receiver_key
from imgsvc.errors import StartupError

OLDEST_SQLITE = (3, 35, 0)
"""The first version with RETURNING. Generated columns and upserts came earlier."""

APPLICATION_ID = int.from_bytes(b"imgs", "big")
"""The id in the header of the file. SQLite reserves it for the program that a database belongs to."""
APPLICATION_ID_SINCE = 9
"""The first schema version whose databases have the id."""


def migrate(connection: sqlite3.Connection) -> None:
    """Apply all migrations that the database does not have yet.

    Each migration is one transaction: after a crash the database has one version or the next, nothing
    in between. Raise `StartupError` if SQLite is too old, or if the schema is newer than this program.
    """
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        raise StartupError(
            f"SQLite 3.35 or later is required, but this Python has {sqlite3.sqlite_version}. "
            "Use a newer Python."
        )
    connection.create_function("receiver_key_of", 1, receiver_key, deterministic=True)
    steps = _migrations()
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if not _is_own(connection, version):
        raise StartupError(
            "The database belongs to another program. Set storage.data_dir to another folder."
        )
    if version > len(steps):
        raise StartupError(
            f"The database has schema version {version}, but this version of imgsvc supports only "
            f"versions up to {len(steps)}. Install the newer version of imgsvc that last used this "
            "database, or set storage.data_dir to another folder."
        )
    for number, script in enumerate(steps[version:], version + 1):
        try:
            connection.executescript(
                f"BEGIN IMMEDIATE;\n{script}\nPRAGMA user_version = {number};\nCOMMIT;"
            )
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise


def _is_own(connection: sqlite3.Connection, version: int) -> bool:
    """Return whether a database is new, or belongs to imgsvc. Version 1.0 has set no id."""
    (found,) = connection.execute("PRAGMA application_id").fetchone()
    if found or version >= APPLICATION_ID_SINCE:
        return bool(found == APPLICATION_ID)
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    return not tables or (version > 0 and "requests" in tables and "images" in tables)


def _migrations() -> list[str]:
    """Return the SQL scripts in order, number 1 first."""
    folder = files("imgsvc.database") / "migrations"
    scripts = {
        int(entry.name.partition("_")[0]): entry.read_text("utf-8")
        for entry in folder.iterdir()
        if entry.name.endswith(".sql")
    }
    return [scripts[number] for number in sorted(scripts)]
