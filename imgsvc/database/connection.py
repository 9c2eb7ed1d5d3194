"""A SQLite database with one writer connection and several reader connections.

A transaction is a plain function that runs completely in its connection's thread. Thus a cancelled
caller cannot leave a transaction open or half committed, transactions of one connection never overlap,
and a transaction with many statements needs only one switch between threads.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing, suppress
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import aiosqlite

from imgsvc.database.damage import Damage, check_schema, schema_of
from imgsvc.database.limits import DatabaseLimits
from imgsvc.database.migrate import migrate
from imgsvc.database.private_file import make_private
from imgsvc.database.tokens import ensure_secret
from imgsvc.errors import DependencyError, StartupError

log = logging.getLogger(__name__)

T = TypeVar("T")
Transaction = Callable[[sqlite3.Connection], T]
"""A function that runs in one transaction. It runs again if the database was locked: apart from its
changes to the database, it must have no side effects, or only idempotent ones."""

READERS = 8
"""Number of reader connections."""
LONG_READERS = 6
"""Readers that snapshots can hold at once. The others stay free for short reads."""
WRITER_CACHE_KIB = 16 * 1024
READER_CACHE_KIB = 1024
CHECKPOINT_PAGES = 2_000
"""Number of WAL pages (8 MB) at which a commit copies them into the database file."""
WAL_BYTES = 64 * 2**20
"""A WAL file that has become larger is truncated to this size."""

_LOCKED = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_STORAGE_ERRORS = frozenset(
    {
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_NOMEM,
        *_LOCKED,
    }
)
"""SQLite error codes that the environment causes. Any other error is a bug in this program."""


class DatabaseUnavailableError(DependencyError):
    """The database currently accepts no read or write. Nothing was changed; a retry may succeed."""


class DatabaseFullError(DatabaseUnavailableError):
    """The disk that contains the database is full. Nothing was changed."""


class DatabaseDamagedError(DatabaseUnavailableError):
    """The database file is damaged, or lacks a table. A retry cannot succeed."""


class _Script(Generic[T]):
    """A transaction in place of an SQL script, and its result."""

    __slots__ = ("result", "transaction")

    def __init__(self, transaction: Transaction[T]) -> None:
        self.transaction = transaction
        self.result: T


class _SQLiteConnection(sqlite3.Connection):
    """A SQLite connection whose scripts can be functions.

    aiosqlite passes a script to this class in the connection's thread. Thus a whole function runs there
    with one switch between threads, and only public methods of both libraries are called.
    """

    def executescript(self, script: str | _Script[Any], /) -> sqlite3.Cursor:
        if isinstance(script, str):
            return super().executescript(script)
        script.result = script.transaction(self)
        return self.cursor()


class _Connection:
    """An aiosqlite connection that runs whole functions in its thread, one after the other.

    `locked` is True while the connection waits for a lock of another process. `locked_seconds` is how
    long it waits. `damage`: where to record damage.
    """

    def __init__(
        self, connection: aiosqlite.Connection, locked_seconds: float, damage: Damage
    ) -> None:
        self._connection = connection
        self.damage = damage
        self.locked_seconds = locked_seconds
        self.locked = False

    async def run(self, transaction: Transaction[T]) -> T:
        """Run `transaction` to its end, even if the caller is cancelled meanwhile."""
        script = _Script(transaction)
        await self._connection.executescript(script)
        return script.result

    async def interrupt(self) -> None:
        """Abort the statement that is running."""
        await self._connection.interrupt()

    async def close(self) -> None:
        """Finish the transactions that have been requested, and close the connection."""
        await self._connection.close()


class Database:
    """The service's database. Create one with `open`, and call `close` at the end.

    `damage`: the damage that was found. Then nothing is written any more, so that it does not spread.
    """

    def __init__(
        self, path: Path, limits: DatabaseLimits, writer: _Connection, readers: list[_Connection]
    ) -> None:
        self.path = path
        self.damage = writer.damage
        self._limits = limits
        self._writer = writer
        self._readers = readers
        self._idle_readers: asyncio.Queue[_Connection] = asyncio.LifoQueue()
        for reader in readers:
            self._idle_readers.put_nowait(reader)
        self._long_reads = asyncio.Semaphore(LONG_READERS)

    @classmethod
    async def open(cls, path: Path, limits: DatabaseLimits = DatabaseLimits()) -> Database:
        """Open the database file, or create it, and apply missing migrations.

        Raise `StartupError` if the file is not a database, belongs to another program, has a newer
        schema, or cannot be opened. If it can be opened and is damaged, only record that.
        """
        connections: list[_Connection] = []
        damage = Damage()
        try:
            make_private(path)
            # Try without a thread first: aiosqlite leaks its thread if connecting fails.
            sqlite3.connect(path).close()
            connections.append(await _connect(path, _set_up_writer, limits, damage))
            with suppress(DatabaseDamagedError):  # recorded
                await _run_when_unlocked(connections[0], partial(_prepare_schema, damage))
            while len(connections) <= READERS:
                connections.append(await _connect(path, _set_up_reader, limits, damage))
        except (sqlite3.Error, DatabaseUnavailableError, OSError) as error:
            await _close(connections)
            raise StartupError(
                f"Cannot open the database {path}: {error}. If the file is damaged, restore the backup "
                "(see OPERATIONS.md). Check that its disk is not full, and that this user can write to "
                "the file and its folder."
            ) from error
        except BaseException:
            await _close(connections)
            raise
        return cls(path, limits, connections[0], connections[1:])

    async def close(self) -> None:
        """Finish the transactions that have been requested, and close all connections."""
        await _close([*self._readers, self._writer])

    async def write(self, transaction: Transaction[T], *, durable: bool = True) -> T:
        """Run `transaction` in a write transaction and commit it. Roll back if it raises.

        A commit that is not `durable` survives the end of the process. It survives a power cut only if
        a durable commit follows: the WAL is one sequence, and a sync includes everything before it.

        Once started, the transaction runs to its end even if the caller is cancelled. If another
        process has locked the database, this waits. Raise `DatabaseFullError`,
        `DatabaseUnavailableError`, or `DatabaseDamagedError` since damage was found.
        """
        if self.damage.reason is not None:
            raise DatabaseDamagedError(self.damage.reason)
        return await _run_when_unlocked(self._writer, partial(_write, transaction, durable))

    async def read(self, transaction: Transaction[T]) -> T:
        """Run `transaction` on one snapshot, in parallel to writes.

        Raise `DatabaseUnavailableError`.
        """
        reader = await self._idle_readers.get()
        try:
            return await _run_when_unlocked(reader, partial(_read, transaction))
        finally:
            # Safe even if the caller was cancelled while the thread still runs the transaction: the
            # next transaction of this connection waits in the thread's own queue.
            self._idle_readers.put_nowait(reader)

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Callable[[Transaction[T]], Awaitable[T]]]:
        """Hold one snapshot for several reads. Yield a function that runs a read on it.

        The WAL cannot be truncated meanwhile: hold the snapshot briefly, and never wait for a client.
        """
        async with self._long_reads:
            reader = await self._idle_readers.get()
            try:
                await _run_when_unlocked(reader, _begin_snapshot)
                yield partial(_run_when_unlocked, reader)
            finally:
                try:
                    await asyncio.shield(reader.run(_rollback))
                finally:
                    self._idle_readers.put_nowait(reader)

    async def check(self) -> None:
        """Check the structure of the whole file, beside other work. Record damage.

        For a million images (436 MB) this takes 0.8 s of processor time, and as long as the disk needs.
        """
        connection = await _connect(self.path, _set_up_reader, self._limits, self.damage)
        try:
            result = await _run_when_unlocked(connection, _quick_check)
            if result != "ok":
                self.damage.record(result)
        except DatabaseDamagedError:
            pass  # recorded
        finally:
            await connection.interrupt()
            await connection.close()

    async def probe(self, timeout: float = 5.0) -> None:
        """Make a small write. Raise `DatabaseUnavailableError` if it takes longer than `timeout` s."""
        try:
            async with asyncio.timeout(timeout):
                await self.write(_probe)
        except TimeoutError:
            raise DatabaseUnavailableError(
                f"the database did not complete a write within {timeout:.0f} s"
            ) from None


async def _connect(
    path: Path, set_up: Transaction[None], limits: DatabaseLimits, damage: Damage
) -> _Connection:
    connection = _Connection(
        await aiosqlite.connect(
            path, timeout=limits.busy_seconds, isolation_level=None, factory=_SQLiteConnection
        ),
        limits.locked_seconds,
        damage,
    )
    try:
        await _run_when_unlocked(connection, set_up)
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


def _prepare_schema(damage: Damage, c: sqlite3.Connection) -> None:
    """Apply missing migrations, and check that no table is missing."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as complete:
        migrate(complete)
        damage.schema = schema_of(complete)
    migrate(c)
    check_schema(c, damage)
    ensure_secret(c)


