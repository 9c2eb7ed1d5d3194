"""Tests of the webhook queue: due webhooks, retries, restarts."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from imgsvc.config import FetchConfig, WebhookConfig
from imgsvc.metrics import Metrics
from imgsvc.models import DeliveryState, Request
from imgsvc.network.addresses import AddressRules
from imgsvc.network.session import open_session
from imgsvc.network.webhooks import WebhookSender
from imgsvc.processing.events import Events
from imgsvc.processing.webhook_queue import WebhookLimits, WebhookQueue
from tests.harness.database import NO_LOCK_WAIT, DatabaseHarness, open_database
from tests.origin import Origin, Reply
from tests.waiting import wait_until

LIMITS = WebhookLimits()


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
async def running_queue(
    db: DatabaseHarness,
    session: aiohttp.ClientSession,
    *,
    delays: Sequence[float] = (0.01,) * 7,
    limits: WebhookLimits = LIMITS,
) -> AsyncIterator[WebhookQueue]:
    """Run a webhook queue until the block ends. It stops as in the service's stop."""
    config = WebhookConfig(retry_delays_seconds=tuple(delays))
    queue = WebhookQueue(
        db.webhook_store,
        WebhookSender(session, config),
        config,
        events=Events(db.queries),
        metrics=Metrics(),
        limits=limits,
    )
    task = asyncio.create_task(queue.run())
    try:
        yield queue
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def finished_request(db: DatabaseHarness, webhook: str) -> Request:
    request = await db.accept([["http://a/1"]], webhook=webhook)
    await db.complete(await db.claim())
    return await db.queries.request(request.request_id)


async def delivery_state(db: DatabaseHarness, request: Request) -> DeliveryState:
    webhook = (await db.queries.request(request.request_id)).webhook
    assert webhook is not None
    return webhook


async def wait_delivered(db: DatabaseHarness, request: Request) -> DeliveryState:
    """Wait until the delivery has succeeded or failed permanently, and return its state."""

    async def is_done() -> bool:
        return (await delivery_state(db, request)).status != "pending"

    await wait_until(is_done, "the delivery")
    return await delivery_state(db, request)


async def test_due_webhook_is_sent_once(
    db: DatabaseHarness, session: aiohttp.ClientSession, origin: Origin
) -> None:
    url = origin.script("/hook", Reply(204))
    before = await finished_request(db, url)
    async with running_queue(db, session) as queue:
        assert await wait_delivered(db, before) == DeliveryState(url, "delivered", 1, None)
        after = await finished_request(db, url)
        queue.wake()
        assert (await wait_delivered(db, after)).status == "delivered"
    bodies = [call.body.decode() for call in origin.seen("/hook")]
    assert bodies == [f"about {before.request_id}", f"about {after.request_id}"]
    assert (await db.queries.request(before.request_id)).version > before.version


async def test_failing_webhook_is_retried_until_its_attempts_are_used_up(
    db: DatabaseHarness, session: aiohttp.ClientSession, origin: Origin
) -> None:
    url = origin.script("/hook", Reply(500), Reply(302, {"Location": origin.url("/x")}), Reply(503))
    request = await finished_request(db, url)
    async with running_queue(db, session, delays=(0.01, 0.01)):
        last = await wait_delivered(db, request)
    assert (last.status, last.attempts) == ("failed", 3)
    assert last.last_error is not None
    assert last.last_error.startswith("503")
    assert len({call.headers["webhook-id"] for call in origin.seen("/hook")}) == 1
    assert (origin.hits("/hook"), origin.hits("/x")) == (3, 0)


async def test_410_gone_fails_webhook_without_retry(
    db: DatabaseHarness, session: aiohttp.ClientSession, origin: Origin
) -> None:
    request = await finished_request(db, origin.script("/hook", Reply(410)))
    async with running_queue(db, session):
        last = await wait_delivered(db, request)
    assert (last.status, last.attempts, origin.hits("/hook")) == ("failed", 1, 1)


