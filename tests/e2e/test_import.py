"""An existing installation's database, on a real PostgreSQL, carried over and served."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import pathlib
import subprocess
import sys
import uuid
from typing import Any

import psycopg
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.e2e.installation import SECRET, Demo, environment, installed
from tests.e2e.test_explain import chat
from tests.e2e.upstream import FaultyUpstream

THEIRS = "the-existing-installation-s-secret-key-0001"
KEY = "ag_" + "k" * 43
AT = "2026-05-06T07:08:09.123456+00:00"


def sealed(value: Any, secret: str = THEIRS) -> str:
    nonce = os.urandom(12)
    key = hashlib.sha256(b"trustgate-vault:" + secret.encode()).digest()
    return base64.b64encode(nonce + AESGCM(key).encrypt(nonce, json.dumps(value).encode(), None)).decode()


class Existing:
    """Rows of an existing installation."""

    def __init__(self, dsn: str, schema: bool = True) -> None:
        self.connection = psycopg.connect(dsn, autocommit=True)
        if schema:
            self.connection.execute((pathlib.Path(__file__).parent / "existing.sql").read_bytes())

    def add(self, table: str, **row: Any) -> str:
        id_ = str(uuid.uuid4())
        row = {"id": id_, "created_at": AT, "updated_at": AT} | row
        values = [json.dumps(value) if isinstance(value, (dict, list)) else value for value in row.values()]
        names, marks = ", ".join(f'"{name}"' for name in row), ", ".join(["%s"] * len(row))
        self.connection.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", values)  # type: ignore[arg-type]
        return id_

    def link(self, table: str, *ids: str) -> None:
        marks = ", ".join(["%s"] * len(ids))
        columns = {"consumer_registry": "(consumer_id, registry_id)"}.get(table, "")
        self.connection.execute(f"INSERT INTO {table} {columns} VALUES ({marks})", ids)  # type: ignore[arg-type]


def filled(dsn: str, upstream: FaultyUpstream) -> dict[str, str]:
    theirs = Existing(dsn)
    caps = {"tier": "standard", "burst_per_min": 100, "quota_per_month": 1000, "max_instances": 5}
    gateway = theirs.add("gateways", slug="shop", metadata={"tenant_id": "acme", "note": "${x}"}, entitlements=caps)
    llm = {"gateway_id": gateway, "provider": "openai_compatible"}
    api_key = {"type": "api_key", "api_key": {"api_key": "sk-their-provider-key"}}
    one = theirs.add(
        "registries", name="one", provider_options={"base_url": upstream.url("503")}, auth=sealed(api_key), **llm
    )
    two = theirs.add(
        "registries", name="two", provider_options={"base_url": upstream.url("ok")}, auth=sealed(api_key), **llm
    )
    theirs.add("registries", name="locked", auth=sealed(api_key, "another-key-that-nobody-knows-here"), **llm)
    unknown = theirs.add("registries", name="odd", gateway_id=gateway, provider="nobody", auth=sealed(api_key))
    theirs.add(
        "registries", name="tools", gateway_id=gateway, type="MCP",
        mcp_target={"url": "https://mcp.example",
                    "auth": {"mode": "static", "header": "X-Key", "value": "mcp-static-key"}},
    )  # fmt: skip
    consumer = theirs.add(
        "consumers", gateway_id=gateway, name="app", slug="AbCd1234",
        fallback={"enabled": True, "triggers": ["http_5xx"], "chain": [two],
                  "budget": {"max_attempts": 9, "max_total_latency": 5_000_000_000}},
        model_policies={one: {"allowed": ["m"], "default": "m"}},
    )  # fmt: skip
    for registry in (one, two, unknown):
        theirs.link("consumer_registry", consumer, registry)
    auth = theirs.add(
        "auths", gateway_id=gateway, name="key", type="api_key", key_hash=hashlib.sha256(KEY.encode()).hexdigest(),
        key_prefix=KEY[:8], key_suffix=KEY[-4:],
    )  # fmt: skip
    theirs.link("consumer_auth", consumer, auth)
    policy = theirs.add(
        "policies", gateway_id=gateway, name="limit", slug="rate_limiter", settings={"limit": 50, "window": "1m"}
    )
    theirs.link("consumer_policy", consumer, policy)
    theirs.add("policies", gateway_id=gateway, name="gone", slug="no_such_plugin")
    role = theirs.add("roles", gateway_id=gateway, name="staff", model_policies={two: {"default": "m"}})
    theirs.link("role_registry", role, two)
    theirs.add("vault_credentials", gateway_id=gateway, principal_sub="u", provider="p", access_token="x")
    theirs.connection.close()
    return {"gateway": gateway, "consumer": consumer, "one": one, "two": two, "policy": policy, "role": role}


def imported(folder: pathlib.Path, dsn: str, *words: str, key: str = THEIRS) -> subprocess.CompletedProcess[str]:
    command = (sys.executable, "-m", "trustgate", "import", "--from", dsn, "--secret-key", key, *words)
    given = environment(folder, 0, 0, {})
    return subprocess.run(command, cwd=folder, env=given, capture_output=True, text=True, timeout=60)


def test_an_existing_installation_is_carried_over_and_its_keys_still_open(
    tmp_path: pathlib.Path, postgres_database: str
) -> None:
    upstream = FaultyUpstream()
    ids = filled(postgres_database, upstream)
    dry = imported(tmp_path, postgres_database, "--dry-run")
    assert dry.returncode == 1 and "would be carried over" in dry.stdout, dry.stderr
    done = imported(tmp_path, postgres_database, "--yes")
    assert done.returncode == 1, done.stderr
    for what, why in (
        ("registries: locked", "cannot be decrypted"),
        ("registries: odd", "unsupported provider"),
        ("policies: gone", "unknown plugin"),
        ("consumers: app", "its link to registries"),
        ("1 accounts connected to MCP servers", "connect them again"),
    ):
        assert what in done.stdout and why in done.stdout, done.stdout
    assert "sk-their-provider-key" not in done.stdout + done.stderr
    again = imported(tmp_path, postgres_database, "--yes")
    assert again.returncode == 1 and "already" in again.stdout
    with installed(tmp_path, "run") as installation:
        demo = Demo.__new__(Demo)
        demo.installation, demo.base = installation, f"/v1/gateways/{ids['gateway']}"
        demo.gateway_slug, demo.slug, demo.key = "shop", "AbCd1234", KEY
        gateway = installation.call("GET", demo.base)
        assert (gateway["slug"], gateway["entitlements"]["tier"], gateway["metadata"]["note"]) == (
            "shop",
            "standard",
            "${x}",
        )
        assert gateway["created_at"] == "2026-05-06T07:08:09.123456Z"
        consumer = installation.call("GET", f"{demo.base}/consumers/{ids['consumer']}")
        assert consumer["registry_ids"] == [ids["one"], ids["two"]]
        assert consumer["fallback"]["budget"] == {"max_attempts": 9, "max_total_latency_ms": 5000}
        assert consumer["model_policies"] == [{"registry_id": ids["one"], "allowed": ["m"], "default": "m"}]
        assert installation.call("GET", f"{demo.base}/roles/{ids['role']}")["registry_ids"] == [ids["two"]]
        assert installation.call("GET", f"{demo.base}/policies/{ids['policy']}")["consumer_ids"] == [ids["consumer"]]
        names = {item["name"] for item in installation.call("GET", f"{demo.base}/registries")["items"]}
        assert names == {"one", "two", "tools"}
        assert chat(demo)[0] == 200
        assert upstream.requests("ok")[-1].headers["authorization"] == "Bearer sk-their-provider-key"
    upstream.close()


def test_a_gateway_whose_slug_is_taken_or_that_is_not_there_is_told(
    tmp_path: pathlib.Path, postgres_database: str
) -> None:
    theirs = Existing(postgres_database)
    theirs.add("gateways", slug="shop", metadata={"tenant_id": "acme"})
    missing = imported(tmp_path, postgres_database, "--gateway", "other", "--yes")
    assert missing.returncode == 1 and "the database has no gateway 'other'" in missing.stderr
    assert imported(tmp_path, postgres_database, "--gateway", "shop", "--yes").returncode == 0
    theirs.connection.execute("UPDATE gateways SET id = gen_random_uuid()")
    taken = imported(tmp_path, postgres_database, "--yes")
    assert taken.returncode == 1 and "already" in taken.stdout
    theirs.connection.close()


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        ("", "the database holds no installation"),
        ("CREATE TABLE migration_version (id text)", "the installation is not current"),
    ],
)
def test_a_database_that_is_no_current_installation_is_refused(
    tmp_path: pathlib.Path, postgres_database: str, prepare: str, message: str
) -> None:
    theirs = Existing(postgres_database, schema=False)
    if prepare:
        theirs.connection.execute(prepare)  # type: ignore[arg-type]
    theirs.connection.close()
    refused = imported(tmp_path, postgres_database, "--yes")
    assert refused.returncode == 1 and message in refused.stderr


def test_a_database_that_does_not_answer_is_one_line(tmp_path: pathlib.Path) -> None:
    refused = imported(tmp_path, "postgres://u:hunter2hunter2@127.0.0.1:1/x", "--yes")
    assert refused.returncode == 1 and "the database cannot be read" in refused.stderr
    assert "hunter2" not in refused.stderr and SECRET not in refused.stderr and "Traceback" not in refused.stderr
