"""The composition root: builds and starts all components, and stops them in reverse order."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import resource
import signal
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

from aiohttp import web

from imgsvc.config import Config
from imgsvc.database.connection import Database, DatabaseUnavailableError
from imgsvc.database.job_store import JobStore
from imgsvc.database.queries import Queries
from imgsvc.database.request_store import RequestStore
from imgsvc.database.webhook_store import WebhookStore
from imgsvc.errors import StartupError
from imgsvc.intake import Intake
from imgsvc.metrics import Metrics
from imgsvc.models import FinishedRequest
from imgsvc.network.addresses import AddressRules
from imgsvc.network.byte_budget import ByteBudget
from imgsvc.network.circuit_breaker import CircuitBreakers
from imgsvc.network.fetch import Fetcher
from imgsvc.network.session import open_session
from imgsvc.network.webhooks import WebhookSender
from imgsvc.processing.backlog import BacklogMonitor
from imgsvc.processing.events import Events
from imgsvc.processing.health import HealthMonitor, ServiceState
from imgsvc.processing.host_limiter import HostLimiter
from imgsvc.processing.maintenance import Maintenance
from imgsvc.processing.pipeline import Pipeline
from imgsvc.processing.request_actions import RequestActions
from imgsvc.processing.scheduler import Scheduler
from imgsvc.processing.webhook_queue import WebhookQueue
from imgsvc.serializers import webhook_body
from imgsvc.storage.disk_space import DiskSpace
from imgsvc.storage.filesystem import FilesystemStore
from imgsvc.storage.lock import lock_data_dir
from imgsvc.urls import is_loopback
from imgsvc.web.app import create_app
from imgsvc.web.context import AppContext
from imgsvc.web.http.server import Runner
from imgsvc.workers.pool import WorkerPool

log = logging.getLogger(__name__)

DATABASE = "imgsvc.db"
"""The name of the database file in `data_dir`."""
MAX_FETCHED_BYTES = 40 * 2**20
"""Maximum size of all sources that are fetched and not yet compressed."""
FETCHED_AHEAD_PER_WORKER = 16
"""Images that may be fetched ahead for each worker: two full batches of small images."""
MAX_OPEN_FILES = 65_536
GC_THRESHOLD = 10_000
"""New objects that trigger a garbage collection. High, because reading a large table creates many
objects and leaves no garbage."""
RECOVERY_RETRY_SECONDS = 1.0
"""Delay before the recovery at startup is repeated while the database accepts no writes."""
CLOSE_SECONDS = 3.0
"""Part of `server.shutdown_seconds` that is reserved for closing resources."""
COMMIT_GRACE_SECONDS = 1.0
"""Time for the last commits at shutdown. Uncommitted images are processed again at the next start."""
RESPONSE_GRACE_SECONDS = 0.5
"""Time that active responses get to finish at shutdown, and the same time again to be aborted."""


class Service:
    """All components of one service. Use `running` to create and run one."""

    def __init__(self, config: Config, database: Database) -> None:
        self.config = config
        self.url = ""
        self._tasks: set[asyncio.Task[None]] = set()
        self._processing: asyncio.Task[None] | None = None
        self._ended = asyncio.Event()
        self.metrics = metrics = Metrics()
        self.queries = Queries(database)
        self.events = events = Events(self.queries)
        self._database = database
        self._disk_space = disk_space = DiskSpace(
            config.storage.data_dir, config.storage.min_free_bytes
        )
        self.files = files = FilesystemStore(config.storage.data_dir)
        self._request_store = request_store = RequestStore(database)
        self._job_store = job_store = JobStore(
            database, partial(webhook_body, retention_days=config.storage.retention_days)
        )
        self._pool = pool = WorkerPool(config.compress)
        self.monitor = HealthMonitor(database, pool, has_free_space=disk_space.has_free_space)
        self._maintenance = Maintenance(request_store, files, config.storage)
        rules = AddressRules(config.fetch.allowed_networks)
        self._session = session = open_session(config.fetch, rules)
        self._breakers = breakers = CircuitBreakers()
        fetcher = Fetcher(session, config.fetch, ByteBudget(MAX_FETCHED_BYTES))
        self._webhook_queue = WebhookQueue(
            WebhookStore(database),
            WebhookSender(session, config.webhook),
            config.webhook,
            metrics,
            mark_changed=events.mark_changed,
        )
        pipeline = Pipeline(
            job_store,
            fetcher,
            pool,
            files,
            host_limiter=HostLimiter(config.fetch.concurrency, config.fetch.per_host),
            metrics=metrics,
            has_free_space=disk_space.has_free_space,
            may_fetch=breakers.may_fetch,
        )
        self.scheduler = scheduler = Scheduler(
            job_store,
            pipeline,
            breakers,
            config.fetch,
            metrics,
            fetched_ahead=FETCHED_AHEAD_PER_WORKER * pool.workers,
            has_free_space=disk_space.has_free_space,
            mark_changed=events.mark_changed,
            on_finished=self._on_finished,
            delete_orphans=self._maintenance.delete_orphans,
        )
        self.actions = RequestActions(
            job_store, request_store, scheduler, self._maintenance, mark_changed=events.mark_changed
        )
        self.intake = Intake(
            request_store,
            config.server,
            metrics,
            has_free_space=disk_space.has_free_space,
            on_accepted=scheduler.wake,
            on_discarded=self._maintenance.wake,
        )

    def _on_finished(self, requests: Sequence[FinishedRequest]) -> None:
        self.events.mark_changed((request.request_key for request in requests), urgent=True)
        self._webhook_queue.wake()

    @property
    def app_context(self) -> AppContext:
        """The components that the web layer uses."""
        return AppContext(
            config=self.config,
            intake=self.intake,
            queries=self.queries,
            actions=self.actions,
            files=self.files,
            events=self.events,
            health=self.monitor.health,
            metrics=self.metrics.registry,
        )

    async def start(self) -> None:
        """Recover the state that an earlier process left, then start all components."""
        self._register_gauges()
        self._start_task(self.monitor.watch(), "health monitor")
        self._start_task(BacklogMonitor(self.queries, self.metrics).watch(), "backlog monitor")
        await self._recover()
        await self._pool.start()
        self._start_task(self.events.publish(), "events")
        self._start_task(self._maintenance.run(), "maintenance")
        self._processing = self._start_task(self.scheduler.process_queue(), "scheduler")
        self._start_task(self._webhook_queue.run(), "webhooks")
        self._start_task(self.actions.resume(), "cancellations")
        self.monitor.state = ServiceState.RUNNING

    async def _recover(self) -> None:
        """Clean up what an earlier process left, retrying while the database accepts no writes."""
        while True:
            try:
                await self.files.sweep(await self._job_store.in_flight_tokens())
                await self._job_store.recover()
                await self._request_store.discard_abandoned()
            except DatabaseUnavailableError:  # the health monitor reports it
                await asyncio.sleep(RECOVERY_RETRY_SECONDS)
            else:
                return

    async def stop(self) -> None:
        """Refuse new work, finish or requeue jobs in flight before the deadline, stop all tasks."""
        deadline = time.monotonic() + self.config.server.shutdown_seconds - CLOSE_SECONDS
        self.monitor.state = ServiceState.STOPPING
        self.intake.stop()
        self.events.close()
        await self.actions.close()
        await self.scheduler.stop(deadline - time.monotonic())
        if self._processing is not None:
            await asyncio.wait({self._processing}, timeout=COMMIT_GRACE_SECONDS)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._pool.close(max(0.0, deadline - time.monotonic()))

    async def close(self) -> None:
        """Close the resources that the constructor opened, whether `start` was called or not."""
        await self._session.close()
        await self.files.close()

    async def ended(self) -> None:
        """Return when a component has failed: the service cannot continue."""
        await self._ended.wait()

    def _start_task(self, work: Coroutine[object, object, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._task_ended)
        return task

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.critical(
                "a component of the service has failed: %s", task.get_name(), exc_info=error
            )
            self._ended.set()

    def _register_gauges(self) -> None:
        self.metrics.gauge(
            "in_flight",
            "Images being fetched, compressed or stored.",
            lambda: self.scheduler.in_flight,
        )
        self.metrics.gauge("watchers", "Clients watching a request.", lambda: self.events.watchers)
        self.metrics.gauge(
            "free_bytes", "Free disk space for data_dir, in bytes.", self._disk_space.free
        )
        self.metrics.gauge("workers", "Worker processes.", lambda: self._pool.workers)
        self.metrics.gauge(
            "workers_busy", "Worker processes that are compressing images.", lambda: self._pool.busy
        )


@asynccontextmanager
async def running(config: Config, *, listen: bool = True) -> AsyncIterator[Service]:
    """Run the service until the block ends.

    `listen`: also serve HTTP. Raise `StartupError` if the service cannot start.
    """
    async with AsyncExitStack() as stack:
        stack.enter_context(lock_data_dir(config.storage.data_dir, DATABASE))
        database = await Database.open(config.storage.data_dir / DATABASE)
        stack.push_async_callback(database.close)
        service = Service(config, database)
        stack.push_async_callback(service.close)
        if listen:
            await stack.enter_async_context(_listening(service))
        stack.push_async_callback(service.stop)
        await service.start()
        yield service


@asynccontextmanager
async def _listening(service: Service) -> AsyncIterator[None]:
    server = service.config.server
    runner = Runner(
        create_app(service.app_context),
        access_log=None,
        handle_signals=False,
        shutdown_timeout=RESPONSE_GRACE_SECONDS,
    )
    await runner.setup()
    try:
        site = web.TCPSite(runner, server.host, server.port, backlog=1024)
        try:
            await site.start()
        except OSError as error:
            raise StartupError(
                f"Cannot listen on {server.host}:{server.port}: {error.strerror}. "
                "If another program uses this port, choose another server.port."
            ) from None
        _warn_if_open(service.config)
        host, port = runner.addresses[0][:2]
        url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        log.info("listening", extra={"url": url})
        service.url = url
        yield
    finally:
        await runner.cleanup()


def _warn_if_open(config: Config) -> None:
    if not config.server.api_keys and not is_loopback(config.server.host):
        log.warning(
            "ANYONE WHO CAN REACH THIS ADDRESS CAN USE THE SERVICE: it listens on %s without API "
            "keys. Set server.api_keys, or listen on 127.0.0.1.",
            config.server.host,
        )


def _raise_file_limit() -> None:
    """Raise this process's limit of open files: each connection to a host is an open file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(MAX_OPEN_FILES, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _collect_garbage_less_often() -> None:
    """Shorten the garbage collector's pauses of the event loop.

    Exclude the objects that exist now, which live until the program ends, and collect less often.
    """
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)


async def serve(config: Config) -> int:
    """Run the service until SIGTERM or SIGINT; return the exit code, 1 if a component has failed.

    A second signal exits at once.
    """
    _raise_file_limit()
    _collect_garbage_less_often()
    loop = asyncio.get_running_loop()
    stop_requested, started = asyncio.Event(), asyncio.Event()
    serving = asyncio.create_task(_serve_until(stop_requested, config, started))

    def on_signal(number: signal.Signals) -> None:
        if stop_requested.is_set():
            os._exit(128 + number)
        log.info("stopping", extra={"signal": number.name})
        stop_requested.set()
        if not started.is_set():  # The start may be waiting, for example for a locked database.
            serving.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    try:
        await serving
    except asyncio.CancelledError:
        if not stop_requested.is_set():
            raise
    log.info("stopped")
    return 0 if stop_requested.is_set() else 1


async def _serve_until(
    stop_requested: asyncio.Event, config: Config, started: asyncio.Event
) -> None:
    async with running(config) as service:
        started.set()
        waits = {
            asyncio.create_task(stop_requested.wait()),
            asyncio.create_task(service.ended()),
        }
        _, pending = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
