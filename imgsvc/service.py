"""The composition root: builds and starts all components, and stops them in reverse order."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

import aiohttp
from aiohttp import web

from imgsvc.config import Config, FetchConfig
from imgsvc.database.connection import Database, DatabaseUnavailableError
from imgsvc.database.job_store import JobStore
from imgsvc.database.queries import Queries
from imgsvc.database.request_store import RequestStore
from imgsvc.database.token_store import TokenStore
from imgsvc.database.webhook_store import WebhookStore
from imgsvc.errors import StartupError
from imgsvc.execution.base import Executor
from imgsvc.execution.local import LocalExecutor
from imgsvc.intake import Intake
from imgsvc.metrics import Metrics
from imgsvc.network.addresses import AddressRules
from imgsvc.network.byte_budget import ByteBudget
from imgsvc.network.circuit_breaker import CircuitBreakers
from imgsvc.network.fetch import Fetcher
from imgsvc.network.session import open_session
from imgsvc.network.webhooks import WebhookSender
from imgsvc.processing.backlog import BacklogMonitor
from imgsvc.processing.duplicates import Duplicates
from imgsvc.processing.events import Events
from imgsvc.processing.health import HealthMonitor, ServiceState
from imgsvc.processing.host_limiter import HostLimiter
from imgsvc.processing.job import JobRunner
from imgsvc.processing.limits import ProcessingLimits
from imgsvc.processing.maintenance import Maintenance
from imgsvc.processing.reconciliation import Reconciliation
from imgsvc.processing.request_actions import RequestActions
from imgsvc.processing.results import ResultWriter
from imgsvc.processing.scheduler import Scheduler
from imgsvc.processing.unreachable_hosts import UnreachableHosts
from imgsvc.processing.webhook_queue import WebhookQueue
from imgsvc.serializers import webhook_body
from imgsvc.storage.base import ImageStore
from imgsvc.storage.disk_space import DiskSpace
from imgsvc.storage.filesystem import FilesystemStore
from imgsvc.storage.lock import lock_data_dir
from imgsvc.storage.scratch import Scratch
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
RECOVERY_RETRY_SECONDS = 1.0
"""Delay before the recovery at startup is repeated while the database accepts no writes."""
CLOSE_SECONDS = 3.0
"""Part of `server.shutdown_seconds` that is reserved for closing resources."""
COMMIT_GRACE_SECONDS = 1.0
"""Time for the last commits at shutdown. Uncommitted images are processed again at the next start."""
RESPONSE_GRACE_SECONDS = 0.5
"""Time that active responses get to finish at shutdown, and the same time again to be aborted."""


@dataclass
class Processing:
    """The Image Processing Service, wired from the parts that it connects.

    Claims go from the scheduler to the jobs; outcomes go from the jobs to the results.
    """

    config: FetchConfig
    job_store: JobStore
    token_store: TokenStore
    executor: Executor
    events: Events
    webhook_queue: WebhookQueue
    disk_space: DiskSpace
    metrics: Metrics
    limits: ProcessingLimits = field(default_factory=ProcessingLimits)

    def __post_init__(self) -> None:
        config, limits = self.config, self.limits
        self.breakers = CircuitBreakers()
        self.results = ResultWriter(
            self.job_store,
            duplicates := Duplicates(self.token_store),
            events=self.events,
            webhook_queue=self.webhook_queue,
            metrics=self.metrics,
            limits=limits,
        )
        self.scheduler = Scheduler(
            self.job_store,
            JobRunner(
                self.executor,
                duplicates,
                self.breakers,
                self.metrics,
                max_attempts=config.attempts,
                limits=limits,
            ),
            self.results,
            host_limiter=HostLimiter(config.concurrency, config.per_host, self.breakers),
            breakers=self.breakers,
            disk_space=self.disk_space,
            limits=limits,
        )
        self.unreachable_hosts = UnreachableHosts(
            self.job_store, self.breakers, self.results, limits
        )


def create_store(config: Config, disk_space: DiskSpace) -> ImageStore:
    """Return the store of outputs that the configuration selects."""
    return FilesystemStore(config.storage.data_dir, disk_space)


def create_executor(
    config: Config, session: aiohttp.ClientSession, store: ImageStore, metrics: Metrics
) -> Executor:
    """Return the executor that the configuration selects."""
    fetcher = Fetcher(session, config.fetch, ByteBudget(MAX_FETCHED_BYTES))
    return LocalExecutor(fetcher, WorkerPool(config.compress), store, metrics)


class Service:
    """All components of one service. Use `running` to create and run one."""

    def __init__(self, config: Config, database: Database) -> None:
        self.config = config
        self.url = ""
        self._tasks: set[asyncio.Task[None]] = set()
        self._process_queue: asyncio.Task[None] | None = None
        self._ended = asyncio.Event()
        self.metrics = metrics = Metrics()
        self.queries = Queries(database)
        self.events = events = Events(self.queries)
        storage = config.storage
        self._disk_space = disk_space = DiskSpace(storage.data_dir, storage.min_free_bytes)
        self._scratch = Scratch(storage.data_dir)
        self.store = store = create_store(config, disk_space)
        self._session = session = open_session(
            config.fetch, AddressRules(config.fetch.allowed_networks)
        )
        self._executor = executor = create_executor(config, session, store, metrics)
        self.monitor = HealthMonitor(database, executor, disk_space)
        self._request_store = request_store = RequestStore(database)
        self._job_store = job_store = JobStore(
            database, partial(webhook_body, retention_days=storage.retention_days)
        )
        self._token_store = token_store = TokenStore(database)
        self._webhook_queue = webhook_queue = WebhookQueue(
            WebhookStore(database),
            WebhookSender(session, config.webhook),
            config.webhook,
            events=events,
            metrics=metrics,
        )
        self._processing = processing = Processing(
            config.fetch,
            job_store,
            token_store,
            executor,
            events,
            webhook_queue,
            disk_space,
            metrics,
        )
        self._scheduler = scheduler = processing.scheduler
        self._maintenance = maintenance = Maintenance(request_store, token_store, store, storage)
        self.actions = RequestActions(
            job_store,
            request_store,
            scheduler,
            maintenance,
            results=processing.results,
            events=events,
            limits=processing.limits,
        )
        self.intake = Intake(
            request_store,
            config.server,
            metrics,
            disk_space,
            scheduler=scheduler,
            maintenance=maintenance,
        )

    @property
    def app_context(self) -> AppContext:
        """The components that the web layer uses."""
        return AppContext(
            config=self.config,
            intake=self.intake,
            queries=self.queries,
            actions=self.actions,
            store=self.store,
            scratch=self._scratch,
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
        await self._executor.start()
        self._start_task(self.events.publish(), "events")
        self._start_task(self._maintenance.run(), "maintenance")
        self._start_task(Reconciliation(self._token_store, self.store).run(), "reconciliation")
        self._process_queue = self._start_task(self._scheduler.process_queue(), "scheduler")
        self._start_task(self._processing.unreachable_hosts.run(), "unreachable hosts")
        self._start_task(self._webhook_queue.run(), "webhooks")
        self._start_task(self.actions.resume(), "cancellations")
        self.monitor.state = ServiceState.RUNNING

    async def _recover(self) -> None:
        """Clean up what an earlier process left, retrying while the database accepts no writes."""
        while True:
            try:
                self._scratch.sweep()
                await self.store.sweep()
                await self._token_store.recover()
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
        await self._scheduler.stop(deadline - time.monotonic())
        if self._process_queue is not None:
            await asyncio.wait({self._process_queue}, timeout=COMMIT_GRACE_SECONDS)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._executor.close(max(0.0, deadline - time.monotonic()))

    async def close(self) -> None:
        """Close the resources that the constructor opened, whether `start` was called or not."""
        await self._session.close()
        await self.store.close()
        self._scratch.close()

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
        gauge = self.metrics.gauge
        gauge(
            "in_flight",
            "Images being fetched, compressed or stored.",
            lambda: self._scheduler.in_flight,
        )
        gauge("watchers", "Clients watching a request.", lambda: self.events.watchers)
        gauge("free_bytes", "Free disk space for data_dir, in bytes.", self._disk_space.free)
        gauge("workers", "Worker processes.", lambda: self._executor.workers)
        gauge(
            "workers_busy",
            "Worker processes that are compressing images.",
            lambda: self._executor.busy,
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
