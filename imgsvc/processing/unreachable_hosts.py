"""Fails images that have waited too long for a host that keeps failing."""

from __future__ import annotations

import asyncio
import logging

from imgsvc.database.job_store import JobStore
from imgsvc.network.circuit_breaker import CircuitBreakers
from imgsvc.processing.clock import WaitingTimes
from imgsvc.processing.limits import ProcessingLimits
from imgsvc.processing.results import ResultWriter
from imgsvc.system_clock import SystemClock

log = logging.getLogger(__name__)


class UnreachableHosts:
    """Checks the pending images of hosts whose circuit is open."""

    def __init__(
        self,
        job_store: JobStore,
        breakers: CircuitBreakers,
        results: ResultWriter,
        limits: ProcessingLimits,
        clock: SystemClock = SystemClock(),
    ) -> None:
        self._job_store = job_store
        self._breakers = breakers
        self._results = results
        self._limits = limits
        self._clock = clock
        self._waiting_times = WaitingTimes(clock)

    async def run(self) -> None:
        """Check at intervals, for as long as the service runs."""
        while True:
            await asyncio.sleep(self._limits.unreachable_check_seconds)
            try:
                for host_key in self._breakers.open_hosts():
                    for request_key, since in await self._job_store.requests_waiting_for(host_key):
                        await self._fail_if_expired(request_key, host_key, since)
            except Exception:
                log.exception("failing the images of unreachable hosts failed; retrying")

    async def _fail_if_expired(self, request_key: int, host_key: int, since: float) -> None:
        waited = self._waiting_times.waited(since)
        error = self._breakers.expired(host_key, waited, self._clock.monotonic())
        while error is not None:
            result = await self._job_store.fail_host(
                request_key, host_key, error.code, error.message, self._limits.unreachable_slice
            )
            self._results.publish(result)
            if not result.changed_requests:
                return
