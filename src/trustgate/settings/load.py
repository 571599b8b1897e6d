"""`Settings`: the whole configuration of a process, loaded from text and checked before anything listens.

`Settings.load` is pure; `Settings.check` refuses combinations that a set of planes cannot start with. Rooms below do
not see this class: `app.py` hands each of them its part.
"""

import socket
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

import trustgate
from trustgate.settings import areas, explaining, reporting, services
from trustgate.settings.checks import check
from trustgate.settings.values import Warning, fields_of, load_area

PLANES = ("admin", "proxy", "mcp")
DEPLOYED = frozenset({"prod", "production", "staging", "stage"})
PRODUCTION = frozenset({"prod", "production"})


class Settings(Struct, frozen=True):
    """Every setting, grouped by area. `warnings` are values that were not used as given."""

    app: areas.Application
    server: areas.Server
    secrets: areas.Secrets
    default_idp: areas.DefaultIdp
    mcp: areas.Mcp
    mcp_connect: areas.McpConnect
    cors: areas.Cors
    admin: areas.Admin
    audit: areas.Audit
    console: areas.Console
    log: areas.Log
    database: services.Database
    redis: services.Redis
    sessions: services.Sessions
    upstream: services.Upstream
    guards: services.Guards
    telemetry: reporting.Telemetry
    metrics: reporting.Metrics
    otlp: reporting.Otlp
    explain: explaining.Explain
    config_sync: reporting.ConfigSync
    warnings: tuple[Warning, ...] = ()

    @classmethod
    def load(cls, environ: Mapping[str, str]) -> "Settings":
        """Settings from the variables in `environ`; raises ConfigurationError for an unreadable strict variable."""
        warnings: list[Warning] = []
        loaded: dict[str, Any] = {name: load_area(area, environ, warnings) for name, area in AREAS.items()}
        settings = cls(**loaded)
        return _with_dependent_defaults(settings, environ, warnings)

    @property
    def deployed(self) -> bool:
        return self.app.env.strip().lower() in DEPLOYED

    @property
    def production(self) -> bool:
        """Missing secrets are provisioned (through Redis) instead of refused."""
        return self.app.env.strip().lower() in PRODUCTION

    @property
    def console_enabled(self) -> bool:
        """Serve the web console: as told, else everywhere but in a deployed environment without a login method."""
        if self.console.enabled is not None:
            return self.console.enabled
        return not self.deployed or bool(self.console.admin_password_hash or self.console.oidc_issuer)

    def database_less(self, planes: frozenset[str]) -> bool:
        """These planes take their configuration from a control plane. Never true where the admin plane runs."""
        return self.config_sync.data_plane_enabled and "admin" not in planes

    def embedded(self, planes: frozenset[str]) -> bool:
        """These planes keep configuration in SQLite under the data folder."""
        return not self.database.configured and not self.database_less(planes)

    def check(self, planes: frozenset[str]) -> None:
        """Raise ConfigurationError unless `planes` can start with these settings."""
        check(self, planes)


AREAS: dict[str, type[Struct]] = {
    info.name: info.type for info in msgspec.structs.fields(Settings) if info.name != "warnings"
}

_DATABASE_VARIABLES = tuple(field.var.name for field in fields_of(services.Database))


def _with_dependent_defaults(settings: Settings, environ: Mapping[str, str], warnings: list[Warning]) -> Settings:
    """Fill in defaults that depend on other settings, and normalise what has one right form."""
    replace = msgspec.structs.replace
    app, server, upstream, idp, cors = (
        settings.app,
        settings.server,
        settings.upstream,
        settings.default_idp,
        settings.cors,
    )
    hostname = app.hostname or socket.gethostname()
    if not environ.get("PROVIDER_RESPONSE_HEADER_TIMEOUT") or any(
        warning.key == "PROVIDER_RESPONSE_HEADER_TIMEOUT" for warning in warnings
    ):
        upstream = replace(upstream, response_header_timeout_s=upstream.request_timeout_s)
    if idp.issuer:
        base = idp.issuer.rstrip("/")
        idp = replace(
            idp,
            authorize_url=idp.authorize_url or f"{base}/authorize",
            token_url=idp.token_url or f"{base}/token",
            jwks_url=idp.jwks_url or f"{base}/jwks",
        )
    if cors.allow_credentials and "*" in cors.allow_origins:
        warnings.append(Warning("credentials are not allowed for the origin *, ignored", "CORS_ALLOW_CREDENTIALS"))
        cors = replace(cors, allow_credentials=False)
    return replace(
        settings,
        app=replace(app, version=app.version or trustgate.__version__, hostname=hostname),
        server=replace(
            server,
            gateway_base_domain=server.gateway_base_domain.strip().strip(".").lower(),
            mcp_base_domain=server.mcp_base_domain.strip().strip(".").lower(),
        ),
        upstream=upstream,
        default_idp=idp,
        cors=cors,
        log=_normal_log(settings.log, warnings),
        database=replace(settings.database, configured=any(environ.get(name) for name in _DATABASE_VARIABLES)),
        redis=replace(settings.redis, configured=bool(environ.get("REDIS_HOST") or environ.get("REDIS_CACHE_NAME"))),
        config_sync=replace(settings.config_sync, instance_id=settings.config_sync.instance_id or hostname),
        warnings=tuple(warnings),
    )


def _normal_log(log: areas.Log, warnings: list[Warning]) -> areas.Log:
    level = log.level.strip().upper()
    if areas.LOG_LEVEL.fullmatch(level) is None:
        warnings.append(Warning("invalid log level, falling back to INFO", "LOG_LEVEL", log.level))
        level = "INFO"
    format_ = log.format.strip().lower()
    return msgspec.structs.replace(log, level=level, format=format_ if format_ in areas.LOG_FORMATS else "json")


def known_variables() -> dict[str, str]:
    """Every variable name (aliases included) with the settings attribute that it fills, as `area.attribute`."""
    names: dict[str, str] = {}
    for area_name, area in AREAS.items():
        for field in fields_of(area):
            for name in (field.var.name, field.var.alias):
                if name:
                    names[name] = f"{area_name}.{field.attribute}"
    return names
