"""A delivery is signed as in Standard Webhooks and sent once, and its result has a message."""

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
from imgsvc.errors import ImageErrorCode
from imgsvc.models import Delivery
from imgsvc.network.addresses import AddressRules
from imgsvc.network.session import open_session
from imgsvc.network.webhooks import SendResult, WebhookSender, sign
from tests.raw_origin import Handler, RawOrigin, http_response, raw_origin, redirect

KEY = bytes(range(1, 33))
SECRET = f"whsec_{base64.b64encode(KEY).decode()}"
BODY = json.dumps({"type": "request.finished", "name": "Grüße"}, ensure_ascii=False)


@asynccontextmanager
async def open_sender(
    allowed: tuple[str, ...] = ("127.0.0.1/32",), **settings: Any
) -> AsyncIterator[WebhookSender]:
    config = FetchConfig(allowed_networks=allowed, connect_seconds=60, read_timeout_seconds=60)
    async with open_session(config, AddressRules(allowed)) as session:
        yield WebhookSender(session, WebhookConfig(**settings))


async def send(url: str, **settings: Any) -> SendResult:
    async with open_sender(**settings) as sender:
        return await sender.send(Delivery("msg_1", 1, "request", url, BODY, 0))


def headers(origin: RawOrigin, number: int = 0) -> dict[str, str]:
    lines = origin.heads[number].strip().split("\r\n")[1:]
    return {
        name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
    }


@pytest.mark.parametrize("secret", [SECRET, f"whsec_{'QUJD' * 8}"])
async def test_delivery_is_verified_by_standard_webhooks_library(secret: str) -> None:
    async with raw_origin(http_response(b"", status="204 Fine")) as origin:
        assert await send(f"{origin.base}/hook?a=%2F", secret=secret) == SendResult(ok=True)
    assert origin.heads[0].startswith("POST /hook?a=%2F HTTP/1.1\r\n")
    received = headers(origin)
    assert origin.bodies == [BODY.encode()]
    assert Webhook(secret).verify(origin.bodies[0], received) == json.loads(BODY)
    assert received["content-type"] == "application/json"
    assert received["webhook-id"] == "msg_1"
    assert abs(int(received["webhook-timestamp"]) - time.time()) < 60
    assert received["user-agent"].startswith("imgsvc/")
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(origin.bodies[0] + b" ", received)


async def test_sign_makes_same_signature_as_standard_webhooks_library() -> None:
    moment = datetime.fromtimestamp(1_700_000_000, UTC)
    expected = Webhook(SECRET).sign("msg_9", moment, BODY)
    assert sign(KEY, "msg_9", 1_700_000_000, BODY.encode()) == {
        "webhook-id": "msg_9",
        "webhook-timestamp": "1700000000",
        "webhook-signature": expected,
    }


async def test_delivery_without_secret_has_no_signature() -> None:
    async with raw_origin(http_response(b"")) as origin:
        assert (await send(origin.base)).ok
    received = headers(origin)
    assert "webhook-signature" not in received
    assert received["webhook-id"] == "msg_1"


async def test_attempts_share_id_and_each_has_its_own_timestamp() -> None:
    times = iter([1_700_000_000.9, 1_700_000_005.2])
    config = FetchConfig(allowed_networks=("127.0.0.1/32",))
    async with (
        raw_origin(http_response(b"", status="500 No")) as origin,
        open_session(config, AddressRules(config.allowed_networks)) as session,
    ):
        sender = WebhookSender(session, WebhookConfig(secret=SECRET), clock=lambda: next(times))
        for attempts in range(2):
            await sender.send(Delivery("msg_1", 1, "request", origin.base, BODY, attempts))
    first, second = headers(origin, 0), headers(origin, 1)
    assert first["webhook-id"] == second["webhook-id"]
    assert (first["webhook-timestamp"], second["webhook-timestamp"]) == ("1700000000", "1700000005")
    assert first["webhook-signature"] != second["webhook-signature"]


@pytest.mark.parametrize("status", ["200 OK", "201 Made", "202 Later", "204 Nothing", "299"])
async def test_any_2xx_status_is_success(status: str) -> None:
    async with raw_origin(http_response(b"", status=status)) as origin:
        assert await send(origin.base) == SendResult(ok=True)


