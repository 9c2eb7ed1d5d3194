"""Options of API calls: pydantic models that parse them and that the OpenAPI document is made from."""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated, Literal, TypeVar, get_origin

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
from imgsvc.image_types import OutputFormat, Quality
from imgsvc.models import MAX_REQUEST_NAME, RequestStatus
from imgsvc.status_table import FailedImages, StatusLayout, StatusTable
from imgsvc.table.decoding import check_encoding
from imgsvc.table_types import TableOptions
from imgsvc.urls import UrlError, parse_url
from imgsvc.web.http.problems import HttpProblemError

MAX_WAIT_SECONDS = 60
"""Maximum of the option `wait`."""
MAX_PAGE_SIZE = 1_000
"""Maximum number of products or requests on one page."""
MAX_TITLE_LENGTH = 1_000
"""Maximum length of a column's header in an option, in characters."""
MAX_IMAGE_COLUMNS = 100
"""Maximum number of columns with images that can be named in options."""
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
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
Offset = Annotated[int, Field(ge=0, le=2**53), BeforeValidator(_parse_integer)]
Limit = Annotated[int, Field(ge=1, le=MAX_PAGE_SIZE), BeforeValidator(_parse_integer)]
Cursor = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{22}$")]
Wait = Annotated[
    float, Field(ge=0, le=MAX_WAIT_SECONDS, allow_inf_nan=False), BeforeValidator(_parse_number)
]


def _parse_name(value: object) -> object:
    if isinstance(value, str):
        value = value.strip()
        if UNPRINTABLE.search(value):
            raise ValueError("must not contain control characters")
    return value


def _parse_encoding(value: str | None) -> str | None:
    if value is None:
        return None
    try:
        return check_encoding(value)
    except ValueError as error:
        raise ValueError(str(error).removesuffix(".")) from None


ColumnHeader = Annotated[str, Field(min_length=1, max_length=MAX_TITLE_LENGTH)]


class Options(BaseModel):
    """Base of all options. Names are camelCase; unknown options are errors.

    An option whose type is a tuple may be repeated.
    """

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
        Field(description="Format of the outputs. `keep`: the format of the source."),
    ] = None
    dry_run: Annotated[
        Boolean,
        Field(description="Validate the file and return how it is read, without storing anything."),
    ] = False
    name: Annotated[
        str | None,
        BeforeValidator(_parse_name),
        Field(
            min_length=1,
            max_length=MAX_REQUEST_NAME,
            description="Display name of the request. Downloads are named after it. The default is "
            "the file name of a form.",
        ),
    ] = None
    name_column: Annotated[
        ColumnHeader | None,
        Field(description="Header of the column with the product names. Overrides the layout."),
    ] = None
    image_column: Annotated[
        tuple[ColumnHeader, ...],
        Field(
            max_length=MAX_IMAGE_COLUMNS,
            description="Header of a column with image URLs. Overrides the layout. Repeat the option "
            "for several columns.",
        ),
    ] = ()
    encoding: Annotated[
        str | None,
        AfterValidator(_parse_encoding),
        Field(
            max_length=64,
            description="Encoding of the file: the name of a Python text codec that contains ASCII, "
            "such as `cp1251` or `shift_jis`. The default is to detect UTF-8, UTF-16 and Windows-1252.",
        ),
    ] = None
    allow_empty: Annotated[
        Boolean, Field(description="Accept rows without images in the layout `standard`.")
    ] = False
    on_invalid: Annotated[
        Literal["refuse", "skip"],
        Field(
            description="`refuse`: an invalid row refuses the file. `skip`: leave invalid rows out, "
            "and report them."
        ),
    ] = "refuse"

    @property
    def table(self) -> TableOptions:
        """The options that change how the file is read."""
        return TableOptions(
            self.name_column,
            self.image_column,
            self.encoding,
            self.allow_empty,
            self.on_invalid == "skip",
        )


class StatusFormat(StrEnum):
    """Format of the status."""

    CSV = "csv"
    JSON = "json"
    XLSX = "xlsx"


class StatusQuery(Options):
    """Options of `GET /checkStatus/{requestId}`."""

    format: Annotated[
        StatusFormat | None,
        Field(
            description="Format of the status. Overrides the `Accept` header. `xlsx` has the rows of "
            "the CSV, all cells as text."
        ),
    ] = None
    only: Annotated[
        Literal["failed"] | None,
        Field(
            description="Return only the rows with failed images, and in them only the URLs that "
            "failed, and the skipped rows. The CSV has the columns of the uploaded file, so it can be "
            "fixed and uploaded again."
        ),
    ] = None
    layout: Annotated[
        StatusLayout,
        Field(
            description="Columns of the CSV. `input`: those of the uploaded file, with each output "
            "URL in place of its input URL."
        ),
    ] = StatusLayout.STANDARD
    failed: Annotated[
        FailedImages,
        Field(
            description="What the layout `input` has for an image without an output: its input URL "
            "(`keep`), or nothing (`empty`)."
        ),
    ] = FailedImages.KEEP
    encoding: Annotated[
        Literal["input"] | None,
        Field(
            description="`input`: the layout `input` has the encoding of the uploaded file. The "
            "default is UTF-8."
        ),
    ] = None
    wait: Annotated[
        Wait | None,
        Field(
            description="Long polling: wait up to this many seconds for a change since the `ETag` in "
            "`If-None-Match`. Without `If-None-Match`, wait until the request has finished.",
        ),
    ] = None
    excel: Annotated[
        Boolean | None,
        Field(
            description="Start the CSV with a byte-order mark, and use the delimiter of the uploaded "
            "file, for Excel. The default is `true` if the uploaded file was .xlsx."
        ),
    ] = None
    bom: Annotated[Boolean | None, Field(description="The same as `excel`.")] = None
    products: Annotated[Boolean, Field(description="Include `products` in the JSON.")] = True
    offset: Annotated[Offset, Field(description="Number of products to skip in the JSON.")] = 0
    limit: Annotated[Limit, Field(description="Maximum number of products in the JSON.")] = 100

    @property
    def table(self) -> StatusTable:
        """The options of the CSV."""
        return StatusTable(
            self.layout,
            self.failed,
            only_failed=self.only == "failed",
            excel=self.bom if self.excel is None else self.excel,
            input_encoding=self.encoding == "input",
        )


class ListQuery(Options):
    """Options of `GET /listRequests`."""

    status: Annotated[
        RequestStatus | None, Field(description="Return only requests with this status.")
    ] = None
    name: Annotated[
        str | None,
        Field(
            min_length=1,
            max_length=MAX_REQUEST_NAME,
            description="Return only requests whose name contains this text, in any case.",
        ),
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
    received: dict[str, list[str]] = {}
    for name, value in pairs:
        received.setdefault(name, []).append(value)
    repeatable = {
        field.alias
        for field in model.model_fields.values()
        if get_origin(field.annotation) is tuple
    }
    errors = [
        _error_item(name, "repeated_option", "set more than once", None)
        for name, values in received.items()
        if len(values) > 1 and name not in repeatable
    ]
    last = {name: values[-1] for name, values in received.items()}
    found = {name: tuple(received[name]) if name in repeatable else last[name] for name in last}
    try:
        options = model.model_validate(found, by_name=False, by_alias=True)
    except ValidationError as error:
        errors += [
            _explain(model, str(each["loc"][0]), each["type"], each["msg"], last)
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
