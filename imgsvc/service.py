"""The composition root: builds and starts all components, and stops them in reverse order."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

from imgsvc.adapters import Replacements, create_executor, create_store, reconciliation_limits
from imgsvc.config import Config
from imgsvc.database import tokens
from imgsvc.database.connection import Database, DatabaseDamagedError, DatabaseUnavailableError
from imgsvc.database.stores import Stores
from imgsvc.gauges import register_gauges
from imgsvc.intake import Intake, UploadResources
from imgsvc.limits import ServiceLimits
from imgsvc.logs import RARELY
from imgsvc.machine_errors import MACHINE_ERROR_EVENT, is_machine_error
from imgsvc.metrics import Metrics
from imgsvc.network.addresses import AddressRules
from imgsvc.network.session import open_session
from imgsvc.network.webhooks import WebhookSender
from imgsvc.processing.backlog import BacklogMonitor
from imgsvc.processing.clock import ExpiryClock
from imgsvc.processing.health import HealthMonitor, ServiceState
from imgsvc.processing.maintenance import Maintenance
from imgsvc.processing.pipeline import Processing
from imgsvc.processing.reconciliation import Reconciliation
from imgsvc.processing.request_actions import RequestActions
from imgsvc.processing.thumbnails import Thumbnails
from imgsvc.processing.webhook_queue import WebhookQueue
from imgsvc.sample import Sample
from imgsvc.serializers import webhook_body
from imgsvc.spreadsheets import Spreadsheets
from imgsvc.storage.base import StorageUnavailableError, StoreClaimedError
from imgsvc.storage.disk_space import DiskSpace
from imgsvc.storage.lock import lock_data_dir
from imgsvc.storage.scratch import Scratch
from imgsvc.storage.state import StorageState
from imgsvc.storage.thumbnail_cache import ThumbnailCache
from imgsvc.web.app import create_app
from imgsvc.web.context import AppContext
from imgsvc.web.http.server import listening

log = logging.getLogger(__name__)

DATABASE = "imgsvc.db"
"""The name of the database file in `data_dir`."""
CLOSE_SECONDS = 3.0
"""Part of `server.shutdown_seconds` that is reserved for closing resources."""
COMMIT_GRACE_SECONDS = 1.0
"""Time for the last commits at shutdown. Uncommitted images are processed again at the next start."""


class Service:
    """All components of one service. Use `running` to create and run one."""

    def __init__(
        self,
        config: Config,
        database: Database,
        sample: Sample,
        limits: ServiceLimits = ServiceLimits(),
        replacements: Replacements = Replacements(),
    ) -> None:
        self.config = config
        self.url = ""
        self.sample = sample
        self._tasks: set[asyncio.Task[None]] = set()
        self._process_queue: asyncio.Task[None] | None = None
        self._ended = asyncio.Event()
        self.limits = limits
        self.metrics = metrics = Metrics()
        storage = config.storage
        self.stores = stores = Stores(
            database,
            partial(webhook_body, retention_days=storage.retention_days),
            limits.database,
        )
        self.queries = stores.queries
        self.events = events = replacements.events(self.queries)
        self.disk_space = disk_space = replacements.disk_space or DiskSpace(
            storage.data_dir, storage.min_free_bytes
        )
        self.store = store = replacements.store or create_store(config, disk_space)
        self._storage = StorageState(disk_space, store)
        self._session = session = open_session(
            config.fetch, AddressRules(config.fetch.allowed_networks)
        )
        self._webhook_session = webhook_session = open_session(
            config.fetch,
            AddressRules(config.webhook_networks, setting="webhook.allowed_networks"),
        )
        self.executor = executor = create_executor(
            config, session, store, metrics, replacements, sample=sample
        )
        self.monitor = HealthMonitor(database, executor, self._storage, limits.health)
        self._webhook_queue = WebhookQueue(
            stores.webhook_store,
            WebhookSender(webhook_session, config.webhook),
            config.webhook,
            events=events,
            metrics=metrics,
            limits=limits.webhooks,
        )
        self.processing = Processing(
            config.fetch,
            stores.job_store,
            stores.token_store,
            executor,
            events,
            self._webhook_queue,
            self._storage,
            metrics,
            limits.processing,
        )
        self._create_user_interface()

    def _create_user_interface(self) -> None:
        """Create the components that users call: uploads and actions on requests."""
        stores, limits, processing = self.stores, self.limits, self.processing
        self._scratch = Scratch(self.config.storage.data_dir, self.disk_space)
        self._spreadsheets = Spreadsheets(self.config, self._scratch)
        self._thumbnail_cache = ThumbnailCache(self.config.storage.data_dir, self.disk_space)
        self.thumbnails = Thumbnails(
            stores.queries, self.store, self.executor, self._thumbnail_cache
        )
        self._maintenance = maintenance = Maintenance(
            stores.request_store,
            stores.token_store,
            self.store,
            self._thumbnail_cache,
            self.config.storage,
            clock=ExpiryClock(stores.clock_store),
            limits=limits.maintenance,
        )
        self.actions = RequestActions(
            stores.job_store,
            stores.request_store,
            processing.scheduler,
            maintenance,
            results=processing.results,
            events=self.events,
            limits=limits.processing,
        )
        self.intake = Intake(
            stores.request_store,
            self.config.server,
            self.metrics,
            UploadResources(self._storage, self._scratch, self._spreadsheets),
            scheduler=processing.scheduler,
            maintenance=maintenance,
            limits=limits.staging,
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
            thumbnails=self.thumbnails,
            scratch=self._scratch,
            sample=self.sample,
            events=self.events,
            health=self.monitor,
            metrics=self.metrics,
            sessions=self.stores.session_store,
            connections=self.limits.connections,
            event_stream=self.limits.event_stream,
        )

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Serve HTTP at `url` until the block ends. Raise `StartupError` if that is impossible."""
        app, limits = create_app(self.app_context), self.limits.connections
        async with listening(app, self.config.server, limits) as self.url:
            yield

    async def start(self) -> None:
        """Recover the state that an earlier process left, then start all components."""
        register_gauges(
            self.metrics,
            self.executor,
            self.processing.scheduler,
            self.events,
            disk_space=self.disk_space,
            storage=self._storage,
        )
        self._start_task(self.monitor.watch(), "health monitor")
        backlog = BacklogMonitor(self.queries, self.metrics, self.limits.backlog_seconds)
        self._start_task(backlog.watch(), "backlog monitor")
        database = self.stores.database
        checking = self._start_task(database.check(), "database check")
        await asyncio.wait({checking}, timeout=self.limits.health.check_seconds)
        try:
            await self._recover()
        except DatabaseDamagedError:  # the service answers, but is not ready
            self.monitor.state = ServiceState.RUNNING
            return
        await self.executor.start()
        self._start_task(self.events.publish(), "events")
        self._start_task(self._maintenance.run(), "maintenance")
        self._start_task(self.store.watch(), "store")
        reconciliation = Reconciliation(
            self.stores.token_store,
            self.store,
            ExpiryClock(self.stores.clock_store),
            reconciliation_limits(self.config),
        )
        self._start_task(reconciliation.run(), "reconciliation")
        self._process_queue = self._start_task(
            self.processing.scheduler.process_queue(), "scheduler"
        )
        self._start_task(self.processing.unreachable_hosts.run(), "unreachable hosts")
        self._start_task(self._webhook_queue.run(), "webhooks")
        self._start_task(self.actions.resume(), "cancellations")
        self._start_task(self._stop_when_damaged(), "damage")
        self.monitor.state = ServiceState.RUNNING

    async def _recover(self) -> None:
        """Clean up what an earlier process left. Retry while the database or the store fails."""
        while True:
            try:
                self._scratch.sweep()
                await self.store.claim(*await self.stores.token_store.claimant())
                await self.store.sweep()
                await self.stores.token_store.recover()
                await self.stores.job_store.recover()
                await self.stores.request_store.discard_abandoned()
                await self.stores.session_store.recover(
                    [key.digest for key in self.config.server.all_keys]
                )
            except DatabaseDamagedError:
                raise
            except (DatabaseUnavailableError, StorageUnavailableError):
                # The health monitor reports it.
                await asyncio.sleep(self.limits.recovery_retry_seconds)
            except OSError as error:
                if not is_machine_error(error):
                    raise
                log.warning(MACHINE_ERROR_EVENT, extra={"reason": str(error), **RARELY})
                await asyncio.sleep(self.limits.recovery_retry_seconds)
            else:
                return

    async def _stop_when_damaged(self) -> None:
        """Stop all tasks once the database is damaged. Reads may still work."""
        await self.stores.database.damage.found.wait()
        for task in self._tasks - {asyncio.current_task()}:
            task.cancel()

    async def stop(self) -> None:
        """Refuse new work, finish or requeue jobs in flight before the deadline, stop all tasks."""
        deadline = time.monotonic() + self.config.server.shutdown_seconds - CLOSE_SECONDS
        self.monitor.state = ServiceState.STOPPING
        self.intake.stop()
        self.events.close()
        await self.actions.close()
        await self.processing.scheduler.stop(deadline - time.monotonic())
        if self._process_queue is not None:
            await asyncio.wait({self._process_queue}, timeout=COMMIT_GRACE_SECONDS)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.executor.close(max(0.0, deadline - time.monotonic()))
        await self.thumbnails.close()

    async def close(self) -> None:
        """Close the resources that the constructor opened, whether `start` was called or not."""
        await self._session.close()
        await self._webhook_session.close()
        await self.store.close()
        self._thumbnail_cache.close()
        self._spreadsheets.close()
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
        if task.cancelled() or (error := task.exception()) is None:
            return
        if isinstance(error, StoreClaimedError):
            log.critical("%s", error)
        else:
            log.critical(
                "a component of the service has failed: %s", task.get_name(), exc_info=error
            )
        self._ended.set()


