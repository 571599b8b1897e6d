"""`trustgate token`: an Admin API token for scripts and first steps."""

import click

from trustgate.commands.boot import load_settings, with_server_key
from trustgate.quickstart import mint_token
from trustgate.settings import ConfigurationError, check_length
from trustgate.settings.values import parse_duration


def print_token(*, tenant: str | None, platform: bool, user: str, ttl: str) -> int:
    """Print the token to stdout; returns the exit code."""
    seconds = parse_duration(ttl)
    if seconds is None or seconds < 1:
        raise click.BadParameter("not a duration such as 30m or 12h", param_hint="--ttl")
    try:
        settings, _ = load_settings()
        tenant = tenant or settings.console.tenant_id or None
        if platform and tenant:
            tenant = None
        if not platform and not tenant:
            raise click.UsageError("name a tenant with --tenant, or ask for a --platform token")
        settings, notice = with_server_key(settings, frozenset({"admin"}))
        check_length(settings.secrets.server_key)
    except ConfigurationError as error:
        click.echo(str(error), err=True)
        return 1
    if notice is not None:
        click.echo(f"{notice.message} ({notice.value})", err=True)
    click.echo(mint_token(settings.secrets.server_key, tenant=tenant, ttl_s=seconds, user=user))
    return 0
