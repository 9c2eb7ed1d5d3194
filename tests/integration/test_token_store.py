"""Tests of tokens: a recurring name never loses its output, and no output is left over."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from imgsvc.database.connection import DatabaseUnavailableError
from imgsvc.database.token_store import TokenStore
from imgsvc.errors import ImageErrorCode
from imgsvc.image_types import CompressionSettings, Quality
from imgsvc.models import Claim, Failed, Requeued
from tests.harness.database import NO_LOCK_WAIT, DatabaseHarness, completed, open_database

DIGEST = b"d" * 32


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[DatabaseHarness]:
    async with open_database(tmp_path) as db:
        yield db


async def claims(db: DatabaseHarness, count: int = 1) -> list[Claim]:
    await db.accept([[f"http://a.example/{n}"] for n in range(count)])
    return await db.claim()


def failure(claim: Claim) -> Failed:
    return Failed(claim, 1, ImageErrorCode.STORAGE_FAILED, "The output could not be stored.")


async def test_reserve_returns_same_token_for_same_content_after_restart(tmp_path: Path) -> None:
    tokens = []
    for _ in range(2):
        async with open_database(tmp_path) as db:
            (claim,) = await claims(db)
            tokens.append(await db.token_store.reserve(claim, DIGEST))
            await db.job_store.finish([failure(claim)])
    assert tokens[0] == tokens[1]
    assert tokens[0] is not None
    assert len(tokens[0]) == 32


async def test_reserve_returns_other_token_for_other_instance(tmp_path: Path) -> None:
    tokens = set()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        async with open_database(tmp_path / name) as db:
            (claim,) = await claims(db)
            tokens.add(await db.token_store.reserve(claim, DIGEST))
    assert len(tokens) == 2


async def test_reserve_returns_none_if_output_is_stored(db: DatabaseHarness) -> None:
    one, two = await claims(db, 2)
    outcome = completed(one)
    assert await db.token_store.reserve(one, outcome.source_digest)
    await db.job_store.finish([outcome])
    assert await db.token_store.reserve(two, outcome.source_digest) is None


async def test_reserve_answers_concurrent_calls_although_others_are_cancelled(
    db: DatabaseHarness,
) -> None:
    outcomes = [completed(claim) for claim in await claims(db, 9)]
    await db.job_store.finish(outcomes[:5])
    calls = [
        asyncio.create_task(db.token_store.reserve(each.claim, each.source_digest))
        for each in outcomes
    ]
    await asyncio.sleep(0)
    calls.pop(0).cancel()  # the one that would run the transaction for all
    calls.pop(6).cancel()
    found = await asyncio.gather(*calls)
    names = [token and f"{token}.jpg" for token in found]
    expected = [await db.output_name(outcome) for outcome in outcomes]
    assert names == [None] * 4 + [expected[5], expected[6], expected[8]]


@contextmanager
def locked(db: DatabaseHarness) -> Iterator[None]:
    """Hold the write lock, so that no other connection can write."""
    with closing(sqlite3.connect(db.database.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


async def test_reserve_works_after_calls_failed(tmp_path: Path) -> None:
    async with open_database(tmp_path, NO_LOCK_WAIT) as db:
        open_claims = await claims(db, 3)

        async def reserve_all() -> list[object]:
            calls = (db.token_store.reserve(claim, DIGEST) for claim in open_claims)
            return await asyncio.gather(*calls, return_exceptions=True)

        with locked(db):
            results = await reserve_all()
        assert all(isinstance(result, DatabaseUnavailableError) for result in results), results
        assert all(isinstance(result, str) for result in await reserve_all())


async def test_repeated_reservation_leaves_out_jobs_that_have_ended(tmp_path: Path) -> None:
    async with open_database(tmp_path, NO_LOCK_WAIT) as db:
        first, second = await claims(db, 2)
        async with db.token_store._lock:  # both calls share one transaction
            calls = [
                asyncio.create_task(db.token_store.reserve(first, b"1" * 32)),
                asyncio.create_task(db.token_store.reserve(second, b"2" * 32)),
            ]
            await asyncio.sleep(0)
        with locked(db):
            await asyncio.sleep(0)
            calls[1].cancel()
            results = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(r) for r in results] == [DatabaseUnavailableError, asyncio.CancelledError]
        await db.job_store.finish([Requeued(second, 0)])
        assert await db.token_store.reserve(first, b"1" * 32)
        reserved = await db.database.read(
            lambda c: c.execute("SELECT claim FROM reservations").fetchall()
        )
        assert reserved == [(first.claim_id,)]


async def test_failed_job_leaves_marks_of_its_output(db: DatabaseHarness) -> None:
    (claim,) = await claims(db)
    token = await db.token_store.reserve(claim, DIGEST)
    assert await db.delete_marked() == [], "the job may be storing it"
    await db.job_store.finish([failure(claim)])
    assert f"{token}.jpg" in await db.delete_marked()
    assert await db.delete_marked() == []


async def test_recover_marks_outputs_of_earlier_process(tmp_path: Path) -> None:
    async with open_database(tmp_path) as db:
        (claim,) = await claims(db)
        token = await db.token_store.reserve(claim, DIGEST)
    async with open_database(tmp_path) as db:
        await db.token_store.recover()
        assert f"{token}.webp" in await db.delete_marked()


async def test_recurring_token_keeps_its_new_output_when_old_deletion_is_pending(
    db: DatabaseHarness,
) -> None:
    """Delete the only request with an output; before the file is deleted, another one stores it."""
    request = await db.accept([["http://a.example/1"]])
    (claim,) = await db.claim()
    await db.job_store.finish([completed(claim, "same")])
    await db.request_store.mark_deleting(request.request_id)
    await db.request_store.purge_slice()
    (again,) = await claims(db)
    outcome = completed(again, "same")
    assert await db.token_store.reserve(again, outcome.source_digest)
    assert await db.delete_marked() == [], "a job has reserved it"
    await db.job_store.finish([outcome])
    assert await db.delete_marked() == [], "it is stored again"
    assert await db.queries.public_file(await db.output_name(outcome)) is not None


@pytest.mark.parametrize("deleted", [True, False])
async def test_job_waits_while_its_output_is_being_deleted(
    db: DatabaseHarness, deleted: bool
) -> None:
    one, two = await claims(db, 2)
    token = await db.token_store.reserve(one, DIGEST)
    await db.job_store.finish([failure(one)])
    names, last = await db.token_store.begin_deletion(100)
    assert (f"{token}.jpg" in names, last) == (True, None)
    waiting = asyncio.create_task(db.token_store.reserve(two, DIGEST))
    for _ in range(3):
        await db.database.read(lambda _: None)  # the reservation has been tried
    assert not waiting.done()
    await db.token_store.end_deletion(names if deleted else [])
    assert await waiting == token
    await db.job_store.finish([failure(two)])


async def test_begin_deletion_returns_outputs_again_after_it_was_interrupted(
    db: DatabaseHarness,
) -> None:
    (claim,) = await claims(db)
    await db.token_store.reserve(claim, DIGEST)
    await db.job_store.finish([failure(claim)])
    names, last = await db.token_store.begin_deletion(2)
    assert (len(names), last) == (2, names[1])
    assert await TokenStore(db.database).begin_deletion(2) == (names, last)
    following, _ = await db.token_store.begin_deletion(2, names[1])
    assert following > names


async def test_token_depends_on_settings(db: DatabaseHarness) -> None:
    settings = [
        CompressionSettings(),
        CompressionSettings(quality=Quality(50, relative=False)),
        CompressionSettings(progressive=True),
    ]
    tokens = set()
    for each in settings:
        await db.accept([["http://a.example/1"]], settings=each)
        (claim,) = await db.claim()
        tokens.add(await db.token_store.reserve(claim, DIGEST))
        await db.job_store.finish([failure(claim)])
    assert len(tokens) == 3
