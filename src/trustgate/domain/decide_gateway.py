"""Create, change and delete a gateway (spec 01 §5; exporters: spec 06 §11.1)."""

from __future__ import annotations

import re
from typing import Any, NoReturn, cast

from msgspec.structs import replace

from trustgate.domain import commands as cmd
from trustgate.domain import events as ev
from trustgate.domain.credentials import hide, readable
from trustgate.domain.decision import Draft
from trustgate.domain.directory import TIER_RANK, listed
from trustgate.domain.entities import Entitlements, Gateway, Json, SessionConfig
from trustgate.domain.errors import already_exists, conflict, invalid, invalid_member, not_found, quoted
from trustgate.domain.inputs import EntitlementsIn, ExporterIn, SessionConfigIn, StringMap, TelemetryIn
from trustgate.domain.values import free, string_map

SLUG = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
HOSTNAME = re.compile(r"[a-z0-9.-]+", re.ASCII)
SERVER_METADATA = ("tenant_id", "team_id")
EXPORTER_SECRETS = (("headers", "*"), ("dsn",), ("sasl", "password"))
PLATFORM_ONLY = (
    ("settings", "dsn"),
    ("settings", "dsn_env"),
    ("settings", "path"),
    ("settings", "sasl", "password_env"),
    ("settings", "tls", "ca_file"),
    ("settings", "tls", "cert_file"),
    ("settings", "tls", "key_file"),
    ("class",),
)
LIMIT_REACHED = "ratelimit: instance limit reached: resource conflict"


def create_gateway(draft: Draft, command: cmd.CreateGateway) -> None:
    """Order of checks: entitlements shape, slug, tenant, exporters, entitlements role, domain, then what is taken."""
    body, meta = command.body, draft.meta
    entitlements = stamped(body.entitlements)
    slug = (body.slug or "").strip().lower()
    if slug:
        check_slug(slug)
    tenant = tenant_of(meta, body.tenant_id)
    telemetry = store_telemetry(draft, command.id, body.telemetry, None)
    if meta.tenant is None and entitlements is None:
        raise invalid("entitlements are required for platform create")
    check_role(meta, entitlements)
    domain = check_domain(body.domain or "")
    entitlements = inherited(draft, tenant, entitlements or Entitlements())
    check_instances(draft, entitlements, len(draft.directory.of_tenant(tenant)) + 1)
    if draft.state.gateway is not None:
        raise already_exists("gateway")
    slug = slug or free_slug(draft, command.slug_candidates)
    check_unique(draft, command.id, slug, domain)
    gateway = Gateway(
        id=command.id,
        slug=slug,
        created_at=meta.time,
        updated_at=meta.time,
        domain=domain,
        metadata=stamp(body.metadata, tenant),
        telemetry=telemetry,
        client_tls=free(body.client_tls or {}),
        session_config=session(body.session_config) if body.session_config else SessionConfig(enabled=True),
        entitlements=entitlements,
    )
    draft.record(ev.GatewayCreated(gateway))
    draft.enlist(listed(gateway))


def update_gateway(draft: Draft, command: cmd.UpdateGateway) -> None:
    body, meta = command.body, draft.meta
    entitlements = stamped(body.entitlements)
    slug = None if body.slug is None else body.slug.strip().lower()
    if slug is not None:
        check_slug(slug)
    old = draft.state.gateway
    if old is None:
        raise not_found()
    telemetry = store_telemetry(draft, command.id, body.telemetry, old.telemetry)
    check_role(meta, entitlements)
    domain = old.domain if body.domain is None else check_domain(body.domain)
    tenant = old.tenant_id or meta.tenant or ""
    if entitlements is not None:
        check_instances(draft, entitlements, len(draft.directory.of_tenant(tenant)))
    slug = slug or old.slug
    check_unique(draft, command.id, slug, domain)
    gateway = replace(
        old,
        slug=slug,
        updated_at=meta.time,
        status=old.status if body.status is None else body.status or "active",
        domain=domain,
        metadata=stamp(old.metadata if body.metadata is None else body.metadata, tenant),
        telemetry=telemetry,
        client_tls=old.client_tls if body.client_tls is None else free(body.client_tls),
        session_config=old.session_config if body.session_config is None else session(body.session_config),
        entitlements=entitlements or old.entitlements,
    )
    draft.record(ev.GatewayUpdated(gateway))
    if listed(gateway) != listed(old):
        draft.enlist(listed(gateway))


