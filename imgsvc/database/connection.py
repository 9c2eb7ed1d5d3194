"""One writer and a few readers on one SQLite file.

A transaction is a plain function that is run, whole, in the connection's own thread: a caller that is
cancelled can neither leave it open nor commit half of it, two of them cannot get in each other's way,
and many statements cost one hop between threads.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

import aiosqlite

from imgsvc.database.migrate import migrate
from imgsvc.database.online_backup import copy_database
from imgsvc.errors import DependencyError, StartupError

log = logging.getLogger(__name__)

T = TypeVar("T")
Transaction = Callable[[sqlite3.Connection], T]
"""What is done in one transaction. It may be run again if the database was locked: no side effects
but in the database, or such as may happen twice."""

READERS = 8
LONG_READERS = 6
"""Readers that snapshots may hold at once; the others stay free for short questions."""
BUSY_SECONDS = 1.0
"""How long SQLite itself waits for another process's lock, holding the connection's thread."""
LOCKED_SECONDS = 60.0
"""How long a call waits for such a lock in all before it gives up."""
WRITER_CACHE_KIB = 16 * 1024
READER_CACHE_KIB = 1024
CHECKPOINT_PAGES = 2_000
"""Pages in the WAL (8 MB) at which a commit moves them into the database."""
WAL_BYTES = 64 * 2**20
"""The WAL file is cut back to this after something made it larger."""

_LOCKED = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_TROUBLES = frozenset(
    {
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
        *_LOCKED,
    }
)
"""What is the storage's doing; any other error of SQLite's is a bug of ours."""


class DatabaseUnavailableError(DependencyError):
    """The database takes no read or write now, and nothing was changed. Worth trying again."""


class DatabaseFullError(DatabaseUnavailableError):
    """The disk that the database is on has no room left, and nothing was changed."""


class _Connection(aiosqlite.Connection):
    """An aiosqlite connection that runs a whole function in its thread, in the order of the calls.

    `locked` says that another process holds a lock that it waits for.
    """

    locked = False

    async def run(self, work: Transaction[T]) -> T:
        """Run `work` to its end, even if the caller is cancelled meanwhile."""
        done: T = await self._execute(work, self._conn)  # type: ignore[no-untyped-call]
        return done


class Database:
    """The service's database file. `open` makes one; `close` must be called in the end."""

    def __init__(self, path: Path, writer: _Connection, readers: list[_Connection]) -> None:
        self.path = path
        self._writer = writer
        self._readers = readers
        self._free: asyncio.Queue[_Connection] = asyncio.LifoQueue()
        for reader in readers:
            self._free.put_nowait(reader)
        self._long_reads = asyncio.Semaphore(LONG_READERS)

    @classmethod
    async def open(cls, path: Path) -> Database:
        """Open the file, made where there is none, and bring its schema up to date.

        Raises `StartupError` where the file is of a newer version, no database, or cannot be opened.
        """
        opened: list[_Connection] = []
        try:
            # First without a thread: aiosqlite leaves one behind where connecting fails.
            sqlite3.connect(path).close()
            opened.append(await _connect(path, _set_up_writer))
            while len(opened) <= READERS:
                opened.append(await _connect(path, _set_up_reader))
        except (sqlite3.Error, DatabaseUnavailableError, OSError) as error:
            await _close(opened)
            raise StartupError(
                f"cannot open the database {path}: {error}. Is it whole, is there room on its disk, "
                "and may this user write there?"
            ) from error
        except BaseException:
            await _close(opened)
            raise
        return cls(path, opened[0], opened[1:])

    async def close(self) -> None:
        """Close all connections; transactions that were asked for are finished first."""
        await _close([*self._readers, self._writer])

    async def write(self, work: Transaction[T], *, durable: bool = True) -> T:
        """Run `work` in a write transaction and commit it; roll back if it raises.

        One that is not `durable` survives the end of the process, but a power cut only if a durable
        one was committed after it: the WAL is one sequence, synced up to its end.

        Once begun it is run to its end even if the caller is cancelled. A database that another
        process has locked is waited for. Raises `DatabaseFullError` or `DatabaseUnavailableError`.
        """
        return await _persist(self._writer, partial(_transaction, work, durable))

    async def read(self, work: Transaction[T]) -> T:
        """Run `work` on one snapshot, beside the writer. Raises `DatabaseUnavailableError`."""
        reader = await self._free.get()
        try:
            return await _persist(reader, partial(_reading, work))
        finally:
            # Also where the call was cancelled and the thread is still at it: what comes next on
            # this connection waits in the thread's own queue.
            self._free.put_nowait(reader)

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Callable[[Transaction[T]], Awaitable[T]]]:
        """Hold one snapshot over several reads: gives a function that runs them.

        The WAL cannot be cut back meanwhile: keep it short, and never wait for a client.
        """
        async with self._long_reads:
            reader = await self._free.get()
            try:
                await _persist(reader, _begin_reading)
                yield partial(_persist, reader)
            finally:
                try:
                    await asyncio.shield(reader.run(_end))
                finally:
                    self._free.put_nowait(reader)

    async def probe(self, timeout: float = 5.0) -> None:
        """Make a small write; raise `DatabaseUnavailableError` where it is not made within `timeout` s."""
        try:
            async with asyncio.timeout(timeout):
                await self.write(_probe)
        except TimeoutError:
            raise DatabaseUnavailableError(f"no write was made within {timeout:.0f} s") from None

    async def backup(self, dest: Path) -> None:
        """Copy the database to `dest`, which must not exist, as of one moment, while it is in use."""
        await asyncio.to_thread(copy_database, self.path, dest)


