"""The schema's versions: migrations/NNNN_name.sql, applied in order, noted in user_version."""

from __future__ import annotations

import sqlite3
from importlib.resources import files

from imgsvc.errors import StartupError

OLDEST_SQLITE = (3, 35, 0)
"""The first with RETURNING; generated columns and upserts are older."""


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the schema up to date; raise `StartupError` where it is newer than this program.

    Each migration is one transaction, so that a process that dies leaves one version or the next.
    """
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        raise StartupError(
            f"this Python comes with SQLite {sqlite3.sqlite_version}; 3.35 or later is needed. "
            "Use a newer Python."
        )
    steps = _migrations()
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > len(steps):
        raise StartupError(
            f"the database has schema version {version}, and this program knows {len(steps)}: "
            "it was used by a newer version of imgsvc. Install that version, or use another data_dir."
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


def _migrations() -> list[str]:
    """Give the scripts; their numbers are their places, from 1."""
    folder = files("imgsvc.database") / "migrations"
    scripts = {
        int(entry.name.partition("_")[0]): entry.read_text("utf-8")
        for entry in folder.iterdir()
        if entry.name.endswith(".sql")
    }
    return [scripts[number] for number in range(1, len(scripts) + 1)]
