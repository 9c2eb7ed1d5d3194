"""The session of the web page: `/session`."""

from __future__ import annotations

import json

from aiohttp import web

from imgsvc.errors import ProblemCode, ProblemError
from imgsvc.web.http.api_keys import CALLER, Authentication
from imgsvc.web.http.origin_policy import OriginPolicy
from imgsvc.web.http.request_body import read_small
from imgsvc.web.schema.responses import json_response

_MAX_LOGIN_BYTES = 4_096
"""Maximum size of the body of `POST /session`."""


class SessionHandler:
    """Signs the web page in and out: sets and deletes the session cookie."""

    def __init__(self, authentication: Authentication, origin_policy: OriginPolicy) -> None:
        self._authentication = authentication
        self._origin_policy = origin_policy

    async def session(self, request: web.Request) -> web.Response:
        """`GET /session`"""
        request[CALLER] = caller = await self._authentication.caller(request)
        return json_response({"name": caller.name, "role": caller.role})

    async def sign_in(self, request: web.Request) -> web.Response:
        """`POST /session`"""
        key = _parse_login(await read_small(request, "application/json", _MAX_LOGIN_BYTES))
        response = web.Response(status=204)
        if self._authentication:
            response.set_cookie(
                self._authentication.cookie,
                await self._authentication.sign_in(request, key),
                path=self._origin_policy.path_prefix or "/",
                httponly=True,
                samesite="Strict",
                secure=self._origin_policy.secure,
            )
        return response

    async def sign_out(self, request: web.Request) -> web.Response:
        """`DELETE /session`"""
        await self._authentication.sign_out(request)
        response = web.Response(status=204)
        response.del_cookie(
            self._authentication.cookie,
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
