"""Shared code of the database tests: a harness with sample data, and a consistency check."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from imgsvc.database.connection import Database
from imgsvc.database.job_store import JobStore
from imgsvc.database.queries import Queries
from imgsvc.database.request_store import RequestStore
from imgsvc.database.token_store import TokenStore
from imgsvc.database.tokens import output_token, secret
from imgsvc.database.webhook_store import WebhookStore
from imgsvc.image_types import CompressionSettings, ImageInfo
from imgsvc.models import (
    Claim,
    ColumnRole,
    Columns,
    Completed,
    ImageStatus,
    ImageUrl,
    Product,
    Progress,
    Request,
    RequestOptions,
)

COLUMNS = Columns(
    ("S. No.", "Product Name", "Input Image Urls", "Colour"),
    (ColumnRole.SERIAL, ColumnRole.NAME, ColumnRole.IMAGE, ColumnRole.EXTRA),
    (0,),
)
IMAGE_INFO = ImageInfo(1_000, 400, 30, 20, "jpeg", "jpeg", 90, 45, kept=False)


class DatabaseHarness:
    """A database with its stores and queries."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.request_store = RequestStore(database)
        self.job_store = JobStore(database, lambda request: f"about {request.request_id}")
        self.token_store = TokenStore(database)
        self.queries = Queries(database)
        self.webhook_store = WebhookStore(database)

    async def stage(self, rows: Iterable[Sequence[str]], *, size: int = 500) -> int:
        """Stage products, each with a list of URLs. Return the request's key."""
        key = await self.request_store.begin()
        products = [product(number, urls) for number, urls in enumerate(rows)]
        for start in range(0, len(products), size):
            await self.request_store.stage(key, products[start : start + size])
        return key

    async def accept(
        self,
        rows: Iterable[Sequence[str]],
        *,
        webhook: str | None = None,
        settings: CompressionSettings | None = None,
    ) -> Request:
        options = RequestOptions(settings or CompressionSettings(), webhook)
        return await self.request_store.accept(
            await self.stage(rows), COLUMNS, options, max_waiting=10**9
        )

    async def claim(self, limit: int = 100, capacity: int = 100, now: float = 1e12) -> list[Claim]:
        return await self.job_store.claim(limit, lambda _: capacity, now)

    async def complete(self, claims: Iterable[Claim]) -> list[Completed]:
        outcomes = [completed(claim) for claim in claims]
        await self.job_store.finish(outcomes)
        return outcomes

    async def output_name(self, outcome: Completed) -> str:
        """Return the name of the output of an outcome that `completed` has returned."""
        key = await self.database.read(secret)
        return f"{output_token(key, outcome.source_digest, outcome.claim.settings).hex()}.jpg"

    async def delete_marked(self) -> list[str]:
        """Delete all marked outputs, without a store. Return their names, in order."""
        deleted: list[str] = []
        more = True
        while more:
            names, more = await self.token_store.begin_deletion(100)
            await self.token_store.end_deletion(names)
            deleted += names
        return sorted(deleted)


@asynccontextmanager
async def open_database(folder: Path) -> AsyncIterator[DatabaseHarness]:
    """Open the database in a folder, and check its consistency at the end."""
    database = await Database.open(folder / "imgsvc.db")
    try:
        yield DatabaseHarness(database)
        await database.read(audit)
    finally:
        await database.close()


def product(number: int, urls: Sequence[str]) -> Product:
    return Product(
        row=number + 2,
        serial_number=str(number + 1),
        name=f"Product {number}",
        images=tuple(image_url(url) for url in urls),
        extra=(f"colour {number}",),
    )


def image_url(given: str) -> ImageUrl:
    fetched = given.replace(" ", "%20")
    scheme, _, rest = fetched.partition("://")
    host = rest.partition("/")[0]
    port = "" if ":" in host else ":443" if scheme == "https" else ":80"
    return ImageUrl(given, fetched, f"{scheme}://{host}{port}")


def completed(claim: Claim, source: str | None = None) -> Completed:
    """Return a successful outcome. `source` identifies the source bytes (default: unique bytes)."""
    source = source or f"{claim.request_key} {claim.numbers[0]}"
    return Completed(claim, source.encode().rjust(32, b".")[:32], IMAGE_INFO)


