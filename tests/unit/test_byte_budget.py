"""The budget limits the bytes of all downloads together, and every wait ends."""

from __future__ import annotations

import asyncio
import random

import pytest

from imgsvc.network.byte_budget import ByteBudget, Share
from tests.byte_budget_probe import free_bytes


async def run_pending_tasks() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_share_releases_its_bytes_when_block_ends() -> None:
    budget = ByteBudget(100)
    with budget.share("a") as first, budget.share("b") as other:
        assert first.try_acquire(30)
        assert other.try_acquire(50)
        assert free_bytes(budget) == 20
        assert not other.try_acquire(30)
        assert first.try_acquire(20)
    assert free_bytes(budget) == 100


async def test_host_holds_at_most_three_quarters_of_budget() -> None:
    budget = ByteBudget(100)
    with budget.share("a") as first, budget.share("a") as second, budget.share("b") as other:
        assert first.try_acquire(50)
        assert not second.try_acquire(30)
        assert second.try_acquire(25)
        assert other.try_acquire(25)


async def test_first_waiting_share_exceeds_limit_and_next_waits_for_its_release() -> None:
    budget = ByteBudget(100)
    first, second, full = (budget.share(host) for host in "abc")
    assert full.try_acquire(50)
    assert first.try_acquire(25)
    assert second.try_acquire(25)
    await first.acquire(40)
    assert first.try_acquire(500), "the privileged share does not wait again"
    waiting = asyncio.create_task(second.acquire(40))
    await run_pending_tasks()
    assert not waiting.done()
    with first:
        pass
    await waiting
    assert [share.held for share in (first, second, full)] == [0, 25 + 40, 50]


async def test_waiting_share_acquires_bytes_when_capacity_is_released() -> None:
    budget = ByteBudget(100)
    privileged, holder, waiter = (budget.share(host) for host in "abc")
    assert holder.try_acquire(50)
    await privileged.acquire(60)
    waiting = asyncio.create_task(waiter.acquire(20))
    await run_pending_tasks()
    assert not waiting.done()
    with holder:
        pass
    await waiting
    assert free_bytes(budget) == 20


async def test_cancelled_wait_holds_no_bytes_and_does_not_block_others() -> None:
    budget = ByteBudget(100)
    privileged, cancelled, waiter = (budget.share(host) for host in "abc")
    await privileged.acquire(100)

    async def hold(share: Share) -> None:
        with share:
            await share.acquire(10)

    task = asyncio.create_task(hold(cancelled))
    other = asyncio.create_task(waiter.acquire(10))
    await run_pending_tasks()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with privileged:
        pass
    await other
    assert free_bytes(budget) == 90


async def test_all_bodies_complete_when_each_is_larger_than_budget() -> None:
    """The limit is the total and one image more. Without the privilege, this is a deadlock."""
    total, size = 1_000, 1_600
    budget, peak, completed = ByteBudget(total), 0, 0
    shares = []
    random_source = random.Random(1)

    async def download(number: int) -> None:
        nonlocal peak, completed
        with budget.share(str(number % 5)) as share:
            shares.append(share)
            while share.held < size:
                count = min(random_source.randrange(1, 200), size - share.held)
                if not share.try_acquire(count):
                    await share.acquire(count)
                peak = max(peak, sum(each.held for each in shares))
                await asyncio.sleep(0)
            completed += 1

    async with asyncio.timeout(30):
        await asyncio.gather(*(download(n) for n in range(40)))
    assert completed == 40
    assert free_bytes(budget) == total
    assert total < peak <= total + size
