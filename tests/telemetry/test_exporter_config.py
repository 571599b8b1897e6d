"""Where exporters are declared and how a gateway's meet the defaults (spec 06 §11.1), and what is refused."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest
import yaml

from trustgate.telemetry.exporter_config import (
    ExporterConfig,
    InvalidExporters,
    gateway_exporters,
    load_defaults,
    merge,
)
from trustgate.telemetry.exporter_settings import validate_exporter
from trustgate.telemetry.exporters import Environment, otlp_target
from trustgate.telemetry.networks import Fence

ENVIRON = {"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4318"}
FILE = """
exporters:
  metadata:
    - {name: main, type: otlp, settings: {endpoint: "collector:4317", protocol: grpc}}
    - {name: kafka}
  raw:
    - {name: bodies, type: postgres, settings: {dsn_env: SENSIBLE_PG_DSN}}
"""


def defaults(file: str = "", metadata: str = "", raw: str = "") -> list[tuple[str, str, bool]]:
    return [(e.name, e.type, e.raw) for e in load_defaults(file, metadata, raw, "trustgate.requests", ENVIRON)]


def written(tmp_path: pathlib.Path, text: str) -> str:
    path = tmp_path / "telemetry.yaml"
    path.write_text(text)
    return str(path)


def test_the_file_wins_over_the_lists_even_when_it_is_empty(tmp_path: pathlib.Path) -> None:
    found = defaults(written(tmp_path, FILE), metadata="otlp")
    assert found == [("main", "otlp", False), ("kafka", "kafka", False), ("bodies", "postgres", True)]
    assert defaults(written(tmp_path, ""), metadata="otlp") == []
    assert defaults(str(tmp_path / "missing.yaml"), metadata="otlp") == [("metadata-otlp", "otlp", False)]


def test_a_kafka_default_without_a_topic_gets_the_installations() -> None:
    (kafka,) = load_defaults("", "kafka", "", "trustgate.requests", {})
    assert kafka.settings == {"topic": "trustgate.requests"}


@pytest.mark.parametrize(
    ("metadata", "raw", "expected"),
    [
        ("otlp", "", [("metadata-otlp", "otlp", False)]),
        (" otel , kafka,", "postgres", [("metadata-otlp", "otlp", False), ("metadata-kafka", "kafka", False),
                                        ("raw-postgres", "postgres", True)]),
        ('[{"name":"a","type":"otlp"}]', "", [("a", "otlp", False)]),
        ("- {name: otlp}\n- {name: f, type: file, settings: {path: /tmp/x}}", "",
         [("otlp", "otlp", False), ("f", "file", False)]),
        ("name: otlp", "", [("otlp", "otlp", False)]),
        ("", "otlp", [("raw-otlp", "otlp", True)]),
        ("", "", []),
    ],
)  # fmt: skip
def test_the_lists_of_the_environment(metadata: str, raw: str, expected: list[tuple[str, str, bool]]) -> None:
    assert defaults("", metadata, raw) == expected


@pytest.mark.parametrize(
    ("file", "metadata", "raw", "told"),
    [
        ("", "postgres", "", 'exporter "postgres": does not accept class "metadata"'),
        ("", "", "kafka", 'exporter "kafka": does not accept class "raw"'),
        ("", "", "file", 'exporter "file": file: path is required'),
        ("", "nats", "", 'unknown exporter "nats"'),
        ("", "[1]", "", "TELEMETRY_EXPORTERS_METADATA: want a list"),
        ("", "a: [", "", "TELEMETRY_EXPORTERS_METADATA"),
        ("exporters: [1", "", "", "TELEMETRY_EXPORTERS_FILE"),
        ("exporters: 5", "", "", "want exporters"),
        ("exporters: {meta: []}", "", "", "unknown class 'meta'"),
        ("exporters: {metadata: [{name: otlp, settings: {endpoint: c:1, protocol: x}}]}", "", "", "invalid protocol"),
    ],
)
def test_defaults_that_cannot_be_used_stop_the_start(
    tmp_path: pathlib.Path, file: str, metadata: str, raw: str, told: str
) -> None:
    with pytest.raises(InvalidExporters) as refused:
        defaults(written(tmp_path, file) if file else "", metadata, raw)
    assert told in str(refused.value)


def config(name: str, raw: bool = False, type_: str = "otlp", **settings: Any) -> ExporterConfig:
    return ExporterConfig(name=name, type=type_, raw=raw, settings=settings)


MERGES = [
    # defaults, own, names of the result
    ([config("a", e=1), config("b", e=2)], [], ["a1", "b2"]),
    ([config("a", e=1), config("a", e=2), config("a", raw=True, e=3)], [], ["a1", "a3"]),
    ([config("a", e=1), config("b", e=2)], [config("a", e=9)], ["a9", "b2"]),
    ([config("a", e=1), config("a", raw=True, e=3)], [config("a", e=9)], ["a9", "a3"]),
    ([config("a", e=1)], [config("c", e=5)], ["a1", "c5"]),
    ([config("a", e=1)], [config("c", e=1)], ["a1"]),
    ([], [config("c", e=1)], ["c1"]),
]


@pytest.mark.parametrize(("defaults_", "own", "expected"), MERGES)
def test_a_gateways_exporters_replace_defaults_by_name_and_identical_ones_count_once(
    defaults_: list[ExporterConfig], own: list[ExporterConfig], expected: list[str]
) -> None:
    assert [f"{found.name}{found.settings['e']}" for found in merge(defaults_, own)] == expected


def test_the_class_of_a_gateways_exporter() -> None:
    stored = [
        {"name": "otlp", "type": "", "settings": {"endpoint": "c:1"}},
        {"name": "b", "type": "otlp", "settings": {}, "class": "raw", "confined": True},
        {"name": "p", "type": "postgres", "settings": None},
    ]
    found = gateway_exporters({"exporters": stored})
    assert [(e.type, e.raw, e.confined) for e in found] == [
        ("otlp", False, False),
        ("otlp", True, True),
        ("postgres", True, False),
    ]
    assert gateway_exporters({"exporters": None}) == gateway_exporters(None) == []


REFUSALS = [
    ("kafka", {}, "kafka: topic is required"),
    ("kafka", {"topic": "t", "brokers": [" "]}, "kafka: brokers are required"),
    ("kafka", {"topic": "t", "brokers": "b"}, "kafka: brokers must be a list of strings"),
    ("kafka", {"topic": "t", "compression": "rar"}, 'kafka: invalid compression "rar"'),
    ("kafka", {"topic": "t", "partition_key": "ip"}, 'kafka: invalid partition_key "ip"'),
    ("kafka", {"topic": "t", "acks": 0}, 'kafka: acks must be "all" or 1'),
    ("kafka", {"topic": "t", "sasl": {"username": "u"}}, "kafka: sasl needs username and password"),
    ("kafka", {"topic": "t", "sasl": {"mechanism": "GSSAPI"}}, 'kafka: sasl: invalid mechanism "GSSAPI"'),
    ("kafka", {"topic": "t", "tls": {"ca_file": "/none"}}, "kafka: tls.ca_file does not exist"),
    ("otlp", {}, "otlp: endpoint is required (set settings.endpoint or OTEL_EXPORTER_OTLP_ENDPOINT)"),
    ("otlp", {"endpoint": "c:1", "protocol": "x"}, 'otlp: invalid protocol "x" (want "grpc" or "http/protobuf")'),
    ("otlp", {"endpoint": "c:1", "compression": "x"}, 'otlp: invalid compression "x" (want "gzip" or "none")'),
    ("otlp", {"endpoint": "c:1", "signal": "traces"}, 'otlp: signal "traces" is reserved'),
    ("otlp", {"endpoint": "c:1", "insecure": True, "tls": {}}, "otlp: insecure cannot be combined with tls settings"),
    (
        "otlp",
        {"endpoint": "c:1", "tls": {"cert_file": "/x"}},
        "otlp: tls.cert_file and tls.key_file must be set together",
    ),
    ("otlp", {"endpoint": "c:1", "timeout": "soon"}, "otlp: timeout must be milliseconds or a duration"),
    ("otlp", {"endpoint": "c:1", "headers": {"a": 1}}, "otlp: headers must be an object of strings"),
    ("otlp", {"endpoint": "c:1/x", "protocol": "grpc"}, "otlp: a grpc endpoint must not have a path"),
    ("otlp", {"endpoint": "http://[c:1"}, "otlp: invalid endpoint (want host:port or an http(s) URL)"),
    ("postgres", {"table": "x"}, 'postgres: table must be "trustgate_data"'),
    ("postgres", {"retention_days": 0}, "postgres: retention_days must be a positive number"),
    ("file", {}, "file: path is required"),
    ("file", {"path": "/x", "max_files": -1}, "file: max_files must be a positive number"),
]


@pytest.mark.parametrize(("kind", "settings", "told"), REFUSALS)
def test_refused_settings(kind: str, settings: dict[str, Any], told: str) -> None:
    refusal = validate_exporter({"name": kind, "settings": settings}, {})
    assert refusal is not None and refusal.startswith(f'exporter "{kind}": {told}')


@pytest.mark.parametrize(
    ("kind", "class_", "accepted"),
    [
        ("otlp", "", True),
        ("otlp", "metadata", True),
        ("otlp", "raw", True),
        ("otlp", "bodies", False),
        ("kafka", "metadata", True),
        ("kafka", "raw", False),
        ("postgres", "", True),
        ("postgres", "raw", True),
        ("postgres", "metadata", False),
    ],
)
def test_the_classes_that_an_exporter_accepts(kind: str, class_: str, accepted: bool) -> None:
    settings = {"otlp": {"endpoint": "c:1"}, "kafka": {"topic": "t"}, "postgres": {}}[kind]
    refusal = validate_exporter({"name": kind, "settings": settings, "class": class_}, {})
    assert refusal == (None if accepted else f'exporter "{kind}": does not accept class "{class_}"')


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "x"}, 'otlp: invalid protocol "x" (want "grpc" or "http/protobuf")'),
        ({"OTEL_EXPORTER_OTLP_COMPRESSION": "x"}, 'otlp: invalid compression "x" (want "gzip" or "none")'),
        (
            {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_ENDPOINT": "c:1/x"},
            "otlp: a grpc endpoint must not have a path",
        ),
    ],
)
def test_what_the_environment_says_is_refused_like_settings_and_yields_to_them(
    environ: dict[str, str], told: str
) -> None:
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": "c:1"} | environ
    assert validate_exporter({"name": "otlp"}, environ) == f'exporter "otlp": {told}'
    settings = {"endpoint": "c:1", "protocol": "grpc", "compression": "none", "timeout": "250"}
    assert validate_exporter({"name": "otlp", "settings": settings}, environ) is None


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("otlp", {"endpoint": "http://169.254.169.254/v1/logs"}),
        ("otlp", {"endpoint": "10.0.0.1:4317"}),
        ("otlp", {"endpoint": "[::1]:4317"}),
        ("kafka", {"topic": "t", "brokers": ["b.example:9092", "127.0.0.1:9092"]}),
    ],
)
def test_a_tenants_exporter_may_not_name_addresses_inside(kind: str, settings: dict[str, Any]) -> None:
    entry = {"name": kind, "settings": settings}
    assert validate_exporter(entry, {}, Fence()) is None  # the platform's may
    assert "is not an address that tenants may export to" in str(
        validate_exporter(entry | {"confined": True}, {}, Fence())
    )


FENCES = [
    # address, public only, development, with 10.0.0.0/8
    ("8.8.8.8", True, True, True),
    ("2001:4860:4860::8888", True, True, True),
    ("10.1.2.3", False, True, True),
    ("127.0.0.1", False, True, False),
    ("::1", False, True, False),
    ("::ffff:127.0.0.1", False, True, False),
    ("169.254.169.254", False, False, False),
    ("fe80::1%eth0", False, False, False),
    ("224.0.0.1", False, False, False),
    ("0.0.0.0", False, False, False),
]


@pytest.mark.parametrize(("address", "public", "development", "ten"), FENCES)
def test_where_tenants_may_connect_to(address: str, public: bool, development: bool, ten: bool) -> None:
    fences = (Fence(), Fence(private=True), Fence(("10.0.0.0/8",)))
    assert [fence.allows(address) for fence in fences] == [public, development, ten]


ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("overlay", "service", "types"), [("otel", "proxy", ["otlp", "otlp"]), ("observability", "proxy", ["kafka"])]
)
def test_the_compose_overlays_name_exporters_that_can_be_used(overlay: str, service: str, types: list[str]) -> None:
    document = yaml.safe_load((ROOT / "ops" / f"docker-compose.{overlay}.yaml").read_text())
    given = document["services"][service]["environment"]
    found = load_defaults(
        "", given["TELEMETRY_EXPORTERS_METADATA"], given.get("TELEMETRY_EXPORTERS_RAW", ""), "trustgate.requests", given
    )
    assert [config.type for config in found] == types
    endpoint = given.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    if endpoint:
        target = otlp_target(found[0].settings, Environment(otlp_endpoint=endpoint, otlp_insecure=True))
        assert (target.protocol, target.url) == ("http/protobuf", "http://otel-collector:4318")
        collector = yaml.safe_load((ROOT / "ops" / "otel-collector.yaml").read_text())
        assert collector["service"]["pipelines"]["logs"] == {"receivers": ["otlp"], "exporters": ["debug"]}
