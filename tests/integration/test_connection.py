"""Tests of `Database`: every transaction is complete or rolled back, also after an interruption."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from imgsvc.database import connection
from imgsvc.database.connection import Database, DatabaseFullError, DatabaseUnavailableError
from imgsvc.database.limits import DatabaseLimits
from imgsvc.database.online_backup import DatabaseCopyError, copy_database, stored_names
from imgsvc.errors import StartupError
from tests.harness.database import NO_LOCK_WAIT

MIGRATIONS = Path(connection.__file__).parent / "migrations"


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    database = await Database.open(tmp_path / "imgsvc.db")
    yield database
    await database.close()


def insert(name: str) -> connection.Transaction[None]:
    def work(c: sqlite3.Connection) -> None:
        c.execute("INSERT INTO pending_deletions (name) VALUES (?)", (name,))

    return work


def names(c: sqlite3.Connection) -> set[str]:
    return {name for (name,) in c.execute("SELECT name FROM pending_deletions")}


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the write lock in another process."""
    script = """
        import sqlite3, sys
        c = sqlite3.connect(sys.argv[1], isolation_level=None)
        c.execute("BEGIN EXCLUSIVE")
        print("locked", flush=True)
        sys.stdin.read()
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"locked\n"
    try:
        yield
    finally:
        process.communicate()


async def test_open_creates_schema_once(tmp_path: Path) -> None:
    for _ in range(2):
        database = await Database.open(tmp_path / "imgsvc.db")
        try:
            version = await database.read(lambda c: c.execute("PRAGMA user_version").fetchone()[0])
            assert version == len(list(MIGRATIONS.glob("*.sql")))
            await database.write(insert("x"))
            await database.write(lambda c: c.execute("DELETE FROM pending_deletions").rowcount)
        finally:
            await database.close()


async def test_write_syncs_commits_and_read_refuses_changes(database: Database) -> None:
    settings = await database.write(
        lambda c: [
            c.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")
        ]
    )
    assert settings == ["wal", 2]
    await database.write(insert("x"), durable=False)
    assert await database.write(lambda c: c.execute("PRAGMA synchronous").fetchone()[0]) == 2
    with pytest.raises(DatabaseUnavailableError, match="readonly"):
        await database.read(insert("y"))


async def test_open_refuses_newer_schema(tmp_path: Path) -> None:
    path = tmp_path / "imgsvc.db"
    await (await Database.open(path)).close()
    with contextlib.closing(sqlite3.connect(path)) as c:
        c.execute("PRAGMA user_version = 99")
    with pytest.raises(StartupError, match=r"99.*newer version"):
        await Database.open(path)


async def test_open_names_path_when_file_is_no_database_or_folder_is_missing(
    tmp_path: Path,
) -> None:
    path = tmp_path / "imgsvc.db"
    path.write_bytes(b"a text, not a database" * 100)
    with pytest.raises(StartupError, match=r"imgsvc\.db"):
        await Database.open(path)
    with pytest.raises(StartupError, match="nowhere"):
        await Database.open(tmp_path / "nowhere" / "imgsvc.db")


async def test_write_rolls_back_when_transaction_raises(database: Database) -> None:
    def work(c: sqlite3.Connection) -> None:
        insert("half")(c)
        raise LookupError

    with pytest.raises(LookupError):
        await database.write(work)
    await database.write(insert("whole"))
    assert await database.read(names) == {"whole"}


async def test_write_commits_whole_transaction_when_caller_is_cancelled(database: Database) -> None:
    begun, go = threading.Event(), threading.Event()

    def work(c: sqlite3.Connection) -> None:
        insert("one")(c)
        begun.set()
        assert go.wait(10)
        insert("two")(c)

    task = asyncio.create_task(database.write(work))
    assert await asyncio.to_thread(begun.wait, 10)
    other = asyncio.create_task(database.write(insert("other")))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go.set()
    await other
    assert await database.read(names) == {"one", "two", "other"}


async def test_read_releases_reader_when_caller_is_cancelled(database: Database) -> None:
    for _ in range(connection.READERS * 2):
        go = threading.Event()
        task = asyncio.create_task(database.read(lambda _, go=go: go.wait(10)))  # type: ignore[misc]
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        go.set()
    assert await asyncio.gather(*(database.read(names) for _ in range(10))) == [set()] * 10


async def test_write_commits_all_concurrent_transactions(database: Database) -> None:
    await asyncio.gather(*(database.write(insert(str(n))) for n in range(200)))
    assert await database.read(names) == {str(n) for n in range(200)}


async def test_write_waits_for_lock_of_another_process_and_logs_it(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    with locked(database.path):
        task = asyncio.create_task(database.write(insert("late")))
        with pytest.raises(DatabaseUnavailableError, match="did not complete a write"):
            await database.probe(timeout=DatabaseLimits().busy_seconds * 1.5)
        assert await database.read(names) == set(), "readers do not wait for the lock"
        assert not task.done()
    await task
    await database.probe()
    assert await database.read(names) == {"late"}
    assert [record.message for record in caplog.records] == [
        (
            "the database is locked by another process; waiting. "
            "Close any other program that writes to it."
        ),
        "the database is no longer locked",
    ]


async def test_write_raises_unavailable_error_when_lock_is_held_too_long(tmp_path: Path) -> None:
    database = await Database.open(tmp_path / "imgsvc.db", NO_LOCK_WAIT)
    try:
        with locked(database.path), pytest.raises(DatabaseUnavailableError, match="locked"):
            await database.write(insert("too late"))
    finally:
        await database.close()


async def test_write_raises_database_full_error_and_changes_nothing_when_disk_is_full(
    database: Database,
) -> None:
    def fill(c: sqlite3.Connection) -> None:
        c.executemany(
            "INSERT INTO pending_deletions (name) VALUES (?)",
            ((f"{n:0500}",) for n in range(10_000)),
        )

    pages = await database.write(lambda c: c.execute("PRAGMA page_count").fetchone()[0])
    await database.write(lambda c: c.execute(f"PRAGMA max_page_count = {pages + 20}").fetchone())
    with pytest.raises(DatabaseFullError):
        await database.write(fill)
    assert await database.read(names) == set()
    await database.write(lambda c: c.execute("PRAGMA max_page_count = 1000000").fetchone())
    await database.write(fill)
    assert len(await database.read(names)) == 10_000


async def test_write_does_not_report_sql_bug_as_database_unavailable(database: Database) -> None:
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        await database.write(lambda c: c.execute("SELECT * FROM nonsense").fetchall())


async def test_snapshot_does_not_see_later_commits(database: Database) -> None:
    await database.write(insert("before"))
    async with database.snapshot() as read:
        await database.write(insert("after"))
        assert await read(names) == {"before"}
        assert await database.read(names) == {"before", "after"}
    assert await database.read(names) == {"before", "after"}


async def test_read_works_while_all_snapshots_are_held(database: Database) -> None:
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(connection.LONG_READERS):
            await stack.enter_async_context(database.snapshot())
        waiting = asyncio.create_task(stack.enter_async_context(database.snapshot()))
        assert await database.read(names) == set()
        assert not waiting.done()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)


async def test_snapshot_releases_reader_when_cancelled(database: Database) -> None:
    async def hold() -> None:
        async with database.snapshot() as read:
            await read(names)
            await asyncio.Event().wait()

    for _ in range(connection.READERS + 1):
        task = asyncio.create_task(hold())
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await database.write(insert("x"))
    busy = await database.write(lambda c: c.execute("SELECT 1").fetchone()[0])
    assert busy == 1
    async with database.snapshot() as read:
        assert await read(names) == {"x"}


async def test_read_sees_only_complete_transactions(database: Database) -> None:
    def pair(n: int) -> connection.Transaction[None]:
        def work(c: sqlite3.Connection) -> None:
            insert(f"{n} left")(c)
            insert(f"{n} right")(c)

        return work

    done = asyncio.Event()

    async def read() -> int:
        reads = 0
        while not done.is_set():
            assert len(await database.read(names)) % 2 == 0
            reads += 1
        return reads

    readers = [asyncio.create_task(read()) for _ in range(2)]
    for n in range(100):
        await database.write(pair(n))
    done.set()
    assert all(reads > 1 for reads in await asyncio.gather(*readers))
    assert len(await database.read(names)) == 200


async def pop_names(path: Path) -> set[str]:
    """Return all names, and delete them."""
    database = await Database.open(path)
    try:
        found = await database.read(names)
        await database.write(lambda c: c.execute("DELETE FROM pending_deletions").rowcount)
    finally:
        await database.close()
    return found


def test_kill_loses_no_commit_and_leaves_no_partial_transaction(tmp_path: Path) -> None:
    script = """
        import asyncio, pathlib, sys
        from imgsvc.database.connection import Database

        async def main():
            database = await Database.open(pathlib.Path(sys.argv[1]))
            for n in range(1_000_000):
                def work(c):
                    for part in range(3):
                        c.execute("INSERT INTO pending_deletions (name) VALUES (?)", (f"{n}/{part}",))
                await database.write(work, durable=n % 2 == 0)
                print(n, flush=True)

        asyncio.run(main())
    """
    path = tmp_path / "imgsvc.db"
    for round_number in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(script), path], stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        committed = [process.stdout.readline() for _ in range(20 * (round_number + 1))]
        os.kill(process.pid, signal.SIGKILL)
        rest, _ = process.communicate()
        committed += rest.splitlines()
        last = max(int(line) for line in committed if line.strip().isdigit())
        found = asyncio.run(pop_names(path))
        assert {f"{n}/{part}" for n in range(last + 1) for part in range(3)} <= found
        assert len(found) % 3 == 0


async def test_backup_is_consistent_while_database_is_in_use(
    database: Database, tmp_path: Path
) -> None:
    await database.write(insert("x"))
    async with database.snapshot():
        copy_database(database.path, tmp_path / "one.db")
    task = asyncio.create_task(asyncio.to_thread(copy_database, database.path, tmp_path / "two.db"))
    await asyncio.gather(*(database.write(insert(str(n))) for n in range(50)), task)
    for name in ("one.db", "two.db"):
        copy = await Database.open(tmp_path / name)
        assert "x" in await copy.read(names)
        assert await copy.read(lambda c: c.execute("PRAGMA integrity_check").fetchone()[0]) == "ok"
        await copy.close()
        assert list(stored_names(tmp_path / name)) == []
    with pytest.raises(FileExistsError):
        copy_database(database.path, tmp_path / "one.db")
    with pytest.raises(DatabaseCopyError, match=r"none\.db"):
        copy_database(tmp_path / "none.db", tmp_path / "three.db")
