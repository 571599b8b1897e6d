"""Environment variables of the process itself: listeners, keys, who may come in, logs. One typed field each.

A field's `Var` is its documentation: `docs/configuration.md` and `trustgate check-config` are made from it.
Stores and upstreams are in `services.py`, telemetry and config sync in `reporting.py`. Durations are seconds (`_s`),
sizes bytes.
"""

import os
import re
from typing import Annotated

from msgspec import Struct

from trustgate.settings.values import Kind, Var

STR, INT, BOOL, DURATION, CSV, NETWORKS = Kind.STR, Kind.INT, Kind.BOOL, Kind.DURATION, Kind.CSV, Kind.NETWORKS

LOG_LEVEL = re.compile(r"(DEBUG|INFO|WARN|ERROR)([+-][0-9]{1,4})?")
LOG_FORMATS = ("json", "text", "colored")


class Application(Struct, frozen=True):
    """The installation as a whole."""

    env: Annotated[
        str,
        Var("APP_ENV", STR, "Environment name; `prod`, `production`, `staging` and `stage` are deployed environments."),
    ] = "dev"
    version: Annotated[
        str,
        Var(
            "APPLICATION_VERSION",
            STR,
            "Version shown by probes and gateway answers; read from the real environment only.",
            default_text="the package version",
        ),
    ] = ""
    data_dir: Annotated[
        str, Var("TRUSTGATE_DATA_DIR", STR, "Folder of the embedded store and of the generated server secret.")
    ] = "var"
    workers: Annotated[
        str,
        Var(
            "TRUSTGATE_WORKERS",
            STR,
            "Processes that share the ports of the data planes: a number, or `auto` for one a core.",
        ),
    ] = "1"
    hostname: Annotated[
        str,
        Var("HOSTNAME", STR, "Host name, used where no instance id is given.", default_text="the operating system's"),
    ] = ""
    config_barrier_timeout_s: Annotated[
        float,
        Var(
            "CONFIG_BARRIER_TIMEOUT",
            DURATION,
            "How long an Admin API write waits until every live data plane has applied it.",
            zero_allowed=True,
        ),
    ] = 0.1

    @property
    def worker_count(self) -> int:
        """The number of workers; 0 when `workers` is neither a number nor `auto`."""
        if self.workers.strip().lower() == "auto":
            return os.cpu_count() or 1
        return int(self.workers) if self.workers.strip().isascii() and self.workers.strip().isdigit() else 0


class Server(Struct, frozen=True):
    """HTTP listeners of all planes."""

    admin_port: Annotated[int, Var("SERVER_ADMIN_PORT", INT, "Port of the Admin API.")] = 8080
    proxy_port: Annotated[int, Var("SERVER_PROXY_PORT", INT, "Port of the LLM proxy.")] = 8081
    mcp_port: Annotated[int, Var("SERVER_MCP_PORT", INT, "Port of the MCP plane.")] = 8082
    read_timeout_s: Annotated[float, Var("SERVER_READ_TIMEOUT", DURATION, "Time to read one whole request.")] = 60.0
    write_timeout_s: Annotated[
        float,
        Var("SERVER_WRITE_TIMEOUT", DURATION, "Time for one write to the client, so long streams are not cut by it."),
    ] = 60.0
    idle_timeout_s: Annotated[float, Var("SERVER_IDLE_TIMEOUT", DURATION, "Idle time of a kept-alive connection.")] = (
        120.0
    )
    shutdown_timeout_s: Annotated[
        float, Var("SERVER_SHUTDOWN_TIMEOUT", DURATION, "Bound of a graceful shutdown, in-flight streams included.")
    ] = 50.0
    drain_delay_s: Annotated[
        float,
        Var(
            "SERVER_DRAIN_DELAY",
            DURATION,
            "Time between `/readyz` turning 503 and the listeners closing on shutdown.",
            zero_allowed=True,
        ),
    ] = 0.0
    tls_cert: Annotated[str, Var("SERVER_TLS_CERT", STR, "PEM certificate chain; the listeners then serve TLS.")] = ""
    tls_key: Annotated[str, Var("SERVER_TLS_KEY", STR, "PEM private key file of `SERVER_TLS_CERT`.")] = ""
    tls_client_ca: Annotated[
        str,
        Var("SERVER_TLS_CLIENT_CA", STR, "PEM file: only clients with a certificate of these authorities may connect."),
    ] = ""
    max_connections: Annotated[
        int,
        Var(
            "SERVER_MAX_CONNECTIONS",
            INT,
            "Open client connections per listener and worker; others get a 503 (admin plane and TLS: no answer).",
        ),
    ] = 16384
    max_connections_per_ip: Annotated[
        int, Var("SERVER_MAX_CONNECTIONS_PER_IP", INT, "Open connections per client address; 0 is unlimited.")
    ] = 0
    max_body_bytes: Annotated[int, Var("SERVER_MAX_BODY_BYTES", INT, "Largest request body.")] = 8 * 1024 * 1024
    max_header_bytes: Annotated[int, Var("SERVER_MAX_HEADER_BYTES", INT, "Largest request head.")] = 32 * 1024
    trusted_proxies: Annotated[
        tuple[str, ...],
        Var("TRUSTED_PROXY_CIDRS", NETWORKS, "Peers whose `X-Forwarded-For` names the client; nobody by default."),
    ] = ()
    trust_xfcc_from: Annotated[
        tuple[str, ...],
        Var("TRUST_XFCC_FROM", NETWORKS, "Peers whose `X-Forwarded-Client-Cert` header is believed."),
    ] = ()
    gateway_base_domain: Annotated[
        str, Var("GATEWAY_BASE_DOMAIN", STR, "Suffix of `{gateway slug}.<domain>` hosts on the proxy.")
    ] = "llm.neuraltrust.ai"
    mcp_base_domain: Annotated[
        str, Var("MCP_BASE_DOMAIN", STR, "Suffix of `{gateway slug}.<domain>` hosts on the MCP plane.")
    ] = "mcp.neuraltrust.ai"