def delete_gateway(draft: Draft, command: cmd.DeleteGateway) -> None:
    if draft.state.gateway is None:
        raise not_found()
    slugs = tuple(sorted(consumer.slug for consumer in draft.state.consumers.values()))
    draft.record(ev.GatewayDeleted(command.id))
    draft.enlist(ev.GatewayUnlisted(command.id, slugs))


def check_slug(slug: str) -> None:
    if not slug:
        raise invalid("slug is required")
    if not SLUG.fullmatch(slug):
        raise invalid("slug must be a lowercase DNS label")


def free_slug(draft: Draft, candidates: tuple[str, ...]) -> str:
    """The first generated slug that is not taken; the last one when all are, which is then refused."""
    for slug in candidates:
        if slug not in draft.directory.slugs:
            return slug
    return candidates[-1] if candidates else ""


def check_unique(draft: Draft, id_: str, slug: str, domain: str) -> None:
    if not slug or draft.directory.slugs.get(slug, id_) != id_:
        raise already_exists("gateway", "the slug is already taken")
    if domain and draft.directory.domains.get(domain, id_) != id_:
        raise already_exists("gateway")


def check_domain(raw: str) -> str:
    """A bare host name, trimmed and in lower case; empty clears it."""

    def refuse(detail: str) -> NoReturn:
        raise invalid_member("gateway: invalid domain", f"{quoted(raw)} {detail}")

    domain = raw.strip().lower()
    if not domain:
        return ""
    if any(char in "/:?#" or char.isspace() for char in domain):
        refuse("must be a bare hostname (no scheme, port or path)")
    if "*" in domain:
        refuse("wildcard domains are not supported")
    if domain.startswith(".") or domain.endswith("."):
        refuse("must not start or end with a dot")
    if not HOSTNAME.fullmatch(domain):
        refuse("contains invalid hostname characters")
    return domain


def tenant_of(meta: cmd.Meta, sent: str | None) -> str:
    asked = (sent or "").strip()
    if meta.tenant is not None:
        if asked and asked != meta.tenant:
            raise invalid("tenant_id does not match authenticated tenant")
        return meta.tenant
    if not asked:
        raise invalid("tenant_id is required")
    return asked


def stamp(metadata: StringMap | dict[str, str] | None, tenant: str) -> dict[str, str]:
    """The client's metadata under the server's `tenant_id`."""
    kept = {key: value for key, value in string_map(metadata).items() if key not in SERVER_METADATA}
    return {**kept, "tenant_id": tenant} if tenant else kept


def session(sent: SessionConfigIn) -> SessionConfig:
    return SessionConfig(enabled=sent.enabled, header_name=sent.header_name, body_param_name=sent.body_param_name)


def stamped(sent: EntitlementsIn | None) -> Entitlements | None:
    """The plan as sent, which must be whole."""
    if sent is None:
        return None
    tier = (sent.tier or "").strip().lower() or "free"
    if tier not in TIER_RANK:
        raise invalid("gateway: entitlements.tier must be one of free, standard, enterprise")
    caps = (sent.burst_per_min, sent.quota_per_month, sent.max_instances)
    if None in caps and any(cap is not None for cap in caps):
        raise invalid(
            "gateway: entitlements stamped limits must set burst_per_min, quota_per_month, and max_instances together"
        )
    burst, quota, instances = caps
    if burst is None or quota is None or instances is None:
        raise invalid("gateway: entitlements must include burst_per_min, quota_per_month, and max_instances")
    if burst <= 0:
        raise invalid("gateway: entitlements.burst_per_min must be > 0")
    if quota < 0:
        raise invalid("gateway: entitlements.quota_per_month must be >= 0")
    if instances < 0:
        raise invalid("gateway: entitlements.max_instances must be >= 0")
    return Entitlements(tier=tier, burst_per_min=burst, quota_per_month=quota, max_instances=instances)


def check_role(meta: cmd.Meta, entitlements: Entitlements | None) -> None:
    if meta.tenant is not None and entitlements is not None:
        raise invalid("entitlements may only be set by platform admins")


