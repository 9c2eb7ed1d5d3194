"""The web page and its files. They are few and small, so they are kept in memory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from imgsvc.error_help import ERROR_HELP
from imgsvc.errors import ImageErrorCode, ProblemCode, ProblemError
from imgsvc.image_types import ImageFormat
from imgsvc.web.error_docs import error_docs
from imgsvc.web.http.conditional import etag_matches

STATIC = Path(__file__).parent.parent / "static"
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src * data: blob:; "
    "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
"""Content-Security-Policy of the pages. Images may be of any host, because the page shows sources."""
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".csv": "text/csv; charset=utf-8",
    ".json": "application/json",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".webmanifest": "application/manifest+json",
    ".woff2": "font/woff2",
}


FORMATS_MODULE = "output-formats.js"
"""A file of the page that is generated from the table of image formats."""
HELP_MODULE = "error-help.js"
"""A file of the page that is generated from the help for error codes."""


@dataclass(frozen=True, slots=True)
class StaticFile:
    """A file in memory, and the headers of its responses."""

    body: bytes
    headers: Mapping[str, str]

    @classmethod
    def of(cls, body: bytes, content_type: str) -> StaticFile:
        """Return a file of this content."""
        headers = {
            "Content-Type": content_type,
            "ETag": f'"{hashlib.sha256(body).hexdigest()[:24]}"',
            "Cache-Control": "no-cache",
            "Content-Security-Policy": PAGE_POLICY,
        }
        return cls(body, headers)


def serve_file(request: web.Request, file: StaticFile) -> web.Response:
    """Return the file, or a 304 if the client has it already."""
    if_none_match = ",".join(request.headers.getall("If-None-Match", []))
    if etag_matches(if_none_match, file.headers["ETag"]):
        return web.Response(status=304, headers=file.headers)
    return web.Response(body=file.body, headers=file.headers)


class StaticFilesHandler:
    """Serves the web page, the API documentation page, and their files."""

    def __init__(self, folder: Path = STATIC) -> None:
        self._files = {
            path.relative_to(folder).as_posix(): StaticFile.of(
                path.read_bytes(), _TYPES[path.suffix]
            )
            for path in sorted(folder.rglob("*"))
            if path.is_file() and path.suffix in _TYPES
        }
        docs = (folder / "docs.html").read_text("utf-8").replace("<!-- errors -->", error_docs())
        self._files["docs.html"] = StaticFile.of(docs.encode(), _TYPES[".html"])
        self._files[FORMATS_MODULE] = StaticFile.of(_formats_module().encode(), _TYPES[".js"])
        self._files[HELP_MODULE] = StaticFile.of(_help_module().encode(), _TYPES[".js"])

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
        file = self._files.get(name)
        if file is None:
            raise ProblemError(ProblemCode.NOT_FOUND, f"There is no static file {name!r}.")
        return serve_file(request, file)


def _formats_module() -> str:
    """Return a module for the page: the values and titles of the formats that users can select."""
    formats = [[each.value, each.traits.title] for each in ImageFormat if each.traits.selectable]
    return f"export const OUTPUT_FORMATS = {json.dumps(formats)};\n"


def _help_module() -> str:
    """Return a module for the page: what to do about each image error, by its code."""
    actions = {code: ERROR_HELP[code].action for code in ImageErrorCode}
    return f"export const ERROR_ACTIONS = {json.dumps(actions)};\n"
