"""The clocks of the machine, as an object that tests replace."""

from __future__ import annotations

import time


class SystemClock:
    """The machine's clocks, in seconds. The Unix time may jump; the monotonic clock never does."""

    def time(self) -> float:
        """Return the Unix time."""
        return time.time()

    def monotonic(self) -> float:
        """Return the time on a clock that cannot be set."""
        return time.monotonic()
