"""Readiness of the service. Failing image hosts do not affect it."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from enum import StrEnum

from imgsvc.database.connection import Database, DatabaseDamagedError
from imgsvc.execution.base import Executor
from imgsvc.storage.state import StorageState

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class HealthLimits:
    """The limits of the health monitor."""

    probe_seconds: float = 2.0
    """Interval between test writes to the database."""
    timeout_seconds: float = 5.0
    """The service is not ready if the database has accepted no write for longer than this."""
    check_seconds: float = 5.0
    """How long the start waits for the check of the database. The check continues beside it."""


class ServiceState(StrEnum):
    """The phase of the service's lifetime."""

    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"


@dataclass(frozen=True, slots=True)
class Health:
    """Whether the service is ready. `reasons` are clauses that say why it is not."""

    state: ServiceState
    reasons: tuple[str, ...] = ()

    @property
    def ready(self) -> bool:
        """Whether the service can process requests."""
        return self.state is ServiceState.RUNNING and not self.reasons


class HealthMonitor:
    """Holds the state of the service, and checks the database, the storage and the executor."""

    def __init__(
        self,
        database: Database,
        executor: Executor,
        storage: StorageState,
        limits: HealthLimits = HealthLimits(),
    ) -> None:
        self._database = database
        self._executor = executor
        self._storage = storage
        self._limits = limits
        self._written = time.monotonic()
        self.state = ServiceState.STARTING

    def health(self) -> Health:
        """Return the state, and the reasons that keep the service from being ready."""
        reasons = []
        if (problem := self._storage.problem) is not None:
            reasons.append(problem)
        timeout = self._limits.timeout_seconds
        damage = self._database.damage.reason
        if damage is not None:
            reasons.append(f"the database is damaged ({damage}): restore the backup")
        elif time.monotonic() - self._written > timeout:
            reasons.append(f"the database has accepted no write for {timeout:.0f} s")
        if not self._executor.healthy:
            reasons.append("no worker process is running")
        return Health(self.state, tuple(reasons))

    async def watch(self) -> None:
        """Make a test write to the database at intervals, until it is damaged."""
        writable = True
        while True:
            try:
                await self._database.probe()
            except DatabaseDamagedError:
                return  # it has been logged, and lasts until the next start
            except Exception:
                if writable:
                    log.exception("the database accepts no writes")
                writable = False
            else:
                self._written = time.monotonic()
                if not writable:
                    log.info("the database accepts writes again")
                writable = True
            await asyncio.sleep(self._limits.probe_seconds)
