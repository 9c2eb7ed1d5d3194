"""Reports hosts whose circuit is open to the requests that wait for them, and fails their images."""

from __future__ import annotations

import asyncio
import logging

from imgsvc.database.job_store import JobStore
from imgsvc.network.circuit_breaker import CircuitBreakers, OpenCircuit
from imgsvc.processing.clock import WaitingTimes
from imgsvc.processing.limits import ProcessingLimits
from imgsvc.processing.results import ResultWriter
from imgsvc.system_clock import SystemClock

log = logging.getLogger(__name__)


class UnreachableHosts:
    """Checks the pending images of hosts whose circuit is open.

    A request's status names these hosts. Images that have waited too long for one fail.
    """

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
        self._reported: dict[int, OpenCircuit] = {}
        self._next_full_check = 0.0

    async def run(self) -> None:
        """Check at intervals, for as long as the service runs."""
        while True:
            await asyncio.sleep(self._limits.circuit_check_seconds)
            try:
                await self._check()
            except Exception:
                log.exception("checking the images of unreachable hosts failed; retrying")

    async def _check(self) -> None:
        """Check the circuits that have changed, or all of them if that is due."""
        circuits = self._breakers.open_circuits()
        for host_key in self._reported.keys() - circuits.keys():
            self._results.publish(await self._job_store.release_host(host_key))
            del self._reported[host_key]
        now = self._clock.monotonic()
        full = now >= self._next_full_check
        for host_key, circuit in circuits.items():
            if full or circuit != self._reported.get(host_key):
                await self._check_host(host_key, circuit)
        if full:
            self._next_full_check = now + self._limits.unreachable_check_seconds

    async def _check_host(self, host_key: int, circuit: OpenCircuit) -> None:
        """Fail images that have waited too long, and report the circuit to the other requests."""
        new: list[int] = []
        for request_key, since, held in await self._job_store.requests_waiting_for(host_key):
            if not await self._fail_if_expired(request_key, host_key, since) and not held:
                new.append(request_key)
        if new or circuit != self._reported.get(host_key):
            probe_at = self._clock.time() + circuit.next_probe - self._clock.monotonic()
            error = circuit.error
            self._results.publish(await self._job_store.hold_host(host_key, error, probe_at, new))
            self._reported[host_key] = circuit

    async def _fail_if_expired(self, request_key: int, host_key: int, since: float) -> bool:
        """Fail a request's images of a host if they have waited too long. Return whether they have."""
        waited = self._waiting_times.waited(since)
        error = self._breakers.expired(host_key, waited, self._clock.monotonic())
        while error is not None:
            result = await self._job_store.fail_host(
                request_key, host_key, error.code, error.message, self._limits.unreachable_slice
            )
            self._results.publish(result)
            if not result.changed_requests:
                return True
        return False
