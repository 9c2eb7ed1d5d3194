"""Tests of the fair queue: owners are served in turn."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgsvc.workers.fair_queue import FairQueue


def pop_all(queue: FairQueue[str]) -> list[str]:
    items = []
    while queue:
        items.append(queue.peek())
        assert queue.pop() == items[-1]
    return items


def test_queue_serves_owners_in_turn() -> None:
    queue: FairQueue[str] = FairQueue()
    for number in range(4):
        queue.put("large", f"L{number}")
    queue.put("small", "S0")
    queue.put("small", "S1")
    assert list(queue) == ["L0", "L1", "L2", "L3", "S0", "S1"]
    assert pop_all(queue) == ["L0", "S0", "L1", "S1", "L2", "L3"]


def test_requeued_items_come_first_and_discarded_items_are_skipped() -> None:
    queue: FairQueue[str] = FairQueue()
    queue.put(1, "a")
    queue.put(1, "b")
    queue.put(2, "c")
    queue.requeue(["x", "y"])
    queue.discard(1, "b")
    queue.discard(2, "y")
    queue.discard(2, "unknown")
    assert len(queue) == 3
    assert pop_all(queue) == ["x", "a", "c"]
    with pytest.raises(IndexError):
        queue.pop()


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
