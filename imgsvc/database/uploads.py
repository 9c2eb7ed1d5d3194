"""What comes in and what goes: staging and accepting requests, and removing them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from imgsvc.database.connection import Database
from imgsvc.models import Columns, Product, Request, RequestOptions


@dataclass(frozen=True, slots=True)
class Purged:
    """What a slice of removing has done.

    `names` are the stored files that no request needs any more; they are noted as doomed until
    `forget_doomed`. `more` says that there is more to remove.
    """

    names: list[str]
    more: bool


class Uploads:
    """Stages tables under requests that nobody sees, makes them visible, and removes them again."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def begin(self, columns: Columns) -> int:
        """Make a request that nobody sees; give its key."""
        raise NotImplementedError

    async def stage(self, request_key: int, products: Sequence[Product]) -> None:
        """Add rows to a request that is being staged, in one short transaction: about 500 of them.

        Rows and images are numbered from 0 in the order in which they come.
        """
        raise NotImplementedError

    async def accept(
        self,
        request_key: int,
        options: RequestOptions,
        *,
        max_waiting: int,
        idempotency: tuple[str, str] | None = None,
    ) -> Request:
        """Make a staged request visible and due. When this returns, it survives a power cut.

        `idempotency` is a key and the fingerprint of what came under it. Raises `Refusal`
        TOO_MUCH_WAITING where more than `max_waiting` images would wait, and IDEMPOTENCY_KEY_BUSY
        where another request has just taken the key.
        """
        raise NotImplementedError

    async def discard(self, request_key: int) -> None:
        """Give up a request that is being staged; `purge_slice` removes it."""
        raise NotImplementedError

    async def abandon_staged(self) -> int:
        """At the start: give up what an earlier process was staging; give the number of requests."""
        raise NotImplementedError

    async def find_idempotent(self, key: str) -> tuple[str, Request] | None:
        """Give the fingerprint and the request that an idempotency key is bound to."""
        raise NotImplementedError

    async def mark_deleting(self, request_id: str) -> int:
        """Hide a finished request for good; give its key. `purge_slice` removes it.

        Raises `Refusal` NOT_FOUND or NOT_FINISHED.
        """
        raise NotImplementedError

    async def expired(self, before: float) -> int:
        """Hide the requests that finished before that time; give the number of them."""
        raise NotImplementedError

    async def purge_slice(self, limit: int = 2_000) -> Purged:
        """Remove at most about `limit` rows of hidden requests."""
        raise NotImplementedError

    async def doomed(self) -> list[str]:
        """Give the names of stored files that are to be deleted."""
        raise NotImplementedError

    async def forget_doomed(self, names: Sequence[str]) -> None:
        """Note that these files are deleted."""
        raise NotImplementedError
