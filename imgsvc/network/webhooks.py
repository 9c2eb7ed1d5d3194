"""Signs and sends webhook deliveries as specified by Standard Webhooks."""

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
from imgsvc.errors import ImageError, ImageErrorCode
from imgsvc.machine_errors import MachineError, is_machine_error
from imgsvc.models import Delivery
from imgsvc.network.errors import format_seconds, status_line, to_image_error
from imgsvc.network.fetch import request_target
from imgsvc.urls import UrlError, parse_url

MAX_RESPONSE_BYTES = 4 * 1024
"""How much of a response is read, so that its sender can finish sending it. It is not used."""
MAX_RESPONSE_SECONDS = 1.0
"""The longest time for reading a response after its headers."""


@dataclass(frozen=True, slots=True)
class SendResult:
    """The result of one attempt to send a delivery.

    `ok`: the receiver has accepted it. `gone`: the receiver wants no further attempts (status 410).
    `error`: the message if it failed. `code`: why there was no response, or None.
    """

    ok: bool
    gone: bool = False
    error: str | None = None
    code: ImageErrorCode | None = None


class WebhookSender:
    """Sends deliveries.

    `session` comes from `open_session`, so the address rules are the same as for images. `clock`
    returns the Unix time for the signature.
    """

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
        """Send a delivery once and return the result. Failures are in the result, not raised.

        Raise `MachineError` if this machine could not send it: that is no failure of the receiver.
        """
        try:
            async with asyncio.timeout(self._timeout):
                response = await self._post(delivery)
        except UrlError as error:
            return SendResult(ok=False, error=f"Invalid webhook URL: it {error.message}.")
        except ImageError as error:
            return SendResult(ok=False, error=error.message, code=error.code)
        except TimeoutError:
            message = f"No response within {format_seconds(self._timeout)}."
            return SendResult(ok=False, error=message, code=ImageErrorCode.TIMEOUT)
        except Exception as error:  # noqa: BLE001 - to_image_error() logs unknown errors
            if is_machine_error(error):
                raise MachineError(str(error)) from None
            unknown = to_image_error(error)
            return SendResult(ok=False, error=unknown.message, code=unknown.code)
        await _drain(response)
        status = response.status
        if 200 <= status <= 299:
            return SendResult(ok=True)
        message = status_line(status)
        if 300 <= status <= 399:
            message += "; redirects are not followed"
        return SendResult(ok=False, gone=status == 410, error=message)

    async def _post(self, delivery: Delivery) -> aiohttp.ClientResponse:
        body = delivery.body.encode()
        headers = {
            "Accept": "*/*",
            "Content-Type": "application/json",
            **sign(self._key, delivery.delivery_id, int(self._clock()), body),
        }
        return await self._session.post(
            request_target(parse_url(delivery.url).fetch_url),
            data=body,
            headers=headers,
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(),
        )


def sign(key: bytes | None, delivery_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """Return the webhook headers of a delivery. Without a key there is no signature."""
    headers = {"webhook-id": delivery_id, "webhook-timestamp": str(timestamp)}
    if key is not None:
        message = b"%b.%d.%b" % (delivery_id.encode(), timestamp, body)
        digest = hmac.digest(key, message, hashlib.sha256)
        headers["webhook-signature"] = f"v1,{base64.b64encode(digest).decode()}"
    return headers


def _read_secret(secret: str) -> bytes | None:
    """Return the key of a secret: `whsec_` and base64, with or without padding. None if empty."""
    text = secret.removeprefix("whsec_").rstrip("=")
    return base64.b64decode(text + "=" * (-len(text) % 4)) if text else None


async def _drain(response: aiohttp.ClientResponse) -> None:
    """Read the start of the response body, then close the response.

    The status is already known, so an error here does not change the result.
    """
    size = 0
    try:
        async with asyncio.timeout(MAX_RESPONSE_SECONDS):
            while size < MAX_RESPONSE_BYTES and (chunk := await response.content.readany()):
                size += len(chunk)
    except (aiohttp.ClientError, OSError):
        return
    finally:
        response.close()
