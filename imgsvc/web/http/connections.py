"""The connections of clients: how many there may be, and which one is closed for another."""

from __future__ import annotations

import asyncio
import logging
import resource
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from imgsvc.errors import ProblemCode, ProblemError
from imgsvc.logs import RARELY
from imgsvc.web.http.problems import problem_response

RECEIVE_BYTES = 64 * 1024
"""Maximum number of bytes received at once on a connection."""

log = logging.getLogger(__name__)


def connection_limit(configured: int) -> int:
    """Return the maximum number of connections: at most half of the files that may be open."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return configured if files == resource.RLIM_INFINITY else max(1, min(configured, files // 2))


class Connections:
    """All connections of clients, at most `limit`.

    A connection is idle while it has no API call in progress. When there are too many, the one that has
    been idle longest is closed. If none is idle, the new connection is refused.
    """

    def __init__(self, limit: int, head_seconds: float) -> None:
        self.limit = limit
        self.head_seconds = head_seconds
        self._busy: set[LimitedConnection] = set()
        self._idle: dict[LimitedConnection, None] = {}  # in the order in which they became idle

    def __len__(self) -> int:
        return len(self._busy) + len(self._idle)

    def add(self, connection: LimitedConnection) -> bool:
        """Add a new connection, and close another if there are too many. Return whether it may stay."""
        if len(self) >= self.limit:
            victim = self._next_to_close()
            if victim is None:
                return False
            log.warning(
                "too many connections: an idle one is closed for each new one",
                extra={"connections": len(self), **RARELY},
            )
            self.remove(victim)
            victim.force_close()
        self._idle[connection] = None
        return True

    def remove(self, connection: LimitedConnection) -> None:
        """Remove a connection that is being closed."""
        self._busy.discard(connection)
        self._idle.pop(connection, None)

    def mark_busy(self, connection: LimitedConnection) -> None:
        """Record that a call has arrived on a connection."""
        if connection in self._idle:
            del self._idle[connection]
            self._busy.add(connection)

    def mark_idle(self, connection: LimitedConnection) -> None:
        """Record that the calls of a connection have ended."""
        if connection in self._busy:
            self._busy.discard(connection)
            self._idle[connection] = None

    def is_idle(self, connection: LimitedConnection) -> bool:
        """Return whether a connection has no call in progress."""
        return connection in self._idle

    def _next_to_close(self) -> LimitedConnection | None:
        """Return the connection that has been idle longest, and whose last response has been sent."""
        return next((each for each in self._idle if not each.has_unsent_bytes), None)


class LimitedConnection(web.RequestHandler):
    """The server's side of one connection, which counts in `connections`.

    The head of a request must arrive within `Connections.head_seconds`. Between calls a connection may
    be idle longer.
    """

    __slots__ = ("_connections", "_docs_path", "_head_timer")

    def __init__(
        self, manager: web.Server, connections: Connections, docs_path: str, **options: Any
    ) -> None:
        super().__init__(manager, **options)
        self._connections = connections
        self._docs_path = docs_path
        self._head_timer: asyncio.TimerHandle | None = None

    @property
    def has_unsent_bytes(self) -> bool:
        """Whether a part of a response still has to be sent."""
        transport = self.transport
        return isinstance(transport, asyncio.Transport) and transport.get_write_buffer_size() > 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count the connection. Refuse it if there are too many."""
        super().connection_made(transport)
        # asyncio's attribute for the bytes that it receives at once. Bodies that wait hold as many.
        transport.max_size = RECEIVE_BYTES  # type: ignore[attr-defined]
        if self._connections.add(self):
            self._start_head_timer()
        else:
            _refuse(transport, self._docs_path)
            self.force_close()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget the connection."""
        self._cancel_head_timer()
        self._connections.remove(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse bytes. Those of an incomplete head start its time limit."""
        super().data_received(data)
        if self._messages:
            self._cancel_head_timer()
            self._connections.mark_busy(self)
        elif self._head_timer is None and self._connections.is_idle(self):
            self._start_head_timer()

    async def _handle_request(
        self,
        request: web.BaseRequest,
        start_time: float | None,
        request_handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
    ) -> tuple[web.StreamResponse, bool]:
        try:
            return await super()._handle_request(request, start_time, request_handler)
        finally:
            if not self._messages:
                self._connections.mark_idle(self)

    def _start_head_timer(self) -> None:
        self._head_timer = self._loop.call_later(self._connections.head_seconds, self.force_close)

    def _cancel_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


def _refuse(transport: asyncio.BaseTransport, docs_path: str) -> None:
    """Send a problem report without reading the request."""
    response = problem_response(
        ProblemError(ProblemCode.UNAVAILABLE, "Too many connections. Try again in a moment."),
        docs_path,
    )
    assert isinstance(response.body, bytes)  # noqa: S101
    assert isinstance(transport, asyncio.Transport)  # noqa: S101
    headers = {**response.headers, "Content-Length": len(response.body), "Connection": "close"}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = f"HTTP/1.1 {response.status} {response.reason}\r\n{lines}\r\n"
    transport.write(head.encode() + response.body)
