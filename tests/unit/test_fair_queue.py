"""Tests of the fair queue: the owner that used the least time is next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgsvc.workers.fair_queue import FIRST_ESTIMATE_SECONDS, FairQueue


def pop(queue: FairQueue[str]) -> str:
    owner = queue.next_owner()
    item = queue.peek(owner)
    assert queue.pop(owner) == item
    return item or ""


def pop_all(
    queue: FairQueue[str], seconds: Callable[[str], float] = lambda _: FIRST_ESTIMATE_SECONDS
) -> list[str]:
    """Pop all items. `seconds` returns the time that an item takes: it is charged at once."""
    items = []
    while queue:
        owner = queue.next_owner()
        items.append(queue.pop(owner))
        queue.charge(owner, seconds(items[-1]) - queue.estimate(owner))
    return items


def test_owners_with_equal_items_are_served_in_turn() -> None:
    queue: FairQueue[str] = FairQueue()
    for number in range(4):
        queue.put(1, f"L{number}")
    queue.put(2, "S0")
    queue.put(2, "S1")
    assert list(queue) == ["L0", "L1", "L2", "L3", "S0", "S1"]
    assert pop_all(queue) == ["L0", "S0", "L1", "S1", "L2", "L3"]
    with pytest.raises(ValueError, match="empty"):
        queue.next_owner()


def test_owner_with_slow_items_waits_until_others_have_used_the_same_time() -> None:
    queue: FairQueue[str] = FairQueue()
    for number in range(3):
        queue.put(1, f"L{number}")
    for number in range(5):
        queue.put(2, f"Q{number}")
    order = pop_all(queue, lambda item: 1.0 if item[0] == "L" else 0.3)
    assert order == ["L0", "Q0", "Q1", "Q2", "Q3", "L1", "Q4", "L2"]


def test_requeued_items_are_the_next_of_their_owner_and_of_no_other() -> None:
    queue: FairQueue[str] = FairQueue()
    queue.put(1, "a")
    queue.put(2, "c")
    assert [pop(queue), pop(queue)] == ["a", "c"]
    queue.put(1, "b")
    queue.put(2, "d")
    queue.charge(1, 1.0)
    queue.requeue(1, ["x", "a"])
    assert list(queue) == ["x", "a", "b", "d"]
    assert pop_all(queue) == ["d", "x", "a", "b"]


def test_discarded_items_are_skipped() -> None:
    queue: FairQueue[str] = FairQueue()
    queue.put(1, "a")
    queue.put(1, "b")
    queue.discard(1, "a")
    queue.discard(1, "unknown")
    queue.discard(3, "b")
    assert len(queue) == 1
    assert queue.peek(3) is None
    assert pop_all(queue) == ["b"]
    assert queue.peek(1) is None


def test_new_owner_starts_at_the_time_of_those_that_are_served() -> None:
    """It is not served first for as long as others were served before it came."""
    queue: FairQueue[str] = FairQueue()
    for number in range(8):
        queue.put(1, f"O{number}")
    for _ in range(4):
        pop(queue)
        queue.charge(1, 10)
    queue.put(2, "N0")
    queue.put(2, "N1")
    assert queue.used() == {1: pytest.approx(10 + FIRST_ESTIMATE_SECONDS)}
    assert pop_all(queue, lambda _: 15.0)[:4] == ["N0", "O4", "N1", "O5"]


def test_estimate_follows_the_time_that_items_take() -> None:
    queue: FairQueue[str] = FairQueue()
    queue.put(1, "a")
    assert queue.estimate(1) == queue.estimate(9) == FIRST_ESTIMATE_SECONDS
    for _ in range(30):
        queue.learn(1, 2.0)
    assert queue.estimate(1) == pytest.approx(2, abs=0.01)
    queue.pop(1)
    assert queue.used() == {1: pytest.approx(2, abs=0.01)}


def test_idle_owners_are_forgotten() -> None:
    queue: FairQueue[int] = FairQueue()
    for number in range(5_000):
        queue.put(number, number)
        assert queue.pop(queue.next_owner()) == number
        queue.charge(number, -FIRST_ESTIMATE_SECONDS)
    assert len(queue._owners) < 1_000


@given(st.lists(st.integers(0, 3)))
def test_each_owner_waits_for_at_most_one_item_of_each_other_owner(owners: list[int]) -> None:
    queue: FairQueue[str] = FairQueue()
    for number, owner in enumerate(owners):
        queue.put(owner, f"{owner}:{number}")
    order = pop_all(queue)
    assert sorted(order) == sorted(f"{o}:{n}" for n, o in enumerate(owners))
    left = Counter(owners)
    since: Counter[int] = Counter()
    for item in order:
        owner = int(item[0])
        left[owner] -= 1
        for other in left:
            since[other] = 0 if other == owner else since[other] + (left[other] > 0)
            assert since[other] <= len(left)
