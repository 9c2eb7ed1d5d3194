"""Uploads are accepted completely, or rejected without leaving rows behind."""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from imgsvc.config import Config, ServerConfig
from imgsvc.errors import ProblemCode, ProblemError
from imgsvc.image_types import CompressionSettings, Quality
from imgsvc.intake import Intake, UploadResources
from imgsvc.metrics import Metrics
from imgsvc.models import RequestOptions
from imgsvc.spreadsheets import Spreadsheets
from imgsvc.staged_upload import StagingLimits
from imgsvc.storage.filesystem import FilesystemStore
from imgsvc.storage.scratch import Scratch
from imgsvc.storage.state import StorageState
from imgsvc.upload_types import UploadOptions, UploadResult
from tests.harness.database import DatabaseHarness, open_database
from tests.harness.service import SwitchableDisk
from tests.service_process import table

ROWS = [(n, f"Product {n}", f"http://a.example/{n}.jpg") for n in range(30)]
BODY = table(ROWS)


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[IntakeHarness]:
    async with open_database(tmp_path) as db:
        yield IntakeHarness(db)


class WakeCounter:
    """Counts how often it is woken."""

    def __init__(self) -> None:
        self.count = 0

    def wake(self) -> None:
        self.count += 1


class IntakeHarness:
    """An intake that stages few rows at a time. It counts accepted and discarded uploads."""

    def __init__(
        self, db: DatabaseHarness, limits: StagingLimits | None = None, **server: object
    ) -> None:
        self.db = db
        self.disk = SwitchableDisk(db.database.path.parent)
        self.scratch = Scratch(db.database.path.parent, self.disk)
        state = StorageState(self.disk, FilesystemStore(db.database.path.parent, self.disk))
        self._scheduler, self._maintenance = WakeCounter(), WakeCounter()
        self.metrics = Metrics()
        self.intake = Intake(
            db.request_store,
            ServerConfig.model_validate(server),
            self.metrics,
            UploadResources(state, self.scratch, Spreadsheets(Config(), self.scratch)),
            scheduler=self._scheduler,
            maintenance=self._maintenance,
            limits=limits or StagingLimits(rows=4),
        )

    @property
    def accepted(self) -> int:
        return self._scheduler.count

    @property
    def discarded(self) -> int:
        return self._maintenance.count

    async def upload(
        self,
        body: bytes | AsyncIterator[bytes] = BODY,
        options: UploadOptions | Callable[[], UploadOptions] | None = None,
        key: str | None = None,
    ) -> UploadResult:
        chosen = options or UploadOptions(RequestOptions(CompressionSettings()))
        return await self.intake.upload(
            chunked(body) if isinstance(body, bytes) else body,
            chosen if callable(chosen) else lambda: chosen,
            idempotency_key=key,
        )

    async def rejection_code(self, body: bytes = BODY, key: str | None = None) -> ProblemCode:
        with pytest.raises(ProblemError) as caught:
            await self.upload(body, key=key)
        return caught.value.code

    async def requests(self) -> list[str]:
        """Return the stage of each request in the database."""
        return await self.db.database.read(
            lambda c: [stage for (stage,) in c.execute("SELECT stage FROM requests ORDER BY key")]
        )

    async def assert_nothing_remains(self) -> None:
        """Assert that staged rows are hidden, reported as discarded, and deleted by a purge."""
        assert set(await self.requests()) <= {"deleting"}
        assert self.accepted == 0
        assert self.discarded == len(await self.requests())
        while await self.db.request_store.purge_slice():
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


class PausedUpload:
    """An upload that pauses after the first part of its body until `resume` is set."""

    def __init__(self, body: bytes = BODY, first: int = 600) -> None:
        self._body = body
        self._first = first
        self.reached = asyncio.Event()
        self.resume = asyncio.Event()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._body[: self._first]
        self.reached.set()
        await self.resume.wait()
        yield self._body[self._first :]


def options(quality: int = 50, webhook: str | None = None, *, dry: bool = False) -> UploadOptions:
    request_options = RequestOptions(CompressionSettings(Quality(quality, relative=False)), webhook)
    return UploadOptions(request_options, dry, requested=f"{request_options} {dry}")