async def test_retry_delay_is_kept_across_restart(
    db: DatabaseHarness, session: aiohttp.ClientSession, origin: Origin
) -> None:
    url = origin.script("/hook", Reply(500), Reply(204))
    request = await finished_request(db, url)

    async def attempted() -> bool:
        return (await delivery_state(db, request)).attempts == 1

    async with running_queue(db, session, delays=(1_000.0,)):
        await wait_until(attempted, "the first attempt")
    other = await finished_request(db, origin.script("/other", Reply(204)))
    async with running_queue(db, session):
        await wait_delivered(db, other)  # this one is due, the first one is not
        assert (await delivery_state(db, request)).attempts == 1
    await db.database.write(
        lambda c: c.execute("UPDATE deliveries SET next_at = 1 WHERE status = 'pending'").rowcount
    )
    async with running_queue(db, session):
        assert (await wait_delivered(db, request)).attempts == 2
    assert len({call.headers["webhook-id"] for call in origin.seen("/hook")}) == 1


async def test_interrupted_webhook_is_sent_again_with_same_id(
    db: DatabaseHarness, session: aiohttp.ClientSession, origin: Origin
) -> None:
    request = await finished_request(db, origin.script("/hook", Reply(204, gate="a"), Reply(204)))
    async with running_queue(db, session):
        await wait_until(lambda: origin.hits("/hook") == 1, "the webhook request")
    assert (await delivery_state(db, request)).attempts == 0
    async with running_queue(db, session):
        assert (await wait_delivered(db, request)).status == "delivered"
    assert len({call.headers["webhook-id"] for call in origin.seen("/hook")}) == 1
    assert origin.hits("/hook") == 2


async def test_slow_receiver_does_not_delay_other_receivers(
    db: DatabaseHarness, session: aiohttp.ClientSession, origin: Origin
) -> None:
    slow = origin.script("/slow", Reply(204, gate="slow"))
    held = [await finished_request(db, slow) for _ in range(LIMITS.concurrent + 1)]
    fast = origin.script("/fast", Reply(204)).replace("127.0.0.1", "localhost")
    other = await finished_request(db, fast)
    async with running_queue(db, session):
        assert (await wait_delivered(db, other)).status == "delivered"
        assert origin.hits("/slow") <= LIMITS.per_receiver
        origin.open_gate("slow")
        for request in held:
            assert (await wait_delivered(db, request)).attempts == 1


async def test_more_webhooks_than_concurrency_limit_are_all_sent(
    db: DatabaseHarness, session: aiohttp.ClientSession, origin: Origin
) -> None:
    hook = origin.script("/hook", Reply(204))
    requests = [await finished_request(db, hook) for _ in range(2 * LIMITS.concurrent)]
    async with running_queue(db, session):
        for request in requests:
            assert (await wait_delivered(db, request)).attempts == 1
    assert origin.hits("/hook") == len(requests)


async def test_webhook_is_sent_again_after_its_outcome_could_not_be_recorded(
    tmp_path: Path,
    session: aiohttp.ClientSession,
    origin: Origin,
    caplog: pytest.LogCaptureFixture,
) -> None:
    limits = WebhookLimits(unrecorded_delay_seconds=0.02)
    async with open_database(tmp_path, NO_LOCK_WAIT) as db:
        request = await finished_request(db, origin.script("/hook", Reply(204)))
        lock = sqlite3.connect(tmp_path / "imgsvc.db", isolation_level=None)
        lock.execute("BEGIN IMMEDIATE")
        async with running_queue(db, session, limits=limits):
            await wait_until(
                lambda: "recording a webhook's outcome failed" in caplog.text, "a failed write"
            )
            lock.execute("ROLLBACK")
            lock.close()
            assert (await wait_delivered(db, request)).status == "delivered"
        assert len({call.headers["webhook-id"] for call in origin.seen("/hook")}) == 1


async def test_queue_continues_after_request_is_deleted_during_delivery(
    db: DatabaseHarness, session: aiohttp.ClientSession, origin: Origin
) -> None:
    deleted = await finished_request(db, origin.script("/gone", Reply(204, gate="gone")))
    async with running_queue(db, session) as queue:
        await wait_until(lambda: origin.hits("/gone") == 1, "the webhook request")
        await db.request_store.mark_deleting(deleted.request_id)
        while await db.request_store.purge_slice():
            pass
        origin.open_gate("gone")
        other = await finished_request(db, origin.script("/other", Reply(204)))
        queue.wake()
        assert (await wait_delivered(db, other)).status == "delivered"
