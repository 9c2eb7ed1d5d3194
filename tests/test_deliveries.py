"""Webhooks as rows: due, tried, delivered or given up."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from imgsvc.models import Delivery, DeliveryState
from tests.books import Books, opened

URL = "https://me.example/hook"


@pytest.fixture
async def books(tmp_path: Path) -> AsyncIterator[Books]:
    async with opened(tmp_path) as books:
        yield books


async def finished(books: Books, webhook: str | None = URL) -> str:
    request = await books.accept([["http://a/1"]], webhook=webhook)
    await books.complete(await books.claim())
    return request.request_id


async def state(books: Books, request_id: str) -> DeliveryState | None:
    return (await books.snapshots.request(request_id)).webhook


async def test_a_finished_request_has_one_that_is_due_at_once(books: Books) -> None:
    await finished(books, webhook=None)
    request_id = await finished(books)
    (delivery,) = await books.deliveries.due(1e12, 10)
    key = (await books.snapshots.request(request_id)).key
    assert delivery == Delivery(
        delivery.delivery_id, key, request_id, URL, f"about {request_id}", 0
    )
    assert await books.deliveries.due(0.0, 10) == []
    assert await state(books, request_id) == DeliveryState(URL, "pending", 0, None)


async def test_a_failed_try_is_due_again_later(books: Books) -> None:
    request_id = await finished(books)
    (delivery,) = await books.deliveries.due(1e12, 10)
    await books.deliveries.failed_attempt(delivery.delivery_id, "500 Oops", 5e12)
    assert await books.deliveries.due(4e12, 10) == []
    assert await books.deliveries.next_due(after=1e12) == 5e12
    assert await state(books, request_id) == DeliveryState(URL, "pending", 1, "500 Oops")
    (again,) = await books.deliveries.due(5e12, 10)
    assert (again.delivery_id, again.attempts) == (delivery.delivery_id, 1)
    await books.deliveries.delivered(delivery.delivery_id)
    assert await state(books, request_id) == DeliveryState(URL, "delivered", 2, None)
    assert await books.deliveries.due(9e12, 10) == []
    assert await books.deliveries.next_due(after=0.0) is None


async def test_the_last_failed_try_ends_it(books: Books) -> None:
    request_id = await finished(books)
    (delivery,) = await books.deliveries.due(1e12, 10)
    await books.deliveries.failed_attempt(delivery.delivery_id, "410 Gone", None)
    assert await state(books, request_id) == DeliveryState(URL, "failed", 1, "410 Gone")
    await books.deliveries.delivered(delivery.delivery_id)
    assert await state(books, request_id) == DeliveryState(URL, "failed", 1, "410 Gone")
    assert await books.deliveries.due(9e12, 10) == []


async def test_those_due_longest_come_first(books: Books) -> None:
    ids = [await finished(books) for _ in range(4)]
    due = await books.deliveries.due(1e12, 10)
    assert [delivery.request_id for delivery in due] == ids
    await books.deliveries.failed_attempt(due[0].delivery_id, "x", 2e12)
    assert [d.request_id for d in await books.deliveries.due(3e12, 2)] == ids[1:3]
    assert [d.request_id for d in await books.deliveries.due(3e12, 9)] == [*ids[1:], ids[0]]


async def test_one_receiver_has_so_many_of_them_and_no_more(books: Books) -> None:
    ids = [await finished(books, f"http://{host}/{n}") for n, host in enumerate("aAaabab")]
    due = await books.deliveries.due(1e12, 10, for_one=2)
    assert [d.request_id for d in due] == [ids[n] for n in (0, 1, 4, 6)]
    due = await books.deliveries.due(1e12, 3, for_one=2)
    assert [d.request_id for d in due] == [ids[n] for n in (0, 1, 4)]


async def test_one_of_a_deleted_request_is_forgotten(books: Books) -> None:
    request_id = await finished(books)
    (delivery,) = await books.deliveries.due(1e12, 10)
    await books.uploads.mark_deleting(request_id)
    assert await books.deliveries.due(1e12, 10) == []
    await books.deliveries.delivered(delivery.delivery_id)
    assert not (await books.uploads.purge_slice()).more
    await books.deliveries.failed_attempt(delivery.delivery_id, "x", 5.0)
    assert await books.deliveries.next_due(after=0.0) is None
