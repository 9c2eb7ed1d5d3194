"""No denied address is ever connected to. A canary listens on two, and must get no connection."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
import threading
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from subprocess import run

import pytest
from aiohttp import DummyCookieJar

from imgsvc.config import FetchConfig
from imgsvc.errors import ImageError
from imgsvc.network.addresses import AddressRules
from imgsvc.network.byte_budget import ByteBudget
from imgsvc.network.fetch import Fetcher
from imgsvc.network.session import MAX_ADDRESSES_PER_NAME, Lookup, Resolver, look_up, open_session
from tests.raw_origin import http_response, raw_origin, redirect

ALLOWED = "127.0.0.1/32"


class Canary:
    """Listens on the denied addresses 127.0.0.2 and ::1, and records the connections."""

    def __init__(self) -> None:
        self.connections: list[str] = []
        self._sockets = [socket.create_server(("127.0.0.2", 0))]
        self.port = self._sockets[0].getsockname()[1]
        self._sockets.append(socket.create_server(("::1", self.port), family=socket.AF_INET6))
        for listener in self._sockets:
            threading.Thread(target=self._listen, args=(listener,), daemon=True).start()

    def _listen(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, peer = listener.accept()
            except OSError:
                return
            self.connections.append(str(peer))
            connection.close()

    def close(self) -> None:
        for listener in self._sockets:
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()


@pytest.fixture(scope="module", name="canary")
def _canary() -> Iterator[Canary]:
    """Yield the canary of all tests in this file, after a check that it records connections."""
    canary = Canary()
    with socket.create_connection(("127.0.0.2", canary.port)):
        pass
    with socket.create_connection(("::1", canary.port)):
        pass
    deadline = time.monotonic() + 10
    while len(canary.connections) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(canary.connections) == 2, "the canary must record connections"
    canary.connections.clear()
    yield canary
    canary.close()


@pytest.fixture(autouse=True)
def assert_canary_has_no_connections(canary: Canary) -> Iterator[None]:
    yield
    assert canary.connections == []


@asynccontextmanager
async def open_fetcher(
    lookup: Lookup | None = None, *, proxy: str = "", allowed: tuple[str, ...] = (ALLOWED,)
) -> AsyncIterator[Fetcher]:
    config = FetchConfig(
        allowed_networks=allowed,
        proxy=proxy,
        connect_seconds=5,
        timeout_seconds=10,
        read_timeout_seconds=5,
    )
    rules = AddressRules(config.allowed_networks)
    async with open_session(config, rules, lookup=lookup) as session:
        yield Fetcher(session, config, ByteBudget(2**20))


async def fetch(url: str, lookup: Lookup | None = None, proxy: str = "") -> bytes:
    async with open_fetcher(lookup, proxy=proxy) as fetcher, fetcher.fetch(url) as body:
        assert body is not None
        return body.data


async def fetch_error(url: str, lookup: Lookup | None = None, proxy: str = "") -> ImageError:
    with pytest.raises(ImageError) as caught:
        await fetch(url, lookup, proxy)
    return caught.value


def lookup_table(**addresses: list[str]) -> Lookup:
    """Return a lookup that finds these addresses by the first label of the host name."""

    def lookup(host: str, port: int) -> list[str]:
        return addresses[host.split(".", maxsplit=1)[0]]

    return lookup


# --- every notation --------------------------------------------------------------------------

NUMBER = int(ipaddress.IPv4Address("127.0.0.2"))
NOTATIONS = [
    "127.0.0.2",
    "127.0.2",
    "127.2",
    str(NUMBER),
    hex(NUMBER),
    "017700000002",
    "0x7f.0.0.2",
    "0x7f.2",
    "0177.0.0.02",
    "127.0.0.2.",
    "①②⑦.⓪.⓪.②",
    "１２７.０.０.２",
    "127。0。0。2",
    "%31%32%37.0.0.2",
    "[::1]",
    "[0:0:0:0:0:0:0:1]",
    "[::ffff:127.0.0.2]",
    "[::ffff:7f00:2]",
    "[::127.0.0.2]",
    "[::ffff:0:127.0.0.2]",
    "[64:ff9b::127.0.0.2]",
    "[2002:7f00:2::1]",
    "[::1%lo]",
    "[::1%25lo]",
    "[fe80::1%25lo]",
    "localhost.",
    "[::]",
    "0",
    "[v1.127:0]",
]


@pytest.mark.parametrize("host", NOTATIONS)
@pytest.mark.parametrize("via", ["directly", "by redirect", "by name"])
async def test_denied_address_is_not_connected_to_in_any_notation(
    host: str, via: str, canary: Canary
) -> None:
    url = f"http://{host}:{canary.port}/a.jpg"
    if via == "by redirect":
        async with raw_origin(redirect(url)) as origin:
            error = await fetch_error(origin.base)
    elif via == "by name":
        error = await fetch_error(
            f"http://public.example:{canary.port}/", lookup_table(public=[host.strip("[]")])
        )
    else:
        error = await fetch_error(url)
    assert error.code in {"blocked_address", "invalid_url", "dns_failure"}
    if host in {"127.0.0.2", "[::1]", "[::ffff:127.0.0.2]", "[::1%lo]"} and via != "by redirect":
        assert error.code == "blocked_address"


async def test_allowed_address_is_connected_to() -> None:
    async with raw_origin(http_response(b"x")) as origin:
        assert await fetch(origin.base) == b"x"


async def test_blocked_address_message_names_setting_and_no_address(canary: Canary) -> None:
    error = await fetch_error(
        f"http://intern.example:{canary.port}/", lookup_table(intern=["127.0.0.2"])
    )
    assert error.code == "blocked_address"
    assert error.message.startswith("Private address.")
    assert "fetch.allowed_networks" in error.message
    assert "127" not in error.message


@pytest.mark.parametrize(
    "found", [["127.0.0.2"], ["127.0.0.2", "::1"], ["::1"], ["::1", "::ffff:127.0.0.2"] * 10]
)
async def test_name_with_only_denied_addresses_is_blocked(found: list[str], canary: Canary) -> None:
    error = await fetch_error(f"http://name.example:{canary.port}/", lookup_table(name=found))
    assert error.code == "blocked_address"


@pytest.mark.parametrize("found", [["127.0.0.2", "127.0.0.1"], ["::1", "127.0.0.2", "127.0.0.1"]])
async def test_name_with_allowed_and_denied_addresses_connects_to_allowed_only(
    found: list[str],
) -> None:
    async with raw_origin(http_response(b"x")) as origin:
        url = f"http://name.example:{origin.port}/"
        assert await fetch(url, lookup_table(name=found)) == b"x"


async def test_denied_address_is_not_tried_when_allowed_address_refuses_connection(
    canary: Canary,
) -> None:
    url = f"http://name.example:{canary.port}/"  # no server listens on this port of 127.0.0.1
    error = await fetch_error(url, lookup_table(name=["127.0.0.1", "127.0.0.2", "::1"]))
    assert error.code == "connect_failed"


async def test_address_is_checked_at_every_connection_to_a_name(canary: Canary) -> None:
    results = [["127.0.0.1"], ["127.0.0.2"]]

    def rebinding(host: str, port: int) -> list[str]:
        return results.pop(0)

    async with raw_origin(http_response(b"x")) as origin, open_fetcher(rebinding) as fetcher:
        async with fetcher.fetch(f"http://evil.example:{origin.port}/"):
            pass
        with pytest.raises(ImageError, match="blocked_address"):
            async with fetcher.fetch(f"http://evil.example:{canary.port}/"):
                pass


async def test_address_is_checked_at_every_redirect(canary: Canary) -> None:
    async with raw_origin(redirect(f"http://127.0.0.2:{canary.port}/")) as second:
        async with raw_origin(redirect(second.base)) as first:
            error = await fetch_error(first.base)
        assert len(second.heads) == 1
    assert error.code == "blocked_address"
    assert error.redirected


# --- names -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    ["does-not-exist.invalid", "a..b", f"{'x' * 70}.example", f"{'x.' * 150}example", "-", "_._"],
)
async def test_unknown_or_invalid_name_fails(host: str) -> None:
    error = await fetch_error(f"http://{host}/")
    assert error.code in {"dns_failure", "invalid_url"}


async def test_dns_failure_message_distinguishes_unknown_name_from_temporary_failure() -> None:
    def failing(number: int) -> Lookup:
        def lookup(host: str, port: int) -> list[str]:
            raise socket.gaierror(number, "x")

        return lookup

    url = "http://name.example/"
    error = await fetch_error(url, failing(socket.EAI_NONAME))
    assert (error.code, error.message) == ("dns_failure", "Cannot find name.example.")
    error = await fetch_error(url, failing(socket.EAI_AGAIN))
    assert (error.code, error.message) == (
        "dns_failure",
        "Cannot look up name.example at the moment.",
    )
    assert (await fetch_error(url, lookup_table(name=[]))).code == "dns_failure"


def raising(host: str, port: int) -> list[str]:
    raise RuntimeError("a bug")


async def test_exception_in_lookup_is_dns_failure() -> None:
    assert (await fetch_error("http://name.example/", raising)).code == "dns_failure"


async def test_hanging_lookups_are_limited_and_do_not_delay_others() -> None:
    hang, active, peak = threading.Event(), 0, 0
    lock = threading.Lock()

    def lookup(host: str, port: int) -> list[str]:
        nonlocal active, peak
        if host.startswith("dead"):
            with lock:
                active += 1
                peak = max(peak, active)
            hang.wait(30)
            with lock:
                active -= 1
        return ["127.0.0.1"]

    resolver = Resolver(AddressRules([ALLOWED]), lookup, threads=4)
    dead = [asyncio.create_task(resolver.resolve(f"dead{n}.example")) for n in range(3)]
    async with asyncio.timeout(10):
        assert (await resolver.resolve("live.example", 80))[0]["host"] == "127.0.0.1"
    dead += [asyncio.create_task(resolver.resolve(f"dead{n}.example")) for n in range(3, 20)]
    await asyncio.sleep(0.1)
    hang.set()
    await asyncio.gather(*dead)
    assert 3 <= peak <= 4


async def test_resolver_limits_addresses_per_name() -> None:
    found = [f"127.0.0.{n}" for n in range(1, 100)] * 2
    resolver = Resolver(AddressRules(["127.0.0.0/8"]), lookup_table(name=found), threads=1)
    hosts = [entry["host"] for entry in await resolver.resolve("name.example", 80)]
    assert hosts == found[:MAX_ADDRESSES_PER_NAME]


def test_look_up_finds_loopback_and_raises_for_invalid_name() -> None:
    assert set(look_up("localhost", 80)) <= {"127.0.0.1", "::1"}
    with pytest.raises(socket.gaierror):
        look_up("a" * 64 + ".example", 80)


# --- the session -----------------------------------------------------------------------------


async def test_proxy_variables_of_environment_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    async with (
        raw_origin(http_response(b"proxied")) as proxy,
        raw_origin(http_response(b"direct")) as origin,
    ):
        for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.base)
        assert await fetch(origin.base) == b"direct"


async def test_session_keeps_no_cookies() -> None:
    config = FetchConfig()
    async with open_session(config, AddressRules()) as session:
        assert isinstance(session.cookie_jar, DummyCookieJar)


async def test_closing_session_does_not_wait_for_hanging_lookup() -> None:
    hang = threading.Event()

    def lookup(host: str, port: int) -> list[str]:
        hang.wait(60)
        return []

    async with asyncio.timeout(10):
        async with open_fetcher(lookup) as fetcher:

            async def get() -> None:
                async with fetcher.fetch("http://dead.example/"):
                    pass

            task = asyncio.create_task(get())
            await asyncio.sleep(0.05)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    hang.set()


# --- through a proxy -------------------------------------------------------------------------


async def test_proxy_gets_every_request_and_its_address_is_not_checked() -> None:
    async with raw_origin(http_response(b"by proxy"), "127.0.0.3") as proxy:
        data = await fetch("http://name.example/a?", lookup_table(name=["8.8.8.8"]), proxy.base)
        assert data == b"by proxy"
        assert proxy.targets == ["http://name.example/a?"]


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_proxy_gets_credentials_of_its_url(scheme: str) -> None:
    async with raw_origin(http_response(b"", status="403 No")) as proxy:
        with_credentials = FetchConfig(proxy=proxy.base.replace("//", "//user:p%40ss@")).proxy
        with suppress(ImageError):
            await fetch(
                f"{scheme}://name.example/", lookup_table(name=["8.8.8.8"]), with_credentials
            )
        (head,) = proxy.heads
    assert f"Proxy-Authorization: Basic {b64encode(b'user:p@ss').decode()}" in head


@pytest.mark.parametrize(
    "host", ["127.0.0.2", "[::1]", "2130706434", "0x7f.2", "[::ffff:127.0.0.2]", "inner.example"]
)
async def test_denied_target_is_not_requested_from_proxy(host: str) -> None:
    def lookup(host: str, port: int) -> list[str]:
        return ["8.8.8.8", "10.0.0.1"] if host == "inner.example" else look_up(host, port)

    async with raw_origin(http_response(b"by proxy")) as proxy:
        for url in (f"http://{host}/", f"https://{host}/"):
            error = await fetch_error(url, lookup, proxy.base)
            assert error.code in {"blocked_address", "invalid_url"}
        assert proxy.heads == []


async def test_name_that_only_proxy_can_resolve_is_left_to_proxy() -> None:
    def unknown(host: str, port: int) -> list[str]:
        if host == "name.example":
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return look_up(host, port)

    async with raw_origin(http_response(b"by proxy")) as proxy:
        assert await fetch("http://name.example/", unknown, proxy.base) == b"by proxy"


async def test_proxy_without_address_is_not_named_in_error() -> None:
    def lookup(host: str, port: int) -> list[str]:
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    error = await fetch_error("http://shop.example/", lookup, "http://proxy-internal.example:3128")
    assert (error.code, error.message) == ("dns_failure", "The proxy cannot be found.")


async def test_proxy_failure_message_names_proxy() -> None:
    lookup = lookup_table(name=["8.8.8.8"])
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{unused.getsockname()[1]}"
        error = await fetch_error("http://name.example/", lookup, dead)
    assert (error.code, error.message) == ("connect_failed", "The proxy cannot be reached.")
    async with raw_origin(http_response(b"", status="403 No")) as proxy:
        error = await fetch_error("https://name.example/", lookup, proxy.base)
    assert (error.code, error.message) == ("connect_failed", "The proxy returned 403 Forbidden.")


# --- TLS -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file with a self-signed certificate and its key."""
    file: Path = tmp_path_factory.mktemp("tls") / "certificate.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    subject = ["-subj", "/CN=shop", "-addext", "subjectAltName=DNS:shop"]
    files = ["-keyout", str(file.with_suffix(".key")), "-out", str(file)]
    run([*command.split(), *subject, *files], check=True, capture_output=True)
    file.write_text(file.read_text() + file.with_suffix(".key").read_text())
    return file