class Audit(Struct, frozen=True):
    """Evidence that the log of configuration was not changed."""

    checkpoint_interval_s: Annotated[
        float,
        Var(
            "AUDIT_CHECKPOINT_INTERVAL",
            DURATION,
            "How often an admin plane signs a checkpoint of the log, when something changed; 0 only on demand.",
            zero_allowed=True,
        ),
    ] = 3600.0


class Secrets(Struct, frozen=True):
    """Keys of this installation."""

    server_key: Annotated[
        str,
        Var(
            "SERVER_SECRET_KEY",
            STR,
            "At least 32 bytes. Signs console and playground tokens and encrypts stored credentials.",
            secret=True,
            default_text="generated in embedded mode and, through Redis, in production",
        ),
    ] = ""
    server_key_previous: Annotated[
        str, Var("SERVER_SECRET_KEY_PREVIOUS", STR, "The key before a rotation: decrypts, never encrypts.", secret=True)
    ] = ""
    sts_issuer: Annotated[str, Var("STS_ISSUER", STR, "`iss` of the tokens minted by the MCP plane.")] = "trustgate"
    sts_signing_key: Annotated[
        str,
        Var(
            "STS_SIGNING_KEY",
            STR,
            "RSA private key (PEM, PEM with `\\n`, or base64 of PEM) that signs them.",
            secret=True,
            default_text="generated: shared through Redis in production, else per process",
        ),
    ] = ""

    @property
    def previous_keys(self) -> list[str]:
        """Keys that still decrypt."""
        return [self.server_key_previous] if self.server_key_previous else []


class DefaultIdp(Struct, frozen=True):
    """Built-in OAuth2 identity provider for MCP consumers that have none; enabled when the issuer is set."""

    issuer: Annotated[str, Var("MCP_DEFAULT_IDP_ISSUER", STR, "Issuer; enables the built-in identity provider.")] = ""
    authorize_url: Annotated[
        str,
        Var("MCP_DEFAULT_IDP_AUTHORIZE_URL", STR, "Authorization endpoint.", default_text="`{issuer}/authorize`"),
    ] = ""
    token_url: Annotated[
        str, Var("MCP_DEFAULT_IDP_TOKEN_URL", STR, "Token endpoint.", default_text="`{issuer}/token`")
    ] = ""
    jwks_url: Annotated[
        str, Var("MCP_DEFAULT_IDP_JWKS_URL", STR, "Key set endpoint.", default_text="`{issuer}/jwks`")
    ] = ""
    client_id: Annotated[str, Var("MCP_DEFAULT_IDP_CLIENT_ID", STR, "Client id of this gateway there.")] = ""
    client_secret: Annotated[
        str, Var("MCP_DEFAULT_IDP_CLIENT_SECRET", STR, "Client secret of this gateway there.", secret=True)
    ] = ""
    audience: Annotated[tuple[str, ...], Var("MCP_DEFAULT_IDP_AUDIENCE", CSV, "Accepted audiences.")] = (
        "neuraltrust-mcp",
    )
    scopes: Annotated[tuple[str, ...], Var("MCP_DEFAULT_IDP_SCOPES", CSV, "Requested scopes.")] = ()

    @property
    def enabled(self) -> bool:
        return bool(self.issuer)


