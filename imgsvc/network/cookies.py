"""Keeps the cookies that redirects set, for the time of one download. No I/O."""

from __future__ import annotations

import aiohttp
from multidict import CIMultiDictProxy
from yarl import URL

MAX_COOKIES = 50
"""How many cookies of one response are kept. Browsers keep at least as many for a host."""
MAX_COOKIE_BYTES = 4 * 1024
"""The maximum size of a cookie with its attributes. Browsers have the same limit."""


class DownloadCookies:
    """The cookies of one download. Each goes back only to the host that has set it.

    Some hosts set a cookie, redirect to the same URL, and expect the cookie there.
    """

    def __init__(self) -> None:
        self._jars: dict[str, aiohttp.CookieJar] = {}

    def store(self, url: URL, headers: CIMultiDictProxy[str]) -> None:
        """Store the cookies of a response to `url`."""
        cookies = [
            cookie
            for cookie in headers.getall("Set-Cookie", ())[:MAX_COOKIES]
            if len(cookie) <= MAX_COOKIE_BYTES and cookie.isascii()
        ]
        if cookies:
            host = url.raw_host or ""
            if host not in self._jars:
                self._jars[host] = aiohttp.CookieJar(unsafe=True, quote_cookie=False)
            self._jars[host].update_cookies_from_headers(cookies, url)

    def headers(self, url: URL) -> dict[str, str]:
        """Return the header with the cookies for a request to `url`, or no header."""
        jar = self._jars.get(url.raw_host or "")
        cookies = jar.filter_cookies(url).values() if jar is not None else ()
        text = "; ".join(f"{cookie.key}={cookie.coded_value}" for cookie in cookies)
        return {"Cookie": text} if text else {}
