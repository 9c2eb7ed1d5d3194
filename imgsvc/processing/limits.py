"""The limits of processing that are not settings: times, and sizes of transactions."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ProcessingLimits:
    """The limits of the scheduler, its jobs, their results, and cancellation."""

    batch_window_seconds: float = 0.02
    """Claims, and results, that arrive within this time share one transaction."""
    results_per_commit: int = 256
    """Maximum number of results that one transaction commits."""
    poll_seconds: float = 30.0
    """Longest time between two claims, even if nothing wakes the scheduler."""
    storage_retry_seconds: float = 1.0
    """Delay before the next attempt if the disk is full or the database accepts no writes."""
    requeue_delay_seconds: float = 5.0
    """Delay of an image whose output found the disk full, or whose job could not use the database."""
    download_grace_seconds: float = 3.0
    """Grace period for active downloads at shutdown. Most finish, so they need not be repeated."""
    fetched_per_worker: int = 16
    """Images that may be fetched ahead for each worker: two full batches of small images."""
    circuit_check_seconds: float = 1.0
    """Interval between checks for circuits that have opened, been probed or closed."""
    unreachable_check_seconds: float = 5.0
    """Interval between checks for images that have waited too long for a failing host."""
    unreachable_slice: int = 1_000
    """Images of a failing host that one transaction fails."""
    cancel_slice: int = 2_000
    """Images that one transaction cancels."""
    cancel_retry_seconds: float = 5.0
    """Delay before cancelling continues if the database accepts no writes."""
