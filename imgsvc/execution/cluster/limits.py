"""The limits of a cluster that are not settings."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ClusterLimits:
    """Times in seconds, of the coordinator and the nodes."""

    batch_window_seconds: float = 0.02
    """Orders, and events, that arrive within this time share one message."""
    poll_seconds: float = 5.0
    """How long a node without events waits before it answers the coordinator."""
    order_seconds: float = 10.0
    """The coordinator loses a node that does not confirm orders within this time."""
    answer_seconds: float = 15.0
    """The coordinator loses a node that sends no events within this time. More than `poll_seconds`."""
    fence_seconds: float = 10.0
    """A node stores nothing if it has not heard from the coordinator for longer than this."""
    absence_seconds: float = 30.0
    """The service is not ready if it has had no node for longer than this."""
    rejoin_seconds: float = 2.0
    """Delay before a node tries to join again."""
