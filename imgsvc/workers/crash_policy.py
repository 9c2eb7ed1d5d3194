"""The crash policy: which images to retry after a worker crash, and which to quarantine. No I/O.

An image that was being compressed when its worker ended is retried alone. After `MAX_CRASHES` crashes
it is quarantined: it fails with `compress_crashed`.

- Signals other than SIGKILL, such as SIGSEGV, and exits are caused by the image.
- SIGKILL has no known sender. The kernel sends it if this image uses too much memory; a person or a
  program outside may send it too. An external SIGKILL hits workers at random. So a kill counts
  against an image only if no other worker was killed within `KILL_WINDOW_SECONDS`.
- Before the last retry of an image whose workers were killed there is a delay. If an outside sender
  is active, it kills other workers meanwhile.
- No image is retried forever: `MAX_UNATTRIBUTED_CRASHES` limits the crashes that do not count.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass

MAX_CRASHES = 3
"""Crashes that quarantine an image. In the first, other images may be in the same batch."""
MAX_UNATTRIBUTED_CRASHES = 20
"""Crashes that quarantine an image although each seemed to have another cause."""
KILL_WINDOW_SECONDS = 30.0
"""How long the kill of one worker counts as evidence for an external sender."""
KILL_RETRY_DELAY_SECONDS = 1.0
"""Delay before the last retry of an image whose workers were killed."""
UNKNOWN_EXIT = 255
"""multiprocessing's exit code for a worker whose fork server died: the real one is unknown."""
_KILLED = (-signal.SIGKILL, UNKNOWN_EXIT, None)


@dataclass(slots=True, eq=False)
class CrashRecord:
    """The crashes of the workers of one image.

    `crashes` were attributed to the image, `unattributed` were not.
    """

    crashes: int = 0
    unattributed: int = 0


class CrashPolicy:
    """Decides about images after worker crashes. Times are in seconds, on any one clock.

    An exit code is negative for a signal, and None if it is unknown.
    """

    def __init__(self) -> None:
        self._kills: list[tuple[float, CrashRecord | None]] = []

    def record_idle_crash(self, code: int | None, now: float) -> None:
        """Record the end of a worker that was not compressing an image."""
        if code in _KILLED:
            self._remember(None, now)

    def record_crash(self, record: CrashRecord, code: int | None, now: float) -> float | None:
        """Record the end of a worker that was compressing this image.

        Return the delay in seconds before the image is retried, or None to quarantine it.
        """
        if code not in _KILLED:
            record.crashes += 1
            return None if record.crashes >= MAX_CRASHES else 0.0
        self._remember(record, now)
        if any(other is not record for _, other in self._kills):
            return self.record_unattributed(record)
        record.crashes += 1
        if record.crashes >= MAX_CRASHES:
            return None
        return KILL_RETRY_DELAY_SECONDS if record.crashes == MAX_CRASHES - 1 else 0.0

    def record_unattributed(self, record: CrashRecord) -> float | None:
        """Record a crash that the image does not seem to have caused. Return as `record_crash`."""
        record.unattributed += 1
        return None if record.unattributed >= MAX_UNATTRIBUTED_CRASHES else 0.0

    def _remember(self, record: CrashRecord | None, now: float) -> None:
        self._kills = [(at, other) for at, other in self._kills if now - at <= KILL_WINDOW_SECONDS]
        self._kills.append((now, record))
