"""Tests of the stored sessions of the web page."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from imgsvc.access import key_digest
from imgsvc.database.online_backup import copy_database
from imgsvc.database.session_store import (
    CLOCK_TOLERANCE_SECONDS,
    MAX_SESSIONS_PER_KEY,
    SESSION_SECONDS,
    SessionStore,
)
from tests.harness.database import open_database

NOW = 1_800_000_000.0
KEY, OTHER_KEY = key_digest("key-of-the-tests"), key_digest("other-key-of-the-tests")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SessionStore]:
    async with open_database(tmp_path) as db:
        yield SessionStore(db.database)


async def count(store: SessionStore) -> int:
    (number,) = await store._database.read(
        lambda c: c.execute("SELECT count(*) FROM sessions").fetchone()
    )
    return int(number)


@pytest.mark.parametrize(
    ("seconds", "valid"),
    [
        (0, True),
        (SESSION_SECONDS, True),
        (SESSION_SECONDS + 1, False),
        (-CLOCK_TOLERANCE_SECONDS, True),
        (-CLOCK_TOLERANCE_SECONDS - 1, False),
        (-1_000 * 86_400, False),
        (1_000 * 86_400, False),
    ],
)
async def test_session_ends_after_12_hours_or_if_the_clock_is_set_back(
    store: SessionStore, seconds: float, valid: bool
) -> None:
    token = await store.create(KEY, NOW)
    found = await store.find(token, [OTHER_KEY, KEY], NOW + seconds)
    assert found == (KEY if valid else None)


async def test_session_is_found_only_with_its_token_and_while_its_key_is_accepted(
    store: SessionStore,
) -> None:
    token = await store.create(KEY, NOW)
    assert await store.find(token, [KEY], NOW) == KEY
    assert await store.find(token, [OTHER_KEY], NOW) is None
    for other in (token[:-1], "", "\udcff", token.swapcase()):
        assert await store.find(other, [KEY], NOW) is None
    await store.end(token)
    assert await store.find(token, [KEY], NOW) is None


@pytest.mark.parametrize("later", [SESSION_SECONDS + 1, -CLOCK_TOLERANCE_SECONDS - 1])
async def test_sign_in_deletes_ended_sessions(store: SessionStore, later: float) -> None:
    for _ in range(3):
        await store.create(KEY, NOW)
    await store.create(OTHER_KEY, NOW + later)
    assert await count(store) == 1


async def test_sessions_are_limited_per_key_and_the_oldest_ends(store: SessionStore) -> None:
    other = await store.create(OTHER_KEY, NOW)
    tokens = [await store.create(KEY, NOW + n) for n in range(MAX_SESSIONS_PER_KEY + 2)]
    now = NOW + MAX_SESSIONS_PER_KEY + 2
    found = [await store.find(token, [KEY], now) is not None for token in tokens]
    assert found == [False, False] + [True] * MAX_SESSIONS_PER_KEY
    assert await store.find(other, [OTHER_KEY], now) == OTHER_KEY


async def test_database_has_neither_tokens_nor_keys(tmp_path: Path) -> None:
    async with open_database(tmp_path) as db:
        token = await SessionStore(db.database).create(KEY, NOW)
    connection = sqlite3.connect(tmp_path / "imgsvc.db")
    values = [value for row in connection.execute("SELECT * FROM sessions") for value in row]
    connection.close()
    assert token.encode() not in values
    assert KEY not in values


async def test_backup_has_no_sessions(tmp_path: Path) -> None:
    async with open_database(tmp_path) as db:
        token = await SessionStore(db.database).create(KEY, NOW)
        (tmp_path / "copy").mkdir()
        copy_database(db.database.path, tmp_path / "copy" / "imgsvc.db")
        assert await SessionStore(db.database).find(token, [KEY], NOW) == KEY
    async with open_database(tmp_path / "copy") as restored:
        assert await count(SessionStore(restored.database)) == 0


async def test_recovery_without_keys_ends_all_sessions(store: SessionStore) -> None:
    await store.create(KEY, NOW)
    await store.recover([KEY])
    assert await count(store) == 1
    await store.recover([])
    assert await count(store) == 0