def server_context(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


async def test_self_signed_certificate_is_tls_error(certificate: Path) -> None:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda *_: None)  # the server's side of the failed handshake
    async with raw_origin(http_response(b"x"), tls=server_context(certificate)) as origin:
        error = await fetch_error(f"https://127.0.0.1:{origin.port}/")
    assert (error.code, error.message) == (
        "tls_error",
        "The host's certificate is not valid: self-signed certificate.",
    )


async def test_server_without_tls_is_tls_error() -> None:
    async with raw_origin(b"") as origin:

        async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            writer.close()

        server = await asyncio.start_server(plain, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        error = await fetch_error(f"https://127.0.0.1:{port}/")
        server.close()
        assert origin.heads == []
    assert error.code == "tls_error"
    assert error.message.startswith("Cannot open a secure connection to the host")


@pytest.mark.parametrize("trusted", [True, False])
async def test_body_is_complete_with_and_without_tls(certificate: Path, trusted: bool) -> None:
    """The sockets limit the bytes of each read. No data may be lost by that."""
    body = bytes(range(256)) * 8_000
    client = ssl.create_default_context(cafile=str(certificate)) if trusted else None
    server = server_context(certificate) if trusted else None
    config = FetchConfig(allowed_networks=(ALLOWED,))
    rules = AddressRules(config.allowed_networks)
    async with (
        raw_origin(http_response(body), tls=server) as origin,
        open_session(config, rules, lookup=lookup_table(shop=["127.0.0.1"])) as session,
    ):
        url = f"{'https' if trusted else 'http'}://shop:{origin.port}/"
        async with session.get(url, ssl=client or True) as response:
            assert await response.read() == body
