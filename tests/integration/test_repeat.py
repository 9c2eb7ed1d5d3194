"""Repeating a request: a new request with its rows and options, complete or not at all."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from imgsvc.errors import ProblemError
from imgsvc.upload_types import RepeatOptions
from tests.harness.http import HttpHarness, HttpResponse, csv_body, open_http

ROWS = (
    (1, "Lamp, desk", ["http://a.example/w_1,h_1/1.jpg", "http://b.example/2.jpg"], "red"),
    (2, "Spot", ["http://a.example/3.jpg", "http://a.example/3.jpg"], ""),
)
OPTIONS = "?quality=70&format=webp&webhookUrl=http://c.example/hook&name=Spring&fresh=true"


@pytest.fixture
async def http(tmp_path: Path) -> AsyncIterator[HttpHarness]:
    async with open_http(tmp_path) as http:
        yield http


async def repeat(
    http: HttpHarness, request_id: str, query: str = "", **headers: str
) -> HttpResponse:
    return await http.post(f"/repeatRequest/{request_id}{query}", headers=headers)


async def status(http: HttpHarness, request_id: str) -> Any:
    return (await http.get(f"/checkStatus/{request_id}?format=json")).json()


async def whole_csv(http: HttpHarness, request_id: str) -> bytes:
    body = (await http.get(f"/checkStatus/{request_id}")).body
    return body.replace(request_id.encode(), b"ID")


async def stored(http: HttpHarness, query: Callable[[sqlite3.Connection], Any]) -> Any:
    return await http.service.stores.database.read(query)


async def test_repeat_accepts_new_request_with_same_rows_and_options(http: HttpHarness) -> None:
    first = await http.upload(ROWS, OPTIONS)
    pending = await whole_csv(http, first)
    await http.complete(await http.claim())
    response = await repeat(http, first)
    body = response.json()
    assert response.status == 201
    assert response.headers["Location"] == f"/checkStatus/{body['requestId']}"
    assert (body["status"], body["products"], body["images"]) == ("pending", 2, 4)
    assert (body["name"], body["layout"], body["encoding"]) == ("Spring", "standard", "utf-8")
    second = body["requestId"]
    assert second != first
    assert await whole_csv(http, second) == pending
    assert (await http.get(f"/checkStatus/{second}?layout=input")).body == csv_body(ROWS)
    found = [await http.service.stores.queries.request(each) for each in (first, second)]
    assert found[1].options == found[0].options
    assert found[1].progress.pending == 4
    [claim, *others] = await http.claim()
    assert (claim.request_id, claim.attempts, claim.conditions) == (second, 0, None)
    assert sorted(len(each.numbers) for each in (claim, *others)) == [1, 1, 2]
    await http.complete([claim, *others])
    assert (await status(http, second))["status"] == "completed"
    assert (await status(http, second))["progress"]["reused"]["sameUrl"] == 1


async def test_repeat_replaces_given_options(http: HttpHarness) -> None:
    first = await http.upload(ROWS, OPTIONS)
    query = "?quality=30&format=jpeg&webhookUrl=http://d.example/&name=Summer&fresh=false"
    second = (await repeat(http, first, query)).json()["requestId"]
    request = await http.service.stores.queries.request(second)
    assert str(request.options.settings) == "30 jpeg"
    assert request.options.webhook_url == "http://d.example/"
    assert (request.options.name, request.options.fresh) == ("Summer", False)
    third = (await repeat(http, first, "?quality=20%25")).json()["requestId"]
    assert str((await http.service.stores.queries.request(third)).options.settings) == "20% webp"


@pytest.mark.parametrize("query", ["?dryRun=true", "?encoding=cp1251", "?onInvalid=skip", "?x=1"])
async def test_repeat_rejects_options_that_read_the_file(http: HttpHarness, query: str) -> None:
    response = await repeat(http, await http.upload(ROWS), query)
    assert response.status == 400
    assert response.problem()["type"] == "urn:imgsvc:problem:invalid-option"


async def test_repeat_copies_many_rows_and_many_images_in_slices(http: HttpHarness) -> None:
    rows = [(n, f"Product {n}", [f"http://a.example/{n}.jpg"], "x" * 40) for n in range(1_200)]
    rows += [(n, "Big", [f"http://a.example/{n}/{m}" for m in range(900)], "") for n in range(7)]
    first = await http.upload(rows)
    second = (await repeat(http, first)).json()["requestId"]
    request = await http.service.stores.queries.request(second)
    assert (request.products, request.progress.pending) == (1_207, 1_200 + 7 * 900)
    assert await whole_csv(http, second) == await whole_csv(http, first)


async def test_repeat_keeps_skipped_rows_and_cells_of_the_file(http: HttpHarness) -> None:
    table = (
        b'Shop export\r\nTitle;Photo;Size\r\nMug;=IMAGE("http://a.example/1.jpg");S\r\n'
        b"Cup;ftp://a.example/2.jpg;M\r\n"
    )
    headers = {"Content-Type": "text/csv"}
    uploaded = (await http.post("/processImages?onInvalid=skip", table, headers)).json()
    repeated = (await repeat(http, uploaded["requestId"])).json()
    assert uploaded["skipped"] == 1
    own = {"requestId", "statusUrl", "createdAt"}
    assert {k: v for k, v in repeated.items() if k not in own} == {
        k: v for k, v in uploaded.items() if k not in own
    }
    layout = "?layout=input"
    [first, second] = [
        (await http.get(f"/checkStatus/{each['requestId']}{layout}")).body
        for each in (uploaded, repeated)
    ]
    assert first == second
    assert second.startswith((b"Shop export;;\r\n", b"Shop export\r\n"))


async def test_repeat_with_same_idempotency_key_replays_the_response(http: HttpHarness) -> None:
    first = await http.upload(ROWS)
    key = {"Idempotency-Key": "weekly-7"}
    one = await repeat(http, first, "?quality=40", **key)
    two = await repeat(http, first, "?quality=40", **key)
    assert (two.status, two.headers["Idempotent-Replayed"]) == (201, "true")
    assert two.json() == one.json()
    for other in (
        await repeat(http, first, "?quality=41", **key),
        await repeat(http, await http.upload(ROWS), "?quality=40", **key),
        await http.post("/processImages", csv_body(ROWS), {"Content-Type": "text/csv", **key}),
    ):
        assert other.problem()["type"] == "urn:imgsvc:problem:idempotency-key-reused"
    await http.complete(await http.claim())
    await http.call("DELETE", f"/deleteRequest/{first}")
    assert (await repeat(http, first, "?quality=40", **key)).json()["requestId"] == (
        one.json()["requestId"]
    )


async def test_repeat_is_refused_while_the_request_is_being_deleted(http: HttpHarness) -> None:
    first = await http.upload(ROWS)
    await http.complete(await http.claim())
    request_store = http.service.stores.request_store
    await request_store.mark_deleting(first)
    response = await repeat(http, first)
    assert (response.status, response.problem()["type"]) == (
        409,
        "urn:imgsvc:problem:not-available",
    )
    while await request_store.purge_slice():
        pass
    assert (await repeat(http, first)).status == 404


async def test_repeat_stores_nothing_if_the_request_is_deleted_during_the_copy(
    http: HttpHarness,
) -> None:
    rows = [(n, f"Product {n}", [f"http://a.example/{n}.jpg"], "") for n in range(1_500)]
    first = await http.upload(rows)
    await http.fail(await http.claim(2_000))
    stores = http.service.stores
    source = await stores.request_store.find_repeatable(first)
    key = await stores.request_store.begin()
    assert await stores.request_store.copy_slice(source.key, key)
    await stores.request_store.mark_deleting(first)
    with pytest.raises(ProblemError, match="not-available"):
        await stores.request_store.copy_slice(source.key, key)
    await stores.request_store.discard(key)
    while await stores.request_store.purge_slice():
        pass
    assert await stored(http, rows_left) == 0


async def test_repeat_stores_nothing_if_too_many_images_are_pending(tmp_path: Path) -> None:
    async with open_http(tmp_path, server={"max_waiting_images": 7}) as http:
        first = await http.upload(ROWS)
        response = await repeat(http, first)
        assert (response.status, response.problem()["type"]) == (
            429,
            "urn:imgsvc:problem:too-much-waiting",
        )
        assert response.headers["Retry-After"]
        listed = (await http.get("/listRequests")).json()["requests"]
        assert [each["requestId"] for each in listed] == [first]
        while await http.service.stores.request_store.purge_slice():
            pass
        assert await stored(http, rows_left) == 1 + 2 + 4 + 1


async def test_repeat_cancelled_at_any_await_leaves_no_staged_rows(http: HttpHarness) -> None:
    first = await http.upload(ROWS)
    intake = http.service.intake
    for iterations in range(30):
        repeating = asyncio.create_task(intake.repeat(first, RepeatOptions()))
        for _ in range(iterations):
            await asyncio.sleep(0)
        repeating.cancel()
        await asyncio.gather(repeating, return_exceptions=True)
        stages = await stored(http, lambda c: c.execute("SELECT stage FROM requests").fetchall())
        assert ("staging",) not in stages, iterations


async def test_repeat_is_refused_while_the_service_stops(http: HttpHarness) -> None:
    first = await http.upload(ROWS)
    http.service.intake.stop()
    with pytest.raises(ProblemError, match="unavailable"):
        await http.service.intake.repeat(first, RepeatOptions())


def rows_left(c: sqlite3.Connection) -> int:
    count: int = c.execute(
        "SELECT (SELECT count(*) FROM requests) + (SELECT count(*) FROM products) "
        "+ (SELECT count(*) FROM images) + (SELECT count(*) FROM request_columns)"
    ).fetchone()[0]
    return count
