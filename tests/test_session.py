"""No forbidden address is ever dialled: a canary on one listens, and must hear nothing."""

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
from imgsvc.network.session import ADDRESSES_PER_NAME, Lookup, Resolver, look_up, open_session
from tests.raw_origin import answer, raw_origin, redirect

ALLOWED = "127.0.0.1/32"


class Canary:
    """Listens where nothing may come: on 127.0.0.2 and ::1, and says which connections came."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self._sockets = [socket.create_server(("127.0.0.2", 0))]
        self.port = self._sockets[0].getsockname()[1]
        self._sockets.append(socket.create_server(("::1", self.port), family=socket.AF_INET6))
        for one in self._sockets:
            threading.Thread(target=self._listen, args=(one,), daemon=True).start()

    def _listen(self, one: socket.socket) -> None:
        while True:
            try:
                connection, peer = one.accept()
            except OSError:
                return
            self.heard.append(str(peer))
            connection.close()

    def close(self) -> None:
        for one in self._sockets:
            one.shutdown(socket.SHUT_RDWR)
            one.close()


@pytest.fixture(scope="module")
def canary() -> Iterator[Canary]:
    """The canary of all tests of this file."""
    bird = Canary()
    with socket.create_connection(("127.0.0.2", bird.port)):
        pass
    with socket.create_connection(("::1", bird.port)):
        pass
    deadline = time.monotonic() + 10
    while len(bird.heard) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(bird.heard) == 2, "it hears well"
    bird.heard.clear()
    yield bird
    bird.close()


@pytest.fixture(autouse=True)
def nothing_reaches_the_canary(canary: Canary) -> Iterator[None]:
    yield
    assert canary.heard == []


@asynccontextmanager
async def fetcher(
    lookup: Lookup | None = None, *, proxy: str = "", allowed: tuple[str, ...] = (ALLOWED,)
) -> AsyncIterator[Fetcher]:
    config = FetchConfig(
        allowed_networks=allowed, proxy=proxy, connect_seconds=5, total_seconds=10, idle_seconds=5
    )
    rules = AddressRules(config.allowed_networks)
    async with open_session(config, rules, lookup=lookup) as session:
        yield Fetcher(session, config, ByteBudget(2**20))


async def fetch(url: str, lookup: Lookup | None = None, proxy: str = "") -> bytes:
    async with fetcher(lookup, proxy=proxy) as one, one.fetch(url) as body:
        return body.data


async def failure(url: str, lookup: Lookup | None = None, proxy: str = "") -> ImageError:
    with pytest.raises(ImageError) as caught:
        await fetch(url, lookup, proxy)
    return caught.value


def names(**addresses: list[str]) -> Lookup:
    def lookup(host: str, port: int) -> list[str]:
        return addresses[host.split(".", maxsplit=1)[0]]

    return lookup


# --- every spelling --------------------------------------------------------------------------

NUMBER = int(ipaddress.IPv4Address("127.0.0.2"))
SPELLINGS = [
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


@pytest.mark.parametrize("host", SPELLINGS)
@pytest.mark.parametrize("via", ["at once", "by redirect", "by name"])
async def test_no_spelling_of_a_forbidden_address_is_dialled(
    host: str, via: str, canary: Canary
) -> None:
    url = f"http://{host}:{canary.port}/a.jpg"
    if via == "by redirect":
        async with raw_origin(redirect(url)) as origin:
            error = await failure(origin.base)
    elif via == "by name":
        error = await failure(
            f"http://innocent.example:{canary.port}/", names(innocent=[host.strip("[]")])
        )
    else:
        error = await failure(url)
    assert error.code in {"blocked_address", "invalid_url", "dns_failure"}
    if host in {"127.0.0.2", "[::1]", "[::ffff:127.0.0.2]", "[::1%lo]"} and via != "by redirect":
        assert error.code == "blocked_address"


async def test_the_allowed_address_next_door_is_dialled() -> None:
    async with raw_origin(answer(b"x")) as origin:
        assert await fetch(origin.base) == b"x"


async def test_the_sentence_helps_and_gives_no_address_away(canary: Canary) -> None:
    error = await failure(f"http://intern.example:{canary.port}/", names(intern=["127.0.0.2"]))
    assert error.code == "blocked_address"
    assert "not on the public internet" in error.message
    assert "127" not in error.message


@pytest.mark.parametrize(
    "found", [["127.0.0.2"], ["127.0.0.2", "::1"], ["::1"], ["::1", "::ffff:127.0.0.2"] * 10]
)
async def test_a_name_with_forbidden_addresses_only_is_blocked(
    found: list[str], canary: Canary
) -> None:
    error = await failure(f"http://name.example:{canary.port}/", names(name=found))
    assert error.code == "blocked_address"


@pytest.mark.parametrize("found", [["127.0.0.2", "127.0.0.1"], ["::1", "127.0.0.2", "127.0.0.1"]])
async def test_of_a_name_with_both_only_the_allowed_address_is_dialled(found: list[str]) -> None:
    async with raw_origin(answer(b"x")) as origin:
        url = f"http://name.example:{origin.port}/"
        assert await fetch(url, names(name=found)) == b"x"


async def test_of_a_name_with_a_dead_allowed_address_no_forbidden_one_is_dialled(
    canary: Canary,
) -> None:
    url = f"http://name.example:{canary.port}/"  # nobody listens on 127.0.0.1 at this port
    error = await failure(url, names(name=["127.0.0.1", "127.0.0.2", "::1"]))
    assert error.code == "connect_failed"


async def test_a_name_that_changes_its_address_is_judged_each_time(canary: Canary) -> None:
    answers = [["127.0.0.1"], ["127.0.0.2"]]

    def rebinding(host: str, port: int) -> list[str]:
        return answers.pop(0)

    async with raw_origin(answer(b"x")) as origin, fetcher(rebinding) as one:
        async with one.fetch(f"http://evil.example:{origin.port}/"):
            pass
        with pytest.raises(ImageError, match="blocked_address"):
            async with one.fetch(f"http://evil.example:{canary.port}/"):
                pass


async def test_each_hop_is_judged(canary: Canary) -> None:
    async with raw_origin(redirect(f"http://127.0.0.2:{canary.port}/")) as second:
        async with raw_origin(redirect(second.base)) as first:
            error = await failure(first.base)
        assert len(second.heads) == 1
    assert error.code == "blocked_address"
    assert error.redirected


# --- names -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    ["does-not-exist.invalid", "a..b", f"{'x' * 70}.example", f"{'x.' * 150}example", "-", "_._"],
)
async def test_a_name_that_is_none(host: str) -> None:
    error = await failure(f"http://{host}/")
    assert error.code in {"dns_failure", "invalid_url"}


async def test_how_a_lookup_fails_is_said() -> None:
    def failing(number: int) -> Lookup:
        def lookup(host: str, port: int) -> list[str]:
            raise socket.gaierror(number, "x")

        return lookup

    url = "http://name.example/"
    error = await failure(url, failing(socket.EAI_NONAME))
    assert (error.code, error.message) == ("dns_failure", "there is no host of this name")
    error = await failure(url, failing(socket.EAI_AGAIN))
    assert (error.code, error.message) == (
        "dns_failure",
        "the host's name could not be looked up just now",
    )
    assert (await failure(url, names(name=[]))).code == "dns_failure"


def broken(host: str, port: int) -> list[str]:
    raise RuntimeError("a bug")


async def test_a_lookup_that_breaks_is_a_dns_failure() -> None:
    assert (await failure("http://name.example/", broken)).code == "dns_failure"


async def test_hanging_lookups_hold_up_no_others_and_are_few() -> None:
    hang, active, most = threading.Event(), 0, 0
    lock = threading.Lock()

    def lookup(host: str, port: int) -> list[str]:
        nonlocal active, most
        if host.startswith("dead"):
            with lock:
                active += 1
                most = max(most, active)
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
    assert 3 <= most <= 4


async def test_a_name_makes_us_dial_a_few_addresses_at_most() -> None:
    found = [f"127.0.0.{n}" for n in range(1, 100)] * 2
    resolver = Resolver(AddressRules(["127.0.0.0/8"]), names(name=found), threads=1)
    hosts = [entry["host"] for entry in await resolver.resolve("name.example", 80)]
    assert hosts == found[:ADDRESSES_PER_NAME]


def test_the_system_looks_up_loopback() -> None:
    assert set(look_up("localhost", 80)) <= {"127.0.0.1", "::1"}
    with pytest.raises(socket.gaierror):
        look_up("a" * 64 + ".example", 80)


# --- the session -----------------------------------------------------------------------------


async def test_the_environments_proxy_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async with raw_origin(answer(b"proxied")) as proxy, raw_origin(answer(b"direct")) as origin:
        for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.base)
        assert await fetch(origin.base) == b"direct"


async def test_it_keeps_no_cookies() -> None:
    config = FetchConfig()
    async with open_session(config, AddressRules()) as session:
        assert isinstance(session.cookie_jar, DummyCookieJar)


async def test_closing_it_does_not_wait_for_a_hanging_lookup() -> None:
    hang = threading.Event()

    def lookup(host: str, port: int) -> list[str]:
        hang.wait(60)
        return []

    async with asyncio.timeout(10):
        async with fetcher(lookup) as one:

            async def get() -> None:
                async with one.fetch("http://dead.example/"):
                    pass

            task = asyncio.create_task(get())
            await asyncio.sleep(0.05)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    hang.set()


# --- through a proxy -------------------------------------------------------------------------


async def test_a_configured_proxy_gets_every_request_wherever_it_is() -> None:
    async with raw_origin(answer(b"by proxy"), "127.0.0.3") as proxy:
        data = await fetch("http://name.example/a?", names(name=["8.8.8.8"]), proxy.base)
        assert data == b"by proxy"
        assert proxy.targets == ["http://name.example/a?"]


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_proxy_that_wants_a_name_and_a_password_gets_them(scheme: str) -> None:
    async with raw_origin(answer(b"", status="403 No")) as proxy:
        named = FetchConfig(proxy=proxy.base.replace("//", "//user:p%40ss@")).proxy
        with suppress(ImageError):
            await fetch(f"{scheme}://name.example/", names(name=["8.8.8.8"]), named)
        (head,) = proxy.heads
    assert f"Proxy-Authorization: Basic {b64encode(b'user:p@ss').decode()}" in head


@pytest.mark.parametrize(
    "host", ["127.0.0.2", "[::1]", "2130706434", "0x7f.2", "[::ffff:127.0.0.2]", "inner.example"]
)
async def test_what_may_not_be_reached_is_not_asked_of_the_proxy_either(host: str) -> None:
    def lookup(host: str, port: int) -> list[str]:
        return ["8.8.8.8", "10.0.0.1"] if host == "inner.example" else look_up(host, port)

    async with raw_origin(answer(b"by proxy")) as proxy:
        for url in (f"http://{host}/", f"https://{host}/"):
            error = await failure(url, lookup, proxy.base)
            assert error.code in {"blocked_address", "invalid_url"}
        assert proxy.heads == []


async def test_names_that_only_the_proxy_knows_are_left_to_it() -> None:
    def unknown(host: str, port: int) -> list[str]:
        if host == "name.example":
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return look_up(host, port)

    async with raw_origin(answer(b"by proxy")) as proxy:
        assert await fetch("http://name.example/", unknown, proxy.base) == b"by proxy"


async def test_a_proxy_that_fails_is_named() -> None:
    lookup = names(name=["8.8.8.8"])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{free.getsockname()[1]}"
        error = await failure("http://name.example/", lookup, dead)
    assert (error.code, error.message) == ("connect_failed", "the proxy cannot be reached")
    async with raw_origin(answer(b"", status="403 No")) as proxy:
        error = await failure("https://name.example/", lookup, proxy.base)
    assert (error.code, error.message) == ("connect_failed", "the proxy answered 403 Forbidden")


# --- TLS -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate that nobody vouches for, in one file with its key."""
    file: Path = tmp_path_factory.mktemp("tls") / "certificate.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    names = ["-subj", "/CN=shop", "-addext", "subjectAltName=DNS:shop"]
    files = ["-keyout", str(file.with_suffix(".key")), "-out", str(file)]
    run([*command.split(), *names, *files], check=True, capture_output=True)
    file.write_text(file.read_text() + file.with_suffix(".key").read_text())
    return file


