"""What tests share: a real origin, and the real service in a process of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.origin import Origin
from tests.service_process import Service

StartService = Callable[..., Service]


@pytest.fixture(scope="session")
def _origin_process() -> Iterator[Origin]:
    origin = Origin()
    yield origin
    origin.close()


@pytest.fixture
def origin(_origin_process: Origin) -> Iterator[Origin]:
    """An HTTP origin on 127.0.0.1 that a test can script; see tests/origin.py."""
    yield _origin_process
    _origin_process.reset()


@pytest.fixture
def start_service(tmp_path: Path) -> Iterator[StartService]:
    """Start a service with settings: `start_service(fetch={"per_host": 2}, …)`.

    `folder=`, `environ=`, `arguments=` go to `Service`. Its log is shown where the test fails.
    """
    started: list[Service] = []

    def start(
        *,
        folder: Path | None = None,
        environ: dict[str, str] | None = None,
        arguments: tuple[str, ...] = (),
        ready: bool = True,
        **settings: dict[str, Any],
    ) -> Service:
        where = folder or tmp_path / f"service-{len(started)}"
        where.mkdir(exist_ok=True)
        service = Service(where, settings, environ, arguments)
        started.append(service)
        service.start(ready=ready)
        return service

    yield start
    for service in started:
        service.close()
        print(f"--- the log of {service.url}\n{service.log()[-20_000:]}")


@pytest.fixture
def service(start_service: StartService) -> Service:
    """A running service with the settings of `tests.service_process.Service`."""
    return start_service()
