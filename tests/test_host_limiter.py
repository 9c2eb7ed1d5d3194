"""Tests of the limits of concurrent downloads, per host and in all."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from imgsvc.network.circuit_breaker import CircuitBreakers
from imgsvc.processing.host_limiter import HostLimiter


class Downloads:
    """Downloads that each hold a slot until they are finished. A name's first letter is its host."""

    def __init__(self, host_limiter: HostLimiter) -> None:
        self._host_limiter = host_limiter
        self.active: list[str] = []
        self._finish_events: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def start(self, *names: str) -> None:
        """Start downloads and wait until all that can have a slot."""
        for name in names:
            self._finish_events[name] = asyncio.Event()
            self.tasks[name] = asyncio.create_task(self._download(name))
        await self._run_loop()

    async def finish(self, *names: str) -> None:
        for name in names:
            self._finish_events[name].set()
        await self._run_loop()

    async def cancel(self, name: str) -> None:
        self.tasks[name].cancel()
        await self._run_loop()

    async def _download(self, name: str) -> None:
        async with self._host_limiter.assign(ord(name[0])).download():
            self.active.append(name)
            try:
                await self._finish_events[name].wait()
            finally:
                self.active.remove(name)

    async def _run_loop(self) -> None:
        for _ in range(20):
            await asyncio.sleep(0)


async def test_limiter_bounds_downloads_per_host_and_in_all() -> None:
    downloads = Downloads(HostLimiter(3, 2, CircuitBreakers()))
    await downloads.start("a1", "a2", "a3", "b1", "b2")
    assert downloads.active == ["a1", "a2", "b1"]
    await downloads.finish("a1")
    assert Counter(name[0] for name in downloads.active) == {"a": 1, "b": 2}
    await downloads.finish("b1")
    assert downloads.active == ["a2", "b2", "a3"]


async def test_downloads_that_wait_for_their_host_hold_no_shared_slot() -> None:
    downloads = Downloads(HostLimiter(2, 1, CircuitBreakers()))
    await downloads.start(*(f"a{n}" for n in range(50)), "b0")
    assert downloads.active == ["a0", "b0"]


async def test_slots_of_a_host_are_assigned_first_come_first_served() -> None:
    downloads = Downloads(HostLimiter(8, 1, CircuitBreakers()))
    names = [f"a{n}" for n in range(5)]
    await downloads.start(*names)
    for name in names:
        assert downloads.active == [name]
        await downloads.finish(name)


@pytest.mark.parametrize("cancelled", ["a1", "a2", "a3"])
async def test_cancelled_download_frees_its_slot(cancelled: str) -> None:
    host_limiter = HostLimiter(2, 1, CircuitBreakers())
    downloads = Downloads(host_limiter)
    await downloads.start("a1", "a2", "a3")
    await downloads.cancel(cancelled)
    rest = [name for name in ("a1", "a2", "a3") if name != cancelled]
    for name in rest:
        assert downloads.active == [name]
        await downloads.finish(name)
    await downloads.start("a4", "b1", "c1")
    assert downloads.active == ["a4", "b1"]


async def test_host_without_downloads_is_forgotten() -> None:
    host_limiter = HostLimiter(2, 1, CircuitBreakers())
    downloads = Downloads(host_limiter)
    await downloads.start("a1", "a2", "b1")
    await downloads.cancel("a2")
    await downloads.finish("a1", "b1")
    assert not host_limiter._hosts
    assert host_limiter.free_slots == host_limiter.max_slots
