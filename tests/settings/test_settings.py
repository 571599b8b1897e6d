"""Effective settings: defaults, what depends on what, and refusals at start."""

import base64
from pathlib import Path

import pytest

from trustgate.settings import (
    ConfigurationError,
    Settings,
    embedded_server_key,
    known_variables,
    load_rsa_key,
    new_sts_key_pem,
    parse_public_keys,
)
from trustgate.settings.load import AREAS
from trustgate.settings.report import describe, unknown_variables
from trustgate.settings.values import Kind, fields_of

ALL = frozenset({"admin", "proxy", "mcp"})
PROXY = frozenset({"proxy"})
ADMIN = frozenset({"admin"})
KEY = "k" * 32

DEFAULTS = [
    ("server.admin_port", 8080),
    ("server.proxy_port", 8081),
    ("server.mcp_port", 8082),
    ("server.read_timeout_s", 60.0),
    ("server.idle_timeout_s", 120.0),
    ("server.gateway_base_domain", "llm.neuraltrust.ai"),
    ("redis.db", 3),
    ("database.max_conn_lifetime_s", 3600.0),
    ("upstream.max_retries", 2),
    ("upstream.response_header_timeout_s", 60.0),
    ("sessions.ttl_s", 3600.0),
    ("telemetry.exporters_file", "config/telemetry.yaml"),
    ("metrics.ops_port", 9464),
    ("config_sync.lkg_path", "/var/lib/trustgate/snapshot.lkg"),
    ("config_sync.recompile_debounce_s", 0.25),
    ("admin.m2m_max_token_ttl_s", 86400.0),
    ("default_idp.audience", ("neuraltrust-mcp",)),
    ("cors.allow_methods", ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")),
    ("log.level", "INFO"),
]


@pytest.mark.parametrize(("path", "value"), DEFAULTS)
def test_defaults_are_the_documented_ones(path: str, value: object) -> None:
    area, attribute = path.split(".")
    assert getattr(getattr(Settings.load({}), area), attribute) == value


@pytest.mark.parametrize("name", sorted(known_variables()))
def test_an_empty_value_means_unset(name: str) -> None:
    settings, defaults = Settings.load({name: ""}), Settings.load({})
    if name == "TELEMETRY_EXPORTERS_FILE":
        assert settings.telemetry.exporters_file == ""
    else:
        assert settings == defaults


def test_no_variable_is_declared_twice() -> None:
    names = [name for area in AREAS.values() for f in fields_of(area) for name in (f.var.name, f.var.alias) if name]
    assert len(names) == len(set(names))


PYTHON_TYPES = {
    Kind.STR: str,
    Kind.INT: int,
    Kind.BOOL: bool,
    Kind.DURATION: float,
    Kind.MILLIS: float,
    Kind.CSV: tuple,
    Kind.NETWORKS: tuple,
}


@pytest.mark.parametrize("area", AREAS.values(), ids=AREAS)
def test_every_default_has_the_type_of_its_variable(area: type) -> None:
    for field in fields_of(area):
        default = getattr(area(), field.attribute)
        assert default is None or type(default) is PYTHON_TYPES[field.var.kind], field.var.name


def test_the_response_head_is_waited_for_as_long_as_the_request() -> None:
    assert Settings.load({"PROVIDER_REQUEST_TIMEOUT": "90s"}).upstream.response_header_timeout_s == 90.0
    both = {"PROVIDER_REQUEST_TIMEOUT": "90s", "PROVIDER_RESPONSE_HEADER_TIMEOUT": "5s"}
    assert Settings.load(both).upstream.response_header_timeout_s == 5.0


def test_the_default_identity_providers_endpoints_follow_its_issuer() -> None:
    idp = Settings.load({"MCP_DEFAULT_IDP_ISSUER": "https://idp.example/", "MCP_DEFAULT_IDP_TOKEN_URL": "https://t"})
    assert idp.default_idp.enabled
    assert idp.default_idp.authorize_url == "https://idp.example/authorize"
    assert idp.default_idp.token_url == "https://t"
    assert idp.default_idp.jwks_url == "https://idp.example/jwks"


def test_base_domains_lose_blanks_and_outer_dots() -> None:
    assert Settings.load({"GATEWAY_BASE_DOMAIN": " .LLM.Example. "}).server.gateway_base_domain == "llm.example"


def test_credentials_for_every_origin_are_refused_with_a_warning() -> None:
    settings = Settings.load({"CORS_ALLOW_CREDENTIALS": "true"})
    assert not settings.cors.allow_credentials
    assert [w.key for w in settings.warnings] == ["CORS_ALLOW_CREDENTIALS"]


@pytest.mark.parametrize(
    ("text", "level", "warned"), [("warn", "WARN", 0), ("INFO+2", "INFO+2", 0), ("loud", "INFO", 1)]
)
def test_log_levels(text: str, level: str, warned: int) -> None:
    settings = Settings.load({"LOG_LEVEL": text})
    assert (settings.log.level, len(settings.warnings)) == (level, warned)


@pytest.mark.parametrize(
    ("env", "deployed", "production"),
    [
        ("dev", False, False),
        ("Prod", True, True),
        ("production", True, True),
        ("staging", True, False),
        ("stage", True, False),
    ],
)
def test_deployed_and_production_environments(env: str, deployed: bool, production: bool) -> None:
    settings = Settings.load({"APP_ENV": env})
    assert (settings.deployed, settings.production) == (deployed, production)


CONSOLE = [
    ({}, True),
    ({"CONSOLE_ENABLED": "false"}, False),
    ({"APP_ENV": "prod"}, False),
    ({"APP_ENV": "prod", "CONSOLE_ENABLED": "true"}, True),
    ({"APP_ENV": "staging", "CONSOLE_ADMIN_PASSWORD_HASH": "h"}, True),
    ({"APP_ENV": "prod", "CONSOLE_OIDC_ISSUER": "https://idp.example"}, True),
]


@pytest.mark.parametrize(("environ", "enabled"), CONSOLE)
def test_the_console_needs_a_login_method_in_deployed_environments(environ: dict[str, str], enabled: bool) -> None:
    assert Settings.load(environ).console_enabled is enabled


MODES = [
    ({}, ALL, "embedded"),
    ({"REDIS_HOST": "r"}, ALL, "embedded"),
    ({"DB_HOST": "db"}, ALL, "database"),
    ({"DB_PASSWORD": "p"}, PROXY, "database"),
    ({"CONFIG_SYNC_DATA_PLANE_ENABLED": "true"}, PROXY, "feed"),
    ({"CONFIG_SYNC_DATA_PLANE_ENABLED": "true", "DB_HOST": "db"}, PROXY, "feed"),
    ({"CONFIG_SYNC_DATA_PLANE_ENABLED": "true", "DB_HOST": "db"}, ADMIN, "database"),
]


@pytest.mark.parametrize(("environ", "planes", "mode"), MODES)
def test_where_configuration_lives(environ: dict[str, str], planes: frozenset[str], mode: str) -> None:
    settings = Settings.load(environ)
    feed, embedded = settings.database_less(planes), settings.embedded(planes)
    assert ("feed" if feed else "embedded" if embedded else "database") == mode


DATA_PLANE = {
    "CONFIG_SYNC_DATA_PLANE_ENABLED": "true",
    "CONFIG_SYNC_GRPC_ENDPOINT": "cp:8083",
    "CONFIG_SYNC_TOKEN": "t",
    "CONFIG_SYNC_LKG_KEY": base64.b64encode(b"k" * 32).decode(),
}
SIGNED = {
    "CONFIG_SYNC_AUTH_MODE": "composite",
    "CONFIG_SYNC_JWT_SECRET": "s",
    "CONFIG_SYNC_JWT_ISSUER": "i",
    "CONFIG_SYNC_JWT_AUDIENCE": "a",
    "CONFIG_SYNC_TOKEN": "t",
}
REFUSALS = [
    (
        PROXY,
        DATA_PLANE,
        "CONFIG_SYNC_GRPC_ENDPOINT",
        "CONFIG_SYNC_GRPC_ENDPOINT is required when CONFIG_SYNC_DATA_PLANE_ENABLED is true",
    ),
    (
        PROXY,
        DATA_PLANE,
        "CONFIG_SYNC_TOKEN",
        "CONFIG_SYNC_TOKEN is required when CONFIG_SYNC_DATA_PLANE_ENABLED is true",
    ),
    (
        PROXY,
        DATA_PLANE,
        "CONFIG_SYNC_LKG_KEY",
        "CONFIG_SYNC_LKG_KEY is required when CONFIG_SYNC_DATA_PLANE_ENABLED is true",
    ),
    (
        ADMIN,
        SIGNED,
        "CONFIG_SYNC_JWT_SECRET",
        "CONFIG_SYNC_JWT_SECRET is required when CONFIG_SYNC_AUTH_MODE is composite",
    ),
    (ADMIN, SIGNED, "CONFIG_SYNC_TOKEN", "CONFIG_SYNC_TOKEN is required when CONFIG_SYNC_AUTH_MODE is composite"),
]


@pytest.mark.parametrize(("planes", "complete", "missing", "message"), REFUSALS)
def test_a_required_variable_is_named_when_it_is_missing(
    planes: frozenset[str], complete: dict[str, str], missing: str, message: str
) -> None:
    Settings.load({"SERVER_SECRET_KEY": KEY, **complete}).check(planes)
    with pytest.raises(ConfigurationError) as refusal:
        Settings.load({"SERVER_SECRET_KEY": KEY, **complete, missing: ""}).check(planes)
    assert str(refusal.value) == f"invalid configuration: {message}"


PGVECTOR = "SEMANTIC_CACHE_VECTOR_STORE=pgvector needs a PostgreSQL database"
WRONG = [
    (PROXY, {"SEMANTIC_CACHE_VECTOR_STORE": "PGVECTOR"}, "SEMANTIC_CACHE_VECTOR_STORE must be one of redis, pgvector"),
    (PROXY, {"SEMANTIC_CACHE_VECTOR_STORE": "pgvector"}, f"{PGVECTOR}: set DB_HOST"),
    (PROXY, {"SEMANTIC_CACHE_VECTOR_STORE": "pgvector", **DATA_PLANE}, f"{PGVECTOR}, which a data plane"),
    (PROXY, {"SEMANTIC_CACHE_VECTOR_STORE": "pgvector", "DB_HOST": "d", **DATA_PLANE}, f"{PGVECTOR}, which a data"),
    (ADMIN, {"CONFIG_SYNC_AUTH_MODE": "open"}, "CONFIG_SYNC_AUTH_MODE"),
    (ADMIN, {"APP_ENV": "prod"}, "CONFIG_SYNC_GRPC_TLS_CERT"),
    (ADMIN, {"CONFIG_SYNC_GRPC_TLS_CERT": __file__}, "CONFIG_SYNC_GRPC_TLS_KEY"),
    (ADMIN, {"ADMIN_M2M_PUBLIC_KEYS": "not a key"}, "ADMIN_M2M_PUBLIC_KEYS"),
    (PROXY, {**DATA_PLANE, "CONFIG_SYNC_LKG_KEY": "c2hvcnQ="}, "CONFIG_SYNC_LKG_KEY"),
    (PROXY, {**DATA_PLANE, "CONFIG_SYNC_TLS_INSECURE": "true", "APP_ENV": "prod"}, "CONFIG_SYNC_TLS_INSECURE"),
    (PROXY, {"PROVIDER_MAX_RETRIES": "-1"}, "PROVIDER_MAX_RETRIES"),
    (PROXY, {"PROVIDER_FORWARD_HEADERS": "traceparent,cookie"}, "PROVIDER_FORWARD_HEADERS"),
    (PROXY, {"GATEWAY_BASE_DOMAIN": " . "}, "GATEWAY_BASE_DOMAIN is required"),
    (frozenset({"mcp"}), {"MCP_BASE_DOMAIN": "."}, "MCP_BASE_DOMAIN is required"),
    (PROXY, {"METRICS_QUEUE_SIZE": "0"}, "METRICS_QUEUE_SIZE"),
    (PROXY, {"METRICS_WORKER_COUNT": "0"}, "METRICS_WORKER_COUNT"),
    (PROXY, {"SERVER_TLS_CERT": __file__}, "SERVER_TLS_KEY"),
    (PROXY, {"SERVER_TLS_CERT": "/nowhere/c", "SERVER_TLS_KEY": "/nowhere/k"}, "SERVER_TLS_CERT"),
    (PROXY, {"SERVER_TLS_CERT": __file__, "SERVER_TLS_KEY": __file__}, "SERVER_TLS_CERT and SERVER_TLS_KEY are no"),
    (PROXY, {"SERVER_PROXY_PORT": "65536"}, "SERVER_PROXY_PORT must be a port number"),
    (PROXY, {"METRICS_PORT": "65536"}, "METRICS_PORT must be a port number"),
    (ADMIN, {"OPS_METRICS_ENABLED": "1", "OPS_METRICS_PORT": "-1"}, "OPS_METRICS_PORT must be a port number"),
    (PROXY, {"DB_PORT": "65536"}, "DB_PORT must be a port number"),
    (PROXY, {"REDIS_HOST": "r", "REDIS_PORT": "-1"}, "REDIS_PORT must be a port number"),
    (PROXY, {"DB_HOST": " "}, "DB_HOST"),
    (PROXY, {"DB_HOST": "d", "POSTGRES_LOGIN": "gcp"}, "POSTGRES_LOGIN"),
    (PROXY, {"DB_HOST": "d", "POSTGRES_LOGIN": "aws"}, "DB_SSL_MODE"),
    (PROXY, {"REDIS_HOST": "r", "REDIS_LOGIN": "aws"}, "REDIS_TLS_ENABLED"),
    (PROXY, {"REDIS_HOST": "r", "REDIS_LOGIN": "x"}, "REDIS_LOGIN"),
    (frozenset({"mcp"}), {"STS_SIGNING_KEY": "not a key"}, "STS_SIGNING_KEY"),
    (frozenset({"mcp"}), {"MCP_TOKEN_LEEWAY": "61s"}, "MCP_TOKEN_LEEWAY must be at most 1m"),
]


@pytest.mark.parametrize(("planes", "environ", "name"), WRONG)
def test_a_combination_that_cannot_work_is_refused_by_name(
    planes: frozenset[str], environ: dict[str, str], name: str
) -> None:
    with pytest.raises(ConfigurationError, match=f"^invalid configuration: .*{name}"):
        Settings.load({"SERVER_SECRET_KEY": KEY, **environ}).check(planes)


UNUSED = [
    (PROXY, {"CONFIG_SYNC_AUTH_MODE": "open"}),
    (PROXY, {"APP_ENV": "prod"}),
    (ADMIN, {"CONFIG_SYNC_DATA_PLANE_ENABLED": "true"}),
    (ADMIN, {"METRICS_QUEUE_SIZE": "0"}),
    (ADMIN, {"SERVER_PROXY_PORT": "65536", "OPS_METRICS_PORT": "65536"}),
    (PROXY, {"METRICS_ENABLED": "false", "METRICS_PORT": "65536", "REDIS_PORT": "65536"}),
    (PROXY, {"STS_SIGNING_KEY": "not a key"}),
    (PROXY, {**DATA_PLANE, "DB_SSL_MODE": "nonsense"}),
    (PROXY, {"SEMANTIC_CACHE_VECTOR_STORE": "pgvector", "DB_HOST": "d"}),
    (ADMIN, {"SEMANTIC_CACHE_VECTOR_STORE": "pgvector"}),
    (frozenset({"mcp"}), {"SEMANTIC_CACHE_VECTOR_STORE": "pgvector", **DATA_PLANE}),
]


@pytest.mark.parametrize(("planes", "environ"), UNUSED)
def test_a_plane_is_not_stopped_by_variables_it_does_not_use(planes: frozenset[str], environ: dict[str, str]) -> None:
    Settings.load({"SERVER_SECRET_KEY": KEY, **environ}).check(planes)


def test_a_short_server_secret_is_refused_with_its_length() -> None:
    with pytest.raises(ConfigurationError) as refusal:
        Settings.load({"SERVER_SECRET_KEY": "short"}).check(PROXY)
    assert str(refusal.value) == "crypto: encryption secret must be at least 32 bytes of random data (got 5)"


SECRET_MISSING = [
    ({}, None),
    ({"APP_ENV": "prod", "DB_HOST": "d", "REDIS_HOST": "r"}, None),
    ({"DB_HOST": "d", "REDIS_HOST": "r"}, "required"),
    ({"APP_ENV": "prod", "DB_HOST": "d"}, "required"),
    (DATA_PLANE, "required"),
]


@pytest.mark.parametrize(("environ", "refused"), SECRET_MISSING)
def test_a_missing_server_secret_is_made_or_refused(environ: dict[str, str], refused: str | None) -> None:
    if refused is None:
        Settings.load(environ).check(PROXY)
        return
    with pytest.raises(ConfigurationError) as refusal:
        Settings.load(environ).check(PROXY)
    assert str(refusal.value) == "crypto: encryption secret is required (set SERVER_SECRET_KEY)"


def test_the_embedded_server_secret_is_made_once_and_private(tmp_path: Path) -> None:
    key, path, created = embedded_server_key(str(tmp_path / "var"))
    assert created
    assert len(key.encode()) >= 32
    assert path.stat().st_mode & 0o777 == 0o600
    assert embedded_server_key(str(tmp_path / "var")) == (key, path, False)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("form", ["pem", "escaped", "base64"])
def test_the_signing_key_is_read_in_three_forms(form: str) -> None:
    pem = new_sts_key_pem()
    text = {"pem": pem, "escaped": pem.replace("\n", "\\n"), "base64": base64.b64encode(pem.encode()).decode()}[form]
    assert load_rsa_key(text).key_size == 2048


def test_service_token_keys_without_kid_or_pem_are_skipped() -> None:
    keys, warnings = parse_public_keys('[{"kid":"a","pem":"-----BEGIN X\\\\nY"},{"kid":"b"},{"pem":"c"}]')
    assert [(key.kid, key.pem) for key in keys] == [("a", "-----BEGIN X\nY")]
    assert len(warnings) == 2
    assert parse_public_keys("[nonsense") == ((), parse_public_keys("[x")[1])


def test_secrets_are_masked_in_the_report() -> None:
    environ = {"SERVER_SECRET_KEY": KEY, "DB_PASSWORD": "hunter2", "SERVER_PROXY_PORT": "9"}
    lines = {line.var.name: line for line in describe(Settings.load(environ), environ, {"SERVER_PROXY_PORT": ".env"})}
    assert lines["SERVER_SECRET_KEY"].value == lines["DB_PASSWORD"].value == "***"
    assert (lines["SERVER_PROXY_PORT"].value, lines["SERVER_PROXY_PORT"].source) == ("9", ".env")
    assert (lines["SERVER_ADMIN_PORT"].value, lines["SERVER_ADMIN_PORT"].source) == ("8080", "default")
    assert not any("hunter2" in line.value + line.default for line in lines.values())


def test_variables_that_look_like_ours_are_flagged() -> None:
    environ = {"SERVER_PROXY_PROT": "1", "CONFIG_SYNC_NONSENSE": "1", "PATH": "/bin", "DB_HOST": "x", "LOG_DIR": "x"}
    assert dict(unknown_variables(environ)) == {
        "SERVER_PROXY_PROT": "SERVER_PROXY_PORT",
        "CONFIG_SYNC_NONSENSE": "",
    }
