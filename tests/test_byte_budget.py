"""The bytes of all downloads together are bounded, and nobody waits for ever."""

from __future__ import annotations

import asyncio
import random

import pytest

from imgsvc.network.byte_budget import ByteBudget, Share


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_what_is_taken_is_given_back() -> None:
    budget = ByteBudget(100)
    with budget.share("a") as one, budget.share("b") as other:
        assert one.take(30)
        assert other.take(50)
        assert budget.used == 80
        assert not other.take(30)
        assert one.take(20)
    assert budget.used == 0


async def test_one_origin_holds_no_more_than_three_quarters() -> None:
    budget = ByteBudget(100)
    with budget.share("a") as one, budget.share("a") as two, budget.share("b") as other:
        assert one.take(50)
        assert not two.take(30)
        assert two.take(25)
        assert other.take(25)


async def test_the_first_to_wait_goes_on_past_the_bound_and_the_next_after_it() -> None:
    budget = ByteBudget(100)
    first, second, full = (budget.share(origin) for origin in "abc")
    assert full.take(50)
    assert first.take(25)
    assert second.take(25)
    await first.wait(40)
    assert first.take(500), "the privileged one need not ask again"
    waiting = asyncio.create_task(second.wait(40))
    await settle()
    assert not waiting.done()
    with first:
        pass
    await waiting
    assert budget.used == 50 + 25 + 40


async def test_those_who_wait_are_served_as_soon_as_there_is_room() -> None:
    budget = ByteBudget(100)
    privileged, holder, waiter = (budget.share(origin) for origin in "abc")
    assert holder.take(50)
    await privileged.wait(60)
    waiting = asyncio.create_task(waiter.wait(20))
    await settle()
    assert not waiting.done()
    with holder:
        pass
    await waiting
    assert budget.used == 80


async def test_a_cancelled_wait_takes_nothing_and_blocks_nobody() -> None:
    budget = ByteBudget(100)
    privileged, cancelled, waiter = (budget.share(origin) for origin in "abc")
    await privileged.wait(100)

    async def hold(share: Share) -> None:
        with share:
            await share.wait(10)

    task = asyncio.create_task(hold(cancelled))
    other = asyncio.create_task(waiter.wait(10))
    await settle()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with privileged:
        pass
    await other
    assert budget.used == 10


async def test_many_bodies_each_larger_than_the_budget_all_come_through() -> None:
    """The bound is the total and one image on top; without the privilege this would never end."""
    total, size = 1_000, 1_600
    budget, highest, through = ByteBudget(total), 0, 0
    dice = random.Random(1)

    async def download(number: int) -> None:
        nonlocal highest, through
        with budget.share(str(number % 5)) as share:
            while share.held < size:
                count = min(dice.randrange(1, 200), size - share.held)
                if not share.take(count):
                    await share.wait(count)
                highest = max(highest, budget.used)
                await asyncio.sleep(0)
            through += 1

    async with asyncio.timeout(30):
        await asyncio.gather(*(download(n) for n in range(40)))
    assert through == 40
    assert budget.used == 0
    assert total < highest <= total + size
