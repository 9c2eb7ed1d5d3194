"""aiohttp's server with problem reports for malformed HTTP, which never reaches the application."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import HttpVersion11, web

from imgsvc.config import ServerConfig
from imgsvc.errors import ProblemCode, ProblemError, StartupError
from imgsvc.urls import is_loopback
from imgsvc.web.http.connections import Connections, LimitedConnection, connection_limit
from imgsvc.web.http.problems import DOCS_PATH, problem_response
from imgsvc.web.http.response_headers import add_security_headers
from imgsvc.web.limits import ConnectionLimits

log = logging.getLogger(__name__)

RESPONSE_GRACE_SECONDS = 0.5
"""Time that active responses get to finish at shutdown, and the same time again to be aborted."""
BACKLOG = 1_024
"""Connections that the system holds until they are accepted."""
ACCEPTS_PER_TURN = 16
"""Connections that are accepted before other work continues. Without free file descriptors, asyncio
fails as often in each turn."""


@asynccontextmanager
async def listening(
    app: web.Application, config: ServerConfig, limits: ConnectionLimits = ConnectionLimits()
) -> AsyncIterator[str]:
    """Serve an application until the block ends. Yield its URL.

    Raise `StartupError` if the server cannot listen.
    """
    connections = Connections(connection_limit(config.max_connections), limits.head_seconds)
    runner = Runner(
        app,
        connections,
        access_log=None,
        handle_signals=False,
        shutdown_timeout=RESPONSE_GRACE_SECONDS,
    )
    await runner.setup()
    try:
        try:
            for listener in await _listeners(config.host, config.port):
                await web.SockSite(runner, listener, backlog=ACCEPTS_PER_TURN).start()
                listener.listen(BACKLOG)
        except OSError as error:
            # The text of a failed `bind` names the address again.
            reason = os.strerror(number) if (number := error.errno or 0) > 0 else error.strerror
            raise StartupError(
                f"Cannot listen on {config.host}:{config.port}: {reason}. "
                "If another program uses this port, choose another server.port."
            ) from None
        _warn_if_open(config)
        host, port = runner.addresses[0][:2]
        url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        log.info("listening", extra={"url": url})
        yield url
    finally:
        await runner.cleanup()


async def _listeners(host: str, port: int) -> list[socket.socket]:
    """Return a socket for each address of a host that this machine has. Raise `OSError`."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    listeners: list[socket.socket] = []
    failure: OSError | None = None
    for family, _, _, _, address in dict.fromkeys(found):
        try:
            listeners.append(socket.create_server(address, family=family, backlog=BACKLOG))
        except OSError as error:
            failure = failure or error
            if error.errno not in {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}:
                for listener in listeners:
                    listener.close()
                raise
    if not listeners and failure is not None:
        raise failure
    return listeners


def _warn_if_open(config: ServerConfig) -> None:
    if not config.all_keys and not is_loopback(config.host):
        log.warning(
            "ANYONE WHO CAN REACH THIS ADDRESS CAN USE THE SERVICE: it listens on %s without API "
            "keys. Set server.api_keys, or listen on 127.0.0.1.",
            config.host,
        )


class Runner(web.AppRunner):
    """An `AppRunner` with limited connections and problem reports for malformed HTTP."""

    def __init__(self, app: web.Application, connections: Connections, **options: Any) -> None:
        super().__init__(app, **options)
        self._connections = connections

    async def _make_server(self) -> web.Server:
        server = await super()._make_server()
        return _Server(
            self.app[DOCS_PATH],
            server.request_handler,
            connections=self._connections,
            request_factory=server.request_factory,
            handler_cancellation=server.handler_cancellation,
            **server._kwargs,
        )


class _Server(web.Server):
    def __init__(
        self, docs_path: str, handler: Any, *, connections: Connections, **options: Any
    ) -> None:
        super().__init__(handler, **options)
        self._docs_path = docs_path
        self._limited = connections

    def __call__(self) -> web.RequestHandler:
        return _Protocol(self, self._limited, self._docs_path, loop=self._loop, **self._kwargs)


class _Protocol(LimitedConnection):
    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if isinstance(exc, ConnectionError):
            raise exc  # The client has disconnected.
        if request.writer.output_size > 0:
            raise ConnectionError("the response has already started")
        if status == 400:
            # The lines after the first show the received bytes, which may contain keys.
            reason = (message or "").strip().partition("\n")[0].rstrip(":")
            log.info("malformed HTTP", extra={"client": request.remote, "reason": reason})
            problem = ProblemError(
                ProblemCode.BAD_REQUEST, reason or "The HTTP request could not be parsed."
            )
        else:
            log.error("internal error outside the handlers", exc_info=exc)
            problem = ProblemError(
                ProblemCode.INTERNAL, "An internal error occurred. See the service log."
            )
        request._version = HttpVersion11  # aiohttp uses 1.0 for a request that it cannot parse
        response = problem_response(problem, self._docs_path)
        add_security_headers(response.headers)
        response.force_close()
        return response
