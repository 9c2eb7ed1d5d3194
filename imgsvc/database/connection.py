"""One writer and a few readers on one SQLite file.

A transaction is a plain function that is run, whole, in the connection's own thread: a caller that is
cancelled can neither leave it open nor commit half of it, and many statements cost one hop between
threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import aiosqlite

from imgsvc.database.copying import copy_database
from imgsvc.database.migrating import migrate
from imgsvc.errors import StartError

log = logging.getLogger(__name__)

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]

READERS = 4
LONG_READERS = 2
"""Readers that long snapshots may hold at once; the others stay free for short questions."""
BUSY_MS = 2_000
"""How long SQLite itself waits for a lock; after that the writer tries again."""
LOCKED_SECONDS = 30.0
"""How long a write waits for another process's lock before it gives up."""
SLOW_SECONDS = 0.1
WRITER_CACHE_KIB = 32 * 1024
READER_CACHE_KIB = 2 * 1024
LOCK_CODES = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
TROUBLES = frozenset(
    {
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
        *LOCK_CODES,
    }
)


class DatabaseUnavailable(Exception):
    """The database takes no read or write now; nothing has been changed. Worth trying again."""


class DatabaseFull(DatabaseUnavailable):
    """The disk that the database is on has no room left; nothing has been changed."""


class _Connection(aiosqlite.Connection):
    """An aiosqlite connection that runs a whole function in its thread."""

    async def run(self, work: Work[T]) -> T:
        """Run `work` in the connection's thread, to its end even if the caller is cancelled."""
        done: T = await self._execute(work, self._conn)
        return done


class Database:
    """The service's database file. `open` makes one; `close` must be called in the end."""

    def __init__(self, path: Path, writer: _Connection, readers: list[_Connection]) -> None:
        self.path = path
        self._writer = writer
        self._readers: asyncio.LifoQueue[_Connection] = asyncio.LifoQueue()
        for reader in readers:
            self._readers.put_nowait(reader)
        self._all = [writer, *readers]
        self._writing = asyncio.Lock()
        self._long_reads = asyncio.Semaphore(LONG_READERS)

    @classmethod
    async def open(cls, path: Path) -> Database:
        """Open the file, made where there is none, and bring its schema up to date.

        Raises `StartError` where the file is of a newer version, no database, or cannot be opened.
        """
        raise NotImplementedError

    async def close(self) -> None:
        """Close all connections; a transaction under way is finished first."""
        raise NotImplementedError

    async def write(self, work: Work[T]) -> T:
        """Run `work` in a write transaction and commit it; roll back if it raises.

        Transactions come one after the other. Once begun it is run to its end even if the caller is
        cancelled. A database that another process has locked is waited for. Raises `DatabaseFull` or
        `DatabaseUnavailable`; `work` may run more than once, but only its last run is kept.
        """
        raise NotImplementedError

    async def read(self, work: Work[T]) -> T:
        """Run `work` on one snapshot of the database, beside the writer.

        Raises `DatabaseUnavailable`.
        """
        raise NotImplementedError

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Callable[[Work[T]], object]]:
        """Hold one snapshot over several reads. Keep it short: the WAL grows meanwhile."""
        raise NotImplementedError
        yield

    async def probe(self, timeout: float = 5.0) -> None:
        """Make a small write; raise `DatabaseUnavailable` where that takes longer than `timeout` s."""
        raise NotImplementedError

    async def backup(self, dest: Path) -> None:
        """Copy the database to `dest`, which must not exist, as of one moment, while it is in use."""
        raise NotImplementedError
