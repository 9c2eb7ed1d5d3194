"""A fetch returns bytes within limits, or an error with a code and a message, for any server."""

from __future__ import annotations

import asyncio
import gzip
import logging
import re
import socket
import subprocess
import sys
import time
import tracemalloc
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from email.utils import formatdate
from typing import Any

import pytest

from imgsvc.config import FetchConfig
from imgsvc.errors import ImageError
from imgsvc.network.addresses import AddressRules
from imgsvc.network.byte_budget import ByteBudget
from imgsvc.network.fetch import Fetcher
from imgsvc.network.session import open_session
from tests.byte_budget_probe import free_bytes
from tests.origin import ROOT, Origin, Reply
from tests.raw_origin import Handler, http_response, raw_origin, redirect

LOOPBACK = ("127.0.0.0/8", "::1/128")
MIB = 2**20


def fetch_config(**values: Any) -> FetchConfig:
    return FetchConfig(allowed_networks=LOOPBACK).model_copy(update=values)


@asynccontextmanager
async def open_fetcher(budget: ByteBudget | None = None, **values: Any) -> AsyncIterator[Fetcher]:
    config = fetch_config(**values)
    rules = AddressRules(config.allowed_networks)
    async with open_session(config, rules) as session:
        yield Fetcher(session, config, budget or ByteBudget(64 * MIB))


async def fetch(url: str, **values: Any) -> tuple[bytes, str]:
    async with open_fetcher(**values) as fetcher, fetcher.fetch(url) as body:
        assert body is not None
        return body.data, body.content_type


async def fetch_error(url: str, **values: Any) -> ImageError:
    """Return the error of a fetch that must fail. Check that its message is plain text."""
    with pytest.raises(ImageError) as caught:
        await fetch(url, **values)
    error = caught.value
    assert re.fullmatch(r"[^\x00-\x1f\x7f-\x9f]{3,300}", error.message)
    assert not re.search(r"[a-z]Error\b|Exception|Traceback|aiohttp|errno|<class", error.message)
    return error


async def fetch_error_from(handler: Handler | bytes, **values: Any) -> ImageError:
    """Return the error of a fetch from an origin server with this handler or these bytes."""
    async with raw_origin(handler) as origin:
        return await fetch_error(f"{origin.base}/a.jpg", **values)


def code_and_message(error: ImageError) -> tuple[str, str]:
    return error.code, error.message


# --- success ------------------------------------------------------------------------------


async def test_fetch_returns_body_that_counts_against_budget_until_block_ends() -> None:
    budget = ByteBudget(MIB)
    async with (
        raw_origin(http_response(b"image", "Content-Type: image/jpeg; charset=x")) as origin,
        open_fetcher(budget) as fetcher,
        fetcher.fetch(f"{origin.base}/a.jpg") as body,
    ):
        assert body is not None
        assert (body.data, body.content_type) == (b"image", "image/jpeg")
        assert free_bytes(budget) == MIB - len(b"image")
    assert free_bytes(budget) == MIB


async def test_fetch_returns_large_body() -> None:
    image = bytes(range(256)) * 40_000
    async with raw_origin(http_response(image)) as origin:
        assert await fetch(origin.base) == (image, "")


@pytest.mark.parametrize("status", ["200 OK", "203 Fine", "200"])
async def test_fetch_accepts_any_2xx_status(status: str) -> None:
    async with raw_origin(http_response(b"x", status=status)) as origin:
        assert (await fetch(origin.base))[0] == b"x"


async def test_body_without_length_ends_when_connection_closes() -> None:
    async with raw_origin(b"HTTP/1.0 200 OK\r\n\r\nimage") as origin:
        assert (await fetch(origin.base))[0] == b"image"


async def test_fetch_sends_only_standard_headers_and_no_cookies_of_other_downloads() -> None:
    set_cookie = http_response(b"x", "Set-Cookie: id=1; Path=/")
    async with (
        raw_origin(set_cookie) as origin,
        open_fetcher(user_agent="shop/1 (a@b.c)") as fetcher,
    ):
        for _ in range(2):
            async with fetcher.fetch(f"{origin.base}/a"):
                pass
    for head in origin.heads:
        lines = head.strip().lower().split("\r\n")
        assert sorted(lines[1:]) == [
            "accept-encoding: identity",
            "accept: image/*,*/*;q=0.8",
            f"host: 127.0.0.1:{origin.port}",
            "user-agent: shop/1 (a@b.c)",
        ]


