"""Stages, accepts and deletes requests."""

from __future__ import annotations

import sqlite3
import time
import uuid
from collections.abc import Sequence

from imgsvc.database import deletion, mappers, product_queries, repeating, staging
from imgsvc.database.bloom_filter import BloomFilter
from imgsvc.database.connection import Database
from imgsvc.database.mappers import waiting_images
from imgsvc.errors import FileError, ProblemCode, ProblemError
from imgsvc.models import Request, RequestOptions
from imgsvc.table_types import InputTable, Product

RETRY_AFTER_SECONDS = 60
"""When to repeat an upload that was refused because too many images are pending."""
HIDE_SLICE = 500
"""Maximum number of expired requests that one transaction hides."""


class RequestStore:
    """Stores requests. A request is staged invisibly, then accepted (visible), and at last deleted.

    Staging does not sync to the disk. The commit that accepts the request syncs everything written
    before it, and a request that is not accepted need not survive a power cut.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._seen: dict[int, BloomFilter] = {}
        self._to_discard: set[int] = set()

    async def begin(self, owner: str | None = None) -> int:
        """Create an invisible request of an owner. Return its key."""

        def transaction(c: sqlite3.Connection) -> int:
            key: int = c.execute(
                "INSERT INTO requests (request_id, created_at, owner) VALUES (?, ?, ?) RETURNING key",
                (str(uuid.uuid4()), time.time(), owner),
            ).fetchone()[0]
            return key

        key = await self._database.write(transaction, durable=False)
        self._seen[key] = BloomFilter()
        return key

    async def stage(self, request_key: int, products: Sequence[Product]) -> None:
        """Add products to a staged request. Pass only as many as fit into a short transaction.

        Products and images are numbered from 0 in the order of arrival.
        """
        seen = self._seen[request_key]
        await self._database.write(
            lambda c: staging.stage(c, request_key, products, seen), durable=False
        )

    async def accept(
        self,
        request_key: int,
        table: InputTable,
        options: RequestOptions,
        *,
        max_waiting: int,
        error_count: int = 0,
        idempotency: tuple[str, str] | None = None,
    ) -> Request:
        """Make a staged request visible and claimable. When this returns, it survives a power cut.

        `error_count` is the number of errors in skipped rows. `idempotency` is an Idempotency-Key and
        the fingerprint of the upload. Raise `ProblemError` TOO_MUCH_WAITING if more than `max_waiting`
        images would be pending, or IDEMPOTENCY_KEY_BUSY if another request has just used the key. Raise
        LookupError if no such request with images is staged.
        """

        def transaction(c: sqlite3.Connection) -> Request:
            _check_waiting(c, request_key, max_waiting)
            try:
                changed = c.execute(
                    "UPDATE requests SET stage = 'accepted', created_at = ?, settings = ?, "
                    "fresh = ?, webhook_url = ?, name = ?, search_name = ?, layout = ?, encoding = ?, "
                    "error_count = ?, idempotency_key = coalesce(owner || char(10), '') || ?, "
                    "fingerprint = ? "
                    "WHERE key = ? AND stage = 'staging' AND pending > 0",
                    (
                        time.time(),
                        str(options.settings),
                        options.fresh,
                        options.webhook_url,
                        options.name,
                        options.name and mappers.search_key(options.name),
                        table.layout,
                        table.encoding,
                        error_count,
                        *(idempotency or (None, None)),
                        request_key,
                    ),
                ).rowcount
            except sqlite3.IntegrityError:
                raise ProblemError(
                    ProblemCode.IDEMPOTENCY_KEY_BUSY,
                    "Another upload with this Idempotency-Key was just accepted. "
                    "Repeat the call to get its response.",
                    retry_after=1,
                ) from None
            if not changed:
                raise LookupError(f"no staged request {request_key} with images")
            _insert_table(c, request_key, table)
            return mappers.request_of(c, request_key)

        request = await self._database.write(transaction)
        self._seen.pop(request_key, None)
        return request

    async def find_repeatable(self, request_id: str) -> Request:
        """Return a request to repeat.

        Raise `ProblemError` NOT_FOUND, or NOT_AVAILABLE while the request is being deleted.
        """
        return await self._database.read(lambda c: repeating.find(c, request_id))

    async def copy_slice(self, source_key: int, request_key: int) -> bool:
        """Copy some more rows of a request to a staged one. Return whether there may be more.

        Raise `ProblemError` NOT_AVAILABLE if the source is being deleted.
        """
        return await self._database.write(
            lambda c: repeating.copy_slice(c, source_key, request_key), durable=False
        )

    async def discard(self, request_key: int) -> None:
        """Discard a staged request. `purge_slice` deletes its rows later.

        If this fails, `discard_remaining` repeats it.
        """
        self._seen.pop(request_key, None)
        self._to_discard.add(request_key)
        await self._database.write(
            lambda c: (
                c.execute(
                    "UPDATE requests SET stage = 'deleting' WHERE key = ? AND stage = 'staging'",
                    (request_key,),
                ).rowcount
            ),
            durable=False,
        )
        self._to_discard.discard(request_key)

    async def discard_remaining(self) -> None:
        """Discard the staged requests that `discard` could not, as the database was unavailable."""
        for request_key in list(self._to_discard):
            await self.discard(request_key)

    async def discard_abandoned(self) -> int:
        """Discard the requests that an earlier process was staging. Call this at startup.

        Return the number of these requests.
        """

        def transaction(c: sqlite3.Connection) -> int:
            return c.execute(
                "UPDATE requests INDEXED BY requests_hidden SET stage = 'deleting' "
                "WHERE stage <> 'accepted' AND stage = 'staging'"
            ).rowcount

        return await self._database.write(transaction)

    async def skipped_errors(self, request_key: int, limit: int) -> tuple[FileError, ...]:
        """Return at most `limit` errors of a request's skipped rows, in the table's order."""
        return await self._database.read(
            lambda c: product_queries.skipped_errors(c, request_key, limit)
        )

    async def find_idempotent(
        self, key: str, owner: str | None = None
    ) -> tuple[str, Request] | None:
        """Return the fingerprint and the request of an Idempotency-Key, or None if it is unused.

        The keys of an owner are its own, and those of requests without an owner.
        """

        def query(c: sqlite3.Connection) -> tuple[str, Request] | None:
            row = c.execute(
                "SELECT key, fingerprint FROM requests "
                "WHERE idempotency_key IN (:key, coalesce(:owner || char(10), '') || :key) "
                "AND stage = 'accepted' ORDER BY owner IS NULL LIMIT 1",
                {"key": key, "owner": owner},
            ).fetchone()
            return None if row is None else (row[1], mappers.request_of(c, row[0]))

        return await self._database.read(query)

    async def mark_deleting(self, request_id: str) -> int:
        """Hide a finished request permanently. Return its key. `purge_slice` deletes its rows later.

        Raise `ProblemError` NOT_FOUND or NOT_FINISHED.
        """
        return await self._database.write(lambda c: deletion.mark_deleting(c, request_id))

    async def hide_expired(self, before: float) -> int:
        """Hide the requests that finished before `before`, in Unix seconds. Return their number."""
        total, count = 0, HIDE_SLICE
        while count == HIDE_SLICE:
            count = await self._database.write(
                lambda c: deletion.hide_expired(c, before, HIDE_SLICE)
            )
            total += count
        return total

    async def purge_slice(self, limit: int = 2_000) -> bool:
        """Delete at most about `limit` rows of hidden requests. Return whether there may be more.

        Outputs that no image uses any more are marked for deletion: see `TokenStore.begin_deletion`.
        """
        return await self._database.write(lambda c: deletion.purge(c, limit))


def _insert_table(c: sqlite3.Connection, request_key: int, table: InputTable) -> None:
    c.execute(
        "INSERT INTO request_columns (request_key, columns, delimiter, has_mark, rows_above) "
        "VALUES (?, ?, ?, ?, ?)",
        (
            request_key,
            mappers.columns_text(table.columns),
            table.delimiter,
            table.has_mark,
            mappers.rows_above_text(table.rows_above),
        ),
    )


def _check_waiting(c: sqlite3.Connection, request_key: int, max_waiting: int) -> None:
    pending = waiting_images(c)
    (added,) = c.execute("SELECT pending FROM requests WHERE key = ?", (request_key,)).fetchone()
    if pending + added > max_waiting:
        raise ProblemError(
            ProblemCode.TOO_MUCH_WAITING,
            f"{pending:,} images are already pending, this request has {added:,}, and "
            f"the limit is {max_waiting:,} (server.max_waiting_images). Try again later.",
            retry_after=RETRY_AFTER_SECONDS,
        )
