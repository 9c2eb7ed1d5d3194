"""Options of API calls: pydantic models that parse them and that the OpenAPI document is made from."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from enum import StrEnum
from typing import Annotated, Any, Literal, TypeVar

from aiohttp import web
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
)
from pydantic.alias_generators import to_camel

from imgsvc.errors import ProblemCode
from imgsvc.image_types import (
    MAX_SIDE_SETTING,
    CompressionSettings,
    Effort,
    OutputFormat,
    Quality,
)
from imgsvc.models import RequestStatus
from imgsvc.urls import UrlError, parse_url
from imgsvc.web.http.problems import HttpProblemError

MAX_WAIT_SECONDS = 60
"""Maximum of the option `wait`."""
MAX_PAGE_SIZE = 1_000
"""Maximum number of products or requests on one page."""
_MAX_SHOWN_CHARACTERS = 100
"""Length to which an invalid name or value is cut in an error."""

Model = TypeVar("Model", bound=BaseModel)


def _parse_boolean(value: object) -> object:
    if isinstance(value, str):
        if value not in {"true", "false"}:
            raise ValueError("must be true or false")
        return value == "true"
    return value


def _parse_integer(value: object) -> object:
    if isinstance(value, str) and not re.fullmatch(r"-?[0-9]{1,18}", value):
        raise ValueError("must be a whole number")
    return value


def _parse_number(value: object) -> object:
    if isinstance(value, str) and not re.fullmatch(r"-?[0-9]{1,9}(\.[0-9]+)?(e-?[0-9]+)?", value):
        raise ValueError("must be a number")
    return value


def _parse_quality(value: object) -> Quality:
    return value if isinstance(value, Quality) else Quality.parse(str(value))


def _parse_webhook_url(value: str | None) -> str | None:
    if value is None:
        return None
    try:
        return parse_url(value).text
    except UrlError as error:
        raise ValueError(str(error)) from None


Boolean = Annotated[bool, BeforeValidator(_parse_boolean)]
MaxSide = Annotated[int, Field(ge=0, le=MAX_SIDE_SETTING), BeforeValidator(_parse_integer)]
Offset = Annotated[int, Field(ge=0, le=2**53), BeforeValidator(_parse_integer)]
Limit = Annotated[int, Field(ge=1, le=MAX_PAGE_SIZE), BeforeValidator(_parse_integer)]
Cursor = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{22}$")]
Wait = Annotated[
    float, Field(ge=0, le=MAX_WAIT_SECONDS, allow_inf_nan=False), BeforeValidator(_parse_number)
]


class Options(BaseModel):
    """Base of all options. Names are camelCase; unknown options are errors."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        alias_generator=to_camel,
        validate_by_name=True,
        arbitrary_types_allowed=True,
    )


class NoOptions(Options):
    """The options of an operation without options."""


class UploadFields(Options):
    """Options of `POST /processImages`."""

    webhook_url: Annotated[
        str | None,
        AfterValidator(_parse_webhook_url),
        Field(
            description="http(s) URL to notify when the request has finished. It receives the event "
            "`request.finished` by POST.",
            json_schema_extra={"format": "uri", "maxLength": 8_192},
        ),
    ] = None
    quality: Annotated[
        Quality | None,
        BeforeValidator(_parse_quality),
        WithJsonSchema({"type": "string", "pattern": "^([1-9][0-9]?|100)%?$"}),
        Field(
            description="Quality of the outputs, 1 to 100. `50%` is relative: half of each source's "
            "own quality. `50` is absolute: the same for all images.",
            examples=["50%"],
        ),
    ] = None
    format: Annotated[
        OutputFormat | None,
        Field(
            description="Format of the outputs. `keep`: the format of the source, or if that is no web "
            "format, JPEG or PNG. An image that is too large for the format fails."
        ),
    ] = None
    max_width: Annotated[
        MaxSide | None,
        Field(
            description="Largest width of the outputs in pixels. Wider images are shrunk, and keep "
            "their aspect ratio. `0`: no limit.",
            examples=[1_600],
        ),
    ] = None
    max_height: Annotated[
        MaxSide | None,
        Field(description="Largest height of the outputs in pixels, in the same way."),
    ] = None
    effort: Annotated[
        Effort | None,
        Field(
            description="`small`: fewer bytes at the same quality, for more processor time. WebP, AVIF "
            "and PNG outputs become smaller."
        ),
    ] = None
    dry_run: Annotated[
        Boolean,
        Field(description="Validate the CSV and return its counts, without storing anything."),
    ] = False

    def settings(self, defaults: CompressionSettings) -> CompressionSettings:
        """Return the settings of compression: `defaults`, with those options that were given."""
        names = ("quality", "format", "max_width", "max_height", "effort")
        given: dict[str, Any] = {name: getattr(self, name) for name in names}
        return replace(
            defaults, **{name: value for name, value in given.items() if value is not None}
        )