def _quick_check(c: sqlite3.Connection) -> str:
    """Return "ok", or the first damage."""
    result: str = c.execute("PRAGMA quick_check(1)").fetchone()[0]
    return result


def _set_up_reader(c: sqlite3.Connection) -> None:
    c.execute(f"PRAGMA cache_size = -{READER_CACHE_KIB}")
    c.execute("PRAGMA query_only = 1")


async def _run_when_unlocked(connection: _Connection, transaction: Transaction[T]) -> T:
    """Run `transaction` in the connection's thread. Retry while another process holds a lock."""
    deadline = time.monotonic() + connection.locked_seconds
    while True:
        try:
            result = await connection.run(transaction)
        except MemoryError as error:
            raise DatabaseUnavailableError("out of memory") from error
        except sqlite3.DatabaseError as error:
            if connection.damage.causes(error):
                connection.damage.record(str(error))
                raise DatabaseDamagedError(str(error)) from error
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            if code not in _STORAGE_ERRORS:
                raise
            if code not in _LOCKED or time.monotonic() > deadline:
                error_type = (
                    DatabaseFullError if code == sqlite3.SQLITE_FULL else DatabaseUnavailableError
                )
                raise error_type(str(error)) from error
            if not connection.locked:
                connection.locked = True
                log.warning(
                    "the database is locked by another process; waiting. "
                    "Close any other program that writes to it."
                )
        else:
            if connection.locked:
                connection.locked = False
                log.info("the database is no longer locked")
            return result


