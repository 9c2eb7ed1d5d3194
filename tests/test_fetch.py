"""One URL → bounded bytes, or an error with a code and a sentence, whatever the server does."""

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
from tests.origin import ROOT, Origin, Reply
from tests.raw_origin import Talk, answer, raw_origin, redirect

LOOPBACK = ("127.0.0.0/8", "::1/128")
MIB = 2**20


def settings(**values: Any) -> FetchConfig:
    return FetchConfig(allowed_networks=LOOPBACK).model_copy(update=values)


@asynccontextmanager
async def fetcher(budget: ByteBudget | None = None, **values: Any) -> AsyncIterator[Fetcher]:
    config = settings(**values)
    rules = AddressRules(config.allowed_networks)
    async with open_session(config, rules) as session:
        yield Fetcher(session, config, budget or ByteBudget(64 * MIB))


async def fetch(url: str, **values: Any) -> tuple[bytes, str]:
    async with fetcher(**values) as one, one.fetch(url) as body:
        return body.data, body.content_type


async def failure(url: str, **values: Any) -> ImageError:
    """Fetch what cannot be fetched; check that the sentence is one for a reader."""
    with pytest.raises(ImageError) as caught:
        await fetch(url, **values)
    error = caught.value
    assert re.fullmatch(r"[^\x00-\x1f\x7f-\x9f]{3,300}", error.message)
    assert not re.search(r"[a-z]Error\b|Exception|Traceback|aiohttp|errno|<class", error.message)
    return error


async def failure_of(talk: Talk | bytes, **values: Any) -> ImageError:
    """Give the error of fetching from an origin that says this."""
    async with raw_origin(talk) as origin:
        return await failure(f"{origin.base}/a.jpg", **values)


def outcome(error: ImageError) -> tuple[str, str]:
    return error.code, error.message


# --- what works ------------------------------------------------------------------------------


async def test_the_bytes_and_the_type_come_back_and_count_until_the_block_ends() -> None:
    budget = ByteBudget(MIB)
    async with (
        raw_origin(answer(b"picture", "Content-Type: image/jpeg; charset=x")) as origin,
        fetcher(budget) as one,
        one.fetch(f"{origin.base}/a.jpg") as body,
    ):
        assert (body.data, body.content_type) == (b"picture", "image/jpeg")
        assert budget.used == len(b"picture")
    assert budget.used == 0


async def test_a_large_body_comes_whole() -> None:
    info = bytes(range(256)) * 40_000
    async with raw_origin(answer(info)) as origin:
        assert await fetch(origin.base) == (info, "")


@pytest.mark.parametrize("status", ["200 OK", "203 Fine", "200"])
async def test_any_success_will_do(status: str) -> None:
    async with raw_origin(answer(b"x", status=status)) as origin:
        assert (await fetch(origin.base))[0] == b"x"


async def test_a_body_of_unknown_length_ends_with_the_connection() -> None:
    async with raw_origin(b"HTTP/1.0 200 OK\r\n\r\npicture") as origin:
        assert (await fetch(origin.base))[0] == b"picture"


