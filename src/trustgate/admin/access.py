"""Who may do what (spec 01 §2.2): the checks between authentication and a handler, in their order.

What lives here: path ids, machine scopes, tenants. What must not: tokens (`tokens`), rules about objects.
"""

from __future__ import annotations

from trustgate.admin.errors import forbidden, invalid_uuid
from trustgate.admin.exchange import ControlPlane
from trustgate.admin.ids import parse_uuid
from trustgate.admin.routes import UUID_PARAMS, Operation
from trustgate.admin.tokens import Identity
from trustgate.domain.entities import GatewayState
from trustgate.domain.errors import not_found

READS = ("GET", "HEAD", "OPTIONS")


async def admit(
    operation: Operation, method: str, params: dict[str, str], identity: Identity, control: ControlPlane
) -> tuple[dict[str, str], GatewayState | None]:
    """The parameters with canonical ids, and the state of the gateway that the path names; raises `DomainError`."""
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
            return _canonical(params, params), None
        case "within":
            gateway_id = parse_uuid(params["gateway_id"])
            if gateway_id is None:
                raise invalid_uuid()
            if identity.kind == "machine":
                if gateway_id != parse_uuid(identity.gateway_id, braces=True):
                    raise forbidden()
                _check_scope(operation, method, identity)
            state = await control.state(gateway_id)
            if identity.tenant is not None:
                owner = state.gateway.tenant_id if state is not None and state.gateway is not None else None
                if owner != identity.tenant:
                    raise not_found()
            return _canonical(params, params), state


def _check_scope(operation: Operation, method: str, identity: Identity) -> None:
    verb = "read" if method in READS else "write"
    if f"{operation.resource}:{verb}" not in identity.scopes:
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
