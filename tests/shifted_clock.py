"""A clock that a test sets."""

from __future__ import annotations

from imgsvc.system_clock import SystemClock


class ShiftedClock(SystemClock):
    """The machine's clocks, plus a shift of the Unix time, and a time that has passed on both."""

    def __init__(self) -> None:
        self.shift = 0.0
        self.passed = 0.0

    def time(self) -> float:
        return super().time() + self.shift + self.passed

    def monotonic(self) -> float:
        return super().monotonic() + self.passed
