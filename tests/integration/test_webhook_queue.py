"""Tests of the webhook queue: due webhooks, retries, restarts."""

from __future__ import annotations

import asyncio
import socket
import sqlite3
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import aiohttp
import pytest

from imgsvc.config import FetchConfig, WebhookConfig
from imgsvc.database.index_keys import receiver_key
from imgsvc.metrics import Metrics
from imgsvc.models import DeliveryState, Request
from imgsvc.network.addresses import AddressRules
from imgsvc.network.circuit_breaker import FAILURES_TO_OPEN
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
    timeout: float = 60.0,
    limits: WebhookLimits = LIMITS,
) -> AsyncIterator[WebhookQueue]:
    """Run a webhook queue until the block ends. It stops as in the service's stop."""
    config = WebhookConfig(retry_delays_seconds=tuple(delays), timeout_seconds=timeout)
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
    async with running_queue(db, session, delays=(1_000.0,)):
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
    held = [await finished_request(db, slow) for _ in range(LIMITS.receivers.total + 1)]
    fast = origin.script("/fast", Reply(204)).replace("127.0.0.1", "localhost")
    other = await finished_request(db, fast)
    async with running_queue(db, session):
        assert (await wait_delivered(db, other)).status == "delivered"
        assert origin.hits("/slow") <= LIMITS.receivers.per_receiver
        origin.open_gate("slow")
        for request in held:
            assert (await wait_delivered(db, request)).attempts == 1


async def due_webhooks(db: DatabaseHarness, urls: Sequence[str]) -> None:
    """Add a finished request with a due webhook for each URL."""

    def transaction(c: sqlite3.Connection) -> None:
        first = c.execute("SELECT coalesce(max(key), 0) + 1 FROM requests").fetchone()[0]
        for key, url in enumerate(urls, first):
            c.execute(
                "INSERT INTO requests (key, request_id, stage, created_at, finished_at, webhook_url) "
                "VALUES (?, ?, 'accepted', 1, 2, ?)",
                (key, f"request {key}", url),
            )
            c.execute(
                "INSERT INTO deliveries (request_key, delivery_id, url, receiver_key, body, next_at) "
                "VALUES (?, ?, ?, ?, '', 1)",
                (key, f"msg_{key}", url, receiver_key(url)),
            )

    await db.database.write(transaction)


@contextmanager
def hanging_receivers(count: int) -> Iterator[list[socket.socket]]:
    """Listen on `count` ports, and never answer."""
    with ExitStack() as stack:
        yield [
            stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=100))
            for _ in range(count)
        ]


def url_of(receiver: socket.socket) -> str:
    return f"http://127.0.0.1:{receiver.getsockname()[1]}/hook"


@pytest.mark.parametrize(("receivers", "webhooks"), [(1, 2_400), (16, 1_900), (60, 600)])
async def test_hanging_receivers_delay_no_other_receiver(
    db: DatabaseHarness,
    session: aiohttp.ClientSession,
    origin: Origin,
    receivers: int,
    webhooks: int,
) -> None:
    """None of the hanging ones times out during this test."""
    with hanging_receivers(receivers) as hanging:
        urls = [url_of(receiver) for receiver in hanging]
        await due_webhooks(db, urls * (webhooks // receivers))
        async with running_queue(db, session, timeout=3_600.0) as queue:
            await wait_until(lambda: len(queue._sending) >= receivers, "the webhooks to be sent")
            request = await finished_request(db, origin.script("/hook", Reply(204)))
            queue.wake()
            assert (await wait_delivered(db, request)).attempts == 1


async def test_receiver_that_timed_out_gets_one_webhook_at_a_time_and_then_its_circuit_opens(
    db: DatabaseHarness, session: aiohttp.ClientSession, origin: Origin
) -> None:
    request = await finished_request(db, origin.script("/hook", Reply(204)))
    with hanging_receivers(1) as (hanging,):
        await due_webhooks(db, [url_of(hanging)] * 100)
        async with running_queue(db, session, timeout=0.05) as queue:
            breakers = queue._receivers._breakers
            key = receiver_key(url_of(hanging))

            async def failed() -> int:
                return await db.database.read(
                    lambda c: c.execute("SELECT sum(attempts) FROM deliveries").fetchone()[0]
                )

            async def has_opened() -> bool:
                assert queue._receivers._in_flight[key] <= 1
                return bool(breakers.open_circuits())

            await wait_until(has_opened, "the circuit to open")
            assert (await wait_delivered(db, request)).status == "delivered"
            assert queue._receivers.free_slots_of(key) == 0
            assert await failed() <= FAILURES_TO_OPEN + 1


async def test_more_webhooks_than_concurrency_limit_are_all_sent(
    db: DatabaseHarness, session: aiohttp.ClientSession, origin: Origin
) -> None:
    hook = origin.script("/hook", Reply(204))
    requests = [await finished_request(db, hook) for _ in range(2 * LIMITS.receivers.total)]
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
