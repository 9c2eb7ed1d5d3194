"""A limit on the fetched bytes that are in memory and not yet compressed, for all images together."""

from __future__ import annotations

import asyncio
from collections import Counter
from types import TracebackType
from typing import Self


class ByteBudget:
    """Limits the bytes that all images hold together, from their download until they are released.

    All images hold at most `total` bytes. The images of one host hold at most three quarters of
    it, so that endless bodies from one host leave capacity for the images of other hosts.

    Half-read bodies that wait for each other would be a deadlock. So the share that has waited
    longest is privileged: it may exceed both limits until it is released. Only one share is
    privileged at a time, so the excess is at most one image, that is `max_image_bytes`.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._host_total = total * 3 // 4
        self._used = 0
        self._hosts: Counter[str] = Counter()
        self._waiting: dict[Share, tuple[int, asyncio.Future[None]]] = {}
        self._privileged: Share | None = None

    def share(self, host: str) -> Share:
        """Return the share of one image. Use it as a context manager."""
        return Share(self, host)

    def _try_acquire(self, share: Share, count: int) -> bool:
        has_capacity = (
            self._used + count <= self._total
            and self._hosts[share.host] + count <= self._host_total
        )
        if not has_capacity and share is not self._privileged:
            return False
        self._used += count
        self._hosts[share.host] += count
        share.held += count
        return True

    async def _acquire(self, share: Share, count: int) -> None:
        acquired: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[share] = count, acquired
        self._serve_waiting()
        try:
            await acquired
        finally:
            self._waiting.pop(share, None)

    def _serve_waiting(self) -> None:
        """Grant waiting shares their bytes, in order, as far as the capacity allows.

        The first waiting share becomes privileged if no other share is.
        """
        for share, (count, acquired) in list(self._waiting.items()):
            if self._privileged is None:
                self._privileged = share
            if self._try_acquire(share, count):
                del self._waiting[share]
                if not acquired.done():
                    acquired.set_result(None)

    def _release(self, share: Share) -> None:
        self._used -= share.held
        self._hosts[share.host] -= share.held
        if not self._hosts[share.host]:
            del self._hosts[share.host]
        share.held = 0
        if self._privileged is share:
            self._privileged = None
        if self._waiting:
            self._serve_waiting()


class Share:
    """The bytes that one image holds of the budget. Leaving the `with` block releases them."""

    __slots__ = ("_budget", "held", "host")

    def __init__(self, budget: ByteBudget, host: str) -> None:
        self._budget = budget
        self.host = host
        self.held = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._budget._release(self)

    def try_acquire(self, count: int) -> bool:
        """Acquire `count` more bytes if there is capacity. Return whether they were acquired."""
        return self._budget._try_acquire(self, count)

    async def acquire(self, count: int) -> None:
        """Wait until there is capacity, then acquire `count` more bytes."""
        await self._budget._acquire(self, count)
