"""API keys: in a header, or, for the page, in a cookie that was traded for one. Never in a URL."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Sequence

from aiohttp import web

from imgsvc.errors import ProblemCode, ProblemError
from imgsvc.web.origin_policy import OriginPolicy
from imgsvc.web.problems import HttpProblemError
from imgsvc.web.request_body import read_small

COOKIE = "imgsvc_session"
_SESSION_BYTES = 4_096
"""A body that asks for a session is at most this long."""


class ApiKeys:
    """Knows the API keys, and what may stand for one. Without any, every call is welcome."""

    def __init__(self, api_keys: Sequence[str]) -> None:
        self._keys = [key.encode() for key in api_keys]
        self._sessions = [_session(key) for key in self._keys]

    def __bool__(self) -> bool:
        return bool(self._keys)

    def check(self, request: web.Request) -> None:
        """Raise `ProblemError` unless the call carries a key, or a cookie that stands for one."""
        if self._keys and not self._fits(request):
            raise _unauthorized("Send one as `Authorization: Bearer KEY` or `X-API-Key: KEY`.")

    def session_for(self, key: str) -> str:
        """Give the cookie's value for a key; raise `ProblemError` where the key is none of ours.

        It is derived from the key: it is valid wherever the key is, for as long as the key is, and
        does not tell it.
        """
        given = _bytes(key)
        if not _one_of(given, self._keys):
            raise _unauthorized("This key is none of the service's.")
        return _session(given).decode()

    def _fits(self, request: web.Request) -> bool:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        given = [request.headers.get("X-API-Key", "")]
        if scheme.lower() == "bearer":
            given.append(token.strip())
        fits = _one_of(_bytes(request.cookies.get(COOKIE, "")), self._sessions)
        for key in given:
            fits |= _one_of(_bytes(key), self._keys)
        return fits


class SessionHandler:
    """Trades keys for cookies."""

    def __init__(self, keys: ApiKeys, origins: OriginPolicy) -> None:
        self._keys = keys
        self._origins = origins

    async def sign_in(self, request: web.Request) -> web.Response:
        """`POST /session`"""
        key = _key_in(await read_small(request, "application/json", _SESSION_BYTES))
        answer = web.Response(status=204)
        if self._keys:
            answer.set_cookie(
                COOKIE,
                self._keys.session_for(key),
                path=self._origins.path or "/",
                httponly=True,
                samesite="Strict",
                secure=self._origins.secure,
            )
        return answer

    async def sign_out(self, request: web.Request) -> web.Response:
        """`DELETE /session`"""
        answer = web.Response(status=204)
        answer.del_cookie(
            COOKIE,
            path=self._origins.path or "/",
            httponly=True,
            samesite="Strict",
            secure=self._origins.secure,
        )
        return answer


def _key_in(body: bytes) -> str:
    try:
        key = json.loads(body)["apiKey"]
    except (ValueError, TypeError, KeyError, RecursionError):
        key = None
    if not isinstance(key, str):
        raise ProblemError(ProblemCode.INVALID_BODY, 'The body must be JSON: {"apiKey": "KEY"}.')
    return key


def _session(key: bytes) -> bytes:
    return hmac.new(key, b"imgsvc session 1", hashlib.sha256).hexdigest().encode()


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _one_of(given: bytes, known: Sequence[bytes]) -> bool:
    """Compare with all, so that the time it takes tells nothing."""
    found = False
    for each in known:
        found |= hmac.compare_digest(given, each)
    return found


def _unauthorized(detail: str) -> ProblemError:
    return HttpProblemError(
        ProblemCode.UNAUTHORIZED,
        detail,
        headers={"WWW-Authenticate": 'Bearer realm="imgsvc"'},
    )
