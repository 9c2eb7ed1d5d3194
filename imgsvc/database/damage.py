"""Damage of the database: how it shows, and that it is permanent."""

from __future__ import annotations

import asyncio
import logging
import re
import sqlite3

log = logging.getLogger(__name__)

ADVICE = "Stop the service, restore the backup (see OPERATIONS.md), and start it again."

_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_MISSING = re.compile(r"no such (\w+): (?:main\.)?(\w+)$")


class Damage:
    """The first damage that was found in a database. It lasts until the process ends.

    `reason` is None if there is none. `found` is set when there is. `schema` has the type and the name
    of every table, index and view that the database must have.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        self.found = asyncio.Event()
        self.schema: frozenset[tuple[str, str]] = frozenset()

    def causes(self, error: sqlite3.Error) -> bool:
        """Return whether an error shows damage of the file, or a missing table or index."""
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        missing = _MISSING.match(str(error))
        return code in _DAMAGED or (missing is not None and missing.groups() in self.schema)

    def record(self, reason: str) -> None:
        """Record damage. Log it if it is the first."""
        if self.reason is None:
            self.reason = reason
            self.found.set()
            log.error("the database is damaged. %s", ADVICE, extra={"reason": reason})


def schema_of(c: sqlite3.Connection) -> frozenset[tuple[str, str]]:
    """Return the type and the name of every table, index and view of a database."""
    return frozenset(c.execute("SELECT type, name FROM sqlite_master"))


def check_schema(c: sqlite3.Connection, damage: Damage) -> None:
    """Raise `sqlite3.DatabaseError` if the database lacks a part of its schema."""
    for kind, name in sorted(damage.schema - schema_of(c)):
        raise sqlite3.DatabaseError(f"no such {kind}: {name}")
