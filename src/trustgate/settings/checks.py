"""Refusals at start: combinations of settings that a set of planes cannot run with.

One function per area, called before anything listens. A plane is never stopped by settings it does not use, so that
several planes can share one environment.
"""

import base64
import binascii
import os
import ssl
from typing import TYPE_CHECKING

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from trustgate.proxy.forwarding import FORWARDABLE
from trustgate.settings.secret_keys import check_length, load_rsa_key, parse_public_keys
from trustgate.settings.values import ConfigurationError
from trustgate.sync.address import Address

if TYPE_CHECKING:
    from trustgate.settings.load import Settings
    from trustgate.telemetry.exporter_config import ExporterConfig

invalid = ConfigurationError.invalid

_SSL_MODES = frozenset({"disable", "allow", "prefer", "require", "verify-ca", "verify-full"})
_VERIFIED_SSL_MODES = frozenset({"require", "verify-ca", "verify-full"})


MAX_LEEWAY_S = 60.0


def check(settings: "Settings", planes: frozenset[str]) -> None:
    """Raise ConfigurationError, naming the variable, for the first thing that `planes` cannot start with."""
    _check_server(settings, planes)
    _check_traffic(settings, planes)
    if settings.database_less(planes):
        _check_data_plane(settings)
    elif settings.database.configured:
        _check_database(settings)
    if settings.redis.configured:
        _check_redis(settings)
    if "admin" in planes:
        _check_control_plane(settings)
    if settings.secrets.server_key or not _server_key_is_provisioned(settings, planes):
        check_length(settings.secrets.server_key)
    if settings.secrets.sts_signing_key and "mcp" in planes:
        load_rsa_key(settings.secrets.sts_signing_key)


def _server_key_is_provisioned(settings: "Settings", planes: frozenset[str]) -> bool:
    """A missing server secret is made: in the data folder (embedded), or in Redis for all replicas (production)."""
    return settings.embedded(planes) or (settings.production and settings.redis.configured)


def _check_server(settings: "Settings", planes: frozenset[str]) -> None:
    server, metrics = settings.server, settings.metrics
    for used, name, port in (
        ("admin" in planes, "SERVER_ADMIN_PORT", server.admin_port),
        ("proxy" in planes, "SERVER_PROXY_PORT", server.proxy_port),
        ("mcp" in planes, "SERVER_MCP_PORT", server.mcp_port),
        (metrics.enabled, "METRICS_PORT", metrics.port),
        (metrics.ops_enabled, "OPS_METRICS_PORT", metrics.ops_port),
    ):
        if used:
            _check_port(name, port)
    if not server.gateway_base_domain:
        raise invalid("GATEWAY_BASE_DOMAIN is required")
    if "mcp" in planes and not server.mcp_base_domain:
        raise invalid("MCP_BASE_DOMAIN is required")
    if bool(server.tls_cert) != bool(server.tls_key):
        raise invalid("SERVER_TLS_CERT and SERVER_TLS_KEY must be set together")
    if server.tls_client_ca and not server.tls_cert:
        raise invalid("SERVER_TLS_CLIENT_CA needs SERVER_TLS_CERT and SERVER_TLS_KEY")
    _check_readable(
        ("SERVER_TLS_CERT", server.tls_cert),
        ("SERVER_TLS_KEY", server.tls_key),
        ("SERVER_TLS_CLIENT_CA", server.tls_client_ca),
    )
    _check_certificate(server.tls_cert, server.tls_key, server.tls_client_ca)
    for name, number in (
        ("SERVER_MAX_CONNECTIONS", server.max_connections),
        ("SERVER_MAX_BODY_BYTES", server.max_body_bytes),
        ("SERVER_MAX_HEADER_BYTES", server.max_header_bytes),
        ("TRUSTGATE_WORKERS", settings.app.worker_count),
    ):
        if number <= 0:
            raise invalid(f"{name} must be greater than 0")


def _check_port(name: str, port: int) -> None:
    if not 0 <= port <= 65535:
        raise invalid(f"{name} must be a port number")


