"""The `trustgate` command: one word says what to do, and without a word it is the LLM proxy.

Only names, options and help texts are here; what a command does is in `commands/`, imported when it runs, so that
`--help` and a health check stay quick. Exit codes: 0 done or stopped gracefully, 1 could not start, 2 misused.
"""

import sys

import click

from trustgate import __version__

CONTEXT = {"help_option_names": ["-h", "--help"]}
ALL_PLANES = ("admin", "proxy", "mcp")
OBJECT_TYPES = ("gateway", "registry", "consumer", "auth", "policy", "role")
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
    """Serve admin and proxy in one process, and the configuration feed."""
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


@main.command(name="re-encrypt")
def re_encrypt() -> None:
    """Write all stored secrets under SERVER_SECRET_KEY, the end of its rotation. Traffic may go on."""
    from trustgate.commands.reencrypt import re_encrypt as run_re_encrypt

    sys.exit(run_re_encrypt())


@main.command()
@click.option("--from-snapshots", is_flag=True, help="Only load the states as a plane does, and print their digests.")
@click.option("--repair", is_flag=True, help="Throw away what differs from the log and derive it again.")
@click.option("--json", "as_json", is_flag=True, help="Print all digests as JSON.")
def replay(from_snapshots: bool, repair: bool, as_json: bool) -> None:
    """Rebuild every state, snapshot and index from the log, and compare them byte for byte with those in use."""
    from trustgate.commands.replay import replay as run_replay

    sys.exit(run_replay(from_snapshots=from_snapshots, repair=repair, as_json=as_json))


@main.group()
def history() -> None:
    """The past of gateways: who changed what, earlier states, and the way back.

    GATEWAY is a slug or an id. Points in the past are versions or RFC 3339 times.
    """


@history.command(name="log")
@click.argument("gateway", required=False)
@click.option("--object", "object_id", default="", help="Only events about the object of this id.")
@click.option("--object-type", type=click.Choice(OBJECT_TYPES), help="Only events about such objects.")
@click.option("--actor", default="", help="Only events by this user.")
@click.option("--since", default="", help="Only events from this RFC 3339 time on.")
@click.option("--until", default="", help="Only events before this RFC 3339 time.")
@click.option("--limit", default=20, show_default=True, help="How many events; 0 for all.")
@click.option("--format", "format_", type=click.Choice(("table", "jsonl", "csv")), default="table", show_default=True)
def history_log(
    gateway: str | None,
    object_id: str,
    object_type: str | None,
    actor: str,
    since: str,
    until: str,
    limit: int,
    format_: str,
) -> None:
    """List who changed what, newest first; of all gateways when none is named."""
    from trustgate.commands.history import Asked, log

    asked = Asked(
        gateway=gateway,
        object_id=object_id,
        object_type=object_type or "",
        actor=actor,
        since=since,
        until=until,
        limit=max(0, limit),
    )
    sys.exit(log(asked, format_))


@history.command(name="show")
@click.argument("gateway")
@click.option("--as-of", default="", help="Version or RFC 3339 time; now when left out.")
@click.option("--json", "as_json", is_flag=True, help="Print the objects as JSON.")
def history_show(gateway: str, as_of: str, as_json: bool) -> None:
    """Print the objects of a gateway at a point in its past."""
    from trustgate.commands.history import show

    sys.exit(show(gateway, as_of, as_json=as_json))


@history.command(name="diff")
@click.argument("gateway")
@click.argument("since", metavar="FROM")
@click.argument("until", metavar="[TO]", default="")
def history_diff(gateway: str, since: str, until: str) -> None:
    """Print what changed between two points; TO is now when left out."""
    from trustgate.commands.history import diff

    sys.exit(diff(gateway, since, until))


@history.command(name="revert")
@click.argument("gateway")
@click.argument("to")
@click.option("--dry-run", is_flag=True, help="Only show what would change.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--reason", default="", help="Kept with the change.")
@click.option("--restore-keys", is_flag=True, help="API keys that were rotated or deleted since work again.")
def history_revert(gateway: str, to: str, dry_run: bool, yes: bool, reason: str, restore_keys: bool) -> None:
    """Lead a gateway back to the state it had at TO, by new events."""
    from trustgate.commands.history import revert

    sys.exit(revert(gateway, to, dry_run=dry_run, yes=yes, reason=reason, restore_keys=restore_keys))


@main.group()
def audit() -> None:
    """Evidence that the log was not changed: signed checkpoints, exports, and their verification."""


@audit.command(name="export")
@click.option("--gateway", "gateways", multiple=True, help="Only this gateway (slug or id); may be repeated.")
@click.option("--output", "-o", default="-", help="File to write; stdout when left out.")
@click.option("--no-checkpoint", is_flag=True, help="Do not make a checkpoint first: the newest events are not signed.")
def audit_export(gateways: tuple[str, ...], output: str, no_checkpoint: bool) -> None:
    """Write the log with its checkpoints, for `trustgate audit verify`."""
    from trustgate.commands.audit import export

    sys.exit(export(gateways, output, seal=not no_checkpoint))


@audit.command(name="checkpoint")
def audit_checkpoint() -> None:
    """Make a signed checkpoint now."""
    from trustgate.commands.audit import checkpoint

    sys.exit(checkpoint())


@audit.command(name="checkpoints")
def audit_checkpoints() -> None:
    """List the checkpoints."""
    from trustgate.commands.audit import checkpoints

    sys.exit(checkpoints())


