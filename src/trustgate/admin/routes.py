"""The routes of the Admin API and the matching of paths to them (spec 01 §1).

What lives here: one table of operations, from which dispatch, authorisation and the OpenAPI document are driven, and
the matching rules: fixed parts in any case, one trailing slash, parameters taken raw. What must not: handlers' work.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Literal

import msgspec

from trustgate.admin import answers
from trustgate.admin.exchange import Answer, Call
from trustgate.admin.handlers import (
    auths,
    catalogs,
    consumers,
    gateways,
    history,
    links,
    plan,
    policies,
    registries,
    requests,
    roles,
    system,
)
from trustgate.domain import inputs

Handler = Callable[[Call], Awaitable[Answer]]
Access = Literal["open", "signed_in", "gateways", "gateway", "within"]
"""Who may call: anyone; console tokens; console tokens of any kind on the collection of gateways; the gateway itself;
objects within a gateway (spec 01 §2.2)."""

METHOD_ORDER = ("GET", "HEAD", "POST", "PUT", "DELETE")
GATEWAYS = "/v1/gateways"
GW = "/v1/gateways/{gateway_id}"
UUID_PARAMS = frozenset(("gateway_id", "id", "registry_id", "role_id", "auth_id", "policy_id"))

PAGING = ("page", "size")
SORTING = ("sort", "order")
AUDIT = ("object_type", "object_id", "actor", "type", "from", "to", "order", "size", "cursor", "format")
OBJECTS = ("gateways", "registries", "consumers", "roles", "auths", "policies")
"""Resources of the objects of a gateway."""


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """One method on one path. `answer` is the Struct of the success body, `listed` that of a page's items."""

    method: str
    path: str
    handler: Handler
    access: Access
    summary: str
    resource: str
    status: int = 200
    body: type[msgspec.Struct] | None = None
    body_required: bool = True
    answer: Any = None
    listed: Any = None
    query: tuple[str, ...] = ()
    errors: tuple[int, ...] = ()
    as_of: bool = False
    """Whether it can be asked how things were."""
    past: bool = False
    """Whether it also answers about a gateway that was deleted, from the log."""
    covers: tuple[str, ...] = ()
    """The resources whose scopes a machine needs; without any, `resource` alone."""


class Route(msgspec.Struct, frozen=True):
    """A path with its operations. `parts` holds lower-cased text, or a parameter name in braces."""

    parts: tuple[str, ...]
    operations: dict[str, Operation]

    def match(self, lowered: list[str], raw: list[str]) -> dict[str, str] | None:
        """The parameters when the path fits."""
        if len(raw) != len(self.parts):
            return None
        params: dict[str, str] = {}
        for part, low, text in zip(self.parts, lowered, raw, strict=True):
            if part[:1] == "{":
                if not text:
                    return None
                params[part[1:-1]] = text
            elif part != low:
                return None
        return params


class Matched(msgspec.Struct, frozen=True):
    operation: Operation
    params: dict[str, str]


class MethodNotAllowed(msgspec.Struct, frozen=True):
    """A known path without this method; `allowed` is the Allow header's value."""

    allowed: str


def find(method: str, path: str) -> Matched | MethodNotAllowed | None:
    """The operation of a request, or why there is none (None: the path is unknown). HEAD is served as GET."""
    raw = path.split("/")[1:]
    if len(raw) > 1 and raw[-1] == "":
        raw.pop()
    lowered = [part.lower() for part in raw]
    wanted = "GET" if method == "HEAD" else method
    known: set[str] = set()
    for route in ROUTES:
        params = route.match(lowered, raw)
        if params is None:
            continue
        if wanted in route.operations:
            return Matched(route.operations[wanted], params)
        known.update(route.operations)
    if not known:
        return None
    if "GET" in known:
        known.add("HEAD")
    return MethodNotAllowed(", ".join(name for name in METHOD_ORDER if name in known))


def template(method: str, path: str) -> str:
    """The path of the operation with its parameters' names, `other` where there is none: a closed set."""
    found = find(method, path)
    return found.operation.path if isinstance(found, Matched) else "other"


def _op(
    method: str, path: str, handler: Handler, access: Access, summary: str, resource: str, **more: Any
) -> Operation:
    return Operation(
        method=method, path=path, handler=handler, access=access, summary=summary, resource=resource, **more
    )