class Mcp(Struct, frozen=True):
    """How the MCP plane names itself and asks upstream servers."""

    public_only: Annotated[
        bool,
        Var(
            "MCP_OUTBOUND_PUBLIC_ONLY",
            BOOL,
            "Connect only to public addresses: upstream servers, identity providers, whatever metadata names.",
        ),
    ] = False
    consent: Annotated[
        bool,
        Var("MCP_OAUTH_CONSENT", BOOL, "Users confirm the client and where it is sent back to, before they log in."),
    ] = False
    public_base_url: Annotated[
        str,
        Var(
            "MCP_PUBLIC_BASE_URL",
            STR,
            "Fixed `scheme://host` of every absolute URL of the MCP plane; empty: from the request.",
        ),
    ] = ""
    trusted_proxies: Annotated[
        tuple[str, ...],
        Var(
            "MCP_TRUSTED_PROXY_CIDRS",
            NETWORKS,
            "Peers whose `X-Forwarded-*` headers name scheme and host (CIDR blocks); empty: all of them.",
            strict=True,
        ),
    ] = ()
    allowed_hosts: Annotated[
        tuple[str, ...],
        Var(
            "MCP_ALLOWED_HOSTS",
            CSV,
            "Hosts, without port, that the MCP plane may be addressed by and that browser pages calling it may come "
            "from; `*.example.com` stands for every subdomain. Others get 403. Empty: all.",
        ),
    ] = ()
    discovery_timeout_s: Annotated[
        float,
        Var("MCP_DISCOVERY_TIMEOUT", DURATION, "Bound on asking one upstream for one list, all pages included."),
    ] = 30.0
    leeway_s: Annotated[
        float,
        Var(
            "MCP_TOKEN_LEEWAY",
            DURATION,
            "How far the clocks of identity providers may be off (at most `1m`): `exp` and `nbf` of their tokens.",
            zero_allowed=True,
        ),
    ] = 60.0
    sessions: Annotated[
        bool,
        Var("MCP_SESSIONS_ENABLED", BOOL, "Offer `Mcp-Session-Id` sessions to clients that accept event streams."),
    ] = True
    session_ttl_s: Annotated[float, Var("MCP_SESSION_TTL", DURATION, "Life of a session that is not used.")] = 3600.0


class McpConnect(Struct, frozen=True):
    """Limiter of the MCP self-service connect pages. Unreadable values abort the start."""

    enabled: Annotated[
        bool, Var("MCP_CONNECT_RATE_LIMIT_ENABLED", BOOL, "Limit connect attempts (`true` or `false`).", strict=True)
    ] = True
    per_source: Annotated[
        int, Var("MCP_CONNECT_RATE_LIMIT_SOURCE", INT, "Attempts per client address and window.", strict=True)
    ] = 10
    per_consumer: Annotated[
        int, Var("MCP_CONNECT_RATE_LIMIT_CONSUMER", INT, "Attempts per consumer and window.", strict=True)
    ] = 100
    window_s: Annotated[float, Var("MCP_CONNECT_RATE_LIMIT_WINDOW", DURATION, "Length of the window.", strict=True)] = (
        60.0
    )
    trusted_proxies: Annotated[
        tuple[str, ...],
        Var(
            "MCP_CONNECT_TRUSTED_PROXY_CIDRS",
            NETWORKS,
            "Proxies whose `X-Forwarded-For` names the source (CIDR blocks, none of them `/0`).",
            strict=True,
        ),
    ] = ()


