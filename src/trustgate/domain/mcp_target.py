"""An upstream MCP server: merge, catalog canonicalisation, validation (spec 05 §7.1, messages spec 01 §6.4).

What lives here: the `mcp_target` member of an MCP registry. What must not: the registry around it (`decide_registry`).
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from trustgate.domain import secrets
from trustgate.domain.credentials import given, inherit, is_masked
from trustgate.domain.decision import Draft
from trustgate.domain.entities import Json, MCPTarget
from trustgate.domain.errors import FAILED, DomainError, invalid_member, quoted, refused
from trustgate.domain.inputs import MCPAuthIn, MCPTargetIn
from trustgate.domain.target_auth import MASKED
from trustgate.domain.values import is_http_url, origin, string_map, strings

DEFAULT_TRANSPORT = "streamable-http"
TRANSPORTS = frozenset({DEFAULT_TRANSPORT})
SECRETS = ("value", "client_secret")
INHERITED = {"static": "value", "forwarded": "client_secret", "client_credentials": "client_secret"}
"""The secret that a PUT keeps, by mode."""

OVERWRITTEN = (
    "token_url",
    "scopes",
    "token_endpoint_auth_method",
    "resource",
    "provider",
    "registration",
    "authorize_url",
    "header",
    "value",
)
"""Members that a client credentials entry of the catalog decides or clears."""

CREDENTIAL_HEADER = re.compile(r"^(proxy-)?authorization$|cookie|token|secret|password|api[-_]?key", re.IGNORECASE)
"""Header names whose values are kept and shown as secrets."""


def refuse(detail: str) -> DomainError:
    return invalid_member("registry: invalid mcp target", detail)


def build(
    draft: Draft, registry_id: str, sent: MCPTargetIn, stored: MCPTarget | None, *, same_origin_only: bool = False
) -> MCPTarget:
    """The target after a POST (`stored` None) or PUT; raises the first rule it breaks."""
    url = (sent.url or "").strip() or (stored.url if stored else "")
    code = (sent.code or "").strip() or (stored.code if stored else "")
    transport = (sent.transport or "").strip() or (stored.transport if stored else DEFAULT_TRANSPORT)
    auth = _auth(sent.auth, stored)
    auth = _canonical(draft, code, url, auth)
    if not auth["mode"]:
        auth["mode"] = "none"
    if stored and not (same_origin_only and origin(url) != origin(stored.url)):
        auth = _inherit(auth, stored.auth)
    if not url:
        raise refuse("url is required")
    if not is_http_url(url):
        raise refuse("url must be a valid http(s) URL")
    if transport not in TRANSPORTS:
        raise refuse(f"unsupported transport {quoted(transport)}")
    check_auth(auth)
    if sent.headers is None:
        headers = stored.headers if stored else {}
    else:
        headers = _headers(draft, registry_id, string_map(sent.headers), stored.headers if stored else {})
    return MCPTarget(url=url, transport=transport, code=code, headers=headers, auth=_store(draft, registry_id, auth))


def _auth(sent: MCPAuthIn | None, stored: MCPTarget | None) -> Json:
    if stored and (sent is None or sent == MCPAuthIn()):
        return dict(stored.auth)
    members: Json = msgspec.to_builtins(sent or MCPAuthIn())
    if members.get("scopes"):
        members["scopes"] = list(strings(members["scopes"]))
    mode = members.pop("mode") or ""
    return {"mode": mode, **{name: value for name, value in members.items() if value}}


def _canonical(draft: Draft, code: str, url: str, auth: Json) -> Json:
    """Where the catalog says client credentials, its endpoint, scopes, method and resource hold."""
    entry = draft.catalog.mcp_catalog_entry(code) if code else None
    oauth: Json = (entry or {}).get("oauth") or {}
    if oauth.get("grant_type") != "client_credentials":
        return auth
    if auth["mode"] not in ("", "client_credentials"):
        raise refused(f"{FAILED}: catalog entry {quoted(code)} requires auth mode client_credentials")
    if not oauth.get("token_url"):
        raise refused(f"{FAILED}: catalog entry {quoted(code)} is missing oauth.token_url")
    given: dict[str, Any] = {
        "token_url": oauth["token_url"],
        "scopes": list(oauth.get("scopes") or ()),
        "token_endpoint_auth_method": oauth.get("token_endpoint_auth_method"),
        "resource": oauth.get("resource") or (url if oauth.get("resource_metadata") else ""),
    }
    kept = {name: value for name, value in auth.items() if name not in OVERWRITTEN}
    return {**kept, "mode": "client_credentials", **{name: value for name, value in given.items() if value}}


def _inherit(auth: Json, stored: Json) -> Json:
    name = INHERITED.get(auth["mode"])
    if name is None or stored.get("mode") != auth["mode"] or auth.get("registration") == "auto":
        return auth
    value = inherit(auth.get(name), stored.get(name))
    return {**auth, name: value} if value else auth


def check_auth(auth: Json) -> None:
    """Raise the first rule that a merged `auth` breaks."""
    rule = RULES.get(auth["mode"])
    if rule is None:
        raise refuse(f"unknown auth mode {quoted(auth['mode'])}")
    rule(auth)
    _no_mask(auth)


def _no_mask(auth: Json) -> None:
    if any(is_masked(auth.get(name)) for name in SECRETS):
        raise refuse(MASKED)


def _none(auth: Json) -> None:
    if given(auth, "header") or given(auth, "value"):
        raise refuse("auth mode none does not accept header/value")


def _static(auth: Json) -> None:
    if not (given(auth, "header") and given(auth, "value")):
        raise refuse("auth mode static requires header and value")


def _passthrough(auth: Json) -> None:
    if not given(auth, "expected_audience"):
        raise refuse("passthrough requires expected_audience (unconstrained passthrough is forbidden)")


PATTERNS: dict[str, tuple[tuple[str, ...], str]] = {
    "impersonation": (("audience",), "exchange/impersonation requires audience"),
    "delegation": (("audience", "actor"), "exchange/delegation requires audience and actor"),
    "obo": (("scope",), "exchange/obo requires scope (e.g. resource/.default)"),
    "token_exchange": (("audience",), "exchange/token_exchange requires audience"),
}


def _exchange(auth: Json) -> None:
    needed, message = PATTERNS.get(
        auth.get("pattern", ""),
        (("pattern?",), "exchange requires pattern (impersonation|delegation|obo|token_exchange)"),
    )
    if not all(given(auth, name) for name in needed):
        raise refuse(message)


def _forwarded(auth: Json) -> None:
    if not given(auth, "provider"):
        raise refuse("forwarded requires provider")
    registration = auth.get("registration") or "manual"
    if registration == "auto":
        if given(auth, "client_id") or given(auth, "client_secret"):
            raise refuse("registration auto does not accept client_id/client_secret")
    elif registration == "manual":
        if not (given(auth, "client_id") and given(auth, "authorize_url") and given(auth, "token_url")):
            raise refuse(
                "forwarded with manual registration requires client_id, authorize_url and token_url"
                " (or set registration: auto)"
            )
        if not (is_http_url(auth["authorize_url"]) and is_http_url(auth["token_url"])):
            raise refuse("authorize_url and token_url must be valid http(s) URLs")
    else:
        raise refuse(f"unknown registration mode {quoted(registration)}")


def _client_credentials(auth: Json) -> None:
    if not (given(auth, "client_id") and given(auth, "client_secret")):
        raise refuse("client_credentials requires client_id and client_secret")
    _no_mask(auth)
    if not is_http_url(auth.get("token_url", "")):
        raise refuse("client_credentials requires a valid http(s) token_url")
    method = auth.get("token_endpoint_auth_method") or "client_secret_basic"
    if method not in ("client_secret_basic", "client_secret_post"):
        raise refuse(f"unknown token_endpoint_auth_method {quoted(method)}")


RULES = {
    "none": _none,
    "static": _static,
    "passthrough": _passthrough,
    "exchange": _exchange,
    "forwarded": _forwarded,
    "client_credentials": _client_credentials,
}


def _store(draft: Draft, registry_id: str, auth: Json) -> Json:
    return {
        name: draft.secret(registry_id, f"mcp_target.auth.{name}", value)
        if name in SECRETS and isinstance(value, str)
        else value
        for name, value in auth.items()
    }


def _headers(draft: Draft, registry_id: str, sent: dict[str, str], stored: Json) -> Json:
    kept: Json = {}
    for name, value in sent.items():
        if not CREDENTIAL_HEADER.search(name) or not value:
            kept[name] = value
        elif not is_masked(value):
            kept[name] = draft.secret(registry_id, f"mcp_target.headers.{name}", value)
        elif secrets.is_ref(stored.get(name)):
            kept[name] = stored[name]
        else:
            raise refuse(MASKED)
    return kept