@audit.command(name="key")
def audit_key() -> None:
    """Print the public key that checkpoints are signed with. Keep it away from this installation."""
    from trustgate.commands.audit import key

    sys.exit(key())


@audit.command(name="verify", context_settings={"ignore_unknown_options": True}, add_help_option=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def audit_verify(arguments: tuple[str, ...]) -> None:
    """Verify an export, offline: EXPORT --key PUBLIC_KEY [--known ID] [--gateway ID]."""
    from trustgate.commands.audit import verify

    sys.exit(verify(arguments))


@audit.command(name="verifier")
def audit_verifier() -> None:
    """Print the verifier, a script that needs nothing else of TrustGate."""
    from trustgate.commands.audit import verifier_source

    sys.exit(verifier_source())


@main.command()
@click.option("--tenant", help="Tenant the token acts for (ADMIN_TENANT_ID when left out).")
@click.option("--platform", is_flag=True, help="A platform token, for no single tenant.")
@click.option("--user", default="admin", show_default=True, help="User named in the audit trail.")
@click.option("--ttl", default="1h", show_default=True, help="Lifetime, such as 30m or 12h.")
def token(tenant: str | None, platform: bool, user: str, ttl: str) -> None:
    """Print an Admin API token, signed with SERVER_SECRET_KEY."""
    from trustgate.commands.token import print_token

    sys.exit(print_token(tenant=tenant, platform=platform, user=user, ttl=ttl))


@main.command()
@click.argument("trace_id")
@click.option("--json", "as_json", is_flag=True, help="The whole explanation as JSON.")
def explain(trace_id: str, as_json: bool) -> None:
    """Show why a request went as it did: TRACE_ID is its X-AG-Trace-Id."""
    from trustgate.commands.explain import explain as run_explain

    sys.exit(run_explain(trace_id, as_json=as_json))


@main.command()
@click.argument("gateway")
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True))
@click.option("--from", "since", default="", help="Start of the recorded requests to look at (RFC 3339).")
@click.option("--to", "until", default="", help="Their end; the last 24 hours by default.")
@click.option("--json", "as_json", is_flag=True, help="The whole plan as JSON.")
def plan(gateway: str, file: str, since: str, until: str, as_json: bool) -> None:
    """Show what the Admin API writes in FILE would change in GATEWAY (id or slug), and for recorded requests.

    FILE is JSON or YAML: a list of {method, path, body}. Nothing is applied.
    """
    from trustgate.commands.plan import plan as run_plan

    sys.exit(run_plan(gateway, file, since, until, as_json=as_json))


@main.command()
@click.argument("gateway")
@click.option("-o", "--output", default="-", type=click.Path(dir_okay=False), help="File to write; stdout by default.")
def export(gateway: str, output: str) -> None:
    """Write GATEWAY (id or slug) as a YAML file; secrets appear as references."""
    from trustgate.commands.configure import export as run_export

    sys.exit(run_export(gateway, output))


@main.command()
@click.option("-f", "--file", required=True, type=click.Path(dir_okay=False, allow_dash=True), help="YAML file, or -.")
@click.option("--dry-run", is_flag=True, help="Show the plan and stop.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--reason", default="", help="Why, for the audit trail.")
@click.option("--author", default="", help="Who, for the audit trail; the system user by default.")
def apply(file: str, dry_run: bool, yes: bool, reason: str, author: str) -> None:
    """Make a gateway what the file says, after showing the plan; what the file does not hold is deleted."""
    from trustgate.commands.configure import apply as run_apply

    sys.exit(run_apply(file, yes=yes, dry_run=dry_run, reason=reason, by=author))


@main.command(name="import")
@click.option("--from", "dsn", required=True, help="postgres:// URL of the existing installation's database.")
@click.option(
    "--secret-key", envvar="IMPORT_SECRET_KEY", default="", help="Its SERVER_SECRET_KEY; this one's by default."
)
@click.option("--gateway", "slugs", multiple=True, help="Only this gateway (repeatable).")
@click.option("--dry-run", is_flag=True, help="Report what would be carried over, and stop.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def import_(dsn: str, secret_key: str, slugs: tuple[str, ...], dry_run: bool, yes: bool) -> None:
    """Carry the gateways of an existing installation over: ids, keys and secrets stay valid.

    The database is only read. Exit code 1 when something was left behind.
    """
    from trustgate.commands.importing import import_from

    sys.exit(import_from(dsn, secret_key=secret_key, slugs=slugs, dry_run=dry_run, yes=yes))


@main.command()
@click.argument("gateway", required=False)
@click.option("-f", "--file", type=click.Path(dir_okay=False, allow_dash=True), help="An exported YAML file, or -.")
@click.option("--strict", is_flag=True, help="Warnings fail the check too.")
@click.option("--json", "as_json", is_flag=True, help="The findings as JSON.")
def check(gateway: str | None, file: str | None, strict: bool, as_json: bool) -> None:
    """Try GATEWAY (id or slug), or the configuration in FILE, with upstreams that fail one at a time.

    Exit code 0: nothing wrong; 1: an error (with --strict: or a warning); 2: misused. A file needs no store.
    """
    from trustgate.commands.check import check as run_check

    if (gateway is None) == (file is None):
        raise click.UsageError("name a gateway, or a file with -f")
    sys.exit(run_check(gateway, file, strict=strict, as_json=as_json))


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
