"""A node, as the coordinator sees it: orders are sent to it in batches, and it returns reports."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

from imgsvc.errors import ImageError, ImageErrorCode
from imgsvc.execution.base import ExecutionInterruptedError
from imgsvc.execution.cluster.limits import ClusterLimits
from imgsvc.execution.cluster.messages import (
    CompressedEvent,
    CompressOrder,
    DropOrder,
    FailedEvent,
    FetchedEvent,
    FetchOrder,
    InterruptedEvent,
    LeaveOrder,
    NodeEvent,
    NodeStatus,
    Order,
    Report,
    StorageEvent,
)
from imgsvc.execution.cluster.node_losses import NodeLosses
from imgsvc.image_types import CompressionSettings, ImageInfo
from imgsvc.models import Claim, Conditions, Validators
from imgsvc.storage.base import StorageFullError, StorageUnavailableError


class NodeLostError(ExecutionInterruptedError):
    """The node does not respond, or has left. The message says why."""


class NodeLink(Protocol):
    """The connection to a node. Its methods raise any exception if the node cannot be reached."""

    async def give(self, orders: list[Order]) -> None:
        """Send orders to the node. Return when it has received them."""

    async def take(self, seconds: float) -> Report:
        """Return the events of the node. It waits at most `seconds` for the first."""


class RemoteNode:
    """A node that has joined. `run` exchanges messages with it until it is lost or has left.

    `reserved`: it runs a single job, which no other may join. `on_change` is set when it may accept
    more jobs than before.
    """

    def __init__(
        self,
        name: str,
        link: NodeLink,
        losses: NodeLosses,
        limits: ClusterLimits,
        changed: asyncio.Event,
    ) -> None:
        self.name = name
        self.status = NodeStatus()
        self.reserved = False
        self.lost: str | None = None
        self._link = link
        self._losses = losses
        self._limits = limits
        self._changed = changed
        self._jobs: dict[int, _RemoteJob] = {}
        self._numbers = itertools.count(1)
        self._orders: list[Order] = []
        self._has_orders = asyncio.Event()

    # --- state -------------------------------------------------------------------------------

    @property
    def jobs(self) -> int:
        """The number of jobs at the node."""
        return len(self._jobs)

    @property
    def workers(self) -> int:
        """The number of workers, of the last report."""
        return self.status.workers

    @property
    def accepts(self) -> bool:
        """Whether the node takes more jobs."""
        status = self.status
        usable = status.healthy and status.problem is None and status.workers > 0
        return self.lost is None and usable and not status.leaving

    # --- jobs --------------------------------------------------------------------------------

    @asynccontextmanager
    async def fetch(
        self, claim: Claim, conditions: Conditions | None
    ) -> AsyncIterator[RemoteFetched | None]:
        """Fetch the source at the node. As `Executor.fetch`."""
        number = next(self._numbers)
        job = self._jobs[number] = _RemoteJob(number, claim, self)
        try:
            event = await job.request(FetchOrder(number, claim, conditions))
            if isinstance(event, FetchedEvent):
                yield RemoteFetched(job, event)
            else:
                yield None
        finally:
            job.drop()

    def order(self, order: Order) -> None:
        """Send an order with the next batch."""
        if self.lost is not None:
            raise NodeLostError(self.lost)
        self._orders.append(order)
        self._has_orders.set()

    def forget(self, job: _RemoteJob) -> None:
        """Remove a job that has ended, or is no longer needed."""
        if self._jobs.pop(job.number, None) is None:
            return
        if not job.ended and self.lost is None:
            self.order(DropOrder(job.number))
        self._changed.set()

    def lose(self, reason: str) -> None:
        """Interrupt all jobs of the node. Those that it was compressing get a loss."""
        if self.lost is None:
            self.lost = reason
            for job in list(self._jobs.values()):
                job.interrupt(reason)
            self._changed.set()

    def record_success(self, claim: Claim) -> None:
        """Record that the image ends no nodes."""
        self._losses.clear(claim)

    def lost_during_compression(self, claim: Claim) -> ImageError | None:
        """Record that the node was lost with this image. Return an error if that was the last time."""
        if self._losses.record(claim):
            return None
        message = "Several nodes ended while they compressed this image."
        return ImageError(ImageErrorCode.COMPRESS_CRASHED, message)

    # --- messages ----------------------------------------------------------------------------

    async def run(self) -> None:
        """Exchange messages. Raise an exception if the node is lost. Return when it has left."""
        async with asyncio.TaskGroup() as group:
            sending = group.create_task(self._send())
            wait = 0.0
            while not (self.status.leaving and not self._jobs):
                async with asyncio.timeout(self._limits.answer_seconds):
                    self._receive(await self._link.take(wait))
                limits = self._limits
                wait = limits.batch_window_seconds if self.status.leaving else limits.poll_seconds
            sending.cancel()
        async with asyncio.timeout(self._limits.order_seconds):
            await self._link.give([LeaveOrder()])

    async def _send(self) -> None:
        while True:
            await self._has_orders.wait()
            await asyncio.sleep(self._limits.batch_window_seconds / 4)
            self._has_orders.clear()
            orders, self._orders = self._orders, []
            async with asyncio.timeout(self._limits.order_seconds):
                await self._link.give(orders)

    def _receive(self, report: Report) -> None:
        self.status = report.status
        for event in report.events:
            if (job := self._jobs.get(event.job)) is not None:
                job.receive(event)
        self._changed.set()


class _RemoteJob:
    """A job at a node: the order it waits for, and whether it has ended there."""

    def __init__(self, number: int, claim: Claim, node: RemoteNode) -> None:
        self.number = number
        self.claim = claim
        self.ended = False
        self._node = node
        self._answer: asyncio.Future[NodeEvent] | None = None

    async def request(self, order: FetchOrder | CompressOrder) -> NodeEvent:
        """Send an order, and return the event that answers it. Raise the job's error."""
        if self.ended:
            raise ExecutionInterruptedError
        self._node.order(order)
        self._answer = asyncio.get_running_loop().create_future()
        event = await self._answer
        self.ended = not isinstance(event, FetchedEvent)
        if isinstance(event, FailedEvent):
            raise event.error
        if isinstance(event, StorageEvent):
            raise (
                StorageFullError(event.reason)
                if event.full
                else StorageUnavailableError(event.reason)
            )
        if isinstance(event, InterruptedEvent):
            raise ExecutionInterruptedError
        return event

    async def compress(self, order: CompressOrder) -> ImageInfo:
        """Return the answer to the order to compress."""
        try:
            event = await self.request(order)
        except NodeLostError:
            if (error := self._node.lost_during_compression(self.claim)) is not None:
                raise error from None
            raise
        self._node.record_success(self.claim)
        assert isinstance(event, CompressedEvent), "the node answers each order with its event"  # noqa: S101
        return event.info

    def receive(self, event: NodeEvent) -> None:
        """Receive the answer of the node, or the end of a job that was waiting."""
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(event)
        elif not isinstance(event, FetchedEvent):
            self.ended = True

    def interrupt(self, reason: str) -> None:
        """End the job because its node is lost."""
        self.ended = True
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(NodeLostError(reason))

    def drop(self) -> None:
        """Drop the job's source, unless the job has ended."""
        self._node.forget(self)
        self.ended = True


class RemoteFetched:
    """A fetched source in the memory of a node."""

    def __init__(self, job: _RemoteJob, event: FetchedEvent) -> None:
        self._job = job
        self.digest: bytes = event.digest
        self.size: int = event.size
        self.validators: Validators = event.validators

    async def compress(self, token: str, settings: CompressionSettings, owner: int) -> ImageInfo:
        """Compress the source at the node, which stores the output."""
        return await self._job.compress(CompressOrder(self._job.number, token, settings, owner))
