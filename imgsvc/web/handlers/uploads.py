"""The Upload API: `POST /processImages` and `POST /repeatRequest/{requestId}`."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from aiohttp import web

from imgsvc.config import Config
from imgsvc.errors import ProblemCode, ProblemError
from imgsvc.intake import Intake
from imgsvc.models import MAX_REQUEST_NAME, RequestOptions
from imgsvc.serializers import Json, accepted_json, preview_json, upload_json
from imgsvc.table.xlsx_writer import XLSX_MEDIA_TYPE
from imgsvc.upload_types import RepeatOptions, UploadOptions, UploadResult
from imgsvc.web.http.api_keys import CALLER
from imgsvc.web.http.multipart import FormError, FormParser, PartEnd, PartStart
from imgsvc.web.http.origin_policy import OriginPolicy
from imgsvc.web.http.problems import HttpProblemError
from imgsvc.web.http.request_body import declared_length, media_type, read_chunks, reject_encoding
from imgsvc.web.limits import BodyLimits
from imgsvc.web.schema import options
from imgsvc.web.schema.option_types import MAX_IMAGE_COLUMNS, UNPRINTABLE
from imgsvc.web.schema.options import RepeatFields, UploadFields
from imgsvc.web.schema.responses import json_response

CURL_TYPE = "application/x-www-form-urlencoded"
"""Content type that curl sends by default."""
RAW_TYPES = (
    "text/csv",
    "application/csv",
    "application/vnd.ms-excel",
    "text/plain",
    "text/tab-separated-values",
    XLSX_MEDIA_TYPE,
    "application/octet-stream",
    CURL_TYPE,
)
"""Content types of a body that is the file itself. Its content decides how it is read."""
CURL_HINT = (
    " The CSV is a single line. `curl -d` and `--data` remove line breaks: send the file with "
    "`curl --data-binary @FILE`."
)
"""Added to the problem of a CSV without line breaks."""
FORM_TYPE = "multipart/form-data"
FRAMING_BYTES = 256 * 1024
"""Maximum size of a form apart from its file: boundaries, headers and options."""
MAX_FIELDS = 32 + MAX_IMAGE_COLUMNS
"""Maximum number of options in a form. `imageColumn` may be repeated."""
MAX_FIELD_BYTES = 16 * 1024
"""Maximum length of an option in a form."""


class UploadHandler:
    """Handles the API calls that create requests: by a CSV, or by the ID of a request to repeat."""

    def __init__(
        self,
        config: Config,
        intake: Intake,
        origin_policy: OriginPolicy,
        body_limits: BodyLimits,
    ) -> None:
        self._config = config
        self._body_limits = body_limits
        self._intake = intake
        self._origin_policy = origin_policy

    async def process_images(self, request: web.Request) -> web.Response:
        """`POST /processImages`"""
        key = _idempotency_key(request)
        query = list(request.query.items())
        self._parse_options(query)  # Report invalid options before reading the body.
        reject_encoding(request)
        form = _form_upload(request)
        limit = self._config.server.max_upload_bytes
        if declared_length(request) > limit + (FRAMING_BYTES if form else 0):
            raise _too_large(limit)
        body = read_chunks(request, self._config.server.upload_idle_seconds, self._body_limits)
        csv = _CsvBody(form.file_chunks(body) if form else body, limit)
        try:
            async with aclosing(csv.chunks()) as chunks:
                result = await self._intake.upload(
                    chunks,
                    lambda: self._parse_options(
                        [*query, *(form.fields if form else ())], form.file_name if form else None
                    ),
                    owner=request[CALLER].owner,
                    idempotency_key=key,
                    options_follow=form is not None,
                )
        except ProblemError as problem:
            one_line = problem.code is ProblemCode.INVALID_CSV and not csv.has_line_breaks
            if one_line and media_type(request) == CURL_TYPE:
                problem.detail += CURL_HINT
            raise
        return self._response(request, result)

    async def repeat_request(self, request: web.Request) -> web.Response:
        """`POST /repeatRequest/{requestId}`"""
        fields = options.parse_query(RepeatFields, request)
        repeat_options = RepeatOptions(
            fields.settings,
            fields.webhook_url,
            fields.name,
            fields.fresh,
            fields.model_dump_json(exclude_defaults=True),
        )
        result = await self._intake.repeat(
            request.match_info["requestId"],
            repeat_options,
            owner=request[CALLER].owner,
            idempotency_key=_idempotency_key(request),
        )
        return self._response(request, result)

    def _parse_options(
        self, pairs: list[tuple[str, str]], file_name: str | None = None
    ) -> UploadOptions:
        fields = options.parse(UploadFields, pairs)
        settings = replace(self._config.compress.settings, **fields.settings)
        requested = fields.model_dump_json(exclude_defaults=True)
        request_options = RequestOptions(settings, fields.webhook_url, fields.name, fields.fresh)
        return UploadOptions(request_options, fields.dry_run, requested, fields.table, file_name)

    def _response(self, request: web.Request, result: UploadResult) -> web.Response:
        if result.request is None:
            return json_response(_dry_run_json(result))
        path = f"/checkStatus/{result.request.request_id}"
        headers = {"Location": self._origin_policy.path_prefix + path}
        if result.replayed:
            headers["Idempotent-Replayed"] = "true"
        status_url = self._origin_policy.base_url(request) + path
        body = accepted_json(result.request, status_url, result.errors)
        return json_response(body, status=201, headers=headers)


class _FormUpload:
    """A streamed form: the file is its one part with a file name, `fields` are its options."""

    def __init__(self, boundary: str) -> None:
        self.fields: list[tuple[str, str]] = []
        self.file_name: str | None = None
        self._parser = FormParser(boundary)
        self._part: PartStart | None = None
        self._value = b""
        self._files = 0
        self._framing = 0

    async def file_chunks(self, body: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        """Yield the file as it arrives. Raise `ProblemError` if the form is malformed."""
        try:
            async with aclosing(body):
                async for chunk in body:
                    self._framing += len(chunk)
                    data = b"".join(map(self._handle, self._parser.feed(chunk)))
                    self._framing -= len(data)
                    if self._framing > FRAMING_BYTES:
                        raise FormError("it has too much data besides the file")
                    yield data
            self._parser.close()
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

    def _handle(self, event: PartStart | PartEnd | bytes) -> bytes:
        """Process an event of the parser. Return the bytes of the file in it."""
        if isinstance(event, PartStart):
            self._part, self._value = event, b""
            if event.is_file:
                self._files += 1
                self.file_name = _base_name(event.file_name)
            if self._files > 1:
                raise FormError("more than one part has a file name; upload one CSV at a time")
        elif isinstance(event, PartEnd):
            self._end_part()
        elif self._part is not None and self._part.is_file:
            return event
        else:
            self._value += event
            if len(self._value) > MAX_FIELD_BYTES:
                raise FormError(f"an option is longer than {MAX_FIELD_BYTES:,} bytes")
        return b""

    def _end_part(self) -> None:
        part, self._part = self._part, None
        # Skip fields that were left empty, and the field that browsers add.
        if part is None or part.is_file or not self._value or part.name == "_charset_":
            return
        try:
            self.fields.append((part.name, self._value.decode()))
        except UnicodeDecodeError:
            raise FormError(f"the option {part.name!r} is not UTF-8") from None
        if len(self.fields) > MAX_FIELDS:
            raise FormError(f"it has more than {MAX_FIELDS} options")


class _CsvBody:
    """A streamed CSV of limited size. `has_line_breaks` says whether one has been read so far."""

    def __init__(self, body: AsyncGenerator[bytes, None], limit: int) -> None:
        self.has_line_breaks = False
        self._body = body
        self._limit = limit

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Yield the CSV as it arrives. Raise `ProblemError` if it is larger than the limit."""
        count = 0
        async with aclosing(self._body):
            async for chunk in self._body:
                count += len(chunk)
                if count > self._limit:
                    raise _too_large(self._limit)
                self.has_line_breaks = self.has_line_breaks or b"\n" in chunk or b"\r" in chunk
                yield chunk


