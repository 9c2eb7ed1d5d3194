"""What may be done with requests: list, watch, cancel, retry, delete."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

from aiohttp import web

from imgsvc.database.queries import Queries
from imgsvc.models import Request
from imgsvc.processing.events import Events, Subscription
from imgsvc.processing.request_actions import RequestActions
from imgsvc.serializers import summary_json
from imgsvc.web import options
from imgsvc.web.options import ListQuery, NoOptions
from imgsvc.web.responses import json_response
from imgsvc.web.status import StatusHandler

COMMENT_SECONDS = 15.0
"""A watcher hears at least a comment this often, so that proxies keep the connection."""
DROP_SECONDS = 15.0
"""A watcher that takes nothing for so long is dropped."""
RETRY_MILLISECONDS = 3_000


class RequestsHandler:
    """Hands users' wishes about their requests on to who carries them out."""

    def __init__(
        self, snapshots: Queries, control: RequestActions, events: Events, status: StatusHandler
    ) -> None:
        self._snapshots = snapshots
        self._control = control
        self._events = events
        self._status = status
        self._rendered: tuple[Request | None, bytes] = (None, b"")

    async def list_requests(self, request: web.Request) -> web.Response:
        """`GET /listRequests`"""
        query = options.query(ListQuery, request)
        requests, cursor = await self._snapshots.list_requests(
            query.status, query.limit, query.cursor
        )
        now = time.time()
        body = {"requests": [summary_json(each, now) for each in requests], "nextCursor": cursor}
        return json_response(body)

    async def cancel_request(self, request: web.Request) -> web.StreamResponse:
        """`POST /cancelRequest/{requestId}`"""
        options.query(NoOptions, request)
        request_id = request.match_info["request_id"]
        await self._control.cancel(request_id)
        return await self._status.answer(request, request_id, status=200)

    async def retry_failed(self, request: web.Request) -> web.StreamResponse:
        """`POST /retryFailed/{requestId}`"""
        options.query(NoOptions, request)
        request_id = request.match_info["request_id"]
        await self._control.retry(request_id)
        return await self._status.answer(request, request_id, status=202)

    async def delete_request(self, request: web.Request) -> web.Response:
        """`DELETE /deleteRequest/{requestId}`"""
        options.query(NoOptions, request)
        await self._control.delete(request.match_info["request_id"])
        return web.Response(status=204)

    async def watch_status(self, request: web.Request) -> web.StreamResponse:
        """`GET /watchStatus/{requestId}`"""
        options.query(NoOptions, request)
        async with self._events.watch(request.match_info["request_id"]) as feed:
            first = await anext(feed, None)
            heard = request.headers.get("Last-Event-ID")
            if first is None or (first.finished_at is not None and heard == str(first.version)):
                return web.Response(status=204)  # Tells an EventSource not to come back.
            return await self._stream(request, first, feed)

    async def _stream(
        self, request: web.Request, first: Request, feed: Subscription
    ) -> web.StreamResponse:
        response = web.StreamResponse(
            headers={
                "Content-Type": "text/event-stream; charset=utf-8",
                "Cache-Control": "no-store",
                "X-Accel-Buffering": "no",
            }
        )
        await response.prepare(request)
        if request.method != "HEAD":
            try:
                async with aclosing(self._told(first, feed)) as told:
                    async for data in told:
                        async with asyncio.timeout(DROP_SECONDS):
                            await response.write(data)
            except TimeoutError:
                # What it has not read would pile up.
                if request.transport is not None:
                    request.transport.abort()
                raise ConnectionResetError("a watcher took nothing") from None
        await response.write_eof()
        return response

    async def _told(self, first: Request, feed: Subscription) -> AsyncGenerator[bytes, None]:
        """Give an event for each version, and comments where none comes."""
        yield b"retry: %d\n\n%b" % (RETRY_MILLISECONDS, self._event(first))
        version = first.version
        while True:
            try:
                async with asyncio.timeout(COMMENT_SECONDS):
                    request = await anext(feed, None)
            except TimeoutError:
                yield b": still here\n\n"
                continue
            if request is None:
                return
            if request.version != version:
                version = request.version
                yield self._event(request)

    def _event(self, request: Request) -> bytes:
        """Render a snapshot; one that many watch is rendered once."""
        if self._rendered[0] is not request:
            name = "progress" if request.finished_at is None else "finished"
            data = json.dumps(self._status.without_products(request), separators=(",", ":"))
            text = f"event: {name}\nid: {request.version}\ndata: {data}\n\n"
            self._rendered = (request, text.encode())
        return self._rendered[1]
