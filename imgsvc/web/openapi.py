"""`openapi.json` (3.1): the operations' words and the models' schemas, put together."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from aiohttp import web
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from imgsvc import __version__
from imgsvc.errors import ProblemCode
from imgsvc.web.auth import COOKIE
from imgsvc.web.operations import (
    HEADERS,
    OPERATIONS,
    PARAMETERS,
    TAGS,
    Body,
    Operation,
    ResponseSpec,
)
from imgsvc.web.options import Options
from imgsvc.web.origin_policy import OriginPolicy
from imgsvc.web.postman import collection
from imgsvc.web.problems import MEDIA_TYPE, PROBLEMS
from imgsvc.web.responses import ProblemReport, json_response

Json = dict[str, Any]

_FORM = "multipart/form-data"
_REF = "#/components/schemas/{model}"
_SECURITY = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "`Authorization: Bearer KEY`"},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    "cookie": {
        "type": "apiKey",
        "in": "cookie",
        "name": COOKIE,
        "description": "What `POST /session` gives for a key.",
    },
}
_ABOUT = (
    "Takes a CSV of products with image URLs and gives it back with every image compressed and "
    "hosted. Every error is a problem report (RFC 9457) whose `type` stays the same."
)
_EXAMPLE = (
    "S. No.,Product Name,Input Image Urls\r\n1,Lamp,https://www.gstatic.com/webp/gallery/1.jpg\r\n"
)


class ApiDocs:
    """Serves the API's descriptions, with the address under which they were asked for."""

    def __init__(self, origins: OriginPolicy, *, with_keys: bool) -> None:
        self._origins = origins
        self._with_keys = with_keys

    async def openapi(self, request: web.Request) -> web.Response:
        """`GET /openapi.json`"""
        servers = [{"url": self._origins.base_url(request)}]
        document = json.loads(_document(with_keys=self._with_keys))
        return json_response(document | {"servers": servers})

    async def postman(self, request: web.Request) -> web.Response:
        """`GET /postman.json`"""
        return json_response(collection(self._origins.base_url(request)))


@cache
def _document(*, with_keys: bool) -> str:
    return json.dumps(document(with_keys=with_keys))


def document(*, with_keys: bool) -> Json:
    """The description, but for where the service is. Without keys it speaks of none."""
    models = {body.model for o in OPERATIONS for a in o.answers.values() for body in a.bodies}
    models |= {m for o in OPERATIONS for kind, m in o.takes.items() if kind != _FORM}
    models.add(ProblemReport)
    known = sorted((m for m in models if m is not None), key=lambda m: m.__name__)
    schemas = models_json_schema(
        [
            (m, "validation" if any(m in o.takes.values() for o in OPERATIONS) else "serialization")
            for m in known
        ],
        ref_template=_REF,
    )[1]["$defs"]
    paths: dict[str, Json] = {}
    for operation in OPERATIONS:
        described = _operation(operation, with_keys=with_keys)
        paths.setdefault(operation.path, {})[operation.method] = described
    components: Json = {"schemas": schemas}
    if with_keys:
        components["securitySchemes"] = _SECURITY
    return {
        "openapi": "3.1.0",
        "info": {"title": "imgsvc", "version": __version__, "description": _ABOUT},
        "tags": [{"name": name, "description": words} for name, words in TAGS.items()],
        "paths": paths,
        "components": components,
    }


def _operation(operation: Operation, *, with_keys: bool) -> Json:
    described: Json = {
        "operationId": operation.name,
        "tags": [operation.tag],
        "summary": operation.summary,
        "parameters": list(_parameters(operation)),
        "responses": _responses(operation, with_keys=with_keys),
    }
    if operation.words:
        described["description"] = operation.words
    if operation.takes:
        described["requestBody"] = {
            "required": True,
            "content": {kind: _taken(kind, model) for kind, model in operation.takes.items()},
        }
    if with_keys:
        described["security"] = [] if operation.public else [{name: []} for name in _SECURITY]
    return described


