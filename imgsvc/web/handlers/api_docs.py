"""The OpenAPI document and the Postman collection, with the service's own URL in them."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cached_property
from typing import Any

from aiohttp import web

from imgsvc.sample import Sample
from imgsvc.web.handlers.static_files import STATIC
from imgsvc.web.http.origin_policy import OriginPolicy
from imgsvc.web.schema.responses import json_response


class ApiDocsHandler:
    """Handles `/openapi.json` and `/postman.json`.

    `build_document` returns the OpenAPI document without `servers`. It is called once, when a client
    first asks for the document.
    """

    def __init__(
        self,
        origin_policy: OriginPolicy,
        sample: Sample,
        build_document: Callable[[], dict[str, Any]],
    ) -> None:
        self._sample = sample
        self._origin_policy = origin_policy
        self._build_document = build_document
        self._collection: dict[str, Any] = json.loads((STATIC / "postman.json").read_text("utf-8"))

    async def openapi(self, request: web.Request) -> web.Response:
        """`GET /openapi.json`"""
        servers = [{"url": self._origin_policy.base_url(request)}]
        return json_response(self._document | {"servers": servers})

    async def postman(self, request: web.Request) -> web.Response:
        """`GET /postman.json`: the file in the static folder, with URLs of this service."""
        base_url = self._origin_policy.base_url(request)
        own = {"baseUrl": base_url, "imageUrl": self._sample.image_url(base_url)}
        variables = [
            variable | {"value": own.get(variable["key"], variable["value"])}
            for variable in self._collection["variable"]
        ]
        return json_response(self._collection | {"variable": variables})

    @cached_property
    def _document(self) -> dict[str, Any]:
        return self._build_document()
