"""The connection of a node to its coordinator: a worker of Dask in this process, without a nanny."""

from __future__ import annotations

import logging
from typing import Any

from distributed import Worker, get_worker, rpc
from distributed.security import Security
from distributed.utils import get_ip

from imgsvc.execution.cluster.limits import ClusterLimits
from imgsvc.execution.cluster.messages import JoinRequest, Refusal, Welcome, decode, encode
from imgsvc.execution.cluster.node_jobs import NodeJobs


class NodeWorker(Worker):  # type: ignore[misc]  # Dask has no types
    """A worker of Dask that opens no HTTP server. `node_jobs`: the jobs of this process."""

    node_jobs: NodeJobs

    def start_http_server(self, *_: Any, **__: Any) -> None:
        """Open no port."""


class NodeActor:
    """The object at a node that the coordinator calls. It lasts as long as the coordinator."""

    def __init__(self) -> None:
        self._jobs: NodeJobs = get_worker().node_jobs

    async def attach(self) -> None:
        """Cancel the jobs of an earlier coordinator."""
        self._jobs.attach()

    async def give(self, orders: bytes) -> None:
        """Receive orders."""
        await self._jobs.give(decode(orders, list))

    async def take(self, seconds: float) -> bytes:
        """Return a report."""
        return encode(await self._jobs.take(seconds))


def quiet_dask() -> None:
    """Log what Dask reports about refused connections, in the format of this process, and no more.

    Dask logs a traceback for each lost connection. The coordinator and the node report those in words.
    """
    for name in ("distributed", "distributed.client", "tornado"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(logging.CRITICAL)
    logging.getLogger("distributed.comm.tcp").setLevel(logging.WARNING)


async def ask_to_join(
    address: str, security: Security, request: JoinRequest, limits: ClusterLimits
) -> Welcome | Refusal:
    """Return the coordinator's answer. Raise `OSError` if it cannot be reached."""
    args = security.get_connection_args("worker")
    async with rpc(address, connection_args=args, timeout=limits.order_seconds) as coordinator:
        answer = await coordinator.imgsvc_join(request=encode(request))
    return decode(answer, object)  # type: ignore[return-value]


def create_worker(
    address: str, security: Security, name: str, jobs: NodeJobs, scratch: str
) -> NodeWorker:
    """Return a worker that connects to the coordinator when it is awaited."""
    host = address.rpartition("://")[2].rpartition(":")[0].strip("[]")
    worker = NodeWorker(
        address,
        name=name,
        host=get_ip(host),
        security=security,
        nthreads=1,
        memory_limit=0,
        local_directory=scratch,
        dashboard=False,
        death_timeout=10,
        validate=False,
    )
    worker.node_jobs = jobs
    return worker
