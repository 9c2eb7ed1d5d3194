"""The headers of every answer: what a browser may not do with it, and who may read it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping

from aiohttp import web

from imgsvc.web.origin_policy import OriginPolicy
from imgsvc.web.problems import ANSWERED

SERVER = "imgsvc"
_ALWAYS = {
    "Server": SERVER,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
_UNLESS_SAID = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def harden(headers: MutableMapping[str, str]) -> None:
    """Add what every answer has."""
    headers.update(_ALWAYS)
    for name, value in _UNLESS_SAID.items():
        headers.setdefault(name, value)


def finish_headers(
    origins: OriginPolicy,
) -> Callable[[web.Request, web.StreamResponse], Awaitable[None]]:
    """Make the signal that completes each answer's headers."""

    async def finish(request: web.Request, response: web.StreamResponse) -> None:
        request[ANSWERED] = True
        harden(response.headers)
        cors = dict(origins.cors_headers(request))
        if "Vary" in cors and "Vary" in response.headers:
            cors["Vary"] = f"{response.headers['Vary']}, {cors['Vary']}"
        response.headers.update(cors)
        if not request.content.is_eof():
            # A body that nobody reads would be taken for the next call. aiohttp goes on reading for
            # a while, so that a client that is still sending gets to see this answer.
            response.force_close()
            response.headers["Connection"] = "close"

    return finish
