"""Tests of the hosts that images of a request wait for: after a failed attempt, or for the circuit."""

from __future__ import annotations

import socket
import time
from collections.abc import AsyncIterator, Iterator
from datetime import datetime
from pathlib import Path

import pytest

from imgsvc.database.job_store import host_key
from imgsvc.errors import ImageError, ImageErrorCode
from imgsvc.models import Requeued, WaitingHost
from imgsvc.processing.limits import ProcessingLimits
from imgsvc.serializers import eta_seconds
from tests.harness.database import DatabaseHarness, open_database
from tests.harness.http import open_http
from tests.harness.service import SchedulerHarness, background, open_scheduler
from tests.origin import Origin, Reply
from tests.waiting import wait_until

SLOW = ImageError(ImageErrorCode.TIMEOUT, "The host sent no data for 15 seconds.")
A, B = host_key("http://a.example:80"), host_key("http://b.example:80")
LIMITS = ProcessingLimits(circuit_check_seconds=0.02, unreachable_check_seconds=0.02)
FIRST_DELAY = 1.25
"""The longest delay of a second attempt, in seconds."""


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[DatabaseHarness]:
    async with open_database(tmp_path) as harness:
        yield harness


@pytest.fixture
def closed_port() -> Iterator[int]:
    """Provide a port that refuses every connection."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield int(held.getsockname()[1])


def urls(count: int, host: str) -> list[list[str]]:
    return [[f"http://{host}.example/{n}.jpg"] for n in range(count)]


async def waiting_of(harness: SchedulerHarness, request_id: str) -> tuple[WaitingHost, ...]:
    return (await harness.db.queries.request(request_id)).waiting


# --- the service ------------------------------------------------------------------------------------


async def test_status_names_closed_port_code_and_next_try_after_first_failure(
    tmp_path: Path, closed_port: int
) -> None:
    async with open_scheduler(tmp_path) as harness:
        started = time.time()
        request = await harness.accept(f"http://127.0.0.1:{closed_port}/1.jpg")
        await wait_until(lambda: waiting_of(harness, request.request_id), "the waiting host")
        (waiting,) = await waiting_of(harness, request.request_id)
        assert waiting.host == f"127.0.0.1:{closed_port}"
        assert waiting.code is ImageErrorCode.CONNECT_FAILED
        assert waiting.message == "The host refused the connection."
        assert waiting.count == 1
        assert waiting.next_try_at > started
        assert waiting.next_try_at <= time.time() + FIRST_DELAY


async def test_status_names_host_that_cannot_be_found(tmp_path: Path) -> None:
    async with open_scheduler(tmp_path) as harness:
        request = await harness.accept("http://does-not-exist.invalid/1.jpg")
        await wait_until(lambda: waiting_of(harness, request.request_id), "the waiting host")
        (waiting,) = await waiting_of(harness, request.request_id)
        assert (waiting.host, waiting.code) == (
            "does-not-exist.invalid",
            ImageErrorCode.DNS_FAILURE,
        )
        assert "does-not-exist.invalid" in waiting.message


async def test_all_images_of_unreachable_host_wait_for_the_next_probe(
    tmp_path: Path, closed_port: int, origin: Origin
) -> None:
    async with open_scheduler(tmp_path, limits=LIMITS) as harness:
        good = origin.serve("/good.jpg", harness.script("good"))
        dead = [f"http://127.0.0.1:{closed_port}/{n}.jpg" for n in range(40)]
        request = await harness.accept(good, *dead)

        async def is_held() -> bool:
            snapshot = await harness.snapshot(request)
            return snapshot.progress.done == 1 and snapshot.waiting_images == len(dead)

        await wait_until(is_held, "the circuit to be reported")
        snapshot = await harness.snapshot(request)
        (waiting,) = snapshot.waiting
        assert waiting.count == len(dead)
        assert time.time() < waiting.next_try_at <= time.time() + 30
        assert eta_seconds(snapshot, time.time() + 1) is None
        assert request.key in harness.events.changed

        later = await harness.accept(*dead)
        await wait_until(lambda: waiting_of(harness, later.request_id), "a later request to wait")
        (waiting,) = await waiting_of(harness, later.request_id)
        assert waiting.count == len(dead)


async def test_no_image_waits_after_host_has_responded(tmp_path: Path, origin: Origin) -> None:
    async with open_scheduler(tmp_path, start=False, limits=LIMITS) as harness:
        key = host_key(origin.base)
        for _ in range(10):
            harness.breakers.record_failure(key, SLOW, time.monotonic() - 31)
        body = harness.script("image")
        request = await harness.accept(
            *(origin.script(f"/{n}.jpg", Reply(gate="go", body=body)) for n in range(3))
        )
        harness.start()

        async def is_held() -> bool:
            return (await harness.snapshot(request)).waiting_images == 3

        await wait_until(is_held, "the circuit to be reported, the probe included")
        origin.open_gate("go")
        assert (await harness.wait_finished(request)).waiting == ()


async def test_images_of_host_whose_circuit_has_closed_do_not_wait(tmp_path: Path) -> None:
    async with open_scheduler(tmp_path, start=False, limits=LIMITS) as harness:
        request = await harness.accept(*(f"http://a.example/{n}.jpg" for n in range(3)))

        async def wait_for(waiting_images: int) -> None:
            async def is_reported() -> bool:
                return (await harness.snapshot(request)).waiting_images == waiting_images

            await wait_until(is_reported, f"{waiting_images} waiting images")

        async with background(harness.processing.unreachable_hosts.run()):
            for _ in range(10):
                harness.breakers.record_failure(A, SLOW, time.monotonic())
            await wait_for(3)
            harness.breakers.record_success(A)
            await wait_for(0)
        assert (await harness.snapshot(request)).waiting == ()


async def test_status_json_lists_waiting_images_and_etag_changes(tmp_path: Path) -> None:
    async with open_http(tmp_path) as http:
        request_id = await http.upload()
        first, second = await http.claim()
        path = f"/checkStatus/{request_id}?format=json&products=false"
        before = await http.get(path)
        assert before.json()["waiting"] == []
        await http.job_store.finish([Requeued(first, 1, 5e9, SLOW), Requeued(second, 0)])
        after = await http.get(path, {"If-None-Match": before.headers["ETag"]})
        assert after.status == 200
        (waiting,) = after.json()["waiting"]
        assert waiting == {
            "host": first.host_url.removeprefix("http://").removesuffix(":80"),
            "code": "timeout",
            "message": SLOW.message,
            "count": 1,
            "nextTryAt": "2128-06-11T08:53:20.000Z",
        }
        etag = after.headers["ETag"]
        assert (await http.get(path, {"If-None-Match": etag})).status == 304
        host = host_key(first.host_url)
        await http.job_store.hold_host(host, SLOW, 6e9, [first.request_key])
        held = await http.get(path, {"If-None-Match": etag})
        (waiting,) = held.json()["waiting"]
        assert datetime.fromisoformat(waiting["nextTryAt"]).timestamp() == 6e9
        await http.job_store.release_host(host)
        released = await http.get(path, {"If-None-Match": held.headers["ETag"]})
        assert released.status == 200
        (waiting,) = released.json()["waiting"]
        assert datetime.fromisoformat(waiting["nextTryAt"]).timestamp() == 5e9


# --- the database -----------------------------------------------------------------------------------


async def test_waiting_hosts_come_with_most_images_first_and_at_most_100(
    db: DatabaseHarness,
) -> None:
    rows = [row for n in range(101) for row in urls(2 if n == 50 else 1, f"h{n}")]
    request = await db.accept(rows)
    claims = await db.claim(limit=1_000)
    await db.job_store.finish([Requeued(claim, 1, 5e9, SLOW) for claim in claims])
    snapshot = await db.queries.request(request.request_id)
    assert len(snapshot.waiting) == 100
    assert (snapshot.waiting[0].host, snapshot.waiting[0].count) == ("h50.example", 2)
    assert snapshot.waiting_images == 102
    listed = (await db.queries.list_requests())[0][0]
    assert (listed.waiting, listed.waiting_images) == ((), 102)


async def test_next_try_is_that_of_the_first_image_or_of_the_probe(db: DatabaseHarness) -> None:
    request = await db.accept([*urls(3, "a"), *urls(1, "b")])
    claims = await db.claim()
    times = {claim.url: 5e9 + number for number, claim in enumerate(claims)}
    await db.job_store.finish([Requeued(c, 1, times[c.url], SLOW) for c in claims])

    async def next_tries() -> dict[str, float]:
        hosts = (await db.queries.request(request.request_id)).waiting
        return {each.host: each.next_try_at for each in hosts}

    of_a = min(time for url, time in times.items() if "a.example" in url)
    of_b = times["http://b.example/0.jpg"]
    assert await next_tries() == {"a.example": of_a, "b.example": of_b}
    for host in (A, B):
        await db.job_store.hold_host(host, SLOW, 4e9, [request.key])
    # The probe waits until an image may be tried.
    assert await next_tries() == {"a.example": of_a, "b.example": of_b}
    await db.job_store.hold_host(A, SLOW, 7e9, [])
    assert await next_tries() == {"a.example": 7e9, "b.example": of_b}


async def test_restart_closes_circuits_and_keeps_retries(tmp_path: Path) -> None:
    async with open_database(tmp_path) as db:
        request = await db.accept(urls(3, "a"))
        (claim, *_) = await db.claim(limit=1)
        await db.job_store.finish([Requeued(claim, 1, 5e9, SLOW)])
        await db.job_store.hold_host(A, SLOW, 6e9, [request.key])
        assert (await db.queries.request(request.request_id)).waiting_images == 3
    async with open_database(tmp_path) as db:
        before = await db.queries.request(request.request_id)
        await db.job_store.recover()
        after = await db.queries.request(request.request_id)
        (waiting,) = after.waiting
        assert (waiting.count, waiting.code, waiting.message) == (1, SLOW.code, SLOW.message)
        assert after.version > before.version


async def test_schemes_of_a_host_are_one_entry(db: DatabaseHarness) -> None:
    both = [["http://a.example/1.jpg"], ["https://a.example/2.jpg"], ["https://a.example/3.jpg"]]
    request = await db.accept([*urls(2, "b"), *both])
    claims = await db.claim()
    assert len(claims) == 5
    await db.job_store.finish(
        [Requeued(claim, 1, 6e9 - number, SLOW) for number, claim in enumerate(claims)]
    )
    of_a = [6e9 - number for number, claim in enumerate(claims) if "a.example" in claim.url]
    first, second = (await db.queries.request(request.request_id)).waiting
    assert (first.host, first.count, first.next_try_at) == ("a.example", 3, min(of_a))
    assert (second.host, second.count) == ("b.example", 2)
