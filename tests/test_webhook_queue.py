"""Webhooks on their way: sent when due, again when they fail, and across restarts."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from imgsvc.config import FetchConfig, WebhookConfig
from imgsvc.database import connection
from imgsvc.metrics import Metrics
from imgsvc.models import DeliveryState, Request
from imgsvc.network.addresses import AddressRules
from imgsvc.network.session import open_session
from imgsvc.network.webhooks import WebhookSender
from imgsvc.processing import webhook_queue as module
from imgsvc.processing.webhook_queue import WebhookQueue
from tests.database_harness import DatabaseHarness, open_database
from tests.origin import Origin, Reply
from tests.waiting import wait_until


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[DatabaseHarness]:
    async with open_database(tmp_path) as db:
        yield db


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    config = FetchConfig(allowed_networks=("127.0.0.0/8",))
    async with open_session(config, AddressRules(config.allowed_networks)) as session:
        yield session


@asynccontextmanager
async def delivering(
    db: DatabaseHarness, session: aiohttp.ClientSession, *, pauses: Sequence[float] = (0.01,) * 7
) -> AsyncIterator[WebhookQueue]:
    """Deliver until the block ends, which ends it as the service's stop does."""
    config = WebhookConfig(pauses_seconds=tuple(pauses))
    queue = WebhookQueue(
        db.deliveries,
        WebhookSender(session, config),
        config,
        Metrics(),
        mark_changed=lambda _: None,
    )
    task = asyncio.create_task(queue.run())
    try:
        yield queue
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def finished(db: DatabaseHarness, webhook: str) -> Request:
    request = await db.accept([["http://a/1"]], webhook=webhook)
    await db.complete(await db.claim())
    return await db.snapshots.request(request.request_id)


async def state(db: DatabaseHarness, request: Request) -> DeliveryState:
    webhook = (await db.snapshots.request(request.request_id)).webhook
    assert webhook is not None
    return webhook


async def ended(db: DatabaseHarness, request: Request) -> DeliveryState:
    async def over() -> bool:
        return (await state(db, request)).status != "pending"

    await wait_until(over, "the delivery's end")
    return await state(db, request)


async def test_what_is_due_is_sent_once(
    db: DatabaseHarness, session: aiohttp.ClientSession, origin: Origin
) -> None:
    url = origin.script("/hook", Reply(204))
    before = await finished(db, url)
    async with delivering(db, session) as queue:
        assert await ended(db, before) == DeliveryState(url, "delivered", 1, None)
        after = await finished(db, url)
        queue.wake()
        assert (await ended(db, after)).status == "delivered"
    bodies = [call.body.decode() for call in origin.seen("/hook")]
    assert bodies == [f"about {before.request_id}", f"about {after.request_id}"]
    assert (await db.snapshots.request(before.request_id)).version > before.version


async def test_one_that_fails_is_sent_again_until_its_tries_are_used_up(
    db: DatabaseHarness, session: aiohttp.ClientSession, origin: Origin
) -> None:
    url = origin.script("/hook", Reply(500), Reply(302, {"Location": origin.url("/x")}), Reply(503))
    request = await finished(db, url)
    async with delivering(db, session, pauses=(0.01, 0.01)):
        last = await ended(db, request)
    assert (last.status, last.attempts) == ("failed", 3)
    assert last.last_error is not None
    assert last.last_error.startswith("503")
    assert len({call.headers["webhook-id"] for call in origin.seen("/hook")}) == 1
    assert (origin.hits("/hook"), origin.hits("/x")) == (3, 0)


async def test_gone_ends_it(
    db: DatabaseHarness, session: aiohttp.ClientSession, origin: Origin
) -> None:
    request = await finished(db, origin.script("/hook", Reply(410)))
    async with delivering(db, session):
        last = await ended(db, request)
    assert (last.status, last.attempts, origin.hits("/hook")) == ("failed", 1, 1)


