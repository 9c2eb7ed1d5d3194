"""The HTTP client session for all outgoing requests. It connects only to allowed addresses."""

from __future__ import annotations

import asyncio
import errno
import functools
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from ipaddress import ip_address
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from imgsvc.config import FetchConfig
from imgsvc.network.addresses import AddressRules, BlockedAddressError
from imgsvc.network.connections import ReadQueue, ResponseConnection
from imgsvc.network.errors import NoResponseError, ProxyNotFoundError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer
    from aiohttp.client_proto import ResponseHandler

RECEIVE_BYTES = 64 * 1024
"""The maximum number of bytes read from a socket at once.

asyncio reads up to four times as much, and allocates that memory from the system for each read. For a
small image that takes longer than all parsing, and 64 bodies that wait for capacity hold 16 MiB more.
"""
BUFFER_BYTES = 32 * 1024
"""The read buffer of a body. aiohttp stops receiving when twice this many bytes are unread."""
CLIENT_KEEP_ALIVE_SECONDS = 4.0
"""How long an idle connection is kept. Common servers close it after 5 s, so this is shorter."""
DNS_CACHE_SECONDS = 60
"""How long the addresses of a name are cached."""
MAX_ADDRESSES_PER_NAME = 8
"""How many addresses of a name are tried, so that one name cannot cause many connections."""

Lookup = Callable[[str, int], list[str]]
"""A function from a name and a port to IP addresses. It blocks, and raises OSError."""


def open_session(
    config: FetchConfig, rules: AddressRules, *, lookup: Lookup | None = None
) -> aiohttp.ClientSession:
    """Return a session for all outgoing requests. The caller closes it.

    The session connects only to addresses that `rules` allow. Each address is checked at the moment
    of the connection. With a proxy, all connections go to the proxy, and the address of the proxy is
    not checked because the operator has chosen it. The address of the target is then checked as far
    as this machine can know it (see `ProxyTargetCheck`).

    The session keeps no cookies, ignores the proxy settings of the environment, and follows
    redirects only if a request enables them. `lookup` replaces the system's name resolution.
    """
    # A lookup that hangs occupies its thread longer than its image waits. So there are twice as many
    # threads as images.
    resolver = Resolver(rules, lookup or look_up, threads=min(2 * config.concurrency, 256))
    middlewares: list[aiohttp.ClientMiddlewareType] = [_no_implicit_retry]
    if config.proxy:
        middlewares.insert(0, ProxyTargetCheck(rules, resolver))
    trace = aiohttp.TraceConfig()
    trace.on_connection_reuseconn.append(_record_reuse)
    connector = _Connector(
        limit=0,
        resolver=resolver,
        ttl_dns_cache=DNS_CACHE_SECONDS,
        keepalive_timeout=CLIENT_KEEP_ALIVE_SECONDS,
        socket_factory=GuardedSocketFactory(None if config.proxy else rules),
    )
    return aiohttp.ClientSession(
        connector=connector,
        proxy=config.proxy or None,
        headers={"User-Agent": config.user_agent, "Accept-Encoding": "identity"},
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(
            connect=config.connect_seconds, sock_read=config.read_timeout_seconds
        ),
        requote_redirect_url=False,
        trust_env=False,
        read_bufsize=BUFFER_BYTES,
        auto_decompress=False,
        middlewares=middlewares,
        trace_configs=[trace],
    )


