"""What comes in and what goes: staging and accepting requests, and removing them."""

from __future__ import annotations

import sqlite3
import time
import uuid
from collections.abc import Sequence

from imgsvc.database import deletion, mappers, staging
from imgsvc.database.bloom_filter import BloomFilter
from imgsvc.database.connection import Database
from imgsvc.database.deletion import PurgeResult
from imgsvc.database.mappers import waiting_images
from imgsvc.errors import ProblemCode, ProblemError
from imgsvc.models import Columns, Product, Request, RequestOptions

__all__ = ["PurgeResult", "RequestStore"]

WAITING_SECONDS = 60
"""When an upload is worth trying again that was refused because too much waits."""
HIDDEN_AT_ONCE = 500


class RequestStore:
    """Stages tables under requests that nobody sees, makes them visible, and removes them again.

    What is staged is not synced to the disk at each step: the commit that accepts it syncs all that
    was written before it, and until then it is worth nothing.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._seen: dict[int, BloomFilter] = {}

    async def begin(self) -> int:
        """Make a request that nobody sees; give its key."""

        def work(c: sqlite3.Connection) -> int:
            key: int = c.execute(
                "INSERT INTO requests (request_id, created_at) VALUES (?, ?) RETURNING key",
                (str(uuid.uuid4()), time.time()),
            ).fetchone()[0]
            return key

        key = await self._database.write(work, durable=False)
        self._seen[key] = BloomFilter()
        return key

    async def stage(self, request_key: int, products: Sequence[Product]) -> None:
        """Add rows to a request that is being staged: as many as a short transaction takes.

        Rows and images are numbered from 0 in the order in which they come.
        """
        seen = self._seen[request_key]
        await self._database.write(
            lambda c: staging.stage(c, request_key, products, seen), durable=False
        )

    async def accept(
        self,
        request_key: int,
        columns: Columns,
        options: RequestOptions,
        *,
        max_waiting: int,
        idempotency: tuple[str, str] | None = None,
    ) -> Request:
        """Make a staged request visible and due. When this returns, it survives a power cut.

        `idempotency` is a key and the fingerprint of what came under it. Raises `ProblemError`
        TOO_MUCH_WAITING where more than `max_waiting` images would wait, and IDEMPOTENCY_KEY_BUSY
        where another request has just taken the key.
        """
        key, fingerprint = idempotency or (None, None)

        def work(c: sqlite3.Connection) -> Request:
            _check_waiting(c, request_key, max_waiting)
            try:
                changed = c.execute(
                    "UPDATE requests SET stage = 'accepted', created_at = ?, settings = ?, "
                    "webhook_url = ?, idempotency_key = ?, fingerprint = ? "
                    "WHERE key = ? AND stage = 'staging' AND pending > 0",
                    (
                        time.time(),
                        str(options.settings),
                        options.webhook_url,
                        key,
                        fingerprint,
                        request_key,
                    ),
                ).rowcount
            except sqlite3.IntegrityError:
                raise ProblemError(
                    ProblemCode.IDEMPOTENCY_KEY_BUSY,
                    "Another upload has just used this Idempotency-Key. Ask again for its answer.",
                    retry_after=1,
                ) from None
            if not changed:
                raise LookupError(f"no request {request_key} with images is being staged")
            text = mappers.columns_text(columns)
            c.execute("INSERT INTO request_columns VALUES (?, ?)", (request_key, text))
            return mappers.request_of(c, request_key)

        request = await self._database.write(work)
        self._seen.pop(request_key, None)
        return request

    async def discard(self, request_key: int) -> None:
        """Give up a request that is being staged; `purge_slice` removes it."""
        self._seen.pop(request_key, None)
        await self._database.write(
            lambda c: (
                c.execute(
                    "UPDATE requests SET stage = 'deleting' WHERE key = ? AND stage = 'staging'",
                    (request_key,),
                ).rowcount
            ),
            durable=False,
        )

    async def discard_abandoned(self) -> int:
        """At the start: give up what an earlier process was staging; give the number of requests."""

        def work(c: sqlite3.Connection) -> int:
            return c.execute(
                "UPDATE requests INDEXED BY requests_hidden SET stage = 'deleting' "
                "WHERE stage <> 'accepted' AND stage = 'staging'"
            ).rowcount

        return await self._database.write(work)

    async def find_idempotent(self, key: str) -> tuple[str, Request] | None:
        """Give the fingerprint and the request that an idempotency key is bound to."""

        def work(c: sqlite3.Connection) -> tuple[str, Request] | None:
            row = c.execute(
                "SELECT key, fingerprint FROM requests "
                "WHERE idempotency_key = ? AND stage = 'accepted'",
                (key,),
            ).fetchone()
            return None if row is None else (row[1], mappers.request_of(c, row[0]))

        return await self._database.read(work)

    async def mark_deleting(self, request_id: str) -> int:
        """Hide a finished request for good; give its key. `purge_slice` removes it.

        Raises `ProblemError` NOT_FOUND or NOT_FINISHED.
        """
        return await self._database.write(lambda c: deletion.mark_deleting(c, request_id))

    async def expired(self, before: float) -> int:
        """Hide the requests that finished before that time; give the number of them."""
        total, count = 0, HIDDEN_AT_ONCE
        while count == HIDDEN_AT_ONCE:
            count = await self._database.write(
                lambda c: deletion.hide_expired(c, before, HIDDEN_AT_ONCE)
            )
            total += count
        return total

    async def purge_slice(self, limit: int = 2_000) -> PurgeResult:
        """Remove at most about `limit` rows of hidden requests."""
        return await self._database.write(lambda c: deletion.purge(c, limit))

    async def pending_deletions(self) -> list[str]:
        """Give the names of stored files that are to be deleted."""
        return await self._database.read(
            lambda c: [name for (name,) in c.execute("SELECT name FROM pending_deletions")]
        )

    async def confirm_deletions(self, names: Sequence[str]) -> None:
        """Note that these files are deleted."""
        await self._database.write(
            lambda c: (
                c.executemany(
                    "DELETE FROM pending_deletions WHERE name = ?", [(name,) for name in names]
                ).rowcount
            ),
            durable=False,
        )


def _check_waiting(c: sqlite3.Connection, request_key: int, max_waiting: int) -> None:
    waiting = waiting_images(c)
    (more,) = c.execute("SELECT pending FROM requests WHERE key = ?", (request_key,)).fetchone()
    if waiting + more > max_waiting:
        raise ProblemError(
            ProblemCode.TOO_MUCH_WAITING,
            f"{waiting:,} images wait already, and with the {more:,} of this table there would be "
            f"more than {max_waiting:,} (server.max_waiting_images). Try again later.",
            retry_after=WAITING_SECONDS,
        )
