"""Progress for watchers: the newest snapshot, and an end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from imgsvc.errors import ProblemCode, ProblemError
from imgsvc.models import Claim, Request
from imgsvc.processing import events as module
from imgsvc.processing.events import Events, Subscription
from tests.database_harness import DatabaseHarness, completed, open_database

UNKNOWN = "0b5c1a52-7d0c-4c39-a2a5-67c7c7b5a2f1"


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[DatabaseHarness]:
    async with open_database(tmp_path) as db:
        yield db


@pytest.fixture
async def events(db: DatabaseHarness, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Events]:
    monkeypatch.setattr(module, "PUBLISH_SECONDS", 0.0)
    events = Events(db.snapshots)
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


async def claimed(db: DatabaseHarness, images: int) -> tuple[Request, list[Claim]]:
    request = await db.accept([[f"http://a.example/{n}.jpg"] for n in range(images)])
    claims = await db.claim()
    return await db.snapshots.request(request.request_id), claims


async def complete(db: DatabaseHarness, events: Events, *claims: Claim) -> None:
    result = await db.work.finish([completed(claim) for claim in claims])
    events.mark_changed(result.changed_requests)


async def test_a_watcher_sees_the_state_at_once_each_change_and_the_end(
    db: DatabaseHarness, events: Events
) -> None:
    request, (first, second) = await claimed(db, 2)
    seen = []
    async with asyncio.timeout(20), events.watch(request.request_id) as feed:
        assert events.watchers == 1
        async for snapshot in feed:
            if snapshot.progress.completed in seen:
                continue
            seen.append(snapshot.progress.completed)
            if snapshot.progress.completed == 0:
                await complete(db, events, first)
            elif snapshot.progress.completed == 1:
                await complete(db, events, second)
    assert seen == [0, 1, 2]
    assert events.watchers == 0


async def test_a_slow_watcher_skips_to_the_newest_snapshot(db: DatabaseHarness) -> None:
    request, claims = await claimed(db, 3)
    feed = Subscription(request)
    for claim in claims:
        await db.complete([claim])
        feed.offer(await db.snapshots.request(request.request_id))
    seen = [snapshot.progress.completed async for snapshot in feed]
    assert seen == [3]


async def test_what_is_finished_is_told_once(db: DatabaseHarness, events: Events) -> None:
    request, claims = await claimed(db, 1)
    await db.complete(claims)
    async with asyncio.timeout(20), events.watch(request.request_id) as feed:
        assert {snapshot.progress.completed async for snapshot in feed} == {1}


async def test_each_watcher_of_a_request_hears_of_it_and_no_other_does(
    db: DatabaseHarness, events: Events
) -> None:
    request, claims = await claimed(db, 1)
    other, _ = await claimed(db, 1)

    async def last(request_id: str) -> Request | None:
        newest = None
        async with events.watch(request_id) as feed:
            async for snapshot in feed:
                newest = snapshot
        return newest

    watching = [asyncio.create_task(last(request.request_id)) for _ in range(3)]
    elsewhere = asyncio.create_task(last(other.request_id))
    async with asyncio.timeout(20):
        while events.watchers < 4:  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0)
        await complete(db, events, *claims)
        for newest in await asyncio.gather(*watching):
            assert newest is not None
            assert newest.progress.completed == 1
        assert not elsewhere.done()
        assert events.watchers == 1
        events.close()
        newest = await elsewhere
    assert newest is not None
    assert newest.finished_at is None


async def test_a_change_between_the_first_look_and_the_watch_is_seen(
    db: DatabaseHarness,
) -> None:
    """Nobody touches it once the watch has begun: the watch has it looked at once more."""
    events = Events(db.snapshots)
    request, claims = await claimed(db, 1)
    async with asyncio.timeout(20), events.watch(request.request_id) as feed:
        await db.complete(claims)
        async with publishing(events):
            seen = [snapshot.progress.completed async for snapshot in feed]
    assert seen[-1] == 1


async def test_closing_ends_every_feed_and_those_to_come(
    db: DatabaseHarness, events: Events
) -> None:
    request, _ = await claimed(db, 1)
    async with asyncio.timeout(20):
        async with events.watch(request.request_id) as feed:
            assert (await anext(feed)).version == request.version
            events.close()
            assert {snapshot.version async for snapshot in feed} <= {request.version}
        async with events.watch(request.request_id) as feed:
            assert {snapshot.version async for snapshot in feed} == {request.version}


async def test_a_request_that_is_deleted_ends_its_feeds(db: DatabaseHarness) -> None:
    events = Events(db.snapshots)
    request, claims = await claimed(db, 1)
    async with asyncio.timeout(20), events.watch(request.request_id) as feed:
        await anext(feed)
        await db.complete(claims)
        events.mark_changed([await db.uploads.mark_deleting(request.request_id)])
        async with publishing(events):
            assert [snapshot async for snapshot in feed] == []


async def test_what_is_not_known_is_refused(events: Events) -> None:
    with pytest.raises(ProblemError) as refused:
        async with events.watch(UNKNOWN):
            pass
    assert refused.value.code is ProblemCode.NOT_FOUND
    with pytest.raises(ProblemError):
        await events.changed(UNKNOWN, None, 20)
    assert events.watchers == 0


# --- waiting for a change ----------------------------------------------------------------------------


async def test_another_version_is_told_at_once(db: DatabaseHarness, events: Events) -> None:
    request, _ = await claimed(db, 1)
    async with asyncio.timeout(20):
        await events.changed(request.request_id, request.version - 1, 1_000)


async def test_the_same_version_is_waited_out(db: DatabaseHarness, events: Events) -> None:
    request, (first, second) = await claimed(db, 2)
    waiting = asyncio.create_task(events.changed(request.request_id, request.version, 1_000))
    for _ in range(3):
        events.mark_changed([request.key])
        await db.snapshots.request(request.request_id)
    assert not waiting.done()
    await complete(db, events, first)
    async with asyncio.timeout(20):
        await waiting
    assert events.watchers == 0
    await complete(db, events, second)


async def test_without_a_version_the_end_is_waited_for(db: DatabaseHarness, events: Events) -> None:
    request, (first, second) = await claimed(db, 2)
    waiting = asyncio.create_task(events.changed(request.request_id, None, 1_000))
    await complete(db, events, first)
    for _ in range(3):
        await db.snapshots.request(request.request_id)
    assert not waiting.done()
    await complete(db, events, second)
    async with asyncio.timeout(20):
        await waiting


@pytest.mark.parametrize("seconds", [0.0, 0.05])
async def test_when_time_is_up_the_wait_ends(
    db: DatabaseHarness, events: Events, seconds: float
) -> None:
    request, _ = await claimed(db, 1)
    async with asyncio.timeout(20):
        await events.changed(request.request_id, request.version, seconds)
    assert events.watchers == 0


async def test_a_stop_ends_every_wait(db: DatabaseHarness, events: Events) -> None:
    request, _ = await claimed(db, 1)
    waiting = asyncio.create_task(events.changed(request.request_id, None, 1_000))
    async with asyncio.timeout(20):
        while not events.watchers:  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0)
        events.close()
        await waiting