async def test_upload_in_chunks_is_stored_in_order(harness: IntakeHarness) -> None:
    accepted = await harness.upload()
    assert accepted.request is not None
    assert (accepted.products, accepted.images, accepted.replayed) == (30, 30, False)
    assert accepted.request.progress.pending == 30
    async with harness.db.queries.open(accepted.request.request_id) as snapshot:
        rows = await snapshot.products(0, 100)
    assert [(row.serial_number, row.name, row.images[0].url) for row in rows] == [
        (str(number), name, url) for number, name, url in ROWS
    ]
    assert (harness.accepted, harness.discarded) == (1, 0)


async def test_upload_stages_few_rows_if_they_are_large(
    harness: IntakeHarness,
) -> None:
    harness = IntakeHarness(harness.db, StagingLimits(rows=1_000, size=500))
    paused = PausedUpload(first=600)
    uploading = asyncio.create_task(harness.upload(aiter(paused)))
    await paused.reached.wait()
    assert await harness.requests() == ["staging"]
    paused.resume.set()
    assert (await uploading).products == 30
    assert await harness.requests() == ["accepted"]


async def test_upload_uses_options_received_after_the_table(harness: IntakeHarness) -> None:
    known = options(10)
    paused = PausedUpload()
    uploading = asyncio.create_task(harness.upload(aiter(paused), lambda: known))
    await paused.reached.wait()
    known = options(20, "http://a.example/hook")
    paused.resume.set()
    request = (await uploading).request
    assert request is not None
    assert request.options == known.request_options


# --- rejected uploads leave nothing --------------------------------------------------------------


async def test_upload_stores_nothing_if_a_late_row_is_invalid(harness: IntakeHarness) -> None:
    body = table([*ROWS, (31, "", "ftp://a.example/x")])
    with pytest.raises(ProblemError) as caught:
        await harness.upload(body)
    assert caught.value.code is ProblemCode.INVALID_CSV
    assert caught.value.error_count == 2
    assert {error.row for error in caught.value.errors} == {32}
    await harness.assert_nothing_remains()


async def test_upload_stores_nothing_if_it_has_too_many_images(harness: IntakeHarness) -> None:
    limited = IntakeHarness(harness.db, max_images_per_request=20)
    assert await limited.rejection_code() is ProblemCode.TOO_MANY_IMAGES
    await limited.assert_nothing_remains()


async def test_upload_stores_nothing_if_too_many_images_are_pending(harness: IntakeHarness) -> None:
    limited = IntakeHarness(harness.db, max_waiting_images=29)
    assert await limited.rejection_code() is ProblemCode.TOO_MUCH_WAITING
    await limited.assert_nothing_remains()


async def test_upload_stores_nothing_if_the_client_disconnects(harness: IntakeHarness) -> None:
    paused = PausedUpload()
    uploading = asyncio.create_task(harness.upload(aiter(paused), key="mine"))
    await paused.reached.wait()
    assert await harness.requests() == ["staging"]
    uploading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await uploading
    await harness.assert_nothing_remains()
    assert (await harness.upload(key="mine")).replayed is False, "its key is free again"


async def test_upload_cancelled_at_any_await_leaves_no_staged_rows(
    harness: IntakeHarness,
) -> None:
    """Each upload is cancelled one iteration of the event loop later than the one before."""
    for iterations in range(30):
        uploading = asyncio.create_task(harness.upload())
        for _ in range(iterations):
            await asyncio.sleep(0)
        uploading.cancel()
        await asyncio.gather(uploading, return_exceptions=True)
        assert "staging" not in await harness.requests(), iterations
    assert await harness.requests(), "some had begun"


async def test_upload_stores_nothing_if_its_body_fails(harness: IntakeHarness) -> None:
    async def failing() -> AsyncIterator[bytes]:
        yield BODY[:600]
        raise ProblemError(ProblemCode.UPLOAD_STALLED, "no data received")

    with pytest.raises(ProblemError, match="upload-stalled"):
        await harness.upload(failing())
    await harness.assert_nothing_remains()


async def test_dry_run_stores_nothing(harness: IntakeHarness) -> None:
    accepted = await harness.upload(options=options(dry=True))
    assert (accepted.request, accepted.products, accepted.images) == (None, 30, 30)
    assert await harness.requests() == []
    await harness.assert_nothing_remains()


async def test_dry_run_stores_nothing_if_requested_after_the_table(harness: IntakeHarness) -> None:
    known = options()
    paused = PausedUpload()
    uploading = asyncio.create_task(harness.upload(aiter(paused), lambda: known))
    await paused.reached.wait()
    known = options(dry=True)
    paused.resume.set()
    assert (await uploading).request is None
    await harness.assert_nothing_remains()


