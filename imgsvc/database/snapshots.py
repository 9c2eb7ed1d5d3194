"""What is read: requests, their rows, and stored files, each answer from one snapshot."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from imgsvc.database.connection import Database
from imgsvc.models import ProductRow, Request, Status, StoredFile


@dataclass(frozen=True, slots=True)
class Counts:
    """What is under way in all: unfinished requests, and their images that are not done."""

    requests: int
    pending: int
    processing: int
    webhooks: int


class Snapshot:
    """One request as of one moment."""

    def __init__(self, request: Request) -> None:
        self.request = request

    async def products(self, offset: int, limit: int) -> list[ProductRow]:
        """Give rows `offset` … `offset + limit - 1`, in the input's order."""
        raise NotImplementedError

    async def pages(
        self, size: int = 500, *, only_failed: bool = False
    ) -> AsyncIterator[list[ProductRow]]:
        """Give all rows, in the input's order, `size` at a time.

        `only_failed`: the rows that have failed images, with just those.
        """
        raise NotImplementedError
        yield []


class Snapshots:
    """Answers questions, beside the writer."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def request(self, request_id: str) -> Request:
        """Give a request; raise `Refusal` NOT_FOUND."""
        raise NotImplementedError

    async def version(self, request_id: str) -> tuple[int, bool]:
        """Give a request's version and whether it has finished; raise `Refusal` NOT_FOUND."""
        raise NotImplementedError

    @asynccontextmanager
    async def open(self, request_id: str) -> AsyncIterator[Snapshot]:
        """Hold a snapshot of a request, to read its rows; raise `Refusal` NOT_FOUND.

        The WAL grows as long as it is held: never wait for a client within.
        """
        raise NotImplementedError
        yield

    async def list_requests(
        self, status: Status | None = None, limit: int = 100, cursor: str | None = None
    ) -> tuple[list[Request], str | None]:
        """Give requests, newest first, and the cursor for those after them.

        Raises `Refusal` INVALID_OPTION for a cursor that is none of ours.
        """
        raise NotImplementedError

    async def public_file(self, file: str) -> StoredFile | None:
        """Give the stored file behind a public name, `TOKEN.EXT`; None for one that is not known."""
        raise NotImplementedError

    async def counts(self) -> Counts:
        """Count what is under way."""
        raise NotImplementedError
