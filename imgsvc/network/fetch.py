"""Fetches the bytes of a URL within limits of time and size."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus

import aiohttp
from yarl import URL

from imgsvc.config import FetchConfig
from imgsvc.errors import ImageError, ImageErrorCode
from imgsvc.machine_errors import MachineError, is_machine_error
from imgsvc.models import Validators
from imgsvc.network.byte_budget import ByteBudget, Share
from imgsvc.network.content_coding import ContentDecoder
from imgsvc.network.cookies import DownloadCookies
from imgsvc.network.errors import (
    NoResponseError,
    describe_non_image,
    format_seconds,
    status_line,
    to_image_error,
)
from imgsvc.network.retry import parse_retry_after
from imgsvc.network.session import ConnectionInfo
from imgsvc.sample import Sample
from imgsvc.urls import UrlError, host_url_of, resolve_redirect, url_key

__all__ = ["Fetcher", "ResponseBody", "describe_non_image", "request_target"]

MAX_REDIRECTS = 10
"""How many redirects of a download are followed. Browsers follow 20."""
ACCEPT = "image/*,*/*;q=0.8"
"""The Accept header. Some hosts answer 406 without `*/*`."""
REDIRECT_STATUSES = frozenset({301, 302, 303, 307, 308})


@dataclass(frozen=True, slots=True)
class ResponseBody:
    """The fetched bytes. `content_type` is the host's media type without parameters, or ""."""

    data: bytes
    content_type: str
    validators: Validators


