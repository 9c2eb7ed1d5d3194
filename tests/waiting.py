"""Helpers that wait until a condition is true."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable

TIMEOUT_SECONDS = 30.0
"""Default timeout. Long, because test machines may be busy."""
_POLL_SECONDS = 0.01


async def wait_until(
    condition: Callable[[], object], what: str = "the condition", seconds: float = TIMEOUT_SECONDS
) -> None:
    """Return once `condition()`, which may be asynchronous, is true.

    After `seconds`, raise an AssertionError that names `what`.
    """
    try:
        async with asyncio.timeout(seconds):
            while True:
                value = condition()
                if await value if inspect.isawaitable(value) else value:
                    return
                await asyncio.sleep(_POLL_SECONDS)
    except TimeoutError:
        raise AssertionError(f"waited {seconds:g} s for {what}") from None


def block_until(
    condition: Callable[[], object], what: str = "the condition", seconds: float = TIMEOUT_SECONDS
) -> None:
    """Return once `condition()` is true. This is `wait_until` for tests without an event loop."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds:g} s for {what}"
        time.sleep(_POLL_SECONDS)