def audit(c: sqlite3.Connection) -> None:
    """Check that everything stored in two places agrees."""
    assert c.execute("PRAGMA foreign_key_check").fetchall() == []
    for row in c.execute(
        "SELECT key, stage, status, finished_at, retrying, pending, processing, completed, failed, "
        "cancelled, products, input_bytes, output_bytes, started_at FROM requests"
    ).fetchall():
        key, stage, status, finished_at, retrying = row[:5]
        if stage == "deleting":
            continue
        progress = Progress(*row[5:10])
        _audit_counters(c, key, progress, row[10:13])
        assert status == progress.status
        if stage == "accepted":
            assert (finished_at is not None) == (progress.finished and not retrying)
            assert row[13] is not None or not progress.processing
        _audit_failures(c, key, progress)
        _audit_delivery(c, key, finished_at is not None)
    _audit_images(c)
    _audit_files(c)


def _audit_counters(
    c: sqlite3.Connection, key: int, progress: Progress, totals: Sequence[int]
) -> None:
    counted: Counter[str] = Counter(
        dict(
            c.execute(
                "SELECT status, count(*) FROM images WHERE request_key = ? GROUP BY 1", (key,)
            )
        )
    )
    assert progress == Progress(**{str(status): counted[status] for status in ImageStatus})
    products, images = c.execute(
        "SELECT count(*), coalesce(sum(image_count), 0) FROM products WHERE request_key = ?", (key,)
    ).fetchone()
    sizes = c.execute(
        "SELECT coalesce(sum(f.input_bytes), 0), coalesce(sum(f.output_bytes), 0) "
        "FROM images i JOIN files f ON f.key = i.file_key WHERE i.request_key = ?",
        (key,),
    ).fetchone()
    assert tuple(totals) == (products, *sizes)
    assert images == progress.total
    numbers = [n for (n,) in c.execute("SELECT number FROM images WHERE request_key = ?", (key,))]
    assert numbers == list(range(len(numbers)))


def _audit_failures(c: sqlite3.Connection, key: int, progress: Progress) -> None:
    (count,) = c.execute(
        "SELECT coalesce(sum(count), 0) FROM failures WHERE request_key = ?", (key,)
    ).fetchone()
    assert count == progress.failed
    assert c.execute("SELECT count(*) FROM failures WHERE count <= 0").fetchone() == (0,)


def _audit_delivery(c: sqlite3.Connection, key: int, finished: bool) -> None:
    (webhook,) = c.execute("SELECT webhook_url FROM requests WHERE key = ?", (key,)).fetchone()
    (count,) = c.execute("SELECT count(*) FROM deliveries WHERE request_key = ?", (key,)).fetchone()
    assert count == (webhook is not None and finished)


def _audit_images(c: sqlite3.Connection) -> None:
    states = c.execute(
        "SELECT DISTINCT i.status, i.token IS NOT NULL, f.key IS NOT NULL, f.token IS NOT NULL, "
        "error_code IS NOT NULL, error_message IS NOT NULL "
        "FROM images i LEFT JOIN files f ON f.key = file_key"
    ).fetchall()
    valid = {
        ("pending", 0, 0, 0, 0, 0),
        ("processing", 0, 0, 0, 0, 0),
        ("completed", 0, 1, 1, 0, 0),
        ("completed", 1, 1, 0, 0, 0),  # by version 1.0
        ("failed", 0, 0, 0, 1, 1),
        ("cancelled", 0, 0, 0, 0, 0),
    }
    assert set(states) <= valid
    tokens = [t for (t,) in c.execute("SELECT token FROM images WHERE token IS NOT NULL")]
    assert len(set(tokens)) == len(tokens)


def _audit_files(c: sqlite3.Connection) -> None:
    files = {key for (key,) in c.execute("SELECT key FROM files")}
    used = {key for (key,) in c.execute("SELECT DISTINCT file_key FROM images")} - {None}
    assert used == files
    names = [name for (name,) in c.execute("SELECT name FROM files")]
    assert len(set(names)) == len(names)
    (stored_and_reserved,) = c.execute(
        "SELECT count(*) FROM files JOIN reservations USING (token)"
    ).fetchone()
    assert stored_and_reserved == 0
