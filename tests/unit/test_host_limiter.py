"""Tests of the limits of concurrent downloads, per host and in all."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

import pytest

from imgsvc.errors import ImageError, ImageErrorCode
from imgsvc.network.circuit_breaker import (
    FAILURES_TO_OPEN,
    PROBE_INTERVAL_SECONDS,
    CircuitBreakers,
)
from imgsvc.processing.host_limiter import CircuitOpenError, HostLimiter


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


# --- slots and circuits ---------------------------------------------------------------------------


async def test_twice_as_many_images_as_downloads_may_be_claimed() -> None:
    host_limiter = HostLimiter(3, 2, CircuitBreakers())
    slots = [host_limiter.assign(key) for key in (1, 1, 1, 2)]
    assert (host_limiter.free_slots, host_limiter.max_slots) == (2, 6)
    assert [host_limiter.free_slots_of(key) for key in (1, 2, 3)] == [1, 3, 4]
    slots += [host_limiter.assign(1), host_limiter.assign(1)]
    assert host_limiter.free_slots_of(1) == 0
    for slot in slots:
        slot.release()
    assert host_limiter.free_slots == 6


async def test_slot_is_released_once_and_then_images_may_be_claimed() -> None:
    host_limiter = HostLimiter(1, 1, CircuitBreakers())
    slot = host_limiter.assign(1)
    assert not host_limiter.claimable.is_set()
    async with slot.download():
        assert host_limiter.free_slots == 1
    assert host_limiter.claimable.is_set()
    slot.release()
    assert host_limiter.free_slots == 2


async def test_host_with_open_circuit_gets_one_slot_for_a_due_probe() -> None:
    breakers = CircuitBreakers()
    host_limiter = HostLimiter(8, 4, breakers)
    waiting = host_limiter.assign(1)
    refused = ImageError(ImageErrorCode.CONNECT_FAILED, "refused")
    for _ in range(FAILURES_TO_OPEN):
        breakers.record_failure(1, refused, time.monotonic() - PROBE_INTERVAL_SECONDS)
    with pytest.raises(CircuitOpenError):
        async with waiting.download():
            pass
    assert host_limiter.free_slots_of(1) == 1
    probe = host_limiter.assign(1)
    assert (waiting.probe, probe.probe) == (False, True)
    assert host_limiter.free_slots_of(1) == 0
    async with probe.download():
        breakers.record_success(1)
    assert host_limiter.free_slots_of(1) == 8
