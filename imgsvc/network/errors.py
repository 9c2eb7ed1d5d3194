"""Turns network errors into error codes and messages.

Text from hosts is cleaned with `one_line` before a message quotes it.
"""

from __future__ import annotations

import errno
import html
import logging
import re
import socket
import ssl
import unicodedata
from http import HTTPStatus

import aiohttp

from imgsvc.errors import ImageError, ImageErrorCode
from imgsvc.network.addresses import BlockedAddressError
from imgsvc.network.content_coding import ContentCodingError
from imgsvc.network.response_reader import InvalidResponseError

log = logging.getLogger(__name__)

_CONNECT_MESSAGES = {
    errno.ECONNREFUSED: "The host refused the connection.",
    errno.ECONNRESET: "The host reset the connection.",
    errno.ECONNABORTED: "The host closed the connection.",
    errno.EPIPE: "The host closed the connection.",
    errno.EHOSTUNREACH: "The host cannot be reached.",
    errno.ENETUNREACH: "The host's network cannot be reached.",
    errno.EADDRNOTAVAIL: "The host's address cannot be reached.",
}
_TITLE = re.compile(rb"(?i)<title[^>]{0,200}>([^<]{1,1000})")
_PAGE = re.compile(rb"(?is)\s*(<!--.{0,500}?-->\s*)?<(!doctype html|html|head|body)\b")
_TITLE_SEARCH_BYTES = 16 * 1024
"""How many bytes of a response that is not an image are searched for a page title."""


class NoResponseError(aiohttp.ClientError):
    """The connection ended before a response arrived. The cause has the details."""


class ProxyNotFoundError(aiohttp.ClientError):
    """The name of the proxy in `fetch.proxy` cannot be resolved."""


def one_line(text: str, limit: int = 120) -> str:
    """Return untrusted text as one line of at most `limit` visible characters."""
    text = "".join(c for c in text[: limit * 8] if c.isspace() or unicodedata.category(c)[0] != "C")
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"


def status_line(status: int) -> str:
    """Return an HTTP status with its standard phrase: `404 Not Found`."""
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def format_seconds(count: float) -> str:
    """Return a duration for a message: `1 second`, `0.5 seconds`."""
    return "1 second" if count == 1 else f"{count:g} seconds"


def describe_non_image(content_type: str, data: bytes) -> str:
    """Return a message that describes a response that is not an image.

    For example: `The host sent text/html ("Sign in") instead of an image.` `content_type` is the
    host's media type, or "" if there was none.
    """
    head = data[:_TITLE_SEARCH_BYTES]
    kind = one_line(content_type, 60)
    if kind.startswith("image/"):
        if not _PAGE.match(head):
            return f"The host sent {kind}, but the data is not an image."
        kind = f"a web page as {kind}"
    found = _TITLE.search(head)
    title = one_line(html.unescape(found[1].decode("utf-8", "replace")), 80) if found else ""
    quoted_title = title and f' ("{title}")'
    return f"The host sent {kind or 'an unknown file type'}{quoted_title} instead of an image."


def to_image_error(error: Exception, *, headers_received: bool = False) -> ImageError:
    """Return the `ImageError` for an error that aiohttp or the system has raised.

    `headers_received` is true if the response headers have arrived. An error before that is
    `connect_failed`; an error after it is `incomplete_body`. A response that is not valid HTTP is
    `invalid_response`. An unknown error is `internal`, and is logged.

    The caller handles timeouts, because only the caller knows which one has expired.
    """
    chain = [*_causes(error)]
    for cause in chain:
        if isinstance(cause, BlockedAddressError):
            return ImageError(ImageErrorCode.BLOCKED_ADDRESS, cause.message)
        if isinstance(cause, ssl.SSLError) and not isinstance(cause, aiohttp.ClientError):
            return ImageError(ImageErrorCode.TLS_ERROR, _tls_message(cause))
        if isinstance(cause, ContentCodingError):
            return ImageError(
                ImageErrorCode.CORRUPT_IMAGE,
                "The host sent a content encoding that was not requested and cannot be decoded.",
            )
        if isinstance(cause, InvalidResponseError):
            return ImageError(ImageErrorCode.INVALID_RESPONSE, str(cause))
    if isinstance(error, ProxyNotFoundError):
        return ImageError(ImageErrorCode.DNS_FAILURE, "The proxy cannot be found.")
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return ImageError(ImageErrorCode.DNS_FAILURE, _dns_message(error))
    if isinstance(error, aiohttp.InvalidURL):
        return ImageError(
            ImageErrorCode.INVALID_URL,
            "The host is not a valid name or IP address.",
        )
    if headers_received and isinstance(error, (aiohttp.ClientError, OSError)):
        return ImageError(
            ImageErrorCode.INCOMPLETE_BODY,
            "The connection ended before the whole file was received.",
        )
    if any(isinstance(cause, OSError) and cause.errno == errno.ETIMEDOUT for cause in chain):
        return ImageError(
            ImageErrorCode.TIMEOUT, "The host did not respond within the system's time limit."
        )
    message = _connect_message(error, chain)
    if message is not None:
        return ImageError(ImageErrorCode.CONNECT_FAILED, message)
    log.error("unexpected error while fetching", exc_info=error)
    return ImageError(ImageErrorCode.INTERNAL, "Internal error. See the service log.")


def _causes(error: BaseException) -> list[BaseException]:
    """Return an error and its causes, including those that aiohttp keeps in attributes."""
    chain: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in chain:
        chain.append(current)
        inner = getattr(current, "os_error", None) or getattr(current, "certificate_error", None)
        current = inner if isinstance(inner, BaseException) else current.__cause__
    return chain


def _connect_message(error: Exception, chain: list[BaseException]) -> str | None:
    match error:
        case aiohttp.ClientHttpProxyError():
            return f"The proxy returned {status_line(error.status)}."
        case aiohttp.ClientProxyConnectionError():
            return "The proxy cannot be reached."
    for cause in chain:
        if isinstance(cause, OSError) and cause.errno in _CONNECT_MESSAGES:
            return _CONNECT_MESSAGES[cause.errno]
    if isinstance(error, NoResponseError):
        return "The host closed the connection without a response."
    if isinstance(error, (aiohttp.ClientConnectionError, OSError)):
        return "Cannot connect to the host."
    return None


def _tls_message(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        reason = one_line(error.verify_message or "it could not be verified").rstrip(".")
        return f"The host's certificate is not valid: {reason}."
    reason = one_line((error.reason or "").replace("_", " ").lower())
    return "Cannot open a secure connection to the host" + (reason and f": {reason}") + "."


def _dns_message(error: aiohttp.ClientConnectorDNSError) -> str:
    host = one_line(error.host, 100)
    cause = error.os_error
    if isinstance(cause, socket.gaierror) and cause.errno == socket.EAI_AGAIN:
        return f"Cannot look up {host} at the moment."
    return f"Cannot find {host}."
