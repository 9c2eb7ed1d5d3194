"""aiohttp's server, where it answers without asking us: to what is no HTTP at all."""

from __future__ import annotations

import logging

from aiohttp import web

from imgsvc.errors import ProblemCode, ProblemError
from imgsvc.web.problems import problem_response
from imgsvc.web.response_headers import harden

log = logging.getLogger(__name__)


class Runner(web.AppRunner):
    """An `AppRunner` whose server answers malformed calls by a problem report, too."""

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
            raise exc  # The client has gone.
        if request.writer.output_size > 0:
            raise ConnectionError("half an answer is out")
        if status == 400:
            # Below its first line the message shows what came: keys and signatures, perhaps.
            reason = (message or "").strip().partition("\n")[0].rstrip(":")
            log.info("malformed HTTP", extra={"client": request.remote, "reason": reason})
            refusal = ProblemError(ProblemCode.BAD_REQUEST, reason or "It could not be read.")
        else:
            log.error("a bug beneath the handlers", exc_info=exc)
            refusal = ProblemError(ProblemCode.INTERNAL, "Something went wrong here.")
        response = problem_response(refusal)
        harden(response.headers)
        response.force_close()
        return response
