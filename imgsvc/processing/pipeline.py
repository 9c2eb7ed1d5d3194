"""The Image Processing Service as a whole: its components, wired."""

from __future__ import annotations

from dataclasses import dataclass

from imgsvc.config import FetchConfig
from imgsvc.database.job_store import JobStore
from imgsvc.database.token_store import TokenStore
from imgsvc.execution.base import Executor
from imgsvc.metrics import Metrics
from imgsvc.network.circuit_breaker import CircuitBreakers
from imgsvc.processing.duplicates import Duplicates
from imgsvc.processing.events import Events
from imgsvc.processing.host_limiter import HostLimiter
from imgsvc.processing.job import JobRunner
from imgsvc.processing.limits import ProcessingLimits
from imgsvc.processing.results import ResultWriter
from imgsvc.processing.scheduler import Scheduler
from imgsvc.processing.unreachable_hosts import UnreachableHosts
from imgsvc.processing.webhook_queue import WebhookQueue
from imgsvc.storage.state import StorageState


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
    storage: StorageState
    metrics: Metrics
    limits: ProcessingLimits

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
            storage=self.storage,
            limits=limits,
        )
        self.unreachable_hosts = UnreachableHosts(
            self.job_store, self.breakers, self.results, limits
        )