async def _secret(database: Database) -> bytes:
    """Return the secret of the instance. If the database is damaged, return one that nothing uses."""
    try:
        return await database.read(tokens.secret)
    except DatabaseDamagedError:  # the service starts, and is not ready
        return secrets.token_bytes(tokens.SECRET_BYTES)


@asynccontextmanager
async def opened(
    config: Config,
    *,
    limits: ServiceLimits = ServiceLimits(),
    replacements: Replacements = Replacements(),
) -> AsyncIterator[Service]:
    """Lock the data folder, open its database, and wire a service that is not started.

    Raise `StartupError` if the folder or the database cannot be used.
    """
    async with AsyncExitStack() as stack:
        stack.enter_context(lock_data_dir(config.storage.data_dir, DATABASE))
        database = await Database.open(config.storage.data_dir / DATABASE, limits.database)
        stack.push_async_callback(database.close)
        sample = Sample(await _secret(database))
        service = Service(config, database, sample, limits, replacements)
        stack.push_async_callback(service.close)
        yield service


@asynccontextmanager
async def running(
    config: Config, *, listen: bool = True, limits: ServiceLimits = ServiceLimits()
) -> AsyncIterator[Service]:
    """Run the service until the block ends.

    `listen`: also serve HTTP. Raise `StartupError` if the service cannot start.
    """
    async with AsyncExitStack() as stack:
        service = await stack.enter_async_context(opened(config, limits=limits))
        if listen:
            await stack.enter_async_context(service.listening())
        stack.push_async_callback(service.stop)
        await service.start()
        yield service
