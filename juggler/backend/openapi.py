"""The OpenAPI document of the HTTP API, made from the types of its requests and responses. PURE."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from juggler.backend.api_messages import Failure

MAX_BATCH = 1000
"""Maximum number of entries of a batch."""

PREFIX = "/api/v1/"
DOCUMENT = "/api/v1/openapi.json"

_STATUSES = {
    400: "The request is malformed or an argument is invalid.",
    401: "The API key is missing or wrong.",
    403: "The channel is reserved.",
    413: "The body, an argument or the batch is too large.",
    415: "The body is not JSON.",
    429: "All connections to Redis are in use.",
    500: "An internal error, or Redis refuses the request.",
    503: "Redis is unreachable, or too many calls to the URI are queued. Nothing was done.",
    504: "No result arrived in time, or the connection to Redis was lost: it may have been done.",
}
_ONE_OF = {
    "Disconnect": {"oneOf": [{"required": ["identity"]}, {"required": ["connection"]}]},
    "Unsubscribe": {
        "allOf": [
            {"oneOf": [{"required": ["channel"]}, {"required": ["pattern"]}]},
            {"oneOf": [{"required": ["identity"]}, {"required": ["connection"]}]},
        ]
    },
    "Connections": {"not": {"required": ["identity", "connection"]}},
}


class Operation(NamedTuple):
    """An operation of the API.

    Attributes:
        request: type of the request.
        response: type of the response.
        summary: what it does.
        batches: whether an array of requests is a request, too.
    """

    request: type[msgspec.Struct]
    response: type[msgspec.Struct]
    summary: str
    batches: bool = True


def document(operations: Mapping[str, Operation], version: str, max_timeout: float) -> dict[str, Any]:
    """Return the document of operations by the last parts of their paths.

    Args:
        operations: the operations.
        version: version of juggler.
        max_timeout: maximum timeout of a call in seconds, and its default.
    """
    types = [type for each in operations.values() for type in (each.request, each.response)]
    refs, components = msgspec.json.schema_components([*types, Failure], ref_template="#/components/schemas/{name}")
    schemas: dict[Any, Any] = dict(zip([*types, Failure], refs, strict=True))
    for name, rule in _ONE_OF.items():
        components[name].update(rule)
    for limited in components["Call"]["properties"]["timeout"]["anyOf"]:
        if "maximum" in limited:
            limited["maximum"] = max_timeout
    components["Call"]["properties"]["timeout"]["default"] = max_timeout
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "juggler",
            "version": version,
            "description": "Publish events, call functions and control the connections of all servers.",
        },
        "security": [{"key": []}],
        "paths": {PREFIX + name: {"post": _operation(name, each, schemas)} for name, each in operations.items()},
        "components": {"schemas": components, "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
    }


def _operation(name: str, operation: Operation, schemas: Mapping[Any, Any]) -> dict[str, Any]:
    request, response, failure = (schemas[each] for each in (operation.request, operation.response, Failure))
    if operation.batches:
        request = {"oneOf": [request, _array(request)]}
        response = {"oneOf": [response, _array({"oneOf": [response, failure]})]}
    failures = {str(status): {"description": text, "content": _json(failure)} for status, text in _STATUSES.items()}
    return {
        "operationId": name,
        "summary": operation.summary,
        "requestBody": {"required": True, "content": _json(request)},
        "responses": {"200": {"description": "Done.", "content": _json(response)}, **failures},
    }


def _array(items: Any) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": 1, "maxItems": MAX_BATCH}


def _json(schema: Any) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}
