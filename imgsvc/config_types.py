"""Types of the values of settings."""

from __future__ import annotations

import base64
import ipaddress
import re
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ByteSize,
    Field,
    PlainSerializer,
    TypeAdapter,
    ValidationError,
)

from imgsvc.image_types import MAX_SIDE_SETTING, Quality
from imgsvc.urls import page_origin

_BYTE_SIZE = TypeAdapter(ByteSize)


def parse_size(value: object) -> object:
    """Return the number of bytes of a size such as `"256 MiB"`.

    Return a value that is not a string unchanged; pydantic validates it. Raise `ValueError` if the
    string is not a size. Pydantic's `ByteSize` knows the units, but reads only the start of a text
    ("1,5 GB" as 1), so its form is checked first.
    """
    if not isinstance(value, str):
        return value
    try:
        if re.fullmatch(r"\s*[0-9]{1,15}(\.[0-9]{1,9})?\s*[A-Za-z]*\s*", value):
            return int(_BYTE_SIZE.validate_python(value))
    except ValidationError:
        pass
    raise ValueError('must be a number of bytes, or a size such as "256 MiB"')


def parse_http_url(value: str) -> str:
    """Return an http(s) URL without its final slash, or "". Raise `ValueError` if it is invalid."""
    if value and not re.fullmatch(r"https?://[^\s/?#@]+(/[^\s?#]*)?", value, re.IGNORECASE):
        raise ValueError('must be "" or an http(s) URL without user name, query or fragment')
    if value:
        page_origin(value)
    return value.rstrip("/")


def check_proxy(value: str) -> str:
    """Return the URL of a proxy, or "". Raise `ValueError` if it is invalid."""
    if value and not re.fullmatch(r"https?://([^\s/?#@]*@)?[^\s/?#@]+/?", value, re.IGNORECASE):
        raise ValueError('must be "" or a URL such as "http://user:password@proxy.example:3128"')
    try:
        _ = urlsplit(value).port
    except ValueError:
        raise ValueError("has an invalid host or port") from None
    return value


def parse_bucket(value: str) -> str:
    """Return the URL of a bucket, or "". Raise `ValueError` if it is invalid."""
    name, prefix = r"[A-Za-z0-9][A-Za-z0-9._-]{1,62}", r"(/[A-Za-z0-9!_.*'()-]+)*"
    if value and not re.fullmatch(rf"(s3|gs|az)://{name}{prefix}/?", value):
        raise ValueError('must be "" or a URL such as "s3://BUCKET/PREFIX", or with gs:// or az://')
    return value.rstrip("/")


def check_cluster_address(value: str) -> str:
    """Return the address of a coordinator. Raise `ValueError` if it is none.

    Without TLS, each program that can connect may run code, so `tcp://` is for loopback only.
    """
    match = re.fullmatch(r"(tls|tcp)://([^/:\s\[\]]+|\[[0-9a-f:]+\]):([0-9]{1,5})", value)
    if match is None or int(match[3]) > 65_535:
        raise ValueError('must be an address such as "tls://0.0.0.0:8786"')
    if match[1] == "tcp" and not _is_loopback(match[2].strip("[]")):
        raise ValueError("must start with tls://: without TLS, use only 127.0.0.1")
    return value


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def parse_listen(value: str) -> str:
    """Return the address on which nodes may join, or "". Raise `ValueError` if it is invalid."""
    return check_cluster_address(value) if value else value


def parse_origin(value: str) -> str:
    """Return the origin of a web page in its usual form. Raise `ValueError` if it is invalid."""
    if not re.fullmatch(r"https?://[^\s/?#@,*]+", value, re.IGNORECASE):
        raise ValueError('must be an origin such as "https://shop.example"')
    return page_origin(value)


