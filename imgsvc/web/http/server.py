"""aiohttp's server with problem reports for malformed HTTP, which never reaches the application."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from imgsvc.config import ServerConfig
from imgsvc.errors import ProblemCode, ProblemError, StartupError
from imgsvc.urls import is_loopback
from imgsvc.web.http.problems import problem_response
from imgsvc.web.http.response_headers import add_security_headers

log = logging.getLogger(__name__)

RESPONSE_GRACE_SECONDS = 0.5
"""Time that active responses get to finish at shutdown, and the same time again to be aborted."""


@asynccontextmanager
async def listening(app: web.Application, config: ServerConfig) -> AsyncIterator[str]:
    """Serve an application until the block ends. Yield its URL.

    Raise `StartupError` if the server cannot listen.
    """
    runner = Runner(
        app, access_log=None, handle_signals=False, shutdown_timeout=RESPONSE_GRACE_SECONDS
    )
    await runner.setup()
    try:
        site = web.TCPSite(runner, config.host, config.port, backlog=1024)
        try:
            await site.start()
        except OSError as error:
            raise StartupError(
                f"Cannot listen on {config.host}:{config.port}: {error.strerror}. "
                "If another program uses this port, choose another server.port."
            ) from None
        _warn_if_open(config)
        host, port = runner.addresses[0][:2]
        url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        log.info("listening", extra={"url": url})
        yield url
    finally:
        await runner.cleanup()


def _warn_if_open(config: ServerConfig) -> None:
    if not config.all_keys and not is_loopback(config.host):
        log.warning(
            "ANYONE WHO CAN REACH THIS ADDRESS CAN USE THE SERVICE: it listens on %s without API "
            "keys. Set server.api_keys, or listen on 127.0.0.1.",
            config.host,
        )


class Runner(web.AppRunner):
    """An `AppRunner` whose server responds to malformed HTTP with a problem report."""

    async def _make_server(self) -> web.Server:
        server = await super()._make_server()
        return _Server(
            server.request_handler,
            request_factory=server.request_factory,
            handler_cancellation=server.handler_cancellation,
            **server._kwargs,
        )


class _Server(web.Server):
    def __call__(self) -> web.RequestHandler:
        return _Protocol(self, loop=self._loop, **self._kwargs)


class _Protocol(web.RequestHandler):
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
        response = problem_response(problem)
        add_security_headers(response.headers)
        response.force_close()
        return response
