"""How many bytes may be in memory that are fetched and not yet compressed, over all images."""

from __future__ import annotations

import asyncio
from collections import Counter
from types import TracebackType


class ByteBudget:
    """Bounds the bytes that all downloads, and what is done with them next, hold together.

    They hold at most `total`, and those from one origin at most three quarters of it, so that one
    origin's endless bodies leave room for the others' images. Many half-read bodies that wait for
    each other would wait for ever; so one at a time, the one that has waited longest, may go on past
    these bounds until it is released. That is never more than one image's `max_image_bytes` on top.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._host_total = total * 3 // 4
        self._used = 0
        self._hosts: Counter[str] = Counter()
        self._waiting: dict[Share, tuple[int, asyncio.Future[None]]] = {}
        self._privileged: Share | None = None

    @property
    def used(self) -> int:
        """Bytes held now."""
        return self._used

    def share(self, host: str) -> Share:
        """Open the share of one image, to be used as a context manager."""
        return Share(self, host)

    def _take(self, share: Share, count: int) -> bool:
        fits = (
            self._used + count <= self._total
            and self._hosts[share.host] + count <= self._host_total
        )
        if not fits and share is not self._privileged:
            return False
        self._used += count
        self._hosts[share.host] += count
        share.held += count
        return True

    async def _wait(self, share: Share, count: int) -> None:
        room: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[share] = count, room
        self._serve()
        try:
            await room
        finally:
            self._waiting.pop(share, None)

    def _serve(self) -> None:
        """Give those who wait, in order, what there is room for, and the first the privilege."""
        for share, (count, room) in list(self._waiting.items()):
            if self._privileged is None:
                self._privileged = share
            if self._take(share, count):
                del self._waiting[share]
                if not room.done():
                    room.set_result(None)

    def _release(self, share: Share) -> None:
        self._used -= share.held
        self._hosts[share.host] -= share.held
        if not self._hosts[share.host]:
            del self._hosts[share.host]
        share.held = 0
        if self._privileged is share:
            self._privileged = None
        if self._waiting:
            self._serve()


class Share:
    """What one image holds of the budget; leaving the block gives it back."""

    __slots__ = ("_budget", "held", "host")

    def __init__(self, budget: ByteBudget, host: str) -> None:
        self._budget = budget
        self.host = host
        self.held = 0

    def __enter__(self) -> Share:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._budget._release(self)

    def take(self, count: int) -> bool:
        """Take `count` bytes more if there is room for them; tell whether there was."""
        return self._budget._take(self, count)

    async def wait(self, count: int) -> None:
        """Take `count` bytes more, when there is room for them."""
        await self._budget._wait(self, count)
