"""The web page and its files, held in memory: they are few and small."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from imgsvc.errors import ProblemCode, ProblemError
from imgsvc.web.conditional import matches

STATIC = Path(__file__).parent / "static"
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src * data: blob:; "
    "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
"""Scripts, styles and calls from here alone; images from anywhere, as inputs are shown."""
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".csv": "text/csv; charset=utf-8",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".webmanifest": "application/manifest+json",
    ".woff2": "font/woff2",
}


@dataclass(frozen=True, slots=True)
class _Page:
    body: bytes
    headers: Mapping[str, str]


class StaticFilesHandler:
    """Serves the page, the API's page, and what they are made of."""

    def __init__(self, folder: Path = STATIC) -> None:
        self._pages = {
            path.relative_to(folder).as_posix(): _page(path)
            for path in sorted(folder.rglob("*"))
            if path.is_file() and path.suffix in _TYPES
        }

    async def index(self, request: web.Request) -> web.Response:
        """`GET /`"""
        return self._serve(request, "index.html")

    async def docs(self, request: web.Request) -> web.Response:
        """`GET /docs`"""
        return self._serve(request, "docs.html")

    async def static(self, request: web.Request) -> web.Response:
        """`GET /static/{path}`"""
        return self._serve(request, request.match_info["path"])

    def _serve(self, request: web.Request, name: str) -> web.Response:
        page = self._pages.get(name)
        if page is None:
            raise ProblemError(ProblemCode.NOT_FOUND, "There is no such file.")
        if matches(",".join(request.headers.getall("If-None-Match", [])), page.headers["ETag"]):
            return web.Response(status=304, headers=page.headers)
        return web.Response(body=page.body, headers=page.headers)


def _page(path: Path) -> _Page:
    body = path.read_bytes()
    headers = {
        "Content-Type": _TYPES[path.suffix],
        "ETag": f'"{hashlib.sha256(body).hexdigest()[:24]}"',
        "Cache-Control": "no-cache",
        "Content-Security-Policy": PAGE_POLICY,
    }
    return _Page(body, headers)