def _open(path: str, handler: Handler, summary: str, **more: Any) -> Operation:
    return _op("GET", path, handler, "open", summary, "system", **more)


def _signed_in(path: str, handler: Handler, summary: str, resource: str, **more: Any) -> Operation:
    return _op("GET", path, handler, "signed_in", summary, resource, **more)


def _attachment(path: str, attach: Handler, detach: Handler, what: str, resource: str, **more: Any) -> list[Operation]:
    return [
        _op("POST", path, attach, "within", f"Attach {what}", resource, status=204, errors=(409, 422), **more),
        _op("DELETE", path, detach, "within", f"Detach {what}", resource, status=204, errors=(409,)),
    ]


OPERATIONS: tuple[Operation, ...] = (
    _open("/healthz", system.health, "Liveness", answer=answers.Health),
    _open("/health", system.health, "Liveness", answer=answers.Health),
    _open("/readyz", system.readiness, "Readiness, with the state of each dependency", answer=answers.Readiness),
    _open("/__/version", system.version, "Version of the server", answer=answers.Version),
    _open("/docs", system.docs, "Redirects to the reference", status=301),
    _open("/docs/index.html", system.docs_page, "This reference as a page"),
    _open("/docs/doc.json", system.docs_document, "This reference as OpenAPI 3"),
    # Gateways
    _op("POST", GATEWAYS, gateways.create, "gateways", "Create a gateway", "gateways", status=201,
        body=inputs.GatewayCreate, answer=answers.Gateway, errors=(409, 422)),
    _op("GET", GATEWAYS, gateways.list_all, "gateways", "List gateways", "gateways",
        as_of=True, listed=answers.Gateway, query=("slug", "search", *SORTING, *PAGING), errors=(422,)),
    _op("GET", f"{GATEWAYS}/{{id}}", gateways.read, "gateway", "Read a gateway", "gateways",
        as_of=True, answer=answers.Gateway, errors=(400, 404)),
    _op("PUT", f"{GATEWAYS}/{{id}}", gateways.update, "gateway", "Change members of a gateway", "gateways",
        body=inputs.GatewayUpdate, answer=answers.Gateway, errors=(400, 404, 409, 422)),
    _op("DELETE", f"{GATEWAYS}/{{id}}", gateways.delete, "gateway", "Delete a gateway with all it holds", "gateways",
        status=204, errors=(400, 404, 409)),
    # History
    _op("GET", f"{GW}/audit", history.audit_of_gateway, "within", "Who changed what, newest first, page by page",
        "history", answer=answers.AuditPage, query=AUDIT, errors=(422,), past=True, covers=OBJECTS),
    _op("GET", f"{GW}/versions", history.versions, "within", "List the versions of a gateway, newest first", "history",
        listed=answers.GatewayVersion, query=PAGING, errors=(422,), past=True, covers=OBJECTS),
    _op("GET", f"{GW}/diff", history.diff, "within", "What changed between two versions or times", "history",
        answer=answers.Difference, query=("from", "to"), errors=(422,), past=True, covers=OBJECTS),
    _op("POST", f"{GW}/revert", history.revert, "within", "Lead a gateway back to an earlier state", "history",
        body=inputs.Revert, answer=answers.Reverted, errors=(409, 422), covers=OBJECTS),
    _signed_in("/v1/audit", history.audit_of_tenant, "Who changed what in all gateways of the tenant", "history",
               answer=answers.AuditPage, query=("gateway_id", "tenant_id", *AUDIT), errors=(400, 422)),
    _signed_in("/v1/audit/checkpoints", history.checkpoints, "Signed checkpoints of the log", "history",
               answer=answers.Checkpoints, query=("after",), errors=(422,)),
    _op("POST", "/v1/audit/checkpoints", history.make_checkpoint, "signed_in", "Make a checkpoint now", "history",
        status=201, answer=answers.Checkpoint),
    _op("POST", f"{GW}/plan", plan.plan, "within", "What a set of changes would do, without doing it", "gateways",
        body=plan.PlanRequest, answer=plan.PlanAnswer, errors=(409, 412, 422)),
    # Registries
    _op("POST", f"{GW}/registries", registries.create, "within", "Create a registry", "registries", status=201,
        body=inputs.RegistryCreate, answer=answers.Registry, errors=(409, 422)),
    _op("GET", f"{GW}/registries", registries.list_all, "within", "List registries, or group them by provider",
        "registries", as_of=True, listed=answers.Registry,
        query=("name", "search", *SORTING, *PAGING, "view", "type"), errors=(422,)),
    _op("POST", f"{GW}/registries/test-connection", registries.test_connection, "within",
        "Test the connection to a provider", "registries",
        body=inputs.ConnectionTest, answer=answers.ConnectionResult, errors=(422,)),
    _op("GET", f"{GW}/registries/{{id}}", registries.read, "within", "Read a registry", "registries",
        as_of=True, answer=answers.Registry),
    _op("PUT", f"{GW}/registries/{{id}}", registries.update, "within", "Change members of a registry", "registries",
        body=inputs.RegistryUpdate, answer=answers.Registry, errors=(409, 422)),
    _op("DELETE", f"{GW}/registries/{{id}}", registries.delete, "within", "Delete a registry", "registries",
        status=204, errors=(409,)),
    _op("GET", f"{GW}/registries/{{id}}/health", registries.health, "within", "What the balancers know of a registry",
        "registries", answer=answers.RegistryHealth),
    _op("GET", f"{GW}/registries/{{id}}/tools", registries.tools, "within", "List the tools of an MCP registry",
        "registries", answer=answers.RegistryTools, errors=(422, 502)),
    # Consumers
    _op("POST", f"{GW}/consumers", consumers.create, "within", "Create a consumer", "consumers", status=201,
        body=inputs.ConsumerCreate, answer=answers.Consumer, errors=(409, 422)),
    _op("GET", f"{GW}/consumers", consumers.list_all, "within", "List consumers", "consumers",
        as_of=True, listed=answers.Consumer, query=("search", "name", "type", "active", "auth_id", *SORTING, *PAGING),
        errors=(422,)),
    _op("GET", f"{GW}/consumers/{{id}}", consumers.read, "within", "Read a consumer", "consumers",
        as_of=True, answer=answers.Consumer),
    _op("PUT", f"{GW}/consumers/{{id}}", consumers.update, "within", "Change members of a consumer", "consumers",
        body=inputs.ConsumerUpdate, answer=answers.Consumer, errors=(409, 422)),
    _op("DELETE", f"{GW}/consumers/{{id}}", consumers.delete, "within", "Delete a consumer", "consumers",
        status=204, errors=(409,)),
    *_attachment(f"{GW}/consumers/{{id}}/registries/{{registry_id}}", consumers.attach_registry,
                 consumers.detach_registry, "a registry", "consumers",
                 body=inputs.AttachRegistryIn, body_required=False),
    *_attachment(f"{GW}/consumers/{{id}}/roles/{{role_id}}", consumers.attach_role, consumers.detach_role,
                 "a role", "consumers"),
    *_attachment(f"{GW}/consumers/{{id}}/auths/{{auth_id}}", consumers.attach_auth, consumers.detach_auth,
                 "an auth", "consumers"),
    *_attachment(f"{GW}/consumers/{{id}}/policies/{{policy_id}}", consumers.attach_policy, consumers.detach_policy,
                 "a policy", "consumers"),
    # Roles
    _op("POST", f"{GW}/roles", roles.create, "within", "Create a role", "roles", status=201,
        body=inputs.RoleCreate, answer=answers.Role, errors=(409, 422)),
    _op("GET", f"{GW}/roles", roles.list_all, "within", "List roles", "roles",
        as_of=True, listed=answers.Role, query=("search", "name", *SORTING, *PAGING), errors=(422,)),
    _op("GET", f"{GW}/roles/{{id}}", roles.read, "within", "Read a role", "roles", as_of=True, answer=answers.Role),
    _op("PUT", f"{GW}/roles/{{id}}", roles.update, "within", "Change members of a role", "roles",
        body=inputs.RoleUpdate, answer=answers.Role, errors=(409, 422)),
    _op("DELETE", f"{GW}/roles/{{id}}", roles.delete, "within", "Delete a role", "roles", status=204, errors=(409,)),
    *_attachment(f"{GW}/roles/{{role_id}}/registries/{{registry_id}}", roles.attach_registry, roles.detach_registry,
                 "a registry", "roles"),
    # Auths
    _op("POST", f"{GW}/auths", auths.create, "within", "Create an auth", "auths", status=201,
        body=inputs.AuthCreate, answer=answers.Auth, errors=(409, 422)),
    _op("GET", f"{GW}/auths", auths.list_all, "within", "List auths", "auths",
        as_of=True, listed=answers.Auth, query=("search", "name", "type", "enabled", *SORTING, *PAGING), errors=(422,)),
    _op("GET", f"{GW}/auths/{{id}}", auths.read, "within", "Read an auth", "auths", as_of=True, answer=answers.Auth),
    _op("PUT", f"{GW}/auths/{{id}}", auths.update, "within", "Change members of an auth", "auths",
        body=inputs.AuthUpdate, answer=answers.Auth, errors=(409, 422)),
    _op("DELETE", f"{GW}/auths/{{id}}", auths.delete, "within", "Delete an auth", "auths", status=204, errors=(409,)),
    _op("POST", f"{GW}/auths/{{id}}/rotate", auths.rotate, "within", "Replace the key of an API key auth", "auths",
        answer=answers.Auth, errors=(422,)),
    # Links
    _op("GET", f"{GW}/links", links.list_all, "within", "List what users have linked", "links",
        listed=answers.Link, query=("subject", "provider", *PAGING), errors=(422,)),
    _op("DELETE", f"{GW}/links/{{id}}", links.delete, "within", "Delete a user's link", "links", status=204),
    # Policies
    _op("POST", f"{GW}/policies", policies.create, "within", "Create a policy", "policies", status=201,
        body=inputs.PolicyCreate, answer=answers.Policy, errors=(409, 422)),
    _op("GET", f"{GW}/policies", policies.list_all, "within", "List policies", "policies",
        as_of=True, listed=answers.Policy,
        query=("search", "name", "enabled", "global", "mode", "category", "type", *SORTING, *PAGING), errors=(422,)),
    _op("GET", f"{GW}/policies/{{id}}", policies.read, "within", "Read a policy", "policies",
        as_of=True, answer=answers.Policy),
    _op("PUT", f"{GW}/policies/{{id}}", policies.update, "within", "Change members of a policy", "policies",
        body=inputs.PolicyUpdate, answer=answers.Policy, errors=(409, 422)),
    _op("DELETE", f"{GW}/policies/{{id}}", policies.delete, "within", "Delete a policy", "policies",
        status=204, errors=(409,)),
    _op("POST", f"{GW}/policies/{{id}}/duplicate", policies.duplicate, "within", "Duplicate a policy", "policies",
        status=201, answer=answers.Policy, errors=(409, 422)),
    _op("POST", f"{GW}/policies/{{id}}/global", policies.make_global, "within", "Apply a policy to all consumers",
        "policies", answer=answers.Policy),
    _op("DELETE", f"{GW}/policies/{{id}}/global", policies.make_local, "within",
        "Apply a policy to its own consumers only", "policies", answer=answers.Policy),
    # Catalogs and operation
    _signed_in("/v1/providers-catalog", catalogs.providers, "LLM providers", "catalog", answer=answers.Items),
    _signed_in("/v1/models-catalog", catalogs.models, "Models", "catalog", answer=answers.Items,
               query=("provider", "gateway_id", "registry_id", *PAGING)),
    _signed_in("/v1/policies-catalog", catalogs.policies, "Policy plugins and their settings", "catalog",
               answer=answers.PolicyGroups),
    _signed_in("/v1/mcp-servers-catalog", catalogs.mcp_servers, "Known MCP servers", "catalog",
               answer=answers.MCPServers),
    _signed_in("/v1/playground/traces/{trace_id}", catalogs.playground_trace, "The event of a playground request",
               "playground", answer=dict[str, Any], errors=(404,)),
    _signed_in("/v1/requests/{trace_id}/explain", requests.explain, "Why a request went as it did", "requests",
               answer=dict[str, Any], errors=(404,)),
    _signed_in("/v1/config-sync/connections", catalogs.config_sync_connections, "Connected data planes",
               "config-sync", answer=answers.Items, query=("scope",)),
)  # fmt: skip


def _table() -> tuple[Route, ...]:
    """Routes by path; where two fit, the one whose fixed text comes first wins."""
    by_path: dict[str, dict[str, Operation]] = {}
    for operation in OPERATIONS:
        by_path.setdefault(operation.path, {})[operation.method] = operation
    routes = [
        Route(tuple(part if part[:1] == "{" else part.lower() for part in path.split("/")[1:]), operations)
        for path, operations in by_path.items()
    ]
    return tuple(sorted(routes, key=lambda route: [part[:1] == "{" for part in route.parts]))


ROUTES = _table()
