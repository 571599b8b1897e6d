"""`trustgate migrate`: open the store once, which creates or upgrades its tables, and leave."""

import click
import trio

from trustgate.commands.boot import load_settings, with_server_key
from trustgate.settings import ConfigurationError, Settings, check_length
from trustgate.store import StoreError

CONTROL_PLANE = frozenset({"admin"})
BUDGET_S = 30.0


def migrate() -> int:
    """Returns the exit code; a failure is one line on stderr."""
    try:
        settings, _ = load_settings()
        settings.check(CONTROL_PLANE)
        settings, _ = with_server_key(settings, CONTROL_PLANE)
        check_length(settings.secrets.server_key)
        trio.run(_open_once, settings)
    except (ConfigurationError, StoreError) as error:
        click.echo(str(error), err=True)
        return 1
    except trio.TooSlowError:
        click.echo(f"the store was not ready within {BUDGET_S:g} s", err=True)
        return 1
    database = settings.database
    where = f"database {database.name} on {database.host}" if database.configured else settings.app.data_dir
    click.echo(f"the tables in {where} are up to date")
    return 0


async def _open_once(settings: Settings) -> None:
    from trustgate.app.storage import store_of

    with trio.fail_after(BUDGET_S):
        async with store_of(settings, CONTROL_PLANE, settings.secrets.server_key):
            pass
