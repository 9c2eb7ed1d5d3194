"""Tests of `WebhookStore`: due deliveries, and the results of attempts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from imgsvc.database.index_keys import receiver_key
from imgsvc.models import Delivery, DeliveryState
from tests.harness.database import DatabaseHarness, open_database

URL = "https://me.example/hook"


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[DatabaseHarness]:
    async with open_database(tmp_path) as db:
        yield db


async def finish_request(db: DatabaseHarness, webhook: str | None = URL) -> str:
    request = await db.accept([["http://a/1"]], webhook=webhook)
    await db.complete(await db.claim())
    return request.request_id


async def state(db: DatabaseHarness, request_id: str) -> DeliveryState | None:
    return (await db.queries.request(request_id)).webhook


async def test_due_returns_webhook_of_finished_request_at_once(db: DatabaseHarness) -> None:
    await finish_request(db, webhook=None)
    request_id = await finish_request(db)
    (delivery,) = await db.due_webhooks(1e12, 10)
    key = (await db.queries.request(request_id)).key
    assert delivery == Delivery(
        delivery.delivery_id, key, request_id, URL, f"about {request_id}", 0
    )
    assert await db.due_webhooks(0.0, 10) == []
    assert await state(db, request_id) == DeliveryState(URL, "pending", 0, None)


async def test_record_failure_schedules_next_attempt(db: DatabaseHarness) -> None:
    request_id = await finish_request(db)
    (delivery,) = await db.due_webhooks(1e12, 10)
    await db.webhook_store.record_failure(delivery.delivery_id, "500 Oops", 5e12)
    assert await db.due_webhooks(4e12, 10) == []
    assert await db.webhook_store.next_due(after=1e12) == 5e12
    assert await state(db, request_id) == DeliveryState(URL, "pending", 1, "500 Oops")
    (again,) = await db.due_webhooks(5e12, 10)
    assert (again.delivery_id, again.attempts) == (delivery.delivery_id, 1)
    await db.webhook_store.record_success(delivery.delivery_id)
    assert await state(db, request_id) == DeliveryState(URL, "delivered", 2, None)
    assert await db.due_webhooks(9e12, 10) == []
    assert await db.webhook_store.next_due(after=0.0) is None


async def test_record_failure_without_next_attempt_ends_delivery(db: DatabaseHarness) -> None:
    request_id = await finish_request(db)
    (delivery,) = await db.due_webhooks(1e12, 10)
    await db.webhook_store.record_failure(delivery.delivery_id, "410 Gone", None)
    assert await state(db, request_id) == DeliveryState(URL, "failed", 1, "410 Gone")
    await db.webhook_store.record_success(delivery.delivery_id)
    assert await state(db, request_id) == DeliveryState(URL, "failed", 1, "410 Gone")
    assert await db.due_webhooks(9e12, 10) == []


async def test_due_returns_longest_due_first(db: DatabaseHarness) -> None:
    ids = [await finish_request(db) for _ in range(4)]
    due = await db.due_webhooks(1e12, 10)
    assert [delivery.request_id for delivery in due] == ids
    await db.webhook_store.record_failure(due[0].delivery_id, "x", 2e12)
    assert [d.request_id for d in await db.due_webhooks(3e12, 2)] == ids[1:3]
    assert [d.request_id for d in await db.due_webhooks(3e12, 9)] == [*ids[1:], ids[0]]


async def test_due_takes_receivers_in_turn(db: DatabaseHarness) -> None:
    ids = [await finish_request(db, f"http://{host}/{n}") for n, host in enumerate("aAaabab")]
    due = await db.due_webhooks(1e12, 10, per_receiver=2)
    assert sorted(ids.index(d.request_id) for d in due) == [0, 1, 4, 6]
    first, second = [(await db.due_webhooks(1e12, 1))[0] for _ in range(2)]
    assert {ids.index(d.request_id) for d in (first, second)} == {0, 4}


async def test_due_continues_after_the_last_receiver_and_reports_if_there_are_more(
    db: DatabaseHarness,
) -> None:
    ids = [await finish_request(db, f"http://host{n}.example/") for n in range(7)]
    store = db.with_limits(receivers_per_read=3).webhook_store
    found = []
    for _ in range(3):
        due, more = await store.due(1e12, 10, lambda _: 1, longest_delay=1e12)
        assert (len(due), more) == (3, True)
        found += [delivery.request_id for delivery in due]
    assert set(found) == set(ids)
    assert (await db.webhook_store.due(1e12, 10, lambda _: 1, longest_delay=0))[1] is False


async def test_due_leaves_out_excluded_deliveries(db: DatabaseHarness) -> None:
    ids = [await finish_request(db) for _ in range(3)]
    first = (await db.due_webhooks(1e12, 1))[0]
    due, _ = await db.webhook_store.due(
        1e12, 9, lambda _: 2, longest_delay=1e12, excluded=[first.delivery_id]
    )
    assert [delivery.request_id for delivery in due] == ids[1:]


async def test_delivery_scheduled_while_the_clock_was_ahead_is_due(db: DatabaseHarness) -> None:
    await finish_request(db)
    (delivery,) = await db.due_webhooks(1e12, 10)
    await db.webhook_store.record_failure(delivery.delivery_id, "x", 2_000.0)
    assert await db.due_webhooks(1_000.0, 10, longest_delay=1_000.0) == []
    assert len(await db.due_webhooks(1_000.0, 10, longest_delay=999.0)) == 1


@pytest.mark.parametrize(
    "url", ["HTTP://Me.example/a", "http://me.example:80?b", "http://me.example"]
)
def test_receiver_key_is_that_of_scheme_host_and_port(url: str) -> None:
    assert receiver_key(url) == receiver_key("http://me.example/x")
    assert receiver_key(url) != receiver_key("https://me.example/x")


async def test_webhook_of_deleted_request_is_not_due_and_ignores_results(
    db: DatabaseHarness,
) -> None:
    request_id = await finish_request(db)
    (delivery,) = await db.due_webhooks(1e12, 10)
    await db.request_store.mark_deleting(request_id)
    assert await db.due_webhooks(1e12, 10) == []
    await db.webhook_store.record_success(delivery.delivery_id)
    while await db.request_store.purge_slice():
        pass
    await db.webhook_store.record_failure(delivery.delivery_id, "x", 5.0)
    assert await db.webhook_store.next_due(after=0.0) is None