def _check_traffic(settings: "Settings", planes: frozenset[str]) -> None:
    if planes & {"proxy", "mcp"} and settings.metrics.enabled:
        for name, number in (
            ("METRICS_QUEUE_SIZE", settings.metrics.queue_size),
            ("METRICS_WORKER_COUNT", settings.metrics.worker_count),
        ):
            if number <= 0:
                raise invalid(f"{name} must be greater than 0")
    if "mcp" in planes and settings.mcp.leeway_s > MAX_LEEWAY_S:
        raise invalid("MCP_TOKEN_LEEWAY must be at most 1m")
    if planes & {"proxy", "mcp"} and settings.telemetry.enabled:
        default_exporters(settings)
    if settings.upstream.max_retries < 0:
        raise invalid("PROVIDER_MAX_RETRIES must be zero or greater")
    for name in settings.upstream.forward_headers:
        if name.lower().encode() not in FORWARDABLE:
            raise invalid(f"PROVIDER_FORWARD_HEADERS must not contain {name}")
    store = settings.sessions.semantic_cache_vector_store
    if store not in ("redis", "pgvector", "in_memory"):
        raise invalid("SEMANTIC_CACHE_VECTOR_STORE must be one of redis, pgvector, in_memory")
    if store == "pgvector" and "proxy" in planes:
        _check_pgvector(settings, planes)


def _check_pgvector(settings: "Settings", planes: frozenset[str]) -> None:
    what = "SEMANTIC_CACHE_VECTOR_STORE=pgvector needs a PostgreSQL database"
    if settings.database_less(planes):
        raise invalid(f"{what}, which a data plane with CONFIG_SYNC_DATA_PLANE_ENABLED has not")
    if settings.embedded(planes):
        raise invalid(f"{what}: set DB_HOST")


def default_exporters(settings: "Settings") -> "tuple[ExporterConfig, ...]":
    """The telemetry exporters of every gateway, from their file or the two lists. Raises ConfigurationError."""
    from trustgate.telemetry.exporter_config import InvalidExporters, load_defaults  # loads what checks addresses

    telemetry = settings.telemetry
    lists = (telemetry.exporters_file, telemetry.exporters_metadata, telemetry.exporters_raw)
    try:
        return load_defaults(*lists, telemetry.kafka_topic, os.environ)
    except InvalidExporters as error:
        raise invalid(str(error)) from error


def _check_database(settings: "Settings") -> None:
    database = settings.database
    for name, text in (("DB_HOST", database.host), ("DB_USER", database.user), ("DB_NAME", database.name)):
        if not text.strip():
            raise invalid(f"{name} is required")
    _check_port("DB_PORT", database.port)
    if database.login not in ("default", "aws"):
        raise invalid("POSTGRES_LOGIN must be default or aws")
    if database.ssl_mode not in _SSL_MODES:
        raise invalid(f"DB_SSL_MODE must be one of {', '.join(sorted(_SSL_MODES))}")
    if database.login == "aws" and database.ssl_mode not in _VERIFIED_SSL_MODES:
        raise invalid("DB_SSL_MODE must be require, verify-ca or verify-full when POSTGRES_LOGIN is aws")
    if database.max_conns <= 0 or not 0 <= database.min_conns <= database.max_conns:
        raise invalid("DB_MIN_CONNS and DB_MAX_CONNS must satisfy 0 <= min <= max, max > 0")


def _check_redis(settings: "Settings") -> None:
    redis = settings.redis
    _check_port("REDIS_PORT", redis.port)
    if redis.login not in ("default", "aws"):
        raise invalid("REDIS_LOGIN must be default or aws")
    if redis.login == "aws":
        if not redis.tls_enabled:
            raise invalid("REDIS_TLS_ENABLED must be true when REDIS_LOGIN is aws")
        if not redis.username:
            raise invalid("REDIS_USERNAME is required when REDIS_LOGIN is aws")
        if not redis.cache_name:
            raise invalid("REDIS_CACHE_NAME is required when REDIS_LOGIN is aws")


