"""Compose files, Kubernetes manifests and Prometheus' files follow the settings: variables, ports, paths of probes."""

from __future__ import annotations

import io
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from dotenv.parser import parse_stream

from trustgate.settings import Settings, known_variables
from trustgate.settings.report import OTHER_VARIABLES

OPS = Path(__file__).resolve().parents[2] / "ops"
PORTS = {"admin": 8080, "proxy": 8081, "mcp": 8082}
PLANES = {"all": frozenset(PORTS)} | {plane: frozenset({plane}) for plane in PORTS}
SECRETS = {"SERVER_SECRET_KEY": "0123456789abcdef0123456789abcdef"}
KUBERNETES_SECRETS = SECRETS | {
    "DB_HOST": "postgres",
    "DB_PASSWORD": "secret",
    "REDIS_HOST": "redis",
    "CONFIG_SYNC_TOKEN": "t" * 32,
    "CONFIG_SYNC_LKG_KEY": "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=",
    "CONFIG_SYNC_JWT_SECRET": "j" * 32,
}


def file_variables(path: Path) -> dict[str, str]:
    return {line.key: line.value or "" for line in parse_stream(io.StringIO(path.read_text())) if line.key}


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exporters read what they need from the environment itself."""
    for name in (*known_variables(), *OTHER_VARIABLES):
        monkeypatch.delenv(name, raising=False)


def planes_can_start(environ: dict[str, str], planes: frozenset[str], monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name in environ.keys() & {"OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_INSECURE", "KAFKA_BROKERS"}:
        monkeypatch.setenv(name, environ[name])
    assert set(environ) <= {*known_variables(), *OTHER_VARIABLES}
    settings = Settings.load(environ)
    assert not settings.warnings
    settings.check(planes)
    return settings


def composed(*names: str) -> dict[str, Any]:
    """Services of several compose files, the later ones laid over the earlier ones."""
    services: dict[str, Any] = {}
    for name in names:
        found = yaml.safe_load((OPS / name).read_text())["services"]
        for service, body in found.items():
            known = services.setdefault(service, {})
            environment = known.get("environment", {}) | body.get("environment", {})
            known |= body | ({"environment": environment} if environment else {})
    return services


BASE = ("docker-compose.yaml", "docker-compose.api.yaml")


@pytest.mark.parametrize(
    "names",
    [("docker-compose.embedded.yaml",), BASE, (*BASE, "docker-compose.observability.yaml"),
     (*BASE, "docker-compose.otel.yaml")],
    ids=lambda names: names[-1],
)  # fmt: skip
def test_the_planes_of_a_compose_file_start_and_publish_their_ports(
    names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    services = composed(*names)
    ours = {name: body for name, body in services.items() if body.get("command", [""])[0] in PLANES}
    assert ours
    for body in ours.values():
        planes = PLANES[body["command"][0]]
        given = {name: str(value) for name, value in body.get("environment", {}).items()}
        given |= {name: value.split(":-")[1].rstrip("}") for name, value in given.items() if value.startswith("${")}
        settings = planes_can_start(SECRETS | given, planes, monkeypatch)
        server = settings.server
        assert (server.admin_port, server.proxy_port, server.mcp_port) == tuple(PORTS.values())
        published = {int(port.split(":")[-1]) for port in body["ports"]}
        assert {PORTS[plane] for plane in planes} <= published <= {*PORTS.values(), 8083}
        assert body["healthcheck"]["test"][:3] == ["CMD", "trustgate", "healthcheck"]
        assert set(body.get("depends_on", {})) <= set(services)
    for body in services.values():
        files = [volume.split(":")[0] for volume in body.get("volumes", []) if volume.startswith("./")]
        assert all((OPS / file).exists() for file in files), files


def test_prometheus_scrapes_the_operators_port_of_every_plane() -> None:
    services = composed(*BASE, "docker-compose.observability.yaml")
    (job,) = yaml.safe_load((OPS / "prometheus.yaml").read_text())["scrape_configs"]
    assert sorted(job["static_configs"][0]["targets"]) == sorted(f"{plane}:9464" for plane in PORTS)
    for plane in PORTS:
        settings = Settings.load(SECRETS | services[plane]["environment"])
        assert settings.metrics.ops_enabled and (settings.metrics.ops_bind, settings.metrics.ops_port) == ("", 9464)


def deployment(plane: str) -> dict[str, Any]:
    documents = yaml.safe_load_all((OPS / f"kubernetes/base/{plane}.yaml").read_text())
    return next(document for document in documents if document["kind"] == "Deployment")


@pytest.mark.parametrize("overlay", ["base", "prod"])
@pytest.mark.parametrize("plane", PORTS)
def test_the_pods_of_a_plane_start_with_their_configuration(
    plane: str, overlay: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = deployment(plane)["spec"]["template"]
    (container,) = template["spec"]["containers"]
    given = file_variables(OPS / "kubernetes/base/config.env")
    if overlay == "prod":
        given |= file_variables(OPS / "kubernetes/prod/config.env")
    given |= {variable["name"]: variable.get("value", "pod") for variable in container["env"]}
    here = {name: "" for name in given if given[name].startswith("/etc/trustgate/")}  # files that only a pod has,
    here["APP_ENV"] = "dev"  # and that a deployed environment asks for
    planes_can_start(KUBERNETES_SECRETS | given | here, PLANES[plane], monkeypatch)
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert (container["args"], ports["http"]) == ([plane], PORTS[plane])
    assert ports["metrics"] == PORTS[plane] + 1010
    assert template["metadata"]["annotations"]["prometheus.io/port"] == str(ports["metrics"])
    assert given["METRICS_BIND"] == "*"
    for probe, path in (("startup", "/healthz"), ("readiness", "/readyz"), ("liveness", "/healthz")):
        assert container[f"{probe}Probe"]["httpGet"] == {"path": path, "port": "http"}
    writable = {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
    assert container["securityContext"]["readOnlyRootFilesystem"] and given["TRUSTGATE_DATA_DIR"] in writable
    grace = template["spec"]["terminationGracePeriodSeconds"]
    assert Settings.load(given).server.shutdown_timeout_s < grace


def kubernetes(folder: str) -> list[dict[str, Any]]:
    """Every object of an overlay's files, without its kustomization."""
    files = [path for path in (OPS / "kubernetes" / folder).glob("*.yaml") if path.name != "kustomization.yaml"]
    return [document for path in files for document in yaml.safe_load_all(path.read_text()) if document]


