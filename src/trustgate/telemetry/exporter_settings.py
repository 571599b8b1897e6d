"""Settings of telemetry exporters and what makes them invalid (spec 06 §11). Pure; reads only the environment given.

Used twice: when a gateway names its exporters on the Admin API, and when defaults are read at start.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, cast
from urllib.parse import urlsplit

Json = dict[str, Any]
Environ = Mapping[str, str]

PROTOCOLS = ("grpc", "http/protobuf")
COMPRESSIONS = ("gzip", "none")
RAW_TYPES = frozenset({"postgres", "otlp"})


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
    if brokers is not None and (not isinstance(brokers, list) or not all(isinstance(item, str) for item in brokers)):
        raise BadExporter("kafka: brokers must be a list of strings")
    if not brokers and brokers is not None and not environ.get("KAFKA_BROKERS", "localhost:9092"):
        raise BadExporter("kafka: brokers are required")


def check_otlp(settings: Json, environ: Environ) -> None:
    """Settings beat environment; the order of checks is that of the messages in spec 06 §11.3."""
    endpoint = text(settings, "endpoint") or environ.get("OTEL_EXPORTER_OTLP_ENDPOINT", "").strip()
    if not endpoint:
        raise BadExporter("otlp: endpoint is required (set settings.endpoint or OTEL_EXPORTER_OTLP_ENDPOINT)")
    protocol = text(settings, "protocol")
    if protocol and protocol not in PROTOCOLS:
        raise BadExporter(f'otlp: invalid protocol "{protocol}" (want "grpc" or "http/protobuf")')
    compression = text(settings, "compression")
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
        check_tls(tls)
    if protocol == "grpc" and urlsplit(endpoint if "://" in endpoint else "//" + endpoint).path.strip("/"):
        raise BadExporter("otlp: a grpc endpoint must not have a path")


def check_tls(tls: Any) -> None:
    if not isinstance(tls, dict):
        raise BadExporter("otlp: tls must be an object")
    files = cast("Json", tls)
    if bool(files.get("cert_file")) != bool(files.get("key_file")):
        raise BadExporter("otlp: tls.cert_file and tls.key_file must be set together")
    for name in ("ca_file", "cert_file", "key_file"):
        path = files.get(name)
        if path and not os.path.isfile(str(path)):
            raise BadExporter(f"otlp: tls.{name} does not exist")


def check_postgres(settings: Json, environ: Environ) -> None:
    table = text(settings, "table")
    if table not in ("", "trustgate_data"):
        raise BadExporter('postgres: table must be "trustgate_data"')
    text(settings, "dsn")
    text(settings, "dsn_env")


def check_file(settings: Json, environ: Environ) -> None:
    if not text(settings, "path"):
        raise BadExporter("file: path is required")


CHECKS: dict[str, Callable[[Json, Environ], None]] = {
    "kafka": check_kafka,
    "otlp": check_otlp,
    "postgres": check_postgres,
    "file": check_file,
}
SECRETS: dict[str, tuple[tuple[str, ...], ...]] = {"otlp": (("headers", "*"),), "postgres": (("dsn",),)}
"""Paths of secret members inside an exporter's settings."""


def validate_exporter(entry: Json, environ: Environ) -> str | None:
    """Why an exporter `{name, type?, settings?, class?}` is refused: text after `invalid telemetry exporter: `."""
    kind = entry.get("type") or entry.get("name") or ""
    check = CHECKS.get(str(kind))
    if check is None:
        return f'unknown exporter "{kind}"'
    settings = entry.get("settings") or {}
    if not isinstance(settings, dict):
        return f'exporter "{kind}": settings must be an object'
    raw = entry.get("class") == "raw"
    if raw and kind not in RAW_TYPES:
        return f'exporter "{kind}": does not accept class "raw"'
    try:
        check(cast("Json", settings), environ)
    except BadExporter as error:
        return f'exporter "{kind}": {error}'
    return None
