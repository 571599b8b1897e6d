"""The Admin API's OpenAPI 3.1 document, generated from the table of routes and the body Structs.

What lives here: the document. What must not: a second list of anything that the code already says.
"""

from __future__ import annotations

from functools import cache
from http import HTTPStatus
from typing import Any

import msgspec

from trustgate.admin import answers

Json = dict[str, Any]

REF = "#/components/schemas/{name}"
TITLE = "TrustGate Admin API"
ALWAYS = {"open": (), "signed_in": (401, 403, 500, 503), "gateways": (401, 403, 500, 503)}
WITHIN = (400, 401, 403, 404, 500, 503)
INTEGERS = ("page", "size")
BOOLEANS = ("active", "enabled", "global")
PLAIN_PATHS = ("/docs", "/docs/index.html", "/docs/doc.json")
UUID = {"type": "string", "format": "uuid"}

DESCRIPTION = """Configuration of gateways. Every write is one command, decided against the gateway's current state.

- `PUT` changes the members that are sent and keeps the others; `null` counts as not sent.
- Secrets are shown masked; sending a masked value back keeps the stored secret.
- `ETag` is the gateway's version; `If-Match` refuses a write (412) when the gateway has changed since.
- `X-AG-Change-Reason` is kept with the change; `X-AG-Config-Applied` says whether every live data plane has it.
- `/v1/gateways/{gateway_id}/audit` and `/v1/audit` list who changed what, and why.
- `as_of` (a version or an RFC 3339 time) on a read of configuration answers as things were then.
"""

PARAMETERS: dict[str, str] = {
    "page": "Number of the page, from 1",
    "subject": "Only links of this user",
    "size": "Items on a page, at most 200",
    "search": "Text that names (or slugs) must contain, in any case",
    "name": "Same as `search`, used while that is empty",
    "slug": "Text that slugs must contain",
    "sort": "Member to sort by; without it the newest come first",
    "order": "`asc` or `desc`",
    "view": "`grouped` groups LLM registries by provider",
    "type": "Only objects of this type; policies: a comma list of plugin slugs; audit: of names of events",
    "category": "Comma list of catalog groups",
    "mode": "`enforce`, `throttle` or `observe`",
    "active": "Only active, or only inactive ones",
    "enabled": "Only enabled, or only disabled ones",
    "global": "Only global, or only local ones",
    "auth_id": "Only consumers with this auth",
    "provider": "Provider code",
    "gateway_id": "Gateway of the registry",
    "registry_id": "Registry whose account narrows the list",
    "scope": "Only this scope",
    "as_of": "Answer as things were: a version of the gateway, or an RFC 3339 time (the list of gateways: a time)",
    "object_type": "Only events about such objects: gateway, registry, consumer, auth, policy or role",
    "object_id": "Only events about this object, or about a link to it",
    "actor": "Only events by this user",
    "from": "Audit: only events from this RFC 3339 time on. Differences: the earlier version or time",
    "to": "Audit: only events before this RFC 3339 time. Differences: the later version or time, now when left out",
    "cursor": "`next` of the page before",
    "format": "`json`, or an export as `jsonl` or `csv` (up to 10,000 entries; `X-AG-Next-Cursor` leads on)",
    "tenant_id": "For the platform: only gateways of this tenant",
    "after": "Only checkpoints after this number",
}


@cache
def document_bytes() -> bytes:
    """The document as JSON."""
    return msgspec.json.encode(document())


@cache
def document() -> Json:
    # The table of routes names the handler that serves this document.
    from trustgate.admin.routes import OPERATIONS

    structs: list[Any] = [answers.Error, answers.GroupedRegistries]
    for operation in OPERATIONS:
        structs += [kind for kind in (operation.body, operation.answer, operation.listed) if kind is not None]
    unique = list(dict.fromkeys(structs))
    schemas, components = msgspec.json.schema_components(unique, ref_template=REF)
    schema_of: dict[Any, Json] = dict(zip(unique, schemas, strict=True))
    paths: dict[str, Json] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation, schema_of)
    return {
        "openapi": "3.1.0",
        "info": {"title": TITLE, "version": "1.0", "description": DESCRIPTION},
        "servers": [{"url": "/"}],
        "tags": [{"name": name} for name in dict.fromkeys(operation.resource for operation in OPERATIONS)],
        "paths": paths,
        "components": {
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
            "schemas": components,
        },
    }


def _operation(operation: Any, schema_of: dict[Any, Json]) -> Json:
    described: Json = {
        "summary": operation.summary,
        "tags": [operation.resource],
        "operationId": operation.handler.__module__.rpartition(".")[2] + "_" + operation.handler.__name__,
        "security": [] if operation.access == "open" else [{"bearer": []}],
        "parameters": _path_parameters(operation.path)
        + [_query_parameter(name) for name in (*operation.query, *(("as_of",) if operation.as_of else ()))],
        "responses": _responses(operation, schema_of),
    }
    if operation.path == "/health":
        described["operationId"] = "system_health_alias"
    if operation.body is not None:
        described["requestBody"] = {
            "required": operation.body_required,
            "content": {"application/json": {"schema": schema_of[operation.body]}},
        }
    return described


def _path_parameters(path: str) -> list[Json]:
    names = [part[1:-1] for part in path.split("/") if part.startswith("{")]
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"} if name == "trace_id" else UUID}
        for name in names
    ]


def _query_parameter(name: str) -> Json:
    schema: Json = {"type": "string"}
    if name in INTEGERS:
        schema = {"type": "integer", "minimum": 1}
    elif name in BOOLEANS:
        schema = {"type": "boolean"}
    return {"name": name, "in": "query", "description": PARAMETERS[name], "schema": schema}


def _responses(operation: Any, schema_of: dict[Any, Json]) -> Json:
    success: Json = {"description": HTTPStatus(operation.status).phrase}
    if operation.listed is not None:
        schema = _page_schema(schema_of[operation.listed])
        if "view" in operation.query:
            schema = {"oneOf": [schema, schema_of[answers.GroupedRegistries]]}
        success["content"] = {"application/json": {"schema": schema}}
    elif operation.answer is not None:
        success["content"] = {"application/json": {"schema": schema_of[operation.answer]}}
    responses = {str(operation.status): success}
    if operation.path == "/readyz":
        responses["503"] = {**success, "description": "A dependency is unavailable"}
    if "format" in operation.query:
        text: Json = {"schema": {"type": "string"}}
        success["content"] |= {"application/x-ndjson": text, "text/csv": text}
    error = {"application/json": {"schema": schema_of[answers.Error]}}
    always = ALWAYS.get(operation.access, WITHIN)
    conditional = (412,) if always == WITHIN and operation.method != "GET" else ()
    for status in sorted({*always, *operation.errors, *conditional, *((400, 404, 422) if operation.as_of else ())}):
        responses[str(status)] = {"description": HTTPStatus(status).phrase, "content": error}
    return responses


def _page_schema(item: Json) -> Json:
    return {
        "type": "object",
        "required": ["items", "page", "size", "total"],
        "properties": {
            "items": {"type": "array", "items": item},
            "page": {"type": "integer", "minimum": 1},
            "size": {"type": "integer", "minimum": 1, "maximum": 200},
            "total": {"type": "integer", "minimum": 0},
        },
    }
