"""The sample: `/sample/products.csv` and its images."""

from __future__ import annotations

from aiohttp import web

from imgsvc.errors import ProblemCode, ProblemError
from imgsvc.sample import Sample
from imgsvc.web.handlers.static_files import StaticFile, serve_file
from imgsvc.web.http.origin_policy import OriginPolicy


class SampleHandler:
    """Serves the sample table, whose image URLs start with the URL of the call, and its images."""

    def __init__(self, sample: Sample, origin_policy: OriginPolicy) -> None:
        self._sample = sample
        self._origin_policy = origin_policy

    async def table(self, request: web.Request) -> web.Response:
        """`GET /sample/products.csv`"""
        body = self._sample.table(self._origin_policy.base_url(request))
        return serve_file(request, StaticFile.of(body, "text/csv; charset=utf-8"))

    async def image(self, request: web.Request) -> web.Response:
        """`GET /sample/{id}/{name}`"""
        image = self._sample.images.get(request.match_info["name"])
        if image is None or request.match_info["id"] != self._sample.id:
            raise ProblemError(
                ProblemCode.NOT_FOUND, "The sample has no such image. See /sample/products.csv."
            )
        return serve_file(request, StaticFile.of(image.data, image.media_type))
