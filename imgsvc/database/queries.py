"""Read access to requests, their products, and stored files. Each result is from one snapshot."""

# Only fixed text of this package is put into SQL; values are always bound.
# ruff: noqa: S608

from __future__ import annotations

import base64
import math
import re
import sqlite3
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import TypeVar

from imgsvc.access import Caller
from imgsvc.database import mappers, product_queries
from imgsvc.database.connection import Database
from imgsvc.database.limits import DatabaseLimits
from imgsvc.database.product_queries import ProductSelection
from imgsvc.errors import ProblemCode, ProblemError
from imgsvc.image_types import StoredFile
from imgsvc.models import (
    Backlog,
    ProductRow,
    Request,
    RequestStatus,
    RequestTotals,
)

T = TypeVar("T")
Read = Callable[[Callable[[sqlite3.Connection], T]], Awaitable[T]]

_POSITION = struct.Struct(">dq")
_NEWEST = (2.0**62, 0)
"""A position in a list is the time when a request was accepted, and its key. This one is before all."""
_PUBLIC_TOKEN = re.compile(r"(?:[0-9a-f]{2}){16,17}")


class Snapshot:
    """One request and its products at one point in time."""

    def __init__(
        self, read: Read[list[ProductRow]], request: Request, limits: DatabaseLimits
    ) -> None:
        self._read = read
        self._limits = limits
        self.request = request

    async def products(self, offset: int, limit: int) -> list[ProductRow]:
        """Return at most `limit` products from number `offset` on, in the input's order.

        Return fewer if they are large, but at least one if there are more.
        """
        selection = self._selection(whole=False)
        return await self._read(
            lambda c: product_queries.page(c, selection, offset, limit, limits=self._limits)
        )

    async def pages(
        self, size: int = 500, *, only_failed: bool = False, whole: bool = False
    ) -> AsyncIterator[list[ProductRow]]:
        """Yield all products in the input's order, up to `size` at a time, or fewer if they are large.

        With `only_failed`, yield only products with failed images, with only these images, and skipped
        rows. With `whole`, yield whole rows.
        """
        read = product_queries.failed_page if only_failed else product_queries.page
        selection = self._selection(whole=whole)
        first = 0
        while page := await self._read(
            partial(read, selection=selection, first=first, size=size, limits=self._limits)
        ):
            yield page
            first = page[-1].number + 1

    def _selection(self, *, whole: bool) -> ProductSelection:
        columns = self.request.table.columns
        positions = columns.extra_positions if whole else columns.status_positions
        return ProductSelection(self.request.key, positions, source=whole)


