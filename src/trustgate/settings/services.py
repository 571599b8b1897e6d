"""Environment variables of what the process talks to: stores, providers, guards; see `areas.py` for the rules."""

from typing import Annotated

from msgspec import Struct

from trustgate.settings.values import Kind, Var

STR, INT, BOOL, DURATION, CSV = Kind.STR, Kind.INT, Kind.BOOL, Kind.DURATION, Kind.CSV


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
    max_conns: Annotated[
        int, Var("DB_MAX_CONNS", INT, "Most connections of one process, the semantic cache's (up to 4) apart.")
    ] = 10
    max_conn_lifetime_s: Annotated[
        float, Var("DB_MAX_CONN_LIFETIME", DURATION, "A connection is replaced after this time.")
    ] = 3600.0
    max_conn_idle_time_s: Annotated[
        float, Var("DB_MAX_CONN_IDLE_TIME", DURATION, "An idle connection above the minimum is closed.")
    ] = 1800.0
    health_check_period_s: Annotated[
        float,
        Var("DB_HEALTH_CHECK_PERIOD", DURATION, "Accepted; a connection is checked whenever it is used.", inert=True),
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
        float,
        Var("CACHE_LOCAL_TTL", DURATION, "Accepted; views follow the log, so that none of them expires.", inert=True),
    ] = 300.0
    enabled: Annotated[bool, Var("SESSION_STORE_ENABLED", BOOL, "Remember the last response id per session.")] = True
    ttl_s: Annotated[float, Var("SESSION_STORE_TTL", DURATION, "Lifetime of that record.")] = 3600.0
    semantic_cache_vector_store: Annotated[
        str,
        Var(
            "SEMANTIC_CACHE_VECTOR_STORE",
            STR,
            "Default store of the semantic cache: `redis`, `pgvector` (needs `DB_*`) or `in_memory`; without Redis, "
            "`redis` means `in_memory`.",
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
        float,
        Var(
            "PROVIDER_RETRY_BASE_DELAY",
            DURATION,
            "First back-off between tries; doubles, with jitter.",
            zero_allowed=True,
        ),
    ] = 0.1
    retry_after_max_s: Annotated[
        float,
        Var(
            "PROVIDER_RETRY_AFTER_MAX",
            DURATION,
            "Longest `Retry-After` of a provider that is waited for.",
            zero_allowed=True,
        ),
    ] = 5.0
    forward_headers: Annotated[
        tuple[str, ...],
        Var(
            "PROVIDER_FORWARD_HEADERS",
            CSV,
            "Client headers that reach providers, of `anthropic-beta`, `anthropic-version`, `openai-beta` and "
            "`traceparent`; each only where its dialect is spoken.",
            default_text="none",
        ),
    ] = ()
    stream_first_event_timeout_s: Annotated[
        float, Var("STREAM_FIRST_EVENT_TIMEOUT", DURATION, "Wait for the first event of a stream.")
    ] = 300.0
    stream_idle_timeout_s: Annotated[
        float, Var("STREAM_IDLE_TIMEOUT", DURATION, "Longest silence within a stream.")
    ] = 120.0
    stream_max_duration_s: Annotated[
        float,
        Var(
            "STREAM_MAX_DURATION",
            DURATION,
            "Longest life of a stream, from the upstream call on; `0` for no limit. Streams of Bedrock have none.",
            zero_allowed=True,
        ),
    ] = 300.0
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
