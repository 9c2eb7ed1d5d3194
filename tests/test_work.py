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

from imgsvc.database import claiming, connection, work
from imgsvc.database.claiming import deal
from imgsvc.database.work import Work, origin_key
from imgsvc.errors import ImageErrorCode, Refusal, RefusalCode
from imgsvc.models import (
    Cancelled,
    Claim,
    Completed,
    Failed,
    FailureCount,
    ImageStatus,
    Progress,
    PutBack,
    Request,
    Status,
)
from imgsvc.pictures import Settings, StoredFile
from tests.books import PICTURE, Books, audit, completed, opened


@pytest.fixture
async def books(tmp_path: Path) -> AsyncIterator[Books]:
    async with opened(tmp_path) as books:
        yield books


async def shown(books: Books, request: Request) -> Request:
    return await books.snapshots.request(request.request_id)


def failed(claim: Claim, message: str = "slow") -> Failed:
    return Failed(claim, claim.attempts + 1, ImageErrorCode.TIMEOUT, message)


def urls(count: int, host: str = "a") -> list[list[str]]:
    return [[f"http://{host}.example/{n}"] for n in range(count)]


# --- claiming --------------------------------------------------------------------------------------


async def test_what_is_claimed_together_lies_in_one_folder(books: Books) -> None:
    await books.accept([[f"https://a.example/{n}.jpg" for n in range(40)]])
    folders = set()
    for _ in range(4):
        tokens = {claim.token for claim in await books.claim(limit=10)}
        (folder,) = {token[:2] for token in tokens}
        # Who knows the folder still has 128 random bits to guess.
        assert {len(bytes.fromhex(token[2:])) for token in tokens} == {16}
        assert len(tokens) == 10
        folders.add(folder)
    assert len(folders) > 1  # fails once in 256³ runs


async def test_a_claim_says_all_there_is_to_know(books: Books) -> None:
    request = await books.accept(
        [["https://a.example/b c.jpg"]], settings=Settings(progressive=True)
    )
    before = time.time()
    (claim,) = await books.claim(now=before)
    assert claim.url == "https://a.example/b%20c.jpg"
    assert claim.origin == "https://a.example:443"
    assert (claim.request_key, claim.request_id) == (request.key, request.request_id)
    assert (claim.numbers, claim.attempts) == ((0,), 0)
    assert claim.settings == Settings(progressive=True)
    assert len(bytes.fromhex(claim.token)) == 17
    after = await shown(books, request)
    assert after.started_at == before
    assert after.progress == Progress(processing=1)
    assert after.version > request.version
    assert await books.claim() == []


async def test_requests_share_each_claim(books: Books) -> None:
    large = await books.accept(urls(500))
    small = await books.accept(urls(10))
    middle = await books.accept(urls(100))
    counts = Counter(claim.request_key for claim in await books.claim(limit=30))
    assert counts == {large.key: 10, small.key: 10, middle.key: 10}
    counts = Counter(claim.request_key for claim in await books.claim(limit=30))
    assert counts == {large.key: 15, middle.key: 15}


@pytest.mark.parametrize(
    ("requests", "limit", "room"),
    [(5, 1, 100), (5, 2, 100), (5, 20, 1), (5, 20, 2), (5, 20, 6), (2, 4, 3), (2, 3, 100)],
)
async def test_each_request_has_its_turn_however_little_room_there_is(
    books: Books, requests: int, limit: int, room: int
) -> None:
    keys = {(await books.accept(urls(50))).key for _ in range(requests)}
    counts: Counter[int] = Counter()
    for _ in range(10):
        claims = await books.claim(limit=limit, room=room)
        assert len(claims) == min(limit, room)
        counts.update(claim.request_key for claim in claims)
    assert counts.keys() == keys
    assert max(counts.values()) - min(counts.values()) <= max(1, min(limit, room))


