"""Turns, outcomes, and everything that is done to many images at once."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections import Counter
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgsvc.database import claiming, connection, job_store
from imgsvc.database.claiming import allocate_fairly
from imgsvc.database.job_store import JobStore, host_key
from imgsvc.errors import ImageErrorCode, ProblemCode, ProblemError
from imgsvc.image_types import CompressionSettings, StoredFile
from imgsvc.models import (
    Cancelled,
    Claim,
    Completed,
    Failed,
    FailureCount,
    ImageStatus,
    Progress,
    Request,
    RequestStatus,
    Requeued,
)
from tests.database_harness import IMAGE_INFO, DatabaseHarness, audit, completed, open_database


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[DatabaseHarness]:
    async with open_database(tmp_path) as db:
        yield db


async def shown(db: DatabaseHarness, request: Request) -> Request:
    return await db.snapshots.request(request.request_id)


def failed(claim: Claim, message: str = "slow") -> Failed:
    return Failed(claim, claim.attempts + 1, ImageErrorCode.TIMEOUT, message)


def urls(count: int, host: str = "a") -> list[list[str]]:
    return [[f"http://{host}.example/{n}"] for n in range(count)]


# --- claiming --------------------------------------------------------------------------------------


async def test_what_is_claimed_together_lies_in_one_folder(db: DatabaseHarness) -> None:
    await db.accept([[f"https://a.example/{n}.jpg" for n in range(40)]])
    folders = set()
    for _ in range(4):
        tokens = {claim.token for claim in await db.claim(limit=10)}
        (folder,) = {token[:2] for token in tokens}
        # Who knows the folder still has 128 random bits to guess.
        assert {len(bytes.fromhex(token[2:])) for token in tokens} == {16}
        assert len(tokens) == 10
        folders.add(folder)
    assert len(folders) > 1  # fails once in 256³ runs


async def test_a_claim_says_all_there_is_to_know(db: DatabaseHarness) -> None:
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
    assert len(bytes.fromhex(claim.token)) == 17
    after = await shown(db, request)
    assert after.started_at == before
    assert after.progress == Progress(processing=1)
    assert after.version > request.version
    assert await db.claim() == []


async def test_requests_share_each_claim(db: DatabaseHarness) -> None:
    large = await db.accept(urls(500))
    small = await db.accept(urls(10))
    middle = await db.accept(urls(100))
    counts = Counter(claim.request_key for claim in await db.claim(limit=30))
    assert counts == {large.key: 10, small.key: 10, middle.key: 10}
    counts = Counter(claim.request_key for claim in await db.claim(limit=30))
    assert counts == {large.key: 15, middle.key: 15}


@pytest.mark.parametrize(
    ("requests", "limit", "room"),
    [(5, 1, 100), (5, 2, 100), (5, 20, 1), (5, 20, 2), (5, 20, 6), (2, 4, 3), (2, 3, 100)],
)
async def test_each_request_has_its_turn_however_little_room_there_is(
    db: DatabaseHarness, requests: int, limit: int, room: int
) -> None:
    keys = {(await db.accept(urls(50))).key for _ in range(requests)}
    counts: Counter[int] = Counter()
    for _ in range(10):
        claims = await db.claim(limit=limit, room=room)
        assert len(claims) == min(limit, room)
        counts.update(claim.request_key for claim in claims)
    assert counts.keys() == keys
    assert max(counts.values()) - min(counts.values()) <= max(1, min(limit, room))


async def test_a_new_request_is_served_with_the_next_claims(db: DatabaseHarness) -> None:
    for _ in range(20):
        await db.accept(urls(100))
    for _ in range(7):
        await db.claim(limit=4)
    new = await db.accept(urls(3))
    served = 0
    for _ in range(3 * 21 // 4 + 2):
        served += sum(claim.request_key == new.key for claim in await db.claim(limit=4))
    assert served == 3


async def test_origins_take_turns_and_get_no_more_than_they_have_room_for(
    db: DatabaseHarness,
) -> None:
    await db.accept([*urls(300, "a"), *urls(5, "b"), *urls(300, "c")])
    claims = await db.claim(limit=30, room=100)
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
    claims = await db.work.claim(30, lambda origin: 0 if origin == full else 8, 1e12)
    assert Counter(claim.host_url for claim in claims) == {"http://c.example:80": 8}


async def test_room_is_shared_by_the_requests_of_a_claim(db: DatabaseHarness) -> None:
    for _ in range(3):
        await db.accept(urls(50))
    assert len(await db.claim(limit=100, room=16)) == 16


async def test_images_of_an_origin_come_in_the_order_of_the_table(db: DatabaseHarness) -> None:
    await db.accept(urls(100))
    numbers = [claim.numbers[0] for _ in range(5) for claim in await db.claim(limit=20)]
    assert numbers == list(range(100))


async def test_one_look_is_bounded_and_the_next_goes_on(
    db: DatabaseHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claiming, "SCAN_BUDGET", 10)
    await db.accept([[f"http://h{n}.example/"] for n in range(95)])
    live = host_key("http://h77.example:80")
    looked: set[int] = set()

    def room(origin: int) -> int:
        looked.add(origin)
        return int(origin == live)

    claims: list[Claim] = []
    for _ in range(11):
        claims += await db.work.claim(5, room, 1e12)
        if claims:
            break
        due = await db.work.next_due()
        assert due is not None
        assert due <= time.time(), "there is more to look at"
    assert [claim.url for claim in claims] == ["http://h77.example/"]


async def test_requests_that_cannot_go_on_hide_no_other(
    db: DatabaseHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claiming, "SCAN_BUDGET", 7)
    for _ in range(40):
        await db.accept(urls(1, "dead"))
    request = await db.accept(urls(2, "live"))
    dead = host_key("http://dead.example:80")
    claims: list[Claim] = []
    for _ in range(8):
        claims += await db.work.claim(3, lambda origin: int(origin != dead), 1e12)
    assert {claim.request_key for claim in claims} == {request.key}


@given(
    amount=st.integers(0, 50), stocks=st.lists(st.integers(0, 20), max_size=8), by=st.integers(1, 9)
)
def test_dealing_gives_all_there_is_in_equal_shares(
    amount: int, stocks: list[int], by: int
) -> None:
    left = dict(enumerate(stocks))

    def take(taker: int, wanted: int) -> int:
        taken = min(wanted, left[taker], by)
        left[taker] -= taken
        return taken

    got: Counter[int] = Counter()
    for taker, taken in allocate_fairly(amount, list(left), take):
        got[taker] += taken
    assert got.total() <= amount
    if by >= 20:
        assert got.total() == min(amount, sum(stocks))
    unsatisfied = [got[taker] for taker in left if left[taker] and by >= 20]
    if unsatisfied:
        assert max(unsatisfied) - min(unsatisfied) <= max(1, amount // len(stocks))


# --- the same URL --------------------------------------------------------------------------------


async def test_a_url_is_claimed_once_with_all_its_places(db: DatabaseHarness) -> None:
    same = "http://a.example/same"
    request = await db.accept([[same, "http://a.example/1", same], *urls(30), [same]])
    await db.accept([[same]])
    claims = await db.claim(limit=100)
    mine = [claim for claim in claims if claim.url == same and claim.request_key == request.key]
    assert [claim.numbers for claim in mine] == [(0, 2, 33)]
    assert len([claim for claim in claims if claim.url == same]) == 2, "each request by itself"
    await db.complete(mine)
    async with db.snapshots.open(request.request_id) as snapshot:
        rows = await snapshot.products(0, 100)
    images = [image for row in rows for image in row.images if image.url == same]
    assert [(image.status, image.attempts) for image in images] == [(ImageStatus.COMPLETED, 1)] * 3
    assert len({image.file for image in images}) == 3, "each place has a public name of its own"
    progress = (await shown(db, request)).progress
    assert progress.completed == 3
    assert (await shown(db, request)).input_bytes == 3 * IMAGE_INFO.input_bytes


async def test_a_url_is_one_file_to_look_for_however_many_places_it_has(
    db: DatabaseHarness,
) -> None:
    await db.accept([["http://a.example/same"] * 50, ["http://a.example/other"]])
    claims = await db.claim()
    assert sorted(await db.work.in_flight()) == sorted(claim.token for claim in claims)


async def test_spellings_of_one_url_are_one(db: DatabaseHarness) -> None:
    await db.accept([["http://a.example/1%202", "http://a.example/1 2"]])
    (claim,) = await db.claim()
    assert claim.numbers == (0, 1)


async def test_places_stay_together_through_retries(db: DatabaseHarness) -> None:
    same = "http://a.example/same"
    request = await db.accept([[same] * 3, ["http://a.example/other"]])
    for attempts in range(1, 4):
        claims = await db.claim()
        assert {claim.numbers for claim in claims} == {(0, 1, 2), (3,)}
        await db.work.finish([Requeued(c, attempts, float(attempts)) for c in claims])
    await db.work.finish([failed(claim) for claim in await db.claim()])
    request = await db.work.retry_failed(request.request_id)
    assert {claim.numbers for claim in await db.claim()} == {(0, 1, 2), (3,)}


async def test_a_url_with_very_many_places_is_still_claimed_once(
    db: DatabaseHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claiming, "MAX_DUPLICATES", 10)
    same = "http://a.example/same"
    request = await db.accept([[same] * 10 for _ in range(10)], webhook="http://me/")
    (claim,) = await db.claim(limit=20)
    assert claim.numbers == tuple(range(100))
    assert await db.claim() == []
    result = await db.work.finish([completed(claim)])
    assert [finished.progress for finished in result.finished] == [Progress(completed=100)]
    assert result.orphaned_files == []
    assert (await shown(db, request)).progress.status is RequestStatus.COMPLETED


async def test_what_is_claimed_stays_so_where_its_siblings_cannot_be(
    db: DatabaseHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claiming, "MAX_DUPLICATES", 2)
    monkeypatch.setattr(connection, "LOCKED_SECONDS", 0.0)
    request = await db.accept([["http://a.example/same"]] * 6)
    loop = asyncio.get_running_loop()
    other = sqlite3.connect(db.database.path, isolation_level=None, timeout=30)

    def lock() -> None:
        if not other.in_transaction:
            other.execute("BEGIN IMMEDIATE")

    def room(_: int) -> int:
        # Between the claim's first transaction, in which this is called, and its second.
        loop.call_soon_threadsafe(lock)
        return 100

    (first,) = await db.work.claim(1, room, 1e12)
    assert first.numbers == (0, 1, 2)
    other.execute("ROLLBACK")
    other.close()
    await db.complete([first, *await db.claim()])
    assert (await shown(db, request)).progress == Progress(completed=6)


async def test_what_was_written_down_before_a_failure_is_told_after_it(
    db: DatabaseHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claiming, "MAX_DUPLICATES", 2)
    monkeypatch.setattr(connection, "LOCKED_SECONDS", 0.0)
    loop = asyncio.get_running_loop()
    other = sqlite3.connect(db.database.path, isolation_level=None, timeout=30)

    def body(_: Request) -> str:
        # Between the first transaction, which finishes the small request, and the second.
        loop.call_soon_threadsafe(other.execute, "BEGIN IMMEDIATE")
        return ""

    small = await db.accept(urls(1), webhook="http://me/")
    large = await db.accept([["http://a.example/same"]] * 6)
    outcomes = [completed(claim) for claim in await db.claim()]
    queue = JobStore(db.database, body)
    with pytest.raises(connection.DatabaseUnavailableError):
        await queue.finish(outcomes)
    other.execute("ROLLBACK")
    other.close()
    result = await queue.finish(outcomes)
    assert {finished.request_key for finished in result.finished} == {small.key, large.key}
    assert {*result.changed_requests} == {small.key, large.key}
    assert result.ended == {(ImageStatus.COMPLETED, ""): 7}
    assert result.orphaned_files == []


# --- outcomes --------------------------------------------------------------------------------------


async def test_the_last_outcome_finishes_the_request(db: DatabaseHarness) -> None:
    request = await db.accept(urls(3), webhook="http://me.example/hook")
    one, two, three = await db.claim()
    result = await db.work.finish([completed(one), failed(two)])
    assert (result.finished, result.changed_requests, result.orphaned_files) == (
        [],
        [request.key],
        [],
    )
    assert (await shown(db, request)).finished_at is None
    assert await db.deliveries.due(1e12, 10) == []
    result = await db.work.finish([Cancelled(three)])
    (finished,) = result.finished
    assert finished.progress == Progress(completed=1, failed=1, cancelled=1)
    after = await shown(db, request)
    assert after.finished_at is not None
    assert after.failures == (FailureCount("a.example", ImageErrorCode.TIMEOUT, 1),)
    assert (after.input_bytes, after.output_bytes) == (1_000, 400)
    (delivery,) = await db.deliveries.due(1e12, 10)
    assert delivery.body == f"about {request.request_id}"


async def test_the_webhook_is_told_of_the_request_as_it_is_at_its_end(tmp_path: Path) -> None:
    told: list[Request] = []

    def body(request: Request) -> str:
        told.append(request)
        return "{}"

    async with open_database(tmp_path) as db:
        db.work = JobStore(db.database, body)
        request = await db.accept(urls(2), webhook="http://me/")
        one, two = await db.claim()
        await db.work.finish([completed(one), failed(two)])
        assert told == [await shown(db, request)]


async def test_each_gets_the_answer_to_its_own_question_even_if_another_gives_up(
    db: DatabaseHarness,
) -> None:
    await db.accept(urls(9))
    done = [completed(claim) for claim in await db.claim()]
    await db.work.finish(done[:5])
    questions = [
        asyncio.create_task(db.work.find_file(each.source_digest, each.claim.settings))
        for each in done
    ]
    await asyncio.sleep(0)
    questions.pop(0).cancel()  # the one who was about to ask for all
    questions.pop(6).cancel()
    found = await asyncio.gather(*questions)
    names = [file and file.name for file in found]
    assert names == [each.file for each in done[1:5]] + [None] * 3


async def test_questions_that_fail_leave_nothing_behind(db: DatabaseHarness) -> None:
    def ask() -> list[Coroutine[None, None, StoredFile | None]]:
        return [db.work.find_file(b"x" * 32, CompressionSettings()) for _ in range(3)]

    await db.database.write(lambda c: c.execute("ALTER TABLE files RENAME TO elsewhere"))
    answers = await asyncio.gather(*ask(), return_exceptions=True)
    assert all(isinstance(answer, sqlite3.OperationalError) for answer in answers), answers
    await db.database.write(lambda c: c.execute("ALTER TABLE elsewhere RENAME TO files"))
    assert await asyncio.gather(*ask()) == [None] * 3


async def test_equal_sources_share_a_file(db: DatabaseHarness) -> None:
    await db.accept(urls(3))
    one, two, three = await db.claim()
    first = completed(one, "same")
    assert (await db.work.finish([first])).orphaned_files == []
    stored = await db.work.find_file(first.source_digest, one.settings)
    assert stored is not None
    assert (stored.name, stored.info) == (first.file, IMAGE_INFO)
    assert (
        await db.work.find_file(first.source_digest, CompressionSettings(progressive=True)) is None
    )
    second = completed(two, "same")
    assert (await db.work.finish([second])).orphaned_files == [second.file]
    third = Completed(three, first.source_digest, first.file, IMAGE_INFO)
    assert (await db.work.finish([third])).orphaned_files == []
    names = await db.database.read(lambda c: c.execute("SELECT name FROM files").fetchall())
    assert names == [(first.file,)]


async def test_an_image_whose_twin_was_deleted_is_put_back(db: DatabaseHarness) -> None:
    first = await db.accept(urls(1))
    (claim,) = await db.claim()
    outcome = completed(claim, "same")
    await db.work.finish([outcome])
    await db.accept(urls(1))
    (late,) = await db.claim()
    await db.uploads.mark_deleting(first.request_id)
    assert (await db.uploads.purge_slice()).names == [outcome.file]
    await db.work.finish([Completed(late, outcome.source_digest, outcome.file, IMAGE_INFO)])
    (again,) = await db.claim()
    assert (again.numbers, again.attempts) == (late.numbers, late.attempts)


async def test_an_outcome_counts_once(db: DatabaseHarness) -> None:
    request = await db.accept(urls(2))
    one, two = await db.claim()
    for _ in range(2):
        result = await db.work.finish([completed(one), failed(two)])
        assert result.orphaned_files == []
    assert (await shown(db, request)).progress == Progress(completed=1, failed=1)
    late = completed(two)
    assert (await db.work.finish([late])).orphaned_files == [late.file]
    assert (await shown(db, request)).progress == Progress(completed=1, failed=1)


async def test_an_outcome_of_an_earlier_claim_changes_nothing(db: DatabaseHarness) -> None:
    request = await db.accept(urls(1))
    (old,) = await db.claim()
    await db.work.recover()
    (new,) = await db.claim()
    assert old.token != new.token
    await db.work.finish([failed(old)])
    assert (await shown(db, request)).progress == Progress(processing=1)
    await db.work.finish([completed(new)])


async def test_an_outcome_of_a_request_that_is_gone_is_dropped(db: DatabaseHarness) -> None:
    request = await db.accept(urls(1))
    (claim,) = await db.claim()
    await db.complete([claim])
    await db.uploads.mark_deleting(request.request_id)
    await db.uploads.purge_slice()
    outcome = completed(claim)
    result = await db.work.finish([outcome, failed(claim)])
    assert (result.finished, result.changed_requests, result.orphaned_files) == (
        [],
        [],
        [outcome.file],
    )


async def test_what_waits_is_claimed_when_it_is_due_and_before_what_was_not_tried(
    db: DatabaseHarness,
) -> None:
    await db.accept(urls(20))
    soon = time.time() + 1_000
    (claim,) = await db.claim(limit=1)
    await db.work.finish([Requeued(claim, 1, soon)])
    assert await db.work.next_due() == soon
    assert claim.numbers not in [c.numbers for c in await db.claim(limit=2, now=soon - 1)]
    retried = (await db.claim(limit=1, now=soon))[0]
    assert (retried.numbers, retried.attempts) == (claim.numbers, 1)
    assert await db.work.next_due() is None
    await db.work.finish([Requeued(retried, 1)])
    assert (await db.claim(limit=1, now=soon))[0].numbers == claim.numbers


async def test_a_message_may_be_any_text(db: DatabaseHarness) -> None:
    request = await db.accept(urls(1))
    (claim,) = await db.claim()
    await db.work.finish([failed(claim, "404 N\udce9t Found")])
    async with db.snapshots.open(request.request_id) as snapshot:
        (row,) = await snapshot.products(0, 1)
    assert row.images[0].error_message == "404 N?t Found"


async def test_waiting_counts_what_is_not_done(db: DatabaseHarness) -> None:
    assert await db.work.waiting() == 0
    await db.accept(urls(4))
    claims = await db.claim(limit=3)
    assert await db.work.waiting() == 4
    await db.work.finish([completed(claims[0]), failed(claims[1]), Requeued(claims[2], 1, 5.0)])
    assert await db.work.waiting() == 2


# --- recovery, origins, cancelling, retrying -------------------------------------------------------


async def test_recovery_puts_back_what_was_in_flight(
    db: DatabaseHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_store, "SLICE", 3)
    request = await db.accept([*urls(9), ["http://a.example/0"]])
    first = await db.claim(limit=4)
    await db.work.finish([completed(first[0]), Requeued(first[1], 2, 7.0)])
    claims = await db.claim(limit=4)
    other = await db.accept(urls(2))
    more = await db.claim(limit=1)
    tokens = await db.work.in_flight()
    assert {claim.token for claim in [*first[2:], *claims, *more]} <= set(tokens)
    assert first[0].token not in tokens
    await db.work.recover()
    assert await db.work.in_flight() == []
    recovered = await shown(db, request)
    assert recovered.progress == Progress(pending=8, completed=2)
    # The time between the processes is no part of the rate.
    assert (recovered.measured_since, recovered.measured_done) == (None, 2)
    assert (await shown(db, other)).progress.processing == 0
    assert {claim.numbers[0]: claim.attempts for claim in await db.claim() if claim.attempts} == {
        1: 2
    }


async def test_a_dead_origins_images_fail_in_slices(db: DatabaseHarness) -> None:
    request = await db.accept([*urls(5, "dead"), *urls(2, "a")], webhook="http://me/")
    other = await db.accept(urls(1, "a"))
    dead = host_key("http://dead.example:80")
    assert await db.work.requests_waiting_for(dead) == [(request.key, request.created_at)]
    tried = next(c for c in await db.claim(limit=99) if "dead" in c.url)
    await db.work.recover()
    claims = [c for c in await db.claim(limit=99) if c.numbers != tried.numbers]
    assert [key for key, _ in await db.work.requests_waiting_for(dead)] == []
    await db.work.finish([Requeued(c, 1, 5e12) for c in claims if "dead" in c.url])
    results = []
    while (
        result := await db.work.fail_host(request.key, dead, ImageErrorCode.TIMEOUT, "gone", 3)
    ).changed_requests:
        results.append((result.changed_requests, result.ended[ImageStatus.FAILED, "timeout"]))
    assert results == [([request.key], 3), ([request.key], 1)]
    after = await shown(db, request)
    assert after.failures == (FailureCount("dead.example", ImageErrorCode.TIMEOUT, 4),)
    assert await db.work.requests_waiting_for(host_key("http://a.example:80")) == []
    assert (await shown(db, other)).progress.failed == 0


async def test_the_last_dead_image_finishes_the_request(db: DatabaseHarness) -> None:
    request = await db.accept(urls(2), webhook="http://me/")
    origin = host_key("http://a.example:80")
    result = await db.work.fail_host(request.key, origin, ImageErrorCode.TIMEOUT, "x", 10)
    assert [finished.status for finished in result.finished] == [RequestStatus.FAILED]
    assert len(await db.deliveries.due(1e12, 9)) == 1


async def test_cancelling_ends_what_waits_and_spares_what_is_in_flight(
    db: DatabaseHarness,
) -> None:
    request = await db.accept(urls(10), webhook="http://me/")
    one, two, three = await db.claim(limit=3)
    key = await db.work.start_cancel(request.request_id)
    assert await db.work.cancelling() == [key]
    assert await db.claim() == []
    assert await db.work.cancel_slice(key, 4) == (True, nothing_finished(key, 4))
    assert await db.work.cancel_slice(key, 4) == (False, nothing_finished(key, 3))
    assert (await shown(db, request)).progress == Progress(processing=3, cancelled=7)
    await db.work.finish([completed(one), Requeued(two, 1, 5.0)])
    assert (await shown(db, request)).progress == Progress(processing=1, completed=1, cancelled=8)
    result = await db.work.finish([failed(three)])
    assert result.ended == {(ImageStatus.FAILED, "timeout"): 1}
    (finished,) = result.finished
    assert finished.status is RequestStatus.CANCELLED
    assert await db.work.cancelling() == []
    with pytest.raises(ProblemError) as refusal:
        await db.work.start_cancel(request.request_id)
    assert refusal.value.code is ProblemCode.ALREADY_FINISHED
    assert await db.work.cancel_slice(key, 4) == (False, job_store.FinishResult())
    assert (await shown(db, request)).progress.cancelled == 8


def nothing_finished(key: int, cancelled: int) -> job_store.FinishResult:
    return job_store.FinishResult([], [key], [], Counter({(ImageStatus.CANCELLED, ""): cancelled}))


async def test_cancelling_goes_on_after_a_restart(db: DatabaseHarness) -> None:
    request = await db.accept(urls(5))
    await db.claim(limit=2)
    await db.work.start_cancel(request.request_id)
    await db.work.recover()
    (key,) = await db.work.cancelling()
    more, result = await db.work.cancel_slice(key, 100)
    assert not more
    assert [finished.status for finished in result.finished] == [RequestStatus.CANCELLED]


async def test_failed_images_are_retried_from_the_start(db: DatabaseHarness) -> None:
    request = await db.accept(urls(4), webhook="http://me/")
    for call in (db.work.retry_failed,):
        with pytest.raises(ProblemError) as refusal:
            await call(request.request_id)
        assert refusal.value.code is ProblemCode.NOT_FINISHED
    one, *others = await db.claim()
    await db.work.finish([completed(one), *(failed(claim) for claim in others)])
    (delivery,) = await db.deliveries.due(1e12, 9)
    done = await shown(db, request)
    again = await db.work.retry_failed(request.request_id)
    assert again.version > done.version
    assert again.finished_at is None
    assert again.started_at == done.started_at
    assert (again.measured_since, again.measured_done) == (None, 1)
    assert (again.progress, again.failures) == (Progress(pending=3, completed=1), ())
    assert again.webhook is not None
    assert (again.webhook.status, again.webhook.attempts) == ("pending", 0)
    assert await db.deliveries.due(1e12, 9) == []
    ((key, since),) = await db.work.requests_waiting_for(host_key("http://a.example:80"))
    assert key == request.key
    assert since > request.created_at
    claims = await db.claim(now=12_345.0)
    assert [claim.attempts for claim in claims] == [0, 0, 0]
    assert (await shown(db, request)).measured_since == 12_345.0
    await db.complete(claims)
    (second,) = await db.deliveries.due(1e12, 9)
    assert second.delivery_id != delivery.delivery_id
    with pytest.raises(ProblemError) as refusal:
        await db.work.retry_failed(request.request_id)
    assert refusal.value.code is ProblemCode.NOTHING_FAILED


async def test_a_large_retry_goes_in_slices_and_survives_a_restart(
    db: DatabaseHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_store, "SLICE", 10)
    same = "http://a.example/same"
    request = await db.accept([[same], *urls(30), [same]])
    await db.work.finish([failed(claim) for claim in await db.claim()])
    await db.work.retry_failed(request.request_id)
    restarted = DatabaseHarness(db.database)
    await restarted.work.recover()
    half_way = await shown(db, request)
    assert half_way.progress == Progress(pending=10, failed=22)
    assert half_way.measured_done == 0
    await db.database.read(audit)
    claims: list[Claim] = []
    looks = 0
    while not claims:
        claims = await restarted.claim()
        looks += 1
        if not claims:
            assert (await restarted.work.next_due() or 1e12) <= time.time()
    assert looks == 3
    assert len(claims) == 31
    assert (0, 31) in {claim.numbers for claim in claims}
    assert (await shown(db, request)).progress == Progress(processing=32)


async def test_a_retry_can_be_cancelled_half_way(
    db: DatabaseHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_store, "SLICE", 10)
    request = await db.accept(urls(30))
    await db.work.finish([failed(claim) for claim in await db.claim()])
    await db.work.retry_failed(request.request_id)
    key = await db.work.start_cancel(request.request_id)
    _, result = await db.work.cancel_slice(key, 100)
    assert [finished.progress for finished in result.finished] == [
        Progress(failed=20, cancelled=10)
    ]
