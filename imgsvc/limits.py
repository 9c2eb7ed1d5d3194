"""The limits of all components that are not settings."""

from __future__ import annotations

from dataclasses import dataclass

from imgsvc.database.limits import DatabaseLimits
from imgsvc.processing.backlog import BACKLOG_SECONDS
from imgsvc.processing.health import HealthLimits
from imgsvc.processing.limits import ProcessingLimits
from imgsvc.processing.maintenance import MaintenanceLimits
from imgsvc.processing.webhook_queue import WebhookLimits
from imgsvc.staged_upload import StagingLimits
from imgsvc.web.limits import ConnectionLimits, EventStreamLimits


@dataclass(frozen=True, slots=True)
class ServiceLimits:
    """The limits of the service: its own, and those of its components."""

    recovery_retry_seconds: float = 1.0
    """Delay before the recovery at startup is repeated while the database accepts no writes."""
    backlog_seconds: float = BACKLOG_SECONDS
    database: DatabaseLimits = DatabaseLimits()
    staging: StagingLimits = StagingLimits()
    processing: ProcessingLimits = ProcessingLimits()
    maintenance: MaintenanceLimits = MaintenanceLimits()
    webhooks: WebhookLimits = WebhookLimits()
    health: HealthLimits = HealthLimits()
    connections: ConnectionLimits = ConnectionLimits()
    event_stream: EventStreamLimits = EventStreamLimits()
