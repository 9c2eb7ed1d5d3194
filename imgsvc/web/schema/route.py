"""The columns of the route table: what a route accepts and returns, and who may call it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Generic, TypeVar

from pydantic import BaseModel

from imgsvc.access import Role
from imgsvc.errors import ProblemCode
from imgsvc.web.http.problems import Handler
from imgsvc.web.schema.options import NoOptions, Options

HandlersT = TypeVar("HandlersT")


class Access(Enum):
    """Who may call a route, and in which states of the service."""

    API = "API key required, only while the service is running"
    OPERATOR = "API key that reads everything required, in any state"
    PUBLIC = "no API key, in any state"
    SUPERVISOR = "no API key, in any state, with any Host header"

    @property
    def needs_key(self) -> bool:
        """Whether a call must prove an API key."""
        return self in {Access.API, Access.OPERATOR}

    @property
    def needs_running_service(self) -> bool:
        """Whether a call is refused while the service starts or stops."""
        return self is Access.API

    @property
    def any_host(self) -> bool:
        """Whether the Host header is not checked."""
        return self is Access.SUPERVISOR


@dataclass(frozen=True, slots=True)
class Parameter:
    """A path parameter, or a header of an API call or of a response. `schema` is a JSON schema."""

    name: str
    description: str
    schema: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class MediaType:
    """One content type of a response. `model` is None if the content is not JSON."""

    name: str
    model: type[BaseModel] | None = None


@dataclass(frozen=True, slots=True)
class ResponseSpec:
    """A successful response: its description, content types and headers."""

    description: str
    content: tuple[MediaType, ...] = ()
    headers: tuple[Parameter, ...] = ()


@dataclass(frozen=True, slots=True)
class Route(Generic[HandlersT]):
    """One row of the route table: an HTTP method and path, and everything that is known about them.

    The router, the access rules and the OpenAPI document read it. A GET route also accepts HEAD.
    `handler` returns the route's handler, given the object that has all handlers. Only routes with a
    `tag` are in the OpenAPI document. `responses` has the successful responses by HTTP status; `errors`
    the problem codes that do not follow from the other columns. `request_body` has a model, or None for
    raw text, by media type.
    """

    method: str
    path: str
    handler: Callable[[HandlersT], Handler]
    access: Access = Access.API
    tag: str = ""
    operation_id: str = ""
    summary: str = ""
    description: str = ""
    path_parameters: tuple[Parameter, ...] = ()
    query: type[Options] = NoOptions
    request_headers: tuple[Parameter, ...] = ()
    request_body: Mapping[str, type[BaseModel] | None] = field(default_factory=dict)
    responses: Mapping[int, ResponseSpec] = field(default_factory=dict)
    errors: tuple[ProblemCode, ...] = ()

    @property
    def methods(self) -> tuple[str, ...]:
        """The HTTP methods of the route."""
        return (self.method, "HEAD") if self.method == "GET" else (self.method,)

    @property
    def roles(self) -> frozenset[Role]:
        """The roles of the API keys that may call the route, if it needs a key."""
        if self.access is Access.OPERATOR:
            return frozenset({Role.READ, Role.ADMIN})
        return frozenset(Role) if self.method == "GET" else frozenset({Role.SUBMIT, Role.ADMIN})

    @property
    def is_of_one_request(self) -> bool:
        """Whether a path parameter is the ID of a request, which the caller must be allowed to see."""
        return "{requestId}" in self.path


def json_content(model: type[BaseModel]) -> tuple[MediaType, ...]:
    """Return the content of a JSON response."""
    return (MediaType("application/json", model),)
