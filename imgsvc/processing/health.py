"""Is the service well? An origin's troubles are no part of it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from imgsvc.database.connection import Database
from imgsvc.workers.pool import WorkerPool

log = logging.getLogger(__name__)

WRITE_PROBE_SECONDS = 2.0
WRITE_TIMEOUT_SECONDS = 5.0
"""A database that has taken no write for so long is not well."""


class ServiceState(StrEnum):
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"


@dataclass(frozen=True, slots=True)
class Health:
    """Whether the service is fit for work, and if not, why."""

    state: ServiceState
    reasons: tuple[str, ...] = ()

    @property
    def ready(self) -> bool:
        return self.state is ServiceState.RUNNING and not self.reasons


class HealthMonitor:
    """Knows the state of the service, and watches what it stands on."""

    def __init__(
        self, database: Database, pool: WorkerPool, *, has_free_space: Callable[[], bool]
    ) -> None:
        self._database = database
        self._pool = pool
        self._has_free_space = has_free_space
        self._written = time.monotonic()
        self.state = ServiceState.STARTING

    def health(self) -> Health:
        reasons = []
        if not self._has_free_space():
            reasons.append("the disk is full")
        if time.monotonic() - self._written > WRITE_TIMEOUT_SECONDS:
            reasons.append(f"the database has taken no write for {WRITE_TIMEOUT_SECONDS:.0f} s")
        if not self._pool.healthy:
            reasons.append("no worker process can be started")
        return Health(self.state, tuple(reasons))

    async def watch(self) -> None:
        """Write to the database now and then, for as long as the service runs."""
        well = True
        while True:
            try:
                await self._database.probe()
            except Exception:
                if well:
                    log.exception("the database takes no write")
                well = False
            else:
                self._written = time.monotonic()
                if not well:
                    log.info("the database takes writes again")
                well = True
            await asyncio.sleep(WRITE_PROBE_SECONDS)
