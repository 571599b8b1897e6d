"""Which credentials fit which consumers, and when one may go (spec 01 §9.4).

What lives here: rules 2 to 4 of the guards, shared by attach calls, auth changes and consumer changes. Rule 1 (overlap)
stands with the auth itself (`decide_auth`).
"""

from __future__ import annotations

from collections.abc import Iterable

from trustgate.domain.entities import Auth, Consumer, GatewayState
from trustgate.domain.errors import DomainError, conflict

MCP_OIDC = (
    "an MCP consumer cannot use an oidc auth; interactive MCP clients need the gateway to broker the login,"
    " which requires an oauth2 auth with a pre-registered client"
)


def refuse(detail: str) -> DomainError:
    return conflict(f"resource conflict: {detail}")


def check_fit(consumer: Consumer, auth_type: str, suffix: str = "") -> None:
    """Whether a consumer of this type and mode can use an auth of this type."""
    if consumer.type == "MCP" and auth_type == "oidc":
        raise refuse(MCP_OIDC + suffix)
    if consumer.routing_mode == "role_based" and auth_type in ("api_key", "mtls"):
        raise refuse(
            f'a role_based consumer requires an identity-provider auth (oauth2 or oidc), got "{auth_type}"{suffix}'
        )


def check_attach(consumer: Consumer, auth: Auth) -> None:
    check_fit(consumer, auth.type)
    if consumer.routing_mode == "role_based" and consumer.auth_ids:
        raise refuse("a role_based consumer can have at most one auth")


def users(state: GatewayState, auth_id: str) -> list[Consumer]:
    """The consumers that have an auth attached, newest first."""
    found = sorted((c for c in state.consumers.values() if auth_id in c.auth_ids), key=lambda c: c.id)
    return sorted(found, key=lambda c: c.created_at, reverse=True)


def check_type_change(state: GatewayState, auth_id: str, auth_type: str) -> None:
    for consumer in users(state, auth_id):
        check_fit(consumer, auth_type, f' (referenced by consumer "{consumer.slug}")')


def check_loss(state: GatewayState, auth_id: str, doing: str) -> None:
    """Whether every consumer can do without an auth; `doing` is `disabling` or `deleting`."""
    for consumer in users(state, auth_id):
        if consumer.routing_mode == "role_based":
            raise refuse(
                f'auth is the only identity provider of role_based consumer "{consumer.slug}";'
                f" reassign it before {doing}"
            )
        if consumer.type == "MCP" and not has_other(state, consumer.auth_ids, auth_id):
            raise refuse(
                f'auth is the only usable identity provider of MCP consumer "{consumer.slug}";'
                f" reassign it before {doing}"
            )


def has_other(state: GatewayState, auth_ids: Iterable[str], auth_id: str) -> bool:
    """Whether an MCP consumer has another enabled auth that it can use."""
    others = (state.auths[id_] for id_ in auth_ids if id_ != auth_id and id_ in state.auths)
    return any(other.enabled and other.type != "oidc" for other in others)
