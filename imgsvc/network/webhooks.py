"""Signs and sends one delivery, by the rules of Standard Webhooks."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import time
from collections.abc import Callable
from dataclasses import dataclass

import aiohttp

from imgsvc.config import WebhookConfig
from imgsvc.errors import ImageError
from imgsvc.models import Delivery
from imgsvc.network.errors import explain, seconds, status_line
from imgsvc.network.fetch import request_target
from imgsvc.urls import UrlError, parse_url

READ_BYTES = 4 * 1024
"""How much of an answer is read, so that its sender is not cut off; what it says is not looked at."""
READ_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class SendResult:
    """How a delivery went: `ok`; or `gone`, where the receiver wants no more; or tried in vain."""

    ok: bool
    gone: bool = False
    error: str | None = None


class WebhookSender:
    """Sends deliveries through `open_session`'s session, and so under the same address rules."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        config: WebhookConfig,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._session = session
        self._timeout = config.timeout_seconds
        self._key = _read_secret(config.secret)
        self._clock = clock

    async def send(self, delivery: Delivery) -> SendResult:
        """Send a delivery once. Whatever happens is in the result; nothing is raised."""
        try:
            async with asyncio.timeout(self._timeout):
                response = await self._post(delivery)
        except (UrlError, ImageError) as error:
            return SendResult(ok=False, error=f"not a URL that can be called: {error.message}")
        except TimeoutError:
            return SendResult(ok=False, error=f"no answer within {seconds(self._timeout)}")
        except Exception as error:  # noqa: BLE001 - explain() logs what it does not know
            return SendResult(ok=False, error=explain(error).message)
        await _drain(response)
        status = response.status
        if 200 <= status <= 299:
            return SendResult(ok=True)
        sentence = status_line(status)
        if 300 <= status <= 399:
            sentence += "; redirects are not followed"
        return SendResult(ok=False, gone=status == 410, error=sentence)

    async def _post(self, delivery: Delivery) -> aiohttp.ClientResponse:
        body = delivery.body.encode()
        headers = {
            "Accept": "*/*",
            "Content-Type": "application/json",
            **sign(self._key, delivery.delivery_id, int(self._clock()), body),
        }
        return await self._session.post(
            request_target(parse_url(delivery.url).fetched),
            data=body,
            headers=headers,
            allow_redirects=False,
            auto_decompress=False,  # What comes back is not looked at, and need not be decodable.
            timeout=aiohttp.ClientTimeout(),
        )


def sign(key: bytes | None, delivery_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """Make the headers of a delivery; without a key there is no signature."""
    headers = {"webhook-id": delivery_id, "webhook-timestamp": str(timestamp)}
    if key is not None:
        message = b"%b.%d.%b" % (delivery_id.encode(), timestamp, body)
        digest = hmac.digest(key, message, hashlib.sha256)
        headers["webhook-signature"] = f"v1,{base64.b64encode(digest).decode()}"
    return headers


def _read_secret(secret: str) -> bytes | None:
    """Read `whsec_` and base64, padded or not, as the key that it is."""
    text = secret.removeprefix("whsec_").rstrip("=")
    return base64.b64decode(text + "=" * (-len(text) % 4)) if text else None


async def _drain(response: aiohttp.ClientResponse) -> None:
    """Read a little of the answer. Its status has come: however the rest fares, that stands."""
    size = 0
    try:
        async with asyncio.timeout(READ_SECONDS):
            while size < READ_BYTES and (chunk := await response.content.readany()):
                size += len(chunk)
    except (aiohttp.ClientError, OSError):
        return
    finally:
        response.close()