def server_context(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


async def test_a_certificate_that_nobody_vouches_for(certificate: Path) -> None:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda *_: None)  # the server's side of the failed handshake
    async with raw_origin(answer(b"x"), tls=server_context(certificate)) as origin:
        error = await failure(f"https://127.0.0.1:{origin.port}/")
    assert (error.code, error.message) == (
        "tls_error",
        "the server's certificate is not valid: self-signed certificate",
    )


async def test_a_server_that_speaks_no_tls() -> None:
    async with raw_origin(b"") as origin:

        async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            writer.close()

        server = await asyncio.start_server(plain, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        error = await failure(f"https://127.0.0.1:{port}/")
        server.close()
        assert origin.heads == []
    assert error.code == "tls_error"
    assert error.message.startswith("no secure connection to the server")


@pytest.mark.parametrize("trusted", [True, False])
async def test_a_body_comes_whole_over_tls_and_without(certificate: Path, trusted: bool) -> None:
    """What the sockets give at a time is bounded, and that loses nothing."""
    body = bytes(range(256)) * 8_000
    client = ssl.create_default_context(cafile=str(certificate)) if trusted else None
    server = server_context(certificate) if trusted else None
    config = FetchConfig(allowed_networks=(ALLOWED,))
    rules = AddressRules(config.allowed_networks)
    async with (
        raw_origin(answer(body), tls=server) as origin,
        open_session(config, rules, lookup=names(harness=["127.0.0.1"])) as session,
    ):
        url = f"{'https' if trusted else 'http'}://shop:{origin.port}/"
        async with session.get(url, ssl=client or True) as response:
            assert await response.read() == body
