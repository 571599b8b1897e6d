"""`trustgate history`, `replay` and `audit` on a store, as an operator uses them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog
import trio
from click.testing import CliRunner, Result
from tests.actors import world

from trustgate.actors import ControlPlane
from trustgate.cli import main
from trustgate.store import PostgresConfig, open_store
from trustgate.telemetry import logs

Run = Callable[..., Result]


def environment(target: world.Target) -> dict[str, str]:
    environ = {"SERVER_SECRET_KEY": world.KEY}
    if isinstance(target, Path):
        return environ | {"TRUSTGATE_DATA_DIR": str(target.parent)}
    environ |= {"DB_HOST": target.host, "DB_PORT": str(target.port), "DB_USER": target.user}
    return environ | {"DB_NAME": target.dbname, "DB_PASSWORD": target.password or "x"}


def in_process(patch: pytest.MonkeyPatch, folder: Path, target: world.Target) -> Run:
    """The command in this process: a start takes a second, and logs are the business of another test."""
    for name, value in environment(target).items():
        patch.setenv(name, value)
    patch.chdir(folder)
    patch.setattr(logs, "configure", lambda *_, **__: None)

    def run(*arguments: str, answer: str = "") -> Result:
        return CliRunner().invoke(main, arguments, input=answer)

    return run


@pytest.fixture(autouse=True)
def _quiet_logs() -> Iterator[None]:
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    yield
    structlog.reset_defaults()


@pytest.fixture(params=["sqlite", "postgres"])
def trustgate(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command on a store with one gateway, `demo`: a registry that is renamed, then a second one."""
    if request.param == "sqlite":
        target: world.Target = tmp_path / "trustgate.db"
    else:
        target = PostgresConfig.of_dsn(request.getfixturevalue("postgres_database"))

    async def fill() -> None:
        async with open_store(target, world.KEY) as store, ControlPlane(store, world.AnyCatalog()).running() as control:
            gateway = world.new_id()
            await control.execute(world.create_gateway(gateway, "demo"))
            registry = world.create_registry(gateway, "first")
            await control.execute(registry)
            await control.execute(world.update_registry_key(gateway, registry.id, "sk-another-one-0123"))
            await control.execute(world.create_registry(gateway, "second"))

    trio.run(fill)
    return in_process(monkeypatch, tmp_path, target)


def test_history_is_shown_and_taken_back(trustgate: Run) -> None:
    listed = trustgate("history", "log", "demo")
    assert listed.exit_code == 0, listed.stderr
    rows = [line for line in listed.stdout.splitlines() if "│" in line]
    assert [row.split("│")[4].strip() for row in rows] == [
        "RegistryCreated", "RegistryUpdated", "RegistryCreated", "GatewayCreated",
    ]  # fmt: skip
    assert "auth.api_key.api_key" in rows[1] and "sk-" not in listed.stdout
    lines = trustgate("history", "log", "--format", "jsonl", "--object-type", "registry", "--limit", "0").stdout
    assert [json.loads(line)["version"] for line in lines.splitlines()] == [4, 3, 2]
    assert len(trustgate("history", "log", "demo", "--format", "csv").stdout.splitlines()) == 5
    then = json.loads(trustgate("history", "show", "demo", "--as-of", "2", "--json").stdout)
    assert [one["name"] for one in then["registry"]] == ["first"]
    assert "second" in trustgate("history", "diff", "demo", "2").stdout
    dry = trustgate("history", "revert", "demo", "2", "--dry-run")
    assert dry.exit_code == 0 and "the present one is kept" in dry.stderr and "deleted" in dry.stdout
    assert trustgate("history", "revert", "demo", "2", answer="n\n").exit_code == 1
    done = trustgate("history", "revert", "demo", "2", "--reason", "undo", answer="y\n")
    assert done.exit_code == 0 and "demo is at version 6" in done.stderr
    newest = json.loads(trustgate("history", "log", "demo", "--format", "jsonl", "--limit", "1").stdout)
    assert (newest["command"], newest["reason"], newest["actor"][:4]) == ("RevertGateway", "undo", "cli:")
    again = json.loads(trustgate("history", "show", "demo", "--json").stdout)
    assert [one["name"] for one in again["registry"]] == ["first"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("history", "show", "nobody"), "not_found: there is no gateway 'nobody'"),
        (("history", "diff", "demo", "99"), "invalid_as_of: FROM is version 99, but the gateway is at version 4"),
        (("history", "diff", "demo", "2", "2999-01-01T00:00:00Z"), "invalid_as_of: TO is in the future"),
        (("history", "revert", "demo", "0", "--yes"), "before_creation: the gateway was created at "),
        (("history", "log", "--since", "monday"), "invalid_query: invalid query parameters: --since must be"),
    ],
)
def test_bad_input_is_one_line_and_exit_1(trustgate: Run, arguments: tuple[str, ...], message: str) -> None:
    done = trustgate(*arguments)
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith(message) and len(done.stderr.splitlines()) == 1


def test_replay_compares_and_prints_digests(trustgate: Run) -> None:
    done = trustgate("replay", "--json")
    assert done.exit_code == 0 and "byte for byte" in done.stderr
    loaded = trustgate("replay", "--from-snapshots", "--json")
    assert json.loads(loaded.stdout) == json.loads(done.stdout)
    assert len(json.loads(done.stdout)["streams"]) == 2


def test_an_export_is_verified_offline_and_a_forged_one_is_not(trustgate: Run, tmp_path: Path) -> None:
    key = trustgate("audit", "key").stdout.strip()
    file = tmp_path / "export.jsonl"
    file.write_text(trustgate("audit", "export").stdout)
    verified = trustgate("audit", "verify", str(file), "--key", key)
    assert verified.exit_code == 0 and "verified: 5 events of 2 streams, 1 checkpoints" in verified.stdout
    part = trustgate("audit", "export", "--gateway", "demo", "-o", str(tmp_path / "part.jsonl"))
    assert part.exit_code == 0 and key in part.stderr
    file.write_text(file.read_text().replace("second", "secund"))
    forged = trustgate("audit", "verify", str(file), "--key", key)
    assert forged.exit_code == 1 and "NOT VERIFIED" in forged.stderr
    assert "1" in trustgate("audit", "checkpoints").stdout


def test_what_is_printed_is_the_result_and_nothing_else(tmp_path: Path) -> None:
    async def fill() -> None:
        path = tmp_path / "trustgate.db"
        async with open_store(path, world.KEY) as store, ControlPlane(store, world.AnyCatalog()).running() as control:
            await control.execute(world.create_gateway(world.new_id(), "demo"))

    trio.run(fill)
    command = [sys.executable, "-m", "trustgate", "audit", "export"]
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), **environment(tmp_path / "trustgate.db")}
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, timeout=60)
    assert [json.loads(line)["kind"] for line in done.stdout.splitlines()] == ["key", "event", "event", "checkpoint"]


def test_without_a_store_nothing_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = in_process(monkeypatch, tmp_path, tmp_path / "nothing" / "trustgate.db")
    done = run("history", "log")
    assert done.exit_code == 1 and "there is no event store at" in done.stderr
    assert not (tmp_path / "nothing").exists()
