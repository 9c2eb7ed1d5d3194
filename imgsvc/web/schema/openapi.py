"""The OpenAPI 3.1 document: the operations combined with the schemas of the models."""

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
from imgsvc.web.http.api_keys import COOKIE
from imgsvc.web.http.origin_policy import OriginPolicy
from imgsvc.web.http.problems import MEDIA_TYPE, PROBLEMS
from imgsvc.web.postman import collection
from imgsvc.web.routes import (
    HEADERS,
    OPERATIONS,
    PARAMETERS,
    TAGS,
    MediaType,
    Operation,
    ResponseSpec,
)
from imgsvc.web.schema.options import Options
from imgsvc.web.schema.responses import ProblemReport, json_response

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
        "description": "Session cookie, set by `POST /session`.",
    },
}
_DESCRIPTION = (
    "Upload a CSV of products with image URLs. imgsvc downloads, compresses and hosts every image, "
    "and returns the CSV with the new URLs. Every error is a problem report (RFC 9457) with a stable "
    "`type`."
)
_EXAMPLE_CSV = (
    "S. No.,Product Name,Input Image Urls\r\n1,Lamp,https://www.gstatic.com/webp/gallery/1.jpg\r\n"
)


class ApiDocs:
    """Serves the OpenAPI document and the Postman collection with the service's own URL in them."""

    def __init__(self, origin_policy: OriginPolicy, *, with_keys: bool) -> None:
        self._origin_policy = origin_policy
        self._with_keys = with_keys

    async def openapi(self, request: web.Request) -> web.Response:
        """`GET /openapi.json`"""
        servers = [{"url": self._origin_policy.base_url(request)}]
        document = json.loads(_cached_document(with_keys=self._with_keys))
        return json_response(document | {"servers": servers})

    async def postman(self, request: web.Request) -> web.Response:
        """`GET /postman.json`"""
        return json_response(collection(self._origin_policy.base_url(request)))


@cache
def _cached_document(*, with_keys: bool) -> str:
    return json.dumps(openapi_document(with_keys=with_keys))


def openapi_document(*, with_keys: bool) -> Json:
    """Return the OpenAPI document without `servers`.

    Security schemes and 401 responses are included only if `with_keys`.
    """
    models = {
        media_type.model
        for operation in OPERATIONS
        for response in operation.responses.values()
        for media_type in response.content
    }
    body_models = {
        model
        for operation in OPERATIONS
        for media_type, model in operation.request_body.items()
        if media_type != _FORM
    }
    models |= body_models
    models.add(ProblemReport)
    sorted_models = sorted((m for m in models if m is not None), key=lambda m: m.__name__)
    schemas = models_json_schema(
        [(m, "validation" if m in body_models else "serialization") for m in sorted_models],
        ref_template=_REF,
    )[1]["$defs"]
    paths: dict[str, Json] = {}
    for operation in OPERATIONS:
        operation_object = _operation(operation, with_keys=with_keys)
        paths.setdefault(operation.path, {})[operation.method] = operation_object
    components: Json = {"schemas": schemas}
    if with_keys:
        components["securitySchemes"] = _SECURITY
    return {
        "openapi": "3.1.0",
        "info": {"title": "imgsvc", "version": __version__, "description": _DESCRIPTION},
        "tags": [{"name": name, "description": text} for name, text in TAGS.items()],
        "paths": paths,
        "components": components,
    }


def _operation(operation: Operation, *, with_keys: bool) -> Json:
    result: Json = {
        "operationId": operation.operation_id,
        "tags": [operation.tag],
        "summary": operation.summary,
        "parameters": list(_parameters(operation)),
        "responses": _responses(operation, with_keys=with_keys),
    }
    if operation.description:
        result["description"] = operation.description
    if operation.request_body:
        result["requestBody"] = {
            "required": True,
            "content": {
                media_type: _request_content(media_type, model)
                for media_type, model in operation.request_body.items()
            },
        }
    if with_keys:
        result["security"] = [] if operation.public else [{name: []} for name in _SECURITY]
    return result


def _parameters(operation: Operation) -> Iterable[Json]:
    for part in operation.path.split("/"):
        if part.startswith("{"):
            name = part.strip("{}")
            yield {"name": name, "in": "path", "required": True, **PARAMETERS[name]}
    yield from _query_parameters(operation.query)
    for name in operation.headers:
        yield {"name": name, "in": "header", "required": False, **PARAMETERS[name]}


def _query_parameters(model: type[Options]) -> Iterable[Json]:
    """Yield the fields of a model as query parameters."""
    schema = model.model_json_schema(by_alias=True, ref_template=_REF)
    definitions = schema.get("$defs", {})
    for name, field in schema.get("properties", {}).items():
        flat = _query_schema(field, definitions)
        text = flat.pop("description", "")
        yield {"name": name, "in": "query", "required": False, "description": text, "schema": flat}


def _query_schema(field: Json, definitions: Mapping[str, Json]) -> Json:
    """Return a field's schema for a query parameter, which can be absent but not null."""
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


def _request_content(media_type: str, model: type[BaseModel] | None) -> Json:
    if model is None:
        return {"schema": {"type": "string"}, "example": _EXAMPLE_CSV}
    if media_type != _FORM:
        return {"schema": _reference(model)}
    schema: Json = {"type": "object", "properties": {}, "required": ["file"]}
    schema["properties"]["file"] = {"type": "string", "contentMediaType": "text/csv"}
    for parameter in _query_parameters(model):  # type: ignore[arg-type]
        schema["properties"][parameter["name"]] = parameter["schema"]
    return {"schema": schema, "encoding": {"file": {"contentType": "text/csv"}}}


def _responses(operation: Operation, *, with_keys: bool) -> Json:
    responses = {str(status): _response(spec) for status, spec in operation.responses.items()}
    problems: dict[int, list[str]] = {}
    for code in _problem_codes(operation, with_keys=with_keys):
        status, title = PROBLEMS[code]
        problems.setdefault(status, []).append(f"{title} (`{code}`)")
    for status in sorted(problems):
        headers = ("Retry-After",) if status in {408, 409, 429, 503} else ()
        if status == 401:
            headers = ("WWW-Authenticate",)
        spec = ResponseSpec(
            ". ".join(problems[status]) + ".", (MediaType(MEDIA_TYPE, ProblemReport),), headers
        )
        responses[str(status)] = _response(spec)
    return responses


def _problem_codes(operation: Operation, *, with_keys: bool) -> Iterable[ProblemCode]:
    """Return the problem codes of an operation: its own, and those that operations share."""
    codes = [ProblemCode.BAD_REQUEST, ProblemCode.INTERNAL, *operation.errors]
    if not operation.path.startswith("/health"):
        codes.append(ProblemCode.FOREIGN_ORIGIN)
    if with_keys and not operation.public:
        codes.append(ProblemCode.UNAUTHORIZED)
    if not operation.available_while_starting:
        codes += [ProblemCode.INVALID_OPTION, ProblemCode.UNAVAILABLE]
    return dict.fromkeys(codes)


def _response(spec: ResponseSpec) -> Json:
    response: Json = {"description": spec.description}
    if spec.content:
        response["content"] = {
            media_type.name: {"schema": _reference(media_type.model) if media_type.model else {}}
            for media_type in spec.content
        }
    if spec.headers:
        response["headers"] = {name: dict(HEADERS[name]) for name in spec.headers}
    return response


def _reference(model: type[BaseModel]) -> Json:
    return {"$ref": _REF.format(model=model.__name__)}