@pytest.mark.parametrize(
    "target",
    [
        "/a?",
        "/?",
        "/a/../b/./c",
        "//a//b",
        "/%7Euser/%2F?sig=a%2Fb%27%7e'(1)&x=+%20&y=a;b",
        "/w_100,h_100/a.jpg?a==b&&c",
        "/a??b?",
        "/a%C3%A9%ff",
    ],
)
async def test_fetch_and_redirect_send_url_unchanged(target: str) -> None:
    async with raw_origin(http_response(b"x")) as origin, raw_origin(http_response(b"x")) as other:
        await fetch(origin.base + target)
        assert origin.targets == [target]
        async with raw_origin(redirect(other.base + target)) as first:
            await fetch(first.base)
        assert other.targets == [target]


# --- redirects -------------------------------------------------------------------------------


def redirect_times(count: int, status: str = "302 Found") -> Handler:
    """Return a handler that redirects `count` times: from /0 to /1, and so on."""

    async def handler(head: str, writer: asyncio.StreamWriter) -> None:
        number = int(head.split(" ")[1].strip("/"))
        last = number == count
        writer.write(http_response(b"image") if last else redirect(f"/{number + 1}", status))

    return handler


@pytest.mark.parametrize(
    "status", ["301 Moved", "302 Found", "303 See", "307 Temporary", "308 Permanent"]
)
async def test_fetch_follows_ten_redirects(status: str) -> None:
    async with raw_origin(redirect_times(10, status)) as origin:
        assert (await fetch(f"{origin.base}/0"))[0] == b"image"
    assert len(origin.heads) == 11


async def test_redirect_to_same_server_succeeds_when_it_closes_connection_without_notice() -> None:
    async def handler(head: str, writer: asyncio.StreamWriter) -> None:
        last = head.startswith("GET /b ")
        response = http_response(b"image") if last else redirect("/b")
        writer.write(response.replace(b"Connection: close\r\n", b""))

    async with raw_origin(handler) as origin:
        assert (await fetch(f"{origin.base}/a"))[0] == b"image"
        assert origin.targets == ["/a", "/b"]


async def test_fetch_fails_at_eleventh_redirect() -> None:
    async with raw_origin(redirect_times(11)) as origin:
        error = await fetch_error(f"{origin.base}/0")
    assert code_and_message(error) == ("too_many_redirects", "More than 10 redirects.")
    assert len(origin.heads) == 11


@pytest.mark.parametrize(
    "location",
    [
        "ftp://127.0.0.1/a",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "data:image/png,x",
        "http://",
    ],
)
async def test_redirect_to_url_that_is_not_http_fails(location: str) -> None:
    error = await fetch_error_from(redirect(location))
    assert error.code == "invalid_url"
    assert error.message.startswith("The host redirects to an invalid URL: ")


@pytest.mark.parametrize("status", ["300 Multiple Choices", "304 Not Modified", "305 Use Proxy"])
async def test_300_304_and_305_are_errors_and_not_followed(status: str) -> None:
    error = await fetch_error_from(redirect("/b", status))
    assert code_and_message(error) == ("http_status", status)


@pytest.mark.parametrize("headers", [(), ("Location: ",)])
async def test_redirect_without_location_fails_with_its_status(headers: tuple[str, ...]) -> None:
    error = await fetch_error_from(http_response(b"", *headers, status="302 Found"))
    assert code_and_message(error) == ("http_status", "302 Found without a redirect target")
    assert error.http_status == 302


async def test_error_after_redirect_is_marked_as_redirected() -> None:
    async with raw_origin(http_response(b"", status="500 No")) as broken:
        assert not (await fetch_error(broken.base)).redirected
        async with raw_origin(redirect(broken.base)) as fine:
            error = await fetch_error(fine.base)
        assert error.redirected
        assert error.http_status == 500


# --- HTTP errors ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        ("404 Not Found", "404 Not Found"),
        ("404 <b>evil</b> \x1b[31m", "404 Not Found"),
        ("404", "404 Not Found"),
        ("403 Forbidden", "403 Forbidden"),
        ("520 Web Server Is Returning an Unknown Error", "520"),
        ("999 Request Denied", "999"),
        ("503 Later", "503 Service Unavailable"),
    ],
)
async def test_status_error_uses_standard_phrase(sent: str, message: str) -> None:
    error = await fetch_error_from(http_response(b"no", status=sent))
    assert code_and_message(error) == ("http_status", message)
    assert error.http_status == int(message[:3])


