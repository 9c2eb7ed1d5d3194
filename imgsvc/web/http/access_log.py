"""The access log: one line for each API call, with the name of the caller's key."""

from __future__ import annotations

import logging
import time

from aiohttp import web

from imgsvc.web.http.api_keys import CALLER
from imgsvc.web.http.origin_policy import UNSAFE_METHODS
from imgsvc.web.http.problems import Handler

log = logging.getLogger("imgsvc.access")

CLIENT_CLOSED = 499
"""Status in the log if the connection was closed before the response ended."""


@web.middleware
async def access_log_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Log an API call when its handler has ended, also if the client has disconnected.

    The outermost middleware.
    """
    start = time.monotonic()
    status, size = CLIENT_CLOSED, 0
    try:
        response = await handler(request)
        status, size = response.status, _size(response)
    finally:
        _log_call(request, status, size, time.monotonic() - start)
    return response


def _log_call(request: web.Request, status: int, size: int, seconds: float) -> None:
    """Log an API call. `size` is that of the response in bytes.

    Reads that need no key, such as `/health`, are logged at `debug`, unless they are refused. Changes
    have another message, so that no number of other calls suppresses them. A line has no query string:
    it may contain secrets.
    """
    caller = request.get(CALLER)
    is_change = request.method in UNSAFE_METHODS
    is_refused = 400 <= status < 500
    fields = {
        "method": request.method,
        "path": request.rel_url.raw_path,
        "status": status,
        "seconds": round(seconds, 3),
        "bytes": size,
        "client": request.remote,
    }
    if caller and caller.name:
        fields["key"] = caller.name
    log.log(
        logging.INFO if caller or is_change or is_refused else logging.DEBUG,
        "change" if is_change and not is_refused else "api call",
        extra=fields,
    )


def _size(response: web.StreamResponse) -> int:
    """Return the size of a response, which may not be sent yet."""
    if isinstance(response, web.Response):
        return response.content_length or 0
    return response.body_length
