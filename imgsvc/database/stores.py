"""The stores and queries of one database."""

from __future__ import annotations

from collections.abc import Callable

from imgsvc.database.clock_store import ClockStore
from imgsvc.database.connection import Database
from imgsvc.database.job_store import JobStore
from imgsvc.database.limits import DatabaseLimits
from imgsvc.database.queries import Queries
from imgsvc.database.request_store import RequestStore
from imgsvc.database.session_store import SessionStore
from imgsvc.database.token_store import TokenStore
from imgsvc.database.webhook_store import WebhookStore
from imgsvc.models import Request


class Stores:
    """The stores and queries of one database. `webhook_body`: see `JobStore`."""

    def __init__(
        self,
        database: Database,
        webhook_body: Callable[[Request], str],
        limits: DatabaseLimits = DatabaseLimits(),
    ) -> None:
        self.database = database
        self.request_store = RequestStore(database)
        self.job_store = JobStore(database, webhook_body, limits)
        self.token_store = TokenStore(database)
        self.session_store = SessionStore(database)
        self.queries = Queries(database, limits)
        self.webhook_store = WebhookStore(database, limits)
        self.clock_store = ClockStore(database)
