"""Who may do what (spec 01 §2.2): the checks between authentication and a handler, in their order.

What lives here: path ids, machine scopes, tenants. What must not: tokens (`tokens`), rules about objects.
"""

from __future__ import annotations

from trustgate.admin.errors import forbidden, invalid_query, invalid_uuid
from trustgate.admin.exchange import ControlPlane
from trustgate.admin.ids import parse_uuid
from trustgate.admin.lists import Query
from trustgate.admin.past import Past
from trustgate.admin.routes import UUID_PARAMS, Operation
from trustgate.admin.tokens import Identity
from trustgate.domain.entities import GatewayState
from trustgate.domain.errors import not_found

READS = ("GET", "HEAD", "OPTIONS")


def read_as_of(operation: Operation, method: str, query: Query) -> str:
    """The query's `as_of`, empty when there is none; refused where it means nothing, rather than ignored."""
    if operation.access == "open" or not query.has("as_of"):
        return ""
    if method not in READS:
        raise invalid_query("as_of is for reading; to go back to an earlier state use revert")
    if not operation.as_of:
        raise invalid_query("as_of has no meaning here")
    return query.get("as_of") or " "


async def admit(
    operation: Operation,
    method: str,
    params: dict[str, str],
    identity: Identity,
    control: ControlPlane,
    past: Past,
    as_of: str = "",
) -> tuple[dict[str, str], GatewayState | None]:
    """The parameters with canonical ids, and the state of the gateway that the path names; raises `DomainError`.

    With `as_of` it is the state at that point.
    """
    match operation.access:
        case "open":
            return params, None
        case "signed_in" | "gateways":
            if identity.kind == "machine":
                raise forbidden()
            return params, None
        case "gateway":
            if identity.kind == "machine":
                # The text itself is compared, before it is known to be a UUID at all.
                if method == "DELETE" or params["id"] != identity.gateway_id:
                    raise forbidden()
                _check_scope(operation, method, identity)
            params = _canonical(params, params)
            return params, await past.state(params["id"], as_of) if as_of else None
        case "within":
            gateway_id = parse_uuid(params["gateway_id"])
            if gateway_id is None:
                raise invalid_uuid()
            if identity.kind == "machine":
                if gateway_id != parse_uuid(identity.gateway_id, braces=True):
                    raise forbidden()
                _check_scope(operation, method, identity)
            if as_of:
                return _canonical(params, params), await past.state(gateway_id, as_of)
            state = await control.state(gateway_id)
            if state is None and operation.past:
                await past.check_owner(gateway_id)
            elif identity.tenant is not None:
                owner = state.gateway.tenant_id if state is not None and state.gateway is not None else None
                if owner != identity.tenant:
                    raise not_found()
            return _canonical(params, params), state


def _check_scope(operation: Operation, method: str, identity: Identity) -> None:
    verb = "read" if method in READS else "write"
    for resource in operation.covers or (operation.resource,):
        if f"{resource}:{verb}" not in identity.scopes:
            raise forbidden()


def _canonical(params: dict[str, str], ids: dict[str, str]) -> dict[str, str]:
    canonical = dict(params)
    for name, text in ids.items():
        if name in UUID_PARAMS:
            parsed = parse_uuid(text)
            if parsed is None:
                raise invalid_uuid()
            canonical[name] = parsed
    return canonical
