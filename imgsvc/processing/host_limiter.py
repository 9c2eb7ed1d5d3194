"""Limits of concurrent downloads, per host and in all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class HostLimiter:
    """Download slots: at most `per_host` for each host, and at most `concurrency` in all.

    An image first waits for a slot of its host, and only then for one of the shared slots. So
    images that wait for a slow host hold none of the shared slots.
    """

    def __init__(self, concurrency: int, per_host: int) -> None:
        self._all = asyncio.Semaphore(concurrency)
        self._per_host = per_host
        self._hosts: dict[str, asyncio.Semaphore] = {}
        self._users: dict[str, int] = {}

    @asynccontextmanager
    async def acquire(self, host: str) -> AsyncIterator[None]:
        """Hold a slot of the host and a shared slot. Slots are assigned first come, first served."""
        slots = self._hosts.setdefault(host, asyncio.Semaphore(self._per_host))
        self._users[host] = self._users.get(host, 0) + 1
        try:
            async with slots, self._all:
                yield
        finally:
            self._users[host] -= 1
            if not self._users[host]:
                del self._users[host], self._hosts[host]
