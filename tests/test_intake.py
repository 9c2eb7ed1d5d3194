"""Uploads: accepted whole, or refused with nothing left behind."""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from imgsvc import intake as module
from imgsvc.config import ServerConfig
from imgsvc.errors import ProblemCode, ProblemError
from imgsvc.image_types import CompressionSettings, Quality
from imgsvc.intake import Intake, UploadOptions, UploadResult
from imgsvc.metrics import Metrics
from imgsvc.models import RequestOptions
from tests.database_harness import DatabaseHarness, open_database
from tests.service_process import table

ROWS = [(n, f"Product {n}", f"http://a.example/{n}.jpg") for n in range(30)]
BODY = table(ROWS)


@pytest.fixture(autouse=True)
def few_rows_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STAGED_ROWS", 4)


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[IntakeHarness]:
    async with open_database(tmp_path) as db:
        yield IntakeHarness(db)


class IntakeHarness:
    """An intake, and a count of what it has told others."""

    def __init__(self, db: DatabaseHarness, **server: object) -> None:
        self.db = db
        self.room = True
        self.accepted = self.discarded = 0
        self.metrics = Metrics()
        self.intake = Intake(
            db.uploads,
            ServerConfig.model_validate(server),
            self.metrics,
            has_free_space=lambda: self.room,
            accepted=self._accept,
            discarded=self._discard,
        )

    def _accept(self) -> None:
        self.accepted += 1

    def _discard(self) -> None:
        self.discarded += 1

    async def upload(
        self,
        body: bytes | AsyncIterator[bytes] = BODY,
        options: UploadOptions | Callable[[], UploadOptions] | None = None,
        key: str | None = None,
    ) -> UploadResult:
        given = options or UploadOptions(RequestOptions(CompressionSettings()))
        return await self.intake.upload(
            chunked(body) if isinstance(body, bytes) else body,
            given if callable(given) else lambda: given,
            idempotency_key=key,
        )

    async def refused(self, body: bytes = BODY, key: str | None = None) -> ProblemCode:
        with pytest.raises(ProblemError) as caught:
            await self.upload(body, key=key)
        return caught.value.code

    async def requests(self) -> list[str]:
        """The stage of each request there is."""
        return await self.db.database.read(
            lambda c: [stage for (stage,) in c.execute("SELECT stage FROM requests ORDER BY key")]
        )

    async def assert_nothing_stays(self) -> None:
        """What was staged is hidden, said to be so, and gone after a purge."""
        assert set(await self.requests()) <= {"deleting"}
        assert self.accepted == 0
        assert self.discarded == len(await self.requests())
        while (await self.db.uploads.purge_slice()).more:
            pass
        assert await self.db.database.read(rows_left) == 0


def rows_left(c: sqlite3.Connection) -> int:
    count: int = c.execute(
        "SELECT (SELECT count(*) FROM requests) + (SELECT count(*) FROM products) "
        "+ (SELECT count(*) FROM images) + (SELECT count(*) FROM request_columns)"
    ).fetchone()[0]
    return count


async def chunked(body: bytes, size: int = 50) -> AsyncIterator[bytes]:
    for start in range(0, len(body), size):
        yield body[start : start + size]


class Slow:
    """An upload that stands still after its body's first part until the test lets it go on."""

    def __init__(self, body: bytes = BODY, first: int = 600) -> None:
        self._body = body
        self._first = first
        self.reached = asyncio.Event()
        self.go_on = asyncio.Event()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._body[: self._first]
        self.reached.set()
        await self.go_on.wait()
        yield self._body[self._first :]


def options(quality: int = 50, webhook: str | None = None, *, dry: bool = False) -> UploadOptions:
    given = RequestOptions(CompressionSettings(Quality(quality, relative=False)), webhook)
    return UploadOptions(given, dry, asked=f"{given} {dry}")


async def test_an_upload_in_pieces_is_stored_in_its_order(desk: IntakeHarness) -> None:
    accepted = await desk.upload()
    assert accepted.request is not None
    assert (accepted.products, accepted.images, accepted.replayed) == (30, 30, False)
    assert accepted.request.progress.pending == 30
    async with desk.db.snapshots.open(accepted.request.request_id) as snapshot:
        rows = await snapshot.products(0, 100)
    assert [(row.serial_number, row.name, row.images[0].url) for row in rows] == [
        (str(number), name, url) for number, name, url in ROWS
    ]
    assert (desk.accepted, desk.discarded) == (1, 0)