def named(objects: list[dict[str, Any]], kind: str) -> dict[str, dict[str, Any]]:
    return {found["metadata"]["name"]: found for found in objects if found["kind"] == kind}


def test_services_routes_and_disruption_budgets_point_at_what_there_is() -> None:
    objects = kubernetes("base")
    deployments, services = named(objects, "Deployment"), named(objects, "Service")
    assert deployments.keys() == services.keys() == named(objects, "PodDisruptionBudget").keys() == PORTS.keys()
    for plane in PORTS:
        labels = deployments[plane]["spec"]["template"]["metadata"]["labels"]
        (container,) = deployments[plane]["spec"]["template"]["spec"]["containers"]
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        assert services[plane]["spec"]["selector"] == labels
        assert named(objects, "PodDisruptionBudget")[plane]["spec"]["selector"]["matchLabels"] == labels
        served = {port["port"]: ports[port["targetPort"]] for port in services[plane]["spec"]["ports"]}
        assert served == {PORTS[plane]: PORTS[plane]} | ({8083: 8083} if plane == "admin" else {})
    routed = {
        (backend["name"], backend["port"])
        for route in named(objects, "HTTPRoute").values()
        for rule in route["spec"]["rules"]
        for backend in rule["backendRefs"]
    }
    assert routed == set(PORTS.items())
    listed = yaml.safe_load((OPS / "kubernetes/base/kustomization.yaml").read_text())["resources"]
    assert set(listed) == {path.name for path in (OPS / "kubernetes/base").glob("*.yaml")} - {"kustomization.yaml"}


@pytest.mark.parametrize(
    ("overlay", "replicas"),
    [("base", {"admin": (1, 2), "proxy": (1, 20), "mcp": (1, 20)}),
     ("prod", {"admin": (2, 3), "proxy": (3, 20), "mcp": (3, 20)})],
)  # fmt: skip
def test_every_plane_is_scaled(overlay: str, replicas: dict[str, tuple[int, int]]) -> None:
    scalers = named(kubernetes(overlay), "HorizontalPodAutoscaler")
    bounds = {name: (found["spec"]["minReplicas"], found["spec"]["maxReplicas"]) for name, found in scalers.items()}
    assert bounds == replicas
    for plane, scaler in named(kubernetes("base"), "HorizontalPodAutoscaler").items():
        assert scaler["spec"]["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": plane}
        targets = {metric["resource"]["name"]: metric["resource"]["target"] for metric in scaler["spec"]["metrics"]}
        assert {name: target["averageUtilization"] for name, target in targets.items()} == {"cpu": 80, "memory": 90}


def test_the_image_runs_the_proxy_as_nobody_special_from_files_its_context_has() -> None:
    lines = (OPS / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    steps = [line.split(maxsplit=1) for line in lines if line and not line.startswith("#")]
    final = dict(steps[max(place for place, step in enumerate(steps) if step[0] == "FROM") :])
    assert (final["ENTRYPOINT"], final["CMD"], final["WORKDIR"]) == ('["trustgate"]', '["proxy"]', "/app")
    assert {int(port) for port in final["EXPOSE"].split()} == {*PORTS.values(), 8083}
    (container,) = deployment("proxy")["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "trustgate" and container["securityContext"]["readOnlyRootFilesystem"]
    assert deployment("proxy")["spec"]["template"]["spec"]["securityContext"]["runAsUser"] == int(final["USER"])
    copied = {
        name
        for keyword, rest in steps
        if keyword == "COPY" and not rest.startswith("--from")
        for name in rest.split()[:-1]
    }
    context = (OPS.parent / ".dockerignore").read_text().splitlines()
    assert copied == {line[1:] for line in context if line.startswith("!")}
    assert all((OPS.parent / name).exists() for name in copied)


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (Debian package prometheus) is not installed")
def test_prometheus_accepts_rules_and_configuration() -> None:
    for command in (["rules", OPS / "alerts.yaml"], ["config", "--syntax-only", OPS / "prometheus.yaml"]):
        done = subprocess.run(["promtool", "check", *command], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
