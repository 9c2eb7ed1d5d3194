"""The Upload API: `POST /processImages`."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from contextlib import aclosing

from aiohttp import web

from imgsvc.config import Config
from imgsvc.errors import ProblemCode, ProblemError
from imgsvc.image_types import CompressionSettings
from imgsvc.intake import Intake, UploadOptions, UploadResult
from imgsvc.models import RequestOptions
from imgsvc.serializers import accepted_json
from imgsvc.web import options
from imgsvc.web.multipart import FormError, FormReader, PartBegins, PartEnds
from imgsvc.web.options import UploadFields
from imgsvc.web.origin_policy import OriginPolicy
from imgsvc.web.problems import HttpProblemError
from imgsvc.web.request_body import chunks, declared_length, media_type, refuse_encoding
from imgsvc.web.responses import json_response

CURL_TYPE = "application/x-www-form-urlencoded"
"""What curl says of a body, unless it is told another."""
RAW_TYPES = (
    "text/csv",
    "application/csv",
    "application/vnd.ms-excel",
    "text/plain",
    "application/octet-stream",
    CURL_TYPE,
)
"""Content types of a body that is the CSV itself."""
LINES_LOST = (
    " It is a single line: `curl -d` and `--data` take the line ends out of a file; "
    "send it by `curl --data-binary @FILE`."
)
FORM_TYPE = "multipart/form-data"
FRAMING_BYTES = 256 * 1024
"""What a form may have around its file: boundaries, headers and options."""
MOST_FIELDS = 32
MOST_FIELD_BYTES = 16 * 1024


class UploadHandler:
    """Takes uploads from HTTP and hands them to the intake."""

    def __init__(self, config: Config, intake: Intake, origins: OriginPolicy) -> None:
        self._config = config
        self._intake = intake
        self._origins = origins

    async def process_images(self, request: web.Request) -> web.Response:
        """`POST /processImages`"""
        key = _idempotency_key(request)
        query = list(request.query.items())
        self._parsed(query)  # What is wrong with them is said before the body is read.
        refuse_encoding(request)
        form = _form(request)
        limit = self._config.server.max_upload_bytes
        if declared_length(request) > limit + (FRAMING_BYTES if form else 0):
            raise _too_large(limit)
        body = chunks(request, self._config.server.upload_idle_seconds)
        table = _Table(form.file(body) if form else body, limit)
        try:
            async with aclosing(table.read()) as pieces:
                accepted = await self._intake.upload(
                    pieces,
                    lambda: self._parsed([*query, *(form.fields if form else ())]),
                    idempotency_key=key,
                )
        except ProblemError as refusal:
            one_line = refusal.code is ProblemCode.INVALID_CSV and not table.has_lines
            if one_line and media_type(request) == CURL_TYPE:
                refusal.detail += LINES_LOST
            raise
        return self._answer(request, accepted)

    def _parsed(self, pairs: list[tuple[str, str]]) -> UploadOptions:
        given = options.parse(UploadFields, pairs)
        standard = self._config.compress.settings
        settings = CompressionSettings(
            given.quality or standard.quality,
            given.format or standard.format,
            standard.progressive,
        )
        asked = given.model_dump_json(exclude_defaults=True)
        return UploadOptions(RequestOptions(settings, given.webhook_url), given.dry_run, asked)

    def _answer(self, request: web.Request, accepted: UploadResult) -> web.Response:
        if accepted.request is None:
            return json_response({"products": accepted.products, "images": accepted.images})
        path = f"/checkStatus/{accepted.request.request_id}"
        headers = {"Location": self._origins.path + path}
        if accepted.replayed:
            headers["Idempotent-Replayed"] = "true"
        body = accepted_json(accepted.request, self._origins.base_url(request) + path)
        return json_response(body, status=201, headers=headers)


class _Form:
    """A form on its way: the one part that has a file name, and the options around it."""

    def __init__(self, boundary: str) -> None:
        self.fields: list[tuple[str, str]] = []
        self._reader = FormReader(boundary)
        self._part: PartBegins | None = None
        self._value = b""
        self._files = 0
        self._framing = 0

    async def file(self, body: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        """Give the file's bytes as they come. Raises `ProblemError`."""
        try:
            async with aclosing(body):
                async for chunk in body:
                    self._framing += len(chunk)
                    data = b"".join(map(self._take, self._reader.feed(chunk)))
                    self._framing -= len(data)
                    if self._framing > FRAMING_BYTES:
                        raise FormError("there is too much around the file")
                    yield data
            self._reader.close()
        except FormError as error:
            raise ProblemError(
                ProblemCode.INVALID_BODY, f"The form is malformed: {error}."
            ) from None
        if not self._files:
            raise ProblemError(
                ProblemCode.INVALID_BODY,
                "No part of the form has a file name. Send the CSV as a file, for example with "
                "`curl -F file=@products.csv`.",
            )

    def _take(self, event: PartBegins | PartEnds | bytes) -> bytes:
        """Note an event, or give the data that are the file's."""
        if isinstance(event, PartBegins):
            self._part, self._value = event, b""
            if event.is_file:
                self._files += 1
            if self._files > 1:
                raise FormError("more than one part has a file name; upload one CSV at a time")
        elif isinstance(event, PartEnds):
            self._end_part()
        elif self._part is not None and self._part.is_file:
            return event
        else:
            self._value += event
            if len(self._value) > MOST_FIELD_BYTES:
                raise FormError("an option is too long")
        return b""

    def _end_part(self) -> None:
        part, self._part = self._part, None
        # A field that a person left empty is no option, nor is the browsers' own.
        if part is None or part.is_file or not self._value or part.name == "_charset_":
            return
        try:
            self.fields.append((part.name, self._value.decode()))
        except UnicodeDecodeError:
            raise FormError(f"the option {part.name!r} is not UTF-8") from None
        if len(self.fields) > MOST_FIELDS:
            raise FormError("it has too many fields")


