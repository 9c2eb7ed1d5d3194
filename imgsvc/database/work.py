"""The queue: what is to be done, what is being done, and how it ended."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from imgsvc.database.connection import Database
from imgsvc.database.finishing import FinishResult
from imgsvc.database.keys import origin_key
from imgsvc.errors import ImageErrorCode
from imgsvc.models import Claim, Outcome, Request, Settings, StoredFile

__all__ = ["FinishResult", "Work", "origin_key"]


class Work:
    """Hands out images in turns and takes their outcomes.

    `webhook_body` makes the JSON text that tells a finished request's webhook; it is called inside the
    transaction that finishes the request, in another thread.
    """

    def __init__(self, database: Database, webhook_body: Callable[[Request], str]) -> None:
        self._database = database
        self._webhook_body = webhook_body

    async def recover(self) -> list[str]:
        """At the start: put back what was in flight; give the tokens of those images.

        Attempts stay as they were. Files that carry these tokens belong to nobody.
        """
        raise NotImplementedError

    async def claim(self, limit: int, room: Callable[[int], int], now: float) -> list[Claim]:
        """Take at most `limit` images to be done by this process.

        Requests take turns, and within each its origins. `room` gives, for an origin's key, how many
        more of its images may be claimed; it is called in another thread.
        """
        raise NotImplementedError

    async def finish(self, outcomes: Sequence[Outcome]) -> FinishResult:
        """Write down how images ended."""
        raise NotImplementedError

    async def find_file(self, source_digest: bytes, settings: Settings) -> StoredFile | None:
        """Give the stored output of these source bytes under these settings."""
        raise NotImplementedError

    async def next_due(self) -> float | None:
        """Give the earliest time in the future at which a waiting image may be tried again.

        It is now where the last claim stopped before it had looked everywhere.
        """
        raise NotImplementedError

    async def waiting(self) -> int:
        """Give the number of images that are not done, in all."""
        raise NotImplementedError

    async def waiting_for(self, origin: int) -> list[tuple[int, float]]:
        """Give the requests with images that wait for an origin, and since when they wait."""
        raise NotImplementedError

    async def fail_origin(
        self, request_key: int, origin: int, code: ImageErrorCode, message: str, limit: int
    ) -> FinishResult:
        """Fail at most `limit` images of a request that wait for an origin.

        `touched` is empty once there are none left.
        """
        raise NotImplementedError

    async def oldest_wait(self, request_key: int) -> float:
        """Give the time at which the request's images began to wait."""
        raise NotImplementedError

    async def begin_cancel(self, request_id: str) -> int:
        """Mark a request as being cancelled, which stops claims; give its key.

        Raises `Refusal` NOT_FOUND or ALREADY_FINISHED.
        """
        raise NotImplementedError

    async def cancel_slice(self, request_key: int, limit: int) -> tuple[bool, FinishResult]:
        """Cancel at most `limit` waiting images of a request; say whether there are more."""
        raise NotImplementedError

    async def cancelling(self) -> list[int]:
        """Give the unfinished requests that are being cancelled."""
        raise NotImplementedError

    async def retry_failed(self, request_id: str) -> Request:
        """Let the failed images of a finished request wait again, from their first attempt.

        Raises `Refusal` NOT_FOUND, NOT_FINISHED or NOTHING_FAILED.
        """
        raise NotImplementedError
