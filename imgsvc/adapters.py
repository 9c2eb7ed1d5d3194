"""Chooses the implementation of each seam: the store of outputs, and the executor."""

from __future__ import annotations

from dataclasses import dataclass

import aiohttp

from imgsvc.config import Config
from imgsvc.errors import StartupError
from imgsvc.execution.base import Executor
from imgsvc.execution.local import LocalExecutor
from imgsvc.metrics import Metrics
from imgsvc.network.byte_budget import ByteBudget
from imgsvc.network.fetch import Fetcher
from imgsvc.processing.events import Events
from imgsvc.processing.reconciliation import ReconciliationLimits
from imgsvc.sample import Sample
from imgsvc.storage.base import ImageStore
from imgsvc.storage.disk_space import DiskSpace
from imgsvc.storage.filesystem import FilesystemStore
from imgsvc.workers.pool import COMPRESS_FUNCTION, WorkerPool

MAX_FETCHED_BYTES = 40 * 2**20
"""Maximum size of all sources that are fetched and not yet compressed."""

BUCKET_LISTING_SECONDS = 6 * 3_600.0
"""Time between two comparisons of a bucket with the database."""


@dataclass(frozen=True, slots=True)
class Replacements:
    """Components that a service uses instead of those that its configuration selects.

    `compress_function`, `confined`: see `WorkerPool`.
    """

    disk_space: DiskSpace | None = None
    store: ImageStore | None = None
    executor: Executor | None = None
    events: type[Events] = Events
    compress_function: str = COMPRESS_FUNCTION
    confined: bool = True


def create_store(config: Config, disk_space: DiskSpace) -> ImageStore:
    """Return the store of outputs that the configuration selects."""
    storage = config.storage
    if not storage.bucket:
        return FilesystemStore(storage.data_dir, disk_space)
    try:
        # Not at the top: only a bucket needs obstore, which is an extra.
        from imgsvc.storage.bucket import open_bucket  # noqa: PLC0415
    except ImportError as error:
        raise StartupError(
            f"storage.bucket needs more packages ({error}). Install them: "
            '`pip install "imgsvc[s3]"`.'
        ) from None
    return open_bucket(storage.bucket, storage.endpoint, redirect=storage.redirect)


def reconciliation_limits(config: Config) -> ReconciliationLimits:
    """Return the limits of reconciliation. To list a bucket costs money, so it is listed less often."""
    if config.storage.bucket:
        return ReconciliationLimits(interval_seconds=BUCKET_LISTING_SECONDS)
    return ReconciliationLimits()


def create_executor(
    config: Config,
    session: aiohttp.ClientSession,
    store: ImageStore,
    metrics: Metrics,
    replacements: Replacements,
    *,
    sample: Sample,
) -> Executor:
    """Return the executor that the configuration selects, or its replacement."""
    if replacements.executor is not None:
        return replacements.executor
    local = create_local_executor(config, session, store, metrics, replacements, sample=sample)
    return _create_cluster(config, local, metrics, sample) if config.cluster.listen else local


def create_local_executor(
    config: Config,
    session: aiohttp.ClientSession,
    store: ImageStore,
    metrics: Metrics,
    replacements: Replacements = Replacements(),
    *,
    sample: Sample | None = None,
) -> LocalExecutor:
    """Return the executor of one machine. A service has one, and a node of a cluster."""
    compress, cluster = config.compress, config.cluster
    if cluster.listen and not cluster.local_node:
        compress = compress.model_copy(update={"workers": 1})  # for thumbnails and the sample
    fetcher = Fetcher(session, config.fetch, ByteBudget(MAX_FETCHED_BYTES), sample)
    function, confined = replacements.compress_function, replacements.confined
    pool = WorkerPool(compress, function=function, confined=confined)
    return LocalExecutor(fetcher, pool, store, metrics)


def _create_cluster(
    config: Config, local: LocalExecutor, metrics: Metrics, sample: Sample
) -> Executor:
    """Return the executor of a coordinator. Raise `StartupError` if the settings are incomplete."""
    cluster, storage = config.cluster, config.storage
    if not storage.bucket:
        raise StartupError("cluster.listen needs storage.bucket: nodes store their outputs there.")
    try:
        # Not at the top: only a cluster needs these packages, which are an extra.
        from imgsvc.execution.cluster.dask_coordinator import DaskMembership  # noqa: PLC0415
        from imgsvc.execution.cluster.executor import ClusterExecutor  # noqa: PLC0415
        from imgsvc.execution.cluster.messages import Welcome  # noqa: PLC0415
        from imgsvc.execution.cluster.security import security_for  # noqa: PLC0415
    except ImportError as error:
        raise StartupError(
            f"cluster.listen needs more packages ({error}). Install them: "
            '`pip install "imgsvc[cluster]"`.'
        ) from None
    welcome = Welcome(config.fetch, config.compress, storage.bucket, storage.endpoint)
    security = security_for(cluster.listen, cluster.certificates)
    membership = DaskMembership(cluster.listen, security, welcome, metrics=metrics)
    return ClusterExecutor(local, membership, metrics, local_node=cluster.local_node, sample=sample)
