"""Checks of the `Host` and `Origin` headers, CORS headers, and the service's own base URL.

Any web page can make a browser send a form or plain text to 127.0.0.1. With DNS rebinding (a name
that resolves first to the page's server and then to 127.0.0.1) the page can also read the response.
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

UNSAFE_METHODS = frozenset({"POST", "PUT", "PATCH", "DELETE"})
"""HTTP methods that change state."""
EXPOSED_HEADERS = (
    "X-Request-Status, X-Progress, X-Reused, ETag, Location, Retry-After, Content-Disposition, "
    "Idempotent-Replayed"
)
_ALLOWED_HEADERS = (
    "Accept, Authorization, Content-Type, Idempotency-Key, If-None-Match, Last-Event-ID, Range, "
    "X-API-Key"
)
PRIVATE_SUFFIXES = (".localhost", ".local", ".internal", ".home.arpa")
"""Domains that no one can register, so that no web page is loaded from them."""
_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]{2,45})\]|[A-Za-z0-9._~-]{1,253})(?::([0-9]{1,5}))?")

_ABSOLUTE_TARGET = re.compile("[a-z][a-z0-9+.-]*://([^/?#]*)", re.IGNORECASE)


class OriginPolicy:
    """Checks where API calls come from, by the `[server]` settings.

    `path_prefix` is the path of `public_url` and `secure` whether that URL is https. `cookie` is the
    name of the session cookie: with its prefix, browsers accept it only over https.
    """

    def __init__(self, config: ServerConfig) -> None:
        # Output URLs are written in comma-separated lists.
        self._public_url = config.public_url.replace(",", "%2C")
        public = urlsplit(config.public_url)
        self.path_prefix = public.path
        self.secure = public.scheme.lower() == "https"
        self.cookie = "imgsvc_session"
        if self.secure:
            self.cookie = f"__{'Secure' if self.path_prefix else 'Host'}-{self.cookie}"
        self._allowed_hosts = {"localhost", *config.allowed_hosts}
        self._cors_origins = frozenset(config.cors_origins)
        self._trusted_origins = set(self._cors_origins)
        if config.public_url:
            origin = page_origin(config.public_url)
            self._allowed_hosts.add((urlsplit(origin).hostname or "").removesuffix("."))
            self._trusted_origins.add(origin)
        self._host_check_enabled = not config.all_keys

    def base_url(self, request: web.Request) -> str:
        """Return the service's URL as the client sees it, without a final slash."""
        return self._public_url or _request_origin(request)

    def check(self, request: web.Request, *, any_host: bool = False) -> None:
        """Raise `ProblemError` if a page of another origin sent the API call, or `Host` is invalid.

        The check against DNS rebinding applies to all methods, if there are no API keys. `any_host`
        skips it.
        """
        host = _valid_host(request)
        if self._host_check_enabled and not any_host and not self._is_allowed_host(host):
            raise ProblemError(
                ProblemCode.FOREIGN_HOST,
                f"The host {host!r} is not allowed. Without API keys, this service accepts only IP "
                "addresses, names of the local network, and the hosts of server.public_url and "
                "server.allowed_hosts. Add the host to server.allowed_hosts, or set server.api_keys.",
            )
        if request.method in UNSAFE_METHODS and self._is_cross_origin(request):
            raise ProblemError(
                ProblemCode.FOREIGN_ORIGIN,
                "A web page of another origin sent this API call. To allow that page, add its "
                "origin to server.cors_origins. If it is this service's own page behind a proxy, "
                "set server.public_url.",
            )

    def is_preflight(self, request: web.Request) -> bool:
        """Return whether this is a CORS preflight request of an allowed origin."""
        has_method = "Access-Control-Request-Method" in request.headers
        return request.method == "OPTIONS" and has_method and self._cors_origin(request) is not None

    def cors_headers(self, request: web.Request) -> Mapping[str, str]:
        """Return the headers that let an allowed page read the response. Never allows cookies."""
        if not self._cors_origins:
            return {}
        origin = self._cors_origin(request)
        if origin is None:
            return {"Vary": "Origin"}
        headers = {
            "Vary": "Origin",
            "Access-Control-Allow-Origin": origin,
            "Access-Control-Expose-Headers": EXPOSED_HEADERS,
        }
        if request.method == "OPTIONS":
            headers["Access-Control-Allow-Methods"] = "GET, HEAD, POST, DELETE"
            headers["Access-Control-Allow-Headers"] = _ALLOWED_HEADERS
            headers["Access-Control-Max-Age"] = "600"
        return headers

    def _cors_origin(self, request: web.Request) -> str | None:
        """Return the `Origin` header if `cors_origins` allows it, else None."""
        origin = request.headers.get("Origin")
        return origin if origin is not None and origin.lower() in self._cors_origins else None

    def _is_cross_origin(self, request: web.Request) -> bool:
        origins = request.headers.getall("Origin", [])
        if not origins:
            return request.headers.get("Sec-Fetch-Site", "").strip().lower() == "cross-site"
        trusted = {_request_origin(request).lower(), *self._trusted_origins}
        if any(origin.lower() not in trusted for origin in origins):
            return True
        cross_site = request.headers.get("Sec-Fetch-Site", "").strip().lower() == "cross-site"
        return cross_site and self._cors_origin(request) is None

    def _is_allowed_host(self, host: str) -> bool:
        """Return whether no foreign web page can have been loaded from this host."""
        name = urlsplit(f"//{host}").hostname or ""
        if "." not in name or _is_ip_address(name):
            return True  # A name without a dot is of the local network.
        name = name.removesuffix(".")
        return name in self._allowed_hosts or name.endswith(PRIVATE_SUFFIXES)


def _is_ip_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _is_ipv6(text: str) -> bool:
    try:
        IPv6Address(text)
    except ValueError:
        return False
    return True


def _request_origin(request: web.Request) -> str:
    return f"{request.scheme}://{_valid_host(request)}"


def _valid_host(request: web.Request) -> str:
    """Return the host that the call is for, which is safe to put into a URL. Raise `ProblemError`.

    It is that of an absolute request target, else the `Host` header. HTTP/1.0 does not require the
    header: the socket's own address is the default.
    """
    hosts = request.headers.getall("Host", [])
    target = _ABSOLUTE_TARGET.match(request.raw_path)
    if target and len(hosts) <= 1:
        hosts = [target[1]]
    if not hosts and request.version < (1, 1):
        name, port = request.get_extra_info("sockname", ("localhost", 80))[:2]
        return f"[{name}]:{port}" if ":" in name else f"{name}:{port}"
    match = _HOST.fullmatch(hosts[0]) if len(hosts) == 1 else None
    if match is None or not _is_ipv6(match[1] or "::") or int(match[2] or 0) > 65_535:
        raise ProblemError(
            ProblemCode.BAD_REQUEST, "The Host header is missing, repeated or malformed."
        )
    return hosts[0]