class _Connector(aiohttp.TCPConnector):
    """A connector whose connections read responses as browsers do.

    aiohttp's own parser rejects responses that browsers accept, and has no limit for the work that a
    host can cause. `_factory` is not public; `test_session_reads_responses_with_own_reader` checks it.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        queue = ReadQueue(self._loop)
        self._factory = cast(
            "functools.partial[ResponseHandler]",
            functools.partial(ResponseConnection, loop=self._loop, queue=queue),
        )


class ConnectionInfo:
    """The connection of one request. Pass it to the request as `trace_request_ctx`.

    `reused` is true if the connection has already served another request.
    """

    reused = False


class GuardedSocketFactory:
    """Creates the sockets of the session, and checks the address of each connection.

    Raise `BlockedAddressError` for an address that the rules deny. Without rules all are allowed.
    """

    def __init__(self, rules: AddressRules | None) -> None:
        self._rules = rules

    def __call__(self, address: aiohttp.AddrInfoType) -> socket.socket:
        """Return a socket for the address. Raise `BlockedAddressError` if it is not allowed."""
        family, kind, protocol, _, socket_address = address
        if self._rules is not None:
            self._rules.check(str(socket_address[0]), int(socket_address[1]))
        return _Socket(family=family, type=kind, proto=protocol)


class _Socket(socket.socket):
    """A socket that returns at most `RECEIVE_BYTES` for each read."""

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        return super().recv(min(bufsize, RECEIVE_BYTES), flags)

    def recv_into(self, buffer: WriteableBuffer, nbytes: int = 0, flags: int = 0) -> int:
        count = nbytes or memoryview(buffer).nbytes
        return super().recv_into(buffer, min(count, RECEIVE_BYTES), flags)


def look_up(host: str, port: int) -> list[str]:
    """Return the addresses of a name from the system's resolver, in the order of preference.

    This function blocks. Raise `socket.gaierror` if the name cannot be resolved, or another `OSError`
    if this machine has no descriptors or memory for that.
    """
    try:
        found = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=getattr(socket, "AI_ADDRCONFIG", 0)
        )
    except socket.gaierror:
        _check_resources()
        raise
    except UnicodeError:  # a label is too long or empty, so the name cannot exist
        raise socket.gaierror(socket.EAI_NONAME, "not a host name") from None
    return [str(socket_address[0]) for _, _, _, _, socket_address in found]


def _check_resources() -> None:
    """Raise `OSError` if this process can open no socket. The resolver reports a dead name then."""
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).close()


class Resolver(AbstractResolver):
    """Resolves names, each in its own daemon thread, at most `threads` at once.

    A thread pool is not used because the interpreter waits for its threads before it exits, and a
    name server that does not respond blocks a thread for half a minute.

    Denied addresses are left out if the name has allowed addresses too. Otherwise they are returned,
    and `GuardedSocketFactory` denies them.
    """

    def __init__(self, rules: AddressRules, lookup: Lookup, *, threads: int) -> None:
        self._rules = rules
        self._lookup = lookup
        self._free_threads = asyncio.Semaphore(threads)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the addresses of a name to connect to. Raise OSError if it has none."""
        found = [*dict.fromkeys(await self.addresses(host, port))]
        allowed = [address for address in found if self._rules.allows(address, port)]
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=socket.IPPROTO_TCP,
                flags=socket.AI_NUMERICHOST,
            )
            for address in (allowed or found)[:MAX_ADDRESSES_PER_NAME]
        ]

    async def addresses(self, host: str, port: int) -> list[str]:
        """Return all addresses of a name, without checking them. Raise OSError if it has none."""
        loop = asyncio.get_running_loop()
        result: asyncio.Future[list[str]] = loop.create_future()

        def set_result(found: list[str], error: OSError | None) -> None:
            self._free_threads.release()
            if result.cancelled():
                return
            if error is None and not found:
                error = socket.gaierror(socket.EAI_NONAME, "no address")
            if error is not None:
                result.set_exception(error)
            else:
                result.set_result(found)

        def run_lookup() -> None:
            found: list[str] = []
            failure: OSError | None = None
            try:
                found = self._lookup(host, port)
            except OSError as error:
                failure = error
            except Exception as error:  # noqa: BLE001 - the caller waits for a result
                failure = socket.gaierror(socket.EAI_FAIL, str(error))
            with suppress(RuntimeError):  # the loop is closed, so no caller waits
                loop.call_soon_threadsafe(set_result, found, failure)

        await self._free_threads.acquire()
        try:
            threading.Thread(target=run_lookup, name=f"look up {host}", daemon=True).start()
        except RuntimeError:
            self._free_threads.release()
            raise OSError(errno.ENOMEM, "cannot start a thread for the lookup") from None
        return await result

    async def close(self) -> None:
        """Do nothing. Lookups that hang end without help and do not block the exit."""


async def _record_reuse(
    _session: aiohttp.ClientSession,
    context: SimpleNamespace,
    _params: aiohttp.TraceConnectionReuseconnParams,
) -> None:
    connection = context.trace_request_ctx
    if isinstance(connection, ConnectionInfo):
        connection.reused = True


async def _no_implicit_retry(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Raise `NoResponseError` if the connection ends without a response.

    aiohttp would otherwise send the request again at once. The service counts its attempts and
    waits between them. Raise `ProxyNotFoundError` if the name that cannot be resolved is the proxy's.
    """
    try:
        return await handler(request)
    except aiohttp.ClientConnectorDNSError as error:
        if request.proxy is not None:
            raise ProxyNotFoundError from error
        raise
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
        raise NoResponseError from error


class ProxyTargetCheck:
    """Checks the targets of requests that go through a proxy.

    An IP address in the URL is checked against the rules in every notation. A name is resolved on this
    machine, and denied if any of its addresses is. A name that this machine cannot resolve is left to
    the proxy. The proxy resolves every name again, and its result is not visible here, so the proxy
    should have its own rules.
    """

    def __init__(self, rules: AddressRules, resolver: Resolver) -> None:
        self._rules = rules
        self._resolver = resolver

    async def __call__(
        self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        """Check the target and send the request. This is a middleware of aiohttp."""
        await self._check(request.url)
        return await handler(request)

    async def _check(self, url: URL) -> None:
        host, port = url.raw_host or "", url.port or 0
        if _is_address(host):
            self._rules.check(host, port)
            return
        try:
            found = await self._resolver.addresses(host, port)
        except BlockedAddressError:
            raise
        except OSError:
            return
        for address in found:
            self._rules.check(address, port)


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return ":" in host
    return True