class _Table:
    """The bytes of a table on their way; `has_lines` tells whether a line has ended in them."""

    def __init__(self, body: AsyncGenerator[bytes, None], limit: int) -> None:
        self.has_lines = False
        self._body = body
        self._limit = limit

    async def read(self) -> AsyncGenerator[bytes, None]:
        """Give them as they come. Raises `ProblemError` where there are more than `limit`."""
        count = 0
        async with aclosing(self._body):
            async for chunk in self._body:
                count += len(chunk)
                if count > self._limit:
                    raise _too_large(self._limit)
                self.has_lines = self.has_lines or b"\n" in chunk or b"\r" in chunk
                yield chunk


def _too_large(limit: int) -> ProblemError:
    return ProblemError(
        ProblemCode.TOO_LARGE,
        f"The CSV is larger than {limit:,} bytes (server.max_upload_bytes). "
        "Split it into several uploads.",
    )


def _form(request: web.Request) -> _Form | None:
    """Tell a form from a body that is the CSV itself. Raises `ProblemError`."""
    kind = media_type(request)
    if not kind or kind in RAW_TYPES:
        return None
    if kind != FORM_TYPE:
        raise HttpProblemError(
            ProblemCode.UNSUPPORTED_MEDIA_TYPE,
            f"The body is {kind}. Send the CSV itself as text/csv, or in a form ({FORM_TYPE}).",
            headers={"Accept-Post": ", ".join((*RAW_TYPES, FORM_TYPE))},
        )
    try:
        return _Form(_boundary(request))
    except FormError as error:
        raise ProblemError(ProblemCode.INVALID_BODY, f"The form is malformed: {error}.") from None


def _boundary(request: web.Request) -> str:
    # aiohttp's own parser of this header lets a quoted boundary with a semicolon through as two.
    match = re.search(
        r';\s*boundary=(?:"((?:[^"\\]|\\.)*)"|([^\s;"]+))',
        request.headers["Content-Type"],
        re.IGNORECASE,
    )
    return "" if match is None else re.sub(r"\\(.)", r"\1", match[1] or match[2] or "")


def _idempotency_key(request: web.Request) -> str | None:
    keys = request.headers.getall("Idempotency-Key", [])
    if not keys:
        return None
    if len(keys) > 1 or not re.fullmatch(r"[\x20-\x7e]{1,255}", keys[0]):
        raise ProblemError(
            ProblemCode.INVALID_OPTION,
            "Idempotency-Key must be 1 to 255 printable ASCII characters, and be sent once.",
        )
    return keys[0]
