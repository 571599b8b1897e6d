"""Environment variables of telemetry, metrics, playground traces and config sync; see `areas.py` for the rules."""

from typing import Annotated

from msgspec import Struct

from trustgate.settings.values import Kind, Var

STR, INT, BOOL, DURATION, CSV = Kind.STR, Kind.INT, Kind.BOOL, Kind.DURATION, Kind.CSV
NETWORKS = Kind.NETWORKS


class Telemetry(Struct, frozen=True):
    """The record of each request, its exporters and the playground's trace store."""

    enabled: Annotated[bool, Var("TELEMETRY_ENABLED", BOOL, "Request records and the `X-AG-Trace-Id` header.")] = True
    exporters_file: Annotated[
        str,
        Var(
            "TELEMETRY_EXPORTERS_FILE",
            STR,
            "YAML file of the default exporters; empty means no file.",
            empty_is_value=True,
        ),
    ] = "config/telemetry.yaml"
    exporters_metadata: Annotated[
        str, Var("TELEMETRY_EXPORTERS_METADATA", STR, "Metadata exporters when there is no file: a list or type names.")
    ] = ""
    exporters_raw: Annotated[
        str, Var("TELEMETRY_EXPORTERS_RAW", STR, "Exporters of bodies when there is no file: a list or type names.")
    ] = ""
    kafka_brokers: Annotated[tuple[str, ...], Var("KAFKA_BROKERS", CSV, "Default brokers of `kafka` exporters.")] = (
        "localhost:9092",
    )
    kafka_topic: Annotated[str, Var("TELEMETRY_KAFKA_TOPIC", STR, "Default topic of `kafka` exporters.")] = (
        "trustgate.requests"
    )
    request_traces: Annotated[
        bool, Var("TELEMETRY_ENABLE_REQUEST_TRACES", BOOL, "Include `attempts` in the record.")
    ] = True
    plugin_traces: Annotated[
        bool, Var("TELEMETRY_ENABLE_PLUGIN_TRACES", BOOL, "Include `policy_chain` in the record.")
    ] = True
    raw_dsn: Annotated[str, Var("SENSIBLE_PG_DSN", STR, "Default DSN of `postgres` exporters.", secret=True)] = ""
    tenant_networks: Annotated[
        tuple[str, ...],
        Var(
            "TELEMETRY_TENANT_NETWORKS",
            NETWORKS,
            "Networks (CIDR) that the exporters of tenants may connect to, beside public addresses.",
            default_text="none in deployed environments; elsewhere all but link-local addresses",
        ),
    ] = ()
    playground_traces: Annotated[
        bool, Var("PLAYGROUND_TRACE_STORE_ENABLED", BOOL, "Keep complete records of playground requests.")
    ] = True
    playground_trace_ttl_s: Annotated[float, Var("PLAYGROUND_TRACE_STORE_TTL", DURATION, "How long they are kept.")] = (
        600.0
    )


class Metrics(Struct, frozen=True):
    """The telemetry queue and the Prometheus endpoint."""

    enabled: Annotated[
        bool, Var("METRICS_ENABLED", BOOL, "Serve `/metrics`, and check the two settings below at the start.")
    ] = True
    port: Annotated[
        int,
        Var(
            "METRICS_PORT",
            INT,
            "One port for the metrics of all planes of the process.",
            default_text="a port per plane: its own + 1010",
        ),
    ] = 0
    bind: Annotated[str, Var("METRICS_BIND", STR, "Address that metrics are served on; `*` means all.")] = "127.0.0.1"
    queue_size: Annotated[
        int, Var("METRICS_QUEUE_SIZE", INT, "Records waiting for the exporters; more are dropped.")
    ] = 1000
    worker_count: Annotated[int, Var("METRICS_WORKER_COUNT", INT, "Publishing workers.")] = 1
    flush_interval_s: Annotated[float, Var("METRICS_FLUSH_INTERVAL", DURATION, "Accepted, no effect.", inert=True)] = (
        5.0
    )
    ops_enabled: Annotated[
        bool,
        Var(
            "OPS_METRICS_ENABLED",
            BOOL,
            "Record HTTP durations and outcomes, and serve all metrics on `OPS_METRICS_PORT` too.",
        ),
    ] = False
    ops_port: Annotated[int, Var("OPS_METRICS_PORT", INT, "Port of that listener.")] = 9464
    ops_bind: Annotated[
        str,
        Var("OPS_METRICS_BIND", STR, "Address of that listener.", default_text="all interfaces"),
    ] = ""


