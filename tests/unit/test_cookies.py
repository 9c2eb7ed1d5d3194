"""Cookies go back only to the host that has set them."""

from __future__ import annotations

import pytest
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from imgsvc.network.cookies import MAX_COOKIE_BYTES, MAX_COOKIES, DownloadCookies


def stored(*set_cookies: str) -> DownloadCookies:
    """Return cookies that `https://a.shop.example/` has set."""
    cookies = DownloadCookies()
    headers = CIMultiDictProxy(CIMultiDict(("Set-Cookie", text) for text in set_cookies))
    cookies.store(URL("https://a.shop.example/"), headers)
    return cookies


@pytest.mark.parametrize("text", ["id=1", "id=1; Domain=shop.example; Path=/"])
async def test_cookie_is_sent_only_to_host_that_has_set_it(text: str) -> None:
    cookies = stored(text)
    assert cookies.headers(URL("https://a.shop.example/b")) == {"Cookie": "id=1"}
    for host in ("b.shop.example", "shop.example", "x.a.shop.example", "other.example"):
        assert cookies.headers(URL(f"https://{host}/")) == {}


async def test_cookie_of_other_domain_and_expired_cookie_are_not_kept() -> None:
    cookies = stored("id=1; Domain=other.example", "old=1", "old=; Max-Age=0", "path=1; Path=/b")
    assert cookies.headers(URL("https://a.shop.example/")) == {}
    assert cookies.headers(URL("https://a.shop.example/b")) == {"Cookie": "path=1"}


async def test_number_and_size_of_cookies_are_limited() -> None:
    cookies = stored("big=" + "v" * MAX_COOKIE_BYTES, *(f"c{number}=1" for number in range(100)))
    text = cookies.headers(URL("https://a.shop.example/"))["Cookie"]
    assert text.count("=") == MAX_COOKIES - 1
    assert "big" not in text
