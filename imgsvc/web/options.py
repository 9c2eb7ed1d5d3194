"""The options of a call: pydantic models that handlers parse by, and the API's description shows."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated, Literal, TypeVar

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
from imgsvc.models import RequestStatus
from imgsvc.urls import UrlError, parse_url
from imgsvc.web.problems import HttpProblemError

MOST_WAIT_SECONDS = 60
MOST_ROWS = 1_000
"""Products or requests of one page."""
_SHOWN = 100
"""So much of an offending value is shown."""

Model = TypeVar("Model", bound=BaseModel)


def _truth(value: object) -> object:
    if isinstance(value, str):
        if value not in {"true", "false"}:
            raise ValueError("must be true or false")
        return value == "true"
    return value


def _whole(value: object) -> object:
    if isinstance(value, str) and not re.fullmatch(r"-?[0-9]{1,18}", value):
        raise ValueError("must be a whole number")
    return value


def _number(value: object) -> object:
    if isinstance(value, str) and not re.fullmatch(r"-?[0-9]{1,9}(\.[0-9]+)?(e-?[0-9]+)?", value):
        raise ValueError("must be a number")
    return value


def _quality(value: object) -> Quality:
    return value if isinstance(value, Quality) else Quality.parse(str(value))


def _webhook_url(value: str | None) -> str | None:
    if value is None:
        return None
    try:
        return parse_url(value).text
    except UrlError as error:
        raise ValueError(str(error)) from None


Truth = Annotated[bool, BeforeValidator(_truth)]
Offset = Annotated[int, Field(ge=0, le=2**53), BeforeValidator(_whole)]
Limit = Annotated[int, Field(ge=1, le=MOST_ROWS), BeforeValidator(_whole)]
Cursor = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{22}$")]
Wait = Annotated[
    float, Field(ge=0, le=MOST_WAIT_SECONDS, allow_inf_nan=False), BeforeValidator(_number)
]


class Options(BaseModel):
    """Options by their camelCase names; one that is not known is refused."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        alias_generator=to_camel,
        validate_by_name=True,
        arbitrary_types_allowed=True,
    )


class NoOptions(Options):
    """A call that has none."""


class UploadFields(Options):
    """How an upload is to be treated."""

    webhook_url: Annotated[
        str | None,
        AfterValidator(_webhook_url),
        Field(
            description="Is called once the request has finished. http or https.",
            json_schema_extra={"format": "uri", "maxLength": 8_192},
        ),
    ] = None
    quality: Annotated[
        Quality | None,
        BeforeValidator(_quality),
        WithJsonSchema({"type": "string", "pattern": "^([1-9][0-9]?|100)%?$"}),
        Field(
            description="`50%`: half of each source's own quality. `50`: absolute, for all.",
            examples=["50%"],
        ),
    ] = None
    format: Annotated[
        OutputFormat | None, Field(description="The outputs' format; `keep`: each its own.")
    ] = None
    dry_run: Annotated[
        Truth, Field(description="Check the table, answer 200 with the counts, store nothing.")
    ] = False


class StatusFormat(StrEnum):
    CSV = "csv"
    JSON = "json"


class StatusQuery(Options):
    """Which status, in which form."""

    format: Annotated[
        StatusFormat | None, Field(description="Decides instead of the `Accept` header.")
    ] = None
    only: Annotated[
        Literal["failed"] | None,
        Field(
            description="Only the rows with failed images, with just those URLs; as a CSV in the "
            "input's own columns, to be mended and uploaded again."
        ),
    ] = None
    wait: Annotated[
        Wait | None,
        Field(
            description="Answer once something has changed since the `ETag` in `If-None-Match`, or "
            "without one once the request has finished; after so many seconds at the latest.",
        ),
    ] = None
    bom: Annotated[Truth, Field(description="Begin the CSV with a byte-order mark, for Excel.")] = (
        False
    )
    products: Annotated[Truth, Field(description="Whether the JSON has `products`.")] = True
    offset: Annotated[Offset, Field(description="The first product of the JSON's page.")] = 0
    limit: Annotated[Limit, Field(description="The JSON's products, at most.")] = 100


class ListQuery(Options):
    """Which requests."""

    status: Annotated[
        RequestStatus | None, Field(description="Only requests with this status.")
    ] = None
    limit: Annotated[Limit, Field(description="The requests of a page, at most.")] = 100
    cursor: Annotated[Cursor | None, Field(description="The `nextCursor` of the page before.")] = (
        None
    )


def query(model: type[Model], request: web.Request) -> Model:
    """Read a call's query. Raises `ProblemError`."""
    return parse(model, request.query.items())


def parse(model: type[Model], pairs: Iterable[tuple[str, str]]) -> Model:
    """Read options. Raises `ProblemError` that names every one that is unknown, repeated or wrong."""
    given = list(pairs)
    counts = Counter(name for name, _ in given)
    causes = [
        _cause(name, "repeated_option", "is given more than once", None)
        for name, count in counts.items()
        if count > 1
    ]
    try:
        options = model.model_validate(dict(given), by_name=False, by_alias=True)
    except ValidationError as error:
        causes += [
            _explain(model, str(each["loc"][0]), each["type"], each["msg"], dict(given))
            for each in error.errors(include_url=False, include_context=False)
        ]
    if causes:
        told = "; ".join(str(cause["message"]) for cause in causes[:5])
        more = f"; and {len(causes) - 5} more" if len(causes) > 5 else ""
        raise HttpProblemError(ProblemCode.INVALID_OPTION, f"{told}{more}.", causes=causes)
    return options


def _explain(
    model: type[BaseModel], name: str, kind: str, message: str, given: dict[str, str]
) -> dict[str, object]:
    if kind == "extra_forbidden":
        known = ", ".join(str(field.alias) for field in model.model_fields.values())
        has = f"its options are {known}" if known else "this call has none"
        return _cause(name, "unknown_option", f"is no option here; {has}", given.get(name))
    text = message.removeprefix("Value error, ").replace("Input should be", "must be")
    return _cause(name, "invalid_option", text, given.get(name))


def _cause(name: str, code: str, message: str, value: str | None) -> dict[str, object]:
    shown = name if len(name) <= _SHOWN else f"{name[:_SHOWN]}…"
    if value is not None and len(value) > _SHOWN:
        value = f"{value[:_SHOWN]}…"
    return {
        "row": None,
        "column": None,
        "code": code,
        "message": f"{shown}: {message}",
        "value": value,
        "option": shown,
    }
