"""Tests of the gauges of unfinished work."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from imgsvc.metrics import Metrics
from imgsvc.processing import backlog as module
from imgsvc.processing.backlog import BacklogMonitor
from tests.harness.database import DatabaseHarness, open_database
from tests.waiting import wait_until

OPERATIONS = (Path(__file__).parents[2] / "OPERATIONS.md").read_text()


@asynccontextmanager
async def watching(db: DatabaseHarness, metrics: Metrics) -> AsyncIterator[None]:
    task = asyncio.create_task(BacklogMonitor(db.queries, metrics).watch())
    yield
    assert not task.done()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def backlog_of(metrics: Metrics) -> list[float | None]:
    names = ("requests_unfinished", "images_pending", "images_processing", "webhooks_pending")
    return [metrics.registry.get_sample_value(f"imgsvc_{name}") for name in names]


async def test_gauges_follow_the_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BACKLOG_SECONDS", 0.01)
    metrics = Metrics()
    async with open_database(tmp_path) as db, watching(db, metrics):
        await db.accept([[f"http://a.example/{n}" for n in range(3)]], webhook="http://me/")
        claims = await db.claim(limit=1)
        await wait_until(lambda: backlog_of(metrics) == [1, 2, 1, 0], "the backlog")
        while claims:
            await db.complete(claims)
            claims = await db.claim()
        await wait_until(lambda: backlog_of(metrics) == [0, 0, 0, 1], "the webhook")


def test_metrics_named_in_operations_exist() -> None:
    named = set(re.findall(r"`(imgsvc_[a-z_]+)`", OPERATIONS))
    assert named
    assert named <= {metric.name for metric in Metrics().registry.collect()}
