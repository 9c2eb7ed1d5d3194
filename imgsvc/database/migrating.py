"""The schema's versions: migrations/NNNN_name.sql, applied in order, noted in user_version."""

from __future__ import annotations

import sqlite3


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the schema up to date; raise `StartError` where it is newer than this program."""
    raise NotImplementedError
