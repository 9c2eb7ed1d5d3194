"""Fixtures for all tests: an HTTP server for images, and the service in its own process."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.command_line import CommandLine
from tests.origin import Origin
from tests.s3_servers import S3Server, running_moto
from tests.service_process import Service

StartService = Callable[..., Service]

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Started by `nohup` or in the background of a script. Child processes would inherit this and ignore
    # Ctrl-C. They do not inherit a handler.
    signal.signal(signal.SIGINT, lambda *_: None)


@pytest.fixture(scope="session")
def _origin_process() -> Iterator[Origin]:
    origin = Origin()
    yield origin
    origin.close()


@pytest.fixture
def origin(_origin_process: Origin) -> Iterator[Origin]:
    """Provide an HTTP server on 127.0.0.1 whose responses a test can script; see tests/origin.py."""
    yield _origin_process
    _origin_process.reset()


@pytest.fixture(scope="session")
def moto_server() -> Iterator[S3Server]:
    """Provide a server with the S3 API. It is installed in an environment of its own first."""
    with running_moto() as server:
        yield server


@pytest.fixture
def start_service(tmp_path: Path) -> Iterator[StartService]:
    """Provide a function that starts a service: `start_service(fetch={"per_host": 2}, …)`.

    `folder=`, `environ=`, `arguments=` and `max_files=` are passed to `Service`. If the test fails, its
    log is shown.
    """
    started: list[Service] = []

    def start(
        *,
        folder: Path | None = None,
        environ: dict[str, str] | None = None,
        arguments: tuple[str, ...] = (),
        ready: bool = True,
        max_files: int | None = None,
        **settings: dict[str, Any],
    ) -> Service:
        service_folder = folder or tmp_path / f"service-{len(started)}"
        service_folder.mkdir(exist_ok=True)
        service = Service(service_folder, settings, environ, arguments, max_files)
        started.append(service)
        service.start(ready=ready)
        return service

    yield start
    for service in started:
        service.close()
        print(f"--- the log of {service.url}\n{service.log()[-20_000:]}")


@pytest.fixture
def service(start_service: StartService) -> Service:
    """Provide a running service with the default settings of `tests.service_process.Service`."""
    return start_service()


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[CommandLine]:
    folder = tmp_path / "work"
    folder.mkdir()
    cli = CommandLine(folder)
    yield cli
    for process in cli.processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
