"""API keys, and the cookie that stands for one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from http.cookies import SimpleCookie
from pathlib import Path

import pytest

from tests.http_harness import Answer, HttpHarness, open_http

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
async def http(tmp_path: Path) -> AsyncIterator[HttpHarness]:
    async with open_http(tmp_path, server={"api_keys": KEYS}) as http:
        yield http


def cookie_of(answer: Answer) -> str:
    cookie = SimpleCookie(answer.headers["Set-Cookie"])
    return f"imgsvc_session={cookie['imgsvc_session'].value}"


async def sign_in(http: HttpHarness, key: str = KEYS[0]) -> Answer:
    return await http.post("/session", f'{{"apiKey": "{key}"}}'.encode(), JSON)


@pytest.mark.parametrize(("method", "path"), PROTECTED)
async def test_without_a_key_there_is_no_way_in(http: HttpHarness, method: str, path: str) -> None:
    answer = await http.call(method, path)
    assert answer.status == 401
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    if method != "HEAD":
        assert answer.problem()["type"] == "urn:imgsvc:problem:unauthorized"


@pytest.mark.parametrize("path", PUBLIC)
async def test_what_is_public_needs_no_key(http: HttpHarness, path: str) -> None:
    assert (await http.get(path)).status == 200


async def test_outputs_need_no_key(http: HttpHarness) -> None:
    assert (await http.get(f"/images/{'0' * 32}.jpg")).status == 404


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer first-key"},
        {"Authorization": "bearer  second-key"},
        {"X-API-Key": "second-key"},
        {"X-API-Key": "wrong", "Authorization": "Bearer first-key"},
    ],
)
async def test_a_key_that_fits(http: HttpHarness, headers: dict[str, str]) -> None:
    assert (await http.get("/listRequests", headers)).status == 200


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
async def test_a_key_that_does_not_fit(http: HttpHarness, headers: dict[str, str]) -> None:
    assert (await http.get("/listRequests", headers)).status == 401


@pytest.mark.parametrize("query", ["apiKey", "api_key", "key", "X-API-Key", "access_token"])
async def test_a_key_in_a_url_is_none(http: HttpHarness, query: str) -> None:
    assert (await http.get(f"/listRequests?{query}=first-key")).status == 401


async def test_a_key_is_traded_for_a_cookie(http: HttpHarness) -> None:
    answer = await sign_in(http)
    assert answer.status == 204
    cookie = SimpleCookie(answer.headers["Set-Cookie"])["imgsvc_session"]
    assert cookie["httponly"]
    assert cookie["samesite"] == "Strict"
    assert cookie["path"] == "/"
    assert not cookie["secure"]
    assert "first-key" not in answer.headers["Set-Cookie"]
    headers = {"Cookie": cookie_of(answer)}
    assert (await http.get("/listRequests", headers)).status == 200
    assert (await http.get(f"/watchStatus/{UNKNOWN}", headers)).status == 404


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
    http: HttpHarness, body: bytes, headers: dict[str, str], status: int
) -> None:
    answer = await http.post("/session", body, headers)
    assert answer.status == status
    answer.problem()
    assert "Set-Cookie" not in answer.headers


async def test_signing_out(http: HttpHarness) -> None:
    answer = await http.call("DELETE", "/session")
    assert answer.status == 204
    cookie = SimpleCookie(answer.headers["Set-Cookie"])["imgsvc_session"]
    assert cookie.value == ""
    assert cookie["max-age"] == "0"


async def test_a_cookie_goes_with_its_key(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
    async with open_http(tmp_path / "a", server={"api_keys": KEYS}) as http:
        cookies = {key: {"Cookie": cookie_of(await sign_in(http, key))} for key in KEYS}
        assert cookies[KEYS[0]] != cookies[KEYS[1]]
    async with open_http(tmp_path / "b", server={"api_keys": KEYS[1:]}) as http:
        assert (await http.get("/listRequests", cookies[KEYS[0]])).status == 401
        assert (await http.get("/listRequests", cookies[KEYS[1]])).status == 200


async def test_the_cookie_of_a_public_url(tmp_path: Path) -> None:
    server = {"api_keys": KEYS, "public_url": "https://x.example/img"}
    async with open_http(tmp_path, server=server) as http:
        cookie = SimpleCookie((await sign_in(http)).headers["Set-Cookie"])["imgsvc_session"]
        assert cookie["path"] == "/img"
        assert cookie["secure"]


async def test_without_keys_everything_is_open(tmp_path: Path) -> None:
    async with open_http(tmp_path) as http:
        assert (await http.get("/listRequests")).status == 200
        answer = await sign_in(http)
        assert (answer.status, "Set-Cookie" in answer.headers) == (204, False)


async def test_all_keys_are_compared(
    http: HttpHarness, monkeypatch: pytest.MonkeyPatch, count: Callable[[], int]
) -> None:
    """The time it takes must not tell which key fits, nor how much of it."""
    for key in (KEYS[0], KEYS[1], "wrong"):
        before = count()
        await http.get("/listRequests", {"X-API-Key": key})
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
