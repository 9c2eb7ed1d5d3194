"""The stores and queries of one database."""

from __future__ import annotations

from collections.abc import Callable

from imgsvc.database.connection import Database
from imgsvc.database.job_store import JobStore
from imgsvc.database.queries import Queries
from imgsvc.database.request_store import RequestStore
from imgsvc.database.webhook_store import WebhookStore
from imgsvc.models import Request


class Stores:
    """The stores and queries of one database. `webhook_body`: see `JobStore`."""

    def __init__(self, database: Database, webhook_body: Callable[[Request], str]) -> None:
        self.database = database
        self.request_store = RequestStore(database)
        self.job_store = JobStore(database, webhook_body)
        self.queries = Queries(database)
        self.webhook_store = WebhookStore(database)
