"""Who killed the worker? The rule that convicts a picture, without I/O.

A picture that was being compressed when its worker died is tried again, alone; the third death
convicts it. Signals such as SIGSEGV, and exits, come from the picture alone. SIGKILL does not tell its
sender: it may be the kernel that ran out of memory over this picture, or somebody who kills workers.
Somebody from outside hits whoever is there, so such a death counts against a picture only where no
other worker was killed lately; before the last try of a picture whose workers were killed there is a
pause, in which a killer shows on others. As a picture must never be tried in a loop, there is a limit
for these deaths too.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass

MAX_CRASHES = 3
"""Deaths that convict, the first perhaps in company, the others alone."""
LOST_LIMIT = 20
"""Deaths that convict although each of them seemed to be somebody else's doing."""
MEMORY_SECONDS = 30.0
"""How long a killed worker speaks for the others."""
KILL_PAUSE_SECONDS = 1.0
"""Before the last try of a picture whose workers were killed."""
UNKNOWN_EXIT = 255
"""What multiprocessing says where the fork server died and nobody could tell how the worker ended."""
_KILLED = (-signal.SIGKILL, UNKNOWN_EXIT, None)


@dataclass(slots=True, eq=False)
class CrashRecord:
    """What is held against one picture."""

    crashes: int = 0
    lost: int = 0


class CrashPolicy:
    """Judges the deaths of workers. Times are seconds on any one clock."""

    def __init__(self) -> None:
        self._kills: list[tuple[float, CrashRecord | None]] = []

    def idle_crash(self, code: int | None, now: float) -> None:
        """A worker died that had no picture in hand."""
        if code in _KILLED:
            self._remember(None, now)

    def crash(self, record: CrashRecord, code: int | None, now: float) -> float | None:
        """A worker died over this picture, with this exit code (negative: a signal).

        Returns how many seconds to wait before it is tried again, or None: it is convicted.
        """
        if code not in _KILLED:
            record.crashes += 1
            return None if record.crashes >= MAX_CRASHES else 0.0
        self._remember(record, now)
        if any(other is not record for _, other in self._kills):
            return self.cleared(record)
        record.crashes += 1
        if record.crashes >= MAX_CRASHES:
            return None
        return KILL_PAUSE_SECONDS if record.crashes == MAX_CRASHES - 1 else 0.0

    def cleared(self, record: CrashRecord) -> float | None:
        """Its worker died, and it does not seem to be this picture's doing. Returns as `crash`."""
        record.lost += 1
        return None if record.lost >= LOST_LIMIT else 0.0

    def _remember(self, record: CrashRecord | None, now: float) -> None:
        self._kills = [(at, other) for at, other in self._kills if now - at <= MEMORY_SECONDS]
        self._kills.append((now, record))
