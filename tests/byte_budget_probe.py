"""A measure of what a byte budget still grants."""

from __future__ import annotations

from imgsvc.network.byte_budget import ByteBudget


def free_bytes(budget: ByteBudget) -> int:
    """Return the number of bytes that new images of two other hosts could hold now."""
    with budget.share("probe 1") as first, budget.share("probe 2") as second:
        for power in range(40, -1, -1):
            while first.try_acquire(2**power) or second.try_acquire(2**power):
                pass
        return first.held + second.held
