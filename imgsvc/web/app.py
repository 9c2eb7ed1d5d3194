"""The aiohttp application: routes, access rules and middlewares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from aiohttp import web
from aiohttp.typedefs import Middleware
from prometheus_client import CollectorRegistry

from imgsvc.config import Config
from imgsvc.database.queries import Queries
from imgsvc.errors import ProblemCode, ProblemError
from imgsvc.intake import Intake
from imgsvc.processing.events import Events
from imgsvc.processing.health import Health
from imgsvc.processing.request_actions import RequestActions
from imgsvc.storage.base import ImageStore
from imgsvc.storage.scratch import Scratch
from imgsvc.web.auth import ApiKeys, SessionHandler
from imgsvc.web.health import HealthHandler
from imgsvc.web.openapi import ApiDocs
from imgsvc.web.origin_policy import OriginPolicy
from imgsvc.web.outputs import OutputsHandler
from imgsvc.web.problems import Handler, HttpProblemError, problem_middleware
from imgsvc.web.request_body import defer_100_continue
from imgsvc.web.requests import RequestsHandler
from imgsvc.web.response_headers import response_headers_handler
from imgsvc.web.static_files import StaticFilesHandler
from imgsvc.web.status import StatusHandler
from imgsvc.web.uploads import UploadHandler

LINGER_SECONDS = 30.0
"""Time a client may continue to send its body after an error response, before the connection closes."""
MAX_REQUEST_LINE_BYTES = 32 * 1024
"""Maximum length of the request line. A percent-encoded `webhookUrl` of 8,192 characters fits."""
SERVER_KEEP_ALIVE_SECONDS = 75.0
"""Idle time after which a connection is closed. Longer than the keep-alive time of most proxies."""


@dataclass(frozen=True, slots=True)
class AppContext:
    """The components that the HTTP layer uses."""

    config: Config
    intake: Intake
    queries: Queries
    actions: RequestActions
    store: ImageStore
    scratch: Scratch
    events: Events
    health: Callable[[], Health]
    metrics: CollectorRegistry


class Access(Enum):
    """Who may call a route, and in which service states."""

    API = "API key required, only while the service is running"
    OPERATOR = "API key required, in any state"
    PUBLIC = "no API key, in any state"
    SUPERVISOR = "no API key, in any state, with any Host header"


@dataclass(frozen=True, slots=True)
class Route:
    """An HTTP method and path, their handler, and who may call it."""

    method: str
    path: str
    handler: Handler
    access: Access = Access.API


def create_app(context: AppContext) -> web.Application:
    """Return the application. It starts no task, and does not close the components in `context`."""
    origin_policy = OriginPolicy(context.config.server)
    keys = ApiKeys(context.config.server.api_keys)
    health = HealthHandler(context.health, context.metrics)
    app = web.Application(
        middlewares=[problem_middleware, _preflight_middleware(origin_policy)],
        handler_args={
            "auto_decompress": False,
            "handler_cancellation": True,  # Stop working when the client disconnects.
            "keepalive_timeout": SERVER_KEEP_ALIVE_SECONDS,
            "lingering_time": LINGER_SECONDS,
            "max_line_size": MAX_REQUEST_LINE_BYTES,
        },
    )
    app.on_response_prepare.append(response_headers_handler(origin_policy))
    access_control = _AccessControl(origin_policy, keys, health)
    table = routes(context, origin_policy, keys, health)
    # A proxy may or may not remove the path prefix.
    for prefix in dict.fromkeys([origin_policy.path_prefix, ""]):
        _add_routes(app, prefix, table, access_control)
    if origin_policy.path_prefix:
        app.router.add_get(
            origin_policy.path_prefix, _redirect_to_slash, expect_handler=defer_100_continue
        )
    app.router.add_route(
        "*",
        "/{path:(?s:.*)}",
        access_control.protect(_not_found, Access.PUBLIC),
        expect_handler=defer_100_continue,
    )
    return app


def routes(
    context: AppContext, origin_policy: OriginPolicy, keys: ApiKeys, health: HealthHandler
) -> list[Route]:
    """Return all routes. Each GET route also accepts HEAD."""
    status = StatusHandler(
        context.config, context.queries, context.events, context.scratch, origin_policy
    )
    requests = RequestsHandler(context.queries, context.actions, context.events, status)
    outputs = OutputsHandler(context.queries, context.store, context.scratch)
    uploads = UploadHandler(context.config, context.intake, origin_policy)
    sessions = SessionHandler(keys, origin_policy)
    api_docs = ApiDocs(origin_policy, with_keys=bool(keys))
    static_files = StaticFilesHandler()
    public = Access.PUBLIC
    return [
        Route("POST", "/processImages", uploads.process_images),
        Route("GET", "/checkStatus/{request_id}", status.check_status),
        Route("GET", "/watchStatus/{request_id}", requests.watch_status),
        Route("GET", "/listRequests", requests.list_requests),
        Route("POST", "/cancelRequest/{request_id}", requests.cancel_request),
        Route("POST", "/retryFailed/{request_id}", requests.retry_failed),
        Route("DELETE", "/deleteRequest/{request_id}", requests.delete_request),
        Route("GET", "/downloadImages/{request_id}", outputs.download_images),
        Route("GET", "/images/{file}", outputs.image, public),
        Route("POST", "/session", sessions.sign_in, public),
        Route("DELETE", "/session", sessions.sign_out, public),
        Route("GET", "/health/live", health.live, Access.SUPERVISOR),
        Route("GET", "/health/ready", health.ready, Access.SUPERVISOR),
        Route("GET", "/metrics", health.metrics, Access.OPERATOR),
        Route("GET", "/openapi.json", api_docs.openapi, public),
        Route("GET", "/postman.json", api_docs.postman, public),
        Route("GET", "/docs", static_files.docs, public),
        Route("GET", "/static/{path:.+}", static_files.static, public),
        Route("GET", "/", static_files.index, public),
    ]


class _AccessControl:
    """Checks origin, API key and service state before a byte of the body is read."""

    def __init__(self, origin_policy: OriginPolicy, keys: ApiKeys, health: HealthHandler) -> None:
        self._origin_policy = origin_policy
        self._keys = keys
        self._health = health

    def protect(self, handler: Handler, access: Access) -> Handler:
        """Return a handler that raises `ProblemError` unless `access` allows the API call."""

        async def protected(request: web.Request) -> web.StreamResponse:
            self._origin_policy.check(request, any_host=access is Access.SUPERVISOR)
            if access in {Access.API, Access.OPERATOR}:
                self._keys.check(request)
            if access is Access.API:
                self._health.require_running()
            return await handler(request)

        return protected


def _add_routes(
    app: web.Application, prefix: str, table: list[Route], access_control: _AccessControl
) -> None:
    """Add the routes under `prefix`, and a 405 response for other methods of their paths."""
    allowed: dict[str, list[str]] = {}
    for route in table:
        methods = [route.method, "HEAD"] if route.method == "GET" else [route.method]
        allowed.setdefault(route.path, []).extend(methods)
        for method in methods:
            handler = access_control.protect(route.handler, route.access)
            app.router.add_route(
                method, prefix + route.path, handler, expect_handler=defer_100_continue
            )
    for path, methods in allowed.items():
        handler = access_control.protect(_method_not_allowed(methods), Access.PUBLIC)
        app.router.add_route("*", prefix + path, handler, expect_handler=defer_100_continue)


def _method_not_allowed(methods: list[str]) -> Handler:
    allow = ", ".join(methods)

    async def raise_problem(request: web.Request) -> web.StreamResponse:
        raise HttpProblemError(
            ProblemCode.METHOD_NOT_ALLOWED,
            f"{request.path} does not support {request.method}. Use {allow}.",
            headers={"Allow": allow},
        )

    return raise_problem


async def _not_found(request: web.Request) -> web.StreamResponse:
    raise ProblemError(
        ProblemCode.NOT_FOUND, f"There is no page or API route at {request.path}. See /docs."
    )


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
