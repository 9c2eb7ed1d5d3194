"""A coordinator and a node in this process, connected by TCP on loopback."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from distributed.security import Security

from imgsvc.config import CompressConfig, FetchConfig
from imgsvc.execution.base import Executor
from imgsvc.execution.cluster.dask_coordinator import DaskMembership
from imgsvc.execution.cluster.dask_node import NodeWorker, create_worker
from imgsvc.execution.cluster.executor import ClusterExecutor
from imgsvc.execution.cluster.limits import ClusterLimits
from imgsvc.execution.cluster.messages import Welcome
from imgsvc.execution.cluster.node_jobs import Contact, NodeJobs
from imgsvc.metrics import Metrics
from imgsvc.storage.base import ImageStore

WELCOME = Welcome(FetchConfig(), CompressConfig(), "", "")


class RunningNode:
    """A node with an executor and a store, and the coordinator that uses it.

    Starting `cluster` starts the coordinator, then the node.
    """

    def __init__(
        self, executor: Executor, store: ImageStore, limits: ClusterLimits = ClusterLimits()
    ) -> None:
        metrics = Metrics()
        security = Security()
        membership = DaskMembership(
            "tcp://127.0.0.1:0", security, WELCOME, metrics=metrics, limits=limits
        )
        self._membership = membership
        self.contact = Contact(limits.fence_seconds)
        self.jobs = NodeJobs(executor, store, self.contact, limits)
        self.cluster = ClusterExecutor(executor, self, metrics, local_node=False, limits=limits)
        self._worker: NodeWorker | None = None

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        with tempfile.TemporaryDirectory() as self._scratch:
            yield

    async def start(self, executor: ClusterExecutor) -> None:
        await self._membership.start(executor)
        self._worker = create_worker(
            self._membership.address, Security(), "node", self.jobs, self._scratch
        )
        await self._worker

    async def close(self) -> None:
        await self._membership.close()
        await self.jobs.close()
        assert self._worker is not None
        await self._worker.close()
