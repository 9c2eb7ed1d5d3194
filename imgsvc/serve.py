"""The process of the service: its limits, its signals and its exit code."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import resource
import signal
import sys

from imgsvc.config import Config
from imgsvc.config_loader import ENV_PREFIX
from imgsvc.service import running
from imgsvc.workers.confinement import forbid_inspection

log = logging.getLogger(__name__)

MAX_OPEN_FILES = 65_536
GC_THRESHOLD = 10_000
"""New objects that trigger a garbage collection. High, because reading a large table creates many
objects and leaves no garbage."""


def protect_secrets() -> None:
    """Hide the settings of this process, which include keys, from its workers and from other processes.

    Call this after the configuration was loaded, and before the first child process starts: children
    inherit the environment.
    """
    for name in [name for name in os.environ if name.startswith(ENV_PREFIX)]:
        del os.environ[name]
    forbid_inspection()


def raise_file_limit() -> None:
    """Raise this process's limit of open files: each connection to a host is an open file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(MAX_OPEN_FILES, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _collect_garbage_less_often() -> None:
    """Shorten the garbage collector's pauses of the event loop.

    Exclude the objects that exist now, which live until the program ends, and collect less often.
    """
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)


async def serve(config: Config) -> int:
    """Run the service until SIGTERM or SIGINT; return the exit code, 1 if a component has failed.

    A second signal exits at once.
    """
    os.umask(0o077)  # The data has secrets: signed URLs of images, URLs of webhooks.
    raise_file_limit()
    _collect_garbage_less_often()
    loop = asyncio.get_running_loop()
    stop_requested, started = asyncio.Event(), asyncio.Event()
    serving = asyncio.create_task(_serve_until(stop_requested, config, started))

    def on_signal(number: signal.Signals) -> None:
        if stop_requested.is_set():
            os._exit(128 + number)
        log.info("stopping", extra={"signal": number.name})
        stop_requested.set()
        if not started.is_set():  # The start may be waiting, for example for a locked database.
            serving.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    try:
        await serving
    except asyncio.CancelledError:
        if not stop_requested.is_set():
            raise
    log.info("stopped")
    return 0 if stop_requested.is_set() else 1


async def _serve_until(
    stop_requested: asyncio.Event, config: Config, started: asyncio.Event
) -> None:
    async with running(config) as service:
        started.set()
        if sys.stderr.isatty():
            sys.stderr.write(f"\n  Open {service.url} in a browser. Ctrl-C stops the service.\n\n")
        waits = {
            asyncio.create_task(stop_requested.wait()),
            asyncio.create_task(service.ended()),
        }
        _, pending = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
