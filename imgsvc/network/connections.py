"""Connects `ResponseReader` to aiohttp's client, and shares the event loop among connections."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, cast

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.http import HttpVersion
from aiohttp.http_parser import RawResponseMessage
from aiohttp.streams import StreamReader
from multidict import CIMultiDict, CIMultiDictProxy

from imgsvc.network.response_reader import InvalidResponseError, ReadResult, ResponseReader

ELEMENTS_PER_TURN = 32
"""How many lines and chunks of a connection are read at once.

They take about 30 µs. A receive of 64 KiB from an honest host has fewer, but from a hostile one 11,000.
"""
READS_PER_TURN = 8
"""How many reads of the connections in the queue happen in one turn of the loop."""
TURN_SECONDS = 0.001
"""The time between two turns of the queue, so that hostile hosts use at most a quarter of the loop."""


class ReadQueue:
    """The connections that have received more lines or chunks than are read at once.

    They are continued in turn, a few in each turn of the loop, so all other work comes in between.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._connections: deque[ResponseConnection] = deque()
        self._scheduled = False

    def add(self, connection: ResponseConnection) -> None:
        """Continue the connection in a later turn of the loop."""
        self._connections.append(connection)
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._continue_some)

    def _continue_some(self) -> None:
        for _ in range(READS_PER_TURN):
            if not self._connections:
                break
            connection = self._connections.popleft()
            if connection.continue_reading():
                self._connections.append(connection)
        self._scheduled = bool(self._connections)
        if self._scheduled:
            self._loop.call_later(TURN_SECONDS, self._continue_some)


class ResponseConnection(ResponseHandler):
    """A client connection of aiohttp whose responses are read by `ResponseReader`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, queue: ReadQueue) -> None:
        super().__init__(loop)
        self._queue = queue
        self._queued = False
        self._response_parser: _Parser | None = None

    def set_response_params(self, **options: Any) -> None:
        """Prepare for the next response. The options are those of aiohttp's session."""
        self._skip_payload = options.get("skip_payload", False)
        self._read_timeout = options.get("read_timeout")
        self._read_bufsize = options.get("read_bufsize", self._read_bufsize)
        self._timeout_ceil_threshold = options.get("timeout_ceil_threshold", 5)
        body = StreamReader(self, self._read_bufsize, timer=options.get("timer"), loop=self._loop)
        self._response_parser = _Parser(self, body)
        self._parser = cast("Any", self._response_parser)  # it has the methods that aiohttp calls
        self._drain_tail()

    def data_received(self, data: bytes) -> None:
        """Read the received bytes, as many as one turn of the loop allows."""
        super().data_received(data)
        if self._is_pending():
            self._pause_reading_for_buffer()
            self._drop_timeout()  # it measures the host, not this queue
            if not self._queued:
                self._queued = True
                self._queue.add(self)

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Resume receiving. Bytes that have been received are left to the queue.

        aiohttp calls this for each piece of a body that is read, and would read the next piece at once.
        """
        super().resume_reading(resume_parser=False)

    def continue_reading(self) -> bool:
        """Read bytes that have been received before. Return whether there are still more."""
        if self._is_pending():
            super().data_received(b"")
            if self._is_pending():
                return True
        self._queued = False
        if self.transport is not None:
            self._resume_reading_for_buffer()
            if not self._reading_paused:
                self._reschedule_timeout()
        return False

    def _is_pending(self) -> bool:
        parser = self._response_parser
        return self.transport is not None and parser is not None and parser.pending


class _Parser:
    """Passes the results of a `ResponseReader` to aiohttp, in place of its `HttpResponseParser`."""

    def __init__(self, connection: ResponseConnection, body: StreamReader) -> None:
        self._connection = connection
        self._body = body
        self._reader = ResponseReader()
        self._headers_received = False
        self._ended = False

    @property
    def pending(self) -> bool:
        """Whether received bytes have not been read because of the limit of a turn."""
        return self._reader.pending

    def feed_data(
        self, data: bytes
    ) -> tuple[list[tuple[RawResponseMessage, StreamReader]], bool, bytes]:
        """Read the next bytes. Return the response if its head is complete."""
        if self._ended:
            if data:  # A host that sends more than its response cannot be trusted with the next.
                self._connection.force_close()
                if self._connection.transport is not None:
                    self._connection.transport.close()
            return [], False, b""
        try:
            result = self._reader.read(data, ELEMENTS_PER_TURN)
        except InvalidResponseError as error:
            if self._headers_received:
                failure = aiohttp.ClientPayloadError(str(error))
                failure.__cause__ = error
                self._body.set_exception(failure)
            raise
        return self._deliver(result), False, b""

    def feed_eof(self) -> None:
        """Read to the end of the connection. Raise `EOFError` if the response is not complete."""
        if not self._ended:
            for message in self._deliver(self._reader.read_end()):
                self._connection.feed_data(message, 0)

    def pause_reading(self) -> None:
        """Do nothing. The bytes that have been received are few."""

    def _deliver(self, result: ReadResult) -> list[tuple[RawResponseMessage, StreamReader]]:
        messages = []
        if (head := result.head) is not None:
            self._headers_received = True
            headers = CIMultiDict(
                (name.decode(), value.decode("utf-8", "surrogateescape"))
                for name, value in head.headers
            )
            message = RawResponseMessage(
                version=HttpVersion(*head.version),
                code=head.status,
                reason=head.reason,
                headers=CIMultiDictProxy(headers),
                raw_headers=head.headers,
                should_close=head.closes,
                compression=None,
                upgrade=False,
                chunked=head.chunked,
            )
            messages.append((message, self._body))
        if result.body:
            self._body.feed_data(result.body)
        if result.ended:
            self._ended = True
            if self._reader.closes:
                self._connection.force_close()
            self._body.feed_eof()
        return messages
