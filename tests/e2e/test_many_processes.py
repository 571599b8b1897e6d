"""Several processes as one installation: PostgreSQL and Redis between them, TLS and HTTP/2 in front."""

from __future__ import annotations

import concurrent.futures
import contextlib
import http.client
import json
import pathlib
import shutil
import ssl
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import psycopg
import pytest

from tests.e2e.certificates import self_signed
from tests.e2e.installation import SECRET, Demo, environment, installed
from tests.e2e.test_faults import ask
from tests.e2e.upstream import FaultyUpstream
from tests.ports import free_port

LIMIT = 150


def database_settings(dsn: str) -> dict[str, str]:
    """A database of its own on the test server, as `DB_*` variables."""
    name = f"e2e_{time.time_ns()}"
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"'.encode())
        info = connection.info
        found = {"DB_HOST": info.host, "DB_PORT": str(info.port), "DB_USER": info.user, "DB_NAME": name}
        return found | {"DB_PASSWORD": info.password or "none"}


def redis_settings(url: str) -> dict[str, str]:
    parts = urlsplit(url)
    return {"REDIS_HOST": parts.hostname or "", "REDIS_PORT": str(parts.port), "REDIS_DB": parts.path.strip("/") or "0"}


SIX_CALLS = """
set -euo pipefail
H="Authorization: Bearer $ADMIN_TOKEN"; J="Content-Type: application/json"
GW=$(curl -sf -X POST $A/v1/gateways -H "$H" -H "$J" -d '{"slug":"demo"}')
GW_ID=$(jq -r .id <<<"$GW"); GW_SLUG=$(jq -r .slug <<<"$GW")
REG_ID=$(curl -sf -X POST $A/v1/gateways/$GW_ID/registries -H "$H" -H "$J" \\
  -d '{"name":"openai-primary","provider":"openai",
  "provider_options":{"base_url":"'"$UPSTREAM"'"},
  "auth":{"type":"api_key","api_key":{"api_key":"'"$OPENAI_API_KEY"'"}}}' | jq -r .id)
CON=$(curl -sf -X POST $A/v1/gateways/$GW_ID/consumers -H "$H" -H "$J" \\
  -d '{"name":"my-app","registries":[{"id":"'"$REG_ID"'"}]}')
CON_ID=$(jq -r .id <<<"$CON"); CON_SLUG=$(jq -r .slug <<<"$CON")
AUTH=$(curl -sf -X POST $A/v1/gateways/$GW_ID/auths -H "$H" -H "$J" -d '{"name":"my-app-key","type":"api_key"}')
AUTH_ID=$(jq -r .id <<<"$AUTH"); API_KEY=$(jq -r .api_key <<<"$AUTH")
curl -sf -X POST $A/v1/gateways/$GW_ID/consumers/$CON_ID/auths/$AUTH_ID -H "$H"
curl -sf $P/$CON_SLUG/v1/chat/completions -H "X-AG-Gateway-Slug: $GW_SLUG" -H "X-AG-API-Key: $API_KEY" -H "$J" \\
  -d '{"model":"gpt-4o-mini","messages":[{"role":"user","content":"Hello!"}]}'
"""


