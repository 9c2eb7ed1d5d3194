"""API keys, and the cookie that stands for one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from http.cookies import SimpleCookie
from pathlib import Path

import pytest

from tests.site import Answer, Site, opened

KEYS = ["first-key", "second-key"]
JSON = {"Content-Type": "application/json"}
UNKNOWN = "0b5c1a52-7d0c-4c39-a2a5-67c7c7b5a2f1"
PROTECTED = [
    ("POST", "/processImages"),
    ("GET", f"/checkStatus/{UNKNOWN}"),
    ("HEAD", f"/checkStatus/{UNKNOWN}"),
    ("GET", f"/watchStatus/{UNKNOWN}"),
    ("GET", "/listRequests"),
    ("POST", f"/cancelRequest/{UNKNOWN}"),
    ("POST", f"/retryFailed/{UNKNOWN}"),
    ("DELETE", f"/deleteRequest/{UNKNOWN}"),
    ("GET", f"/downloadImages/{UNKNOWN}"),
    ("GET", "/metrics"),
]
PUBLIC = [
    "/health/live",
    "/health/ready",
    "/",
    "/static/app.js",
    "/docs",
    "/openapi.json",
    "/postman.json",
]


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with opened(tmp_path, server={"api_keys": KEYS}) as site:
        yield site


def cookie_of(answer: Answer) -> str:
    cookie = SimpleCookie(answer.headers["Set-Cookie"])
    return f"imgsvc_session={cookie['imgsvc_session'].value}"


async def sign_in(site: Site, key: str = KEYS[0]) -> Answer:
    return await site.post("/session", f'{{"apiKey": "{key}"}}'.encode(), JSON)


@pytest.mark.parametrize(("method", "path"), PROTECTED)
async def test_without_a_key_there_is_no_way_in(site: Site, method: str, path: str) -> None:
    answer = await site.call(method, path)
    assert answer.status == 401
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    if method != "HEAD":
        assert answer.problem()["type"] == "urn:imgsvc:problem:unauthorized"


@pytest.mark.parametrize("path", PUBLIC)
async def test_what_is_public_needs_no_key(site: Site, path: str) -> None:
    assert (await site.get(path)).status == 200


async def test_outputs_need_no_key(site: Site) -> None:
    assert (await site.get(f"/images/{'0' * 32}.jpg")).status == 404


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer first-key"},
        {"Authorization": "bearer  second-key"},
        {"X-API-Key": "second-key"},
        {"X-API-Key": "wrong", "Authorization": "Bearer first-key"},
    ],
)
async def test_a_key_that_fits(site: Site, headers: dict[str, str]) -> None:
    assert (await site.get("/listRequests", headers)).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer "},
        {"Authorization": "Bearer"},
        {"Authorization": "Basic first-key"},
        {"Authorization": "first-key"},
        {"X-API-Key": ""},
        {"X-API-Key": "first-ke"},
        {"X-API-Key": "first-key,second-key"},
        {"X-API-Key": "é"},
        {"Cookie": "imgsvc_session=first-key"},
        {"Cookie": "imgsvc_session="},
    ],
)
async def test_a_key_that_does_not_fit(site: Site, headers: dict[str, str]) -> None:
    assert (await site.get("/listRequests", headers)).status == 401


@pytest.mark.parametrize("query", ["apiKey", "api_key", "key", "X-API-Key", "access_token"])
async def test_a_key_in_a_url_is_none(site: Site, query: str) -> None:
    assert (await site.get(f"/listRequests?{query}=first-key")).status == 401


async def test_a_key_is_traded_for_a_cookie(site: Site) -> None:
    answer = await sign_in(site)
    assert answer.status == 204
    cookie = SimpleCookie(answer.headers["Set-Cookie"])["imgsvc_session"]
    assert cookie["httponly"]
    assert cookie["samesite"] == "Strict"
    assert cookie["path"] == "/"
    assert not cookie["secure"]
    assert "first-key" not in answer.headers["Set-Cookie"]
    headers = {"Cookie": cookie_of(answer)}
    assert (await site.get("/listRequests", headers)).status == 200
    assert (await site.get(f"/watchStatus/{UNKNOWN}", headers)).status == 404


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b'{"apiKey": "wrong"}', JSON, 401),
        (b'{"apiKey": ""}', JSON, 401),
        (b'{"apiKey": "\\ud800"}', JSON, 401),
        (b'{"apiKey": 1}', JSON, 400),
        (b'{"key": "first-key"}', JSON, 400),
        (b'"first-key"', JSON, 400),
        (b"[" * 4_000, JSON, 400),
        (b"\xff", JSON, 400),
        (b"", JSON, 400),
        (b'{"apiKey": "first-key"}', {"Content-Type": "text/plain"}, 415),
        (b'{"apiKey": "first-key"}', {"Content-Type": "text/plain; a*=idna''%ff"}, 415),
        (b" " * 5_000, JSON, 413),
    ],
)
async def test_what_gives_no_cookie(
    site: Site, body: bytes, headers: dict[str, str], status: int
) -> None:
    answer = await site.post("/session", body, headers)
    assert answer.status == status
    answer.problem()
    assert "Set-Cookie" not in answer.headers


async def test_signing_out(site: Site) -> None:
    answer = await site.call("DELETE", "/session")
    assert answer.status == 204
    cookie = SimpleCookie(answer.headers["Set-Cookie"])["imgsvc_session"]
    assert cookie.value == ""
    assert cookie["max-age"] == "0"


async def test_a_cookie_goes_with_its_key(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
    async with opened(tmp_path / "a", server={"api_keys": KEYS}) as site:
        cookies = {key: {"Cookie": cookie_of(await sign_in(site, key))} for key in KEYS}
        assert cookies[KEYS[0]] != cookies[KEYS[1]]
    async with opened(tmp_path / "b", server={"api_keys": KEYS[1:]}) as site:
        assert (await site.get("/listRequests", cookies[KEYS[0]])).status == 401
        assert (await site.get("/listRequests", cookies[KEYS[1]])).status == 200


async def test_the_cookie_of_a_public_url(tmp_path: Path) -> None:
    server = {"api_keys": KEYS, "public_url": "https://x.example/img"}
    async with opened(tmp_path, server=server) as site:
        cookie = SimpleCookie((await sign_in(site)).headers["Set-Cookie"])["imgsvc_session"]
        assert cookie["path"] == "/img"
        assert cookie["secure"]


async def test_without_keys_everything_is_open(tmp_path: Path) -> None:
    async with opened(tmp_path) as site:
        assert (await site.get("/listRequests")).status == 200
        answer = await sign_in(site)
        assert (answer.status, "Set-Cookie" in answer.headers) == (204, False)


async def test_all_keys_are_compared(
    site: Site, monkeypatch: pytest.MonkeyPatch, count: Callable[[], int]
) -> None:
    """The time it takes must not tell which key fits, nor how much of it."""
    for key in (KEYS[0], KEYS[1], "wrong"):
        before = count()
        await site.get("/listRequests", {"X-API-Key": key})
        assert count() - before == 2 * len(KEYS)


@pytest.fixture
def count(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    import hmac  # noqa: PLC0415

    calls = 0
    compare = hmac.compare_digest

    def counted(a: bytes, b: bytes) -> bool:
        nonlocal calls
        calls += 1
        return compare(a, b)

    monkeypatch.setattr("imgsvc.web.auth.hmac.compare_digest", counted)
    return lambda: calls
