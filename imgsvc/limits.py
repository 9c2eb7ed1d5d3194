"""The limits of all components that are not settings."""

from __future__ import annotations

from dataclasses import dataclass

from imgsvc.processing.limits import ProcessingLimits


@dataclass(frozen=True, slots=True)
class ServiceLimits:
    """The limits of the service: its own, and those of its components."""

    recovery_retry_seconds: float = 1.0
    """Delay before the recovery at startup is repeated while the database accepts no writes."""
    processing: ProcessingLimits = ProcessingLimits()