@pytest.mark.parametrize("store", ["sqlite", "postgres"])
def test_the_six_calls_run_against_admin_and_proxy_as_two_processes(
    store: str, request: pytest.FixtureRequest, tmp_path: pathlib.Path, upstream: FaultyUpstream
) -> None:
    assert shutil.which("curl") and shutil.which("jq"), "the script needs curl and jq"
    more = database_settings(request.getfixturevalue("postgres_dsn")) if store == "postgres" else {}
    with installed(tmp_path, "admin", "proxy", **more) as running:
        token = subprocess.run(
            [sys.executable, "-m", "trustgate", "token", "--tenant", "acme", "--ttl", "1h"],
            env={"SERVER_SECRET_KEY": SECRET},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        given = {"A": running.admin, "P": running.proxy, "ADMIN_TOKEN": token, "OPENAI_API_KEY": "sk-1234567890"}
        found = subprocess.run(
            ["bash", "-c", SIX_CALLS],
            env=given | {"UPSTREAM": upstream.url("ok"), "PATH": "/usr/bin:/bin:/usr/local/bin"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert found.returncode == 0, found.stderr
        assert json.loads(found.stdout)["choices"][0]["message"]["role"] == "assistant"


def test_a_limit_holds_exactly_over_three_workers_on_one_redis(
    tmp_path: pathlib.Path, upstream: FaultyUpstream, redis_url: str
) -> None:
    with installed(tmp_path, "run", TRUSTGATE_WORKERS="3", **redis_settings(redis_url)) as running:
        demo = Demo(running)
        demo.registry("good", upstream.url("ok"))
        demo.open()
        demo.policy("rate_limiter", {"limit": LIMIT, "window": "60s"})
        with concurrent.futures.ThreadPoolExecutor(24) as clients:
            statuses = Counter(clients.map(lambda _: ask(demo, model="m").status, range(2 * LIMIT)))
    assert statuses == {200: LIMIT, 429: LIMIT}


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A self-signed certificate for localhost; paths of it and its key."""
    pem, secret = self_signed("localhost", tmp_path_factory.mktemp("tls"))
    return str(pem), str(secret)


VOLATILE = {"x-session-id", "x-ag-trace-id", "content-length", "transfer-encoding", "strict-transport-security"}


def comparable(answer: httpx.Response) -> tuple[int, dict[str, str], bytes]:
    headers = {name: value for name, value in answer.headers.items() if name not in VOLATILE}
    headers.pop("x-ag-config-version", None)
    return answer.status_code, headers, answer.read()


REQUESTS: list[tuple[str, Any]] = [
    ("buffered", {"model": "m", "messages": []}),
    ("streamed", {"model": "m", "messages": [], "stream": True}),
    ("refused", {"model": "pool:x", "messages": []}),
    ("anthropic", {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "Hi"}]}),
]


def test_hypercorn_with_tls_gives_the_same_answers_as_our_own_server(
    tmp_path: pathlib.Path, upstream: FaultyUpstream, certificate: tuple[str, str]
) -> None:
    pem, secret = certificate
    plain_folder, tls_folder = tmp_path / "plain", tmp_path / "tls"
    plain_folder.mkdir()
    tls_folder.mkdir()
    # The TLS proxy reads the same store as the plain installation.
    with installed(plain_folder, "run") as plain:
        demo = Demo(plain)
        demo.registry("good", upstream.url("ok"))
        demo.open()
        with tls_proxy(plain_folder, pem, secret) as port, httpx.Client(http2=True, verify=pem) as client:
            for name, body in REQUESTS:
                path = "/v1/messages" if name == "anthropic" else "/v1/chat/completions"
                ours = httpx.post(demo.url + path, json=body, headers=demo.headers)
                theirs = client.post(f"https://localhost:{port}/{demo.slug}{path}", json=body, headers=demo.headers)
                assert theirs.http_version == "HTTP/2"
                assert "strict-transport-security" in theirs.headers
                assert comparable(theirs) == comparable(ours), name
            url = f"https://localhost:{port}/{demo.slug}/v1/chat/completions"
            answer = client.post(url, content=b" " * (8 * 1024 * 1024 + 1), headers=demo.headers)
            assert (answer.status_code, answer.text) == (413, "Request Entity Too Large")


def test_with_a_client_authority_only_its_clients_may_connect(
    tmp_path: pathlib.Path, certificate: tuple[str, str]
) -> None:
    pem, secret = certificate  # its own authority
    with tls_proxy(tmp_path, pem, secret, SERVER_TLS_CLIENT_CA=pem) as port:
        url = f"https://localhost:{port}/healthz"
        trusting = ssl.create_default_context(cafile=pem)
        with pytest.raises(httpx.HTTPError):
            httpx.get(url, verify=trusting)
        trusting.load_cert_chain(pem, secret)
        assert httpx.get(url, verify=trusting).status_code == 200


def test_a_certificate_shown_to_a_tls_listener_is_a_credential_on_both_planes(
    tmp_path: pathlib.Path, upstream: FaultyUpstream, certificate: tuple[str, str]
) -> None:
    pem, secret = certificate
    trusting = ssl.create_default_context(cafile=pem)
    trusting.load_cert_chain(pem, secret)
    with installed(tmp_path, "admin") as plain:
        demo = Demo(plain)
        demo.registry("good", upstream.url("ok"))
        demo.open()
        config = {"mtls": {"ca_cert": pathlib.Path(pem).read_text(), "allowed_common_names": ["localhost"]}}
        auth = plain.call("POST", f"{demo.base}/auths", {"name": "m", "type": "mtls", "config": config})["id"]
        plain.call("POST", f"{demo.base}/consumers/{demo.consumer_id}/auths/{auth}")
        target = {"name": "mcp", "type": "MCP", "mcp_target": {"url": "http://127.0.0.1:9/mcp"}}
        registry = plain.call("POST", f"{demo.base}/registries", target)["id"]
        body = {"name": "tools", "type": "MCP", "registries": [{"id": registry}]}
        tools = plain.call("POST", f"{demo.base}/consumers", body)
        plain.call("POST", f"{demo.base}/consumers/{tools['id']}/auths/{auth}")
        slug = {"X-AG-Gateway-Slug": demo.gateway_slug}
        with tls_proxy(tmp_path, pem, secret, SERVER_TLS_CLIENT_CA=pem) as port:
            url = f"https://localhost:{port}/{demo.slug}/v1/chat/completions"
            assert (
                httpx.post(url, json={"model": "m", "messages": []}, headers=slug, verify=trusting).status_code == 200
            )
        with tls_proxy(tmp_path, pem, secret, plane="mcp", SERVER_TLS_CLIENT_CA=pem) as port:
            url = f"https://localhost:{port}/{tools['slug']}/mcp"
            answer = httpx.post(url, json={"jsonrpc": "2.0", "id": 1, "method": "ping"}, verify=trusting)
            assert answer.json() == {"jsonrpc": "2.0", "id": 1, "result": {}}


def tls_proxy(folder: pathlib.Path, pem: str, secret: str, plane: str = "proxy", **more: str) -> Any:
    """`trustgate proxy` (or another plane) with TLS on the store of `folder`; its port."""
    trusting = ssl.create_default_context(cafile=pem)
    trusting.load_cert_chain(pem, secret)

    @contextlib.contextmanager
    def run() -> Iterator[int]:
        port = free_port()
        given = environment(folder, free_port(), port, {"SERVER_TLS_CERT": pem, "SERVER_TLS_KEY": secret} | more, port)
        with (folder / "tls.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "trustgate", plane], cwd=folder, env=given, stdout=log, stderr=log
            )
            try:
                deadline = time.monotonic() + 60
                while True:
                    try:
                        if httpx.get(f"https://localhost:{port}/healthz", verify=trusting).status_code == 200:
                            break
                    except (httpx.HTTPError, http.client.HTTPException):
                        pass
                    assert process.poll() is None and time.monotonic() < deadline, "the TLS proxy does not answer"
                    time.sleep(0.05)
                yield port
            finally:
                process.kill()
                process.wait()

    return run()
