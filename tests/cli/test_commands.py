"""The `trustgate` command as a user meets it: exit codes, what goes where, one log line for a failed start."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jwt
import pytest

KEY = "k" * 40


def trustgate(*arguments: str, cwd: Path, **environ: str) -> "subprocess.CompletedProcess[str]":
    inherited = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    return subprocess.run(
        [sys.executable, "-m", "trustgate", *arguments],
        cwd=cwd,
        env={**inherited, "HOME": str(cwd), **environ},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_is_printed_and_exits_0(tmp_path: Path, flag: str) -> None:
    done = trustgate(flag, cwd=tmp_path)
    assert done.returncode == 0
    assert "check-config" in done.stdout


def test_version_is_printed_and_exits_0(tmp_path: Path) -> None:
    done = trustgate("--version", cwd=tmp_path)
    assert (done.returncode, done.stdout.split()[0]) == (0, "trustgate,")


@pytest.mark.parametrize("arguments", [("porxy",), ("--plane", "admin")])
def test_an_unknown_plane_is_usage_on_stderr_and_exit_2(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = trustgate(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Usage: " in done.stderr


D = {"CONFIG_SYNC_DATA_PLANE_ENABLED": "true", "SERVER_SECRET_KEY": KEY}
FAILED_STARTS = [
    ((), {"DB_HOST": "db"}, "crypto: encryption secret is required (set SERVER_SECRET_KEY)"),
    (
        ("proxy",),
        {"SERVER_SECRET_KEY": "short"},
        "crypto: encryption secret must be at least 32 bytes of random data (got 5)",
    ),
    (
        ("proxy",),
        D,
        "invalid configuration: CONFIG_SYNC_GRPC_ENDPOINT is required when CONFIG_SYNC_DATA_PLANE_ENABLED is true",
    ),
    (
        ("mcp",),
        {"MCP_CONNECT_RATE_LIMIT_WINDOW": "soon"},
        "invalid configuration: MCP_CONNECT_RATE_LIMIT_WINDOW must be a positive duration",
    ),
    (
        ("admin",),
        {"CONFIG_SYNC_AUTH_MODE": "none"},
        "invalid configuration: CONFIG_SYNC_AUTH_MODE must be one of shared, signed, composite",
    ),
    (
        ("proxy",),
        {"SEMANTIC_CACHE_VECTOR_STORE": "qdrant", "SERVER_SECRET_KEY": KEY},
        "invalid configuration: SEMANTIC_CACHE_VECTOR_STORE must be one of redis, pgvector, in_memory",
    ),
    (
        ("run",),
        {"SEMANTIC_CACHE_VECTOR_STORE": "pgvector"},
        "invalid configuration: SEMANTIC_CACHE_VECTOR_STORE=pgvector needs a PostgreSQL database: set DB_HOST",
    ),
]


@pytest.mark.parametrize(("arguments", "environ", "message"), FAILED_STARTS)
def test_a_failed_start_is_one_log_line_and_exit_1(
    tmp_path: Path, arguments: tuple[str, ...], environ: dict[str, str], message: str
) -> None:
    done = trustgate(*arguments, cwd=tmp_path, **environ)
    assert done.returncode == 1
    (line,) = (done.stdout + done.stderr).splitlines()
    entry = json.loads(line)
    assert (entry["level"], entry["msg"]) == ("ERROR", message)


def test_a_token_carries_the_tenant_and_ends(tmp_path: Path) -> None:
    done = trustgate("token", "--tenant", "acme", "--ttl", "30m", cwd=tmp_path, SERVER_SECRET_KEY=KEY)
    claims = jwt.decode(done.stdout.strip(), KEY, algorithms=["HS256"])
    assert (claims["tenant_id"], claims["exp"] - claims["iat"]) == ("acme", 1800)
    assert "platform_admin" not in claims


def test_a_platform_token_names_no_tenant(tmp_path: Path) -> None:
    done = trustgate("token", "--platform", cwd=tmp_path, SERVER_SECRET_KEY=KEY)
    claims = jwt.decode(done.stdout.strip(), KEY, algorithms=["HS256"])
    assert "tenant_id" not in claims
    assert claims["platform_admin"] is True


def test_the_embedded_secret_is_announced_once_and_signs_tokens(tmp_path: Path) -> None:
    first = trustgate("token", "--tenant", "a", cwd=tmp_path)
    second = trustgate("token", "--tenant", "a", cwd=tmp_path)
    key = (tmp_path / "var" / "server-secret-key").read_text().strip()
    assert "SERVER_SECRET_KEY" in first.stderr
    assert key not in first.stderr
    assert second.stderr == ""
    assert jwt.decode(second.stdout.strip(), key, algorithms=["HS256"])["tenant_id"] == "a"


@pytest.mark.parametrize("arguments", [("token",), ("token", "--tenant", "a", "--ttl", "never")])
def test_a_token_needs_a_tenant_and_a_lifetime(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = trustgate(*arguments, cwd=tmp_path, SERVER_SECRET_KEY=KEY)
    assert (done.returncode, done.stdout) == (2, "")


def test_check_config_shows_values_with_sources_and_masks_secrets(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("SERVER_PROXY_PORT=9081\n")
    done = trustgate("check-config", "all", cwd=tmp_path, SERVER_SECRET_KEY=KEY, SERVER_PROXY_PROT="1", DB_PORT="x")
    shown = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines() if line[:1].isupper()}
    assert done.returncode == 0
    assert shown["SERVER_PROXY_PORT"] == ["9081", ".env"]
    assert shown["SERVER_ADMIN_PORT"] == ["8080", "default"]
    assert shown["SERVER_SECRET_KEY"] == ["***", "environment"]
    assert KEY not in done.stdout + done.stderr
    assert "unknown variable SERVER_PROXY_PROT (did you mean SERVER_PROXY_PORT?)" in done.stderr
    assert "falling back to default: DB_PORT=x" in done.stderr


def test_check_config_refuses_what_a_start_would_refuse(tmp_path: Path) -> None:
    done = trustgate("check-config", "proxy", cwd=tmp_path, PROVIDER_MAX_RETRIES="-1", SERVER_SECRET_KEY=KEY)
    assert done.returncode == 1
    assert "invalid configuration: PROVIDER_MAX_RETRIES must be zero or greater" in done.stderr
