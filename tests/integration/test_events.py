"""Tests of progress events: watchers get the newest snapshot, and the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from imgsvc.errors import ProblemCode, ProblemError
from imgsvc.models import Claim, Request
from imgsvc.processing.events import Events, Subscription
from tests.harness.database import DatabaseHarness, completed, open_database

UNKNOWN = "0b5c1a52-7d0c-4c39-a2a5-67c7c7b5a2f1"


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[DatabaseHarness]:
    async with open_database(tmp_path) as db:
        yield db


@pytest.fixture
async def events(db: DatabaseHarness) -> AsyncIterator[Events]:
    events = Events(db.queries, publish_seconds=0.0)
    async with publishing(events):
        yield events


@asynccontextmanager
async def publishing(events: Events) -> AsyncIterator[None]:
    task = asyncio.create_task(events.publish())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def claimed_request(db: DatabaseHarness, images: int) -> tuple[Request, list[Claim]]:
    request = await db.accept([[f"http://a.example/{n}.jpg"] for n in range(images)])
    claims = await db.claim()
    return await db.queries.request(request.request_id), claims


async def complete(db: DatabaseHarness, events: Events, *claims: Claim) -> None:
    result = await db.job_store.finish([completed(claim) for claim in claims])
    events.mark_changed(result.changed_requests)


async def test_watch_yields_current_state_each_change_and_the_end(
    db: DatabaseHarness, events: Events
) -> None:
    request, (first, second) = await claimed_request(db, 2)
    seen = []
    async with asyncio.timeout(20), events.watch(request.request_id) as subscription:
        assert events.watchers == 1
        async for snapshot in subscription:
            if snapshot.progress.completed in seen:
                continue
            seen.append(snapshot.progress.completed)
            if snapshot.progress.completed == 0:
                await complete(db, events, first)
            elif snapshot.progress.completed == 1:
                await complete(db, events, second)
    assert seen == [0, 1, 2]
    assert events.watchers == 0


async def test_slow_subscription_skips_to_newest_snapshot(db: DatabaseHarness) -> None:
    request, claims = await claimed_request(db, 3)
    subscription = Subscription(request)
    for claim in claims:
        await db.complete([claim])
        subscription.offer(await db.queries.request(request.request_id))
    seen = [snapshot.progress.completed async for snapshot in subscription]
    assert seen == [3]


async def test_watch_of_finished_request_yields_once(db: DatabaseHarness, events: Events) -> None:
    request, claims = await claimed_request(db, 1)
    await db.complete(claims)
    async with asyncio.timeout(20), events.watch(request.request_id) as subscription:
        assert {snapshot.progress.completed async for snapshot in subscription} == {1}


async def test_change_is_published_only_to_watchers_of_its_request(
    db: DatabaseHarness, events: Events
) -> None:
    request, claims = await claimed_request(db, 1)
    other, _ = await claimed_request(db, 1)

    async def last(request_id: str) -> Request | None:
        newest = None
        async with events.watch(request_id) as subscription:
            async for snapshot in subscription:
                newest = snapshot
        return newest

    watching = [asyncio.create_task(last(request.request_id)) for _ in range(3)]
    other_watching = asyncio.create_task(last(other.request_id))
    async with asyncio.timeout(20):
        while events.watchers < 4:  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0)
        await complete(db, events, *claims)
        for newest in await asyncio.gather(*watching):
            assert newest is not None
            assert newest.progress.completed == 1
        assert not other_watching.done()
        assert events.watchers == 1
        events.close()
        newest = await other_watching
    assert newest is not None
    assert newest.finished_at is None


async def test_watch_reads_request_again_after_subscribing(
    db: DatabaseHarness,
) -> None:
    """A change between the first read and the subscription is published without `mark_changed`."""
    events = Events(db.queries)
    request, claims = await claimed_request(db, 1)
    async with asyncio.timeout(20), events.watch(request.request_id) as subscription:
        await db.complete(claims)
        async with publishing(events):
            seen = [snapshot.progress.completed async for snapshot in subscription]
    assert seen[-1] == 1


async def test_close_ends_existing_and_later_subscriptions(
    db: DatabaseHarness, events: Events
) -> None:
    request, _ = await claimed_request(db, 1)
    async with asyncio.timeout(20):
        async with events.watch(request.request_id) as subscription:
            assert (await anext(subscription)).version == request.version
            events.close()
            assert {snapshot.version async for snapshot in subscription} <= {request.version}
        async with events.watch(request.request_id) as subscription:
            assert {snapshot.version async for snapshot in subscription} == {request.version}


async def test_deleting_request_ends_its_subscriptions(db: DatabaseHarness) -> None:
    events = Events(db.queries)
    request, claims = await claimed_request(db, 1)
    async with asyncio.timeout(20), events.watch(request.request_id) as subscription:
        await anext(subscription)
        await db.complete(claims)
        events.mark_changed([await db.request_store.mark_deleting(request.request_id)])
        async with publishing(events):
            assert [snapshot async for snapshot in subscription] == []


async def test_unknown_request_raises_not_found(events: Events) -> None:
    with pytest.raises(ProblemError) as refused:
        async with events.watch(UNKNOWN):
            pass
    assert refused.value.code is ProblemCode.NOT_FOUND
    with pytest.raises(ProblemError):
        await events.wait_for_change(UNKNOWN, None, 20)
    assert events.watchers == 0


# --- waiting for a change ----------------------------------------------------------------------------


async def test_wait_for_change_returns_at_once_if_version_differs(
    db: DatabaseHarness, events: Events
) -> None:
    request, _ = await claimed_request(db, 1)
    async with asyncio.timeout(20):
        await events.wait_for_change(request.request_id, request.version - 1, 1_000)


async def test_wait_for_change_waits_while_version_is_the_same(
    db: DatabaseHarness, events: Events
) -> None:
    request, (first, second) = await claimed_request(db, 2)
    waiting = asyncio.create_task(
        events.wait_for_change(request.request_id, request.version, 1_000)
    )
    for _ in range(3):
        events.mark_changed([request.key])
        await db.queries.request(request.request_id)
    assert not waiting.done()
    await complete(db, events, first)
    async with asyncio.timeout(20):
        await waiting
    assert events.watchers == 0
    await complete(db, events, second)


async def test_wait_for_change_without_version_waits_until_finished(
    db: DatabaseHarness, events: Events
) -> None:
    request, (first, second) = await claimed_request(db, 2)
    waiting = asyncio.create_task(events.wait_for_change(request.request_id, None, 1_000))
    await complete(db, events, first)
    for _ in range(3):
        await db.queries.request(request.request_id)
    assert not waiting.done()
    await complete(db, events, second)
    async with asyncio.timeout(20):
        await waiting


@pytest.mark.parametrize("seconds", [0.0, 0.05])
async def test_wait_for_change_returns_after_timeout(
    db: DatabaseHarness, events: Events, seconds: float
) -> None:
    request, _ = await claimed_request(db, 1)
    async with asyncio.timeout(20):
        await events.wait_for_change(request.request_id, request.version, seconds)
    assert events.watchers == 0


async def test_close_ends_wait_for_change(db: DatabaseHarness, events: Events) -> None:
    request, _ = await claimed_request(db, 1)
    waiting = asyncio.create_task(events.wait_for_change(request.request_id, None, 1_000))
    async with asyncio.timeout(20):
        while not events.watchers:  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0)
        events.close()
        await waiting