async def test_we_are_an_honest_client() -> None:
    set_cookie = answer(b"x", "Set-Cookie: id=1; Path=/")
    async with raw_origin(set_cookie) as origin, fetcher(user_agent="shop/1 (a@b.c)") as one:
        for _ in range(2):
            async with one.fetch(f"{origin.base}/a"):
                pass
    for head in origin.heads:
        lines = head.strip().lower().split("\r\n")
        assert sorted(lines[1:]) == [
            "accept-encoding: identity",
            "accept: image/*",
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
async def test_the_url_goes_out_exactly_as_it_stands(target: str) -> None:
    async with raw_origin(answer(b"x")) as origin, raw_origin(answer(b"x")) as other:
        await fetch(origin.base + target)
        assert origin.targets == [target]
        async with raw_origin(redirect(other.base + target)) as first:
            await fetch(first.base)
        assert other.targets == [target]


# --- redirects -------------------------------------------------------------------------------


def hops(count: int, status: str = "302 Found") -> Talk:
    """Redirect `count` times, from /0 to /1 and on."""

    async def talk(head: str, writer: asyncio.StreamWriter) -> None:
        number = int(head.split(" ")[1].strip("/"))
        last = number == count
        writer.write(answer(b"picture") if last else redirect(f"/{number + 1}", status))

    return talk


@pytest.mark.parametrize(
    "status", ["301 Moved", "302 Found", "303 See", "307 Temporary", "308 Permanent"]
)
async def test_five_redirects_are_followed(status: str) -> None:
    async with raw_origin(hops(5, status)) as origin:
        assert (await fetch(f"{origin.base}/0"))[0] == b"picture"
    assert len(origin.heads) == 6


async def test_a_server_that_hangs_up_without_a_word_may_redirect_to_itself() -> None:
    async def talk(head: str, writer: asyncio.StreamWriter) -> None:
        last = head.startswith("GET /b ")
        said = answer(b"picture") if last else redirect("/b")
        writer.write(said.replace(b"Connection: close\r\n", b""))

    async with raw_origin(talk) as origin:
        assert (await fetch(f"{origin.base}/a"))[0] == b"picture"
        assert origin.targets == ["/a", "/b"]


async def test_six_redirects_are_too_many() -> None:
    async with raw_origin(hops(6)) as origin:
        error = await failure(f"{origin.base}/0")
    assert outcome(error) == ("too_many_redirects", "more than 5 redirects")
    assert len(origin.heads) == 6


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
async def test_redirects_lead_to_http_only(location: str) -> None:
    error = await failure_of(redirect(location))
    assert error.code == "invalid_url"
    assert error.message.startswith("the server redirects to what cannot be fetched: ")


@pytest.mark.parametrize("status", ["300 Multiple Choices", "304 Not Modified", "305 Use Proxy"])
async def test_other_statuses_of_the_300s_are_not_followed(status: str) -> None:
    error = await failure_of(redirect("/b", status))
    assert outcome(error) == ("http_status", status)


@pytest.mark.parametrize("headers", [(), ("Location: ",)])
async def test_a_redirect_to_nowhere_is_a_status(headers: tuple[str, ...]) -> None:
    error = await failure_of(answer(b"", *headers, status="302 Found"))
    assert outcome(error) == ("http_status", "302 Found, without saying where to")
    assert error.http_status == 302


async def test_a_failure_behind_a_redirect_is_not_the_first_hosts() -> None:
    async with raw_origin(answer(b"", status="500 No")) as broken:
        assert not (await failure(broken.base)).redirected
        async with raw_origin(redirect(broken.base)) as fine:
            error = await failure(fine.base)
        assert error.redirected
        assert error.http_status == 500


# --- what the server says no to --------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "said"),
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
async def test_a_status_is_said_in_the_standards_words(sent: str, said: str) -> None:
    error = await failure_of(answer(b"no", status=sent))
    assert outcome(error) == ("http_status", said)
    assert error.http_status == int(said[:3])


async def test_retry_after_is_heard() -> None:
    error = await failure_of(answer(b"", "Retry-After: 17", status="429 Slow Down"))
    assert error.retry_after == 17
    date = formatdate(time.time() + 200, usegmt=True)
    error = await failure_of(answer(b"", f"Retry-After: {date}", status="503 Later"))
    assert error.retry_after is not None
    assert 100 < error.retry_after < 201


# --- bodies ----------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["200 OK", "204 No Content"])
async def test_an_empty_body(status: str) -> None:
    assert outcome(await failure_of(answer(b"", status=status))) == (
        "empty_body",
        "the server sent nothing",
    )


CUT = "the connection ended before the whole body had come"


@pytest.mark.parametrize(
    "said",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\nnonsense\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabXX",
    ],
)
async def test_a_body_that_is_not_whole(said: bytes) -> None:
    error = await failure_of(said)
    assert error.code == "incomplete_body"
    assert error.message == CUT or "not valid HTTP" in error.message


