"""The access log: one line for each API call, with the name of the caller's key."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

from aiohttp import web
from aiohttp.typedefs import Middleware

from imgsvc.web.http.api_keys import CALLER
from imgsvc.web.http.origin_policy import UNSAFE_METHODS
from imgsvc.web.http.problems import Handler

log = logging.getLogger("imgsvc.access")

CLIENT_CLOSED = 499
"""Status in the log if the connection was closed before the response ended."""


@dataclass(frozen=True, slots=True)
class AccessLogLimits:
    """The limits of the access log."""

    characters: int = 200
    """Maximum length of a logged path or method."""
    lines: int = 3_000
    """Maximum number of lines per `seconds`. Successful changes are logged beyond it."""
    seconds: float = 60.0


class AccessLog:
    """Logs API calls at `info`, and reads that need no key, such as `/health`, at `debug`.

    Reads that are refused are logged at `info`. A line has no query string: it may contain secrets.
    `now` is of any clock that never jumps.
    """

    def __init__(self, limits: AccessLogLimits = AccessLogLimits()) -> None:
        self._limits = limits
        self._window_end = 0.0
        self._lines = 0
        self._left_out = 0

    def record(
        self, request: web.Request, status: int, size: int, start: float, now: float
    ) -> None:
        """Log an API call. `size` is that of the response in bytes."""
        self._start_window(now)
        caller = request.get(CALLER)
        is_change = request.method in UNSAFE_METHODS
        is_refused = 400 <= status < 500
        level = logging.INFO if caller or is_change or is_refused else logging.DEBUG
        if not log.isEnabledFor(level):
            return
        if not is_change or status >= 400:
            if self._lines >= self._limits.lines:
                self._left_out += 1
                return
            self._lines += 1
        limit = self._limits.characters
        fields = {
            "method": request.method[:limit],
            "path": request.rel_url.raw_path[:limit],
            "status": status,
            "seconds": round(now - start, 3),
            "bytes": size,
            "client": request.remote,
        }
        if caller and caller.name:
            fields["key"] = caller.name
        log.log(level, "api call", extra=fields)

    def _start_window(self, now: float) -> None:
        if now < self._window_end:
            return
        if self._left_out:
            log.warning("access log lines left out", extra={"count": self._left_out})
        self._window_end = now + self._limits.seconds
        self._lines = self._left_out = 0


def access_log_middleware(access_log: AccessLog) -> Middleware:
    """Return the outermost middleware. It logs every API call, also if the client disconnects."""

    @web.middleware
    async def log_call(request: web.Request, handler: Handler) -> web.StreamResponse:
        start = time.monotonic()
        status, size = CLIENT_CLOSED, 0
        try:
            response = await handler(request)
            status, size = response.status, _size(response)
        finally:
            access_log.record(request, status, size, start, time.monotonic())
        return response

    return log_call


def _size(response: web.StreamResponse) -> int:
    """Return the size of a response, which may not be sent yet."""
    if isinstance(response, web.Response):
        return response.content_length or 0
    return response.body_length