async def _connect(path: Path, set_up: Transaction[None]) -> _Connection:
    def connect() -> sqlite3.Connection:
        return sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)

    connection = _Connection(connect, 64)
    await connection
    try:
        await _persist(connection, set_up)
    except BaseException:
        await connection.close()
        raise
    return connection


async def _close(connections: list[_Connection]) -> None:
    for connection in connections:
        await connection.close()


def _set_up_writer(c: sqlite3.Connection) -> None:
    c.execute("PRAGMA journal_mode = WAL")
    c.execute("PRAGMA synchronous = FULL")
    c.execute(f"PRAGMA cache_size = -{WRITER_CACHE_KIB}")
    c.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
    c.execute(f"PRAGMA journal_size_limit = {WAL_BYTES}")
    migrate(c)


def _set_up_reader(c: sqlite3.Connection) -> None:
    c.execute(f"PRAGMA cache_size = -{READER_CACHE_KIB}")
    c.execute("PRAGMA query_only = 1")


async def _persist(connection: _Connection, work: Transaction[T]) -> T:
    """Run `work` in the connection's thread, again and again while another process has a lock."""
    deadline = time.monotonic() + LOCKED_SECONDS
    while True:
        try:
            done = await connection.run(work)
        except sqlite3.DatabaseError as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            if code not in _TROUBLES:
                raise
            if code not in _LOCKED or time.monotonic() > deadline:
                kind = (
                    DatabaseFullError if code == sqlite3.SQLITE_FULL else DatabaseUnavailableError
                )
                raise kind(str(error)) from error
            if not connection.locked:
                connection.locked = True
                log.warning("the database is locked by another process; waiting for it")
        else:
            if connection.locked:
                connection.locked = False
                log.info("the database is no longer locked")
            return done


def _transaction(work: Transaction[T], durable: bool, c: sqlite3.Connection) -> T:
    if not durable:
        c.execute("PRAGMA synchronous = NORMAL")
    try:
        c.execute("BEGIN IMMEDIATE")
        try:
            done = work(c)
            c.execute("COMMIT")
        except BaseException:
            _end(c)
            raise
    finally:
        if not durable:
            c.execute("PRAGMA synchronous = FULL")
    return done


def _probe(c: sqlite3.Connection) -> None:
    c.execute("REPLACE INTO probe VALUES (1, ?)", (time.time(),))


def _reading(work: Transaction[T], c: sqlite3.Connection) -> T:
    _begin_reading(c)
    try:
        return work(c)
    finally:
        _end(c)


def _begin_reading(c: sqlite3.Connection) -> None:
    """Begin a snapshot; it is taken by the first read, which is here."""
    c.execute("BEGIN")
    try:
        c.execute("SELECT 1 FROM probe").fetchone()
    except BaseException:
        _end(c)
        raise


def _end(c: sqlite3.Connection) -> None:
    """Let go of what is open; SQLite itself has done so after some errors."""
    if c.in_transaction:
        c.execute("ROLLBACK")