class Cors(Struct, frozen=True):
    """CORS of the Admin API and the MCP plane, and, where origins are named for it, of the proxy plane."""

    allow_origins: Annotated[tuple[str, ...], Var("CORS_ALLOW_ORIGINS", CSV, "Allowed origins.")] = ("*",)
    allow_methods: Annotated[tuple[str, ...], Var("CORS_ALLOW_METHODS", CSV, "Allowed methods.")] = (
        "GET",
        "POST",
        "PUT",
        "PATCH",
        "DELETE",
        "OPTIONS",
    )
    allow_headers: Annotated[tuple[str, ...], Var("CORS_ALLOW_HEADERS", CSV, "Allowed request headers.")] = (
        "Content-Type",
        "Authorization",
        "X-AG-Trace-Id",
    )
    expose_headers: Annotated[tuple[str, ...], Var("CORS_EXPOSE_HEADERS", CSV, "Response headers scripts may see.")] = (
        "X-AG-Trace-Id",
    )
    allow_credentials: Annotated[
        bool, Var("CORS_ALLOW_CREDENTIALS", BOOL, "Allow credentials; refused together with the origin `*`.")
    ] = False
    max_age: Annotated[str, Var("CORS_MAX_AGE", STR, "`Access-Control-Max-Age`, seconds.")] = "600"
    proxy_allow_origins: Annotated[
        tuple[str, ...],
        Var(
            "PROXY_CORS_ALLOW_ORIGINS",
            CSV,
            "Origins that browsers may call the proxy from; preflights are then answered before authentication.",
            default_text="none: the proxy sends no CORS headers",
        ),
    ] = ()


class Admin(Struct, frozen=True):
    """Who may call the Admin API."""

    m2m_issuer: Annotated[
        str, Var("ADMIN_M2M_ISSUER", STR, "`iss` of service tokens; they are off without issuer, audience and a key.")
    ] = ""
    m2m_audience: Annotated[str, Var("ADMIN_M2M_AUDIENCE", STR, "`aud` of service tokens.")] = "trustgate-admin"
    m2m_public_keys: Annotated[
        str,
        Var("ADMIN_M2M_PUBLIC_KEYS", STR, 'One PEM or base64 PEM, or a JSON array of `{"kid","pem"}`.'),
    ] = ""
    m2m_max_token_ttl_s: Annotated[
        float, Var("ADMIN_M2M_MAX_TOKEN_TTL", DURATION, "Longest accepted `exp - iat` of a service token.")
    ] = 86400.0
    platform_claim_required: Annotated[
        bool,
        Var(
            "ADMIN_PLATFORM_CLAIM_REQUIRED",
            BOOL,
            "A console token without `tenant_id` must carry `platform_admin: true`.",
        ),
    ] = False
    require_exp: Annotated[bool, Var("ADMIN_REQUIRE_EXP", BOOL, "Refuse console tokens without `exp`.")] = False


class Console(Struct, frozen=True):
    """The web console under `/console` of the admin plane."""

    enabled: Annotated[
        bool | None,
        Var(
            "CONSOLE_ENABLED",
            BOOL,
            "Serve the console.",
            default_text="true; in deployed environments only with a login method",
        ),
    ] = None
    admin_password_hash: Annotated[
        str,
        Var("CONSOLE_ADMIN_PASSWORD_HASH", STR, "Hash of the console's password.", secret=True),
    ] = ""
    oidc_issuer: Annotated[str, Var("CONSOLE_OIDC_ISSUER", STR, "Issuer of the console's single sign-on.")] = ""
    oidc_client_id: Annotated[str, Var("CONSOLE_OIDC_CLIENT_ID", STR, "Client id of the console there.")] = ""
    oidc_client_secret: Annotated[
        str, Var("CONSOLE_OIDC_CLIENT_SECRET", STR, "Client secret of the console there.", secret=True)
    ] = ""
    oidc_tenant_claim: Annotated[
        str, Var("CONSOLE_OIDC_TENANT_CLAIM", STR, "Claim of the ID token that names the tenant.")
    ] = "tenant_id"
    tenant_id: Annotated[str, Var("ADMIN_TENANT_ID", STR, "Tenant of password sign-ins.", alias="ADMIN_TEAM_ID")] = ""
    user_id: Annotated[str, Var("ADMIN_USER_ID", STR, "User id of password sign-ins.")] = ""


class Log(Struct, frozen=True):
    """Logs of the process."""

    level: Annotated[
        str, Var("LOG_LEVEL", STR, "`DEBUG`, `INFO`, `WARN` or `ERROR`, with an optional offset such as `INFO+2`.")
    ] = "INFO"
    format: Annotated[str, Var("LOG_FORMAT", STR, "`json`, `text` or `colored`.")] = "json"
    access_enabled: Annotated[
        bool, Var("ACCESS_LOG_ENABLED", BOOL, "Write the access log: one `http access` line for each request.")
    ] = True
    file_enabled: Annotated[bool, Var("LOG_FILE_ENABLED", BOOL, "Also write JSON to `var/log.log`.")] = False