class StatusFormat(StrEnum):
    """Format of the status."""

    CSV = "csv"
    JSON = "json"


class StatusQuery(Options):
    """Options of `GET /checkStatus/{requestId}`."""

    format: Annotated[
        StatusFormat | None,
        Field(description="Format of the status. Overrides the `Accept` header."),
    ] = None
    only: Annotated[
        Literal["failed"] | None,
        Field(
            description="Return only the rows with failed images, and in them only the URLs that "
            "failed. The CSV has the columns of the uploaded file, so it can be fixed and uploaded "
            "again."
        ),
    ] = None
    wait: Annotated[
        Wait | None,
        Field(
            description="Long polling: wait up to this many seconds for a change since the `ETag` in "
            "`If-None-Match`. Without `If-None-Match`, wait until the request has finished.",
        ),
    ] = None
    bom: Annotated[
        Boolean, Field(description="Start the CSV with a byte-order mark, for Excel.")
    ] = False
    products: Annotated[Boolean, Field(description="Include `products` in the JSON.")] = True
    offset: Annotated[Offset, Field(description="Number of products to skip in the JSON.")] = 0
    limit: Annotated[Limit, Field(description="Maximum number of products in the JSON.")] = 100


class ListQuery(Options):
    """Options of `GET /listRequests`."""

    status: Annotated[
        RequestStatus | None, Field(description="Return only requests with this status.")
    ] = None
    limit: Annotated[Limit, Field(description="Maximum number of requests on a page.")] = 100
    cursor: Annotated[Cursor | None, Field(description="`nextCursor` of the previous page.")] = None


def parse_query(model: type[Model], request: web.Request) -> Model:
    """Return the options in the query string. Raise `ProblemError` if any is invalid."""
    return parse(model, request.query.items())


def parse(model: type[Model], pairs: Iterable[tuple[str, str]]) -> Model:
    """Return the options in name-value pairs.

    Raise a `ProblemError` that lists every option that is unknown, repeated or invalid.
    """
    received = list(pairs)
    counts = Counter(name for name, _ in received)
    errors = [
        _error_item(name, "repeated_option", "set more than once", None)
        for name, count in counts.items()
        if count > 1
    ]
    try:
        options = model.model_validate(dict(received), by_name=False, by_alias=True)
    except ValidationError as error:
        errors += [
            _explain(model, str(each["loc"][0]), each["type"], each["msg"], dict(received))
            for each in error.errors(include_url=False, include_context=False)
        ]
    if errors:
        listed = "; ".join(str(error["message"]) for error in errors[:5])
        more = f"; and {len(errors) - 5} more" if len(errors) > 5 else ""
        raise HttpProblemError(ProblemCode.INVALID_OPTION, f"{listed}{more}.", error_items=errors)
    return options


def _explain(
    model: type[BaseModel], name: str, kind: str, message: str, received: dict[str, str]
) -> dict[str, object]:
    """Return the error item for one error that pydantic found."""
    if kind == "extra_forbidden":
        known = ", ".join(str(field.alias) for field in model.model_fields.values())
        hint = f"use {known}" if known else "this operation has no options"
        return _error_item(name, "unknown_option", f"unknown option ({hint})", received.get(name))
    text = message.removeprefix("Value error, ").replace("Input should be", "must be")
    return _error_item(name, "invalid_option", text, received.get(name))


def _error_item(name: str, code: str, message: str, value: str | None) -> dict[str, object]:
    shown = name if len(name) <= _MAX_SHOWN_CHARACTERS else f"{name[:_MAX_SHOWN_CHARACTERS]}…"
    if value is not None and len(value) > _MAX_SHOWN_CHARACTERS:
        value = f"{value[:_MAX_SHOWN_CHARACTERS]}…"
    return {
        "row": None,
        "column": None,
        "code": code,
        "message": f"{shown}: {message}",
        "value": value,
        "option": shown,
    }
