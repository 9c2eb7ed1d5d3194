"""What went wrong on the way, as a code and a sentence; no sentence quotes a stranger unwashed."""

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
from aiohttp.http_exceptions import ContentEncodingError

from imgsvc.errors import ImageError, ImageErrorCode
from imgsvc.network.addresses import BlockedAddressError

log = logging.getLogger(__name__)

_CONNECT_SENTENCES = {
    errno.ECONNREFUSED: "the server refused the connection",
    errno.ECONNRESET: "the server reset the connection",
    errno.ECONNABORTED: "the server broke off the connection",
    errno.EPIPE: "the server broke off the connection",
    errno.EHOSTUNREACH: "the server cannot be reached",
    errno.ENETUNREACH: "the server's network cannot be reached",
    errno.EADDRNOTAVAIL: "the server's address cannot be reached",
}
_TITLE = re.compile(rb"(?i)<title[^>]{0,200}>([^<]{1,1000})")
_PAGE = re.compile(rb"(?is)\s*(<!--.{0,500}?-->\s*)?<(!doctype html|html|head|body)\b")
_LOOKED_AT_BYTES = 16 * 1024
"""How far into an answer that is no image is looked for its title."""


class NoResponseError(aiohttp.ClientError):
    """The connection ended before there was an answer; the cause says how."""


def one_line(text: str, limit: int = 120) -> str:
    """Make a stranger's text fit for a sentence: one line, nothing invisible, at most `limit` long."""
    text = "".join(c for c in text[: limit * 8] if c.isspace() or unicodedata.category(c)[0] != "C")
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"


def status_line(status: int) -> str:
    """Write an HTTP status with the standard's own words for it: `404 Not Found`."""
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def seconds(count: float) -> str:
    """Write a duration as a sentence has it: `1 second`, `0.5 seconds`."""
    return "1 second" if count == 1 else f"{count:g} seconds"


def describe_non_image(content_type: str, data: bytes) -> str:
    """Say what a server sent in place of an image: `the server sent text/html, "Sign in"`.

    `content_type` is what the server called it, "" where it did not say.
    """
    head = data[:_LOOKED_AT_BYTES]
    kind = one_line(content_type, 60)
    if kind.startswith("image/"):
        if not _PAGE.match(head):
            return f"the server sent {kind}, but its bytes are no image"
        kind = f"a web page as {kind}"
    found = _TITLE.search(head)
    title = one_line(html.unescape(found[1].decode("utf-8", "replace")), 80) if found else ""
    return f"the server sent {kind or 'something that is no image'}" + (title and f', "{title}"')


def explain(error: Exception, *, answered: bool = False) -> ImageError:
    """Turn what aiohttp or the system raised into a code and a sentence.

    `answered` tells whether the answer's head had arrived: what fails before is a connection that
    failed, what fails after is an incomplete body, and so is an answer that is no HTTP. What is not
    known is `internal`, and logged.
    Timeouts are for the caller, who knows the clocks.
    """
    chain = [*_causes(error)]
    if any(isinstance(cause, BlockedAddressError) for cause in chain):
        return ImageError(
            ImageErrorCode.BLOCKED_ADDRESS,
            "the host's address is not on the public internet, "
            "and not in a network that this service was told to allow",
        )
    for cause in chain:
        if isinstance(cause, ssl.SSLError) and not isinstance(cause, aiohttp.ClientError):
            return ImageError(ImageErrorCode.TLS_ERROR, _tls_sentence(cause))
        if isinstance(cause, ContentEncodingError):
            return ImageError(
                ImageErrorCode.CORRUPT_IMAGE,
                "the server sent a content encoding that was not asked for and cannot be decoded",
            )
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return ImageError(ImageErrorCode.DNS_FAILURE, _dns_sentence(error.os_error))
    if isinstance(error, aiohttp.InvalidURL):
        return ImageError(
            ImageErrorCode.INVALID_URL,
            "the host is neither a name nor an address as usually written",
        )
    if isinstance(error, aiohttp.ClientResponseError) and not isinstance(
        error, aiohttp.ClientHttpProxyError
    ):
        return ImageError(
            ImageErrorCode.INCOMPLETE_BODY,
            "the server's answer is not valid HTTP, or its headers are too large",
        )
    if answered and isinstance(error, (aiohttp.ClientError, OSError)):
        return ImageError(
            ImageErrorCode.INCOMPLETE_BODY, "the connection ended before the whole body had come"
        )
    if any(isinstance(cause, OSError) and cause.errno == errno.ETIMEDOUT for cause in chain):
        return ImageError(ImageErrorCode.TIMEOUT, "the server did not answer in the system's time")
    sentence = _connect_sentence(error, chain)
    if sentence is not None:
        return ImageError(ImageErrorCode.CONNECT_FAILED, sentence)
    log.error("a fetch failed for no known reason", exc_info=error)
    return ImageError(ImageErrorCode.INTERNAL, "the service itself failed here; its log says more")


def _causes(error: BaseException) -> list[BaseException]:
    """List an error and what it stems from, aiohttp's way of keeping it included."""
    chain: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in chain:
        chain.append(current)
        inner = getattr(current, "os_error", None) or getattr(current, "certificate_error", None)
        current = inner if isinstance(inner, BaseException) else current.__cause__
    return chain


def _connect_sentence(error: Exception, chain: list[BaseException]) -> str | None:
    match error:
        case aiohttp.ClientHttpProxyError():
            return f"the proxy answered {status_line(error.status)}"
        case aiohttp.ClientProxyConnectionError():
            return "the proxy cannot be reached"
    for cause in chain:
        if isinstance(cause, OSError) and cause.errno in _CONNECT_SENTENCES:
            return _CONNECT_SENTENCES[cause.errno]
    if isinstance(error, NoResponseError):
        return "the server closed the connection without an answer"
    if isinstance(error, (aiohttp.ClientConnectionError, OSError)):
        return "no connection to the server"
    return None


def _tls_sentence(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        reason = one_line(error.verify_message or "it could not be verified")
        return f"the server's certificate is not valid: {reason}"
    reason = one_line((error.reason or "").replace("_", " ").lower())
    return "no secure connection to the server" + (reason and f": {reason}")


def _dns_sentence(error: OSError) -> str:
    if isinstance(error, socket.gaierror) and error.errno == socket.EAI_AGAIN:
        return "the host's name could not be looked up just now"
    return "there is no host of this name"
