"""The executor of a coordinator: all nodes together, and perhaps the local executor."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

from imgsvc.execution.base import Executor, Fetched
from imgsvc.execution.cluster.limits import ClusterLimits
from imgsvc.execution.cluster.node_losses import NodeLosses
from imgsvc.execution.cluster.remote_node import NodeLink, RemoteNode
from imgsvc.metrics import Metrics
from imgsvc.models import Claim, Conditions
from imgsvc.sample import Sample


class Membership(Protocol):
    """Accepts nodes, and passes them to `ClusterExecutor.use`."""

    async def start(self, executor: ClusterExecutor) -> None:
        """Begin to accept nodes. Raise `StartupError`."""

    async def close(self) -> None:
        """Disconnect all nodes."""


class NodeHandle(Protocol):
    """A machine that can run jobs. See `RemoteNode`."""

    name: str
    reserved: bool
    lost: str | None

    @property
    def jobs(self) -> int:
        """The number of jobs at the node."""

    @property
    def workers(self) -> int:
        """The number of workers."""

    @property
    def accepts(self) -> bool:
        """Whether the node takes more jobs."""

    def fetch(
        self, claim: Claim, conditions: Conditions | None
    ) -> AbstractAsyncContextManager[Fetched | None]:
        """Fetch the source at the node. As `Executor.fetch`."""


class LocalNode:
    """The coordinator itself as a node."""

    name = "local"

    def __init__(self, executor: Executor, changed: asyncio.Event) -> None:
        self.executor = executor
        self.lost: str | None = None
        self.reserved = False
        self.jobs = 0
        self._changed = changed

    @property
    def workers(self) -> int:
        """The number of workers."""
        return self.executor.workers

    @property
    def accepts(self) -> bool:
        """Whether the local executor works."""
        return self.executor.healthy

    @asynccontextmanager
    async def fetch(
        self, claim: Claim, conditions: Conditions | None
    ) -> AsyncIterator[Fetched | None]:
        """Fetch the source into the memory of the coordinator."""
        self.jobs += 1
        try:
            async with self.executor.fetch(claim, conditions) as fetched:
                yield fetched
        finally:
            self.jobs -= 1
            self._changed.set()


class ClusterExecutor:
    """An `Executor` that distributes images to nodes. A job stays at the node that fetches it.

    `local` makes thumbnails, and compresses the images of `sample`, which no node has. With
    `local_node` it is a node too. Jobs of a lost node raise `ExecutionInterruptedError`. While there
    is no node, images wait.
    """

    def __init__(
        self,
        local: Executor,
        membership: Membership,
        metrics: Metrics,
        *,
        local_node: bool,
        sample: Sample | None = None,
        limits: ClusterLimits = ClusterLimits(),
    ) -> None:
        self._changed = asyncio.Event()
        self._own = local
        self._sample = sample
        self._local = LocalNode(local, self._changed) if local_node else None
        self._membership = membership
        self._metrics = metrics
        self._limits = limits
        self._losses = NodeLosses()
        self._remote: dict[str, RemoteNode] = {}
        self._one_suspect = asyncio.Lock()
        self._seen_at = time.monotonic()

    # --- state -------------------------------------------------------------------------------

    @property
    def _nodes(self) -> list[NodeHandle]:
        local: list[NodeHandle] = [] if self._local is None else [self._local]
        return [*local, *self._remote.values()]

    @property
    def workers(self) -> int:
        """The number of workers of all nodes."""
        return sum(node.workers for node in self._nodes)

    @property
    def busy(self) -> int:
        """The number of workers of all nodes that have images."""
        return self._own.busy + sum(node.status.busy for node in self._remote.values())

    @property
    def healthy(self) -> bool:
        """False if no node has accepted images for a while."""
        if any(node.accepts for node in self._nodes):
            self._seen_at = time.monotonic()
            return True
        return time.monotonic() - self._seen_at <= self._limits.absence_seconds

    @property
    def worker_seconds(self) -> dict[int, float]:
        """The worker time that owners have used at all nodes. Empty if a node has an idle worker."""
        local = [] if self._local is None else [self._local.executor.worker_seconds]
        used = [*local, *(node.status.worker_seconds for node in self._remote.values())]
        if not all(used):
            return {}
        return {owner: sum(each.get(owner, 0.0) for each in used) for owner in set().union(*used)}

    @property
    def missing_layers(self) -> list[str]:
        """The layers of confinement that any node lacks."""
        remote = {layer for node in self._remote.values() for layer in node.status.missing_layers}
        return sorted({*self._own.missing_layers, *remote})

    # --- nodes -------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start the local workers, and accept nodes."""
        await self._own.start()
        if self._local is not None:
            local = self._local
            self._metrics.add_node(local.name, lambda: local.workers, lambda: local.jobs)
        await self._membership.start(self)

    async def close(self, grace: float) -> None:
        """Wait up to `grace` seconds for the images of all nodes, then disconnect these."""
        deadline = time.monotonic() + grace
        await self._own.close(grace)
        while any(node.jobs for node in self._remote.values()):
            self._changed.clear()
            try:
                async with asyncio.timeout(deadline - time.monotonic()):
                    await self._changed.wait()
            except TimeoutError:
                break
        for node in self._remote.values():
            node.lose("the service stops")
        await self._membership.close()

    async def use(self, name: str, link: NodeLink) -> None:
        """Use a node until it is lost or has left. Raise an exception if it is lost."""
        node = RemoteNode(name, link, self._losses, self._limits, self._changed)
        self._remote[name] = node
        self._metrics.add_node(name, lambda: node.workers, lambda: node.jobs)
        try:
            await node.run()
        finally:
            node.lose(f"the node {name} does not respond, or has left")
            del self._remote[name]
            self._metrics.remove_node(name)

    # --- images ------------------------------------------------------------------------------

    async def make_thumbnail(self, data: bytes) -> bytes:
        """Return the thumbnail of an output. A worker of the coordinator makes it."""
        return await self._own.make_thumbnail(data)

    @asynccontextmanager
    async def fetch(
        self, claim: Claim, conditions: Conditions | None
    ) -> AsyncIterator[Fetched | None]:
        """Fetch the source at the node with the most free capacity. Wait until there is a node."""
        if self._sample is not None and self._sample.own_name(claim.url) is not None:
            async with self._own.fetch(claim, conditions) as fetched:
                yield fetched
            return
        if self._losses.is_suspect(claim):
            async with self._fetch_alone(claim, conditions) as fetched:
                yield fetched
            return
        node = await self._find(self._pick)
        async with node.fetch(claim, conditions) as fetched:
            self._metrics.node_images.labels(node.name).inc()
            yield fetched

    @asynccontextmanager
    async def _fetch_alone(
        self, claim: Claim, conditions: Conditions | None
    ) -> AsyncIterator[Fetched | None]:
        """Fetch an image that may have ended nodes, at a node without other images."""
        async with self._one_suspect:
            node = await self._find(self._pick_for_suspect)
            node.reserved = True
            try:
                while node.jobs and node.lost is None:
                    self._changed.clear()
                    await self._changed.wait()
                async with node.fetch(claim, conditions) as fetched:
                    self._metrics.node_images.labels(node.name).inc()
                    yield fetched
            finally:
                node.reserved = False
                self._changed.set()

    async def _find(self, pick: Callable[[], NodeHandle | None]) -> NodeHandle:
        while (node := pick()) is None:
            self._changed.clear()
            await self._changed.wait()
        return node

    def _pick(self) -> NodeHandle | None:
        """Return the node with the fewest jobs per worker, or None."""
        nodes = [node for node in self._nodes if node.accepts and not node.reserved]
        return min(nodes, key=lambda node: node.jobs / node.workers, default=None)

    def _pick_for_suspect(self) -> NodeHandle | None:
        """Return a remote node if there is one: to end the coordinator would cost most."""
        nodes: list[NodeHandle] = [node for node in self._remote.values() if node.accepts]
        return min(nodes, key=lambda node: node.jobs, default=None) or self._pick()
