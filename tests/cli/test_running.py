"""A real process on free ports: start, health check, quickstart, `dev`, signals and exit codes."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from trustgate import loopback
from trustgate.quickstart import Quickstart, loopback_upstream, mint_token

DEADLINE_S = 60.0
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def environment(folder: Path) -> dict[str, str]:
    """Embedded, with ports nobody listens on."""
    names = ("SERVER_ADMIN_PORT", "SERVER_PROXY_PORT", "SERVER_MCP_PORT", "METRICS_PORT")
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(5)]
        for listener in sockets:
            listener.bind(("127.0.0.1", 0))
        ports = [listener.getsockname()[1] for listener in sockets]
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "CONFIG_SYNC_GRPC_LISTEN_ADDR": f"127.0.0.1:{ports[4]}",
        **{name: str(port) for name, port in zip(names, ports, strict=False)},
    }


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "trustgate", *arguments]


def trustgate(*arguments: str, cwd: Path, env: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command(*arguments), cwd=cwd, env=env, capture_output=True, text=True, timeout=DEADLINE_S)


def wait_for(url: str, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + DEADLINE_S
    while True:
        assert process.poll() is None, f"the process ended with {process.returncode}"
        try:
            if httpx.get(url, trust_env=False).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        assert time.monotonic() < deadline, f"{url} does not answer"
        time.sleep(0.05)


@contextmanager
def started(*arguments: str, cwd: Path, env: dict[str, str], log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    with log.open("wb") as output:
        process = subprocess.Popen(command(*arguments), cwd=cwd, env=env, stdout=output, stderr=subprocess.STDOUT)
        try:
            yield process
        finally:
            process.kill()
            process.wait()


class Instance:
    def __init__(self, folder: Path, env: dict[str, str], process: "subprocess.Popen[bytes]") -> None:
        self.folder = folder
        self.env = env
        self.process = process


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    folder = tmp_path_factory.mktemp("instance")
    env = environment(folder)
    with started("all", cwd=folder, env=env, log=folder / "log") as process:
        for name in ("SERVER_ADMIN_PORT", "SERVER_PROXY_PORT", "SERVER_MCP_PORT"):
            wait_for(f"http://127.0.0.1:{env[name]}/readyz", process)
        yield Instance(folder, env, process)


@pytest.mark.parametrize("plane", ["admin", "proxy", "mcp"])
@pytest.mark.parametrize("flags", [(), ("--ready",)])
def test_a_healthy_plane_passes_its_health_check(instance: Instance, plane: str, flags: tuple[str, ...]) -> None:
    assert trustgate("healthcheck", plane, *flags, cwd=instance.folder, env=instance.env).returncode == 0


def test_an_absent_plane_fails_its_health_check(tmp_path: Path) -> None:
    done = trustgate("healthcheck", "admin", cwd=tmp_path, env=environment(tmp_path))
    assert done.returncode == 1
    assert "refused" in done.stderr


def test_the_quickstart_ends_with_an_answer_and_a_call_that_can_be_repeated(instance: Instance) -> None:
    for number in range(2):
        done = trustgate("quickstart", cwd=instance.folder, env=instance.env)
        assert done.returncode == 0, done.stdout + done.stderr
        assert [line[:2] for line in done.stdout.splitlines() if re.match(r"\d\. ", line)][-6:] == [
            f"{n}." for n in range(1, 7)
        ]
        assert "200  You said: Hello!" in done.stdout
        assert ("is taken" in done.stdout) == (number == 1)


def test_the_quickstart_says_which_call_failed(instance: Instance) -> None:
    env = {**instance.env, "ADMIN_TOKEN": "not.a.token"}
    done = trustgate("quickstart", cwd=instance.folder, env=env)
    assert done.returncode == 1
    assert "gateway: POST /v1/gateways answers 401" in done.stderr


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_second_instance_on_the_same_port_exits_1_and_names_it(
    instance: Instance, tmp_path: Path, workers: str
) -> None:
    done = trustgate("proxy", cwd=tmp_path, env=instance.env | {"TRUSTGATE_WORKERS": workers})
    assert done.returncode == 1
    assert done.stdout.count('"level":"ERROR"') == 1
    assert f"port {instance.env['SERVER_PROXY_PORT']} (SERVER_PROXY_PORT) cannot be used" in done.stdout + done.stderr


@pytest.fixture(scope="module")
def demo(instance: Instance) -> Iterator[dict[str, str]]:
    """A consumer whose upstream is the built-in model, as the variables of the examples."""
    secret = (instance.folder / "var" / "server-secret-key").read_text().strip()
    urls = [f"http://127.0.0.1:{instance.env[name]}" for name in ("SERVER_ADMIN_PORT", "SERVER_PROXY_PORT")]
    token = mint_token(secret, tenant="examples", ttl_s=600)
    with loopback.running() as model, Quickstart(*urls, token, lambda line: None) as calls:
        made = calls.run(loopback_upstream(model), None)
        yield {
            "PATH": os.environ["PATH"],
            "ADMIN_URL": urls[0],
            "PROXY_URL": urls[1],
            "ADMIN_TOKEN": token,
            "CONSUMER_SLUG": made.consumer_slug,
            "CONSUMER_API_KEY": made.api_key,
            "GATEWAY_SLUG": made.gateway_slug,
            "MODEL": made.model,
            "OPENAI_API_KEY": "any",
            "PROVIDER": "openai_compatible",
            "PROVIDER_OPTIONS": json.dumps({"base_url": model}),
        }


@pytest.mark.parametrize("example", ["openai_sdk.py", "anthropic_sdk.py"])
def test_the_sdk_examples_answer_and_stream(demo: dict[str, str], example: str) -> None:
    done = subprocess.run([sys.executable, EXAMPLES / example], env=demo, capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == ["You said: Hello!", "You said: Again!"], done.stderr


@pytest.mark.skipif(shutil.which("jq") is None, reason="jq is not installed")
def test_the_curl_example_answers_twice_on_one_gateway(demo: dict[str, str]) -> None:
    for _ in range(2):
        done = subprocess.run(
            ["bash", EXAMPLES / "first_request.sh"], env=demo, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["choices"][0]["message"]["content"] == "You said: Hello!"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_plane_gracefully_with_exit_0(tmp_path: Path, number: signal.Signals) -> None:
    env = environment(tmp_path)
    with started("run", cwd=tmp_path, env=env, log=tmp_path / "log") as process:
        wait_for(f"http://127.0.0.1:{env['SERVER_PROXY_PORT']}/readyz", process)
        process.send_signal(number)
        assert process.wait(timeout=DEADLINE_S) == 0, (tmp_path / "log").read_text()


def test_a_signal_during_the_start_exits_0_too(tmp_path: Path) -> None:
    log = tmp_path / "log"
    env = {**environment(tmp_path), "SERVER_READ_TIMEOUT": "soon"}
    with started("all", cwd=tmp_path, env=env, log=log) as process:
        deadline = time.monotonic() + DEADLINE_S
        while "SERVER_READ_TIMEOUT" not in log.read_text():  # the warning comes before the planes are loaded
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=DEADLINE_S) == 0, log.read_text()
        assert "Traceback" not in log.read_text()


def test_warnings_about_the_environment_go_to_stderr_and_logs_to_stdout_and_the_file(tmp_path: Path) -> None:
    env = {**environment(tmp_path), "LOG_FILE_ENABLED": "true", "LOG_FORMAT": "text", "SERVER_READ_TIMEOUT": "soon"}
    (tmp_path / ".env").write_text("'broken\n")
    process = subprocess.Popen(
        command("proxy"), cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if "HTTP server starting" in line:
                break
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=DEADLINE_S)
    finally:
        process.kill()
    assert process.returncode == 0
    assert 'msg="invalid duration environment variable, falling back to default"' in err
    assert "key=SERVER_READ_TIMEOUT value=soon" in err
    assert 'msg="environment file cannot be parsed, ignored"' in err
    assert "SERVER_READ_TIMEOUT" not in out
    kept = [json.loads(line)["msg"] for line in (tmp_path / "var" / "log.log").read_text().splitlines()]
    assert "HTTP server starting" in kept


def test_a_second_signal_forces_the_exit(tmp_path: Path) -> None:
    env = {**environment(tmp_path), "SERVER_DRAIN_DELAY": "1h"}
    with started("proxy", cwd=tmp_path, env=env, log=tmp_path / "log") as process:
        base = f"http://127.0.0.1:{env['SERVER_PROXY_PORT']}"
        wait_for(f"{base}/readyz", process)
        process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + DEADLINE_S
        while httpx.get(f"{base}/readyz", trust_env=False).status_code != 503:
            assert time.monotonic() < deadline
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=DEADLINE_S) != 0


def test_dev_shows_a_call_that_answers_and_the_same_one_after_a_restart(tmp_path: Path) -> None:
    env = environment(tmp_path)
    calls = []
    for attempt in range(2):
        log = tmp_path / f"log{attempt}"
        with started("dev", cwd=tmp_path, env=env, log=log) as process:
            deadline = time.monotonic() + DEADLINE_S
            while "stops everything" not in log.read_text():
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.05)
            (call,) = [line for line in log.read_text().splitlines() if line.startswith("curl ")]
            answer = subprocess.run(["bash", "-c", call], capture_output=True, text=True, timeout=30)
            assert '"You said: Hello!"' in answer.stdout
            calls.append(call)
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=DEADLINE_S) == 0
    assert calls[0] == calls[1]
    assert (tmp_path / "var" / "demo.json").stat().st_mode & 0o777 == 0o600
