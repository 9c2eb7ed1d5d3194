"""The limits of connections and responses that are not settings."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """The limits of a client's connection."""

    head_seconds: float = 15.0
    """Time in which the head of a request must arrive."""


@dataclass(frozen=True, slots=True)
class EventStreamLimits:
    """The limits of an event stream."""

    comment_seconds: float = 15.0
    """Interval after which a stream without events sends a comment, so that proxies keep it open."""
    send_timeout_seconds: float = 15.0
    """Time a client has to receive an event before it is disconnected."""