def parse_network(
    entry: str,
) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, int | None]:
    """Return the network of an entry of `allowed_networks`, and its port or None.

    An entry is an address or a network, with or without a port: `10.1.0.5:9000`, `10.1.0.0/16:443`,
    `[fd00::/8]:443`. Raise `ValueError` if it is neither.
    """
    match = re.fullmatch(r"([0-9.]+(?:/[0-9]+)?|\[[^\[\]]+\]):([0-9]{1,5})", entry)
    network, port = (match[1].strip("[]"), int(match[2])) if match else (entry, None)
    if port is not None and not 1 <= port <= 65_535:
        raise ValueError("the port must be 1 to 65535")
    return ipaddress.ip_network(network), port


def check_network(value: str) -> str:
    """Return an entry of `allowed_networks`. Raise `ValueError` if it is invalid."""
    try:
        parse_network(value)
    except ValueError:
        raise ValueError(
            'must be a network such as "10.1.0.0/16", or with a port, "10.1.0.5:9000"; all bits after '
            "the prefix must be zero"
        ) from None
    return value


def parse_host(value: str) -> str:
    """Return a host name in its usual form. Raise `ValueError` if it is invalid."""
    if not re.fullmatch(r"[^\s/?#@,*:\[\]]+", value):
        raise ValueError('must be a host name without a port, such as "images.example"')
    return urlsplit(page_origin(f"http://{value}")).netloc.removesuffix(".")


def check_header_value(value: str) -> str:
    """Return the value of a header. Raise `ValueError` if it is invalid."""
    if not re.fullmatch(r"[\x20-\x7e]+", value) or value != value.strip():
        raise ValueError("must be one line of printable ASCII")
    return value


_REFUSED_HEADERS = frozenset(
    {
        "accept-encoding",
        "authorization",
        "connection",
        "content-length",
        "content-type",
        "cookie",
        "expect",
        "host",
        "if-match",
        "if-modified-since",
        "if-none-match",
        "if-range",
        "if-unmodified-since",
        "keep-alive",
        "proxy-authorization",
        "proxy-connection",
        "range",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "user-agent",
    }
)
"""The headers that `fetch.headers` may not set.

They are secrets that every host would receive, or the service or HTTP itself sets them.
"""


def parse_request_headers(value: dict[str, str]) -> dict[str, str]:
    """Return the headers with the usual spelling of their names."""
    names = [name.lower() for name in value]
    for name in names:
        if not re.fullmatch(r"[!#$%&'*+\-.^_`|~0-9a-z]+", name):
            raise ValueError(f"{name!r} is not a header name")
        if name in _REFUSED_HEADERS:
            hint = "; use fetch.user_agent" if name == "user-agent" else ""
            raise ValueError(f"cannot set the header {name}{hint}")
    if len(set(names)) < len(names):
        raise ValueError("must not set a header twice")
    return {name.title(): text for name, text in value.items()}


def check_webhook_secret(value: str) -> str:
    """Return the secret of webhooks, or "". Raise `ValueError` if it is invalid."""
    try:
        key = base64.b64decode(value.removeprefix("whsec_"), validate=True)
    except ValueError:
        key = b""
    if value and not (value.startswith("whsec_") and key):
        raise ValueError('must be "" or "whsec_" followed by base64')
    return value


def check_path(value: object) -> object:
    """Return the path of a folder. Raise `ValueError` if it is invalid."""
    if value == "":
        raise ValueError('must be a folder; "." is the folder of the configuration file')
    if "\0" in str(value):
        raise ValueError("must not contain a NUL character")
    return value


Size = Annotated[int, BeforeValidator(parse_size), Field(ge=0)]
Seconds = Annotated[float, Field(gt=0, le=86_400 * 365, allow_inf_nan=False)]
HttpUrl = Annotated[str, AfterValidator(parse_http_url)]
SideSetting = Annotated[int, Field(ge=0, le=MAX_SIDE_SETTING)]
QualitySetting = Annotated[
    Quality,
    BeforeValidator(lambda value: value if isinstance(value, Quality) else Quality.parse(value)),
    PlainSerializer(str),
]
