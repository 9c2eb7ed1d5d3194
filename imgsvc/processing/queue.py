"""The Image Processing Service: claims in turns, bounds what is in flight, recovers, drains."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence

from imgsvc.config import FetchConfig
from imgsvc.database.connection import DatabaseUnavailable
from imgsvc.database.work import FinishResult, Work, origin_key
from imgsvc.errors import ImageError, ImageErrorCode
from imgsvc.images.pool import PoolClosed
from imgsvc.metrics import Metrics
from imgsvc.models import Cancelled, Claim, Completed, Failed, Finished, Outcome, PutBack
from imgsvc.network.breaker import Breakers
from imgsvc.network.retry import pause_before_retry
from imgsvc.processing.pipeline import Flight, OriginResting, Pipeline
from imgsvc.storage.files import StorageFull
from imgsvc.urls import redact

log = logging.getLogger(__name__)

GATHER_SECONDS = 0.02
"""Claims, and results, of this long are made in one transaction."""
BATCH = 256
"""Results in one transaction, at most."""
IDLE_SECONDS = 30.0
"""The queue looks at the database this often even if nothing wakes it."""
FULL_SECONDS = 1.0
"""How often a full disk, or a database that takes no write, is looked at again."""
REST_SECONDS = 5.0
"""How long an image rests whose output found no room, or which found no database."""
EXPIRY_SECONDS = 5.0
"""How often the images of dead origins are looked at."""
EXPIRY_SLICE = 1_000
LANDING_SECONDS = 3.0
"""How long a stop waits for downloads: most end meanwhile, and need not be made again."""


class ProcessQueue:
    """Works through what waits in the database, which is the queue; nothing here is the truth.

    `has_room` tells whether the disk has room for outputs, `touch` is told which requests have
    changed, `finished` which have finished, `unused` which stored files nobody needs.
    """

    def __init__(
        self,
        work: Work,
        pipeline: Pipeline,
        breakers: Breakers,
        config: FetchConfig,
        metrics: Metrics,
        *,
        fetched_ahead: int,
        has_room: Callable[[], bool],
        touch: Callable[[Iterable[int]], None],
        finished: Callable[[Sequence[Finished]], None],
        unused: Callable[[Sequence[str]], Awaitable[None]],
    ) -> None:
        self._work = work
        self._pipeline = pipeline
        self._breakers = breakers
        self._config = config
        self._metrics = metrics
        # As many again are at hand as are being downloaded: no slot is empty while more are claimed.
        self._fetching_limit = 2 * config.concurrency
        self._flights_limit = self._fetching_limit + fetched_ahead
        self._origin_limit = 2 * config.per_host
        self._has_room = has_room
        self._touch = touch
        self._finished = finished
        self._unused = unused
        self._flights: dict[asyncio.Task[Outcome], Flight] = {}
        self._fetching: Counter[int] = Counter()
        self._landed: list[tuple[Flight, Outcome]] = []
        self._unnoted: set[Flight] = set()
        self._wake = asyncio.Event()
        self._news = asyncio.Event()
        self._stopping = False
        self._paused = False

    # --- what others see ---------------------------------------------------------------------

    def wake(self) -> None:
        """Say that there may be something to claim."""
        self._wake.set()

    @property
    def in_flight(self) -> int:
        return len(self._flights)

    async def abandon(self, request_key: int) -> None:
        """Cut short the downloads of a request that is being cancelled; return when that is noted."""
        cut = []
        for task, flight in self._flights.items():
            if flight.claim.request_key == request_key and not flight.fetched:
                flight.cancelled = True
                task.cancel()
                cut.append(flight.noted.wait())
        await asyncio.gather(*cut)

    async def process_queue(self) -> None:
        """Claim and process for as long as the service runs."""
        async with asyncio.TaskGroup() as group:
            committing = group.create_task(self._note_outcomes())
            expiring = group.create_task(self._expire_dead_origins())
            while not self._stopping:
                self._wake.clear()
                pause = await self._claim()
                await self._sleep(pause)
            await self._drained()
            committing.cancel()
            expiring.cancel()

    async def stop(self, grace: float) -> None:
        """Claim nothing more; finish what is in flight within `grace` s, and put back what is late.

        Downloads are late sooner, as they may be cut short without loss.
        """
        self._stopping = True
        self._wake.set()
        landing = max(0.0, min(LANDING_SECONDS, grace / 2))
        await self._land(landing)
        for task, flight in self._flights.items():
            if not flight.fetched:
                task.cancel()
        await self._land(grace - landing)
        for task in self._flights:
            task.cancel()

    async def _land(self, seconds: float) -> None:
        if self._flights:
            await asyncio.wait(self._flights, timeout=max(0.0, seconds))

    # --- claiming ----------------------------------------------------------------------------

    async def _sleep(self, pause: float) -> None:
        try:
            async with asyncio.timeout(pause):
                await self._wake.wait()
        except TimeoutError:
            return
        if self._flights and not self._stopping:
            await asyncio.sleep(GATHER_SECONDS)

    async def _claim(self) -> float:
        """Claim what there is room for; give the seconds until it may be worth trying again."""
        if not self._check_room():
            return FULL_SECONDS
        fetching = self._fetching.total()
        room = min(self._fetching_limit - fetching, self._flights_limit - len(self._flights))
        if room <= 0:
            return IDLE_SECONDS
        now = time.time()
        try:
            claims = await self._work.claim(room, self._room_at, now)
            for claim in claims:
                self._launch(claim)
            self._touch({claim.request_key for claim in claims})
            return 0.0 if len(claims) == room else await self._pause(now)
        except Exception:
            log.exception("claiming failed; trying again")
            return FULL_SECONDS

    async def _pause(self, now: float) -> float:
        due = [IDLE_SECONDS]
        retry = await self._work.next_due()
        if retry is not None:
            due.append(retry - now)
        clock = time.monotonic()
        probe = self._breakers.next_probe(clock)
        if probe is not None:
            due.append(probe - clock)
        return max(0.05, min(due))

    def _room_at(self, origin: int) -> int:
        """How many more images of an origin may be claimed."""
        allowed = self._breakers.allowance(origin, time.monotonic(), self._origin_limit)
        return max(0, allowed - self._fetching[origin])

    def _check_room(self) -> bool:
        room = self._has_room()
        if room is self._paused:
            self._paused = not room
            if room:
                log.info("the disk has room again: work goes on")
            else:
                log.error("the disk is full: work waits until there is room")
        return room

    def _launch(self, claim: Claim) -> None:
        key = origin_key(claim.origin)
        flight = Flight(claim, key, self._breakers.launch(key, time.monotonic()))
        self._fetching[key] += 1
        task = asyncio.create_task(self._fly(flight), name=f"image {claim.request_id}")
        self._flights[task] = flight
        self._unnoted.add(flight)
        task.add_done_callback(self._land_task)
        if self._stopping:  # it was being claimed as the stop began
            task.cancel()

    def _land_task(self, task: asyncio.Task[Outcome]) -> None:
        flight = self._flights.pop(task)
        # A task that is cancelled before its first step, or while it cleans up, ends like this.
        outcome = _cut_short(flight) if task.cancelled() else task.result()
        self._release(flight)
        self._landed.append((flight, outcome))
        self._news.set()

    # --- one image ---------------------------------------------------------------------------

    async def _fly(self, flight: Flight) -> Outcome:
        try:
            outcome = await self._outcome(flight)
        except asyncio.CancelledError:
            outcome = _cut_short(flight)
        if flight.file is not None and not isinstance(outcome, Completed):
            await asyncio.shield(self._delete([flight.file]))
        return outcome

    async def _outcome(self, flight: Flight) -> Outcome:
        claim = flight.claim
        try:
            return await self._pipeline.process(flight, self._fetched)
        except (OriginResting, PoolClosed):
            return PutBack(claim, claim.attempts)
        except (StorageFull, DatabaseUnavailable):
            return PutBack(claim, claim.attempts, time.time() + REST_SECONDS)
        except ImageError as error:
            return self._failure(flight, error)
        except Exception:
            log.exception("an image failed for no known reason", extra=_about(claim))
            return Failed(
                claim,
                claim.attempts + 1,
                ImageErrorCode.INTERNAL,
                "the service itself failed here; its log says more",
            )

    def _fetched(self, flight: Flight) -> None:
        self._breakers.succeeded(flight.origin)
        self._release(flight)

    def _release(self, flight: Flight) -> None:
        """Give the flight's place at its origin to the next."""
        if flight.fetching:
            flight.fetching = False
            self._fetching[flight.origin] -= 1
            if not self._fetching[flight.origin]:
                del self._fetching[flight.origin]
            self._wake.set()

    def _failure(self, flight: Flight, error: ImageError) -> Outcome:
        claim, attempts = flight.claim, flight.claim.attempts + 1
        if not flight.fetched:
            self._breakers.failed(flight.origin, error, time.monotonic())
        pause = pause_before_retry(attempts, error, self._config.attempts, random.random)
        about = _about(claim) | {"code": error.code, "attempts": attempts}
        if pause is None:
            log.warning("image failed", extra=about | {"reason": error.message})
            return Failed(claim, attempts, error.code, error.message)
        self._metrics.retries.labels(error.code).inc()
        log.info("image will be tried again", extra=about | {"in_seconds": round(pause, 1)})
        return PutBack(claim, attempts, time.time() + pause)

    # --- outcomes ----------------------------------------------------------------------------

    async def _note_outcomes(self) -> None:
        """Commit results, many in one transaction."""
        while True:
            await self._news.wait()
            if len(self._landed) < BATCH:
                await asyncio.sleep(GATHER_SECONDS)
            self._news.clear()
            while self._landed:
                batch, self._landed = self._landed[:BATCH], self._landed[BATCH:]
                await self._note(batch)
            self._wake.set()

    async def _note(self, batch: Sequence[tuple[Flight, Outcome]]) -> None:
        result = await self._finish([outcome for _, outcome in batch])
        for flight, outcome in batch:
            self._pipeline.settled(flight, outcome if isinstance(outcome, Completed) else None)
        await self.tell(result)
        for flight, _ in batch:
            self._unnoted.discard(flight)
            flight.noted.set()

    async def _finish(self, outcomes: Sequence[Outcome]) -> FinishResult:
        """Commit the outcomes however long it takes: they are all that is known of their images."""
        told = False
        while True:
            try:
                return await self._work.finish(outcomes)
            except Exception:
                if not told:
                    log.exception("results could not be committed; trying again")
                told = True
                await asyncio.sleep(FULL_SECONDS)

    async def tell(self, result: FinishResult) -> None:
        """Let everybody know what a transaction has changed."""
        if result.unused:
            await self._delete(result.unused)
        self._touch(result.touched)
        for (status, code), count in result.ended.items():
            self._metrics.images.labels(status, code).inc(count)
        for request in result.finished:
            self._metrics.requests_finished.labels(request.status).inc()
            log.info(
                "finished",
                extra={
                    "request": request.request_id,
                    "status": request.status,
                    "images": request.progress.total,
                    "failed": request.progress.failed,
                },
            )
        if result.finished:
            self._finished(result.finished)

    async def _delete(self, names: Sequence[str]) -> None:
        try:
            await self._unused(names)
        except Exception:
            log.exception("stored files that nobody needs could not be deleted: %s", names)

    async def _drained(self) -> None:
        while self._unnoted:
            await next(iter(self._unnoted)).noted.wait()

    # --- dead origins ------------------------------------------------------------------------

    async def _expire_dead_origins(self) -> None:
        """Fail the images that have waited too long for an origin that stayed dead."""
        while True:
            await asyncio.sleep(EXPIRY_SECONDS)
            try:
                for origin in self._breakers.open_origins():
                    for request_key, since in await self._work.waiting_for(origin):
                        await self._expire(request_key, origin, since)
            except Exception:
                log.exception("images of dead origins could not be failed; trying again")

    async def _expire(self, request_key: int, origin: int, since: float) -> None:
        error = self._breakers.expired(origin, time.time() - since, time.monotonic())
        while error is not None:
            result = await self._work.fail_origin(
                request_key, origin, error.code, error.message, EXPIRY_SLICE
            )
            await self.tell(result)
            if not result.touched:
                return


def _cut_short(flight: Flight) -> Outcome:
    claim = flight.claim
    return Cancelled(claim) if flight.cancelled else PutBack(claim, claim.attempts)


def _about(claim: Claim) -> dict[str, object]:
    return {"request": claim.request_id, "image": claim.numbers[0], "url": redact(claim.url)}
