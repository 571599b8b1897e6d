"""`trustgate quickstart` and `trustgate loopback`: the first answer, with or without a provider account."""

import contextlib
import os
import socket
from pathlib import Path

import click
import httpx
import trio

from trustgate import loopback
from trustgate.commands.boot import load_settings, with_server_key
from trustgate.quickstart import (
    Demo,
    Quickstart,
    QuickstartError,
    Upstream,
    choose_upstream,
    loopback_upstream,
    mint_token,
)
from trustgate.settings import ConfigurationError, Settings, check_length

DEFAULT_TENANT = "demo"


def urls(settings: Settings) -> tuple[str, str]:
    """Where the admin plane and the proxy of this environment listen."""
    scheme = "https" if settings.server.tls_cert else "http"
    return (
        os.environ.get("ADMIN_URL") or f"{scheme}://localhost:{settings.server.admin_port}",
        os.environ.get("PROXY_URL") or f"{scheme}://localhost:{settings.server.proxy_port}",
    )


def admin_token(settings: Settings, tenant: str | None) -> str:
    """`ADMIN_TOKEN`, or one minted with the server secret of this environment; raises ConfigurationError."""
    given = os.environ.get("ADMIN_TOKEN")
    if given:
        return given
    settings, _ = with_server_key(settings, frozenset({"admin"}))
    check_length(settings.secrets.server_key)
    return mint_token(
        settings.secrets.server_key, tenant=tenant or settings.console.tenant_id or DEFAULT_TENANT, ttl_s=3600
    )


def running_loopback(data_dir: Path) -> str | None:
    """Base URL of a loopback model that already runs with this data folder."""
    try:
        base = f"http://127.0.0.1:{int((data_dir / loopback.PORT_FILE).read_text())}/v1"
        models = httpx.get(f"{base}/models", timeout=2, trust_env=False).json()["data"]
        return base if models[0]["id"] == loopback.MODEL else None
    except (OSError, ValueError, KeyError, IndexError, TypeError, httpx.HTTPError):
        return None


def run_quickstart(provider: str | None, api_key_env: str | None, gateway: str, tenant: str | None) -> int:
    """Perform and show the six calls; returns the exit code."""
    try:
        settings, _ = load_settings()
        token = admin_token(settings, tenant)
        upstream = choose_upstream(os.environ, provider, api_key_env)
    except (ConfigurationError, QuickstartError) as error:
        click.echo(str(error), err=True)
        return 1
    with contextlib.ExitStack() as stack:
        if upstream is None:
            upstream, temporary = _loopback(Path(settings.app.data_dir), stack)
        else:
            temporary = False
        try:
            with Quickstart(*urls(settings), token, click.echo) as calls:
                demo = calls.run(upstream, gateway)
        except (QuickstartError, httpx.HTTPError) as error:
            click.echo(f"quickstart failed: {error or type(error).__name__}", err=True)
            return 1
        show(demo)
        if temporary:
            click.echo("\nThe built-in model ends with this command; `trustgate loopback` keeps one running.")
    return 0


def _loopback(data_dir: Path, stack: contextlib.ExitStack) -> tuple[Upstream, bool]:
    click.echo("no provider key in the environment: using the built-in model, which repeats what it is told")
    running = running_loopback(data_dir)
    base = running or stack.enter_context(loopback.running(data_dir))
    return loopback_upstream(base), running is None


def show(demo: Demo) -> None:
    click.echo(f"\ngateway {demo.gateway_slug}   consumer {demo.consumer_slug}   key {demo.api_key}")
    click.echo(f"\nTry it:\n\n{demo.curl()}")


def serve_loopback(port: int) -> int:
    """Serve the built-in model until interrupted; returns the exit code."""
    try:
        settings, _ = load_settings()
        listener = socket.create_server(("127.0.0.1", port)) if port else loopback.listen(Path(settings.app.data_dir))
    except (ConfigurationError, OSError) as error:
        click.echo(f"loopback model: {error}", err=True)
        return 1
    click.echo(f"loopback model on {loopback.base_url(listener)}")
    with contextlib.suppress(KeyboardInterrupt), listener:
        trio.run(loopback.serve, listener)
    return 0
