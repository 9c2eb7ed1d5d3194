"""A client session that dials only what the address rules allow, and says honestly who it is."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from ipaddress import ip_address
from types import SimpleNamespace
from typing import TYPE_CHECKING

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from imgsvc.config import FetchConfig
from imgsvc.network.addresses import AddressRules, BlockedAddressError
from imgsvc.network.errors import NoResponseError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

RECEIVE_BYTES = 64 * 1024
"""How much is taken from a socket at once. asyncio asks for four times as much, memory for which comes
from the system and goes back to it each time: that costs a small image more than all its parsing, and
64 bodies that wait for room 16 MiB more."""
BUFFER_BYTES = 32 * 1024
"""aiohttp stops receiving when twice this much of a body waits to be read."""
HEADER_BYTES = 16 * 1024
"""The longest header, or status line, that is taken from a server; and at most this many headers:"""
HEADERS = 128
KEEP_ALIVE_SECONDS = 4.0
"""Less than the 5 s after which common servers hang up, so that we are not surprised by it."""
DNS_CACHE_SECONDS = 60
ADDRESSES_PER_NAME = 8
"""Of more addresses than this only the first are tried: a name is not to make us dial a hundred."""

Lookup = Callable[[str, int], list[str]]
"""Name and port → addresses. Blocks; raises OSError."""


def open_session(
    config: FetchConfig, rules: AddressRules, *, lookup: Lookup | None = None
) -> aiohttp.ClientSession:
    """Open a session for everything that leaves the machine; the caller closes it.

    It dials no address that `rules` forbid: each is judged at the very moment it is dialled. With a
    proxy configured every connection goes to the proxy, whose own address is the operator's choice;
    the target's address is then judged as far as it can be from here (`ProxyTargetCheck`). It keeps no
    cookies, reads no environment, and follows redirects only if told to. `lookup` replaces the
    system's name resolution.
    """
    # Names that hang keep their thread longer than their image waits: twice as many as images.
    resolver = Resolver(rules, lookup or look_up, threads=min(2 * config.concurrency, 256))
    middlewares: list[aiohttp.ClientMiddlewareType] = [_no_implicit_retry]
    if config.proxy:
        middlewares.insert(0, ProxyTargetCheck(rules, resolver))
    trace = aiohttp.TraceConfig()
    trace.on_connection_reuseconn.append(_record_reuse)
    connector = aiohttp.TCPConnector(
        limit=0,
        resolver=resolver,
        ttl_dns_cache=DNS_CACHE_SECONDS,
        keepalive_timeout=KEEP_ALIVE_SECONDS,
        socket_factory=GuardedSocketFactory(None if config.proxy else rules),
    )
    return aiohttp.ClientSession(
        connector=connector,
        proxy=config.proxy or None,
        headers={
            "User-Agent": config.user_agent,
            "Accept": "image/*",
            "Accept-Encoding": "identity",
        },
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(
            connect=config.connect_seconds, sock_read=config.idle_seconds
        ),
        requote_redirect_url=False,
        trust_env=False,
        read_bufsize=BUFFER_BYTES,
        max_line_size=HEADER_BYTES,
        max_field_size=HEADER_BYTES,
        max_headers=HEADERS,
        middlewares=middlewares,
        trace_configs=[trace],
    )


class Connection:
    """How one request reached its server, for those who pass it as its `trace_request_ctx`.

    `kept` tells whether the connection had served another request before.
    """

    kept = False


class GuardedSocketFactory:
    """Makes the sockets, and so sees every address that is really dialled, whoever named it."""

    def __init__(self, rules: AddressRules | None) -> None:
        self._rules = rules

    def __call__(self, address: aiohttp.AddrInfoType) -> socket.socket:
        family, kind, protocol, _, where = address
        if self._rules is not None:
            self._rules.check(str(where[0]))
        return _Socket(family=family, type=kind, proto=protocol)


class _Socket(socket.socket):
    """A socket that gives `RECEIVE_BYTES` at a time, however much it is asked for."""

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        return super().recv(min(bufsize, RECEIVE_BYTES), flags)

    def recv_into(self, buffer: WriteableBuffer, nbytes: int = 0, flags: int = 0) -> int:
        count = nbytes or memoryview(buffer).nbytes
        return super().recv_into(buffer, min(count, RECEIVE_BYTES), flags)


def look_up(host: str, port: int) -> list[str]:
    """Ask the system for a name's addresses, best first. Blocks; raises `socket.gaierror`."""
    try:
        found = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=getattr(socket, "AI_ADDRCONFIG", 0)
        )
    except UnicodeError:  # a label too long or empty: no such name can be
        raise socket.gaierror(socket.EAI_NONAME, "not a host name") from None
    return [str(where[0]) for _, _, _, _, where in found]


