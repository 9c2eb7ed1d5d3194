"""The members of a cluster: a scheduler of Dask in this process. It schedules no images.

It knows the nodes, and connects to them. Each node has one actor, which the coordinator calls.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack
from typing import Any

from distributed import Client, Scheduler
from distributed.diagnostics.plugin import SchedulerPlugin
from distributed.security import Security

from imgsvc.errors import StartupError
from imgsvc.execution.cluster.dask_node import NodeActor, quiet_dask
from imgsvc.execution.cluster.executor import ClusterExecutor
from imgsvc.execution.cluster.limits import ClusterLimits
from imgsvc.execution.cluster.messages import (
    JoinRequest,
    Order,
    Refusal,
    Report,
    Welcome,
    decode,
    encode,
)
from imgsvc.execution.cluster.versions import differences, own_versions
from imgsvc.metrics import Metrics

log = logging.getLogger(__name__)


class _Scheduler(Scheduler):  # type: ignore[misc]  # Dask has no types
    """A scheduler that opens no HTTP server."""

    def start_http_server(self, *_: Any, **__: Any) -> None:
        """Open no port."""


class ActorLink:
    """A `NodeLink` to the actor of a node."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    async def give(self, orders: list[Order]) -> None:
        """Send orders to the node."""
        await self._actor.give(encode(orders))

    async def take(self, seconds: float) -> Report:
        """Return the report of the node."""
        return decode(await self._actor.take(seconds), Report)


class DaskMembership:
    """A `Membership` on Dask. `welcome`: the settings for nodes."""

    def __init__(
        self,
        listen: str,
        security: Security,
        welcome: Welcome,
        *,
        metrics: Metrics,
        limits: ClusterLimits = ClusterLimits(),
    ) -> None:
        self._listen = listen
        self._security = security
        self._welcome = welcome
        self._versions: dict[str, str] = {}
        self._metrics = metrics
        self._limits = limits
        self._nodes: dict[str, asyncio.Task[None]] = {}
        self._stack = AsyncExitStack()
        self._closing = False
        self.address = ""

    async def start(self, executor: ClusterExecutor) -> None:
        """Listen for nodes."""
        quiet_dask()
        self._versions = await own_versions()
        self._executor = executor
        protocol, _, place = self._listen.partition("://")
        host, _, port = place.rpartition(":")
        self._scheduler = _Scheduler(
            host=host.strip("[]"),
            port=int(port),
            protocol=protocol,
            security=self._security,
            dashboard=False,
        )
        self._scheduler.handlers["imgsvc_join"] = self._answer
        try:
            await self._stack.enter_async_context(self._scheduler)
        except OSError as error:
            raise StartupError(f"cluster.listen: cannot listen on {place}: {error}.") from None
        self.address = str(self._scheduler.address)
        self._client = await Client(
            self.address, security=self._security, asynchronous=True, direct_to_workers=True
        )
        self._stack.push_async_callback(self._client.close)
        self._scheduler.add_plugin(_NodeWatcher(self))
        log.info("listening for nodes", extra={"address": self.address})

    async def close(self) -> None:
        """Disconnect all nodes."""
        self._closing = True
        for task in self._nodes.values():
            task.cancel()
        await asyncio.gather(*self._nodes.values(), return_exceptions=True)
        await self._stack.aclose()

    async def _answer(self, request: bytes) -> bytes:
        """Answer a node that asks to join."""
        node = decode(request, JoinRequest)
        if not (found := differences(self._versions, node.versions)):
            return encode(self._welcome)
        log.error("refused the node %s: %s", node.name, found)
        return encode(Refusal(f"The coordinator has other versions: {found}. Install the same."))

    def add(self, address: str) -> None:
        """Attach to a node that has connected."""
        if not self._closing:
            self._nodes[address] = asyncio.create_task(self._use(address))

    def remove(self, address: str) -> None:
        """Lose a node whose connection has ended."""
        if (task := self._nodes.get(address)) is not None:
            task.cancel()

    async def _use(self, address: str) -> None:
        name = str(self._scheduler.workers[address].name)
        try:
            async with asyncio.timeout(self._limits.order_seconds):
                actor = await self._client.submit(
                    NodeActor,
                    actor=True,
                    workers=[address],
                    allow_other_workers=False,
                    pure=False,
                )
                await actor.attach()
            log.info("a node has joined", extra={"node": name})
            await self._executor.use(name, ActorLink(actor))
            log.info("a node has left", extra={"node": name})
        except BaseException as error:
            if not self._closing:
                self._metrics.nodes_lost.inc()
                log.warning("a node is lost", extra={"node": name, "reason": _reason(error)})
            if not isinstance(error, Exception | asyncio.CancelledError):
                raise
        finally:
            self._nodes.pop(address, None)
            if address in self._scheduler.workers:
                await self._scheduler.remove_worker(address, stimulus_id="imgsvc")


class _NodeWatcher(SchedulerPlugin):  # type: ignore[misc]  # Dask has no types
    """Reports to the membership which nodes have connected."""

    def __init__(self, membership: DaskMembership) -> None:
        self._membership = membership

    def add_worker(self, scheduler: Scheduler, worker: str) -> None:
        """Add a node."""
        self._membership.add(worker)

    def remove_worker(self, scheduler: Scheduler, worker: str, **_: Any) -> None:
        """Remove a node."""
        self._membership.remove(worker)


def _reason(error: BaseException) -> str:
    """Return why a node is lost."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, asyncio.CancelledError):
        return "its connection has ended"
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