async def test_a_new_request_is_served_with_the_next_claims(books: Books) -> None:
    for _ in range(20):
        await books.accept(urls(100))
    for _ in range(7):
        await books.claim(limit=4)
    new = await books.accept(urls(3))
    served = 0
    for _ in range(3 * 21 // 4 + 2):
        served += sum(claim.request_key == new.key for claim in await books.claim(limit=4))
    assert served == 3


async def test_origins_take_turns_and_get_no_more_than_they_have_room_for(books: Books) -> None:
    await books.accept([*urls(300, "a"), *urls(5, "b"), *urls(300, "c")])
    claims = await books.claim(limit=30, room=100)
    assert (
        Counter(claim.origin for claim in claims)
        == {
            "http://a.example:80": 13,
            "http://b.example:80": 5,
            "http://c.example:80": 12,
        }
        or Counter(claim.origin for claim in claims)["http://b.example:80"] == 5
    )
    full = origin_key("http://a.example:80")
    claims = await books.work.claim(30, lambda origin: 0 if origin == full else 8, 1e12)
    assert Counter(claim.origin for claim in claims) == {"http://c.example:80": 8}


async def test_room_is_shared_by_the_requests_of_a_claim(books: Books) -> None:
    for _ in range(3):
        await books.accept(urls(50))
    assert len(await books.claim(limit=100, room=16)) == 16


async def test_images_of_an_origin_come_in_the_order_of_the_table(books: Books) -> None:
    await books.accept(urls(100))
    numbers = [claim.numbers[0] for _ in range(5) for claim in await books.claim(limit=20)]
    assert numbers == list(range(100))


async def test_one_look_is_bounded_and_the_next_goes_on(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claiming, "MOST_LOOKS", 10)
    await books.accept([[f"http://h{n}.example/"] for n in range(95)])
    live = origin_key("http://h77.example:80")
    looked: set[int] = set()

    def room(origin: int) -> int:
        looked.add(origin)
        return int(origin == live)

    claims: list[Claim] = []
    for _ in range(11):
        claims += await books.work.claim(5, room, 1e12)
        if claims:
            break
        due = await books.work.next_due()
        assert due is not None
        assert due <= time.time(), "there is more to look at"
    assert [claim.url for claim in claims] == ["http://h77.example/"]


async def test_requests_that_cannot_go_on_hide_no_other(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claiming, "MOST_LOOKS", 7)
    for _ in range(40):
        await books.accept(urls(1, "dead"))
    request = await books.accept(urls(2, "live"))
    dead = origin_key("http://dead.example:80")
    claims: list[Claim] = []
    for _ in range(8):
        claims += await books.work.claim(3, lambda origin: int(origin != dead), 1e12)
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
    for taker, taken in deal(amount, list(left), take):
        got[taker] += taken
    assert got.total() <= amount
    if by >= 20:
        assert got.total() == min(amount, sum(stocks))
    unsatisfied = [got[taker] for taker in left if left[taker] and by >= 20]
    if unsatisfied:
        assert max(unsatisfied) - min(unsatisfied) <= max(1, amount // len(stocks))


# --- the same URL --------------------------------------------------------------------------------


async def test_a_url_is_claimed_once_with_all_its_places(books: Books) -> None:
    same = "http://a.example/same"
    request = await books.accept([[same, "http://a.example/1", same], *urls(30), [same]])
    await books.accept([[same]])
    claims = await books.claim(limit=100)
    mine = [claim for claim in claims if claim.url == same and claim.request_key == request.key]
    assert [claim.numbers for claim in mine] == [(0, 2, 33)]
    assert len([claim for claim in claims if claim.url == same]) == 2, "each request by itself"
    await books.complete(mine)
    async with books.snapshots.open(request.request_id) as snapshot:
        rows = await snapshot.products(0, 100)
    images = [image for row in rows for image in row.images if image.url == same]
    assert [(image.status, image.attempts) for image in images] == [(ImageStatus.COMPLETED, 1)] * 3
    assert len({image.file for image in images}) == 3, "each place has a public name of its own"
    progress = (await shown(books, request)).progress
    assert progress.completed == 3
    assert (await shown(books, request)).input_bytes == 3 * PICTURE.input_bytes


async def test_a_url_is_one_file_to_look_for_however_many_places_it_has(books: Books) -> None:
    await books.accept([["http://a.example/same"] * 50, ["http://a.example/other"]])
    claims = await books.claim()
    assert sorted(await books.work.in_flight()) == sorted(claim.token for claim in claims)


async def test_spellings_of_one_url_are_one(books: Books) -> None:
    await books.accept([["http://a.example/1%202", "http://a.example/1 2"]])
    (claim,) = await books.claim()
    assert claim.numbers == (0, 1)


async def test_places_stay_together_through_retries(books: Books) -> None:
    same = "http://a.example/same"
    request = await books.accept([[same] * 3, ["http://a.example/other"]])
    for attempts in range(1, 4):
        claims = await books.claim()
        assert {claim.numbers for claim in claims} == {(0, 1, 2), (3,)}
        await books.work.finish([PutBack(c, attempts, float(attempts)) for c in claims])
    await books.work.finish([failed(claim) for claim in await books.claim()])
    request = await books.work.retry_failed(request.request_id)
    assert {claim.numbers for claim in await books.claim()} == {(0, 1, 2), (3,)}


async def test_a_url_with_very_many_places_is_still_claimed_once(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claiming, "SIBLINGS", 10)
    same = "http://a.example/same"
    request = await books.accept([[same] * 10 for _ in range(10)], webhook="http://me/")
    (claim,) = await books.claim(limit=20)
    assert claim.numbers == tuple(range(100))
    assert await books.claim() == []
    result = await books.work.finish([completed(claim)])
    assert [finished.progress for finished in result.finished] == [Progress(completed=100)]
    assert result.unused == []
    assert (await shown(books, request)).progress.status is Status.COMPLETED


async def test_what_is_claimed_stays_so_where_its_siblings_cannot_be(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claiming, "SIBLINGS", 2)
    monkeypatch.setattr(connection, "LOCKED_SECONDS", 0.0)
    request = await books.accept([["http://a.example/same"]] * 6)
    loop = asyncio.get_running_loop()
    other = sqlite3.connect(books.database.path, isolation_level=None, timeout=30)

    def lock() -> None:
        if not other.in_transaction:
            other.execute("BEGIN IMMEDIATE")

    def room(_: int) -> int:
        # Between the claim's first transaction, in which this is called, and its second.
        loop.call_soon_threadsafe(lock)
        return 100

    (first,) = await books.work.claim(1, room, 1e12)
    assert first.numbers == (0, 1, 2)
    other.execute("ROLLBACK")
    other.close()
    await books.complete([first, *await books.claim()])
    assert (await shown(books, request)).progress == Progress(completed=6)


async def test_what_was_written_down_before_a_failure_is_told_after_it(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claiming, "SIBLINGS", 2)
    monkeypatch.setattr(connection, "LOCKED_SECONDS", 0.0)
    loop = asyncio.get_running_loop()
    other = sqlite3.connect(books.database.path, isolation_level=None, timeout=30)

    def body(_: Request) -> str:
        # Between the first transaction, which finishes the small request, and the second.
        loop.call_soon_threadsafe(other.execute, "BEGIN IMMEDIATE")
        return ""

    small = await books.accept(urls(1), webhook="http://me/")
    large = await books.accept([["http://a.example/same"]] * 6)
    outcomes = [completed(claim) for claim in await books.claim()]
    queue = Work(books.database, body)
    with pytest.raises(connection.DatabaseUnavailable):
        await queue.finish(outcomes)
    other.execute("ROLLBACK")
    other.close()
    result = await queue.finish(outcomes)
    assert {finished.request_key for finished in result.finished} == {small.key, large.key}
    assert {*result.touched} == {small.key, large.key}
    assert result.ended == {(ImageStatus.COMPLETED, ""): 7}
    assert result.unused == []


# --- outcomes --------------------------------------------------------------------------------------


async def test_the_last_outcome_finishes_the_request(books: Books) -> None:
    request = await books.accept(urls(3), webhook="http://me.example/hook")
    one, two, three = await books.claim()
    result = await books.work.finish([completed(one), failed(two)])
    assert (result.finished, result.touched, result.unused) == ([], [request.key], [])
    assert (await shown(books, request)).finished_at is None
    assert await books.deliveries.due(1e12, 10) == []
    result = await books.work.finish([Cancelled(three)])
    (finished,) = result.finished
    assert finished.progress == Progress(completed=1, failed=1, cancelled=1)
    after = await shown(books, request)
    assert after.finished_at is not None
    assert after.failures == (FailureCount("a.example", ImageErrorCode.TIMEOUT, 1),)
    assert (after.input_bytes, after.output_bytes) == (1_000, 400)
    (delivery,) = await books.deliveries.due(1e12, 10)
    assert delivery.body == f"about {request.request_id}"


async def test_the_webhook_is_told_of_the_request_as_it_is_at_its_end(tmp_path: Path) -> None:
    told: list[Request] = []

    def body(request: Request) -> str:
        told.append(request)
        return "{}"

    async with opened(tmp_path) as books:
        books.work = Work(books.database, body)
        request = await books.accept(urls(2), webhook="http://me/")
        one, two = await books.claim()
        await books.work.finish([completed(one), failed(two)])
        assert told == [await shown(books, request)]


async def test_each_gets_the_answer_to_its_own_question_even_if_another_gives_up(
    books: Books,
) -> None:
    await books.accept(urls(9))
    done = [completed(claim) for claim in await books.claim()]
    await books.work.finish(done[:5])
    questions = [
        asyncio.create_task(books.work.find_file(each.source_digest, each.claim.settings))
        for each in done
    ]
    await asyncio.sleep(0)
    questions.pop(0).cancel()  # the one who was about to ask for all
    questions.pop(6).cancel()
    found = await asyncio.gather(*questions)
    names = [file and file.name for file in found]
    assert names == [each.file for each in done[1:5]] + [None] * 3


async def test_questions_that_fail_leave_nothing_behind(books: Books) -> None:
    def ask() -> list[Coroutine[None, None, StoredFile | None]]:
        return [books.work.find_file(b"x" * 32, Settings()) for _ in range(3)]

    await books.database.write(lambda c: c.execute("ALTER TABLE files RENAME TO elsewhere"))
    answers = await asyncio.gather(*ask(), return_exceptions=True)
    assert all(isinstance(answer, sqlite3.OperationalError) for answer in answers), answers
    await books.database.write(lambda c: c.execute("ALTER TABLE elsewhere RENAME TO files"))
    assert await asyncio.gather(*ask()) == [None] * 3


async def test_equal_sources_share_a_file(books: Books) -> None:
    await books.accept(urls(3))
    one, two, three = await books.claim()
    first = completed(one, "same")
    assert (await books.work.finish([first])).unused == []
    stored = await books.work.find_file(first.source_digest, one.settings)
    assert stored is not None
    assert (stored.name, stored.picture) == (first.file, PICTURE)
    assert await books.work.find_file(first.source_digest, Settings(progressive=True)) is None
    second = completed(two, "same")
    assert (await books.work.finish([second])).unused == [second.file]
    third = Completed(three, first.source_digest, first.file, PICTURE)
    assert (await books.work.finish([third])).unused == []
    names = await books.database.read(lambda c: c.execute("SELECT name FROM files").fetchall())
    assert names == [(first.file,)]


async def test_an_image_whose_twin_was_deleted_is_put_back(books: Books) -> None:
    first = await books.accept(urls(1))
    (claim,) = await books.claim()
    outcome = completed(claim, "same")
    await books.work.finish([outcome])
    await books.accept(urls(1))
    (late,) = await books.claim()
    await books.uploads.mark_deleting(first.request_id)
    assert (await books.uploads.purge_slice()).names == [outcome.file]
    await books.work.finish([Completed(late, outcome.source_digest, outcome.file, PICTURE)])
    (again,) = await books.claim()
    assert (again.numbers, again.attempts) == (late.numbers, late.attempts)


async def test_an_outcome_counts_once(books: Books) -> None:
    request = await books.accept(urls(2))
    one, two = await books.claim()
    for _ in range(2):
        result = await books.work.finish([completed(one), failed(two)])
        assert result.unused == []
    assert (await shown(books, request)).progress == Progress(completed=1, failed=1)
    late = completed(two)
    assert (await books.work.finish([late])).unused == [late.file]
    assert (await shown(books, request)).progress == Progress(completed=1, failed=1)


async def test_an_outcome_of_an_earlier_claim_changes_nothing(books: Books) -> None:
    request = await books.accept(urls(1))
    (old,) = await books.claim()
    await books.work.recover()
    (new,) = await books.claim()
    assert old.token != new.token
    await books.work.finish([failed(old)])
    assert (await shown(books, request)).progress == Progress(processing=1)
    await books.work.finish([completed(new)])


async def test_an_outcome_of_a_request_that_is_gone_is_dropped(books: Books) -> None:
    request = await books.accept(urls(1))
    (claim,) = await books.claim()
    await books.complete([claim])
    await books.uploads.mark_deleting(request.request_id)
    await books.uploads.purge_slice()
    outcome = completed(claim)
    result = await books.work.finish([outcome, failed(claim)])
    assert (result.finished, result.touched, result.unused) == ([], [], [outcome.file])


async def test_what_waits_is_claimed_when_it_is_due_and_before_what_was_not_tried(
    books: Books,
) -> None:
    await books.accept(urls(20))
    soon = time.time() + 1_000
    (claim,) = await books.claim(limit=1)
    await books.work.finish([PutBack(claim, 1, soon)])
    assert await books.work.next_due() == soon
    assert claim.numbers not in [c.numbers for c in await books.claim(limit=2, now=soon - 1)]
    retried = (await books.claim(limit=1, now=soon))[0]
    assert (retried.numbers, retried.attempts) == (claim.numbers, 1)
    assert await books.work.next_due() is None
    await books.work.finish([PutBack(retried, 1)])
    assert (await books.claim(limit=1, now=soon))[0].numbers == claim.numbers


async def test_a_message_may_be_any_text(books: Books) -> None:
    request = await books.accept(urls(1))
    (claim,) = await books.claim()
    await books.work.finish([failed(claim, "404 N\udce9t Found")])
    async with books.snapshots.open(request.request_id) as snapshot:
        (row,) = await snapshot.products(0, 1)
    assert row.images[0].error_message == "404 N?t Found"


async def test_waiting_counts_what_is_not_done(books: Books) -> None:
    assert await books.work.waiting() == 0
    await books.accept(urls(4))
    claims = await books.claim(limit=3)
    assert await books.work.waiting() == 4
    await books.work.finish([completed(claims[0]), failed(claims[1]), PutBack(claims[2], 1, 5.0)])
    assert await books.work.waiting() == 2


# --- recovery, origins, cancelling, retrying -------------------------------------------------------


async def test_recovery_puts_back_what_was_in_flight(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "SLICE", 3)
    request = await books.accept([*urls(9), ["http://a.example/0"]])
    first = await books.claim(limit=4)
    await books.work.finish([completed(first[0]), PutBack(first[1], 2, 7.0)])
    claims = await books.claim(limit=4)
    other = await books.accept(urls(2))
    more = await books.claim(limit=1)
    tokens = await books.work.in_flight()
    assert {claim.token for claim in [*first[2:], *claims, *more]} <= set(tokens)
    assert first[0].token not in tokens
    await books.work.recover()
    assert await books.work.in_flight() == []
    recovered = await shown(books, request)
    assert recovered.progress == Progress(pending=8, completed=2)
    # The time between the processes is no part of the rate.
    assert (recovered.measured_since, recovered.measured_done) == (None, 2)
    assert (await shown(books, other)).progress.processing == 0
    assert {
        claim.numbers[0]: claim.attempts for claim in await books.claim() if claim.attempts
    } == {1: 2}


async def test_a_dead_origins_images_fail_in_slices(books: Books) -> None:
    request = await books.accept([*urls(5, "dead"), *urls(2, "a")], webhook="http://me/")
    other = await books.accept(urls(1, "a"))
    dead = origin_key("http://dead.example:80")
    assert await books.work.waiting_for(dead) == [(request.key, request.created_at)]
    tried = next(c for c in await books.claim(limit=99) if "dead" in c.url)
    await books.work.recover()
    claims = [c for c in await books.claim(limit=99) if c.numbers != tried.numbers]
    assert [key for key, _ in await books.work.waiting_for(dead)] == []
    await books.work.finish([PutBack(c, 1, 5e12) for c in claims if "dead" in c.url])
    results = []
    while (
        result := await books.work.fail_origin(request.key, dead, ImageErrorCode.TIMEOUT, "gone", 3)
    ).touched:
        results.append((result.touched, result.ended[ImageStatus.FAILED, "timeout"]))
    assert results == [([request.key], 3), ([request.key], 1)]
    after = await shown(books, request)
    assert after.failures == (FailureCount("dead.example", ImageErrorCode.TIMEOUT, 4),)
    assert await books.work.waiting_for(origin_key("http://a.example:80")) == []
    assert (await shown(books, other)).progress.failed == 0


async def test_the_last_dead_image_finishes_the_request(books: Books) -> None:
    request = await books.accept(urls(2), webhook="http://me/")
    origin = origin_key("http://a.example:80")
    result = await books.work.fail_origin(request.key, origin, ImageErrorCode.TIMEOUT, "x", 10)
    assert [finished.status for finished in result.finished] == [Status.FAILED]
    assert len(await books.deliveries.due(1e12, 9)) == 1


async def test_cancelling_ends_what_waits_and_spares_what_is_in_flight(books: Books) -> None:
    request = await books.accept(urls(10), webhook="http://me/")
    one, two, three = await books.claim(limit=3)
    key = await books.work.begin_cancel(request.request_id)
    assert await books.work.cancelling() == [key]
    assert await books.claim() == []
    assert await books.work.cancel_slice(key, 4) == (True, nothing_finished(key, 4))
    assert await books.work.cancel_slice(key, 4) == (False, nothing_finished(key, 3))
    assert (await shown(books, request)).progress == Progress(processing=3, cancelled=7)
    await books.work.finish([completed(one), PutBack(two, 1, 5.0)])
    assert (await shown(books, request)).progress == Progress(
        processing=1, completed=1, cancelled=8
    )
    result = await books.work.finish([failed(three)])
    assert result.ended == {(ImageStatus.FAILED, "timeout"): 1}
    (finished,) = result.finished
    assert finished.status is Status.CANCELLED
    assert await books.work.cancelling() == []
    with pytest.raises(Refusal) as refusal:
        await books.work.begin_cancel(request.request_id)
    assert refusal.value.code is RefusalCode.ALREADY_FINISHED
    assert await books.work.cancel_slice(key, 4) == (False, work.FinishResult())
    assert (await shown(books, request)).progress.cancelled == 8


def nothing_finished(key: int, cancelled: int) -> work.FinishResult:
    return work.FinishResult([], [key], [], Counter({(ImageStatus.CANCELLED, ""): cancelled}))


async def test_cancelling_goes_on_after_a_restart(books: Books) -> None:
    request = await books.accept(urls(5))
    await books.claim(limit=2)
    await books.work.begin_cancel(request.request_id)
    await books.work.recover()
    (key,) = await books.work.cancelling()
    more, result = await books.work.cancel_slice(key, 100)
    assert not more
    assert [finished.status for finished in result.finished] == [Status.CANCELLED]


async def test_failed_images_are_retried_from_the_start(books: Books) -> None:
    request = await books.accept(urls(4), webhook="http://me/")
    for call in (books.work.retry_failed,):
        with pytest.raises(Refusal) as refusal:
            await call(request.request_id)
        assert refusal.value.code is RefusalCode.NOT_FINISHED
    one, *others = await books.claim()
    await books.work.finish([completed(one), *(failed(claim) for claim in others)])
    (delivery,) = await books.deliveries.due(1e12, 9)
    done = await shown(books, request)
    again = await books.work.retry_failed(request.request_id)
    assert again.version > done.version
    assert again.finished_at is None
    assert again.started_at == done.started_at
    assert (again.measured_since, again.measured_done) == (None, 1)
    assert (again.progress, again.failures) == (Progress(pending=3, completed=1), ())
    assert again.webhook is not None
    assert (again.webhook.status, again.webhook.attempts) == ("pending", 0)
    assert await books.deliveries.due(1e12, 9) == []
    ((key, since),) = await books.work.waiting_for(origin_key("http://a.example:80"))
    assert key == request.key
    assert since > request.created_at
    claims = await books.claim(now=12_345.0)
    assert [claim.attempts for claim in claims] == [0, 0, 0]
    assert (await shown(books, request)).measured_since == 12_345.0
    await books.complete(claims)
    (second,) = await books.deliveries.due(1e12, 9)
    assert second.delivery_id != delivery.delivery_id
    with pytest.raises(Refusal) as refusal:
        await books.work.retry_failed(request.request_id)
    assert refusal.value.code is RefusalCode.NOTHING_FAILED


async def test_a_large_retry_goes_in_slices_and_survives_a_restart(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "SLICE", 10)
    same = "http://a.example/same"
    request = await books.accept([[same], *urls(30), [same]])
    await books.work.finish([failed(claim) for claim in await books.claim()])
    await books.work.retry_failed(request.request_id)
    restarted = Books(books.database)
    await restarted.work.recover()
    half_way = await shown(books, request)
    assert half_way.progress == Progress(pending=10, failed=22)
    assert half_way.measured_done == 0
    await books.database.read(audit)
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
    assert (await shown(books, request)).progress == Progress(processing=32)


async def test_a_retry_can_be_cancelled_half_way(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "SLICE", 10)
    request = await books.accept(urls(30))
    await books.work.finish([failed(claim) for claim in await books.claim()])
    await books.work.retry_failed(request.request_id)
    key = await books.work.begin_cancel(request.request_id)
    _, result = await books.work.cancel_slice(key, 100)
    assert [finished.progress for finished in result.finished] == [
        Progress(failed=20, cancelled=10)
    ]
