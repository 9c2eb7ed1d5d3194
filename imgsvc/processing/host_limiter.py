"""The limits of each host and of all hosts together: downloads, and claimed images."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from imgsvc.network.circuit_breaker import CircuitBreakers


class CircuitOpenError(Exception):
    """The image's host has failed too often, so nothing is fetched from it for now."""


@dataclass(slots=True)
class _Host:
    """A host with slots in use. `downloads` limits its downloads, `slots` counts its images."""

    downloads: asyncio.Semaphore
    slots: int = 0


class HostLimiter:
    """Assigns slots: an image has one from its claim until its source is fetched.

    At most `per_host` images of a host, and at most `concurrency` in all, are downloaded at the same
    time. Twice as many may have a slot, so that no download ends without an image to follow it. A
    host with an open circuit gets a single slot, when a probe of it is due.

    `claimable`: set when there may be images to claim, or a slot for one. The scheduler waits for it.
    """

    def __init__(self, concurrency: int, per_host: int, breakers: CircuitBreakers) -> None:
        self.claimable = asyncio.Event()
        self._downloads = asyncio.Semaphore(concurrency)
        self._max_slots = 2 * concurrency
        self._per_host = per_host
        self._breakers = breakers
        self._hosts: dict[int, _Host] = {}
        self._slots = 0

    @property
    def max_slots(self) -> int:
        """The maximum number of slots."""
        return self._max_slots

    @property
    def free_slots(self) -> int:
        """The number of images that may be claimed, of all hosts together."""
        return self._max_slots - self._slots

    def free_slots_of(self, host_key: int) -> int:
        """Return how many more images of a host may be claimed. Any thread may call this."""
        allowed = self._breakers.capacity(host_key, time.monotonic(), 2 * self._per_host)
        host = self._hosts.get(host_key)
        return max(0, allowed - (host.slots if host else 0))

    def assign(self, host_key: int) -> HostSlot:
        """Return a slot for an image that has been claimed, even if none is free."""
        host = self._hosts.get(host_key)
        if host is None:
            host = self._hosts[host_key] = _Host(asyncio.Semaphore(self._per_host))
        host.slots += 1
        self._slots += 1
        probe = self._breakers.start_attempt(host_key, time.monotonic())
        return HostSlot(self, host_key, probe=probe)

    def _release(self, host_key: int) -> None:
        host = self._hosts[host_key]
        host.slots -= 1
        self._slots -= 1
        if not host.slots:
            del self._hosts[host_key]
        self.claimable.set()


class HostSlot:
    """The slot of one image.

    `probe`: its download tests whether a host with an open circuit works again.
    """

    __slots__ = ("_limiter", "_released", "host_key", "probe")

    def __init__(self, limiter: HostLimiter, host_key: int, *, probe: bool) -> None:
        self.host_key = host_key
        self.probe = probe
        self._limiter = limiter
        self._released = False

    @asynccontextmanager
    async def download(self) -> AsyncIterator[None]:
        """Wait until the image may be downloaded: first come, first served. Then release the slot.

        An image first waits for its host, and only then for all hosts together. So images that wait
        for a slow host do not delay others. Raise `CircuitOpenError` if the host's circuit is open,
        unless this is the probe.
        """
        limiter = self._limiter
        try:
            async with limiter._hosts[self.host_key].downloads, limiter._downloads:
                if not self.probe and not limiter._breakers.may_fetch(self.host_key):
                    raise CircuitOpenError
                yield
        finally:
            self.release()

    def release(self) -> None:
        """Free the slot for the next image, unless it is free already."""
        if not self._released:
            self._released = True
            self._limiter._release(self.host_key)