class Fetcher:
    """Fetches URLs within the limits of the configuration. `session` comes from `open_session`.

    URLs of `sample` are read from the package: no connection is made.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        config: FetchConfig,
        budget: ByteBudget,
        sample: Sample | None = None,
    ) -> None:
        self._session = session
        self._config = config
        self._budget = budget
        self._sample = sample
        self._headers = {"Accept": ACCEPT, **config.headers}

    @asynccontextmanager
    async def fetch(
        self, url: str, validators: Validators | None = None
    ) -> AsyncIterator[ResponseBody | None]:
        """Fetch a URL and return its body. Raise `ImageError` or `MachineError` if that fails.

        With the `validators` of an earlier response, return None if the host says that the source is
        not modified. `url` is in the form in which it is sent. The bytes count against the budget until
        the block ends. All timeouts start with this call.
        """
        if self._sample is not None and (name := self._sample.own_name(url)) is not None:
            yield _read_sample(self._sample, name, url, validators)
            return
        with self._budget.share(host_url_of(url)) as share:
            yield await self._download(url, share, validators)

    async def _download(
        self, url: str, share: Share, validators: Validators | None
    ) -> ResponseBody | None:
        chain = RedirectChain(self._session, url, self._headers, validators)
        try:
            async with asyncio.timeout(self._config.timeout_seconds) as timeout:
                response = await chain.resolve()
                if response.status == HTTPStatus.NOT_MODIFIED and chain.conditional:
                    response.release()
                    return None
                try:
                    data = await self._read(response, share, timeout)
                    return ResponseBody(data, _content_type(response), chain.validators(response))
                except BaseException:
                    response.close()
                    raise
        except ImageError as error:
            error.redirected = chain.redirected
            raise
        except TimeoutError as error:
            raise ImageError(
                ImageErrorCode.TIMEOUT, self._timeout_message(error), redirected=chain.redirected
            ) from None
        except Exception as error:  # noqa: BLE001 - to_image_error() logs unknown errors
            if is_machine_error(error):
                raise MachineError(str(error)) from None
            failure = to_image_error(error, headers_received=chain.headers_received)
            failure.redirected = chain.redirected
            raise failure from None

    async def _read(
        self, response: aiohttp.ClientResponse, share: Share, timeout: asyncio.Timeout
    ) -> bytes:
        _check_status(response)
        if _declared_size(response) > self._config.max_image_bytes:
            raise self._too_large()
        decoder = ContentDecoder(", ".join(response.headers.getall("Content-Encoding", ())))
        # BytesIO.getvalue() does not copy the bytes; joining a list of chunks would.
        with io.BytesIO() as buffer:
            while received := await response.content.readany():
                for chunk in decoder.decode(received):
                    await self._count(chunk, share, timeout)
                    buffer.write(chunk)
                    if decoder:  # 64 KiB can be decoded to 64 MiB, so other work comes in between
                        await asyncio.sleep(0)
            data = buffer.getvalue()
        if not data:
            raise ImageError(ImageErrorCode.EMPTY_BODY, "The host sent an empty response.")
        decoder.check_complete()
        return data

    async def _count(self, chunk: bytes, share: Share, timeout: asyncio.Timeout) -> None:
        """Count bytes of the body. Wait until the budget has capacity for them."""
        if share.held + len(chunk) > self._config.max_image_bytes:
            raise self._too_large()
        if not share.try_acquire(len(chunk)):
            await _wait_for_capacity(share, len(chunk), timeout)

    def _too_large(self) -> ImageError:
        limit = self._config.max_image_bytes
        return ImageError(
            ImageErrorCode.TOO_LARGE,
            f"The file is larger than {limit:,} bytes (fetch.max_image_bytes).",
        )

    def _timeout_message(self, error: TimeoutError) -> str:
        """Return the message for the timeout that has expired."""
        config = self._config
        if isinstance(error, aiohttp.ConnectionTimeoutError):
            return f"No connection to the host within {format_seconds(config.connect_seconds)}."
        if isinstance(error, aiohttp.SocketTimeoutError):
            return f"The host sent no data for {format_seconds(config.read_timeout_seconds)}."
        return f"The download took longer than {format_seconds(config.timeout_seconds)}."


def _read_sample(
    sample: Sample, name: str, url: str, validators: Validators | None
) -> ResponseBody | None:
    """Return an image of the sample as `Fetcher.fetch` does."""
    image = sample.images.get(name)
    if image is None:
        status = HTTPStatus.NOT_FOUND
        raise ImageError(ImageErrorCode.HTTP_STATUS, status_line(status), http_status=status)
    if validators == (found := Validators(url_key(url), image.etag, None)):
        return None
    return ResponseBody(image.data, image.media_type, found)


class RedirectChain:
    """The redirects from a URL to the final response.

    `headers` are sent with each request, and cookies that a redirect sets with the further requests to
    its host. `headers_received` is true if the headers of the response to the last request have
    arrived. `conditional` is true if that request had conditions: `validators` are sent only to the URL
    that has set them.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        url: str,
        headers: Mapping[str, str],
        validators: Validators | None,
    ) -> None:
        self._session = session
        self._url = url
        self._headers = headers
        self._validators = validators
        self._cookies = DownloadCookies()
        self._redirects = 0
        self._answered = False
        self.headers_received = False
        self.conditional = False

    @property
    def redirected(self) -> bool:
        """Whether a redirect has been followed."""
        return self._redirects > 0

    async def resolve(self) -> aiohttp.ClientResponse:
        """Return the first response that is not a redirect.

        If a host rejects the conditions, repeat the request without them. Raise `ImageError`
        for an invalid redirect, and the errors of aiohttp.
        """
        while True:
            self.headers_received = False
            target = request_target(self._url)
            response = await self._get(target)
            self.headers_received = self._answered = True
            if response.status == HTTPStatus.PRECONDITION_FAILED and self.conditional:
                response.release()
                self._validators = None
                continue
            location = response.headers.get("Location", "")
            if response.status not in REDIRECT_STATUSES or not location:
                return response
            response.release()
            self._cookies.store(target, response.headers)
            self._follow_redirect(location)

    async def _get(self, target: URL) -> aiohttp.ClientResponse:
        """Send the request and return the response.

        A further request may reuse the connection of the one before. Some hosts close that
        connection without notice. The request is then sent again, within the same attempt.
        """
        conditions = self._condition_headers()
        self.conditional = bool(conditions)
        headers = {**self._headers, **self._cookies.headers(target), **conditions}
        while True:
            connection = ConnectionInfo()
            try:
                return await self._session.get(
                    target, allow_redirects=False, headers=headers, trace_request_ctx=connection
                )
            except NoResponseError:
                if not (self._answered and connection.reused):
                    raise

    def _condition_headers(self) -> dict[str, str]:
        validators = self._validators
        if validators is None or validators.url_key != url_key(self._url):
            return {}
        headers = {}
        if validators.etag is not None:
            headers["If-None-Match"] = validators.etag
        if validators.last_modified is not None:
            headers["If-Modified-Since"] = validators.last_modified
        return headers

    def validators(self, response: aiohttp.ClientResponse) -> Validators:
        """Return the validators of the final response."""
        headers = response.headers
        return Validators(
            url_key(self._url),
            _validator(headers.get("ETag")),
            _validator(headers.get("Last-Modified")),
        )

    def _follow_redirect(self, location: str) -> None:
        if self._redirects == MAX_REDIRECTS:
            raise ImageError(
                ImageErrorCode.TOO_MANY_REDIRECTS, f"More than {MAX_REDIRECTS} redirects."
            )
        try:
            self._url = resolve_redirect(self._url, location).fetch_url
        except UrlError as error:
            raise ImageError(
                ImageErrorCode.INVALID_URL,
                f"The host redirects to an invalid URL: it {error.message}.",
            ) from None
        self._redirects += 1


