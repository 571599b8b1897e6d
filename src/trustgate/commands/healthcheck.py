"""`trustgate healthcheck`: ask a plane on this host for its probe. Standard library only, so that it is quick."""

import http.client
import ssl

import click

from trustgate.commands.boot import load_settings
from trustgate.settings import ConfigurationError

TIMEOUT_S = 3.0


def probe(plane: str, ready: bool) -> int:
    """0 when the probe answers 200, else 1 with the reason on stderr."""
    try:
        settings, _ = load_settings()
    except ConfigurationError as error:
        click.echo(str(error), err=True)
        return 1
    port = {"admin": settings.server.admin_port, "mcp": settings.server.mcp_port}.get(plane, settings.server.proxy_port)
    path = "/readyz" if ready else "/healthz"
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    if settings.server.tls_cert:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # to ourselves, on loopback
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=TIMEOUT_S, context=context)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read(4096).decode(errors="replace").strip()
    except (OSError, http.client.HTTPException) as error:
        click.echo(f"{plane} on port {port}: {error}", err=True)
        return 1
    finally:
        connection.close()
    if response.status != 200:
        click.echo(f"{plane} on port {port}: {path} answers {response.status} {body}", err=True)
        return 1
    return 0
