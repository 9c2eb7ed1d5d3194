"""The composition root: builds everything, in order, and takes it down in reverse."""

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
from ipaddress import ip_address

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
from imgsvc.web.app import AppContext, create_app
from imgsvc.web.server import Runner
from imgsvc.workers.pool import WorkerPool

log = logging.getLogger(__name__)

DATABASE = "imgsvc.db"
FETCHED_BYTES = 40 * 2**20
"""Bytes that are fetched and not yet compressed, in all."""
FETCHED_AHEAD = 16
"""Images that may be fetched ahead for each worker: two messages full of small ones."""
MOST_FILES = 65_536
NEW_OBJECTS = 10_000
"""New objects after which garbage is looked for: a large table makes many, and leaves none."""
RECOVERY_SECONDS = 1.0
"""How often a start tries again to take up the work, while the database takes no write."""
CLOSE_SECONDS = 3.0
"""What is left of the time to shut down for closing what is quick to close."""
COMMIT_SECONDS = 1.0
"""How long the last commits may take; what is not committed is done again at the next start."""
READER_SECONDS = 0.5
"""How long a reader that is still at it has to end, and then once more to be cut off."""


class Service:
    """All parts of one running service. `running` makes one."""

    def __init__(self, config: Config, database: Database) -> None:
        self.config = config
        self.url = ""
        self._tasks: set[asyncio.Task[None]] = set()
        self._processing: asyncio.Task[None] | None = None
        self._ended = asyncio.Event()
        self.metrics = metrics = Metrics()
        self.snapshots = Queries(database)
        self.events = events = Events(self.snapshots)
        self._database = database
        self._space = space = DiskSpace(config.storage.data_dir, config.storage.min_free_bytes)
        self.files = files = FilesystemStore(config.storage.data_dir)
        self._uploads = uploads = RequestStore(database)
        self._work = work = JobStore(
            database, partial(webhook_body, retention_days=config.storage.retention_days)
        )
        self._pool = pool = WorkerPool(config.compress)
        self.monitor = HealthMonitor(database, pool, has_free_space=space.has_free_space)
        self._housekeeping = Maintenance(uploads, files, config.storage)
        rules = AddressRules(config.fetch.allowed_networks)
        self._session = session = open_session(config.fetch, rules)
        self._breakers = breakers = CircuitBreakers()
        fetcher = Fetcher(session, config.fetch, ByteBudget(FETCHED_BYTES))
        self._deliveries = WebhookQueue(
            WebhookStore(database),
            WebhookSender(session, config.webhook),
            config.webhook,
            metrics,
            mark_changed=events.mark_changed,
        )
        pipeline = Pipeline(
            work,
            fetcher,
            pool,
            files,
            host_limiter=HostLimiter(config.fetch.concurrency, config.fetch.per_host),
            metrics=metrics,
            has_free_space=space.has_free_space,
            may_fetch=breakers.may_fetch,
        )
        self.queue = queue = Scheduler(
            work,
            pipeline,
            breakers,
            config.fetch,
            metrics,
            fetched_ahead=FETCHED_AHEAD * pool.workers,
            has_free_space=space.has_free_space,
            mark_changed=events.mark_changed,
            finished=self._finished,
            orphaned_files=self._housekeeping.delete_orphans,
        )
        self.control = RequestActions(
            work, uploads, queue, self._housekeeping, mark_changed=events.mark_changed
        )
        self.intake = Intake(
            uploads,
            config.server,
            metrics,
            has_free_space=space.has_free_space,
            on_accepted=queue.wake,
            on_discarded=self._housekeeping.wake,
        )

    def _finished(self, requests: Sequence[FinishedRequest]) -> None:
        self.events.mark_changed((request.request_key for request in requests), urgent=True)
        self._deliveries.wake()

    @property
    def parts(self) -> AppContext:
        """What the web layer gets."""
        return AppContext(
            config=self.config,
            intake=self.intake,
            snapshots=self.snapshots,
            control=self.control,
            files=self.files,
            events=self.events,
            health=self.monitor.health,
            metrics=self.metrics.registry,
        )

    async def start(self) -> None:
        """Recover what an earlier process left, and begin to work."""
        self._measure()
        self._own(self.monitor.watch(), "watch")
        await self._recover()
        await self._pool.start()
        self._own(self.events.publish(), "events")
        self._own(self._housekeeping.run(), "housekeeping")
        self._processing = self._own(self.queue.process_queue(), "queue")
        self._own(self._deliveries.run(), "webhooks")
        self._own(self.control.resume(), "cancelling")
        self.monitor.state = ServiceState.RUNNING

    async def _recover(self) -> None:
        """Put in order what an earlier process left, however long the database takes no write."""
        while True:
            try:
                await self.files.sweep(await self._work.in_flight_tokens())
                await self._work.recover()
                await self._uploads.discard_abandoned()
            except DatabaseUnavailableError:  # the monitor tells of it
                await asyncio.sleep(RECOVERY_SECONDS)
            else:
                return

    async def stop(self) -> None:
        """Refuse what comes, finish or put back what is in flight, in time, and let go of the rest."""
        deadline = time.monotonic() + self.config.server.shutdown_seconds - CLOSE_SECONDS
        self.monitor.state = ServiceState.STOPPING
        self.intake.stop()
        self.events.close()
        await self.control.close()
        await self.queue.stop(deadline - time.monotonic())
        if self._processing is not None:
            await asyncio.wait({self._processing}, timeout=COMMIT_SECONDS)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._pool.close(max(0.0, deadline - time.monotonic()))

    async def close(self) -> None:
        """Let go of what it holds since it was made, started or not."""
        await self._session.close()
        await self.files.close()

    async def ended(self) -> None:
        """Wait until a part has ended that should not have: the service is of no use any more."""
        await self._ended.wait()

    def _own(self, work: Coroutine[object, object, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._task_ended)
        return task

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.critical("a part of the service has failed: %s", task.get_name(), exc_info=error)
            self._ended.set()

    def _measure(self) -> None:
        self.metrics.gauge("in_flight", "Images in flight.", lambda: self.queue.in_flight)
        self.metrics.gauge(
            "watchers", "Clients that watch a request.", lambda: self.events.watchers
        )
        self.metrics.gauge("free_bytes", "Free bytes in data_dir.", self._space.free)
        self.metrics.gauge("workers", "Worker processes.", lambda: self._pool.workers)
        self.metrics.gauge("workers_busy", "Worker processes at work.", lambda: self._pool.busy)


@asynccontextmanager
async def running(config: Config, *, listen: bool = True) -> AsyncIterator[Service]:
    """Run the service, over HTTP unless told not to, until the block ends.

    Raises `StartupError` where it cannot start.
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
        create_app(service.parts),
        access_log=None,
        handle_signals=False,
        shutdown_timeout=READER_SECONDS,
    )
    await runner.setup()
    try:
        site = web.TCPSite(runner, server.host, server.port, backlog=1024)
        try:
            await site.start()
        except OSError as error:
            raise StartupError(
                f"cannot listen on {server.host}:{server.port}: {error.strerror}. "
                "Is another service there? Choose another server.port."
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
    if not config.server.api_keys and not _is_loopback(config.server.host):
        log.warning(
            "ANYONE WHO REACHES THIS ADDRESS CAN USE THIS SERVICE: it listens on %s without API "
            "keys. Set server.api_keys, or listen on 127.0.0.1.",
            config.server.host,
        )


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _allow_many_files() -> None:
    """Let this process open as many files as it may: each origin's connection is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_FILES if hard == resource.RLIM_INFINITY else min(MOST_FILES, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _look_for_garbage_seldom() -> None:
    """Spare the event loop the collector's pauses: the program's own objects stay, to the end."""
    gc.freeze()
    gc.set_threshold(NEW_OBJECTS)


async def serve(config: Config) -> int:
    """Serve until a signal comes; return the exit code. A second signal exits at once."""
    _allow_many_files()
    _look_for_garbage_seldom()
    loop = asyncio.get_running_loop()
    asked, started = asyncio.Event(), asyncio.Event()
    serving = asyncio.create_task(_serve_until(asked, config, started))

    def on_signal(number: signal.Signals) -> None:
        if asked.is_set():
            os._exit(128 + number)
        log.info("stopping", extra={"signal": number.name})
        asked.set()
        if not started.is_set():  # It may be waiting, for a locked database for example.
            serving.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    try:
        await serving
    except asyncio.CancelledError:
        if not asked.is_set():
            raise
    log.info("stopped")
    return 0 if asked.is_set() else 1


async def _serve_until(asked: asyncio.Event, config: Config, started: asyncio.Event) -> None:
    async with running(config) as service:
        started.set()
        waits = {asyncio.create_task(asked.wait()), asyncio.create_task(service.ended())}
        _, pending = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