async def test_a_connection_that_is_reset_within_the_body() -> None:
    async def talk(head: str, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort")
        await writer.drain()
        reset(writer)

    assert outcome(await failure_of(talk)) == ("incomplete_body", CUT)


def reset(writer: asyncio.StreamWriter) -> None:
    """End a connection the rude way."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    writer.transport.abort()


async def endless(head: str, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        writer.write(b"x" * 65_536)
        await writer.drain()


async def test_an_endless_body_is_cut_off_at_the_limit() -> None:
    error = await failure_of(endless, max_image_bytes=MIB)
    assert outcome(error) == ("too_large", "larger than 1,048,576 bytes")


async def test_the_limit_itself_is_allowed_and_one_byte_more_is_not() -> None:
    for chunked in (False, True):
        head = b"HTTP/1.1 200 OK\r\n"
        for size in (1_000, 1_001):
            body = b"x" * size
            said = answer(body)
            if chunked:
                said = head + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (
                    size,
                    body,
                )
            async with raw_origin(said) as origin:
                if size == 1_000:
                    assert len((await fetch(origin.base, max_image_bytes=1_000))[0]) == 1_000
                else:
                    assert (await failure(origin.base, max_image_bytes=1_000)).code == "too_large"


async def test_an_announced_size_saves_the_download() -> None:
    went_on = asyncio.Event()

    async def talk(head: str, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n")
        await went_on.wait()

    error = await failure_of(talk, max_image_bytes=1_000)
    assert outcome(error) == ("too_large", "larger than 1,000 bytes")


# --- content encodings that were not asked for -----------------------------------------------


def encoded(body: bytes, encoding: str) -> bytes:
    return answer(body, f"Content-Encoding: {encoding}")


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "x-unknown"])
async def test_a_content_encoding_that_nobody_asked_for_is_undone(encoding: str) -> None:
    info = bytes(range(256)) * 10_000
    packed = {"gzip": gzip.compress(info), "deflate": zlib.compress(info)}
    async with raw_origin(encoded(packed.get(encoding, info), encoding)) as origin:
        assert (await fetch(origin.base))[0] == info


async def test_the_limit_counts_what_comes_out_of_the_encoding() -> None:
    bomb = gzip.compress(bytes(20 * MIB))
    assert len(bomb) < 30_000
    error = await failure_of(encoded(bomb, "gzip"), max_image_bytes=MIB)
    assert outcome(error) == ("too_large", "larger than 1,048,576 bytes")


async def test_a_bomb_unfolds_in_small_pieces() -> None:
    """What has been decoded is counted before more is: a limit of 1 MiB holds 4 MiB at most."""
    bomb = gzip.compress(bytes(200 * MIB))
    async with raw_origin(encoded(bomb, "gzip")) as origin, fetcher(max_image_bytes=MIB) as one:
        tracemalloc.start()
        try:
            with pytest.raises(ImageError, match="too_large"):
                async with one.fetch(origin.base):
                    pass
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak < 4 * MIB


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd"])
async def test_an_encoding_that_cannot_be_undone(encoding: str) -> None:
    error = await failure_of(encoded(b"not encoded at all", encoding))
    assert error.code == "corrupt_image"


# --- clocks ----------------------------------------------------------------------------------


async def silent(head: str, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(3_600)


def after(said: bytes, then: Talk = silent) -> Talk:
    async def talk(head: str, writer: asyncio.StreamWriter) -> None:
        writer.write(said)
        await writer.drain()
        await then(head, writer)

    return talk


async def drip(head: str, writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.01)


HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n"


@pytest.mark.parametrize("talk", [silent, after(HEAD), after(HEAD + b"\r\nx")])
async def test_silence_at_any_point_ends_it(talk: Talk) -> None:
    error = await failure_of(talk, idle_seconds=0.2)
    assert outcome(error) == ("timeout", "the server sent nothing for 0.2 seconds")


@pytest.mark.parametrize("sent", [HEAD + b"\r\n", HEAD + b"X-Long: ", HEAD])
async def test_a_drip_ends_when_all_time_is_up(sent: bytes) -> None:
    error = await failure_of(after(sent, drip), idle_seconds=5, total_seconds=0.3)
    assert outcome(error) == ("timeout", "not fetched whole within 0.3 seconds")


@pytest.mark.parametrize(
    ("head", "piece"),
    [
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1;" + b"x" * 100),
    ],
)
async def test_a_flood_without_a_body_ends_when_all_time_is_up(head: bytes, piece: bytes) -> None:
    async def talk(request: str, writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        while True:
            writer.write(piece * 50)
            await writer.drain()
            await asyncio.sleep(0)

    error = await failure_of(talk, total_seconds=0.3)
    assert error.code in {"timeout", "incomplete_body"}


async def test_crumbs_are_counted_like_bread() -> None:
    async def talk(request: str, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"1\r\nx\r\n" * 1_000)
            await writer.drain()

    assert (await failure_of(talk, max_image_bytes=50_000)).code == "too_large"


async def test_redirects_do_not_wind_the_clock() -> None:
    async def talk(head: str, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.15)
        writer.write(redirect("/again"))

    error = await failure_of(talk, total_seconds=0.4)
    assert outcome(error) == ("timeout", "not fetched whole within 0.4 seconds")


async def test_connecting_has_a_clock_of_its_own() -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = full.getsockname()
        waiting = [socket.socket() for _ in range(4)]
        try:
            for one in waiting:  # the backlog is full: nobody is let in any more
                one.setblocking(False)
                one.connect_ex(address)
            error = await failure(f"http://127.0.0.1:{address[1]}/", connect_seconds=0.2)
        finally:
            for one in waiting:
                one.close()
    assert outcome(error) == ("timeout", "no connection to the server within 0.2 seconds")


async def test_a_handshake_that_stands_still_is_no_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:  # the system connects; nobody shakes hands
        port = mute.getsockname()[1]
        error = await failure(f"https://127.0.0.1:{port}/", connect_seconds=0.2)
    assert outcome(error) == ("timeout", "no connection to the server within 0.2 seconds")


async def test_waiting_for_the_budget_is_not_held_against_an_image() -> None:
    budget = ByteBudget(1_000)
    with budget.share("x") as privileged, budget.share("y") as holder:
        await privileged.wait(900)
        async with (
            raw_origin(answer(b"p" * 500)) as origin,
            fetcher(budget, total_seconds=0.2) as one,
        ):
            task = asyncio.create_task(fetched(one, origin.base))
            await asyncio.sleep(0.6)
            assert not task.done()
            assert holder.held == 0
            with privileged:
                pass
            assert await task == b"p" * 500


async def test_after_that_wait_its_clock_goes_on() -> None:
    budget = ByteBudget(1_000)
    with budget.share("x") as privileged:
        await privileged.wait(900)
        async with (
            raw_origin(after(HEAD + b"\r\n" + b"p" * 500)) as origin,
            fetcher(budget, total_seconds=0.3) as one,
        ):
            task = asyncio.create_task(fetched(one, origin.base))
            await asyncio.sleep(0.6)
            assert not task.done()
            with privileged:
                pass
            with pytest.raises(ImageError, match="not fetched whole"):
                await task


async def fetched(one: Fetcher, url: str) -> bytes:
    async with one.fetch(url) as body:
        return body.data


async def test_one_try_is_one_request_also_on_a_kept_connection(origin: Origin) -> None:
    dropped = origin.script("/dropped.jpg", Reply(raw=b""))
    async with fetcher() as one:
        await fetched(one, origin.photo(1))
        with pytest.raises(ImageError, match="without an answer"):
            await fetched(one, dropped)
    assert origin.hits("/dropped.jpg") == 1


# --- what is no HTTP at all ------------------------------------------------------------------


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200", b"HTTP/1.1 200 OK\r\nX: y\r\n"])
async def test_no_answer_is_a_connection_that_failed(said: bytes) -> None:
    assert outcome(await failure_of(said)) == (
        "connect_failed",
        "the server closed the connection without an answer",
    )


@pytest.mark.parametrize(
    "said",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"\x00\xff" * 50,
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 5_000 + b"\r\n",
        b"HTTP/1.1 200 " + b"O" * 100_000 + b"\r\n\r\n",
    ],
)
async def test_an_answer_that_is_no_http(said: bytes) -> None:
    assert outcome(await failure_of(said)) == (
        "incomplete_body",
        "the server's answer is not valid HTTP, or its headers are too large",
    )


async def test_an_endless_header_is_not_collected() -> None:
    async def talk(head: str, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nX: ")
        while True:
            writer.write(b"y" * 65_536)
            await writer.drain()

    assert (await failure_of(talk)).code == "incomplete_body"


async def test_nothing_is_asked_twice_behind_our_back() -> None:
    """aiohttp would repeat at once what broke off; attempts are ours to count."""
    async with raw_origin(b"") as origin:
        assert (await failure(origin.base)).code == "connect_failed"
    assert len(origin.heads) == 1


async def test_nobody_listens() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        error = await failure(f"http://127.0.0.1:{free.getsockname()[1]}/")
    assert outcome(error) == ("connect_failed", "the server refused the connection")


async def test_a_server_that_resets_before_it_answers() -> None:
    async def talk(head: str, writer: asyncio.StreamWriter) -> None:
        reset(writer)

    assert outcome(await failure_of(talk)) == ("connect_failed", "the server reset the connection")


async def test_what_nobody_foresaw_is_internal_and_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with fetcher() as one:
        session = one._session
        await session.close()
        with caplog.at_level(logging.ERROR), pytest.raises(ImageError) as caught:
            async with one.fetch("http://127.0.0.1/"):
                pass
    assert outcome(caught.value) == (
        "internal",
        "the service itself failed here; its log says more",
    )
    assert "Session is closed" in caplog.text


def test_64_endless_bodies_take_less_than_150_mb() -> None:
    command = [sys.executable, "-m", "tests.endless_bodies", "40"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 150_000_000


async def test_a_failed_fetch_gives_everything_back() -> None:
    budget = ByteBudget(10 * MIB)
    async with raw_origin(endless) as origin, fetcher(budget, max_image_bytes=MIB) as one:
        for _ in range(3):
            with pytest.raises(ImageError):
                async with one.fetch(origin.base):
                    pass
    assert budget.used == 0


async def test_a_cancelled_fetch_lets_go_of_its_connection() -> None:
    hung_up = asyncio.Event()

    async def talk(head: str, writer: asyncio.StreamWriter) -> None:
        try:
            await endless(head, writer)
        finally:
            hung_up.set()

    budget = ByteBudget(4 * MIB)
    async with raw_origin(talk) as origin, fetcher(budget) as one:

        async def get() -> None:
            async with one.fetch(origin.base):
                pass

        task = asyncio.create_task(get())
        while budget.used < MIB:  # noqa: ASYNC110 - the budget rings no bell
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with asyncio.timeout(10):
            await hung_up.wait()
        assert budget.used == 0


async def test_connections_are_used_again() -> None:
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
    async with fetcher() as one:
        for number in range(5):
            async with one.fetch(f"{base}/{number}") as body:
                assert body.data == b"x"
    server.close()
    await server.wait_closed()
    assert connections == 1
