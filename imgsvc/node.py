"""The composition root of a node: joins a coordinator, works for it, and joins again if it is lost."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import ssl
import tempfile
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from distributed.security import Security

from imgsvc.adapters import create_local_executor
from imgsvc.config import Config
from imgsvc.errors import StartupError
from imgsvc.execution.cluster.dask_node import NodeWorker, ask_to_join, create_worker, quiet_dask
from imgsvc.execution.cluster.limits import ClusterLimits
from imgsvc.execution.cluster.messages import JoinRequest, Refusal, Welcome
from imgsvc.execution.cluster.node_jobs import Contact, NodeJobs
from imgsvc.execution.cluster.security import security_for
from imgsvc.execution.cluster.versions import own_versions
from imgsvc.metrics import Metrics
from imgsvc.network.addresses import AddressRules
from imgsvc.network.session import open_session
from imgsvc.storage.bucket import open_bucket
from imgsvc.waiting import wait_for_event

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class NodeOptions:
    """The options of a node. `workers`: 0 for the number that the coordinator uses.

    `stop_seconds`: how long it finishes its images after SIGTERM.
    """

    address: str
    certificates: Path
    name: str = ""
    workers: int = 0
    stop_seconds: float = 30.0


async def run_node(options: NodeOptions, limits: ClusterLimits = ClusterLimits()) -> int:
    """Run a node until SIGTERM or SIGINT; return the exit code. A second signal exits at once.

    Raise `StartupError` if the coordinator refuses the node.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal(number: signal.Signals) -> None:
        if stop.is_set():
            os._exit(128 + number)
        log.info("stopping", extra={"signal": number.name})
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    node = NodeRunner(options, security_for(options.address, options.certificates), stop, limits)
    await node.run()
    log.info("stopped")
    return 0


class NodeRunner:
    """Works for one coordinator after another, until `stop` is set."""

    def __init__(
        self, options: NodeOptions, security: Security, stop: asyncio.Event, limits: ClusterLimits
    ) -> None:
        self._options = options
        self._security = security
        self._stop = stop
        self._limits = limits
        self._name = options.name or f"{socket.gethostname()}-{os.getpid()}"

    async def run(self) -> None:
        """Join, and work until the coordinator is lost; repeat that until `stop` is set.

        Raise `StartupError` if the coordinator refuses this node, or has other settings than before.
        """
        quiet_dask()
        request = JoinRequest(self._name, await own_versions())
        first = await self._join(request)
        if first is None:
            return
        async with AsyncExitStack() as stack:
            contact = Contact(self._limits.fence_seconds)
            jobs = await self._start_executor(stack, first, contact)
            scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="imgsvc-node-"))
            welcome: Welcome | None = first
            while welcome is not None:
                await self._work(jobs, contact, scratch)
                welcome = await self._join(request)
                if welcome is not None and welcome != first:
                    raise StartupError(
                        "The coordinator has other settings now. Start the node again."
                    )

    async def _join(self, request: JoinRequest) -> Welcome | None:
        """Return the settings of the coordinator, as soon as it responds. None: `stop` was set."""
        reported = False
        while not self._stop.is_set():
            try:
                answer = await ask_to_join(
                    self._options.address, self._security, request, self._limits
                )
            except OSError as error:
                self._check_certificate(error)
                if not reported:
                    log.warning("the coordinator does not respond; retrying: %s", error)
                reported = True
                await wait_for_event(self._stop, self._limits.rejoin_seconds)
            else:
                if isinstance(answer, Refusal):
                    raise StartupError(answer.reason)
                return answer
        return None

    def _check_certificate(self, error: BaseException | None) -> None:
        """Raise `StartupError` if the error is that a certificate is refused."""
        while error is not None:
            if isinstance(error, ssl.SSLError):
                raise StartupError(
                    f"The certificate was refused ({error.reason or error}). Make one with `imgsvc "
                    "cluster certs` on the coordinator, and copy its folder to this node."
                )
            error = getattr(error, "real_error", None) or error.__cause__ or error.__context__

    async def _start_executor(
        self, stack: AsyncExitStack, welcome: Welcome, contact: Contact
    ) -> NodeJobs:
        """Start the workers of this node, for as long as `stack` is open."""
        compress = welcome.compress
        if self._options.workers:
            compress = compress.model_copy(update={"workers": self._options.workers})
        config = Config(fetch=welcome.fetch, compress=compress)
        store = open_bucket(welcome.bucket, welcome.endpoint, fence=contact)
        stack.push_async_callback(store.close)
        session = open_session(config.fetch, AddressRules(config.fetch.allowed_networks))
        stack.push_async_callback(session.close)
        executor = create_local_executor(config, session, store, Metrics())
        stack.push_async_callback(executor.close, 0.0)
        await executor.start()
        jobs = NodeJobs(executor, store, contact, self._limits)
        stack.push_async_callback(jobs.close)
        return jobs

    async def _work(self, jobs: NodeJobs, contact: Contact, scratch: str) -> None:
        """Work for the coordinator until it is lost, or `stop` is set and all jobs have ended."""
        contact.record()
        worker = create_worker(self._options.address, self._security, self._name, jobs, scratch)
        try:
            await worker
        except Exception:
            log.warning("cannot join the coordinator; retrying", exc_info=True)
            await wait_for_event(self._stop, self._limits.rejoin_seconds)
            return
        try:
            log.info("joined", extra={"node": self._name})
            await self._until_over(worker, jobs, contact)
        finally:
            jobs.drop_all()
            await worker.close()

    async def _until_over(self, worker: NodeWorker, jobs: NodeJobs, contact: Contact) -> None:
        """Return when the coordinator is lost, or `stop` is set and the node has left."""
        finished = asyncio.create_task(worker.finished())
        lost = asyncio.create_task(contact.wait_lost())
        stopping = asyncio.create_task(self._stop.wait())
        released = asyncio.create_task(jobs.released.wait())
        try:
            ended = {finished, lost}
            await asyncio.wait({*ended, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if self._stop.is_set() and not finished.done():
                jobs.leave()
                await asyncio.wait(
                    {*ended, released},
                    timeout=self._options.stop_seconds,
                    return_when=asyncio.FIRST_COMPLETED,
                )
            else:
                log.warning("the coordinator is lost; joining again")
        finally:
            for task in (finished, lost, stopping, released):
                task.cancel()
            with suppress(asyncio.CancelledError):
                await asyncio.gather(finished, lost, stopping, released, return_exceptions=True)