async def test_status_error_has_retry_after_in_seconds() -> None:
    error = await fetch_error_from(http_response(b"", "Retry-After: 17", status="429 Slow Down"))
    assert error.retry_after == 17
    date = formatdate(time.time() + 200, usegmt=True)
    error = await fetch_error_from(http_response(b"", f"Retry-After: {date}", status="503 Later"))
    assert error.retry_after is not None
    assert 100 < error.retry_after < 201


# --- bodies ----------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["200 OK", "204 No Content"])
async def test_empty_body_fails(status: str) -> None:
    assert code_and_message(await fetch_error_from(http_response(b"", status=status))) == (
        "empty_body",
        "The host sent an empty response.",
    )


INCOMPLETE_MESSAGE = "The connection ended before the whole file was received."


@pytest.mark.parametrize(
    "response",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabXX",
    ],
)
async def test_incomplete_body_fails(response: bytes) -> None:
    error = await fetch_error_from(response)
    assert code_and_message(error) == ("incomplete_body", INCOMPLETE_MESSAGE)


async def test_connection_reset_within_body_is_incomplete_body() -> None:
    async def handler(head: str, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort")
        await writer.drain()
        reset(writer)

    assert code_and_message(await fetch_error_from(handler)) == (
        "incomplete_body",
        INCOMPLETE_MESSAGE,
    )


def reset(writer: asyncio.StreamWriter) -> None:
    """Reset a connection instead of closing it."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    writer.transport.abort()


async def endless(head: str, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        writer.write(b"x" * 65_536)
        await writer.drain()


async def test_endless_body_fails_at_size_limit() -> None:
    error = await fetch_error_from(endless, max_image_bytes=MIB)
    assert code_and_message(error) == (
        "too_large",
        "The file is larger than 1,048,576 bytes (fetch.max_image_bytes).",
    )


async def test_body_of_exactly_size_limit_is_allowed_and_one_byte_more_fails() -> None:
    for chunked in (False, True):
        head = b"HTTP/1.1 200 OK\r\n"
        for size in (1_000, 1_001):
            body = b"x" * size
            response = http_response(body)
            if chunked:
                response = head + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (
                    size,
                    body,
                )
            async with raw_origin(response) as origin:
                if size == 1_000:
                    assert len((await fetch(origin.base, max_image_bytes=1_000))[0]) == 1_000
                else:
                    assert (
                        await fetch_error(origin.base, max_image_bytes=1_000)
                    ).code == "too_large"


async def test_content_length_above_limit_fails_without_download() -> None:
    never = asyncio.Event()

    async def handler(head: str, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n")
        await never.wait()

    error = await fetch_error_from(handler, max_image_bytes=1_000)
    assert code_and_message(error) == (
        "too_large",
        "The file is larger than 1,000 bytes (fetch.max_image_bytes).",
    )


# --- unrequested content encodings ----------------------------------------------------------


def encoded(body: bytes, encoding: str) -> bytes:
    return http_response(body, f"Content-Encoding: {encoding}")


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "x-unknown"])
async def test_unrequested_content_encoding_is_decoded(encoding: str) -> None:
    image = bytes(range(256)) * 10_000
    compressed = {"gzip": gzip.compress(image), "deflate": zlib.compress(image)}
    async with raw_origin(encoded(compressed.get(encoding, image), encoding)) as origin:
        assert (await fetch(origin.base))[0] == image


async def test_size_limit_counts_decoded_bytes() -> None:
    bomb = gzip.compress(bytes(20 * MIB))
    assert len(bomb) < 30_000
    error = await fetch_error_from(encoded(bomb, "gzip"), max_image_bytes=MIB)
    assert code_and_message(error) == (
        "too_large",
        "The file is larger than 1,048,576 bytes (fetch.max_image_bytes).",
    )


async def test_decompression_bomb_is_decoded_in_small_chunks() -> None:
    """Decoded bytes are counted before more are decoded: a limit of 1 MiB uses at most 4 MiB."""
    bomb = gzip.compress(bytes(200 * MIB))
    async with (
        raw_origin(encoded(bomb, "gzip")) as origin,
        open_fetcher(max_image_bytes=MIB) as fetcher,
    ):
        tracemalloc.start()
        try:
            with pytest.raises(ImageError, match="too_large"):
                async with fetcher.fetch(origin.base):
                    pass
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak < 4 * MIB


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd"])
async def test_invalid_content_encoding_is_corrupt_image(encoding: str) -> None:
    error = await fetch_error_from(encoded(b"not encoded at all", encoding))
    assert error.code == "corrupt_image"


# --- timeouts --------------------------------------------------------------------------------


async def silent(head: str, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(3_600)


def send_then(data: bytes, then: Handler = silent) -> Handler:
    async def handler(head: str, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()
        await then(head, writer)

    return handler


async def drip(head: str, writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.01)


HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n"


@pytest.mark.parametrize("handler", [silent, send_then(HEAD), send_then(HEAD + b"\r\nx")])
async def test_silent_server_times_out_at_any_point(handler: Handler) -> None:
    error = await fetch_error_from(handler, read_timeout_seconds=0.2)
    assert code_and_message(error) == ("timeout", "The host sent no data for 0.2 seconds.")


@pytest.mark.parametrize("sent", [HEAD + b"\r\n", HEAD + b"X-Long: ", HEAD])
async def test_slow_response_fails_at_total_timeout(sent: bytes) -> None:
    error = await fetch_error_from(
        send_then(sent, drip), read_timeout_seconds=5, timeout_seconds=0.3
    )
    assert code_and_message(error) == ("timeout", "The download took longer than 0.3 seconds.")


@pytest.mark.parametrize(
    ("head", "piece"),
    [
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1;" + b"x" * 100),
    ],
)
async def test_endless_data_without_body_fails(head: bytes, piece: bytes) -> None:
    sent = 0

    async def handler(request: str, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(head)
        while True:
            writer.write(piece * 50)
            await writer.drain()
            await asyncio.sleep(0)
            sent += 50 * len(piece)

    assert (await fetch_error_from(handler)).code == "invalid_response"
    assert sent < 16 * MIB  # what the system buffers for the connection, and 128 KiB


async def test_endless_one_byte_chunks_fail() -> None:
    async def handler(request: str, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"1\r\nx\r\n" * 1_000)
            await writer.drain()

    assert code_and_message(await fetch_error_from(handler)) == (
        "invalid_response",
        "The host sent too small chunks.",
    )


async def test_redirects_do_not_restart_total_timeout() -> None:
    async def handler(head: str, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.15)
        writer.write(redirect("/again"))

    error = await fetch_error_from(handler, timeout_seconds=0.4)
    assert code_and_message(error) == ("timeout", "The download took longer than 0.4 seconds.")


async def test_connecting_has_its_own_timeout() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        clients = [socket.socket() for _ in range(4)]
        try:
            for client in clients:  # they fill the backlog, so no further connection is accepted
                client.setblocking(False)
                client.connect_ex(address)
            error = await fetch_error(f"http://127.0.0.1:{address[1]}/", connect_seconds=0.2)
        finally:
            for client in clients:
                client.close()
    assert code_and_message(error) == ("timeout", "No connection to the host within 0.2 seconds.")


async def test_stalled_tls_handshake_fails_at_connect_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent_server:
        # The system accepts the connection, but no TLS handshake follows.
        port = silent_server.getsockname()[1]
        error = await fetch_error(f"https://127.0.0.1:{port}/", connect_seconds=0.2)
    assert code_and_message(error) == ("timeout", "No connection to the host within 0.2 seconds.")


async def test_waiting_for_byte_budget_does_not_count_for_total_timeout() -> None:
    budget = ByteBudget(1_000)
    with budget.share("x") as privileged, budget.share("y") as holder:
        await privileged.acquire(900)
        async with (
            raw_origin(http_response(b"p" * 500)) as origin,
            open_fetcher(budget, timeout_seconds=0.2) as fetcher,
        ):
            task = asyncio.create_task(read_all(fetcher, origin.base))
            await asyncio.sleep(0.6)
            assert not task.done()
            assert holder.held == 0
            with privileged:
                pass
            assert await task == b"p" * 500


async def test_total_timeout_continues_after_wait_for_byte_budget() -> None:
    budget = ByteBudget(1_000)
    with budget.share("x") as privileged:
        await privileged.acquire(900)
        async with (
            raw_origin(send_then(HEAD + b"\r\n" + b"p" * 500)) as origin,
            open_fetcher(budget, timeout_seconds=0.3) as fetcher,
        ):
            task = asyncio.create_task(read_all(fetcher, origin.base))
            await asyncio.sleep(0.6)
            assert not task.done()
            with privileged:
                pass
            with pytest.raises(ImageError, match="The download took longer"):
                await task


async def read_all(fetcher: Fetcher, url: str) -> bytes:
    async with fetcher.fetch(url) as body:
        assert body is not None
        return body.data


async def test_attempt_sends_one_request_on_reused_connection(origin: Origin) -> None:
    dropped = origin.script("/dropped.jpg", Reply(raw=b""))
    async with open_fetcher() as fetcher:
        await read_all(fetcher, origin.photo(1))
        with pytest.raises(ImageError, match="without a response"):
            await read_all(fetcher, dropped)
    assert origin.hits("/dropped.jpg") == 1


# --- invalid HTTP ----------------------------------------------------------------------------


@pytest.mark.parametrize("response", [b"", b"HTTP/1.1 200", b"HTTP/1.1 200 OK\r\nX: y\r\n"])
async def test_missing_response_is_connect_failed(response: bytes) -> None:
    assert code_and_message(await fetch_error_from(response)) == (
        "connect_failed",
        "The host closed the connection without a response.",
    )


@pytest.mark.parametrize(
    "response",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"\x00\xff" * 50,
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 200_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 5_000 + b"\r\n",
        b"HTTP/1.1 200 " + b"O" * 200_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabXX\r\n",
    ],
)
async def test_invalid_http_is_invalid_response(response: bytes) -> None:
    assert (await fetch_error_from(response)).code == "invalid_response"


async def test_endless_header_fails() -> None:
    async def handler(head: str, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nX: ")
        while True:
            writer.write(b"y" * 65_536)
            await writer.drain()

    assert (await fetch_error_from(handler)).code == "invalid_response"


async def test_failed_request_is_not_repeated_by_aiohttp() -> None:
    """By default, aiohttp repeats a request at once after a disconnect. The service counts attempts."""
    async with raw_origin(b"") as origin:
        assert (await fetch_error(origin.base)).code == "connect_failed"
    assert len(origin.heads) == 1


async def test_refused_connection_is_connect_failed() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        error = await fetch_error(f"http://127.0.0.1:{unused.getsockname()[1]}/")
    assert code_and_message(error) == ("connect_failed", "The host refused the connection.")


async def test_connection_reset_before_response_is_connect_failed() -> None:
    async def handler(head: str, writer: asyncio.StreamWriter) -> None:
        reset(writer)

    assert code_and_message(await fetch_error_from(handler)) == (
        "connect_failed",
        "The host reset the connection.",
    )


async def test_unknown_error_is_internal_and_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with open_fetcher() as fetcher:
        session = fetcher._session
        await session.close()
        with caplog.at_level(logging.ERROR), pytest.raises(ImageError) as caught:
            async with fetcher.fetch("http://127.0.0.1/"):
                pass
    assert code_and_message(caught.value) == (
        "internal",
        "Internal error. See the service log.",
    )
    assert "Session is closed" in caplog.text


def test_64_endless_bodies_use_less_than_150_mb() -> None:
    command = [sys.executable, "-m", "tests.endless_bodies", "40"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(result.stdout) < 150_000_000


async def test_failed_fetch_releases_its_bytes() -> None:
    budget = ByteBudget(10 * MIB)
    async with raw_origin(endless) as origin, open_fetcher(budget, max_image_bytes=MIB) as fetcher:
        for _ in range(3):
            with pytest.raises(ImageError):
                async with fetcher.fetch(origin.base):
                    pass
    assert free_bytes(budget) == 10 * MIB


async def test_cancelled_fetch_closes_its_connection() -> None:
    disconnected = asyncio.Event()

    async def handler(head: str, writer: asyncio.StreamWriter) -> None:
        try:
            await endless(head, writer)
        finally:
            disconnected.set()

    budget = ByteBudget(4 * MIB)
    async with raw_origin(handler) as origin, open_fetcher(budget) as fetcher:

        async def get() -> None:
            async with fetcher.fetch(origin.base):
                pass

        task = asyncio.create_task(get())
        while free_bytes(budget) > 3 * MIB:  # noqa: ASYNC110 - the budget has no event to wait for
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with asyncio.timeout(10):
            await disconnected.wait()
        assert free_bytes(budget) == 4 * MIB


async def test_connections_are_reused() -> None:
    connections = 0

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        with suppress(asyncio.IncompleteReadError):
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx")
        writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    base = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with open_fetcher() as fetcher:
        for number in range(5):
            async with fetcher.fetch(f"{base}/{number}") as body:
                assert body is not None
                assert body.data == b"x"
    server.close()
    await server.wait_closed()
    assert connections == 1
