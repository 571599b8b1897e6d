"""The `trustgate` command: one word says what to do, and without a word it is the LLM proxy.

Only names, options and help texts are here; what a command does is in `commands/`, imported when it runs, so that
`--help` and a health check stay quick. Exit codes: 0 done or stopped gracefully, 1 could not start, 2 misused.
"""

import sys

import click

from trustgate import __version__

CONTEXT = {"help_option_names": ["-h", "--help"]}
ALL_PLANES = ("admin", "proxy", "mcp")
PLANE_NAMES = ("proxy", "admin", "mcp", "run", "all")
PLANE_SETS = {
    "proxy": frozenset({"proxy"}),
    "admin": frozenset({"admin"}),
    "mcp": frozenset({"mcp"}),
    "run": frozenset({"admin", "proxy"}),
    "all": frozenset(ALL_PLANES),
}


@click.group(invoke_without_command=True, context_settings=CONTEXT)
@click.version_option(__version__, prog_name="trustgate")
@click.pass_context
def main(context: click.Context) -> None:
    """A gateway between applications or agents and the LLM providers and MCP servers they use.

    Everything is configured by environment variables (docs/configuration.md). Without a command this is `proxy`.
    """
    if context.invoked_subcommand is None:
        _serve("proxy")


def _serve(name: str) -> None:
    from trustgate.commands.serve import serve

    sys.exit(serve(PLANE_SETS[name]))


@main.command(hidden=True)
@click.argument("planes", nargs=-1, required=True, type=click.Choice(ALL_PLANES))
def worker(planes: tuple[str, ...]) -> None:
    """What the supervisor of TRUSTGATE_WORKERS starts."""
    from trustgate.commands.serve import serve

    sys.exit(serve(frozenset(planes)))


@main.command()
def proxy() -> None:
    """Serve the LLM proxy (port 8081)."""
    _serve("proxy")


@main.command()
def admin() -> None:
    """Serve the Admin API (port 8080) and the configuration feed (port 8083)."""
    _serve("admin")


@main.command()
def mcp() -> None:
    """Serve the MCP plane (port 8082)."""
    _serve("mcp")


@main.command()
def run() -> None:
    """Serve admin and proxy in one process."""
    _serve("run")


@main.command(name="all")
def all_planes() -> None:
    """Serve admin, proxy and MCP in one process."""
    _serve("all")


@main.command()
def migrate() -> None:
    """Create or upgrade the store's tables, then exit."""
    from trustgate.commands.migrate import migrate as run_migrate

    sys.exit(run_migrate())


@main.command()
@click.option("--tenant", help="Tenant the token acts for (ADMIN_TENANT_ID when left out).")
@click.option("--platform", is_flag=True, help="A platform token, for no single tenant.")
@click.option("--user", default="admin", show_default=True, help="User named in the audit trail.")
@click.option("--ttl", default="1h", show_default=True, help="Lifetime, such as 30m or 12h.")
def token(tenant: str | None, platform: bool, user: str, ttl: str) -> None:
    """Print an Admin API token, signed with SERVER_SECRET_KEY."""
    from trustgate.commands.token import print_token

    sys.exit(print_token(tenant=tenant, platform=platform, user=user, ttl=ttl))


@main.command(name="check-config")
@click.argument("plane", type=click.Choice(PLANE_NAMES), default="proxy")
def check_config(plane: str) -> None:
    """Show the effective settings and their sources, and say whether PLANE could start with them."""
    from trustgate.commands.check_config import check

    sys.exit(check(PLANE_SETS[plane]))


@main.command()
@click.argument("plane", type=click.Choice(("proxy", "admin", "mcp")), default="proxy")
@click.option("--ready", is_flag=True, help="Ask whether it is ready for traffic, not only alive.")
def healthcheck(plane: str, ready: bool) -> None:
    """Exit 0 when PLANE on this host answers its probe, else 1. Made for container health checks."""
    from trustgate.commands.healthcheck import probe

    sys.exit(probe(plane, ready))


@main.command()
@click.option("--provider", help="Provider code; otherwise the first whose key is in the environment.")
@click.option("--api-key-env", help="Variable that holds the provider's key.")
@click.option("--gateway", default="demo", show_default=True, help="Slug of the gateway to create.")
@click.option("--tenant", help="Tenant that will own it (ADMIN_TENANT_ID, else `demo`).")
def quickstart(provider: str | None, api_key_env: str | None, gateway: str, tenant: str | None) -> None:
    """Make a gateway, registry, consumer and key on a running instance, and ask for a first completion.

    Reads ADMIN_URL, PROXY_URL and ADMIN_TOKEN when they are set. Without a provider key it uses a built-in model that
    repeats what it is told.
    """
    from trustgate.commands.quickstart import run_quickstart

    sys.exit(run_quickstart(provider, api_key_env, gateway, tenant))


@main.command()
@click.option("--port", default=0, help="Port; any free one by default.")
def loopback(port: int) -> None:
    """Serve the built-in model on 127.0.0.1, for trying things without a provider account."""
    from trustgate.commands.quickstart import serve_loopback

    sys.exit(serve_loopback(port))


@main.command()
def dev() -> None:
    """Serve all planes with a demo gateway, and print a call that answers (what `make run` does)."""
    from trustgate.commands.dev import develop

    sys.exit(develop())


if __name__ == "__main__":
    main()
