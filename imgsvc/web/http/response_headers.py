"""Security and CORS headers of every response."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping

from aiohttp import web

from imgsvc.web.http.origin_policy import OriginPolicy
from imgsvc.web.http.problems import RESPONSE_STARTED

SERVER = "imgsvc"
_FIXED_HEADERS = {
    "Server": SERVER,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
_DEFAULT_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def add_security_headers(headers: MutableMapping[str, str]) -> None:
    """Set the fixed headers, and the defaults for headers that the handler has not set."""
    headers.update(_FIXED_HEADERS)
    for name, value in _DEFAULT_HEADERS.items():
        headers.setdefault(name, value)


def response_headers_handler(
    origin_policy: OriginPolicy,
) -> Callable[[web.Request, web.StreamResponse], Awaitable[None]]:
    """Return an `on_response_prepare` handler that completes the headers of each response."""

    async def add_headers(request: web.Request, response: web.StreamResponse) -> None:
        request[RESPONSE_STARTED] = True
        add_security_headers(response.headers)
        cors = dict(origin_policy.cors_headers(request))
        if "Vary" in cors and "Vary" in response.headers:
            cors["Vary"] = f"{response.headers['Vary']}, {cors['Vary']}"
        response.headers.update(cors)
        if not request.content.is_eof():
            # An unread body would be parsed as the next API call. aiohttp continues to read for a
            # while, so that a client that is still sending receives this response.
            response.force_close()
            response.headers["Connection"] = "close"

    return add_headers
