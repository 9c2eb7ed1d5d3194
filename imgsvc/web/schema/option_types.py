"""Types of the values of options, as they are written in a query or a form."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator, Field

from imgsvc.image_types import MAX_SIDE_SETTING, Quality
from imgsvc.models import MAX_REQUEST_NAME
from imgsvc.table.decoding import check_encoding
from imgsvc.urls import UrlError, host_urls, parse_url

MAX_WAIT_SECONDS = 60
"""Maximum of the option `wait`."""
MAX_PAGE_SIZE = 1_000
"""Maximum number of products or requests on one page."""
MAX_TITLE_LENGTH = 1_000
"""Maximum length of a column's header in an option, in characters."""
MAX_IMAGE_COLUMNS = 100
"""Maximum number of columns with images that can be named in options."""
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


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


def parse_quality(value: object) -> Quality:
    """Return a quality. Raise ValueError if it is invalid."""
    return value if isinstance(value, Quality) else Quality.parse(str(value))


def parse_webhook_url(value: str | None) -> str | None:
    """Return the URL of a receiver. Raise ValueError if it is invalid."""
    if value is None:
        return None
    try:
        return parse_url(value).text
    except UrlError as error:
        raise ValueError(str(error)) from None


def parse_host(value: str | None) -> str | None:
    """Return a `host` or `host:port`. Raise ValueError if it is invalid."""
    try:
        if value is not None:
            host_urls(value)
    except UrlError as error:
        raise ValueError(str(error)) from None
    return value


Boolean = Annotated[bool, BeforeValidator(_parse_boolean)]
MaxSide = Annotated[int, Field(ge=0, le=MAX_SIDE_SETTING), BeforeValidator(_parse_integer)]
Offset = Annotated[int, Field(ge=0, le=2**53), BeforeValidator(_parse_integer)]
Limit = Annotated[int, Field(ge=1, le=MAX_PAGE_SIZE), BeforeValidator(_parse_integer)]
Cursor = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{22}$")]
Wait = Annotated[
    float, Field(ge=0, le=MAX_WAIT_SECONDS, allow_inf_nan=False), BeforeValidator(_parse_number)
]


def parse_name(value: object) -> object:
    """Return a display name without white space around it. Raise ValueError if it is invalid."""
    if isinstance(value, str):
        value = value.strip()
        if UNPRINTABLE.search(value):
            raise ValueError("must not contain control characters")
        if not 0 < len(value) <= MAX_REQUEST_NAME:
            raise ValueError(f"must have 1 to {MAX_REQUEST_NAME} characters")
    return value


def parse_encoding(value: str | None) -> str | None:
    """Return the canonical name of a codec. Raise ValueError if it is invalid."""
    if value is None:
        return None
    try:
        return check_encoding(value)
    except ValueError as error:
        raise ValueError(str(error).removesuffix(".")) from None


ColumnHeader = Annotated[str, Field(min_length=1, max_length=MAX_TITLE_LENGTH)]