# --- stopping, and a full disk ------------------------------------------------------------------------


async def test_stop_rejects_current_and_new_uploads(harness: IntakeHarness) -> None:
    paused = PausedUpload()
    uploading = asyncio.create_task(harness.upload(aiter(paused)))
    await paused.reached.wait()
    harness.intake.stop()
    with pytest.raises(ProblemError) as caught:
        await uploading
    assert caught.value.code is ProblemCode.UNAVAILABLE
    assert caught.value.retry_after
    assert await harness.rejection_code() is ProblemCode.UNAVAILABLE
    await harness.assert_nothing_remains()


async def test_stop_at_any_statement_reports_correctly_whether_the_upload_was_accepted(
    harness: IntakeHarness,
) -> None:
    accepted, statement = False, 0
    while not accepted:
        before = await harness.requests()
        accepted = await is_accepted_if_stopped_at(harness.db, statement)
        assert (await harness.requests()).count("accepted") == before.count("accepted") + accepted
        statement += 1
    assert statement > 10


async def is_accepted_if_stopped_at(db: DatabaseHarness, statement: int) -> bool:
    """Return whether a small upload is accepted if a stop comes during a given SQL statement."""
    harness, loop, seen = IntakeHarness(db), asyncio.get_running_loop(), itertools.count()

    def trace(_: str) -> None:
        if next(seen) == statement:
            loop.call_soon_threadsafe(harness.intake.stop)

    await db.database.write(lambda c: c.set_trace_callback(trace))
    try:
        await harness.upload(table(ROWS[:1]))
    except ProblemError:
        return False
    return True


async def test_uploads_are_rejected_while_the_disk_is_full(harness: IntakeHarness) -> None:
    harness.disk.full = True
    assert await harness.rejection_code() is ProblemCode.STORAGE_FULL
    harness.disk.full = False
    assert (await harness.upload()).request is not None


# --- idempotency keys --------------------------------------------------------------------------------


async def test_repeated_upload_with_same_key_replays_the_response(harness: IntakeHarness) -> None:
    first = await harness.upload(options=options(webhook="http://a.example/hook"), key="k")
    repeated = await harness.upload(
        chunked(BODY, size=7), options(webhook="http://a.example/hook"), key="k"
    )
    assert repeated.replayed
    assert repeated.request == first.request
    assert (repeated.products, repeated.images) == (first.products, first.images)
    assert await harness.requests() == ["accepted"]
    assert harness.accepted == 1


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
async def test_different_upload_with_same_key_is_rejected(
    harness: IntakeHarness, body: bytes, other: UploadOptions
) -> None:
    await harness.upload(options=options(), key="k")
    with pytest.raises(ProblemError) as caught:
        await harness.upload(body, other, key="k")
    assert caught.value.code is ProblemCode.IDEMPOTENCY_KEY_REUSED
    assert await harness.requests() == ["accepted"]


async def test_key_is_busy_while_its_upload_is_in_progress(harness: IntakeHarness) -> None:
    paused = PausedUpload()
    uploading = asyncio.create_task(harness.upload(aiter(paused), key="k"))
    await paused.reached.wait()
    assert await harness.rejection_code(key="k") is ProblemCode.IDEMPOTENCY_KEY_BUSY
    assert (await harness.upload(key="other")).replayed is False
    paused.resume.set()
    first = await uploading
    repeated = await harness.upload(key="k")
    assert (repeated.replayed, repeated.request) == (True, first.request)


async def test_bound_key_is_not_busy_during_a_replay(harness: IntakeHarness) -> None:
    first = await harness.upload(key="k")
    paused = PausedUpload()
    repeated_upload = asyncio.create_task(harness.upload(aiter(paused), key="k"))
    await paused.reached.wait()
    repeated = await harness.upload(key="k")
    paused.resume.set()
    assert repeated.replayed
    assert (await repeated_upload).request == repeated.request == first.request


async def test_rejected_upload_and_dry_run_do_not_bind_the_key(harness: IntakeHarness) -> None:
    assert await harness.rejection_code(b"nonsense", key="k") is ProblemCode.INVALID_CSV
    assert (await harness.upload(options=options(dry=True), key="k")).request is None
    assert (await harness.upload(key="k")).request is not None