def _base_name(file_name: str) -> str | None:
    """Return a file name without folders, as a request's name, or None if nothing remains."""
    name = UNPRINTABLE.sub("", re.split(r"[/\\]", file_name)[-1]).strip()
    return name[:MAX_REQUEST_NAME].strip() or None


def _dry_run_json(result: UploadResult) -> Json:
    table = result.table
    columns = zip(table.columns.names, table.columns.roles, strict=True)
    return {
        "products": result.products,
        "images": result.images,
        **upload_json(result.name, table, result.skipped, result.errors, result.error_count),
        "columns": [{"name": name, "role": role} for name, role in columns],
        "delimiter": table.delimiter,
        "preview": [preview_json(product) for product in result.preview],
    }


def _too_large(limit: int) -> ProblemError:
    return ProblemError(
        ProblemCode.TOO_LARGE,
        f"The CSV is larger than {limit:,} bytes (server.max_upload_bytes). "
        "Split it into several uploads.",
    )


def _form_upload(request: web.Request) -> _FormUpload | None:
    """Return a reader for a form, or None if the body is the CSV itself.

    Raise `ProblemError` if the body has another media type.
    """
    body_type = media_type(request)
    if not body_type or body_type in RAW_TYPES:
        return None
    if body_type != FORM_TYPE:
        raise HttpProblemError(
            ProblemCode.UNSUPPORTED_MEDIA_TYPE,
            f"{body_type} is not supported. Send the CSV as text/csv, or as a file in a form "
            f"({FORM_TYPE}).",
            headers={"Accept-Post": ", ".join((*RAW_TYPES, FORM_TYPE))},
        )
    try:
        return _FormUpload(_boundary(request))
    except FormError as error:
        raise ProblemError(ProblemCode.INVALID_BODY, f"The form is malformed: {error}.") from None


def _boundary(request: web.Request) -> str:
    # aiohttp's parser of this header splits a quoted boundary at a semicolon.
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
            "Send one Idempotency-Key of 1 to 255 printable ASCII characters.",
        )
    return keys[0]
