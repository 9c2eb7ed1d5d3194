"""The components of the service that the web layer uses."""

from __future__ import annotations

from dataclasses import dataclass

from imgsvc.config import Config
from imgsvc.database.queries import Queries
from imgsvc.database.session_store import SessionStore
from imgsvc.intake import Intake
from imgsvc.metrics import Metrics
from imgsvc.processing.events import Events
from imgsvc.processing.health import HealthMonitor
from imgsvc.processing.request_actions import RequestActions
from imgsvc.processing.thumbnails import Thumbnails
from imgsvc.sample import Sample
from imgsvc.storage.base import ImageStore
from imgsvc.storage.scratch import Scratch
from imgsvc.web.limits import ConnectionLimits, EventStreamLimits


@dataclass(frozen=True, slots=True)
class AppContext:
    """The components that the HTTP layer uses."""

    config: Config
    intake: Intake
    queries: Queries
    actions: RequestActions
    store: ImageStore
    thumbnails: Thumbnails
    scratch: Scratch
    sample: Sample
    events: Events
    health: HealthMonitor
    metrics: Metrics
    sessions: SessionStore
    connections: ConnectionLimits
    event_stream: EventStreamLimits
