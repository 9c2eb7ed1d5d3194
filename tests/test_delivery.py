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
from imgsvc.network.outbound import open_session
from imgsvc.network.webhooks import WebhookSender
from imgsvc.processing import delivery as module
from imgsvc.processing.delivery import DeliveryQueue
from tests.books import Books, opened
from tests.origin import Origin, Reply
from tests.workshop import until


@pytest.fixture
async def books(tmp_path: Path) -> AsyncIterator[Books]:
    async with opened(tmp_path) as books:
        yield books


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    config = FetchConfig(allowed_networks=("127.0.0.0/8",))
    async with open_session(config, AddressRules(config.allowed_networks)) as session:
        yield session


@asynccontextmanager
async def delivering(
    books: Books, session: aiohttp.ClientSession, *, pauses: Sequence[float] = (0.01,) * 7
) -> AsyncIterator[DeliveryQueue]:
    """Deliver until the block ends, which ends it as the service's stop does."""
    config = WebhookConfig(pauses_seconds=tuple(pauses))
    queue = DeliveryQueue(
        books.deliveries, WebhookSender(session, config), config, Metrics(), touch=lambda _: None
    )
    task = asyncio.create_task(queue.deliver_due())
    try:
        yield queue
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def finished(books: Books, webhook: str) -> Request:
    request = await books.accept([["http://a/1"]], webhook=webhook)
    await books.complete(await books.claim())
    return await books.snapshots.request(request.request_id)


async def state(books: Books, request: Request) -> DeliveryState:
    webhook = (await books.snapshots.request(request.request_id)).webhook
    assert webhook is not None
    return webhook


async def ended(books: Books, request: Request) -> DeliveryState:
    async def over() -> bool:
        return (await state(books, request)).status != "pending"

    await until(over, "the delivery's end")
    return await state(books, request)


async def test_what_is_due_is_sent_once(
    books: Books, session: aiohttp.ClientSession, origin: Origin
) -> None:
    url = origin.script("/hook", Reply(204))
    before = await finished(books, url)
    async with delivering(books, session) as queue:
        assert await ended(books, before) == DeliveryState(url, "delivered", 1, None)
        after = await finished(books, url)
        queue.wake()
        assert (await ended(books, after)).status == "delivered"
    bodies = [call.body.decode() for call in origin.seen("/hook")]
    assert bodies == [f"about {before.request_id}", f"about {after.request_id}"]
    assert (await books.snapshots.request(before.request_id)).version > before.version


async def test_one_that_fails_is_sent_again_until_its_tries_are_used_up(
    books: Books, session: aiohttp.ClientSession, origin: Origin
) -> None:
    url = origin.script("/hook", Reply(500), Reply(302, {"Location": origin.url("/x")}), Reply(503))
    request = await finished(books, url)
    async with delivering(books, session, pauses=(0.01, 0.01)):
        last = await ended(books, request)
    assert (last.status, last.attempts) == ("failed", 3)
    assert last.last_error is not None
    assert last.last_error.startswith("503")
    assert len({call.headers["webhook-id"] for call in origin.seen("/hook")}) == 1
    assert (origin.hits("/hook"), origin.hits("/x")) == (3, 0)


async def test_gone_ends_it(books: Books, session: aiohttp.ClientSession, origin: Origin) -> None:
    request = await finished(books, origin.script("/hook", Reply(410)))
    async with delivering(books, session):
        last = await ended(books, request)
    assert (last.status, last.attempts, origin.hits("/hook")) == ("failed", 1, 1)


async def test_a_pause_outlasts_a_restart(
    books: Books, session: aiohttp.ClientSession, origin: Origin
) -> None:
    url = origin.script("/hook", Reply(500), Reply(204))
    request = await finished(books, url)

    async def tried() -> bool:
        return (await state(books, request)).attempts == 1

    async with delivering(books, session, pauses=(1_000.0,)):
        await until(tried, "the first try")
    other = await finished(books, origin.script("/other", Reply(204)))
    async with delivering(books, session):
        await ended(books, other)  # which is due, and this is not
        assert (await state(books, request)).attempts == 1
    await books.database.write(
        lambda c: c.execute("UPDATE deliveries SET next_at = 1 WHERE status = 'pending'").rowcount
    )
    async with delivering(books, session):
        assert (await ended(books, request)).attempts == 2
    assert len({call.headers["webhook-id"] for call in origin.seen("/hook")}) == 1


async def test_one_that_is_cut_short_is_sent_again_under_the_same_id(
    books: Books, session: aiohttp.ClientSession, origin: Origin
) -> None:
    request = await finished(books, origin.script("/hook", Reply(204, gate="a"), Reply(204)))
    async with delivering(books, session):
        await until(lambda: origin.hits("/hook") == 1, "the call")
    assert (await state(books, request)).attempts == 0
    async with delivering(books, session):
        assert (await ended(books, request)).status == "delivered"
    assert len({call.headers["webhook-id"] for call in origin.seen("/hook")}) == 1
    assert origin.hits("/hook") == 2


async def test_slow_receivers_hold_up_no_other_one(
    books: Books, session: aiohttp.ClientSession, origin: Origin
) -> None:
    slow = origin.script("/slow", Reply(204, gate="slow"))
    held = [await finished(books, slow) for _ in range(module.SENT_AT_ONCE + 1)]
    fast = origin.script("/fast", Reply(204)).replace("127.0.0.1", "localhost")
    other = await finished(books, fast)
    async with delivering(books, session):
        assert (await ended(books, other)).status == "delivered"
        assert origin.hits("/slow") <= module.SENT_TO_ONE
        origin.open_gate("slow")
        for request in held:
            assert (await ended(books, request)).attempts == 1


async def test_more_than_are_sent_at_once_are_all_sent(
    books: Books, session: aiohttp.ClientSession, origin: Origin
) -> None:
    hook = origin.script("/hook", Reply(204))
    requests = [await finished(books, hook) for _ in range(2 * module.SENT_AT_ONCE)]
    async with delivering(books, session):
        for request in requests:
            assert (await ended(books, request)).attempts == 1
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
    async with opened(tmp_path) as books:
        request = await finished(books, origin.script("/hook", Reply(204)))
        other = sqlite3.connect(tmp_path / "imgsvc.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        async with delivering(books, session):
            await until(lambda: "could not be noted" in caplog.text, "a note that fails")
            other.execute("ROLLBACK")
            other.close()
            assert (await ended(books, request)).status == "delivered"
        assert len({call.headers["webhook-id"] for call in origin.seen("/hook")}) == 1


async def test_a_request_that_is_deleted_meanwhile_is_no_trouble(
    books: Books, session: aiohttp.ClientSession, origin: Origin
) -> None:
    gone = await finished(books, origin.script("/gone", Reply(204, gate="gone")))
    async with delivering(books, session) as queue:
        await until(lambda: origin.hits("/gone") == 1, "the call")
        await books.uploads.mark_deleting(gone.request_id)
        while (await books.uploads.purge_slice()).more:
            pass
        origin.open_gate("gone")
        other = await finished(books, origin.script("/other", Reply(204)))
        queue.wake()
        assert (await ended(books, other)).status == "delivered"
