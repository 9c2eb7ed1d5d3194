"""A connection reads a limited number of chunks at once, and takes turns with other connections."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp.http_exceptions import HttpProcessingError

from imgsvc.network.connections import (
    ELEMENTS_PER_TURN,
    READS_PER_TURN,
    ReadQueue,
    ResponseConnection,
)

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


class Transport(asyncio.Transport):
    """A transport that only records whether it is paused or closed."""

    paused = closed = False

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


class Client:
    """A connection that has sent a request."""

    def __init__(self, queue: ReadQueue) -> None:
        self.transport = Transport()
        self.connection = ResponseConnection(asyncio.get_running_loop(), queue)
        self.connection.connection_made(self.transport)
        self.connection.set_response_params(read_bufsize=2**15)

    def receive(self, data: bytes) -> None:
        self.connection.data_received(data)

    async def body(self) -> asyncio.Future[bytes]:
        _, body = await self.connection.read()
        return asyncio.ensure_future(body.read())


@pytest.fixture
async def queue() -> ReadQueue:
    return ReadQueue(asyncio.get_running_loop())


async def test_chunks_are_read_in_several_turns_while_receiving_is_paused(queue: ReadQueue) -> None:
    client = Client(queue)
    client.receive(CHUNKED + b"1\r\nx\r\n" * 1_000)
    _, body = await client.connection.read()
    assert 0 < body.total_bytes <= ELEMENTS_PER_TURN
    while body.total_bytes < 1_000:
        assert client.transport.paused
        before = body.total_bytes
        await asyncio.sleep(0)
        assert body.total_bytes - before <= READS_PER_TURN * ELEMENTS_PER_TURN
    await asyncio.sleep(0.01)
    assert not client.transport.paused
    client.receive(b"0\r\n\r\n")
    assert await body.read() == b"x" * 1_000


async def test_turn_of_loop_reads_few_connections_and_all_have_their_turn(queue: ReadQueue) -> None:
    clients = [Client(queue) for _ in range(3 * READS_PER_TURN)]
    for client in clients:
        client.receive(CHUNKED + b"1\r\nx\r\n" * 200)
    bodies = [(await client.connection.read())[1] for client in clients]
    while sum(body.total_bytes for body in bodies) < 200 * len(bodies):
        before = [body.total_bytes for body in bodies]
        await asyncio.sleep(0)
        grown = [body.total_bytes - size for body, size in zip(bodies, before, strict=True)]
        assert sum(grown) <= READS_PER_TURN * ELEMENTS_PER_TURN
        assert (
            max(body.total_bytes for body in bodies) - min(body.total_bytes for body in bodies)
            <= 2 * ELEMENTS_PER_TURN
        )


async def test_reading_body_does_not_read_more_chunks_at_once(queue: ReadQueue) -> None:
    client = Client(queue)
    client.receive(CHUNKED + b"1\r\nx\r\n" * 1_000)
    _, body = await client.connection.read()
    for _ in range(5):
        body.read_nowait(1)
    assert body.total_bytes <= ELEMENTS_PER_TURN


async def test_closed_connection_leaves_queue(queue: ReadQueue) -> None:
    client, other = Client(queue), Client(queue)
    client.receive(CHUNKED + b"1\r\nx\r\n" * 1_000)
    _, body = await client.connection.read()
    client.connection.close()
    other.receive(CHUNKED + b"1\r\nx\r\n" * 100 + b"0\r\n\r\n")
    assert await (await other.body()) == b"x" * 100
    assert body.total_bytes <= ELEMENTS_PER_TURN


async def test_bytes_received_before_end_of_connection_are_read(queue: ReadQueue) -> None:
    client = Client(queue)
    client.receive(CHUNKED + b"1\r\nx\r\n" * 1_000 + b"0\r\n\r\n")
    client.connection.connection_lost(None)
    _, body = await client.connection.read()
    assert await body.read() == b"x" * 1_000


async def test_unrequested_bytes_close_kept_connection(queue: ReadQueue) -> None:
    client = Client(queue)
    client.receive(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx")
    assert await (await client.body()) == b"x"
    assert [client.connection.should_close, client.transport.closed] == [False, False]
    client.receive(b"HTTP/1.1 200 OK\r\n\r\nwrong image")
    assert [client.connection.should_close, client.transport.closed] == [True, True]


async def test_invalid_response_closes_connection(queue: ReadQueue) -> None:
    client = Client(queue)
    client.receive(b"SSH-2.0-OpenSSH_9.6\r\n")
    assert client.transport.closed
    with pytest.raises(HttpProcessingError):
        await client.connection.read()
