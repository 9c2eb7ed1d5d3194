"""Options of API calls: pydantic models that parse them and that the OpenAPI document is made from."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated, Any, Literal, TypeVar, get_origin

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
    Effort,
    OutputFormat,
    Quality,
)
from imgsvc.models import MAX_REQUEST_NAME, RequestStatus
from imgsvc.status_table import FailedImages, StatusLayout, StatusTable
from imgsvc.table_types import TableOptions
from imgsvc.web.http.problems import HttpProblemError
from imgsvc.web.schema.option_types import (
    MAX_IMAGE_COLUMNS,
    Boolean,
    ColumnHeader,
    Cursor,
    Limit,
    MaxSide,
    Offset,
    Wait,
    parse_encoding,
    parse_host,
    parse_name,
    parse_quality,
    parse_webhook_url,
)

_MAX_SHOWN_CHARACTERS = 100
"""Length to which an invalid name or value is cut in an error."""

Model = TypeVar("Model", bound=BaseModel)


_FRESH = (
    "Download every source whole. Otherwise hosts are asked whether it has been modified since an "
    "earlier download."
)


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


class OutputFields(Options):
    """Options of a request that do not change how its file is read."""

    webhook_url: Annotated[
        str | None,
        AfterValidator(parse_webhook_url),
        Field(
            description="http(s) URL to notify when the request has finished. It receives the event "
            "`request.finished` by POST.",
            json_schema_extra={"format": "uri", "maxLength": 8_192},
        ),
    ] = None
    quality: Annotated[
        Quality | None,
        BeforeValidator(parse_quality),
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
        ),
    ] = None
    max_height: Annotated[MaxSide | None, Field(description="The same for the height.")] = None
    effort: Annotated[
        Effort | None,
        Field(
            description="`small`: smaller JPEG, WebP, AVIF and PNG outputs, for more processor time."
        ),
    ] = None
    name: Annotated[
        str | None,
        BeforeValidator(parse_name),
        Field(
            min_length=1,
            max_length=MAX_REQUEST_NAME,
            description="Display name of the request. Downloads are named after it. The default "
            "of an upload is the file name of a form.",
        ),
    ] = None

    @property
    def settings(self) -> dict[str, Any]:
        """The fields of `CompressionSettings` that were given, by name."""
        names = ("quality", "format", "max_width", "max_height", "effort")
        values = {name: getattr(self, name) for name in names}
        return {name: value for name, value in values.items() if value is not None}


class RepeatFields(OutputFields):
    """Options of `POST /repeatRequest/{requestId}`. An option that is not set is not changed."""

    fresh: Annotated[Boolean | None, Field(description=_FRESH)] = None


class UploadFields(OutputFields):
    """Options of `POST /processImages`."""

    fresh: Annotated[Boolean, Field(description=_FRESH)] = False
    dry_run: Annotated[
        Boolean,
        Field(description="Validate the file and return how it is read, without storing anything."),
    ] = False
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
        AfterValidator(parse_encoding),
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


class CancelQuery(Options):
    """Options of `POST /cancelRequest/{requestId}`."""

    host: Annotated[
        str | None,
        AfterValidator(parse_host),
        Field(
            min_length=1,
            description="Cancel only the images of this host: `host` or `host:port`, as in `failures` "
            "and `waiting`. It stands for http and https.",
        ),
    ] = None


class RetryQuery(Options):
    """Options of `POST /retryFailed/{requestId}`."""

    include: Annotated[
        Literal["cancelled"] | None, Field(description="`cancelled`: retry cancelled images too.")
    ] = None


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
