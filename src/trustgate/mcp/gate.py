"""Who may talk to which virtual MCP server: everything before JSON-RPC (spec 05 §2, §3, §5.3).

Ends with the exchange's caller and runtime set, or with an HttpFailure.
"""

from __future__ import annotations

from trustgate.identity.mcp import BUILT_IN_AUTH_ID, Caller, CallRequest, Unauthenticated
from trustgate.identity.roles import BadMapping, effective_roles
from trustgate.mcp import locate
from trustgate.mcp.errors import HttpFailure
from trustgate.mcp.exchange import Exchange
from trustgate.mcp.links import Asker
from trustgate.mcp.services import McpServices, Scope
from trustgate.view.gateway import GatewayView
from trustgate.view.model import ConsumerView, RoleView
from trustgate.wire.ids import current_trace, uuid4

NO_ROLE = "mcp: no role grants MCP access for this identity"


async def identify(exchange: Exchange, services: McpServices) -> None:
    """Set the caller. Raises HttpFailure."""
    caller = await authenticate(exchange, services)
    exchange.caller = caller
    exchange.asker = Asker(caller, exchange.base_url)
    if services.config.telemetry:
        exchange.trace_id = exchange.own_id or uuid4()
        current_trace.set(exchange.trace_id)


def admit(exchange: Exchange, services: McpServices) -> None:
    """The consumer in the gateway of the identity, and what the caller sees of it. Raises HttpFailure."""
    caller = exchange.caller
    assert caller is not None, "identify comes first"
    view = caller.view
    consumer = view.consumer(exchange.slug) if exchange.located else None
    if consumer is None:
        raise HttpFailure(404, "no virtual MCP configured for this path")
    if consumer.type != "MCP":
        raise HttpFailure(404, "consumer is not an MCP consumer")
    if caller.auth_id not in consumer.entity.auth_ids and caller.auth_id != BUILT_IN_AUTH_ID:
        raise HttpFailure(403, "credential not allowed for this consumer")
    roles = roles_of(caller, view, consumer) if consumer.role_based else None
    exchange.runtime = services.runtimes.of(view, consumer, roles)
    if roles is not None and not exchange.runtime.peers:
        raise HttpFailure(403, NO_ROLE)


def roles_of(caller: Caller, view: GatewayView, consumer: ConsumerView) -> tuple[RoleView, ...]:
    """The caller's roles at a role_based consumer. Raises HttpFailure when there are none."""
    claims = caller.principal.claims
    try:
        roles = effective_roles(view.roles, consumer.roles, claims) if claims else ()
    except BadMapping as error:
        raise HttpFailure(400, str(error)) from None
    if not roles:
        raise HttpFailure(403, NO_ROLE)
    return roles


def scope_of(exchange: Exchange, services: McpServices) -> Scope | None:
    view = locate.find(services.directory, exchange.slug, exchange.base_url)
    consumer = view.consumer(exchange.slug) if view is not None else None
    return (view, consumer) if view is not None and consumer is not None else None


async def authenticate(exchange: Exchange, services: McpServices) -> Caller:
    """A slug that is not there, and a credential that is refused, are looked at once more after catching up."""
    request = CallRequest(
        headers=exchange.header_map,
        path=exchange.path,
        peer_ip=exchange.peer_ip,
        client_ip=exchange.client_ip,
        client_certificate=exchange.client_certificate,
        base_url=exchange.base_url,
    )
    scope = scope_of(exchange, services)
    try:
        if scope is not None:
            exchange.located = True
            return await services.authenticate(request, scope)
    except Unauthenticated:
        pass  # perhaps the log knows a newer credential
    await services.catch_up()
    scope = scope_of(exchange, services)
    exchange.located = scope is not None
    try:
        return await services.authenticate(request, scope)
    except Unauthenticated as refused:
        raise HttpFailure(401, "unauthenticated", challenge=refused.challenge) from None


def challenge(exchange: Exchange) -> tuple[bytes, bytes]:
    """`WWW-Authenticate` with where to find out how to log in (RFC 9728 §5.1)."""
    path = exchange.path.strip("/")
    where = f"{exchange.base_url}/.well-known/oauth-protected-resource" + (f"/{path}" if path else "")
    quoted = where.replace('"', "%22").replace("\\", "%5C")
    return (b"www-authenticate", f'Bearer resource_metadata="{quoted}"'.encode("latin-1", "replace"))
