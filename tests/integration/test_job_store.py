"""Tests of `JobStore`: fair claims, outcomes, and updates of many images at once."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgsvc.database.claiming import allocate_fairly
from imgsvc.database.connection import DatabaseUnavailableError
from imgsvc.database.job_store import FinishResult, JobStore, host_key
from imgsvc.database.limits import DatabaseLimits
from imgsvc.errors import ImageErrorCode, ProblemCode, ProblemError
from imgsvc.image_types import CompressionSettings
from imgsvc.models import (
    Backlog,
    Cancelled,
    Claim,
    Failed,
    FailureCount,
    ImageStatus,
    Progress,
    Request,
    RequestStatus,
    Requeued,
)
from tests.harness.audit import audit
from tests.harness.database import IMAGE_INFO, DatabaseHarness, completed, open_database

SMALL = DatabaseLimits(locked_seconds=0.0, duplicates_per_transaction=2)
"""Two images with one URL per transaction, which fails at once while the database is locked."""


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[DatabaseHarness]:
    async with open_database(tmp_path) as db:
        yield db


async def reload(db: DatabaseHarness, request: Request) -> Request:
    return await db.queries.request(request.request_id)


def failed(claim: Claim, message: str = "slow") -> Failed:
    return Failed(claim, claim.attempts + 1, ImageErrorCode.TIMEOUT, message)


def urls(count: int, host: str = "a") -> list[list[str]]:
    return [[f"http://{host}.example/{n}"] for n in range(count)]


# --- claiming --------------------------------------------------------------------------------------


async def test_claim_returns_url_host_attempts_and_settings_of_image(db: DatabaseHarness) -> None:
    request = await db.accept(
        [["https://a.example/b c.jpg"]], settings=CompressionSettings(progressive=True)
    )
    before = time.time()
    (claim,) = await db.claim(now=before)
    assert claim.url == "https://a.example/b%20c.jpg"
    assert claim.host_url == "https://a.example:443"
    assert (claim.request_key, claim.request_id) == (request.key, request.request_id)
    assert (claim.numbers, claim.attempts) == ((0,), 0)
    assert claim.settings == CompressionSettings(progressive=True)
    after = await reload(db, request)
    assert after.started_at == before
    assert after.progress == Progress(processing=1)
    assert after.version > request.version
    assert await db.claim() == []


async def test_claim_divides_limit_equally_among_requests(db: DatabaseHarness) -> None:
    large = await db.accept(urls(500))
    small = await db.accept(urls(10))
    middle = await db.accept(urls(100))
    counts = Counter(claim.request_key for claim in await db.claim(limit=30))
    assert counts == {large.key: 10, small.key: 10, middle.key: 10}
    counts = Counter(claim.request_key for claim in await db.claim(limit=30))
    assert counts == {large.key: 15, middle.key: 15}


@pytest.mark.parametrize(
    ("requests", "limit", "capacity"),
    [(5, 1, 100), (5, 2, 100), (5, 20, 1), (5, 20, 2), (5, 20, 6), (2, 4, 3), (2, 3, 100)],
)
async def test_claim_serves_requests_in_turn_when_capacity_is_small(
    db: DatabaseHarness, requests: int, limit: int, capacity: int
) -> None:
    keys = {(await db.accept(urls(50))).key for _ in range(requests)}
    counts: Counter[int] = Counter()
    for _ in range(10):
        claims = await db.claim(limit=limit, capacity=capacity)
        assert len(claims) == min(limit, capacity)
        counts.update(claim.request_key for claim in claims)
    assert counts.keys() == keys
    assert max(counts.values()) - min(counts.values()) <= max(1, min(limit, capacity))


async def test_claim_serves_requests_that_used_much_worker_time_last(db: DatabaseHarness) -> None:
    keys = [(await db.accept(urls(5, str(number)))).key for number in range(3)]
    used = {keys[0]: 9.0, keys[1]: 0.1}
    counts = Counter(claim.request_key for claim in await db.claim(limit=4, worker_seconds=used))
    assert counts == {keys[1]: 2, keys[2]: 2}
    counts = Counter(claim.request_key for claim in await db.claim(limit=9, worker_seconds=used))
    assert counts == {keys[1]: 3, keys[2]: 3, keys[0]: 3}


async def test_claim_serves_new_request_in_next_round(db: DatabaseHarness) -> None:
    for _ in range(20):
        await db.accept(urls(100))
    for _ in range(7):
        await db.claim(limit=4)
    new = await db.accept(urls(3))
    served = 0
    for _ in range(3 * 21 // 4 + 2):
        served += sum(claim.request_key == new.key for claim in await db.claim(limit=4))
    assert served == 3


async def test_claim_alternates_between_hosts_within_their_capacity(
    db: DatabaseHarness,
) -> None:
    await db.accept([*urls(300, "a"), *urls(5, "b"), *urls(300, "c")])
    claims = await db.claim(limit=30, capacity=100)
    assert (
        Counter(claim.host_url for claim in claims)
        == {
            "http://a.example:80": 13,
            "http://b.example:80": 5,
            "http://c.example:80": 12,
        }
        or Counter(claim.host_url for claim in claims)["http://b.example:80"] == 5
    )
    full = host_key("http://a.example:80")
    claims = await db.job_store.claim(30, lambda host: 0 if host == full else 8, 1e12)
    assert Counter(claim.host_url for claim in claims) == {"http://c.example:80": 8}


async def test_claim_applies_host_capacity_to_all_requests_together(db: DatabaseHarness) -> None:
    for _ in range(3):
        await db.accept(urls(50))
    assert len(await db.claim(limit=100, capacity=16)) == 16


async def test_claim_keeps_table_order_within_a_host(db: DatabaseHarness) -> None:
    await db.accept(urls(100))
    numbers = [claim.numbers[0] for _ in range(5) for claim in await db.claim(limit=20)]
    assert numbers == list(range(100))


async def test_claim_continues_scan_when_earlier_claim_used_up_scan_budget(
    db: DatabaseHarness,
) -> None:
    db = db.with_limits(hosts_per_claim=10)
    await db.accept([[f"http://h{n}.example/"] for n in range(95)])
    live = host_key("http://h77.example:80")
    scanned: set[int] = set()

    def capacity(host: int) -> int:
        scanned.add(host)
        return int(host == live)

    claims: list[Claim] = []
    for number in range(1, 12):
        claims += await db.job_store.claim(5, capacity, 1e12)
        assert len(scanned) <= 10 * number
        if claims:
            break
        due = await db.job_store.next_due()
        assert due is not None
        assert due <= time.time(), "there are more hosts to scan"
    assert [claim.url for claim in claims] == ["http://h77.example/"]


async def test_claim_reaches_request_behind_many_without_host_capacity(
    db: DatabaseHarness,
) -> None:
    db = db.with_limits(hosts_per_claim=7)
    for _ in range(40):
        await db.accept(urls(1, "dead"))
    request = await db.accept(urls(2, "live"))
    dead = host_key("http://dead.example:80")
    claims: list[Claim] = []
    for _ in range(8):
        claims += await db.job_store.claim(3, lambda host: int(host != dead), 1e12)
    assert {claim.request_key for claim in claims} == {request.key}


@given(
    amount=st.integers(0, 50),
    demands=st.lists(st.integers(0, 20), max_size=8),
    max_per_call=st.integers(1, 9),
)
def test_allocate_fairly_uses_whole_amount_in_equal_allocations(
    amount: int, demands: list[int], max_per_call: int
) -> None:
    left = dict(enumerate(demands))

    def take(consumer: int, allocation: int) -> int:
        taken = min(allocation, left[consumer], max_per_call)
        left[consumer] -= taken
        return taken

    got: Counter[int] = Counter()
    for consumer, taken in allocate_fairly(amount, list(left), take):
        got[consumer] += taken
    assert got.total() <= amount
    if max_per_call >= 20:
        assert got.total() == min(amount, sum(demands))
    unsatisfied = [got[consumer] for consumer in left if left[consumer] and max_per_call >= 20]
    if unsatisfied:
        assert max(unsatisfied) - min(unsatisfied) <= max(1, amount // len(demands))


# --- duplicate URLs ------------------------------------------------------------------------------


async def test_claim_includes_all_duplicates_of_url_in_request(db: DatabaseHarness) -> None:
    same = "http://a.example/same"
    request = await db.accept([[same, "http://a.example/1", same], *urls(30), [same]])
    await db.accept([[same]])
    claims = await db.claim(limit=100)
    mine = [claim for claim in claims if claim.url == same and claim.request_key == request.key]
    assert [claim.numbers for claim in mine] == [(0, 2, 33)]
    assert len([claim for claim in claims if claim.url == same]) == 2, "each request separately"
    await db.complete(mine)
    async with db.queries.open(request.request_id) as snapshot:
        rows = await snapshot.products(0, 100)
    images = [image for row in rows for image in row.images if image.url == same]
    assert [(image.status, image.attempts) for image in images] == [(ImageStatus.COMPLETED, 1)] * 3
    assert len({image.file for image in images}) == 1, "equal images have one URL"
    progress = (await reload(db, request)).progress
    assert progress.completed == 3
    assert (await reload(db, request)).input_bytes == 3 * IMAGE_INFO.input_bytes


async def test_claim_treats_spellings_of_same_url_as_duplicates(db: DatabaseHarness) -> None:
    await db.accept([["http://a.example/1%202", "http://a.example/1 2"]])
    (claim,) = await db.claim()
    assert claim.numbers == (0, 1)


async def test_claim_keeps_duplicates_together_after_retries(db: DatabaseHarness) -> None:
    same = "http://a.example/same"
    request = await db.accept([[same] * 3, ["http://a.example/other"]])
    for attempts in range(1, 4):
        claims = await db.claim()
        assert {claim.numbers for claim in claims} == {(0, 1, 2), (3,)}
        await db.job_store.finish([Requeued(c, attempts, float(attempts)) for c in claims])
    await db.job_store.finish([failed(claim) for claim in await db.claim()])
    request = await db.job_store.retry_failed(request.request_id)
    assert {claim.numbers for claim in await db.claim()} == {(0, 1, 2), (3,)}


async def test_claim_includes_all_duplicates_when_they_need_several_transactions(
    db: DatabaseHarness,
) -> None:
    db = db.with_limits(duplicates_per_transaction=10)
    same = "http://a.example/same"
    request = await db.accept([[same] * 10 for _ in range(10)], webhook="http://me/")
    (claim,) = await db.claim(limit=20)
    assert claim.numbers == tuple(range(100))
    assert await db.claim() == []
    result = await db.job_store.finish([completed(claim)])
    assert [finished.progress for finished in result.finished_requests] == [Progress(completed=100)]
    assert (await reload(db, request)).progress.status is RequestStatus.COMPLETED


async def test_claim_keeps_first_duplicates_when_database_becomes_unavailable(
    tmp_path: Path,
) -> None:
    async with open_database(tmp_path, SMALL) as db:
        request = await db.accept([["http://a.example/same"]] * 6)
        loop = asyncio.get_running_loop()
        other = sqlite3.connect(db.database.path, isolation_level=None, timeout=30)

        def lock() -> None:
            if not other.in_transaction:
                other.execute("BEGIN IMMEDIATE")

        def capacity(_: int) -> int:
            # Lock between the claim's first transaction, which calls this, and its second.
            loop.call_soon_threadsafe(lock)
            return 100

        (first,) = await db.job_store.claim(1, capacity, 1e12)
        assert first.numbers == (0, 1, 2)
        other.execute("ROLLBACK")
        other.close()
        await db.complete([first, *await db.claim()])
        assert (await reload(db, request)).progress == Progress(completed=6)


async def test_finish_returns_changes_of_failed_call_when_repeated(
    tmp_path: Path,
) -> None:
    async with open_database(tmp_path, SMALL) as db:
        loop = asyncio.get_running_loop()
        other = sqlite3.connect(db.database.path, isolation_level=None, timeout=30)

        def body(_: Request) -> str:
            # Lock between the first transaction, which finishes the small request, and the second.
            loop.call_soon_threadsafe(other.execute, "BEGIN IMMEDIATE")
            return ""

        small = await db.accept(urls(1), webhook="http://me/")
        large = await db.accept([["http://a.example/same"]] * 6)
        queue = db.job_store = JobStore(db.database, body, SMALL)
        outcomes = [completed(claim) for claim in await db.claim()]
        with pytest.raises(DatabaseUnavailableError):
            await queue.finish(outcomes)
        other.execute("ROLLBACK")
        other.close()
        result = await queue.finish(outcomes)
        assert {finished.request_key for finished in result.finished_requests} == {
            small.key,
            large.key,
        }
        assert {*result.changed_requests} == {small.key, large.key}
        assert result.image_counts == {(ImageStatus.COMPLETED, ""): 7}


# --- outcomes --------------------------------------------------------------------------------------


async def test_finish_finishes_request_and_adds_webhook_with_last_outcome(
    db: DatabaseHarness,
) -> None:
    request = await db.accept(urls(3), webhook="http://me.example/hook")
    one, two, three = await db.claim()
    result = await db.job_store.finish([completed(one), failed(two)])
    assert (result.finished_requests, result.changed_requests) == ([], [request.key])
    assert (await reload(db, request)).finished_at is None
    assert await db.due_webhooks(1e12, 10) == []
    result = await db.job_store.finish([Cancelled(three)])
    (finished,) = result.finished_requests
    assert finished.progress == Progress(completed=1, failed=1, cancelled=1)
    after = await reload(db, request)
    assert after.finished_at is not None
    assert after.failures == (FailureCount("a.example", ImageErrorCode.TIMEOUT, 1),)
    assert (after.input_bytes, after.output_bytes) == (1_000, 400)
    (delivery,) = await db.due_webhooks(1e12, 10)
    assert delivery.body == f"about {request.request_id}"


async def test_finish_passes_finished_request_to_webhook_body(tmp_path: Path) -> None:
    requests: list[Request] = []

    def body(request: Request) -> str:
        requests.append(request)
        return "{}"

    async with open_database(tmp_path) as db:
        db.job_store = JobStore(db.database, body, SMALL)
        request = await db.accept(urls(2), webhook="http://me/")
        one, two = await db.claim()
        await db.job_store.finish([completed(one), failed(two)])
        assert requests == [await reload(db, request)]


async def test_finish_stores_one_row_for_equal_sources_and_settings(db: DatabaseHarness) -> None:
    await db.accept(urls(3))
    other = await db.accept(urls(1), settings=CompressionSettings(progressive=True))
    claims = await db.claim()
    first, *_ = outcomes = [completed(claim, "same") for claim in claims]
    await db.job_store.finish([first, replace(outcomes[1], info=None), *outcomes[2:]])
    names = await db.database.read(
        lambda c: {name for (name,) in c.execute("SELECT name FROM files")}
    )
    (changed,) = (o for o in outcomes if o.claim.request_key == other.key)
    assert names == {await db.output_name(first), await db.output_name(changed)}
    assert len(names) == 2
    assert await db.delete_marked() == []


async def test_finish_requeues_image_when_output_of_its_duplicate_was_deleted(
    db: DatabaseHarness,
) -> None:
    first = await db.accept(urls(1))
    (claim,) = await db.claim()
    await db.job_store.finish([completed(claim, "same")])
    await db.accept(urls(1))
    (late,) = await db.claim()
    outcome = completed(late, "same")
    assert await db.token_store.reserve(late, outcome.source_digest) is None
    await db.request_store.mark_deleting(first.request_id)
    await db.request_store.purge_slice()
    await db.job_store.finish([replace(outcome, info=None)])
    (again,) = await db.claim()
    assert (again.numbers, again.attempts) == (late.numbers, late.attempts)


async def test_finish_ignores_repeated_outcome(db: DatabaseHarness) -> None:
    request = await db.accept(urls(2))
    one, two = await db.claim()
    for _ in range(2):
        await db.job_store.finish([completed(one), failed(two)])
    assert (await reload(db, request)).progress == Progress(completed=1, failed=1)
    await db.job_store.finish([completed(two)])
    assert (await reload(db, request)).progress == Progress(completed=1, failed=1)


async def test_finish_ignores_outcome_of_earlier_claim(db: DatabaseHarness) -> None:
    request = await db.accept(urls(1))
    (old,) = await db.claim()
    await db.job_store.recover()
    (new,) = await db.claim()
    assert old.claim_id != new.claim_id
    await db.job_store.finish([failed(old)])
    assert (await reload(db, request)).progress == Progress(processing=1)
    await db.job_store.finish([completed(new)])


async def test_finish_drops_outcome_when_request_was_deleted(db: DatabaseHarness) -> None:
    request = await db.accept(urls(1))
    (claim,) = await db.claim()
    await db.complete([claim])
    await db.request_store.mark_deleting(request.request_id)
    await db.request_store.purge_slice()
    await db.delete_marked()
    result = await db.job_store.finish([completed(claim), failed(claim)])
    assert (result.finished_requests, result.changed_requests) == ([], [])
    assert await db.database.read(lambda c: c.execute("SELECT * FROM files").fetchall()) == []


async def test_claim_takes_due_retries_before_images_without_attempts(
    db: DatabaseHarness,
) -> None:
    await db.accept(urls(20))
    soon = time.time() + 1_000
    (claim,) = await db.claim(limit=1)
    await db.job_store.finish([Requeued(claim, 1, soon)])
    assert await db.job_store.next_due() == soon
    assert claim.numbers not in [c.numbers for c in await db.claim(limit=2, now=soon - 1)]
    retried = (await db.claim(limit=1, now=soon))[0]
    assert (retried.numbers, retried.attempts) == (claim.numbers, 1)
    assert await db.job_store.next_due() is None
    await db.job_store.finish([Requeued(retried, 1)])
    assert (await db.claim(limit=1, now=soon))[0].numbers == claim.numbers


async def test_next_due_includes_retry_that_became_due_since_the_claim(
    db: DatabaseHarness,
) -> None:
    await db.accept(urls(1))
    (claim,) = await db.claim()
    due = time.time() - 1
    await db.job_store.finish([Requeued(claim, 1, due)])
    assert await db.claim(now=due - 1) == []
    assert await db.job_store.next_due(due - 1) == due
    assert await db.job_store.next_due() is None


async def test_finish_stores_error_message_with_lone_surrogate(db: DatabaseHarness) -> None:
    request = await db.accept(urls(1))
    (claim,) = await db.claim()
    await db.job_store.finish([failed(claim, "404 N\udce9t Found")])
    async with db.queries.open(request.request_id) as snapshot:
        (row,) = await snapshot.products(0, 1)
    assert row.images[0].error_message == "404 N?t Found"


async def test_backlog_counts_pending_and_processing_images(db: DatabaseHarness) -> None:
    assert await db.queries.backlog() == Backlog(0, 0, 0, 0)
    await db.accept(urls(4))
    claims = await db.claim(limit=3)
    assert await db.queries.backlog() == Backlog(1, 1, 3, 0)
    await db.job_store.finish(
        [completed(claims[0]), failed(claims[1]), Requeued(claims[2], 1, 5.0)]
    )
    assert await db.queries.backlog() == Backlog(1, 2, 0, 0)


# --- recovery, unreachable hosts, cancelling, retrying ---------------------------------------------


async def test_recover_requeues_images_in_flight_with_their_attempts(
    db: DatabaseHarness,
) -> None:
    db = db.with_limits(bulk_slice=3)
    request = await db.accept([*urls(9), ["http://a.example/0"]])
    first = await db.claim(limit=4)
    await db.job_store.finish([completed(first[0]), Requeued(first[1], 2, 7.0)])
    await db.claim(limit=4)
    other = await db.accept(urls(2))
    await db.claim(limit=1)
    await db.job_store.recover()
    recovered = await reload(db, request)
    assert recovered.progress == Progress(pending=8, completed=2)
    # The rate excludes the time between the two processes.
    assert (recovered.measured_since, recovered.measured_done) == (None, 2)
    assert (await reload(db, other)).progress.processing == 0
    assert {claim.numbers[0]: claim.attempts for claim in await db.claim() if claim.attempts} == {
        1: 2
    }


async def test_fail_host_fails_pending_images_of_host_in_slices(db: DatabaseHarness) -> None:
    request = await db.accept([*urls(5, "dead"), *urls(2, "a")], webhook="http://me/")
    other = await db.accept(urls(1, "a"))
    dead = host_key("http://dead.example:80")
    assert await db.job_store.requests_waiting_for(dead) == [
        (request.key, request.created_at, False)
    ]
    claimed = next(c for c in await db.claim(limit=99) if "dead" in c.url)
    await db.job_store.recover()
    claims = [c for c in await db.claim(limit=99) if c.numbers != claimed.numbers]
    assert await db.job_store.requests_waiting_for(dead) == []
    await db.job_store.finish([Requeued(c, 1, 5e12) for c in claims if "dead" in c.url])
    results = []
    while (
        result := await db.job_store.fail_host(request.key, dead, ImageErrorCode.TIMEOUT, "gone", 3)
    ).changed_requests:
        results.append(
            (result.changed_requests, result.image_counts[ImageStatus.FAILED, "timeout"])
        )
    assert results == [([request.key], 3), ([request.key], 1)]
    after = await reload(db, request)
    assert after.failures == (FailureCount("dead.example", ImageErrorCode.TIMEOUT, 4),)
    assert await db.job_store.requests_waiting_for(host_key("http://a.example:80")) == []
    assert (await reload(db, other)).progress.failed == 0


async def test_fail_host_finishes_request_with_last_image(db: DatabaseHarness) -> None:
    request = await db.accept(urls(2), webhook="http://me/")
    host = host_key("http://a.example:80")
    result = await db.job_store.fail_host(request.key, host, ImageErrorCode.TIMEOUT, "x", 10)
    assert [finished.status for finished in result.finished_requests] == [RequestStatus.FAILED]
    assert len(await db.due_webhooks(1e12, 9)) == 1


async def test_cancel_slice_cancels_pending_images_but_not_images_in_flight(
    db: DatabaseHarness,
) -> None:
    request = await db.accept(urls(10), webhook="http://me/")
    one, two, three = await db.claim(limit=3)
    key = await db.job_store.start_cancel(request.request_id)
    assert await db.job_store.cancelling() == [key]
    assert await db.claim() == []
    assert await db.job_store.cancel_slice(key, 4) == (True, nothing_finished(key, 4))
    assert await db.job_store.cancel_slice(key, 4) == (False, nothing_finished(key, 3))
    assert (await reload(db, request)).progress == Progress(processing=3, cancelled=7)
    await db.job_store.finish([completed(one), Requeued(two, 1, 5.0)])
    assert (await reload(db, request)).progress == Progress(processing=1, completed=1, cancelled=8)
    result = await db.job_store.finish([failed(three)])
    assert result.image_counts == {(ImageStatus.FAILED, "timeout"): 1}
    (finished,) = result.finished_requests
    assert finished.status is RequestStatus.CANCELLED
    assert await db.job_store.cancelling() == []
    with pytest.raises(ProblemError) as refusal:
        await db.job_store.start_cancel(request.request_id)
    assert refusal.value.code is ProblemCode.ALREADY_FINISHED
    assert await db.job_store.cancel_slice(key, 4) == (False, FinishResult())
    assert (await reload(db, request)).progress.cancelled == 8


def nothing_finished(key: int, cancelled: int) -> FinishResult:
    return FinishResult([], [key], Counter({(ImageStatus.CANCELLED, ""): cancelled}))


async def test_cancel_slice_continues_after_restart(db: DatabaseHarness) -> None:
    request = await db.accept(urls(5))
    await db.claim(limit=2)
    await db.job_store.start_cancel(request.request_id)
    await db.job_store.recover()
    (key,) = await db.job_store.cancelling()
    more, result = await db.job_store.cancel_slice(key, 100)
    assert not more
    assert [finished.status for finished in result.finished_requests] == [RequestStatus.CANCELLED]


async def test_retry_failed_requeues_failed_images_without_attempts(db: DatabaseHarness) -> None:
    request = await db.accept(urls(4), webhook="http://me/")
    for retry in (db.job_store.retry_failed,):
        with pytest.raises(ProblemError) as refusal:
            await retry(request.request_id)
        assert refusal.value.code is ProblemCode.NOT_FINISHED
    one, *others = await db.claim()
    await db.job_store.finish([completed(one), *(failed(claim) for claim in others)])
    (delivery,) = await db.due_webhooks(1e12, 9)
    done = await reload(db, request)
    again = await db.job_store.retry_failed(request.request_id)
    assert again.version > done.version
    assert again.finished_at is None
    assert again.started_at is None
    assert (again.measured_since, again.measured_done) == (None, 1)
    assert (again.progress, again.failures) == (Progress(pending=3, completed=1), ())
    assert again.webhook is not None
    assert (again.webhook.status, again.webhook.attempts) == ("pending", 0)
    assert await db.due_webhooks(1e12, 9) == []
    ((key, since, _),) = await db.job_store.requests_waiting_for(host_key("http://a.example:80"))
    assert key == request.key
    assert since > request.created_at
    claims = await db.claim(now=12_345.0)
    assert [claim.attempts for claim in claims] == [0, 0, 0]
    assert (await reload(db, request)).measured_since == 12_345.0
    await db.complete(claims)
    (second,) = await db.due_webhooks(1e12, 9)
    assert second.delivery_id != delivery.delivery_id
    with pytest.raises(ProblemError) as refusal:
        await db.job_store.retry_failed(request.request_id)
    assert refusal.value.code is ProblemCode.NOTHING_FAILED


async def test_retry_failed_continues_in_slices_after_restart(
    db: DatabaseHarness,
) -> None:
    db = db.with_limits(bulk_slice=10)
    same = "http://a.example/same"
    request = await db.accept([[same], *urls(30), [same]])
    await db.job_store.finish([failed(claim) for claim in await db.claim()])
    await db.job_store.retry_failed(request.request_id)
    restarted = db.with_limits(bulk_slice=10)
    await restarted.job_store.recover()
    half_way = await reload(db, request)
    assert half_way.progress == Progress(pending=10, failed=22)
    assert half_way.measured_done == 0
    await db.database.read(audit)
    claims: list[Claim] = []
    attempts = 0
    while not claims:
        claims = await restarted.claim()
        attempts += 1
        if not claims:
            assert (await restarted.job_store.next_due() or 1e12) <= time.time()
    assert attempts == 3
    assert len(claims) == 31
    assert (0, 31) in {claim.numbers for claim in claims}
    assert (await reload(db, request)).progress == Progress(processing=32)


async def test_request_finishes_when_its_host_is_cancelled_during_a_retry(
    db: DatabaseHarness,
) -> None:
    db = db.with_limits(bulk_slice=10)
    request = await db.accept(urls(30))
    await db.job_store.finish([failed(claim) for claim in await db.claim()])
    await db.job_store.retry_failed(request.request_id)
    key = await db.job_store.start_cancel_host(request.request_id, "a.example")
    more, result = True, FinishResult()
    while more:
        assert await db.claim() == []
        more, changes = await db.job_store.cancel_slice(key, 4)
        result.add(changes)
    assert [finished.progress for finished in result.finished_requests] == [
        Progress(failed=20, cancelled=10)
    ]


async def test_cancel_slice_cancels_requeued_images_of_unfinished_retry(
    db: DatabaseHarness,
) -> None:
    db = db.with_limits(bulk_slice=10)
    request = await db.accept(urls(30))
    await db.job_store.finish([failed(claim) for claim in await db.claim()])
    await db.job_store.retry_failed(request.request_id)
    key = await db.job_store.start_cancel(request.request_id)
    _, result = await db.job_store.cancel_slice(key, 100)
    assert [finished.progress for finished in result.finished_requests] == [
        Progress(failed=20, cancelled=10)
    ]
