"""Who calls from where: the call's own address, and what web pages of other origins may do.

Any web page can make a browser send a form or plain text to 127.0.0.1, and a name that first
resolves to its own server and then to 127.0.0.1 (DNS rebinding) makes it read the answer as well.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from ipaddress import IPv6Address, ip_address
from urllib.parse import urlsplit

from aiohttp import web

from imgsvc.config import ServerConfig
from imgsvc.errors import ProblemCode, ProblemError
from imgsvc.urls import page_origin

CHANGING = frozenset({"POST", "PUT", "PATCH", "DELETE"})
"""Methods that change something."""
EXPOSED = (
    "X-Request-Status, X-Progress, ETag, Location, Retry-After, Content-Disposition, "
    "Idempotent-Replayed"
)
_ALLOWED_HEADERS = (
    "Accept, Authorization, Content-Type, Idempotency-Key, If-None-Match, Last-Event-ID, Range, "
    "X-API-Key"
)
_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]{2,45})\]|[A-Za-z0-9._~-]{1,253})(?::([0-9]{1,5}))?")


class OriginPolicy:
    """Judges where calls come from, by the server's settings."""

    def __init__(self, config: ServerConfig) -> None:
        # Output URLs stand in lists that commas part.
        self._public_url = config.public_url.replace(",", "%2C")
        public = urlsplit(config.public_url)
        self.path = public.path
        self.secure = public.scheme.lower() == "https"
        self._public_host = ""
        self._cors = frozenset(config.cors_origins)
        self._origins = set(self._cors)
        if config.public_url:
            origin = page_origin(config.public_url)
            self._public_host = urlsplit(origin).hostname or ""
            self._origins.add(origin)
        self._judge_host = is_loopback(config.host) and not config.api_keys

    def base_url(self, request: web.Request) -> str:
        """Where this service is, for whoever sent this call: no slash at the end."""
        return self._public_url or _own_origin(request)

    def check(self, request: web.Request, *, any_host: bool = False) -> None:
        """Raise `ProblemError` where the call is a foreign web page's doing, or its Host is none.

        The rule against rebinding concerns reading as well; `any_host` spares a call from it.
        """
        host = _host(request)
        if self._judge_host and not any_host and not self._is_ours(host):
            raise ProblemError(
                ProblemCode.FOREIGN_ORIGIN,
                f"This service listens on loopback without API keys, and {host!r} is not its name. "
                "If it should be, set server.public_url, or set server.api_keys.",
            )
        if request.method in CHANGING and self._is_foreign(request):
            raise ProblemError(
                ProblemCode.FOREIGN_ORIGIN,
                "A web page of another origin sent this. If it may, name it in "
                "server.cors_origins; if it is this service's own page behind a proxy, set "
                "server.public_url.",
            )

    def is_preflight(self, request: web.Request) -> bool:
        """Whether a browser asks, for an allowed page, which calls it may make."""
        asked = "Access-Control-Request-Method" in request.headers
        return request.method == "OPTIONS" and asked and self._allowed(request) is not None

    def cors_headers(self, request: web.Request) -> Mapping[str, str]:
        """What allows an allowed page to read the answer. Cookies are never allowed along."""
        if not self._cors:
            return {}
        origin = self._allowed(request)
        if origin is None:
            return {"Vary": "Origin"}
        headers = {
            "Vary": "Origin",
            "Access-Control-Allow-Origin": origin,
            "Access-Control-Expose-Headers": EXPOSED,
        }
        if request.method == "OPTIONS":
            headers["Access-Control-Allow-Methods"] = "GET, HEAD, POST, DELETE"
            headers["Access-Control-Allow-Headers"] = _ALLOWED_HEADERS
            headers["Access-Control-Max-Age"] = "600"
        return headers

    def _allowed(self, request: web.Request) -> str | None:
        origin = request.headers.get("Origin")
        return origin if origin is not None and origin.lower() in self._cors else None

    def _is_foreign(self, request: web.Request) -> bool:
        origins = request.headers.getall("Origin", [])
        if not origins:
            return request.headers.get("Sec-Fetch-Site", "").strip().lower() == "cross-site"
        ours = {_own_origin(request).lower(), *self._origins}
        if any(origin.lower() not in ours for origin in origins):
            return True
        cross = request.headers.get("Sec-Fetch-Site", "").strip().lower() == "cross-site"
        return cross and self._allowed(request) is None

    def _is_ours(self, host: str) -> bool:
        name = urlsplit(f"//{host}").hostname or ""
        return is_loopback(name) or (bool(self._public_host) and name == self._public_host)


def is_loopback(name: str) -> bool:
    """Whether a host's name, or an address, is this machine's own."""
    try:
        return ip_address(name).is_loopback
    except ValueError:
        name = name.lower().rstrip(".")
        return name == "localhost" or name.endswith(".localhost")


def _is_ipv6(text: str) -> bool:
    try:
        IPv6Address(text)
    except ValueError:
        return False
    return True


def _own_origin(request: web.Request) -> str:
    return f"{request.scheme}://{_host(request)}"


def _host(request: web.Request) -> str:
    """The call's `Host`, once it is known to hold nothing that could harm a URL it is put into."""
    hosts = request.headers.getall("Host", [])
    if not hosts and request.version < (1, 1):
        name, port = request.get_extra_info("sockname", ("localhost", 80))[:2]
        return f"[{name}]:{port}" if ":" in name else f"{name}:{port}"
    match = _HOST.fullmatch(hosts[0]) if len(hosts) == 1 else None
    if match is None or not _is_ipv6(match[1] or "::") or int(match[2] or 0) > 65_535:
        raise ProblemError(
            ProblemCode.BAD_REQUEST, "The Host header is missing, doubled or malformed."
        )
    return hosts[0]
