"""Every environment variable of the process, one typed field each, grouped by area: core, HTTP, stores, traffic.

A field's `Var` is its documentation: `docs/configuration.md` and `trustgate check-config` are made from it.
Telemetry and config sync are in `reporting.py`. Durations are seconds (`_s`), sizes bytes.
"""

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
    workers: Annotated[int, Var("TRUSTGATE_WORKERS", INT, "Worker processes that share the listening ports.")] = 1
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
        ),
    ] = 2.0


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
            "SERVER_DRAIN_DELAY", DURATION, "Time between `/readyz` turning 503 and the listeners closing on shutdown."
        ),
    ] = 0.0
    tls_cert: Annotated[str, Var("SERVER_TLS_CERT", STR, "PEM certificate chain; the listeners then serve TLS.")] = ""
    tls_key: Annotated[str, Var("SERVER_TLS_KEY", STR, "PEM private key file of `SERVER_TLS_CERT`.")] = ""
    max_connections: Annotated[
        int, Var("SERVER_MAX_CONNECTIONS", INT, "Open client connections per listener and worker.")
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
    """CORS of the Admin API; the traffic planes send no CORS headers."""

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
    file_enabled: Annotated[bool, Var("LOG_FILE_ENABLED", BOOL, "Also write JSON to `var/log.log`.")] = False


class Database(Struct, frozen=True):
    """PostgreSQL. With none of these set, configuration lives in SQLite under `TRUSTGATE_DATA_DIR`."""

    host: Annotated[str, Var("DB_HOST", STR, "Host.")] = "localhost"
    port: Annotated[int, Var("DB_PORT", INT, "Port.")] = 5432
    user: Annotated[str, Var("DB_USER", STR, "User.")] = "trustgate"
    password: Annotated[str, Var("DB_PASSWORD", STR, "Password.", secret=True)] = "postgres"
    name: Annotated[str, Var("DB_NAME", STR, "Database.")] = "trustgate"
    ssl_mode: Annotated[str, Var("DB_SSL_MODE", STR, "libpq `sslmode`.")] = "disable"
    ssl_root_cert: Annotated[str, Var("DB_SSL_ROOT_CERT", STR, "PEM file of accepted authorities.")] = ""
    min_conns: Annotated[int, Var("DB_MIN_CONNS", INT, "Connections kept open.")] = 1
    max_conns: Annotated[int, Var("DB_MAX_CONNS", INT, "Most connections of one process.")] = 10
    max_conn_lifetime_s: Annotated[
        float, Var("DB_MAX_CONN_LIFETIME", DURATION, "A connection is replaced after this time.")
    ] = 3600.0
    max_conn_idle_time_s: Annotated[
        float, Var("DB_MAX_CONN_IDLE_TIME", DURATION, "An idle connection above the minimum is closed.")
    ] = 1800.0
    health_check_period_s: Annotated[
        float, Var("DB_HEALTH_CHECK_PERIOD", DURATION, "Interval of the pool's own checks.")
    ] = 60.0
    connect_timeout_s: Annotated[float, Var("DB_CONNECT_TIMEOUT", DURATION, "Bound of one connection attempt.")] = 5.0
    login: Annotated[
        str, Var("POSTGRES_LOGIN", STR, "`default`, or `aws` for RDS IAM tokens (then `DB_SSL_MODE` must verify TLS).")
    ] = "default"
    configured: bool = False  # at least one of the variables above is set


class Redis(Struct, frozen=True):
    """Redis. Without `REDIS_HOST` (or `REDIS_CACHE_NAME`), counters and sessions live in the process."""

    host: Annotated[str, Var("REDIS_HOST", STR, "Host.")] = "localhost"
    port: Annotated[int, Var("REDIS_PORT", INT, "Port.")] = 6379
    db: Annotated[int, Var("REDIS_DB", INT, "Database number.")] = 3
    username: Annotated[str, Var("REDIS_USERNAME", STR, "User.")] = ""
    password: Annotated[str, Var("REDIS_PASSWORD", STR, "Password.", secret=True)] = ""
    tls_enabled: Annotated[bool, Var("REDIS_TLS_ENABLED", BOOL, "Use TLS.")] = False
    tls_insecure_verify: Annotated[
        bool, Var("REDIS_TLS_INSECURE_VERIFY", BOOL, "Accept any certificate (tests only).")
    ] = False
    login: Annotated[str, Var("REDIS_LOGIN", STR, "`default`, or `aws` for ElastiCache IAM.")] = "default"
    cache_name: Annotated[str, Var("REDIS_CACHE_NAME", STR, "ElastiCache cache name (`aws` login).")] = ""
    aws_serverless: Annotated[bool, Var("REDIS_AWS_SERVERLESS", BOOL, "The cache is serverless (`aws` login).")] = False
    event_channel: Annotated[
        str, Var("REDIS_EVENT_CHANNEL", STR, "Channel on which configuration changes are announced.")
    ] = "gateway_events"
    configured: bool = False  # REDIS_HOST is set


class Sessions(Struct, frozen=True):
    """Small caches and the session record."""

    cache_local_ttl_s: Annotated[
        float, Var("CACHE_LOCAL_TTL", DURATION, "Lifetime of in-process cache entries without their own.")
    ] = 300.0
    enabled: Annotated[bool, Var("SESSION_STORE_ENABLED", BOOL, "Remember the last response id per session.")] = True
    ttl_s: Annotated[float, Var("SESSION_STORE_TTL", DURATION, "Lifetime of that record.")] = 3600.0
    semantic_cache_vector_store: Annotated[
        str,
        Var(
            "SEMANTIC_CACHE_VECTOR_STORE",
            STR,
            "Default store of the semantic cache: `redis`, `pgvector` or `in_memory`.",
        ),
    ] = "redis"


class Upstream(Struct, frozen=True):
    """Calls to LLM providers."""

    request_timeout_s: Annotated[
        float, Var("PROVIDER_REQUEST_TIMEOUT", DURATION, "Total time of a call that is not streamed.")
    ] = 60.0
    response_header_timeout_s: Annotated[
        float,
        Var(
            "PROVIDER_RESPONSE_HEADER_TIMEOUT",
            DURATION,
            "Wait for the response head, streams included.",
            default_text="`PROVIDER_REQUEST_TIMEOUT`",
        ),
    ] = 60.0
    max_retries: Annotated[int, Var("PROVIDER_MAX_RETRIES", INT, "Extra tries per registry.")] = 2
    retry_base_delay_s: Annotated[
        float, Var("PROVIDER_RETRY_BASE_DELAY", DURATION, "First back-off between tries; doubles, with jitter.")
    ] = 0.1
    retry_after_max_s: Annotated[
        float, Var("PROVIDER_RETRY_AFTER_MAX", DURATION, "Longest `Retry-After` of a provider that is waited for.")
    ] = 5.0
    stream_first_event_timeout_s: Annotated[
        float, Var("STREAM_FIRST_EVENT_TIMEOUT", DURATION, "Wait for the first event of a stream.")
    ] = 300.0
    stream_idle_timeout_s: Annotated[
        float, Var("STREAM_IDLE_TIMEOUT", DURATION, "Longest silence within a stream.")
    ] = 120.0
    max_connections_per_origin: Annotated[
        int, Var("PROVIDER_MAX_CONNECTIONS", INT, "Open connections to one provider origin, per worker.")
    ] = 512
    timeout_s: Annotated[float, Var("UPSTREAM_TIMEOUT", DURATION, "Accepted, no effect.", inert=True)] = 60.0
    error_passthrough: Annotated[bool, Var("UPSTREAM_ERROR_PASSTHROUGH", BOOL, "Accepted, no effect.", inert=True)] = (
        True
    )
    models_dev_base_url: Annotated[
        str, Var("MODELS_DEV_BASE_URL", STR, "Source of the model catalog, `{base}/api.json`.")
    ] = "https://models.dev"
    bedrock_endpoint_url: Annotated[
        str, Var("AWS_ENDPOINT_URL_BEDROCK", STR, "Override of the Bedrock control-plane endpoint.")
    ] = ""
    plan_rate_limit_enabled: Annotated[
        bool, Var("RATE_LIMIT_ENABLED", BOOL, "Enforce the plan limits in a gateway's entitlements.")
    ] = True


class Guards(Struct, frozen=True):
    """Services that policies and smart routing ask."""

    trustguard_base_url: Annotated[str, Var("TRUSTGUARD_BASE_URL", STR, "TrustGuard service.")] = ""
    trustguard_timeout_s: Annotated[float, Var("TRUSTGUARD_TIMEOUT", DURATION, "Bound of one TrustGuard call.")] = 15.0
    trustguard_client_id: Annotated[str, Var("TRUSTGUARD_CLIENT_ID", STR, "TrustGuard client id.")] = ""
    trustguard_client_secret: Annotated[
        str, Var("TRUSTGUARD_CLIENT_SECRET", STR, "TrustGuard client secret.", secret=True)
    ] = ""
    openai_moderation_base_url: Annotated[
        str, Var("OPENAI_MODERATION_BASE_URL", STR, "Service behind the OpenAI moderation policy.")
    ] = "https://api.openai.com"
    openai_moderation_timeout_s: Annotated[
        float, Var("OPENAI_MODERATION_TIMEOUT", DURATION, "Bound of one moderation call.")
    ] = 15.0
    firewall_base_url: Annotated[str, Var("FIREWALL_BASE_URL", STR, "Complexity scoring for smart routing.")] = ""
    firewall_secret_key: Annotated[
        str, Var("FIREWALL_SECRET_KEY", STR, "Signs the tokens sent to it.", secret=True)
    ] = ""
