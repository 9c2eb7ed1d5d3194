"""Tests of the gauges of unfinished work."""

from __future__ import annotations

import re
from pathlib import Path

from imgsvc.metrics import Metrics
from imgsvc.processing.backlog import BacklogMonitor
from imgsvc.service import running
from tests.harness.database import open_database
from tests.harness.service import background, config_of
from tests.waiting import wait_until

MONITORING = (Path(__file__).parents[2] / "docs" / "how-to" / "monitoring.md").read_text()


def backlog_of(metrics: Metrics) -> list[float | None]:
    names = ("requests_unfinished", "images_pending", "images_processing", "webhooks_pending")
    return [metrics.registry.get_sample_value(f"imgsvc_{name}") for name in names]


async def test_gauges_follow_the_database(tmp_path: Path) -> None:
    metrics = Metrics()
    async with (
        open_database(tmp_path) as db,
        background(BacklogMonitor(db.queries, metrics, interval_seconds=0.01).watch()),
    ):
        await db.accept([[f"http://a.example/{n}" for n in range(3)]], webhook="http://me/")
        claims = await db.claim(limit=1)
        await wait_until(lambda: backlog_of(metrics) == [1, 2, 1, 0], "the backlog")
        while claims:
            await db.complete(claims)
            claims = await db.claim()
        await wait_until(lambda: backlog_of(metrics) == [0, 0, 0, 1], "the webhook")


async def test_metrics_named_in_the_page_of_monitoring_exist(tmp_path: Path) -> None:
    named = set(re.findall(r"`(imgsvc_[a-z_]+)`", MONITORING))
    assert named
    async with running(config_of(tmp_path, server={"port": 0})) as service:
        metrics = list(service.metrics.registry.collect())
        samples = {f"{each.name}_total" for each in metrics if each.type == "counter"}
        assert named <= samples | {each.name for each in metrics if each.type != "counter"}