def _write(transaction: Transaction[T], durable: bool, c: sqlite3.Connection) -> T:
    if not durable:
        c.execute("PRAGMA synchronous = NORMAL")
    try:
        c.execute("BEGIN IMMEDIATE")
        try:
            result = transaction(c)
            c.execute("COMMIT")
        except BaseException:
            _rollback(c)
            raise
    finally:
        if not durable:
            c.execute("PRAGMA synchronous = FULL")
    return result


def _probe(c: sqlite3.Connection) -> None:
    c.execute("REPLACE INTO probe VALUES (1, ?)", (time.time(),))


def _read(transaction: Transaction[T], c: sqlite3.Connection) -> T:
    _begin_snapshot(c)
    try:
        return transaction(c)
    finally:
        _rollback(c)


def _begin_snapshot(c: sqlite3.Connection) -> None:
    """Begin a read transaction. SQLite takes the snapshot at the first read, so this makes one."""
    c.execute("BEGIN")
    try:
        c.execute("SELECT 1 FROM probe").fetchone()
    except BaseException:
        _rollback(c)
        raise


def _rollback(c: sqlite3.Connection) -> None:
    """End the open transaction, if any: after some errors SQLite has already rolled it back."""
    if c.in_transaction:
        c.execute("ROLLBACK")
