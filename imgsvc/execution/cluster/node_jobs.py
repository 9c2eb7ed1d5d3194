"""The jobs of a node: runs the coordinator's orders on an executor, and collects the events."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable

from imgsvc.errors import ImageError, ImageErrorCode
from imgsvc.execution.base import ExecutionInterruptedError, Executor
from imgsvc.execution.cluster.limits import ClusterLimits
from imgsvc.execution.cluster.messages import (
    CompressedEvent,
    CompressOrder,
    DropOrder,
    FailedEvent,
    FetchedEvent,
    FetchOrder,
    InterruptedEvent,
    NodeEvent,
    NodeStatus,
    NotModifiedEvent,
    Order,
    Report,
    StorageEvent,
)
from imgsvc.storage.base import Fence, ImageStore, StorageFullError, StorageUnavailableError
from imgsvc.waiting import wait_for_event

log = logging.getLogger(__name__)


class Contact(Fence):
    """When the node has last heard from the coordinator. Without contact it stores nothing."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._heard_at = time.monotonic()

    def record(self) -> None:
        """Record that the coordinator has just called."""
        self._heard_at = time.monotonic()

    @property
    def lost(self) -> bool:
        """Whether the coordinator has been silent for too long: it gives the node's jobs to others."""
        return time.monotonic() - self._heard_at > self._seconds

    async def wait_lost(self) -> None:
        """Return when the contact is lost."""
        while True:
            remaining = self._heard_at + self._seconds - time.monotonic()
            if remaining < 0:
                return
            await asyncio.sleep(remaining + 0.001)

    def check(self) -> None:
        """Raise `StorageUnavailableError` if the contact is lost."""
        if self.lost:
            raise StorageUnavailableError("the coordinator does not respond")


class _Job:
    """A job: its task, and the order to compress as soon as it comes."""

    def __init__(self) -> None:
        self.compress: asyncio.Future[CompressOrder] = asyncio.get_running_loop().create_future()
        self.task: asyncio.Task[None] | None = None


class NodeJobs:
    """The jobs of a node. They belong to its process: a coordinator only attaches to them."""

    def __init__(
        self, executor: Executor, store: ImageStore, contact: Contact, limits: ClusterLimits
    ) -> None:
        self._executor = executor
        self._store = store
        self._contact = contact
        self._limits = limits
        self._jobs: dict[int, _Job] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._events: list[NodeEvent] = []
        self._has_events = asyncio.Event()
        self._leaving = False
        self.released = asyncio.Event()
        """Set when the coordinator has ordered to leave."""

    @property
    def count(self) -> int:
        """The number of jobs."""
        return len(self._jobs)

    def attach(self) -> None:
        """Begin to work for a coordinator. The jobs of an earlier one are cancelled."""
        self.drop_all()
        self._contact.record()

    def drop_all(self) -> None:
        """Cancel all jobs, and forget their events."""
        for number in list(self._jobs):
            self._drop(number)
        self._events.clear()

    def leave(self) -> None:
        """Report to the coordinator that the node takes no more jobs."""
        self._leaving = True
        self._has_events.set()

    async def close(self) -> None:
        """Cancel all jobs, and wait until they have ended."""
        self.drop_all()
        if self._ending:
            await asyncio.wait(self._ending)

    async def give(self, orders: Iterable[Order]) -> None:
        """Start what the orders say."""
        self._contact.record()
        for order in orders:
            if isinstance(order, FetchOrder):
                self._start(order)
            elif isinstance(order, CompressOrder):
                job = self._jobs.get(order.job)
                if job is not None and not job.compress.done():
                    job.compress.set_result(order)
            elif isinstance(order, DropOrder):
                self._drop(order.job)
            else:
                self.released.set()

    async def take(self, seconds: float) -> Report:
        """Return the events since the last call. Wait at most `seconds` for the first."""
        self._contact.record()
        if await wait_for_event(self._has_events, seconds):
            await asyncio.sleep(self._limits.batch_window_seconds)
        self._has_events.clear()
        events, self._events = self._events, []
        executor = self._executor
        status = NodeStatus(
            executor.workers,
            executor.busy,
            executor.healthy,
            self._store.problem,
            self._leaving,
            executor.worker_seconds,
            tuple(executor.missing_layers),
        )
        return Report(status, events)

    def _start(self, order: FetchOrder) -> None:
        job = self._jobs[order.job] = _Job()
        job.task = asyncio.create_task(self._run(order, job))
        self._ending.add(job.task)
        job.task.add_done_callback(self._ending.discard)

    def _drop(self, number: int) -> None:
        job = self._jobs.pop(number, None)
        if job is not None and job.task is not None:
            job.task.cancel()

    async def _run(self, order: FetchOrder, job: _Job) -> None:
        event = await self._process(order, job)
        if self._jobs.get(order.job) is job:
            del self._jobs[order.job]
            self._report(event)

    def _report(self, event: NodeEvent) -> None:
        self._events.append(event)
        self._has_events.set()

    async def _process(self, order: FetchOrder, job: _Job) -> NodeEvent:
        number = order.job
        try:
            async with self._executor.fetch(order.claim, order.conditions) as fetched:
                if fetched is None:
                    return NotModifiedEvent(number)
                self._report(FetchedEvent(number, fetched.digest, fetched.size, fetched.validators))
                compress = await job.compress
                info = await fetched.compress(compress.token, compress.settings, compress.owner)
                return CompressedEvent(number, info)
        except ImageError as error:
            return FailedEvent(number, error)
        except StorageUnavailableError as error:
            return StorageEvent(number, str(error), isinstance(error, StorageFullError))
        except ExecutionInterruptedError:
            return InterruptedEvent(number)
        except Exception:
            log.exception("an image failed with an unexpected error")
            message = "Internal error. See the log of the node."
            return FailedEvent(number, ImageError(ImageErrorCode.INTERNAL, message))
