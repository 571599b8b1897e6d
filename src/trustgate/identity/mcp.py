"""Who calls a virtual MCP server (spec 05 §3): the credential present decides, there is no fall-through.

Here so far: API keys in their three forms. Bearer tokens and client certificates are refused.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping

import msgspec

from trustgate.identity.authenticate import digest, presented_key
from trustgate.identity.principal import Principal
from trustgate.view.gateway import Directory, GatewayView
from trustgate.view.model import ConsumerView


class Unauthenticated(Exception):
    """HTTP 401; `challenge` asks for `WWW-Authenticate`."""

    def __init__(self, *, challenge: bool) -> None:
        super().__init__("unauthenticated")
        self.challenge = challenge


class CallRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What authentication reads of a request. `headers` are first values by lower-case name."""

    headers: Mapping[bytes, bytes]
    path: str
    peer_ip: str
    client_certificate: bytes | None
    base_url: str


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """An authenticated caller and the gateway of that identity."""

    principal: Principal
    auth_id: str
    view: GatewayView


class McpIdentityServices(msgspec.Struct, frozen=True, kw_only=True):
    directory: Directory


async def authenticate(
    services: McpIdentityServices, request: CallRequest, scope: tuple[GatewayView, ConsumerView] | None
) -> Caller:
    """Raises Unauthenticated."""
    challenge = scope is None or bool(scope[1].auths.oauth2)
    key = presented_key(request.headers)
    if not key:
        raise Unauthenticated(challenge=challenge)
    hashed = digest(key)
    if scope is not None:
        view, consumer = scope
        auth = consumer.auths.api_keys.get(hashed)
        if auth is None or not hmac.compare_digest(auth.key_hash, hashed):
            raise Unauthenticated(challenge=challenge)
        principal = Principal(subject=auth.name, method="api_key", auth_id=auth.id)
        return Caller(principal=principal, auth_id=auth.id, view=view)
    for view in services.directory.views():
        auth_id = view.api_key_digests.get(hashed)
        if auth_id is not None:
            name = view.state.auths[auth_id].name
            return Caller(
                principal=Principal(subject=name, method="api_key", auth_id=auth_id), auth_id=auth_id, view=view
            )
    raise Unauthenticated(challenge=challenge)
