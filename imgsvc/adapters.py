"""Chooses the implementation of each seam: the store of outputs, and the executor."""

from __future__ import annotations

from dataclasses import dataclass

import aiohttp

from imgsvc.config import Config
from imgsvc.execution.base import Executor
from imgsvc.execution.local import LocalExecutor
from imgsvc.metrics import Metrics
from imgsvc.network.byte_budget import ByteBudget
from imgsvc.network.fetch import Fetcher
from imgsvc.processing.events import Events
from imgsvc.sample import Sample
from imgsvc.storage.base import ImageStore
from imgsvc.storage.disk_space import DiskSpace
from imgsvc.storage.filesystem import FilesystemStore
from imgsvc.workers.pool import COMPRESS_FUNCTION, WorkerPool

MAX_FETCHED_BYTES = 40 * 2**20
"""Maximum size of all sources that are fetched and not yet compressed."""


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
    return FilesystemStore(config.storage.data_dir, disk_space)


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
    fetcher = Fetcher(session, config.fetch, ByteBudget(MAX_FETCHED_BYTES), sample)
    function, confined = replacements.compress_function, replacements.confined
    pool = WorkerPool(config.compress, function=function, confined=confined)
    return LocalExecutor(fetcher, pool, store, metrics)