async def test_few_rows_that_are_large_wait_in_memory_for_no_others(
    desk: IntakeHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STAGED_ROWS", 1_000)
    monkeypatch.setattr(module, "STAGED_BYTES", 500)
    slow = Slow(first=600)
    uploading = asyncio.create_task(desk.upload(aiter(slow)))
    await slow.reached.wait()
    assert await desk.requests() == ["staging"]
    slow.go_on.set()
    assert (await uploading).products == 30
    assert await desk.requests() == ["accepted"]


async def test_options_that_come_after_the_table_count(desk: IntakeHarness) -> None:
    known = options(10)
    slow = Slow()
    uploading = asyncio.create_task(desk.upload(aiter(slow), lambda: known))
    await slow.reached.wait()
    known = options(20, "http://a.example/hook")
    slow.go_on.set()
    request = (await uploading).request
    assert request is not None
    assert request.options == known.options


# --- nothing stays -------------------------------------------------------------------------------


async def test_of_a_table_with_a_late_fault_nothing_stays(desk: IntakeHarness) -> None:
    body = table([*ROWS, (31, "", "ftp://a.example/x")])
    with pytest.raises(ProblemError) as caught:
        await desk.upload(body)
    assert caught.value.code is ProblemCode.INVALID_CSV
    assert caught.value.error_count == 2
    assert {fault.row for fault in caught.value.errors} == {32}
    await desk.assert_nothing_stays()


async def test_of_a_table_with_too_many_images_nothing_stays(desk: IntakeHarness) -> None:
    small = IntakeHarness(desk.db, max_images_per_request=20)
    assert await small.refused() is ProblemCode.TOO_MANY_IMAGES
    await small.assert_nothing_stays()


async def test_of_an_upload_for_which_too_much_waits_nothing_stays(desk: IntakeHarness) -> None:
    small = IntakeHarness(desk.db, max_waiting_images=29)
    assert await small.refused() is ProblemCode.TOO_MUCH_WAITING
    await small.assert_nothing_stays()


async def test_of_an_upload_whose_sender_has_gone_nothing_stays(desk: IntakeHarness) -> None:
    slow = Slow()
    uploading = asyncio.create_task(desk.upload(aiter(slow), key="mine"))
    await slow.reached.wait()
    assert await desk.requests() == ["staging"]
    uploading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await uploading
    await desk.assert_nothing_stays()
    assert (await desk.upload(key="mine")).replayed is False, "its key is free again"


async def test_an_upload_cut_short_at_any_pause_leaves_nothing_half_way(
    desk: IntakeHarness,
) -> None:
    """The sender goes after one more turn of the loop each time."""
    for turns in range(30):
        uploading = asyncio.create_task(desk.upload())
        for _ in range(turns):
            await asyncio.sleep(0)
        uploading.cancel()
        await asyncio.gather(uploading, return_exceptions=True)
        assert "staging" not in await desk.requests(), turns
    assert await desk.requests(), "some had begun"


async def test_an_upload_that_breaks_leaves_nothing(desk: IntakeHarness) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield BODY[:600]
        raise ProblemError(ProblemCode.UPLOAD_STALLED, "nothing came")

    with pytest.raises(ProblemError, match="upload-stalled"):
        await desk.upload(broken())
    await desk.assert_nothing_stays()


async def test_a_dry_run_stores_nothing(desk: IntakeHarness) -> None:
    accepted = await desk.upload(options=options(dry=True))
    assert (accepted.request, accepted.products, accepted.images) == (None, 30, 30)
    assert await desk.requests() == []
    await desk.assert_nothing_stays()


async def test_a_dry_run_that_says_so_after_its_table_leaves_nothing(desk: IntakeHarness) -> None:
    known = options()
    slow = Slow()
    uploading = asyncio.create_task(desk.upload(aiter(slow), lambda: known))
    await slow.reached.wait()
    known = options(dry=True)
    slow.go_on.set()
    assert (await uploading).request is None
    await desk.assert_nothing_stays()


# --- stopping, and a full disk ------------------------------------------------------------------------


async def test_a_stop_refuses_what_is_being_uploaded_and_what_comes(desk: IntakeHarness) -> None:
    slow = Slow()
    uploading = asyncio.create_task(desk.upload(aiter(slow)))
    await slow.reached.wait()
    desk.intake.stop()
    with pytest.raises(ProblemError) as caught:
        await uploading
    assert caught.value.code is ProblemCode.UNAVAILABLE
    assert caught.value.retry_after
    assert await desk.refused() is ProblemCode.UNAVAILABLE
    await desk.assert_nothing_stays()


async def test_whatever_is_done_at_a_stop_an_upload_is_told_truly_whether_it_was_accepted(
    desk: IntakeHarness,
) -> None:
    told, statement = False, 0
    while not told:
        before = await desk.requests()
        told = await is_accepted_by_one_that_stops_at(desk.db, statement)
        assert (await desk.requests()).count("accepted") == before.count("accepted") + told
        statement += 1
    assert statement > 10


async def is_accepted_by_one_that_stops_at(db: DatabaseHarness, statement: int) -> bool:
    """Tell how a small upload ends if the stop comes while that statement is run."""
    desk, loop, seen = IntakeHarness(db), asyncio.get_running_loop(), itertools.count()

    def trace(_: str) -> None:
        if next(seen) == statement:
            loop.call_soon_threadsafe(desk.intake.stop)

    await db.database.write(lambda c: c.set_trace_callback(trace))
    try:
        await desk.upload(table(ROWS[:1]))
    except ProblemError:
        return False
    return True


async def test_a_full_disk_refuses_uploads_until_there_is_room(desk: IntakeHarness) -> None:
    desk.room = False
    assert await desk.refused() is ProblemCode.STORAGE_FULL
    desk.room = True
    assert (await desk.upload()).request is not None


# --- idempotency keys --------------------------------------------------------------------------------


async def test_the_same_upload_under_the_same_key_is_answered_again(desk: IntakeHarness) -> None:
    first = await desk.upload(options=options(webhook="http://a.example/hook"), key="k")
    again = await desk.upload(
        chunked(BODY, size=7), options(webhook="http://a.example/hook"), key="k"
    )
    assert again.replayed
    assert again.request == first.request
    assert (again.products, again.images) == (first.products, first.images)
    assert await desk.requests() == ["accepted"]
    assert desk.accepted == 1


@pytest.mark.parametrize(
    ("body", "other"),
    [
        (BODY + b"\r\n", options()),
        (BODY, options(quality=51)),
        (BODY, options(webhook="http://a.example/hook")),
        (BODY, options(dry=True)),
    ],
    ids=["table", "quality", "webhook", "dry-run"],
)
async def test_another_upload_under_the_same_key_is_refused(
    desk: IntakeHarness, body: bytes, other: UploadOptions
) -> None:
    await desk.upload(options=options(), key="k")
    with pytest.raises(ProblemError) as caught:
        await desk.upload(body, other, key="k")
    assert caught.value.code is ProblemCode.IDEMPOTENCY_KEY_REUSED
    assert await desk.requests() == ["accepted"]


async def test_a_key_is_busy_while_its_upload_is_in_progress(desk: IntakeHarness) -> None:
    slow = Slow()
    uploading = asyncio.create_task(desk.upload(aiter(slow), key="k"))
    await slow.reached.wait()
    assert await desk.refused(key="k") is ProblemCode.IDEMPOTENCY_KEY_BUSY
    assert (await desk.upload(key="other")).replayed is False
    slow.go_on.set()
    first = await uploading
    again = await desk.upload(key="k")
    assert (again.replayed, again.request) == (True, first.request)


async def test_a_key_that_is_bound_is_busy_no_more(desk: IntakeHarness) -> None:
    first = await desk.upload(key="k")
    slow = Slow()
    once_more = asyncio.create_task(desk.upload(aiter(slow), key="k"))
    await slow.reached.wait()
    again = await desk.upload(key="k")
    slow.go_on.set()
    assert again.replayed
    assert (await once_more).request == again.request == first.request


async def test_a_refused_upload_binds_no_key(desk: IntakeHarness) -> None:
    assert await desk.refused(b"nonsense", key="k") is ProblemCode.INVALID_CSV
    assert (await desk.upload(options=options(dry=True), key="k")).request is None
    assert (await desk.upload(key="k")).request is not None
