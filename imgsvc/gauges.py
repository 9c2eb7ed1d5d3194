"""The gauges of a running service. Their values are read from its components."""

from __future__ import annotations

from imgsvc.execution.base import Executor
from imgsvc.images import native
from imgsvc.metrics import Metrics
from imgsvc.processing.events import Events
from imgsvc.processing.scheduler import Scheduler
from imgsvc.storage.disk_space import DiskSpace
from imgsvc.storage.state import StorageState


def register_gauges(
    metrics: Metrics,
    executor: Executor,
    scheduler: Scheduler,
    events: Events,
    *,
    disk_space: DiskSpace,
    storage: StorageState,
) -> None:
    """Register the gauges that are read from components when Prometheus asks."""
    gauge = metrics.gauge
    gauge(
        "in_flight",
        "Images being fetched, compressed or stored.",
        lambda: scheduler.in_flight,
    )
    gauge("watchers", "Clients watching a request.", lambda: events.watchers)
    gauge("free_bytes", "Free disk space for data_dir, in bytes.", disk_space.free)
    gauge(
        "storage_available",
        "1 if images can be stored, 0 while the disk is full or the bucket fails.",
        lambda: float(storage.problem is None),
    )
    gauge(
        "native_module",
        "1 if the native module compresses JPEGs, 0 if it is not built.",
        lambda: float(native.AVAILABLE),
    )
    gauge("workers", "Worker processes.", lambda: executor.workers)
    gauge(
        "workers_busy",
        "Worker processes that are compressing images.",
        lambda: executor.busy,
    )
    gauge(
        "workers_missing_layers",
        "Layers of the confinement of workers that are missing. 0: workers are fully confined.",
        lambda: len(executor.missing_layers),
    )
