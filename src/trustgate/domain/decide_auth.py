"""Create, change, rotate and delete a credential (spec 01 §9, spec 05 §4)."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from ipaddress import ip_network
from typing import Any, cast

import msgspec
from msgspec.structs import replace

from trustgate.domain import commands as cmd
from trustgate.domain import events as ev
from trustgate.domain import secrets
from trustgate.domain.auth_guards import check_loss, check_type_change
from trustgate.domain.credentials import inherit, is_blank, is_masked
from trustgate.domain.decision import Draft
from trustgate.domain.entities import Auth, AuthType, GatewayState, Json
from trustgate.domain.errors import DomainError, already_exists, foreign, invalid, invalid_member, not_found, quoted
from trustgate.domain.inputs import AuthConfigIn, Strings
from trustgate.domain.values import check_name, is_http_url, origin

TYPES = frozenset({"api_key", "oauth2", "oidc", "mtls"})
PAYLOADS = ("oauth2", "oidc", "mtls")
PROTOCOL_SCOPES = frozenset({"openid", "profile", "email", "offline_access"})
TRIMMED = ("authorize_url", "token_url")
TRIMMED_LISTS = ("audiences", "required_scopes")
DUPLICATE = "auth: another enabled oauth2 auth already covers this issuer and audience"


def digest(api_key: str) -> str:
    """What is stored of an API key."""
    return hashlib.sha256(api_key.encode()).hexdigest()


def create_auth(draft: Draft, command: cmd.CreateAuth) -> None:
    body, meta = command.body, draft.meta
    name = check_name(body.name)
    kind = check_type_given(body.type)
    check_type(kind)
    auth = Auth(
        id=command.id,
        gateway_id=command.gateway_id,
        name=name,
        type=kind,
        created_at=meta.time,
        updated_at=meta.time,
        enabled=body.enabled is not False,
    )
    auth = bounded(auth, body.expires_at, body.allowed_cidrs)
    if kind == "api_key":
        auth = with_key(auth, command.api_key)
    else:
        config = shape(body.config or AuthConfigIn())
        check_config(kind, config)
        auth = replace(auth, config=store(draft, auth.id, config))
    draft.check_new("auth", draft.state.auths, command.id)
    check_overlap(draft.state, auth)
    draft.record(ev.AuthCreated(auth))


def update_auth(draft: Draft, command: cmd.UpdateAuth) -> None:
    body = command.body
    if body.name is not None:
        check_name(body.name)
    if body.type is not None:
        check_type_given(body.type)
    old = draft.state.auths.get(command.id)
    if old is None:
        raise foreign("auth") if draft.context.owner("auth", command.id) else not_found()
    kind = old.type if body.type is None else cast("AuthType", body.type)
    check_type(kind)
    config = old.config
    if body.config is not None:
        config = merge(shape(body.config), old.config, same_origin_only=draft.context.require_secret_on_new_origin)
    check_config(kind, config)
    auth = replace(
        old,
        name=old.name if body.name is None else body.name,
        type=kind,
        enabled=old.enabled if body.enabled is None else body.enabled,
        config=store(draft, old.id, config),
        updated_at=draft.meta.time,
    )
    auth = bounded(auth, body.expires_at, body.allowed_cidrs)
    if kind == "api_key" and not auth.key_hash:
        auth = with_key(auth, command.api_key)
    if kind != old.type:
        check_type_change(draft.state, old.id, kind)
    if old.enabled and not auth.enabled:
        check_loss(draft.state, old.id, "disabling")
    check_overlap(draft.state, auth)
    draft.record(ev.AuthUpdated(auth))


def rotate_auth(draft: Draft, command: cmd.RotateAuth) -> None:
    old = draft.state.auths.get(command.id)
    if old is None:
        raise not_found()
    if old.type != "api_key":
        raise invalid_member("auth: invalid type", f"only api_key auths can be rotated, got {quoted(old.type)}")
    draft.record(ev.AuthUpdated(replace(with_key(old, command.api_key), updated_at=draft.meta.time)))


def delete_auth(draft: Draft, command: cmd.DeleteAuth) -> None:
    """Detached from every consumer in the same decision."""
    id_, state = command.id, draft.state
    if id_ not in state.auths:
        raise not_found()
    check_loss(state, id_, "deleting")
    for consumer in state.consumers.values():
        if id_ in consumer.auth_ids:
            draft.record(ev.AuthDetached(consumer.id, id_))
    draft.record(ev.AuthDeleted(id_))


def with_key(auth: Auth, api_key: str) -> Auth:
    """The auth with the digest of a key and the few characters of it that are shown."""
    return replace(auth, key_hash=digest(api_key), key_prefix=api_key[:8], key_suffix=api_key[-4:])


def bounded(auth: Auth, expires_at: str | None, allowed_cidrs: Strings | None) -> Auth:
    """The auth with the bounds of its key as sent: absent ones stay, an empty text or list lifts them.

    An auth that was an API key and is none now keeps them with its key, for when it is one again.
    """
    if auth.type != "api_key" and not auth.key_hash and (expires_at or allowed_cidrs):
        raise refuse("expires_at and allowed_cidrs are only valid for api_key auths")
    if expires_at is not None:
        auth = replace(auth, expires_at=expiry(expires_at) if expires_at.strip() else None)
    if allowed_cidrs is not None:
        auth = replace(auth, allowed_cidrs=tuple(cidr(index, text) for index, text in enumerate(allowed_cidrs)))
    return auth


def expiry(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text.strip())
        if "T" in text.upper() and moment.tzinfo is not None:
            return moment.astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise refuse("expires_at must be an RFC 3339 time")


def cidr(index: int, text: str | None) -> str:
    """A network, or a single address, in its canonical spelling."""
    try:
        return str(ip_network((text or "").strip(), strict=False))
    except ValueError:
        raise refuse(f"allowed_cidrs[{index}] must be an address or a CIDR block") from None


def check_type_given(kind: str | None) -> AuthType:
    if kind is None or not kind.strip():
        raise invalid("type is required")
    return cast("AuthType", kind)


def check_type(kind: str) -> None:
    if kind not in TYPES:
        raise invalid_member("auth: invalid type", quoted(kind))


def shape(sent: AuthConfigIn) -> Json:
    """The payloads as sent, without members that are absent, empty or false; what is trimmed is trimmed."""
    config: Json = {}
    for name in PAYLOADS:
        payload = getattr(sent, name)
        if payload is None:
            continue
        members: dict[str, Any] = msgspec.to_builtins(payload)
        for member, value in members.items():
            if isinstance(value, list):
                items = [item or "" for item in cast("list[str | None]", value)]
                trimmed = name == "oauth2" and member in TRIMMED_LISTS
                members[member] = [item.strip() for item in items] if trimmed else items
            elif member in TRIMMED and isinstance(value, str):
                members[member] = value.strip()
        config[name] = {member: value for member, value in members.items() if value}
    return config


def merge(config: Json, stored: Json, *, same_origin_only: bool = False) -> Json:
    """The config of a PUT with the stored client secret where its own is blank.

    A masked one with nothing stored is let go, when both configs are oauth2 ones.
    """
    new, old = config.get("oauth2"), stored.get("oauth2")
    if new is None or old is None or not is_blank(new.get("client_secret")):
        return config
    moved = any(origin(new.get(name, "")) != origin(old.get(name, "")) for name in ("issuer", "token_url"))
    secret = None if same_origin_only and moved else inherit(new.get("client_secret"), old.get("client_secret"))
    kept = {name: value for name, value in new.items() if name != "client_secret"}
    return {**config, "oauth2": {**kept, "client_secret": secret} if secrets.is_ref(secret) else kept}


def refuse(detail: str) -> DomainError:
    return invalid_member("auth: invalid config", detail)


def check_config(kind: str, config: Json) -> None:
    if kind == "api_key":
        if config:
            raise refuse("api_key auth does not accept a config payload")
        return
    if list(config) != [kind]:
        raise refuse(f"exactly the {kind} config payload must be set for type {quoted(kind)}")
    RULES[kind](config[kind])


def _texts(value: Any) -> Iterable[str]:
    return cast("list[str]", value or [])


def _oauth2(config: Json) -> None:
    if is_masked(config.get("client_secret")):
        raise refuse("oauth2.client_secret cannot be a masked value; omit it to keep the stored value")
    issuer = config.get("issuer", "").strip()
    if not issuer:
        raise refuse("oauth2.issuer is required")
    if not config.get("audiences"):
        raise refuse("oauth2.audiences is required")
    if not all(_texts(config["audiences"])):
        raise refuse("oauth2.audiences cannot contain empty entries")
    for scope in _texts(config.get("required_scopes")):
        if not scope:
            raise refuse("oauth2.required_scopes cannot contain empty entries")
        if scope in PROTOCOL_SCOPES:
            raise refuse(
                f"oauth2.required_scopes cannot contain the OIDC protocol scope {quoted(scope)}"
                " (it is not carried by access tokens)"
            )
    if config.get("userinfo_url") and not is_http_url(config["userinfo_url"]):
        raise refuse("oauth2.userinfo_url must be an http(s) URL")
    urls = [config.get(name, "") for name in TRIMMED]
    if any(urls):
        if not all(urls):
            raise refuse("oauth2.authorize_url and oauth2.token_url must be set together")
        if not config.get("client_id"):
            raise refuse(
                "oauth2.authorize_url/token_url require oauth2.client_id"
                " (interactive brokering needs a pre-registered client)"
            )
        for name in TRIMMED:
            if not is_http_url(config[name]):
                raise refuse(f"oauth2.{name} must be an http(s) URL")
    sources = (config.get("session_mode"), config.get("jwks_url"), config.get("introspection_url"))
    if not any(sources) and not is_http_url(issuer):
        raise refuse("oauth2 requires jwks_url or introspection_url, or an http(s) issuer for OIDC discovery")


def _oidc(config: Json) -> None:
    if not config.get("issuer", "").strip():
        raise refuse("oidc.issuer is required")
    if not config.get("audiences"):
        raise refuse("oidc.audiences is required")
    if not config.get("jwks_url") and not config.get("public_keys"):
        raise refuse("oidc requires jwks_url or public_keys")
    if any(name.strip().upper().startswith("HS") for name in _texts(config.get("allowed_algorithms"))):
        raise refuse("oidc.allowed_algorithms must not include HMAC algorithms")


def _mtls(config: Json) -> None:
    bundle = config.get("ca_cert", "")
    if not bundle.strip():
        raise refuse("mtls.ca_cert is required")
    if not is_pem_bundle(bundle):
        raise refuse("mtls.ca_cert must be a PEM bundle of certificates")


CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----\s+([A-Za-z0-9+/=\s]+?)\s*-----END CERTIFICATE-----")


def is_pem_bundle(text: str) -> bool:
    """Whether the text is certificates in PEM (RFC 7468). What is inside them is judged when they are used."""
    blocks = CERTIFICATE.findall(text)
    try:
        return bool(blocks) and all(base64.b64decode("".join(block.split()), validate=True) for block in blocks)
    except ValueError:
        return False


RULES = {"oauth2": _oauth2, "oidc": _oidc, "mtls": _mtls}


def store(draft: Draft, auth_id: str, config: Json) -> Json:
    secret = config.get("oauth2", {}).get("client_secret")
    if not isinstance(secret, str):
        return config
    reference = draft.secret(auth_id, "config.oauth2.client_secret", secret)
    return {**config, "oauth2": {**config["oauth2"], "client_secret": reference}}


def audiences(auth: Auth) -> set[str]:
    return {audience.removeprefix("api://") for audience in _texts(auth.config["oauth2"].get("audiences"))}


def check_overlap(state: GatewayState, auth: Auth) -> None:
    """No two enabled oauth2 auths of a gateway cover the same issuer and audience (oldest clash is named)."""
    if auth.type != "oauth2" or not auth.enabled:
        return
    issuer, covered = auth.config["oauth2"]["issuer"].strip(), audiences(auth)
    for other in sorted(state.auths.values(), key=lambda item: (item.created_at, item.id)):
        if other.id == auth.id or other.type != "oauth2" or not other.enabled:
            continue
        if other.config["oauth2"]["issuer"].strip() == issuer and covered & audiences(other):
            raise already_exists(
                DUPLICATE,
                f"conflicts with {quoted(other.name)} ({other.id});"
                " scope it with a distinct audience or disable the other entry",
            )
