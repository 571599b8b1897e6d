"""Exporter `otlp`: log records (and, where asked for, spans) to a collector over gRPC or HTTP (spec 06 §11.3).

The SDK's exporters encode, compress, send and retry within the timeout; queue and batches are the outlet's.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from msgspec import Struct
from msgspec.structs import replace

from trustgate.telemetry.exporters.complaints import Complaints
from trustgate.telemetry.networks import Fence
from trustgate.telemetry.outlet import Item, Manner, Metadata

METADATA_MANNER = Manner(form="event", capacity=2_048, max_batch=512, linger_s=1.0)
RAW_MANNER = Manner(form="raw", capacity=2_048, max_batch=64, linger_s=1.0)
LOGS_PATH, TRACES_PATH, METRICS_PATH = "/v1/logs", "/v1/traces", "/v1/metrics"
MAX_BODY_BYTES = 2 * 1024 * 1024
SOURCE = {"x-telemetry-source": "trustgate"}
"""Sent where no headers are set: to the SDK none at all means those of its environment variables, which may hold the
installation's credentials."""

Json = dict[str, Any]


_complaints = Complaints("opentelemetry", "urllib3.connectionpool")


def not_taken(what: str) -> ConnectionError:
    """The failure of an export, with what the SDK says of it."""
    return ConnectionError(_complaints.about(f"the collector did not take the {what}"))


class Target(Struct, frozen=True, kw_only=True):
    """Settings with every default filled in. `url` is the base for HTTP, `host:port` for gRPC; times in seconds."""

    protocol: str
    url: str
    insecure: bool
    headers: dict[str, str] = {}
    tls: Json = {}
    timeout_s: float = 10.0
    compression: str = "gzip"
    max_body_bytes: int = MAX_BODY_BYTES
    traces: bool = False


class OtlpSink:
    """Raises ConnectionError for a batch that the collector did not take within the timeout."""

    def __init__(self, target: Target, fence: Fence | None) -> None:
        from trustgate.telemetry.exporters import otlp_records  # loads OpenTelemetry

        self._records = otlp_records
        self._limit = target.max_body_bytes
        if not target.headers:
            target = replace(target, headers=SOURCE)
        build = grpc_exporters if target.protocol == "grpc" else http_exporters
        self._logs, self._spans = build(target, fence)

    def publish(self, batch: Sequence[Item]) -> int:
        records, limit = self._records, self._limit
        logs = [
            records.metadata_record(item.event, limit)
            if isinstance(item, Metadata)
            else records.raw_record(item.view, limit)
            for item in batch
        ]
        if self._logs.export(logs).name != "SUCCESS":
            raise not_taken("records")
        if self._spans is not None:
            found = [span for item in batch if isinstance(item, Metadata) for span in records.spans(item.event)]
            if found and self._spans.export(found).name != "SUCCESS":
                raise not_taken("spans")
        return 0

    def close(self) -> None:
        self._logs.shutdown()
        if self._spans is not None:
            self._spans.shutdown()


def http_exporters(target: Target, fence: Fence | None) -> tuple[Any, Any]:
    from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    logs = OTLPLogExporter(**http_arguments(target, LOGS_PATH, fence))
    return logs, OTLPSpanExporter(**http_arguments(target, TRACES_PATH, fence)) if target.traces else None


def http_arguments(target: Target, path: str, fence: Fence | None) -> Json:
    """What the SDK's exporter of one signal over HTTP is made with."""
    from opentelemetry.exporter.otlp.proto.http import Compression

    from trustgate.telemetry.exporters.http_session import CollectorSession

    tls = target.tls
    return {
        "endpoint": with_path(target.url, path),
        "client_certificate_file": tls.get("cert_file") or None,
        "client_key_file": tls.get("key_file") or None,
        "headers": target.headers,
        "timeout": target.timeout_s,
        "compression": Compression.Gzip if target.compression == "gzip" else Compression.NoCompression,
        "session": CollectorSession(
            target.headers, tls.get("ca_file") or "", skip_verify=bool(tls.get("skip_verify")), fence=fence
        ),
    }


def with_path(url: str, path: str) -> str:
    """The signal's URL: a path that was given is kept for logs and replaced for the other signals."""
    parts = urlsplit(url)
    own = parts.path.rstrip("/")
    if not own:
        own = path
    elif path != LOGS_PATH:
        own = own.removesuffix(LOGS_PATH).removesuffix(path) + path
    return parts._replace(path=own).geturl()


def grpc_exporters(target: Target, fence: Fence | None) -> tuple[Any, Any]:
    from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

    arguments = grpc_arguments(target, fence)
    return OTLPLogExporter(**arguments), OTLPSpanExporter(**arguments) if target.traces else None


def grpc_arguments(target: Target, fence: Fence | None) -> Json:
    """What the SDK's exporters over gRPC are made with."""
    from grpc import Compression, ssl_channel_credentials

    options: list[tuple[str, Any]] = []
    where = target.url
    if fence is not None:
        where = pinned(target.url, fence)
        host = urlsplit("//" + target.url).hostname or ""
        options = [("grpc.default_authority", target.url), ("grpc.enable_http_proxy", 0)]
        if not target.insecure:
            options.append(("grpc.ssl_target_name_override", host))
    credentials = None
    if not target.insecure:
        tls = target.tls
        roots = contents(tls.get("ca_file"))
        if tls.get("skip_verify"):
            roots, name = presented(where)
            options = [option for option in options if option[0] != "grpc.ssl_target_name_override"]
            options.append(("grpc.ssl_target_name_override", name))
        credentials = ssl_channel_credentials(roots, contents(tls.get("key_file")), contents(tls.get("cert_file")))
    return {
        "endpoint": where,
        "insecure": target.insecure,
        "credentials": credentials,
        "headers": {name.lower(): value for name, value in target.headers.items()},
        "timeout": target.timeout_s,
        "compression": Compression.Gzip if target.compression == "gzip" else Compression.NoCompression,
        "channel_options": tuple(options) or None,
    }


def presented(endpoint: str) -> tuple[bytes, str]:
    """The certificate that the server shows and a name it has: gRPC cannot do without verification, so what is there is
    trusted. Raises OSError."""
    from cryptography import x509

    parts = urlsplit("//" + endpoint)
    pem = ssl.get_server_certificate((parts.hostname or "", parts.port or 4317), timeout=10).encode()
    certificate = x509.load_pem_x509_certificate(pem)
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        found = [str(name.value) for name in names]
    except x509.ExtensionNotFound:
        found = [str(name.value) for name in certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)]
    return pem, found[0].replace("*", "any") if found else (parts.hostname or "")


def contents(path: str | None) -> bytes | None:
    if not path:
        return None
    with open(path, "rb") as file:
        return file.read()


def pinned(endpoint: str, fence: Fence) -> str:
    """`address:port` of an allowed address of the endpoint. Raises AddressRefused and OSError."""
    parts = urlsplit("//" + endpoint)
    found = socket.getaddrinfo(parts.hostname, parts.port or 4317, type=socket.SOCK_STREAM)
    address, port = str(found[0][4][0]), found[0][4][1]
    fence.check(address)
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