async def test_a_pause_outlasts_a_restart(
    db: DatabaseHarness, session: aiohttp.ClientSession, origin: Origin
) -> None:
    url = origin.script("/hook", Reply(500), Reply(204))
    request = await finished(db, url)

    async def tried() -> bool:
        return (await state(db, request)).attempts == 1

    async with delivering(db, session, pauses=(1_000.0,)):
        await wait_until(tried, "the first try")
    other = await finished(db, origin.script("/other", Reply(204)))
    async with delivering(db, session):
        await ended(db, other)  # which is due, and this is not
        assert (await state(db, request)).attempts == 1
    await db.database.write(
        lambda c: c.execute("UPDATE deliveries SET next_at = 1 WHERE status = 'pending'").rowcount
    )
    async with delivering(db, session):
        assert (await ended(db, request)).attempts == 2
    assert len({call.headers["webhook-id"] for call in origin.seen("/hook")}) == 1


async def test_one_that_is_cut_short_is_sent_again_under_the_same_id(
    db: DatabaseHarness, session: aiohttp.ClientSession, origin: Origin
) -> None:
    request = await finished(db, origin.script("/hook", Reply(204, gate="a"), Reply(204)))
    async with delivering(db, session):
        await wait_until(lambda: origin.hits("/hook") == 1, "the call")
    assert (await state(db, request)).attempts == 0
    async with delivering(db, session):
        assert (await ended(db, request)).status == "delivered"
    assert len({call.headers["webhook-id"] for call in origin.seen("/hook")}) == 1
    assert origin.hits("/hook") == 2


async def test_slow_receivers_hold_up_no_other_one(
    db: DatabaseHarness, session: aiohttp.ClientSession, origin: Origin
) -> None:
    slow = origin.script("/slow", Reply(204, gate="slow"))
    held = [await finished(db, slow) for _ in range(module.SENT_AT_ONCE + 1)]
    fast = origin.script("/fast", Reply(204)).replace("127.0.0.1", "localhost")
    other = await finished(db, fast)
    async with delivering(db, session):
        assert (await ended(db, other)).status == "delivered"
        assert origin.hits("/slow") <= module.SENT_TO_ONE
        origin.open_gate("slow")
        for request in held:
            assert (await ended(db, request)).attempts == 1


async def test_more_than_are_sent_at_once_are_all_sent(
    db: DatabaseHarness, session: aiohttp.ClientSession, origin: Origin
) -> None:
    hook = origin.script("/hook", Reply(204))
    requests = [await finished(db, hook) for _ in range(2 * module.SENT_AT_ONCE)]
    async with delivering(db, session):
        for request in requests:
            assert (await ended(db, request)).attempts == 1
    assert origin.hits("/hook") == len(requests)


async def test_an_outcome_that_cannot_be_noted_is_not_lost(
    tmp_path: Path,
    session: aiohttp.ClientSession,
    origin: Origin,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(connection, "BUSY_SECONDS", 0.02)
    monkeypatch.setattr(connection, "LOCKED_SECONDS", 0.0)
    monkeypatch.setattr(module, "UNNOTED_SECONDS", 0.02)
    async with open_database(tmp_path) as db:
        request = await finished(db, origin.script("/hook", Reply(204)))
        other = sqlite3.connect(tmp_path / "imgsvc.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        async with delivering(db, session):
            await wait_until(lambda: "could not be noted" in caplog.text, "a note that fails")
            other.execute("ROLLBACK")
            other.close()
            assert (await ended(db, request)).status == "delivered"
        assert len({call.headers["webhook-id"] for call in origin.seen("/hook")}) == 1


async def test_a_request_that_is_deleted_meanwhile_is_no_trouble(
    db: DatabaseHarness, session: aiohttp.ClientSession, origin: Origin
) -> None:
    gone = await finished(db, origin.script("/gone", Reply(204, gate="gone")))
    async with delivering(db, session) as queue:
        await wait_until(lambda: origin.hits("/gone") == 1, "the call")
        await db.uploads.mark_deleting(gone.request_id)
        while (await db.uploads.purge_slice()).more:
            pass
        origin.open_gate("gone")
        other = await finished(db, origin.script("/other", Reply(204)))
        queue.wake()
        assert (await ended(db, other)).status == "delivered"