def _check_data_plane(settings: "Settings") -> None:
    sync = settings.config_sync
    for name, text in (
        ("CONFIG_SYNC_GRPC_ENDPOINT", sync.grpc_endpoint),
        ("CONFIG_SYNC_TOKEN", sync.token),
        ("CONFIG_SYNC_LKG_KEY", sync.lkg_key),
    ):
        if not text:
            raise invalid(f"{name} is required when CONFIG_SYNC_DATA_PLANE_ENABLED is true")
    try:
        key = base64.b64decode(sync.lkg_key, validate=True)
    except binascii.Error:
        key = b""
    if len(key) != 32:
        raise invalid("CONFIG_SYNC_LKG_KEY must be the base64 encoding of exactly 32 bytes")
    if sync.tls_insecure and settings.deployed:
        raise invalid(f"CONFIG_SYNC_TLS_INSECURE is not allowed when APP_ENV is {settings.app.env}")
    _check_readable(("CONFIG_SYNC_TLS_CA", sync.tls_ca))


def _check_control_plane(settings: "Settings") -> None:
    for key in parse_public_keys(settings.admin.m2m_public_keys)[0]:
        try:
            load_pem_public_key(key.pem.encode())
        except (ValueError, UnsupportedAlgorithm) as error:
            raise invalid("ADMIN_M2M_PUBLIC_KEYS must hold PEM public keys") from error
    sync = settings.config_sync
    if sync.auth_mode not in ("shared", "signed", "composite"):
        raise invalid("CONFIG_SYNC_AUTH_MODE must be one of shared, signed, composite")
    if sync.auth_mode != "shared":
        for name, text in (
            ("CONFIG_SYNC_JWT_SECRET", sync.jwt_secret),
            ("CONFIG_SYNC_JWT_ISSUER", sync.jwt_issuer),
            ("CONFIG_SYNC_JWT_AUDIENCE", sync.jwt_audience),
        ):
            if not text:
                raise invalid(f"{name} is required when CONFIG_SYNC_AUTH_MODE is {sync.auth_mode}")
    if sync.auth_mode == "composite" and not sync.token:
        raise invalid("CONFIG_SYNC_TOKEN is required when CONFIG_SYNC_AUTH_MODE is composite")
    try:
        Address.parse(sync.grpc_listen_addr)
    except ValueError as error:
        raise invalid("CONFIG_SYNC_GRPC_LISTEN_ADDR must be host:port") from error
    if bool(sync.grpc_tls_cert) != bool(sync.grpc_tls_key):
        raise invalid("CONFIG_SYNC_GRPC_TLS_CERT and CONFIG_SYNC_GRPC_TLS_KEY must be set together")
    if settings.deployed and not sync.grpc_tls_cert:
        raise invalid(
            "CONFIG_SYNC_GRPC_TLS_CERT and CONFIG_SYNC_GRPC_TLS_KEY are required when APP_ENV is " + settings.app.env
        )
    _check_readable(("CONFIG_SYNC_GRPC_TLS_CERT", sync.grpc_tls_cert), ("CONFIG_SYNC_GRPC_TLS_KEY", sync.grpc_tls_key))


def _check_certificate(cert: str, key: str, client_ca: str) -> None:
    """What the listeners will load, loaded once: a file that holds something else is told by its variable."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if cert:
        try:
            context.load_cert_chain(cert, key, password="")  # an encrypted key is refused instead of asked for
        except (OSError, ValueError) as error:
            raise invalid(f"SERVER_TLS_CERT and SERVER_TLS_KEY are no certificate with its key: {error}") from error
    if client_ca:
        try:
            context.load_verify_locations(client_ca)
        except OSError as error:
            raise invalid(f"SERVER_TLS_CLIENT_CA holds no certificates: {error}") from error


def _check_readable(*files: tuple[str, str]) -> None:
    for name, path in files:
        if path and not os.access(path, os.R_OK):
            raise invalid(f"{name} names a file that cannot be read: {path}")