class Resolver(AbstractResolver):
    """Looks names up, each in a thread of its own, at most `threads` at once.

    A pool of threads would do, but the interpreter waits for a pool's threads before it exits, and a
    dead name server holds one for half a minute. Forbidden addresses are left out where a name has
    others too; where it has no others they stay, for the guard to refuse.
    """

    def __init__(self, rules: AddressRules, lookup: Lookup, *, threads: int) -> None:
        self._rules = rules
        self._lookup = lookup
        self._room = asyncio.Semaphore(threads)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Give the addresses of a name. Raises OSError where it has none."""
        found = [*dict.fromkeys(await self.addresses(host, port))]
        allowed = [address for address in found if self._rules.allows(address)]
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=socket.IPPROTO_TCP,
                flags=socket.AI_NUMERICHOST,
            )
            for address in (allowed or found)[:ADDRESSES_PER_NAME]
        ]

    async def addresses(self, host: str, port: int) -> list[str]:
        """Give all addresses of a name, unjudged. Raises OSError where it has none."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[list[str]] = loop.create_future()

        def tell(found: list[str], error: OSError | None) -> None:
            self._room.release()
            if answer.cancelled():
                return
            if error is None and not found:
                error = socket.gaierror(socket.EAI_NONAME, "no address")
            if error is not None:
                answer.set_exception(error)
            else:
                answer.set_result(found)

        def look() -> None:
            found: list[str] = []
            failure: OSError | None = None
            try:
                found = self._lookup(host, port)
            except OSError as error:
                failure = error
            except Exception as error:  # noqa: BLE001 - whatever it is, somebody waits for the end
                failure = socket.gaierror(socket.EAI_FAIL, str(error))
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(tell, found, failure)

        await self._room.acquire()
        try:
            threading.Thread(target=look, name=f"look up {host}", daemon=True).start()
        except RuntimeError:
            self._room.release()
            raise socket.gaierror(socket.EAI_AGAIN, "no thread to look it up") from None
        return await answer

    async def close(self) -> None:
        """Do nothing: lookups that hang end by themselves, and hold up nobody."""


async def _record_reuse(
    _session: aiohttp.ClientSession,
    context: SimpleNamespace,
    _params: aiohttp.TraceConnectionReuseconnParams,
) -> None:
    connection = context.trace_request_ctx
    if isinstance(connection, Connection):
        connection.kept = True


async def _no_implicit_retry(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Keep aiohttp from repeating at once what broke off without an answer: our attempts are counted,
    and have pauses between them.
    """
    try:
        return await handler(request)
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
        raise NoResponseError from error


class ProxyTargetCheck:
    """Judges the targets of requests that go through a proxy, which dials them in our place.

    An address in the URL, however it is spelled, is held against the rules. A name is looked up here:
    where one of its addresses is forbidden, so is the name. A name that cannot be looked up here is
    left to the proxy, and what the proxy finds when it looks again cannot be seen: a proxy is to have
    rules of its own.
    """

    def __init__(self, rules: AddressRules, resolver: Resolver) -> None:
        self._rules = rules
        self._resolver = resolver

    async def __call__(
        self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        await self._judge(request.url)
        return await handler(request)

    async def _judge(self, url: URL) -> None:
        host = url.raw_host or ""
        if _is_address(host):
            self._rules.check(host)
            return
        try:
            found = await self._resolver.addresses(host, url.port or 0)
        except BlockedAddressError:
            raise
        except OSError:
            return
        for address in found:
            self._rules.check(address)


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return ":" in host
    return True