def _parameters(operation: Operation) -> Iterable[Json]:
    for part in operation.path.split("/"):
        if part.startswith("{"):
            name = part.strip("{}")
            yield {"name": name, "in": "path", "required": True, **PARAMETERS[name]}
    yield from _query_parameters(operation.query)
    for name in operation.headers:
        yield {"name": name, "in": "header", "required": False, **PARAMETERS[name]}


def _query_parameters(model: type[Options]) -> Iterable[Json]:
    """A model's fields, each as a parameter of its own."""
    schema = model.model_json_schema(by_alias=True, ref_template=_REF)
    definitions = schema.get("$defs", {})
    for name, field in schema.get("properties", {}).items():
        flat = _flat(field, definitions)
        words = flat.pop("description", "")
        yield {"name": name, "in": "query", "required": False, "description": words, "schema": flat}


def _flat(field: Json, definitions: Mapping[str, Json]) -> Json:
    """A field's schema as a query can express it: it may be left out, but it can't be null."""
    flat = {key: value for key, value in field.items() if key not in {"anyOf", "title"}}
    for choice in field.get("anyOf", []):
        if choice != {"type": "null"}:
            flat |= choice
    if flat.get("default", 0) is None:
        del flat["default"]
    reference = flat.pop("$ref", None)
    if reference is not None:
        definition = definitions[reference.rpartition("/")[2]]
        flat |= {key: definition[key] for key in ("type", "enum")}
    return flat


def _taken(kind: str, model: type[BaseModel] | None) -> Json:
    if model is None:
        return {"schema": {"type": "string"}, "example": _EXAMPLE}
    if kind != _FORM:
        return {"schema": _reference(model)}
    schema: Json = {"type": "object", "properties": {}, "required": ["file"]}
    schema["properties"]["file"] = {"type": "string", "contentMediaType": "text/csv"}
    for parameter in _query_parameters(model):  # type: ignore[arg-type]
        schema["properties"][parameter["name"]] = parameter["schema"]
    return {"schema": schema, "encoding": {"file": {"contentType": "text/csv"}}}


def _responses(operation: Operation, *, with_keys: bool) -> Json:
    responses = {str(status): _told(told) for status, told in operation.answers.items()}
    refusals: dict[int, list[str]] = {}
    for code in _refused(operation, with_keys=with_keys):
        status, title = PROBLEMS[code]
        refusals.setdefault(status, []).append(f"{title} (`{code}`)")
    for status in sorted(refusals):
        headers = ("Retry-After",) if status in {408, 409, 429, 503} else ()
        if status == 401:
            headers = ("WWW-Authenticate",)
        told = ResponseSpec(
            ". ".join(refusals[status]) + ".", (Body(MEDIA_TYPE, ProblemReport),), headers
        )
        responses[str(status)] = _told(told)
    return responses


def _refused(operation: Operation, *, with_keys: bool) -> Iterable[ProblemCode]:
    """Why a call may be refused: its own reasons, and those that all calls share."""
    codes = [ProblemCode.BAD_REQUEST, ProblemCode.INTERNAL, *operation.refused]
    if not operation.path.startswith("/health"):
        codes.append(ProblemCode.FOREIGN_ORIGIN)
    if with_keys and not operation.public:
        codes.append(ProblemCode.UNAUTHORIZED)
    if not operation.always:
        codes += [ProblemCode.INVALID_OPTION, ProblemCode.UNAVAILABLE]
    return dict.fromkeys(codes)


def _told(told: ResponseSpec) -> Json:
    response: Json = {"description": told.words}
    if told.bodies:
        response["content"] = {
            body.media_type: {"schema": _reference(body.model) if body.model else {}}
            for body in told.bodies
        }
    if told.headers:
        response["headers"] = {name: dict(HEADERS[name]) for name in told.headers}
    return response


def _reference(model: type[BaseModel]) -> Json:
    return {"$ref": _REF.format(model=model.__name__)}
