"""The types of exporters: one module and one line in `TYPES` each.

Their settings are checked in `exporter_settings`, before anything connects.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from msgspec import Struct
from msgspec.structs import replace

from trustgate.policies.durations import parse_duration
from trustgate.telemetry.exporter_config import ExporterConfig
from trustgate.telemetry.exporters import file, kafka, otlp, postgres
from trustgate.telemetry.networks import Fence
from trustgate.telemetry.outlet import Manner, Sink

Json = dict[str, Any]


class Environment(Struct, frozen=True, kw_only=True):
    """Defaults of exporters. `fence` bounds those of tenants; `database` makes psycopg's arguments for the service's
    own database (None: there is none)."""

    kafka_brokers: tuple[str, ...] = ("localhost:9092",)
    kafka_topic: str = ""
    otlp_endpoint: str = ""
    otlp_protocol: str = ""
    otlp_headers: dict[str, str] = {}
    otlp_timeout_s: float = 10.0
    otlp_insecure: bool = False
    otlp_compression: str = "gzip"
    raw_dsn: str = ""
    database: Callable[[], Json] | None = None
    variables: Mapping[str, str] = {}
    fence: Fence = Fence()


class Type(Struct, frozen=True):
    """How a type is fed, and how it connects; `manner` depends on the view it gets."""

    manner: Callable[[bool], Manner]
    open: Callable[[ExporterConfig, Environment], Sink]


def open_kafka(config: ExporterConfig, environment: Environment) -> Sink:
    settings = dict(config.settings)
    settings["brokers"] = settings.get("brokers") or list(environment.kafka_brokers)
    settings["topic"] = settings.get("topic") or environment.kafka_topic
    sasl = settings.get("sasl") or {}
    if sasl.get("password_env"):
        settings["sasl"] = sasl | {"password": variable(environment, sasl["password_env"])}
    return kafka.KafkaSink(settings, fence_of(config, environment))


def open_otlp(config: ExporterConfig, environment: Environment) -> Sink:
    fence = fence_of(config, environment)
    if fence is not None:  # the installation's credentials are for its own collector
        environment = replace(environment, otlp_headers={})
    return otlp.OtlpSink(otlp_target(config.settings, environment), fence)


def otlp_target(settings: Json, environment: Environment) -> otlp.Target:
    """Settings beat environment beat defaults; without a word on the protocol the endpoint tells it."""
    endpoint = settings.get("endpoint") or environment.otlp_endpoint
    tls = settings.get("tls")
    headers: dict[str, str] | None = settings.get("headers")
    protocol = settings.get("protocol") or environment.otlp_protocol.strip() or otlp_protocol(endpoint)
    insecure = settings.get("insecure")
    if insecure is None:
        insecure = environment.otlp_insecure if tls is None else False
    scheme, _, rest = endpoint.rpartition("://")
    if protocol == "grpc":
        if scheme:
            insecure = scheme == "http"
        url = rest.rstrip("/")
    else:
        url = endpoint if scheme else f"{'http' if insecure else 'https'}://{endpoint}"
    return otlp.Target(
        protocol=protocol,
        url=url,
        insecure=bool(insecure),
        headers=environment.otlp_headers if headers is None else headers,
        tls=tls or {},
        timeout_s=otlp_timeout(settings.get("timeout"), environment.otlp_timeout_s),
        compression=settings.get("compression") or environment.otlp_compression.strip(),
        max_body_bytes=int(settings.get("max_body_bytes") or otlp.MAX_BODY_BYTES),
        traces=bool(settings.get("traces")),
    )


def otlp_protocol(endpoint: str) -> str:
    """Port 4317 without a path speaks gRPC; everything else, as by default, HTTP."""
    parts = urlsplit(endpoint if "://" in endpoint else "//" + endpoint)
    return "grpc" if parts.port == 4317 and not parts.path.strip("/") else "http/protobuf"


def otlp_timeout(value: Any, default_s: float) -> float:
    """Seconds of a timeout setting: a number counts milliseconds, another text is a duration; checked before."""
    if value is None or value == "":
        return default_s
    if isinstance(value, (int, float)) or value.isdigit():
        return int(value) / 1000
    return parse_duration(value) / 1e9


def open_postgres(config: ExporterConfig, environment: Environment) -> Sink:
    settings = config.settings
    dsn, name = settings.get("dsn") or "", settings.get("dsn_env") or ""
    if not dsn and name:
        dsn = variable(environment, name)
    dsn = dsn or environment.raw_dsn
    if dsn:
        arguments: Json = {"conninfo": dsn}
    elif environment.database is not None:
        arguments = environment.database()
    else:
        raise LookupError("postgres: no dsn (set settings.dsn, settings.dsn_env or SENSIBLE_PG_DSN)")
    days = int(settings.get("retention_days") or 0)
    return postgres.PostgresSink(arguments, days, fence_of(config, environment))


def open_file(config: ExporterConfig, environment: Environment) -> Sink:
    return file.FileSink(config.settings)


def variable(environment: Environment, name: str) -> str:
    value = environment.variables.get(name, "")
    if not value:
        raise LookupError(f"environment variable {name} is not set")
    return value


def fence_of(config: ExporterConfig, environment: Environment) -> Fence | None:
    """A tenant's exporter is fenced in where the tenant named its address; the installation's own defaults are not."""
    named = any(config.settings.get(member) for member in ("brokers", "endpoint", "dsn", "dsn_env"))
    return environment.fence if config.confined and named else None


TYPES: dict[str, Type] = {
    "kafka": Type(lambda raw: kafka.MANNER, open_kafka),
    "otlp": Type(lambda raw: otlp.RAW_MANNER if raw else otlp.METADATA_MANNER, open_otlp),
    "postgres": Type(lambda raw: postgres.MANNER, open_postgres),
    "file": Type(lambda raw: file.MANNER, open_file),
}
