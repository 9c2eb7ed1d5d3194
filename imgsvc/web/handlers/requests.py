"""Operations on requests: list, watch, cancel, retry and delete."""

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
from imgsvc.serializers import summary_json, totals_json
from imgsvc.web.handlers.status import StatusHandler
from imgsvc.web.http.api_keys import CALLER
from imgsvc.web.limits import EventStreamLimits
from imgsvc.web.schema import options
from imgsvc.web.schema.options import CancelQuery, ListQuery, NoOptions, RetryQuery
from imgsvc.web.schema.responses import json_response

RETRY_MILLISECONDS = 3_000
"""Time after which a browser reconnects to a closed event stream."""


class RequestsHandler:
    """Handles the API calls that list, watch, cancel, retry and delete requests."""

    def __init__(
        self,
        queries: Queries,
        actions: RequestActions,
        events: Events,
        status: StatusHandler,
        limits: EventStreamLimits,
    ) -> None:
        self._queries = queries
        self._actions = actions
        self._events = events
        self._status = status
        self._limits = limits
        self._rendered: tuple[Request | None, bytes] = (None, b"")

    async def list_requests(self, request: web.Request) -> web.Response:
        """`GET /listRequests`"""
        query = options.parse_query(ListQuery, request)
        owner = request[CALLER].visible_owner
        requests, cursor = await self._queries.list_requests(
            query.status, query.limit, query.cursor, query.name, owner
        )
        now = time.time()
        body = {
            "requests": [summary_json(each, now) for each in requests],
            "nextCursor": cursor,
            "totals": totals_json(await self._queries.totals(owner)),
        }
        return json_response(body)

    async def cancel_request(self, request: web.Request) -> web.StreamResponse:
        """`POST /cancelRequest/{requestId}`"""
        query = options.parse_query(CancelQuery, request)
        request_id = request.match_info["requestId"]
        await self._actions.cancel(request_id, query.host)
        return await self._status.send_status(request, request_id, status=200)

    async def retry_failed(self, request: web.Request) -> web.StreamResponse:
        """`POST /retryFailed/{requestId}`"""
        query = options.parse_query(RetryQuery, request)
        request_id = request.match_info["requestId"]
        await self._actions.retry(request_id, include_cancelled=query.include == "cancelled")
        return await self._status.send_status(request, request_id, status=202)

    async def delete_request(self, request: web.Request) -> web.Response:
        """`DELETE /deleteRequest/{requestId}`"""
        options.parse_query(NoOptions, request)
        await self._actions.delete(request.match_info["requestId"])
        return web.Response(status=204)

    async def watch_status(self, request: web.Request) -> web.StreamResponse:
        """`GET /watchStatus/{requestId}`"""
        options.parse_query(NoOptions, request)
        async with self._events.watch(request.match_info["requestId"]) as subscription:
            first = await anext(subscription, None)
            last_event_id = request.headers.get("Last-Event-ID")
            if first is None or (
                first.finished_at is not None and last_event_id == str(first.version)
            ):
                return web.Response(status=204)  # An EventSource does not reconnect after a 204.
            return await self._stream(request, first, subscription)

    async def _stream(
        self, request: web.Request, first: Request, subscription: Subscription
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
                async with aclosing(self._event_stream(first, subscription)) as events:
                    async for data in events:
                        async with asyncio.timeout(self._limits.send_timeout_seconds):
                            await response.write(data)
            except TimeoutError:
                # Unsent events would fill the memory.
                if request.transport is not None:
                    request.transport.abort()
                raise ConnectionResetError("the client does not receive events") from None
        await response.write_eof()
        return response

    async def _event_stream(
        self, first: Request, subscription: Subscription
    ) -> AsyncGenerator[bytes, None]:
        """Yield an event for each version of the request, and comments in between."""
        yield b"retry: %d\n\n%b" % (RETRY_MILLISECONDS, self._event(first))
        version = first.version
        while True:
            try:
                async with asyncio.timeout(self._limits.comment_seconds):
                    request = await anext(subscription, None)
            except TimeoutError:
                yield b": keep-alive\n\n"
                continue
            if request is None:
                return
            if request.version != version:
                version = request.version
                yield self._event(request)

    def _event(self, request: Request) -> bytes:
        """Return a snapshot as an event. Clients that watch the same request share it."""
        if self._rendered[0] is not request:
            name = "progress" if request.finished_at is None else "finished"
            data = json.dumps(self._status.status_without_products(request), separators=(",", ":"))
            text = f"event: {name}\nid: {request.version}\ndata: {data}\n\n"
            self._rendered = (request, text.encode())
        return self._rendered[1]
