"""`docs/configuration.md`, made from the settings: `python -m trustgate.settings.reference > docs/configuration.md`."""

from collections.abc import Iterator

from trustgate.settings.load import AREAS
from trustgate.settings.report import default_of
from trustgate.settings.values import fields_of

INTRODUCTION = """\
# Configuration

Everything is set by environment variables. This page is made from the settings themselves (`make docs`);
`trustgate check-config` shows what is in force, where it came from, and which variables look misspelt.

## Where values come from

The real environment first, then `.env` files: `./.env` (or the file that `ENV_FILE` names), `/etc/secrets/.env`,
`/etc/secrets/secrets`. A variable that is already set is never overridden. The files hold `KEY=value` lines, with
optional `export`, `#` comments, single quotes (literal), double quotes (`\\n` escapes) and `${VAR}` in unquoted and
double-quoted values. A file that cannot be parsed contributes nothing and is named in a warning.

## How values are read

- An empty value means "unset".
- Booleans are `1 true yes on` or `0 false no off`, in any case. Integers are base 10. Durations are numbers with units
  `ns us ms s m h`, such as `250ms` or `1h30m`, and greater than zero unless marked *or 0*. Lists are separated by
  commas.
- A value that cannot be read is reported in a warning and the default is used. Variables marked *strict* stop the
  start instead.
- Combinations that cannot work stop the start with one line, `invalid configuration: ...`, naming the variable. A
  process is never stopped by a variable that its planes do not use.

## Which store is used

| variables | configuration is kept in | counters, sessions and other shared state |
| --- | --- | --- |
| no `DB_*` variable | SQLite, in `TRUSTGATE_DATA_DIR` (embedded mode) | |
| any `DB_*` variable | PostgreSQL | |
| `CONFIG_SYNC_DATA_PLANE_ENABLED=true` (proxy, mcp) | memory, fed by a [control plane](config-sync.md) | |
| no `REDIS_HOST` | | the process: for one process only |
| `REDIS_HOST` | | Redis |

Embedded mode makes its own `SERVER_SECRET_KEY` (a file of mode 0600 in the data folder). In production
(`APP_ENV=prod`) replicas share one that is made in Redis. Everywhere else it must be set.
"""


def markdown() -> str:
    """The whole page."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield INTRODUCTION
    for area in AREAS.values():
        title, _, rest = (area.__doc__ or "").partition(".")
        yield f"## {title.strip()}\n"
        if rest.strip():
            yield " ".join(rest.split()) + "\n"
        yield "| variable | type | default | meaning |"
        yield "| --- | --- | --- | --- |"
        for field in fields_of(area):
            var = field.var
            default = default_of(area, field.attribute, var)
            shown = default if var.default_text else f"`{default}`" if default else ""
            name = f"`{var.name}`" + (f" (or `{var.alias}`)" if var.alias else "")
            marks = "".join(
                f" *{mark}*"
                for mark, on in (("strict", var.strict), ("secret", var.secret), ("or 0", var.zero_allowed))
                if on
            )
            yield f"| {name} | {var.kind}{marks} | {shown} | {var.doc} |"
        yield ""
    yield "## Read elsewhere\n"
    yield "- `ENV_FILE`: the file read in place of `./.env`."
    yield "- `ADMIN_URL`, `PROXY_URL`, `ADMIN_TOKEN`: where and as whom `trustgate quickstart` calls."
    yield "- The standard variables of the AWS, Google and Azure clients: their default credential chains."
    yield "- `HTTP_PROXY`, `HTTPS_PROXY`, `NO_PROXY`: outbound calls."


if __name__ == "__main__":
    print(markdown(), end="")
