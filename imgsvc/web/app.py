"""The aiohttp application: mounts the route table with its access rules, and the middlewares."""

from __future__ import annotations

from aiohttp import web
from aiohttp.typedefs import Middleware

from imgsvc.access import Role
from imgsvc.database.queries import Queries
from imgsvc.errors import ProblemCode, ProblemError
from imgsvc.web.context import AppContext
from imgsvc.web.handlers.health import HealthHandler
from imgsvc.web.http.access_log import access_log_middleware
from imgsvc.web.http.api_keys import CALLER, Authentication
from imgsvc.web.http.origin_policy import OriginPolicy
from imgsvc.web.http.problems import DOCS_PATH, Handler, HttpProblemError, problem_middleware
from imgsvc.web.http.request_body import defer_100_continue
from imgsvc.web.http.response_headers import response_headers_handler
from imgsvc.web.routes import ROUTES, Handlers
from imgsvc.web.schema.openapi import openapi_document
from imgsvc.web.schema.route import Route

LINGER_SECONDS = 30.0
"""Time a client may continue to send its body after an error response, before the connection closes."""
READ_BUFFER_BYTES = 32 * 1024
"""The read buffer of a body. aiohttp stops receiving when twice this many bytes are unread."""
MAX_SHOWN_PATH = 200
"""Characters of a path that an error message shows."""
MAX_REQUEST_LINE_BYTES = 32 * 1024
"""Maximum length of the request line. A percent-encoded `webhookUrl` of 8,192 characters fits."""
SERVER_KEEP_ALIVE_SECONDS = 75.0
"""Idle time after which a connection is closed. Longer than the keep-alive time of most proxies."""


def create_app(context: AppContext) -> web.Application:
    """Return the application. It starts no task, and does not close the components in `context`."""
    origin_policy = OriginPolicy(context.config.server)
    authentication = Authentication(
        context.config.server.all_keys,
        context.sessions,
        context.metrics.wrong_keys,
        origin_policy.cookie,
    )
    cookie = authentication.cookie if authentication else None
    handlers = Handlers(
        context,
        origin_policy,
        authentication,
        lambda: openapi_document(ROUTES, cookie=cookie),
    )
    app = web.Application(
        middlewares=[
            access_log_middleware,
            problem_middleware,
            _preflight_middleware(origin_policy),
        ],
        handler_args={
            "auto_decompress": False,
            "handler_cancellation": True,  # Stop working when the client disconnects.
            "keepalive_timeout": SERVER_KEEP_ALIVE_SECONDS,
            "lingering_time": LINGER_SECONDS,
            "max_line_size": MAX_REQUEST_LINE_BYTES,
            "read_bufsize": READ_BUFFER_BYTES,
        },
    )
    app[DOCS_PATH] = f"{origin_policy.path_prefix}/docs"
    app.on_response_prepare.append(response_headers_handler(origin_policy))
    access_control = _AccessControl(origin_policy, authentication, handlers.health, context.queries)
    # A proxy may or may not remove the path prefix.
    for prefix in dict.fromkeys([origin_policy.path_prefix, ""]):
        _add_routes(app, prefix, handlers, access_control)
    if origin_policy.path_prefix:
        app.router.add_get(
            origin_policy.path_prefix,
            access_control.public(_redirect_to_slash),
            expect_handler=defer_100_continue,
        )
    app.router.add_route(
        "*",
        "/{path:(?s:.*)}",
        access_control.public(_not_found),
        expect_handler=defer_100_continue,
    )
    return app


class _AccessControl:
    """Checks origin, caller, role and service state before a byte of the body is read."""

    def __init__(
        self,
        origin_policy: OriginPolicy,
        authentication: Authentication,
        health: HealthHandler,
        queries: Queries,
    ) -> None:
        self._origin_policy = origin_policy
        self._authentication = authentication
        self._health = health
        self._queries = queries

    def public(self, handler: Handler) -> Handler:
        """Return a handler that raises `ProblemError` if a foreign page or host makes the API call."""

        async def checked(request: web.Request) -> web.StreamResponse:
            self._origin_policy.check(request)
            return await handler(request)

        return checked

    def protect(self, handler: Handler, route: Route[Handlers]) -> Handler:
        """Return a handler that raises `ProblemError` unless the route allows the API call."""

        async def protected(request: web.Request) -> web.StreamResponse:
            access = route.access
            self._origin_policy.check(request, any_host=access.any_host)
            if access.needs_key:
                request[CALLER] = caller = await self._authentication.caller(request)
                if caller.role not in route.roles:
                    raise _forbidden(caller.role, request)
            if access.needs_running_service:
                self._health.require_running()
            if route.is_of_one_request:
                await self._queries.check_visible(request.match_info["requestId"], request[CALLER])
            return await handler(request)

        return protected


def _forbidden(role: Role, request: web.Request) -> ProblemError:
    return ProblemError(
        ProblemCode.FORBIDDEN,
        f"The role `{role}` of this API key does not allow {request.method} {_shown_path(request)}.",
    )


def _add_routes(
    app: web.Application, prefix: str, handlers: Handlers, access_control: _AccessControl
) -> None:
    """Add the routes under `prefix`, and a 405 response for other methods of their paths."""
    allowed: dict[str, list[str]] = {}
    for route in ROUTES:
        handler = access_control.protect(route.handler(handlers), route)
        allowed.setdefault(route.path, []).extend(route.methods)
        for method in route.methods:
            app.router.add_route(
                method, prefix + route.path, handler, expect_handler=defer_100_continue
            )
    for path, methods in allowed.items():
        handler = access_control.public(_method_not_allowed(methods))
        app.router.add_route("*", prefix + path, handler, expect_handler=defer_100_continue)


def _method_not_allowed(methods: list[str]) -> Handler:
    allow = ", ".join(methods)

    async def raise_problem(request: web.Request) -> web.StreamResponse:
        raise HttpProblemError(
            ProblemCode.METHOD_NOT_ALLOWED,
            f"{_shown_path(request)} does not support {request.method}. Use {allow}.",
            headers={"Allow": allow},
        )

    return raise_problem


async def _not_found(request: web.Request) -> web.StreamResponse:
    raise ProblemError(
        ProblemCode.NOT_FOUND,
        f"There is no page or API route at {_shown_path(request)}. See /docs.",
    )


def _shown_path(request: web.Request) -> str:
    """Return the path for a message, shortened if it is long."""
    path = request.path
    return path if len(path) <= MAX_SHOWN_PATH else f"{path[: MAX_SHOWN_PATH - 1]}…"


async def _redirect_to_slash(request: web.Request) -> web.StreamResponse:
    """Redirect to the same path with a final slash. The page's relative links need it."""
    return web.Response(status=308, headers={"Location": f"{request.path}/"})


def _preflight_middleware(origin_policy: OriginPolicy) -> Middleware:
    @web.middleware
    async def respond_to_preflight(request: web.Request, handler: Handler) -> web.StreamResponse:
        if origin_policy.is_preflight(request):
            return web.Response(status=204)
        return await handler(request)

    return respond_to_preflight
