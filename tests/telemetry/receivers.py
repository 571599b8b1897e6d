"""OTLP receivers for tests: the collector's own services of `opentelemetry-proto`, over gRPC and over HTTP."""

from __future__ import annotations

import contextlib
import gzip
import http.server
import ssl
import threading
from collections.abc import Iterator, Mapping
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2, logs_service_pb2_grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc


class Received:
    """What arrived. `failures`: how many of the next requests are answered as unavailable."""

    def __init__(self) -> None:
        self.logs: list[Any] = []
        self.spans: list[Any] = []
        self.metrics: list[Any] = []
        self.resources: list[Any] = []
        self.headers: list[dict[str, str]] = []
        self.failures = 0
        self.refused = 0
        self.endpoint = ""

    def fails(self) -> bool:
        if not self.failures:
            return False
        self.failures -= 1
        self.refused += 1
        return True

    def take_logs(self, request: Any, headers: Mapping[str, str]) -> None:
        self.headers.append(dict(headers))
        for resource in request.resource_logs:
            self.resources.append(resource)
            self.logs += [record for scope in resource.scope_logs for record in scope.log_records]

    def take_spans(self, request: Any) -> None:
        self.spans += [
            span for resource in request.resource_spans for scope in resource.scope_spans for span in scope.spans
        ]

    def take_metrics(self, request: Any) -> None:
        """One push: its resource metrics."""
        self.metrics.append(list(request.resource_metrics))


def value(any_value: Any) -> Any:
    kind = any_value.WhichOneof("value")
    if kind == "array_value":
        return [value(item) for item in any_value.array_value.values]
    return getattr(any_value, kind)


def attributes(record: Any) -> dict[str, Any]:
    return {pair.key: value(pair.value) for pair in record.attributes}


class _Logs(logs_service_pb2_grpc.LogsServiceServicer):
    def __init__(self, received: Received) -> None:
        self._received = received

    def Export(self, request: Any, context: Any) -> Any:
        if self._received.fails():
            context.abort(grpc.StatusCode.UNAVAILABLE, "not now")
        self._received.take_logs(request, {key: str(item) for key, item in context.invocation_metadata()})
        return logs_service_pb2.ExportLogsServiceResponse()  # pyright: ignore[reportAttributeAccessIssue]


class _Spans(trace_service_pb2_grpc.TraceServiceServicer):
    def __init__(self, received: Received) -> None:
        self._received = received

    def Export(self, request: Any, context: Any) -> Any:
        self._received.take_spans(request)
        return trace_service_pb2.ExportTraceServiceResponse()  # pyright: ignore[reportAttributeAccessIssue]


class _Metrics(metrics_service_pb2_grpc.MetricsServiceServicer):
    def __init__(self, received: Received) -> None:
        self._received = received

    def Export(self, request: Any, context: Any) -> Any:
        self._received.take_metrics(request)
        return metrics_service_pb2.ExportMetricsServiceResponse()  # pyright: ignore[reportAttributeAccessIssue]


@contextlib.contextmanager
def grpc_receiver(tls: tuple[bytes, bytes] | None = None) -> Iterator[Received]:
    """`tls`: private key and certificate, PEM."""
    received = Received()
    server = grpc.server(futures.ThreadPoolExecutor(4))
    logs_service_pb2_grpc.add_LogsServiceServicer_to_server(_Logs(received), server)
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(_Spans(received), server)
    metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(_Metrics(received), server)
    if tls is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([tls]))
    received.endpoint = f"127.0.0.1:{port}"
    server.start()
    try:
        yield received
    finally:
        server.stop(None).wait()


@contextlib.contextmanager
def http_receiver(tls: Path | None = None) -> Iterator[Received]:
    """`tls`: a file with private key and certificate, PEM."""
    received = Received()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if received.fails():
                self.reply(503)
                return
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            if self.path == "/v1/logs":
                request = logs_service_pb2.ExportLogsServiceRequest()  # pyright: ignore[reportAttributeAccessIssue]
                request.ParseFromString(body)
                received.take_logs(request, {name.lower(): item for name, item in self.headers.items()})
            elif self.path == "/v1/traces":
                request = trace_service_pb2.ExportTraceServiceRequest()  # pyright: ignore[reportAttributeAccessIssue]
                request.ParseFromString(body)
                received.take_spans(request)
            elif self.path == "/v1/metrics":
                request = metrics_service_pb2.ExportMetricsServiceRequest()  # pyright: ignore[reportAttributeAccessIssue]
                request.ParseFromString(body)
                received.take_metrics(request)
            else:
                self.reply(404)
                return
            self.reply(200)

        def reply(self, status: int) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            return

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if tls is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    received.endpoint = f"http{'s' if tls else ''}://127.0.0.1:{server.server_port}"
    try:
        yield received
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
