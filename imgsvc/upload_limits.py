"""The limits of all uploads together: their number, and the memory of rows that are not complete."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from imgsvc.config import ServerConfig
from imgsvc.errors import ProblemCode, ProblemError

SMALL_BYTES = 128 * 1024
"""Size of incomplete rows that every upload may hold. Few rows are larger."""
LARGE_BYTES = 24 * 2**20
"""Memory of the largest row, with its copies while it is completed."""
LARGE_ROW_SECONDS = 60.0
"""Time in which an upload must complete a large row while other uploads wait to read theirs."""


RETRY_SECONDS = 5
"""`Retry-After` when too many uploads are in progress."""


class UploadSlots:
    """Limits the uploads in progress to `server.max_uploads`."""

    def __init__(self, config: ServerConfig) -> None:
        self._limit = config.max_uploads
        self.used = 0

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Occupy a slot until the block ends. Raise `ProblemError` if none is free."""
        if self.used >= self._limit:
            raise ProblemError(
                ProblemCode.UNAVAILABLE,
                f"{self.used:,} uploads are in progress, as many as server.max_uploads allows. "
                "Try again in a moment.",
                retry_after=RETRY_SECONDS,
            )
        self.used += 1
        try:
            yield
        finally:
            self.used -= 1


class RowMemory:
    """Limits the memory of incomplete rows to `server.upload_buffer_bytes`.

    Every upload may hold `SMALL_BYTES`. Only a few at once may read a larger row: the others wait, and
    their clients with them. At least one may always read it, so large rows are never refused.
    """

    def __init__(self, config: ServerConfig, large_row_seconds: float = LARGE_ROW_SECONDS) -> None:
        rest = config.upload_buffer_bytes - config.max_uploads * SMALL_BYTES
        self.permits = asyncio.Semaphore(max(1, rest // LARGE_BYTES))
        self.large_row_seconds = large_row_seconds
        self.waiting = 0
        """The number of uploads that wait to read a large row."""

    def share(self) -> RowShare:
        """Return the share of one upload. Use it as a context manager."""
        return RowShare(self)


class RowShare:
    """The memory of one upload's incomplete row. Leaving the block releases it."""

    def __init__(self, memory: RowMemory) -> None:
        self._memory = memory
        self._acquired_at: float | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._release()

    async def resize(self, size: int) -> None:
        """Set the size of the row so far. Wait until there is memory for the rest of a large one.

        Raise `ProblemError` if the upload takes too long with it while others wait.
        """
        memory = self._memory
        if size <= SMALL_BYTES:
            self._release()
        elif self._acquired_at is None:
            memory.waiting += 1
            try:
                await memory.permits.acquire()
            finally:
                memory.waiting -= 1
            self._acquired_at = time.monotonic()
        elif memory.waiting and time.monotonic() - self._acquired_at > memory.large_row_seconds:
            raise ProblemError(
                ProblemCode.UPLOAD_STALLED,
                f"A row is larger than {SMALL_BYTES // 1024} KiB and arrives too slowly: other uploads "
                f"with large rows wait for it for more than {memory.large_row_seconds:g} s.",
            )

    def _release(self) -> None:
        if self._acquired_at is not None:
            self._acquired_at = None
            self._memory.permits.release()
