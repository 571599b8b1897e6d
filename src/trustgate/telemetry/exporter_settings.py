"""Settings of telemetry exporters and what makes them invalid (spec 06 §11). Pure; reads only the environment given.

Used twice: when a gateway names its exporters on the Admin API, and when defaults are read at start.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, cast
from urllib.parse import urlsplit

from trustgate.policies.durations import parse_duration
from trustgate.telemetry.networks import Fence

Json = dict[str, Any]
Environ = Mapping[str, str]

PROTOCOLS = ("grpc", "http/protobuf")
COMPRESSIONS = ("gzip", "none")
RAW_TYPES = frozenset({"postgres", "otlp"})
METADATA_TYPES = frozenset({"kafka", "otlp", "file"})
CLASSES = {"metadata": METADATA_TYPES, "raw": RAW_TYPES}
KAFKA_COMPRESSIONS = ("none", "gzip", "snappy", "lz4", "zstd")
PARTITION_KEYS = ("trace_id", "gateway_id", "tenant_id", "consumer_id", "session_id")
SASL_MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")


class BadExporter(ValueError):
    """A refused exporter; the text follows `exporter "<type>": `."""


def text(settings: Json, name: str) -> str:
    value = settings.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise BadExporter(f"{name} must be a string")
    return value.strip()


def check_kafka(settings: Json, environ: Environ) -> None:
    if not text(settings, "topic") and not environ.get("TELEMETRY_KAFKA_TOPIC", "").strip():
        raise BadExporter("kafka: topic is required")
    brokers = settings.get("brokers")
    if brokers is not None:
        if not isinstance(brokers, list) or not all(isinstance(item, str) for item in cast("list[Any]", brokers)):
            raise BadExporter("kafka: brokers must be a list of strings")
        if brokers and not all(item.strip() for item in cast("list[str]", brokers)):
            raise BadExporter("kafka: brokers are required")
    one_of(settings, "kafka", "compression", KAFKA_COMPRESSIONS)
    one_of(settings, "kafka", "partition_key", PARTITION_KEYS)
    if settings.get("acks") not in (None, "all", 1):
        raise BadExporter('kafka: acks must be "all" or 1')
    sasl = settings.get("sasl")
    if sasl is not None:
        if not isinstance(sasl, dict):
            raise BadExporter("kafka: sasl must be an object")
        members = cast("Json", sasl)
        one_of(members, "kafka: sasl", "mechanism", SASL_MECHANISMS)
        if not text(members, "username") or not (text(members, "password") or text(members, "password_env")):
            raise BadExporter("kafka: sasl needs username and password (or password_env)")
    if settings.get("tls") is not None:
        check_tls("kafka", settings["tls"])


def one_of(settings: Json, owner: str, name: str, allowed: tuple[str, ...]) -> None:
    value = text(settings, name)
    if value and value not in allowed:
        raise BadExporter(f'{owner}: invalid {name} "{value}" (want one of {", ".join(allowed)})')


def check_otlp(settings: Json, environ: Environ) -> None:
    """Settings beat environment; the order of checks is that of the messages in spec 06 §11.3."""
    endpoint = text(settings, "endpoint") or environ.get("OTEL_EXPORTER_OTLP_ENDPOINT", "").strip()
    if not endpoint:
        raise BadExporter("otlp: endpoint is required (set settings.endpoint or OTEL_EXPORTER_OTLP_ENDPOINT)")
    protocol = text(settings, "protocol") or environ.get("OTEL_EXPORTER_OTLP_PROTOCOL", "").strip()
    if protocol and protocol not in PROTOCOLS:
        raise BadExporter(f'otlp: invalid protocol "{protocol}" (want "grpc" or "http/protobuf")')
    compression = text(settings, "compression") or environ.get("OTEL_EXPORTER_OTLP_COMPRESSION", "").strip()
    if compression and compression not in COMPRESSIONS:
        raise BadExporter(f'otlp: invalid compression "{compression}" (want "gzip" or "none")')
    signal = text(settings, "signal")
    if signal == "traces":
        raise BadExporter('otlp: signal "traces" is reserved')
    if signal not in ("", "logs"):
        raise BadExporter(f'otlp: invalid signal "{signal}" (want "logs")')
    tls = settings.get("tls")
    if tls is not None and settings.get("insecure") is True:
        raise BadExporter("otlp: insecure cannot be combined with tls settings")
    if tls is not None:
        check_tls("otlp", tls)
    check_timeout(settings.get("timeout"))
    limit = settings.get("max_body_bytes")
    if limit is not None and not positive(limit):
        raise BadExporter("otlp: max_body_bytes must be a positive number")
    headers = settings.get("headers")
    if headers is not None and not is_text_map(headers):
        raise BadExporter("otlp: headers must be an object of strings")
    try:
        parts = urlsplit(endpoint if "://" in endpoint else "//" + endpoint)
        usable = bool(parts.hostname) and parts.port != 0 and parts.scheme in ("", "http", "https")
    except ValueError:
        parts, usable = None, False
    if parts is None or not usable:
        raise BadExporter("otlp: invalid endpoint (want host:port or an http(s) URL)")
    if protocol == "grpc" and parts.path.strip("/"):
        raise BadExporter("otlp: a grpc endpoint must not have a path")


def check_timeout(value: Any) -> None:
    """Milliseconds as a number, or a duration."""
    if value is None or value == "" or positive(value):
        return
    if isinstance(value, str):
        if value.isascii() and value.isdigit() and int(value) > 0:
            return
        try:
            if parse_duration(value) > 0:
                return
        except ValueError:
            pass
    raise BadExporter("otlp: timeout must be milliseconds or a duration")


def positive(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def is_text_map(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(item, str) for item in cast("Json", value).values())


def check_tls(owner: str, tls: Any) -> None:
    if not isinstance(tls, dict):
        raise BadExporter(f"{owner}: tls must be an object")
    files = cast("Json", tls)
    if bool(files.get("cert_file")) != bool(files.get("key_file")):
        raise BadExporter(f"{owner}: tls.cert_file and tls.key_file must be set together")
    for name in ("ca_file", "cert_file", "key_file"):
        path = files.get(name)
        if path and not os.path.isfile(str(path)):
            raise BadExporter(f"{owner}: tls.{name} does not exist")


def check_postgres(settings: Json, environ: Environ) -> None:
    table = text(settings, "table")
    if table not in ("", "trustgate_data"):
        raise BadExporter('postgres: table must be "trustgate_data"')
    text(settings, "dsn")
    text(settings, "dsn_env")
    days = settings.get("retention_days")
    if days is not None and not positive(days):
        raise BadExporter("postgres: retention_days must be a positive number")


def check_file(settings: Json, environ: Environ) -> None:
    if not text(settings, "path"):
        raise BadExporter("file: path is required")
    for name in ("max_bytes", "max_files"):
        if settings.get(name) is not None and not positive(settings[name]):
            raise BadExporter(f"file: {name} must be a positive number")


CHECKS: dict[str, Callable[[Json, Environ], None]] = {
    "kafka": check_kafka,
    "otlp": check_otlp,
    "postgres": check_postgres,
    "file": check_file,
}


def addresses(kind: str, settings: Json) -> list[str]:
    """The hosts an exporter names, without ports."""
    if kind == "kafka":
        named = cast("list[str]", settings.get("brokers") or [])
    else:
        named = [str(settings.get("endpoint") or "")] if kind == "otlp" else []
    return [urlsplit(where if "://" in where else "//" + where).hostname or "" for where in named]


def validate_exporter(entry: Json, environ: Environ, fence: Fence | None = None) -> str | None:
    """Why an exporter `{name, type?, settings?, class?}` is refused: text after `invalid telemetry exporter: `.

    An entry marked `confined`, a tenant's, may not name addresses outside the `fence`.
    """
    kind = entry.get("type") or entry.get("name") or ""
    check = CHECKS.get(str(kind))
    if check is None:
        return f'unknown exporter "{kind}"'
    settings = entry.get("settings") or {}
    if not isinstance(settings, dict):
        return f'exporter "{kind}": settings must be an object'
    class_ = entry.get("class") or ""
    if class_ and kind not in CLASSES.get(str(class_), ()):
        return f'exporter "{kind}": does not accept class "{class_}"'
    try:
        check(cast("Json", settings), environ)
        hosts = addresses(str(kind), cast("Json", settings)) if entry.get("confined") and fence is not None else []
    except (BadExporter, ValueError) as error:
        return f'exporter "{kind}": {error}'
    for host in hosts:
        if fence is not None and fence.refuses_host(host):
            return f'exporter "{kind}": {kind}: {host} is not an address that tenants may export to'
    return None
