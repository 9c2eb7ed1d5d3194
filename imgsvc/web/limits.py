"""The limits of connections and responses that are not settings."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """The slowest rate at which a body may arrive. A slow upload occupies a connection and memory."""

    min_bytes: int = 30 * 1024
    period_seconds: float = 30.0
    """`min_bytes` must arrive in any period of this length in which the service waits for them."""


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """The limits of a client's connection."""

    head_seconds: float = 15.0
    """Time in which the head of a request must arrive."""
    body: BodyLimits = BodyLimits()


@dataclass(frozen=True, slots=True)
class EventStreamLimits:
    """The limits of an event stream."""

    comment_seconds: float = 15.0
    """Interval after which a stream without events sends a comment, so that proxies keep it open."""
    send_timeout_seconds: float = 15.0
    """Time a client has to receive an event before it is disconnected."""