def request_target(url: str) -> URL:
    """Return the URL object with which aiohttp sends `url` unchanged.

    Raise `ImageError` if `url` is not a URL.
    """
    try:
        target = URL(url, encoded=True)
    except ValueError:
        raise ImageError(ImageErrorCode.INVALID_URL, "This URL cannot be fetched.") from None
    if url.endswith("?") and not target.raw_query_string:
        # yarl drops an empty query. As part of the path, the question mark is kept.
        return URL.build(
            scheme=target.scheme,
            authority=target.raw_authority,
            path=f"{target.raw_path}?",
            encoded=True,
        )
    return target


def _check_status(response: aiohttp.ClientResponse) -> None:
    """Raise `ImageError` with code `http_status` unless the status is 2xx."""
    status = response.status
    if 200 <= status <= 299:
        return
    message = status_line(status)
    if status in REDIRECT_STATUSES:
        message += " without a redirect target"
    raise ImageError(
        ImageErrorCode.HTTP_STATUS,
        message,
        http_status=status,
        retry_after=parse_retry_after(response.headers.get("Retry-After"), time.time()),
    )


def _content_type(response: aiohttp.ClientResponse) -> str:
    return response.content_type if "Content-Type" in response.headers else ""


def _validator(value: str | None) -> str | None:
    """Return a header's value if it can be sent back as a condition, else None.

    `If-None-Match: *` would match every version of the source.
    """
    usable = value and value.isascii() and value.isprintable() and value != "*"
    return value if usable else None


def _declared_size(response: aiohttp.ClientResponse) -> int:
    """Return the Content-Length in bytes, or 0 if the body's size is unknown.

    It saves the download of a body that is too large. The limit is checked on the received bytes.
    """
    if "Content-Encoding" in response.headers:
        return 0
    return response.content_length or 0


async def _wait_for_capacity(share: Share, count: int, timeout: asyncio.Timeout) -> None:
    """Acquire `count` bytes of the budget, and stop the timeout while waiting for them.

    The wait does not count because it is not caused by the image's host.
    """
    now = asyncio.get_running_loop().time
    remaining = (timeout.when() or now()) - now()
    timeout.reschedule(None)
    await share.acquire(count)
    timeout.reschedule(now() + remaining)
