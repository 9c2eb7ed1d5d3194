"""A delivery is signed by Standard Webhooks, sent once, and its outcome told in a sentence."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from imgsvc.config import FetchConfig, WebhookConfig
from imgsvc.models import Delivery
from imgsvc.network.addresses import AddressRules
from imgsvc.network.session import open_session
from imgsvc.network.webhooks import SendResult, WebhookSender, sign
from tests.raw_origin import RawOrigin, Talk, answer, raw_origin, redirect

KEY = bytes(range(1, 33))
SECRET = f"whsec_{base64.b64encode(KEY).decode()}"
BODY = json.dumps({"type": "request.finished", "name": "Grüße"}, ensure_ascii=False)


@asynccontextmanager
async def sender(
    allowed: tuple[str, ...] = ("127.0.0.1/32",), **settings: Any
) -> AsyncIterator[WebhookSender]:
    config = FetchConfig(allowed_networks=allowed, connect_seconds=60, idle_seconds=60)
    async with open_session(config, AddressRules(allowed)) as session:
        yield WebhookSender(session, WebhookConfig(**settings))


async def send(url: str, **settings: Any) -> SendResult:
    async with sender(**settings) as one:
        return await one.send(Delivery("msg_1", 1, "request", url, BODY, 0))


def headers(origin: RawOrigin, number: int = 0) -> dict[str, str]:
    lines = origin.heads[number].strip().split("\r\n")[1:]
    return {name.lower(): value.strip() for name, _, value in (one.partition(":") for one in lines)}


@pytest.mark.parametrize("secret", [SECRET, f"whsec_{'QUJD' * 8}"])
async def test_the_receivers_library_verifies_it(secret: str) -> None:
    async with raw_origin(answer(b"", status="204 Fine")) as origin:
        assert await send(f"{origin.base}/hook?a=%2F", secret=secret) == SendResult(ok=True)
    assert origin.heads[0].startswith("POST /hook?a=%2F HTTP/1.1\r\n")
    got = headers(origin)
    assert origin.bodies == [BODY.encode()]
    assert Webhook(secret).verify(origin.bodies[0], got) == json.loads(BODY)
    assert got["content-type"] == "application/json"
    assert got["webhook-id"] == "msg_1"
    assert abs(int(got["webhook-timestamp"]) - time.time()) < 60
    assert got["user-agent"].startswith("imgsvc/")
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(origin.bodies[0] + b" ", got)


async def test_our_signature_is_theirs() -> None:
    moment = datetime.fromtimestamp(1_700_000_000, UTC)
    theirs = Webhook(SECRET).sign("msg_9", moment, BODY)
    assert sign(KEY, "msg_9", 1_700_000_000, BODY.encode()) == {
        "webhook-id": "msg_9",
        "webhook-timestamp": "1700000000",
        "webhook-signature": theirs,
    }


async def test_without_a_secret_there_is_no_signature() -> None:
    async with raw_origin(answer(b"")) as origin:
        assert (await send(origin.base)).ok
    got = headers(origin)
    assert "webhook-signature" not in got
    assert got["webhook-id"] == "msg_1"


async def test_the_id_stays_and_the_timestamp_is_each_attempts_own() -> None:
    times = iter([1_700_000_000.9, 1_700_000_005.2])
    config = FetchConfig(allowed_networks=("127.0.0.1/32",))
    async with (
        raw_origin(answer(b"", status="500 No")) as origin,
        open_session(config, AddressRules(config.allowed_networks)) as session,
    ):
        one = WebhookSender(session, WebhookConfig(secret=SECRET), clock=lambda: next(times))
        for attempts in range(2):
            await one.send(Delivery("msg_1", 1, "request", origin.base, BODY, attempts))
    first, second = headers(origin, 0), headers(origin, 1)
    assert first["webhook-id"] == second["webhook-id"]
    assert (first["webhook-timestamp"], second["webhook-timestamp"]) == ("1700000000", "1700000005")
    assert first["webhook-signature"] != second["webhook-signature"]


@pytest.mark.parametrize("status", ["200 OK", "201 Made", "202 Later", "204 Nothing", "299"])
async def test_any_2xx_is_success(status: str) -> None:
    async with raw_origin(answer(b"", status=status)) as origin:
        assert await send(origin.base) == SendResult(ok=True)


@pytest.mark.parametrize("encoding", ["br", "gzip", "unknown"])
async def test_success_may_say_what_it_likes_in_any_encoding(encoding: str) -> None:
    said = f"HTTP/1.1 200 OK\r\nContent-Encoding: {encoding}\r\nContent-Length: 2\r\n\r\nok"
    async with raw_origin(said.encode()) as origin:
        assert await send(origin.base) == SendResult(ok=True)


@pytest.mark.parametrize(
    ("status", "sentence"),
    [
        ("400 \x1b[31m<script>", "400 Bad Request"),
        ("404 Not Found", "404 Not Found"),
        ("500 Oh", "500 Internal Server Error"),
        ("599 Strange", "599"),
        ("305 Proxy", "305 Use Proxy; redirects are not followed"),
    ],
)
async def test_all_else_is_not(status: str, sentence: str) -> None:
    async with raw_origin(answer(b"secret text", status=status)) as origin:
        assert await send(origin.base) == SendResult(ok=False, error=sentence)
    assert len(origin.heads) == 1


async def test_410_ends_it() -> None:
    async with raw_origin(answer(b"", status="410 Gone")) as origin:
        assert await send(origin.base) == SendResult(ok=False, gone=True, error="410 Gone")


@pytest.mark.parametrize("status", ["301 A", "302 B", "303 C", "307 D", "308 E"])
async def test_redirects_are_failures(status: str) -> None:
    async with (
        raw_origin(answer(b"")) as other,
        raw_origin(redirect(other.base, status)) as origin,
    ):
        result = await send(origin.base)
    assert not result.ok
    assert not result.gone
    assert (result.error or "").endswith("; redirects are not followed")
    assert other.heads == []


@pytest.mark.parametrize("host", ["127.0.0.2", "[::1]", "[::ffff:127.0.0.1]", "10.0.0.1"])
async def test_the_address_rules_hold(host: str) -> None:
    result = await send(f"http://{host}:9/")
    assert not result.ok
    assert "not on the public internet" in (result.error or "")


async def test_what_goes_wrong_on_the_way_is_said() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{free.getsockname()[1]}/"
        assert (await send(dead)).error == "the server refused the connection"
    async with raw_origin(b"") as origin:
        assert (
            await send(origin.base)
        ).error == "the server closed the connection without an answer"
        assert len(origin.heads) == 1, "and it is not sent twice behind our back"
    async with raw_origin(b"nonsense\r\n\r\n") as origin:
        assert "not valid HTTP" in ((await send(origin.base)).error or "")


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/", "http://", "http://user:word@127.0.0.1/", "x"])
async def test_a_url_that_cannot_be_called_raises_nothing(url: str) -> None:
    result = await send(url)
    assert not result.ok
    assert result.error


async def silent(head: str, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(3_600)


async def drip(head: str, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"X: y\r\n")
        await writer.drain()
        await asyncio.sleep(0.05)


@pytest.mark.parametrize("talk", [silent, drip])
async def test_it_waits_no_longer_than_told(talk: Talk) -> None:
    async with raw_origin(talk) as origin:
        result = await send(origin.base, timeout_seconds=0.3)
    assert result == SendResult(ok=False, error="no answer within 0.3 seconds")


async def test_the_clocks_of_fetching_are_not_those_of_webhooks() -> None:
    async def talk(head: str, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.5)
        writer.write(answer(b""))

    config = FetchConfig(allowed_networks=("127.0.0.1/32",), idle_seconds=0.1)
    async with (
        raw_origin(talk) as origin,
        open_session(config, AddressRules(config.allowed_networks)) as session,
    ):
        one = WebhookSender(session, WebhookConfig())
        assert (await one.send(Delivery("msg_1", 1, "request", origin.base, BODY, 0))).ok


async def test_an_endless_answer_is_read_to_a_bound() -> None:
    written = 0

    async def talk(head: str, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x" * 65_536)
            await writer.drain()
            written += 65_536

    async with raw_origin(talk) as origin:
        assert (await send(origin.base)).ok
    assert written < 32 * 2**20, "no more than the system's own buffers took"


async def test_a_status_stands_even_if_the_rest_never_comes() -> None:
    async def talk(head: str, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
        await silent(head, writer)

    async with raw_origin(talk) as origin:
        assert (await send(origin.base, timeout_seconds=0.5)).ok
