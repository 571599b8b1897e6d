"""`trustgate dev`: all planes in a child process, the built-in model beside them, a demo gateway, a call to paste.

The demo (its API key included) is remembered in `demo.json` of the data folder, mode 0600, so that a restart can show
the same call; it is a key to a demonstration on this machine, and deleting the file forgets it.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

import click
import httpx
import msgspec

from trustgate import loopback
from trustgate.commands.boot import load_settings
from trustgate.commands.quickstart import admin_token, show, urls
from trustgate.quickstart import Demo, Quickstart, QuickstartError, choose_upstream, loopback_upstream
from trustgate.settings import ConfigurationError, Settings

DEMO_FILE = "demo.json"
READY_TIMEOUT_S = 60.0
POLL_S = 0.1


def develop() -> int:
    """Serve until a signal; returns the exit code of the serving process."""
    try:
        settings, _ = load_settings()
        _refuse_taken_ports(settings)
        token = admin_token(settings, None)
    except ConfigurationError as error:
        click.echo(str(error), err=True)
        return 1
    data_dir = Path(settings.app.data_dir)
    with loopback.running(data_dir) as model_url:
        child = _start_planes()
        try:
            if not _wait_until_ready(settings, child):
                return _stop(child)
            _demonstrate(settings, data_dir, token, model_url)
            return child.wait()
        finally:
            _stop(child)


def _refuse_taken_ports(settings: Settings) -> None:
    """Another instance on our ports would answer in place of the child, and take the demo."""
    server = settings.server
    for name, port in (
        ("SERVER_ADMIN_PORT", server.admin_port),
        ("SERVER_PROXY_PORT", server.proxy_port),
        ("SERVER_MCP_PORT", server.mcp_port),
    ):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                raise ConfigurationError(f"port {port} is in use; stop what listens there, or set {name}")


def _start_planes() -> "subprocess.Popen[bytes]":
    """The planes in their own process group; a signal to us is passed on once, so that Ctrl-C drains them."""
    environ = {"LOG_FORMAT": "text", **{name: value for name, value in os.environ.items() if value}}
    child = subprocess.Popen([sys.executable, "-m", "trustgate", "all"], env=environ, process_group=0)

    def pass_on(number: int, frame: FrameType | None) -> None:
        if child.poll() is None:
            child.send_signal(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, pass_on)
    return child


def _stop(child: "subprocess.Popen[bytes]") -> int:
    if child.poll() is None:
        child.terminate()
    return child.wait()


def _wait_until_ready(settings: Settings, child: "subprocess.Popen[bytes]") -> bool:
    deadline = time.monotonic() + READY_TIMEOUT_S
    waiting = [f"{url}/readyz" for url in urls(settings)]
    with httpx.Client(timeout=2, trust_env=False, verify=False) as client:
        while waiting and child.poll() is None:
            if time.monotonic() > deadline:
                click.echo(f"not ready after {READY_TIMEOUT_S:g} s: {waiting[0]}", err=True)
                return False
            try:
                if client.get(waiting[0]).status_code == 200:
                    waiting.pop(0)
                    continue
            except httpx.HTTPError:
                pass  # not listening yet
            time.sleep(POLL_S)
    return not waiting


def _demonstrate(settings: Settings, data_dir: Path, token: str, model_url: str) -> None:
    """Show the remembered demo, or make one in an empty store. Failures are shown; the planes go on."""
    path = data_dir / DEMO_FILE
    try:
        with Quickstart(*urls(settings), token, click.echo) as calls:
            demo = _remembered(path, calls)
            if demo is None and calls.has_gateways():
                click.echo("this store has gateways already; `trustgate quickstart` adds a demo to it")
                return
            if demo is None:
                demo = calls.run(choose_upstream(os.environ, None, None) or loopback_upstream(model_url), "demo")
                _remember(path, demo)
            show(demo)
            admin_url, _ = urls(settings)
            click.echo(f"\nAdmin API {admin_url}/docs/   Ctrl-C stops everything")
    except (QuickstartError, httpx.HTTPError) as error:
        click.echo(f"no demo: {error or type(error).__name__}", err=True)


def _remembered(path: Path, calls: Quickstart) -> Demo | None:
    try:
        demo = msgspec.json.decode(path.read_bytes(), type=Demo)
        calls.complete(demo)
    except FileNotFoundError:
        return None
    except (msgspec.MsgspecError, QuickstartError, httpx.HTTPError) as error:
        click.echo(f"the remembered demo does not answer any more: {error}")
        return None
    return demo


def _remember(path: Path, demo: Demo) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(msgspec.json.encode(demo))