class Otlp(Struct, frozen=True):
    """Defaults of `otlp` exporters, whose own settings win, and the push of the OpenTelemetry instruments."""

    endpoint: Annotated[str, Var("OTEL_EXPORTER_OTLP_ENDPOINT", STR, "`host:port` or URL of the collector.")] = ""
    protocol: Annotated[
        str,
        Var(
            "OTEL_EXPORTER_OTLP_PROTOCOL",
            STR,
            "`grpc` or `http/protobuf`.",
            default_text="inferred from the endpoint, else `http/protobuf`",
        ),
    ] = ""
    headers: Annotated[str, Var("OTEL_EXPORTER_OTLP_HEADERS", STR, "`k=v,k2=v2`.", secret=True)] = ""
    timeout_s: Annotated[
        float, Var("OTEL_EXPORTER_OTLP_TIMEOUT", Kind.MILLIS, "Bound of one export: milliseconds, or a duration.")
    ] = 10.0
    insecure: Annotated[bool, Var("OTEL_EXPORTER_OTLP_INSECURE", BOOL, "Plaintext connection.")] = False
    compression: Annotated[str, Var("OTEL_EXPORTER_OTLP_COMPRESSION", STR, "`gzip` or `none`.")] = "gzip"
    metrics_exporter: Annotated[
        str,
        Var(
            "OTEL_METRICS_EXPORTER",
            STR,
            "`otlp` pushes the OpenTelemetry instruments when `OPS_METRICS_ENABLED` is true and an endpoint is set;"
            " `none` does not.",
        ),
    ] = "otlp"
    metrics_endpoint: Annotated[
        str,
        Var(
            "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
            STR,
            "Where they are pushed to.",
            default_text="`OTEL_EXPORTER_OTLP_ENDPOINT`, with the path `/v1/metrics`",
        ),
    ] = ""
    metrics_interval_s: Annotated[
        float,
        Var("OTEL_METRIC_EXPORT_INTERVAL", Kind.MILLIS, "Time between two pushes: milliseconds, or a duration."),
    ] = 60.0


