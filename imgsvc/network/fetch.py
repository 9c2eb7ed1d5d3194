"""One URL → bounded bytes, or a typed error."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp
from yarl import URL

from imgsvc.config import FetchConfig
from imgsvc.errors import ImageError, ImageErrorCode
from imgsvc.network.byte_budget import ByteBudget, Share
from imgsvc.network.errors import (
    NoResponseError,
    describe_non_image,
    explain,
    seconds,
    status_line,
)
from imgsvc.network.retry import parse_retry_after
from imgsvc.network.session import Connection
from imgsvc.urls import UrlError, resolve_redirect

__all__ = ["Body", "Fetcher", "describe_non_image", "request_target"]

MAX_REDIRECTS = 5
REDIRECTS = frozenset({301, 302, 303, 307, 308})


@dataclass(frozen=True, slots=True)
class Body:
    """What was fetched. `content_type` is the server's word for it, without parameters, or ""."""

    data: bytes
    content_type: str


class Fetcher:
    """Fetches URLs within the limits of the configuration. The session is `open_session`'s."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        config: FetchConfig,
        budget: ByteBudget,
    ) -> None:
        self._session = session
        self._config = config
        self._budget = budget

    @asynccontextmanager
    async def fetch(self, url: str) -> AsyncIterator[Body]:
        """Fetch a URL, given in the form that goes on the wire; its bytes count until the block ends.

        All clocks start here. Raises `ImageError`.
        """
        origin = "/".join(url.split("/", 3)[:3])
        with self._budget.share(origin) as share:
            yield await self._download(url, share)

    async def _download(self, url: str, share: Share) -> Body:
        visit = RedirectChain(self._session, url)
        try:
            async with asyncio.timeout(self._config.total_seconds) as clock:
                response = await visit.answer()
                try:
                    return await self._read(response, share, clock)
                except BaseException:
                    response.close()
                    raise
        except ImageError as error:
            error.redirected = visit.redirected
            raise
        except TimeoutError as error:
            raise ImageError(
                ImageErrorCode.TIMEOUT, self._which_clock(error), redirected=visit.redirected
            ) from None
        except Exception as error:  # noqa: BLE001 - explain() logs what it does not know
            failure = explain(error, answered=visit.answered)
            failure.redirected = visit.redirected
            raise failure from None

    async def _read(
        self, response: aiohttp.ClientResponse, share: Share, clock: asyncio.Timeout
    ) -> Body:
        _check_status(response)
        if _announced(response) > self._config.max_image_bytes:
            raise self._too_large()
        data = await self._next(response, share, clock)
        if not data:
            raise ImageError(ImageErrorCode.EMPTY_BODY, "the server sent nothing")
        if more := await self._next(response, share, clock):
            # A BytesIO gives up its bytes without a copy of them; a list of chunks would be joined.
            with io.BytesIO() as buffer:
                buffer.write(data)
                while more:
                    buffer.write(more)
                    more = await self._next(response, share, clock)
                data = buffer.getvalue()
        return Body(data, response.content_type if "Content-Type" in response.headers else "")

    async def _next(
        self, response: aiohttp.ClientResponse, share: Share, clock: asyncio.Timeout
    ) -> bytes:
        """Read what has come, and count it; b"" is the end."""
        chunk = await response.content.readany()
        if chunk:
            if share.held + len(chunk) > self._config.max_image_bytes:
                raise self._too_large()
            if not share.take(len(chunk)):
                await _stop_clock(clock, share, len(chunk))
        return chunk

    def _too_large(self) -> ImageError:
        limit = self._config.max_image_bytes
        return ImageError(ImageErrorCode.TOO_LARGE, f"larger than {limit:,} bytes")

    def _which_clock(self, error: TimeoutError) -> str:
        config = self._config
        if isinstance(error, aiohttp.ConnectionTimeoutError):
            return f"no connection to the server within {seconds(config.connect_seconds)}"
        if isinstance(error, aiohttp.SocketTimeoutError):
            return f"the server sent nothing for {seconds(config.idle_seconds)}"
        return f"not fetched whole within {seconds(config.total_seconds)}"


class RedirectChain:
    """The way from a URL to the answer that is not a redirect.

    `redirected` tells whether a redirect has been followed, `answered` whether the head of the last
    answer has arrived.
    """

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url
        self._redirects = 0
        self.answered = False

    @property
    def redirected(self) -> bool:
        return self._redirects > 0

    async def answer(self) -> aiohttp.ClientResponse:
        """Follow redirects to their end. Raises `ImageError`, and what aiohttp raises."""
        while True:
            self.answered = False
            response = await self._ask(request_target(self._url))
            self.answered = True
            location = response.headers.get("Location", "")
            if response.status not in REDIRECTS or not location:
                return response
            response.release()
            self._follow(location)

    async def _ask(self, target: URL) -> aiohttp.ClientResponse:
        """Send the request. Behind a redirect it may go out on the connection that this came on, which
        servers may end without having said so: then it is sent anew, and that is no other try.
        """
        while True:
            connection = Connection()
            try:
                return await self._session.get(
                    target, allow_redirects=False, trace_request_ctx=connection
                )
            except NoResponseError:
                if not (self.redirected and connection.kept):
                    raise

    def _follow(self, location: str) -> None:
        if self._redirects == MAX_REDIRECTS:
            raise ImageError(
                ImageErrorCode.TOO_MANY_REDIRECTS, f"more than {MAX_REDIRECTS} redirects"
            )
        try:
            self._url = resolve_redirect(self._url, location).fetched
        except UrlError as error:
            raise ImageError(
                ImageErrorCode.INVALID_URL,
                f"the server redirects to what cannot be fetched: {error.message}",
            ) from None
        self._redirects += 1


def request_target(url: str) -> URL:
    """Make aiohttp's URL of one that is to be sent exactly as it stands. Raises `ImageError`."""
    try:
        target = URL(url, encoded=True)
    except ValueError:
        raise ImageError(ImageErrorCode.INVALID_URL, "not a URL that can be fetched") from None
    if url.endswith("?") and not target.raw_query_string:
        # An empty query would be dropped; as the end of the path it stays.
        return URL.build(
            scheme=target.scheme,
            authority=target.raw_authority,
            path=f"{target.raw_path}?",
            encoded=True,
        )
    return target


def _check_status(response: aiohttp.ClientResponse) -> None:
    """Raise `http_status` unless the answer is a success."""
    status = response.status
    if 200 <= status <= 299:
        return
    sentence = status_line(status)
    if status in REDIRECTS:
        sentence += ", without saying where to"
    raise ImageError(
        ImageErrorCode.HTTP_STATUS,
        sentence,
        http_status=status,
        retry_after=parse_retry_after(response.headers.get("Retry-After"), time.time()),
    )


def _announced(response: aiohttp.ClientResponse) -> int:
    """Give the announced size, as far as it is one: a hint that saves a download, never a limit."""
    if "Content-Encoding" in response.headers:
        return 0
    return response.content_length or 0


async def _stop_clock(clock: asyncio.Timeout, share: Share, count: int) -> None:
    """Wait for room, which is no fault of the image's: its time stands still."""
    now = asyncio.get_running_loop().time
    left = (clock.when() or now()) - now()
    clock.reschedule(None)
    await share.wait(count)
    clock.reschedule(now() + left)