def inherited(draft: Draft, tenant: str, entitlements: Entitlements) -> Entitlements:
    """A free gateway gets the plan of its tenant's highest tier; the newest gateway decides among equals."""
    others = draft.directory.of_tenant(tenant)
    if entitlements.tier != "free" or not others:
        return entitlements
    best = max(others, key=lambda other: (TIER_RANK.get(other.entitlements.tier, 0), other.created_at))
    return best.entitlements


def check_instances(draft: Draft, entitlements: Entitlements, count: int) -> None:
    cap = entitlements.max_instances or 0
    if draft.context.limits_enabled and 0 < cap < count:
        raise conflict(LIMIT_REACHED)


def store_telemetry(draft: Draft, gateway_id: str, sent: TelemetryIn | None, stored: Json | None) -> Json | None:
    """Telemetry as kept: five members, unset ones as null or false, and `capture_bodies` where it was sent."""
    if sent is None:
        return stored
    kept: dict[str, Any] = {entry["name"]: entry for entry in (stored or {}).get("exporters") or ()}
    exporters: list[Json] | None = None
    if sent.exporters is not None:
        exporters, names = [], set[str]()
        for index, item in enumerate(sent.exporters):
            name = (item.name if item else None) or ""
            if name in names:
                raise invalid(f"duplicate telemetry exporter {quoted(name)}")
            names.add(name)
            exporters.append(store_exporter(draft, gateway_id, index, item or ExporterIn(), kept.get(name)))
    bodies = {} if sent.capture_bodies is None else {"capture_bodies": sent.capture_bodies}
    return bodies | {
        "exporters": exporters,
        "extra_params": None if sent.extra_params is None else string_map(sent.extra_params),
        "enable_plugin_traces": bool(sent.enable_plugin_traces),
        "enable_request_traces": bool(sent.enable_request_traces),
        "header_mapping": None if sent.header_mapping is None else string_map(sent.header_mapping),
    }


def check_exporter_rights(entry: Json, stored: Json) -> None:
    """A tenant may echo, but not set, what reaches into the host: DSNs, its environment, its files, raw bodies."""
    for path in PLATFORM_ONLY:
        value = member_at(entry, path)
        if value and value != member_at(stored, path) and (path != ("class",) or value == "raw"):
            name, member = quoted(entry["name"]), ".".join(path)
            raise invalid(f"invalid telemetry exporter: exporter {name}: {member} may only be set by platform admins")


def member_at(value: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        value = cast("Json", value).get(name) if isinstance(value, dict) else None
    return value


def redirected(sent: ExporterIn, stored: Json | None) -> bool:
    """Whether the platform's exporter is sent back with another destination."""
    if stored is None or stored.get("confined"):
        return False
    old, new = cast("Json", stored.get("settings") or {}), cast("Json", free(sent.settings) or {})
    kinds = sent.type or sent.name, stored.get("type") or stored["name"]
    return kinds[0] != kinds[1] or any(old.get(name) != new.get(name) for name in ("endpoint", "brokers", "tls"))


def confined(entry: Json, stored: Json | None) -> bool:
    """Whether a tenant's exporter is bound to the rules for tenants: unless it is the platform's, echoed."""
    if stored is None or stored.get("confined"):
        return True
    return any(entry.get(name) != stored.get(name) for name in ("name", "type", "class", "settings"))


def store_exporter(draft: Draft, gateway_id: str, index: int, sent: ExporterIn, stored: Json | None) -> Json:
    name = sent.name or ""

    def refuse() -> Exception:
        return invalid(
            f"invalid telemetry exporter: exporter {quoted(name)}: secret cannot be a masked value;"
            " omit the field to keep the stored value"
        )

    path = f"telemetry.exporters.{index}.settings"
    old = (stored or {}).get("settings")
    if draft.meta.tenant is not None and redirected(sent, stored):
        old = None  # the platform's secret does not follow a tenant to a destination of its own
    entry: Json = {"name": name, "type": sent.type or "", "settings": sent.settings}
    entry["settings"] = hide(draft, gateway_id, path, free(sent.settings), old, EXPORTER_SECRETS, refuse)
    if sent.class_:
        entry["class"] = sent.class_
    if draft.meta.tenant is not None:
        check_exporter_rights(entry, stored or {})
        if confined(entry, stored):
            entry["confined"] = True
    detail = draft.catalog.validate_exporter(readable(entry, draft))
    if detail is not None:
        raise invalid(f"invalid telemetry exporter: {detail}")
    return entry