class ConfigSync(Struct, frozen=True):
    """The feed from a control plane to data planes without a database.

    The variables of both sides; how they work together: [config sync](config-sync.md).
    """

    data_plane_enabled: Annotated[
        bool, Var("CONFIG_SYNC_DATA_PLANE_ENABLED", BOOL, "Run the proxy or MCP plane without a database.")
    ] = False
    token: Annotated[
        str, Var("CONFIG_SYNC_TOKEN", STR, "Shared bearer token of the feed; required on data planes.", secret=True)
    ] = ""
    token_previous: Annotated[
        str, Var("CONFIG_SYNC_TOKEN_PREVIOUS", STR, "Second accepted token during a rotation.", secret=True)
    ] = ""
    auth_mode: Annotated[
        str, Var("CONFIG_SYNC_AUTH_MODE", STR, "How the control plane authenticates: `shared`, `signed`, `composite`.")
    ] = "shared"
    jwt_secret: Annotated[str, Var("CONFIG_SYNC_JWT_SECRET", STR, "HS256 key of signed feed tokens.", secret=True)] = ""
    jwt_secret_previous: Annotated[
        str, Var("CONFIG_SYNC_JWT_SECRET_PREVIOUS", STR, "The key before a rotation.", secret=True)
    ] = ""
    jwt_issuer: Annotated[str, Var("CONFIG_SYNC_JWT_ISSUER", STR, "`iss` of signed feed tokens.")] = ""
    jwt_audience: Annotated[str, Var("CONFIG_SYNC_JWT_AUDIENCE", STR, "`aud` of signed feed tokens.")] = ""
    grpc_endpoint: Annotated[
        str, Var("CONFIG_SYNC_GRPC_ENDPOINT", STR, "`host:port` of the control plane; required on data planes.")
    ] = ""
    grpc_listen_addr: Annotated[
        str, Var("CONFIG_SYNC_GRPC_LISTEN_ADDR", STR, "Listener of the control plane; in use: a warning, no feed.")
    ] = ":8083"
    grpc_tls_cert: Annotated[
        str,
        Var("CONFIG_SYNC_GRPC_TLS_CERT", STR, "PEM certificate of that listener; required in deployed environments."),
    ] = ""
    grpc_tls_key: Annotated[str, Var("CONFIG_SYNC_GRPC_TLS_KEY", STR, "PEM key file of that certificate.")] = ""
    tls_ca: Annotated[str, Var("CONFIG_SYNC_TLS_CA", STR, "PEM file of authorities a data plane accepts.")] = ""
    tls_server_name: Annotated[str, Var("CONFIG_SYNC_TLS_SERVER_NAME", STR, "Server name a data plane asks for.")] = ""
    tls_insecure: Annotated[
        bool, Var("CONFIG_SYNC_TLS_INSECURE", BOOL, "Dial in plaintext; refused in deployed environments.")
    ] = False
    keepalive_time_s: Annotated[
        float, Var("CONFIG_SYNC_GRPC_KEEPALIVE_TIME", DURATION, "Interval of keep-alive pings.")
    ] = 30.0
    keepalive_timeout_s: Annotated[
        float, Var("CONFIG_SYNC_GRPC_KEEPALIVE_TIMEOUT", DURATION, "Wait for the answer to a ping.")
    ] = 10.0
    min_backoff_s: Annotated[float, Var("CONFIG_SYNC_GRPC_MIN_BACKOFF", DURATION, "First reconnect delay.")] = 1.0
    max_backoff_s: Annotated[float, Var("CONFIG_SYNC_GRPC_MAX_BACKOFF", DURATION, "Longest reconnect delay.")] = 30.0
    lkg_path: Annotated[str, Var("CONFIG_SYNC_LKG_PATH", STR, "File of the last known good configuration.")] = (
        "/var/lib/trustgate/snapshot.lkg"
    )
    lkg_key: Annotated[
        str,
        Var(
            "CONFIG_SYNC_LKG_KEY", STR, "Base64 of the 32 bytes that encrypt it; required on data planes.", secret=True
        ),
    ] = ""
    poll_interval_s: Annotated[
        float, Var("CONFIG_SYNC_POLL_INTERVAL", DURATION, "Backstop pull of a data plane, ± 10 %.")
    ] = 300.0
    max_staleness_s: Annotated[
        float | None,
        Var("CONFIG_SYNC_MAX_STALENESS", DURATION, "`/readyz` turns 503 when the feed is older.", default_text="off"),
    ] = None
    instance_id: Annotated[
        str,
        Var(
            "CONFIG_SYNC_INSTANCE_ID",
            STR,
            "Identity a data plane reports.",
            default_text="`HOSTNAME`, then the operating system's host name",
        ),
    ] = ""
    recompile_debounce_s: Annotated[
        float, Var("CONFIG_SYNC_RECOMPILE_DEBOUNCE", DURATION, "Changes within this time share one compilation.")
    ] = 0.25
    recompile_backstop_s: Annotated[
        float, Var("CONFIG_SYNC_RECOMPILE_BACKSTOP", DURATION, "Compilation without a change.")
    ] = 300.0
    outbox_retention_s: Annotated[
        float,
        Var(
            "CONFIG_SYNC_OUTBOX_RETENTION", DURATION, "Accepted; change markers are part of the event log.", inert=True
        ),
    ] = 86400.0
    outbox_max_rows: Annotated[
        int, Var("CONFIG_SYNC_OUTBOX_MAX_ROWS", INT, "Accepted; change markers are part of the event log.", inert=True)
    ] = 10000
