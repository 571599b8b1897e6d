"""Credentials of an LLM upstream: shape, inheritance on PUT, validation (spec 01 §6.2).

What lives here: everything about the `auth` member of an LLM registry. Stored form: `{"type": T, "<payload>": {...}}`
with only the members that were given. What must not: the registry around it (`decide_registry`).
"""

from __future__ import annotations

from typing import Any, cast

import msgspec

from trustgate.domain import secrets
from trustgate.domain.credentials import given, inherit, is_blank, is_masked
from trustgate.domain.decision import Draft
from trustgate.domain.entities import Json
from trustgate.domain.errors import DomainError, invalid_member, quoted
from trustgate.domain.inputs import TargetAuthIn
from trustgate.domain.values import origin, string_map, strings

MASKED = "secret cannot be a masked value; omit the field to keep the stored value"

SECRETS: dict[str, tuple[str, ...]] = {
    "api_key": ("api_key", "header_value", "param_value"),
    "azure": ("api_key", "client_secret"),
    "aws": ("access_key_id", "secret_access_key", "session_token"),
    "oauth": ("client_secret", "refresh_token", "password"),
}
"""Members that are masked and inherited, by payload."""

WRITE_ONLY = ("code", "redirect_uri", "code_verifier", "username", "password")
"""Members of the `oauth` payload that no answer shows."""

VAULTED = {**SECRETS, "oauth": (*SECRETS["oauth"], "code", "code_verifier")}
"""Members that are kept in the vault, by payload."""

ORIGINS = {"azure": "endpoint", "oauth": "token_url"}
"""Which member says where a payload's secrets are sent."""


def refuse(detail: str) -> DomainError:
    return invalid_member("registry: invalid backend", detail)


def shape(sent: TargetAuthIn) -> Json:
    """The credentials as sent, without members that are absent, empty or false."""
    auth: Json = {"type": sent.type or ""}
    for name in ("api_key", "azure", "aws", "oauth"):
        payload = getattr(sent, name)
        if payload is None:
            continue
        members: Json = msgspec.to_builtins(payload)
        if members.get("scopes"):
            members["scopes"] = list(strings(members["scopes"]))
        if members.get("extra"):
            members["extra"] = string_map(members["extra"])
        auth[name] = {key: value for key, value in members.items() if value}
    account = service_account(sent.gcp_service_account)
    if account:
        auth["gcp_service_account"] = account
    return auth


def service_account(sent: str | Json | None) -> str:
    """A service account as compact JSON with sorted keys; other text as it is."""
    if sent is None:
        return ""
    if isinstance(sent, str):
        try:
            value = msgspec.json.decode(sent)
        except msgspec.DecodeError:
            return sent
        if not isinstance(value, dict):
            return sent
    else:
        value = sent
    return msgspec.json.encode(value, order="deterministic").decode()


def project_of(sent: TargetAuthIn | None) -> str:
    """The `project_id` of a service account in clear, or empty."""
    try:
        account = msgspec.json.decode(service_account(sent.gcp_service_account if sent else None) or "{}")
    except msgspec.DecodeError:
        return ""
    project = cast("Json", account).get("project_id") if isinstance(account, dict) else None
    return project if isinstance(project, str) else ""


def merge(auth: Json, stored: Json | None, *, same_origin_only: bool = False) -> Json:
    """The credentials of a PUT with the stored secrets where theirs are blank and the type is unchanged.

    `same_origin_only` inherits nothing for a payload whose target moved to another origin.
    """
    if stored is None or stored.get("type") != auth["type"]:
        return auth
    merged = dict(auth)
    for name, members in SECRETS.items():
        new, old = auth.get(name), stored.get(name)
        if new is None or old is None:
            continue
        where = ORIGINS.get(name)
        if same_origin_only and where and origin(str(new.get(where, ""))) != origin(str(old.get(where, ""))):
            continue
        if name == "azure":
            merged[name] = merge_azure(new, old)
        else:
            kept = {member: inherit(new.get(member), old.get(member)) for member in members}
            merged[name] = {**new, **{member: value for member, value in kept.items() if value}}
    if auth["type"] == "gcp_service_account":
        account = inherit(auth.get("gcp_service_account"), stored.get("gcp_service_account"))
        if account:
            merged["gcp_service_account"] = account
    return merged


AZURE_PRINCIPAL = ("client_id", "client_secret", "tenant_id")


