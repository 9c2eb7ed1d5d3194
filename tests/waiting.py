"""Waiting for something that another task or process does by itself."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable

SECONDS = 30.0
"""A condition that has not come true by then fails its test. Generous: machines may be busy."""
_POLL_SECONDS = 0.01


async def wait_until(
    condition: Callable[[], object], what: str = "the condition", seconds: float = SECONDS
) -> None:
    """Return once `condition()`, which may be asynchronous, is true.

    Raises AssertionError, which names `what`, after `seconds`.
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
    condition: Callable[[], object], what: str = "the condition", seconds: float = SECONDS
) -> None:
    """Return once `condition()` is true: `wait_until` for tests without an event loop."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds:g} s for {what}"
        time.sleep(_POLL_SECONDS)