class Queries:
    """Read access to the database, in parallel to writes."""

    def __init__(self, database: Database, limits: DatabaseLimits = DatabaseLimits()) -> None:
        self._database = database
        self._limits = limits

    async def request(self, request_id: str) -> Request:
        """Return a request. Raise `ProblemError` NOT_FOUND if there is none."""
        return await self._database.read(lambda c: mappers.find_request(c, request_id))

    async def check_visible(self, request_id: str, caller: Caller) -> None:
        """Raise `ProblemError` NOT_FOUND if the caller may not see the request.

        An unknown request passes. The owner of a request never changes.
        """
        if caller.visible_owner is None:
            return
        owners = await self._database.read(lambda c: mappers.owner_of(c, request_id))
        if not all(map(caller.may_see, owners)):
            raise mappers.no_such_request()

    async def version(self, request_id: str) -> tuple[int, bool]:
        """Return a request's version and whether it has finished. Raise `ProblemError` NOT_FOUND."""

        def query(c: sqlite3.Connection) -> tuple[int, bool]:
            version, finished = mappers.find(c, "version, finished_at IS NOT NULL", request_id)
            return version, bool(finished)

        return await self._database.read(query)

    @asynccontextmanager
    async def open(self, request_id: str) -> AsyncIterator[Snapshot]:
        """Hold a snapshot of a request, to read its products. Raise `ProblemError` NOT_FOUND.

        The WAL cannot be truncated while it is held: never wait for a client in the block.
        """
        async with self._database.snapshot() as read:
            request: Request = await read(lambda c: mappers.find_request(c, request_id))
            yield Snapshot(read, request, self._limits)

    async def list_requests(
        self,
        status: RequestStatus | None = None,
        limit: int = 100,
        cursor: str | None = None,
        name: str | None = None,
        owner: str | None = None,
    ) -> tuple[list[Request], str | None]:
        """Return at most `limit` requests, newest first, and the cursor of the next page, or None.

        With `owner`, return only its requests. With `name`, return only requests whose name contains
        it, in any case. The requests have no columns and no failures. Raise `ProblemError`
        INVALID_OPTION if the cursor is invalid.
        """
        created_at, key = _NEWEST if cursor is None else _read_cursor(cursor)
        condition, index = "", "requests_newest"
        if status is not None:
            condition, index = "AND r.status = :status", "requests_by_status"
        if owner is not None:
            condition, index = f"{condition} AND r.owner = :owner", "requests_by_owner"
        if name is not None:
            condition += " AND instr(r.search_name, :name) > 0"
        sql = mappers.REQUESTS.replace("FROM requests r", f"FROM requests r INDEXED BY {index}")
        values = {
            "status": status,
            "owner": owner,
            "name": name and mappers.search_key(name),
            "created_at": created_at,
            "key": key,
            "limit": limit + 1,
        }

        def query(c: sqlite3.Connection) -> list[Request]:
            found = c.execute(
                f"{sql} WHERE r.stage = 'accepted' {condition} "
                "AND (r.created_at, r.key) < (:created_at, :key) "
                "ORDER BY r.created_at DESC, r.key DESC LIMIT :limit",
                values,
            )
            return [mappers.request(row) for row in found]

        requests = await self._database.read(query)
        more = len(requests) > limit
        requests = requests[:limit]
        return requests, _cursor(requests[-1]) if more and requests else None

    async def totals(self, owner: str | None = None) -> RequestTotals:
        """Return the totals of all requests, or of those of an owner, from their counters."""
        condition = "" if owner is None else "AND owner = :owner"

        def query(c: sqlite3.Connection) -> RequestTotals:
            row = c.execute(
                "SELECT count(*), "
                "coalesce(sum(pending + processing + completed + failed + cancelled), 0), "
                "coalesce(sum(input_bytes), 0), coalesce(sum(output_bytes), 0) "
                f"FROM requests all_requests WHERE stage = 'accepted' {condition}",
                {"owner": owner},
            ).fetchone()
            return RequestTotals(*row)

        return await self._database.read(query)

    async def public_file(self, file: str) -> StoredFile | None:
        """Return the stored file for a public name, `TOKEN.EXT`, or None if there is none."""
        token, _, extension = file.rpartition(".")
        stored = await self.public_output(token)
        return stored if stored is not None and stored.name.endswith(f".{extension}") else None

    async def public_output(self, token: str) -> StoredFile | None:
        """Return the stored file for a public token, or None if there is none."""
        if not _PUBLIC_TOKEN.fullmatch(token):
            return None

        def query(c: sqlite3.Connection) -> StoredFile | None:
            row = c.execute(
                f"SELECT f.name, {mappers.IMAGE_INFO_COLUMNS} FROM files f WHERE f.token = ?1 "
                f"UNION ALL SELECT f.name, {mappers.IMAGE_INFO_COLUMNS} "
                "FROM images i INDEXED BY images_public JOIN files f ON f.key = i.file_key "
                "WHERE i.token = ?1",
                (bytes.fromhex(token),),
            ).fetchone()
            return None if row is None else mappers.stored_file(row)

        return await self._database.read(query)

    async def backlog(self) -> Backlog:
        """Return the unfinished requests, images and webhooks, from the requests' counters."""

        def query(c: sqlite3.Connection) -> Backlog:
            row = c.execute(
                "SELECT count(*), coalesce(sum(pending), 0), coalesce(sum(processing), 0), "
                "(SELECT count(*) FROM deliveries WHERE status = 'pending') "
                "FROM requests INDEXED BY requests_unfinished "
                "WHERE stage = 'accepted' AND finished_at IS NULL"
            ).fetchone()
            return Backlog(*row)

        return await self._database.read(query)


def _cursor(request: Request) -> str:
    position = _POSITION.pack(request.created_at, request.key)
    return base64.urlsafe_b64encode(position).rstrip(b"=").decode()


def _read_cursor(cursor: str) -> tuple[float, int]:
    try:
        if not re.fullmatch(r"[A-Za-z0-9_-]{22}", cursor):
            raise ValueError
        created_at, key = _POSITION.unpack(base64.urlsafe_b64decode(cursor + "=="))
        if not math.isfinite(created_at):
            raise ValueError
    except (ValueError, struct.error):
        raise ProblemError(
            ProblemCode.INVALID_OPTION,
            "`cursor` must be the unchanged `nextCursor` of an earlier response.",
        ) from None
    return created_at, key