@pytest.mark.parametrize("encoding", ["br", "gzip", "unknown"])
async def test_2xx_response_in_any_content_encoding_is_success(encoding: str) -> None:
    response = f"HTTP/1.1 200 OK\r\nContent-Encoding: {encoding}\r\nContent-Length: 2\r\n\r\nok"
    async with raw_origin(response.encode()) as origin:
        assert await send(origin.base) == SendResult(ok=True)


@pytest.mark.parametrize(
    ("status", "message"),
    [
        ("400 \x1b[31m<script>", "400 Bad Request"),
        ("404 Not Found", "404 Not Found"),
        ("500 Oh", "500 Internal Server Error"),
        ("599 Strange", "599"),
        ("305 Proxy", "305 Use Proxy; redirects are not followed"),
    ],
)
async def test_any_other_status_is_failure(status: str, message: str) -> None:
    async with raw_origin(http_response(b"secret text", status=status)) as origin:
        assert await send(origin.base) == SendResult(ok=False, error=message)
    assert len(origin.heads) == 1


async def test_status_410_marks_receiver_as_gone() -> None:
    async with raw_origin(http_response(b"", status="410 Gone")) as origin:
        assert await send(origin.base) == SendResult(ok=False, gone=True, error="410 Gone")


@pytest.mark.parametrize("status", ["301 A", "302 B", "303 C", "307 D", "308 E"])
async def test_redirect_is_failure_and_not_followed(status: str) -> None:
    async with (
        raw_origin(http_response(b"")) as other,
        raw_origin(redirect(other.base, status)) as origin,
    ):
        result = await send(origin.base)
    assert not result.ok
    assert not result.gone
    assert (result.error or "").endswith("; redirects are not followed")
    assert other.heads == []


@pytest.mark.parametrize("host", ["127.0.0.2", "[::1]", "[::ffff:127.0.0.1]", "10.0.0.1"])
async def test_denied_address_is_failure(host: str) -> None:
    result = await send(f"http://{host}:9/")
    assert not result.ok
    assert "Private address" in (result.error or "")


async def test_network_error_is_in_result() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{unused.getsockname()[1]}/"
        assert (await send(dead)).error == "The host refused the connection."
    async with raw_origin(b"") as origin:
        assert (
            await send(origin.base)
        ).error == "The host closed the connection without a response."
        assert len(origin.heads) == 1, "aiohttp must not send it again"
    async with raw_origin(b"nonsense\r\n\r\n") as origin:
        assert "not valid HTTP" in ((await send(origin.base)).error or "")


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/", "http://", "http://user:word@127.0.0.1/", "x"])
async def test_invalid_url_is_failure_and_raises_nothing(url: str) -> None:
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


@pytest.mark.parametrize("handler", [silent, drip])
async def test_slow_receiver_fails_at_timeout(handler: Handler) -> None:
    async with raw_origin(handler) as origin:
        result = await send(origin.base, timeout_seconds=0.3)
    assert result == SendResult(
        ok=False, error="No response within 0.3 seconds.", code=ImageErrorCode.TIMEOUT
    )


async def test_fetch_timeouts_do_not_apply_to_webhooks() -> None:
    async def handler(head: str, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.5)
        writer.write(http_response(b""))

    config = FetchConfig(allowed_networks=("127.0.0.1/32",), read_timeout_seconds=0.1)
    async with (
        raw_origin(handler) as origin,
        open_session(config, AddressRules(config.allowed_networks)) as session,
    ):
        sender = WebhookSender(session, WebhookConfig())
        assert (await sender.send(Delivery("msg_1", 1, "request", origin.base, BODY, 0))).ok


async def test_endless_response_is_read_up_to_limit() -> None:
    written = 0

    async def handler(head: str, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x" * 65_536)
            await writer.drain()
            written += 65_536

    async with raw_origin(handler) as origin:
        assert (await send(origin.base)).ok
    assert written < 32 * 2**20, "the receiver can write only what fits into the system's buffers"


async def test_2xx_status_is_success_when_body_never_arrives() -> None:
    async def handler(head: str, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
        await silent(head, writer)

    async with raw_origin(handler) as origin:
        assert (await send(origin.base, timeout_seconds=0.5)).ok
