"""The lowest layer of the harness: a database with its stores, and sample data."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from imgsvc.database.connection import Database
from imgsvc.database.limits import DatabaseLimits
from imgsvc.database.stores import Stores
from imgsvc.database.tokens import output_token, secret
from imgsvc.image_types import CompressionSettings, ImageInfo
from imgsvc.models import (
    Claim,
    Completed,
    Delivery,
    Request,
    RequestOptions,
)
from imgsvc.table_types import (
    ColumnRole,
    Columns,
    ImageUrl,
    InputTable,
    Product,
)
from tests.harness.audit import audit

COLUMNS = Columns(
    ("S. No.", "Product Name", "Input Image Urls", "Colour"),
    (ColumnRole.SERIAL, ColumnRole.NAME, ColumnRole.IMAGE, ColumnRole.EXTRA),
    (0,),
)
TABLE = InputTable(COLUMNS, "standard", "utf-8", ",")
IMAGE_INFO = ImageInfo(1_000, 400, 30, 20, "jpeg", "jpeg", 90, 45, kept=False)


NO_LOCK_WAIT = DatabaseLimits(busy_seconds=0.02, locked_seconds=0.0)
"""A read or write fails at once while another connection holds the lock."""


class DatabaseHarness:
    """The stores and queries of a database."""

    def __init__(self, stores: Stores) -> None:
        self.database = stores.database
        self.request_store = stores.request_store
        self.job_store = stores.job_store
        self.token_store = stores.token_store
        self.queries = stores.queries
        self.webhook_store = stores.webhook_store
        self.clock_store = stores.clock_store

    def with_limits(self, **limits: Any) -> DatabaseHarness:
        """Return a harness with other limits of transactions and pages, on the same database."""
        return DatabaseHarness(stores_of(self.database, DatabaseLimits(**limits)))

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
            await self.stage(rows), TABLE, options, max_waiting=10**9
        )

    async def claim(
        self,
        limit: int = 100,
        capacity: int = 100,
        now: float = 1e12,
        worker_seconds: Mapping[int, float] | None = None,
    ) -> list[Claim]:
        return await self.job_store.claim(limit, lambda _: capacity, now, worker_seconds)

    async def complete(self, claims: Iterable[Claim]) -> list[Completed]:
        outcomes = [completed(claim) for claim in claims]
        await self.job_store.finish(outcomes)
        return outcomes

    async def due_webhooks(
        self, now: float, limit: int, *, per_receiver: int = 100, longest_delay: float = 1e12
    ) -> list[Delivery]:
        """Return webhooks that are due, at most `per_receiver` of each receiver."""
        due, _ = await self.webhook_store.due(
            now, limit, lambda _: per_receiver, longest_delay=longest_delay
        )
        return due

    async def output_name(self, outcome: Completed) -> str:
        """Return the name of the output of an outcome that `completed` has returned."""
        key = await self.database.read(secret)
        return f"{output_token(key, outcome.source_digest, outcome.claim.settings).hex()}.jpg"

    async def delete_marked(self) -> list[str]:
        """Delete all marked outputs, without a store. Return their names, in order."""
        deleted: list[str] = []
        after: str | None = ""
        while after is not None:
            names, after = await self.token_store.begin_deletion(100, after)
            await self.token_store.end_deletion(names)
            deleted += names
        return sorted(deleted)


def stores_of(database: Database, limits: DatabaseLimits = DatabaseLimits()) -> Stores:
    """Return the stores of a database. Their webhooks have a short body."""
    return Stores(database, lambda request: f"about {request.request_id}", limits)


@asynccontextmanager
async def open_database(
    folder: Path, limits: DatabaseLimits = DatabaseLimits()
) -> AsyncIterator[DatabaseHarness]:
    """Open the database in a folder, and check its consistency at the end."""
    database = await Database.open(folder / "imgsvc.db", limits)
    try:
        yield DatabaseHarness(stores_of(database, limits))
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
