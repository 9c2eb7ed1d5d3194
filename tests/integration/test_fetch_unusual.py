"""A fetch succeeds for the unusual responses that browsers show, and fails at once for the others."""

from __future__ import annotations

import asyncio
import gzip
import zlib

import pytest

from imgsvc.config import FetchConfig
from imgsvc.network.addresses import AddressRules
from imgsvc.network.connections import ResponseConnection
from imgsvc.network.retry import is_transient
from imgsvc.network.session import open_session
from tests.integration.test_fetch import fetch, fetch_error, open_fetcher
from tests.raw_origin import Handler, http_response, raw_origin, redirect
from tests.sample_images import encoded

IMAGE = encoded(1, "jpg")
OK = b"HTTP/1.1 200 OK\r\n"
LENGTH = b"Content-Length: %d\r\n" % len(IMAGE)
CLOSE = b"Connection: close\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"


def coded(body: bytes, coding: str) -> bytes:
    return http_response(body, f"Content-Encoding: {coding}")


def with_header(line: bytes) -> bytes:
    return OK + line + b"\r\n" + LENGTH + CLOSE + b"\r\n" + IMAGE


def in_chunks(size_line: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    return OK + CHUNKED + b"\r\n" + size_line + b"\r\n" + IMAGE + b"\r\n" + end


SHOWN_BY_BROWSERS = {
    "plain": http_response(IMAGE),
    "gzip": coded(gzip.compress(IMAGE), "gzip"),
    "x-gzip": coded(gzip.compress(IMAGE), "x-gzip"),
    "gzip twice": coded(gzip.compress(gzip.compress(IMAGE)), "gzip, gzip"),
    "gzip in two headers": http_response(
        gzip.compress(zlib.compress(IMAGE)), "Content-Encoding: deflate", "Content-Encoding: gzip"
    ),
    "gzip of two members": coded(gzip.compress(IMAGE[:99]) + gzip.compress(IMAGE[99:]), "gzip"),
    "zeros after gzip": coded(gzip.compress(IMAGE) + bytes(9), "gzip"),
    "deflate": coded(zlib.compress(IMAGE), "deflate"),
    "deflate without zlib": coded(zlib.compress(IMAGE, wbits=-15), "deflate"),
    "identity": coded(IMAGE, "identity"),
    "none": coded(IMAGE, "none"),
    "utf-8": coded(IMAGE, "UTF-8"),
    "binary": coded(IMAGE, "binary"),
    "aws-chunked": coded(IMAGE, "aws-chunked"),
    "image/jpeg": coded(IMAGE, "image/jpeg"),
    "base64": coded(IMAGE, "base64"),
    "length too small": OK + b"Content-Length: 200\r\n" + CLOSE + b"\r\n" + IMAGE,
    "length twice": OK + LENGTH + LENGTH + b"\r\n" + IMAGE,
    "length as list": OK + b"Content-Length: %d, %d\r\n\r\n" % (len(IMAGE), len(IMAGE)) + IMAGE,
    "chunked": in_chunks(b"%x" % len(IMAGE)),
    "chunk extension": in_chunks(b"%x ; a=b" % len(IMAGE)),
    "HTTP/1.0": b"HTTP/1.0 200 OK\r\nContent-Type: image/jpeg\r\n\r\n" + IMAGE,
    "until close": OK + b"\r\n" + IMAGE,
    "no reason": http_response(IMAGE, status="200"),
    "line feeds only": OK.replace(b"\r", b"") + b"Content-Type: image/jpeg\n\n" + IMAGE,
    "blank in name": with_header(b"Content Type: image/jpeg"),
    "blank before colon": with_header(b"X-Cache : HIT"),
    "no colon": with_header(b"X-Cache HIT"),
    "not ASCII": with_header(b'Content-Disposition: inline; filename="caf\xe9.jpg"'),
    "folded": with_header(b"X-Long: a\r\n b"),
    "empty name": with_header(b": nothing"),
    "NUL": with_header(b"X-A: a\0b"),
    "200 headers": with_header(b"\r\n".join(b"X-H%d: 1" % number for number in range(200))),
    "header of 20 KB": with_header(b"Content-Security-Policy: " + b"a" * 20_000),
    "40 cookies": with_header(b"\r\n".join([b"Set-Cookie: c=" + b"v" * 300] * 40)),
    "early hints": b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n" + http_response(IMAGE),
    "continue": b"HTTP/1.1 100 Continue\r\n\r\n" + http_response(IMAGE),
    "line break before": b"\r\n" + http_response(IMAGE),
    "203": http_response(IMAGE, status="203 Non-Authoritative"),
    "206": http_response(IMAGE, status="206 Partial Content"),
    "two types": http_response(IMAGE, "Content-Type: image/jpg; charset=binary, image/jpeg"),
}


@pytest.mark.parametrize("name", SHOWN_BY_BROWSERS)
async def test_fetch_returns_image_that_browsers_show(name: str) -> None:
    async with raw_origin(SHOWN_BY_BROWSERS[name]) as origin:
        assert (await fetch(f"{origin.base}/a.jpg"))[0] == IMAGE
    assert len(origin.heads) == 1


async def test_bytes_after_body_are_dropped_when_connection_would_be_kept() -> None:
    async with raw_origin(OK + LENGTH + b"\r\n" + IMAGE + b"<!-- cached -->") as origin:
        assert (await fetch(f"{origin.base}/a.jpg"))[0] == IMAGE


NOT_SHOWN = {
    "gzip said but plain": (coded(IMAGE, "gzip"), "corrupt_image"),
    "gzip cut": (coded(gzip.compress(IMAGE)[:-20], "gzip"), "corrupt_image"),
    "gzip five times": (coded(IMAGE, ", ".join(["gzip"] * 5)), "corrupt_image"),
    "length and chunked": (OK + LENGTH + CHUNKED + b"\r\n" + IMAGE, "invalid_response"),
    "chunked said but plain": (OK + CHUNKED + b"\r\n" + IMAGE, "invalid_response"),
    "404 with image": (http_response(IMAGE, status="404 Not Found"), "http_status"),
    "300": (http_response(b"", "Location: /b", status="300 Multiple Choices"), "http_status"),
    "empty": (http_response(b""), "empty_body"),
    "204": (http_response(b"", status="204 No Content"), "empty_body"),
}


@pytest.mark.parametrize("name", NOT_SHOWN)
async def test_fetch_fails_permanently_for_image_that_browsers_do_not_show(name: str) -> None:
    response, code = NOT_SHOWN[name]
    async with raw_origin(response) as origin:
        error = await fetch_error(f"{origin.base}/a.jpg")
    assert error.code == code
    assert not is_transient(error)


@pytest.mark.parametrize(
    "response",
    [
        OK + b"Content-Length: %d\r\n\r\n" % (len(IMAGE) + 200) + IMAGE,
        in_chunks(b"%x" % len(IMAGE), end=b""),
    ],
)
async def test_cut_response_is_transient(response: bytes) -> None:
    async with raw_origin(response) as origin:
        error = await fetch_error(f"{origin.base}/a.jpg")
    assert error.code == "incomplete_body"
    assert is_transient(error)


@pytest.mark.parametrize(
    "location", ["a.jpg", "//127.0.0.1:{port}/a.jpg", "/ok/b\xfccher.jpg", "\\a.jpg", "/a.jpg#x"]
)
async def test_unusual_location_is_followed(location: str) -> None:
    async def handler(head: str, writer: asyncio.StreamWriter) -> None:
        if head.startswith("GET / "):
            line = f"Location: {location.format(port=origin.port)}\r\n".encode("latin-1")
            writer.write(b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n" + line * 2 + b"\r\n")
        else:
            writer.write(http_response(IMAGE))

    async with raw_origin(handler) as origin:
        assert (await fetch(origin.base + "/"))[0] == IMAGE
    assert "\\" not in origin.targets[1]


def cookie_gate(*set_cookies: str) -> Handler:
    """Return a handler that sends the image only to a request with the cookie `seen=1`."""

    async def handler(head: str, writer: asyncio.StreamWriter) -> None:
        lines = [line for line in head.split("\r\n") if line.lower().startswith("cookie:")]
        if any("seen=1" in line for line in lines):
            writer.write(http_response(IMAGE))
        else:
            cookies = [f"Set-Cookie: {cookie}" for cookie in set_cookies]
            writer.write(http_response(b"", *cookies, "Location: /a", status="302 Found"))

    return handler


@pytest.mark.parametrize(
    "cookies",
    [
        ("seen=1; Path=/",),
        ("seen=1",),
        ("other=2; Path=/", "seen=1; Path=/; HttpOnly; SameSite=Lax; Max-Age=60"),
        (*(f"c{number}=" + "v" * 300 for number in range(40)), "seen=1"),
    ],
)
async def test_cookie_of_redirect_goes_back_to_its_host(cookies: tuple[str, ...]) -> None:
    async with raw_origin(cookie_gate(*cookies)) as origin:
        assert (await fetch(f"{origin.base}/a"))[0] == IMAGE
    assert len(origin.heads) == 2


async def test_cookie_is_sent_to_no_other_host_and_in_no_other_download() -> None:
    async with raw_origin(http_response(IMAGE), host="127.0.0.2") as other:
        response = redirect(f"{other.base}/b").replace(
            b"\r\n\r\n", b"\r\nSet-Cookie: seen=1\r\n\r\n"
        )
        async with raw_origin(response) as origin, open_fetcher() as fetcher:
            for _ in range(2):
                async with fetcher.fetch(f"{origin.base}/a"):
                    pass
    assert len(origin.heads) == len(other.heads) == 2
    assert "cookie" not in "".join(origin.heads + other.heads).lower()


async def test_secure_cookie_is_not_sent_without_tls() -> None:
    async with raw_origin(cookie_gate("seen=1; Secure")) as origin:
        assert (await fetch_error(f"{origin.base}/a")).code == "too_many_redirects"


async def test_configured_headers_are_sent_with_downloads_and_redirects() -> None:
    headers = FetchConfig(headers={"referer": "https://a.example/", "ACCEPT": "*/*"}).headers
    async with raw_origin(http_response(IMAGE)) as other:
        async with raw_origin(redirect(f"{other.base}/b")) as origin:
            await fetch(f"{origin.base}/a", headers=headers)
        for head in origin.heads + other.heads:
            assert "\r\nReferer: https://a.example/\r\n" in head
            assert head.lower().count("\r\naccept: ") == 1
            assert "\r\nAccept: */*\r\n" in head


async def test_session_reads_responses_with_own_reader() -> None:
    """The connector's factory is not public in aiohttp, so an update may ignore it."""
    rules = AddressRules(["127.0.0.0/8"])
    async with (
        raw_origin(OK + b"Content-Length: 9\r\n\r\n") as origin,
        open_session(FetchConfig(), rules) as session,
    ):
        response = await session.get(origin.base)
        assert response.connection is not None
        assert isinstance(response.connection.protocol, ResponseConnection)
        response.close()