def azure_modes(payload: Json) -> list[str]:
    """The modes that a payload's members hint at."""
    modes: list[str] = []
    if given(payload, "api_key"):
        modes.append("api_key")
    if any(given(payload, member) for member in AZURE_PRINCIPAL):
        modes.append("principal")
    if payload.get("use_managed_identity"):
        modes.append("managed")
    return modes


def merge_azure(new: Json, old: Json) -> Json:
    """An Azure payload of a PUT: one mode, the hinted or else the stored one, and only that mode's members."""
    hints, stored = azure_modes(new), azure_modes(old)
    if len(hints) > 1:
        return new
    mode = hints[0] if hints else stored[0] if stored else ""
    merged = {member: new[member] for member in ("endpoint", "version") if new.get(member)}
    if mode == "managed":
        merged["use_managed_identity"] = True
    elif mode == "api_key":
        key = inherit(new.get("api_key"), old.get("api_key") if stored == ["api_key"] else None)
        merged |= {"api_key": key} if key else {}
    elif mode == "principal":
        identity = {member: new.get(member) or old.get(member) for member in ("client_id", "tenant_id")}
        same = all(identity[member] == old.get(member) for member in identity)
        secret = inherit(
            new.get("client_secret"), old.get("client_secret") if stored == ["principal"] and same else None
        )
        merged |= {name: value for name, value in {**identity, "client_secret": secret}.items() if value}
    return merged


def check(auth: Json) -> None:
    """Raise the first rule that complete credentials break."""
    masked = [auth.get(name, {}).get(member) for name, members in SECRETS.items() for member in members]
    if any(is_masked(value) for value in (*masked, auth.get("gcp_service_account"))):
        raise refuse(MASKED)
    rule = RULES.get(auth["type"])
    if rule is None:
        raise refuse(f"unknown auth type {quoted(auth['type'])}")
    rule(auth)


def _api_key(auth: Json) -> None:
    payload = auth.get("api_key")
    if payload is None:
        raise refuse("api_key payload required for type api_key")
    pairs = (("api_key",), ("header_name", "header_value"), ("param_name", "param_value"))
    if not any(all(given(payload, member) for member in pair) for pair in pairs):
        raise refuse("api_key requires api_key, header pair, or param pair")


def _azure(auth: Json) -> None:
    payload = auth.get("azure")
    if payload is None:
        raise refuse("azure payload required for type azure")
    if not given(payload, "endpoint"):
        raise refuse("azure.endpoint is required")
    count = sum(1 for member in AZURE_PRINCIPAL if given(payload, member))
    if 0 < count < len(AZURE_PRINCIPAL):
        raise refuse("azure service principal requires client_id, client_secret, and tenant_id")
    modes = azure_modes(payload)
    if not modes:
        raise refuse("azure requires exactly one auth mode: api_key, service principal, or use_managed_identity")
    if len(modes) > 1:
        raise refuse("azure auth modes are mutually exclusive")


def _aws(auth: Json) -> None:
    payload = auth.get("aws")
    if payload is None:
        raise refuse("aws payload required for type aws")
    if not given(payload, "region"):
        raise refuse("aws.region is required")
    if payload.get("use_role"):
        if not given(payload, "role"):
            raise refuse("aws.role is required when use_role is true")
    elif not (given(payload, "access_key_id") and given(payload, "secret_access_key")):
        raise refuse("aws.access_key_id and aws.secret_access_key are required when use_role is false")


def _oauth2(auth: Json) -> None:
    payload = auth.get("oauth")
    if payload is None:
        raise refuse("oauth configuration required for type oauth2")
    if not given(payload, "token_url"):
        raise refuse("oauth.token_url is required")
    if not given(payload, "grant_type"):
        raise refuse("oauth.grant_type is required")


def _gcp(auth: Json) -> None:
    if not auth.get("gcp_service_account"):
        raise refuse("gcp_service_account payload required")


RULES = {"api_key": _api_key, "azure": _azure, "aws": _aws, "oauth2": _oauth2, "gcp_service_account": _gcp}


def store(draft: Draft, registry_id: str, auth: Json) -> Json:
    """Complete credentials with each secret in clear replaced by a reference."""
    kept = dict(auth)
    for name, members in VAULTED.items():
        payload: Any = auth.get(name)
        if payload is not None:
            kept[name] = {
                member: draft.secret(registry_id, f"auth.{name}.{member}", value)
                if member in members and isinstance(value, str)
                else value
                for member, value in payload.items()
            }
    account = auth.get("gcp_service_account")
    if account and not secrets.is_ref(account) and not is_blank(account):
        kept["gcp_service_account"] = draft.secret(registry_id, "auth.gcp_service_account", account)
    return kept
