"""Who may fetch now: a slow origin holds none of the slots that all share."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from imgsvc.processing.host_limiter import HostLimiter


class Crowd:
    """Images that take turns; each holds its turn until it is let go."""

    def __init__(self, host_limiter: HostLimiter) -> None:
        self._host_limiter = host_limiter
        self.at_work: list[str] = []
        self._go: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def come(self, *names: str) -> None:
        """Let images come whose origin is the first letter of their name."""
        for name in names:
            self._go[name] = asyncio.Event()
            self.tasks[name] = asyncio.create_task(self._work(name))
        await self._settle()

    async def go(self, *names: str) -> None:
        for name in names:
            self._go[name].set()
        await self._settle()

    async def leave(self, name: str) -> None:
        self.tasks[name].cancel()
        await self._settle()

    async def _work(self, name: str) -> None:
        async with self._host_limiter.acquire(name[0]):
            self.at_work.append(name)
            try:
                await self._go[name].wait()
            finally:
                self.at_work.remove(name)

    async def _settle(self) -> None:
        for _ in range(20):
            await asyncio.sleep(0)


async def test_so_many_at_one_origin_and_so_many_in_all() -> None:
    crowd = Crowd(HostLimiter(concurrency=3, per_host=2))
    await crowd.come("a1", "a2", "a3", "b1", "b2")
    assert crowd.at_work == ["a1", "a2", "b1"]
    await crowd.go("a1")
    assert Counter(name[0] for name in crowd.at_work) == {"a": 1, "b": 2}
    await crowd.go("b1")
    assert crowd.at_work == ["a2", "b2", "a3"]


async def test_those_that_wait_for_their_own_origin_hold_up_no_other() -> None:
    crowd = Crowd(HostLimiter(concurrency=2, per_host=1))
    await crowd.come(*(f"a{n}" for n in range(50)), "b0")
    assert crowd.at_work == ["a0", "b0"]


async def test_an_origins_turns_come_in_order() -> None:
    crowd = Crowd(HostLimiter(concurrency=8, per_host=1))
    names = [f"a{n}" for n in range(5)]
    await crowd.come(*names)
    for name in names:
        assert crowd.at_work == [name]
        await crowd.go(name)


@pytest.mark.parametrize("who", ["a1", "a2", "a3"])
async def test_one_that_leaves_takes_no_slot_with_it(who: str) -> None:
    host_limiter = HostLimiter(concurrency=2, per_host=1)
    crowd = Crowd(host_limiter)
    await crowd.come("a1", "a2", "a3")
    await crowd.leave(who)
    rest = [name for name in ("a1", "a2", "a3") if name != who]
    for name in rest:
        assert crowd.at_work == [name]
        await crowd.go(name)
    await crowd.come("a4", "b1", "c1")
    assert crowd.at_work == ["a4", "b1"]


async def test_an_origin_that_nobody_asks_is_forgotten() -> None:
    host_limiter = HostLimiter(concurrency=2, per_host=1)
    crowd = Crowd(host_limiter)
    await crowd.come("a1", "a2", "b1")
    await crowd.leave("a2")
    await crowd.go("a1", "b1")
    assert not host_limiter._hosts
    assert not host_limiter._users
