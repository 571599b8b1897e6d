"""`trustgate check-config`: effective settings with their sources, and whether a set of planes could start."""

import click

from trustgate.commands.boot import load_settings
from trustgate.settings import ConfigurationError
from trustgate.settings.report import describe, unknown_variables


def check(planes: frozenset[str]) -> int:
    """Print the report to stdout and problems to stderr; 0 when the planes could start, else 1."""
    try:
        settings, environment = load_settings()
    except ConfigurationError as error:
        click.echo(str(error), err=True)
        return 1
    lines = list(describe(settings, environment.values, environment.origins))
    names = max(len(line.var.name) for line in lines)
    values = min(40, max(len(line.value) for line in lines))
    area = ""
    for line in lines:
        if line.area != area:
            area = line.area
            click.echo(f"\n# {area}")
        click.echo(f"{line.var.name:{names}}  {line.value:{values}}  {line.source}".rstrip())
    click.echo()
    for warning in settings.warnings:
        click.echo(
            f"warning: {warning.message}: {warning.key}" + (f"={warning.value}" if warning.value else ""), err=True
        )
    for name, near in unknown_variables(environment.values):
        click.echo(f"warning: unknown variable {name}" + (f" (did you mean {near}?)" if near else ""), err=True)
    try:
        settings.check(planes)
    except ConfigurationError as error:
        click.echo(str(error), err=True)
        return 1
    if settings.database_less(planes):
        where = f"memory, fed by {settings.config_sync.grpc_endpoint}"
    else:
        where = f"SQLite in {settings.app.data_dir}" if settings.embedded(planes) else "PostgreSQL"
    shared = "Redis" if settings.redis.configured else "this process"
    click.echo(f"ok: {', '.join(sorted(planes))} can start; configuration in {where}, shared counters in {shared}")
    return 0
