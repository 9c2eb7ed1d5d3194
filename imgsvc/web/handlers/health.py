"""Health checks for supervisors, and metrics for Prometheus."""

from __future__ import annotations

from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from imgsvc.errors import ProblemCode
from imgsvc.processing.health import HealthMonitor, ServiceState
from imgsvc.web.http.problems import HttpProblemError
from imgsvc.web.schema.responses import json_response


class HealthHandler:
    """Handles `/health/live`, `/health/ready` and `/metrics`."""

    def __init__(self, monitor: HealthMonitor, metrics: CollectorRegistry) -> None:
        self._monitor = monitor
        self._metrics = metrics

    async def live(self, _: web.Request) -> web.Response:
        """`GET /health/live`. Any response shows that the process is alive."""
        return json_response({"status": "ok"})

    async def ready(self, _: web.Request) -> web.Response:
        """`GET /health/ready`"""
        health = self._monitor.health()
        if not health.ready:
            reasons = list(health.reasons)
            if health.state is not ServiceState.RUNNING:
                reasons.insert(0, f"the service is {health.state}")
            raise HttpProblemError(
                ProblemCode.UNAVAILABLE,
                f"The service is not ready: {', '.join(reasons)}.",
                retry_after=2,
            )
        return json_response({"status": "ok"})

    async def metrics(self, _: web.Request) -> web.Response:
        """`GET /metrics`"""
        headers = {"Content-Type": CONTENT_TYPE_LATEST}
        return web.Response(body=generate_latest(self._metrics), headers=headers)

    def require_running(self) -> None:
        """Raise `ProblemError` while the service is starting or stopping."""
        state = self._monitor.state
        if state is not ServiceState.RUNNING:
            raise HttpProblemError(
                ProblemCode.UNAVAILABLE,
                f"The service is {state}. Try again in a moment.",
                retry_after=2 if state is ServiceState.STARTING else 5,
            )
