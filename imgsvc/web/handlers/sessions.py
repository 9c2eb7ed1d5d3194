"""The session of the web page: `POST /session` and `DELETE /session`."""

from __future__ import annotations

import json

from aiohttp import web

from imgsvc.errors import ProblemCode, ProblemError
from imgsvc.web.http.api_keys import COOKIE, ApiKeys
from imgsvc.web.http.origin_policy import OriginPolicy
from imgsvc.web.http.request_body import read_small

_MAX_LOGIN_BYTES = 4_096
"""Maximum size of the body of `POST /session`."""


class SessionHandler:
    """Signs the web page in and out: sets and deletes the session cookie."""

    def __init__(self, keys: ApiKeys, origin_policy: OriginPolicy) -> None:
        self._keys = keys
        self._origin_policy = origin_policy

    async def sign_in(self, request: web.Request) -> web.Response:
        """`POST /session`"""
        key = _parse_login(await read_small(request, "application/json", _MAX_LOGIN_BYTES))
        response = web.Response(status=204)
        if self._keys:
            response.set_cookie(
                COOKIE,
                self._keys.session_for(key),
                path=self._origin_policy.path_prefix or "/",
                httponly=True,
                samesite="Strict",
                secure=self._origin_policy.secure,
            )
        return response

    async def sign_out(self, request: web.Request) -> web.Response:
        """`DELETE /session`"""
        response = web.Response(status=204)
        response.del_cookie(
            COOKIE,
            path=self._origin_policy.path_prefix or "/",
            httponly=True,
            samesite="Strict",
            secure=self._origin_policy.secure,
        )
        return response


def _parse_login(body: bytes) -> str:
    try:
        key = json.loads(body)["apiKey"]
    except (ValueError, TypeError, KeyError, RecursionError):
        key = None
    if not isinstance(key, str):
        raise ProblemError(ProblemCode.INVALID_BODY, 'The body must be JSON: {"apiKey": "KEY"}.')
    return key
