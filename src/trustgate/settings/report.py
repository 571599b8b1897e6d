"""What `trustgate check-config` and the configuration reference show: every variable, its value, its source.

Values of secrets never leave this module. Pure: text tables are made elsewhere.
"""

import difflib
from collections.abc import Iterator, Mapping

from msgspec import Struct

from trustgate.settings.load import AREAS, Settings, known_variables
from trustgate.settings.values import Kind, Var, fields_of, format_duration, lookup

OTHER_VARIABLES = frozenset({"ENV_FILE"})  # ours, but read before there are settings
# Prefixes that are ours alone; a stranger's DB_ or METRICS_ variable is only suspicious when it resembles one of ours.
_OWN_PREFIXES = (
    "TRUSTGATE_",
    "SERVER_",
    "CONFIG_SYNC_",
    "MCP_CONNECT_",
    "MCP_DEFAULT_IDP_",
    "ADMIN_M2M_",
    "PROVIDER_",
    "TELEMETRY_",
    "TRUSTGUARD_",
    "PLAYGROUND_",
    "CONSOLE_",
)


class Line(Struct, frozen=True):
    area: str
    var: Var
    value: str
    default: str
    source: str


def show(value: object, kind: Kind) -> str:
    """Text of a value as it would be written in the environment."""
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case tuple():
            return ",".join(value)
        case float() | int() if kind in (Kind.DURATION, Kind.MILLIS):
            return format_duration(value)
        case _:
            return str(value)


def default_of(area: type[Struct], attribute: str, var: Var) -> str:
    return var.default_text or show(getattr(area(), attribute), var.kind)


def describe(settings: Settings, environ: Mapping[str, str], origins: Mapping[str, str]) -> Iterator[Line]:
    """One line per variable: effective value (secrets masked) and where it came from."""
    refused = {warning.key for warning in settings.warnings}
    for area_name, area in AREAS.items():
        for field in fields_of(area):
            var = field.var
            value = show(getattr(getattr(settings, area_name), field.attribute), var.kind)
            if lookup(var, environ) is None:
                source = "default"
            else:
                name = var.name if var.name in origins and environ.get(var.name) else var.alias or var.name
                source = origins.get(name, "environment")
                if var.name in refused:
                    source += " (not used as given)"
            if var.secret and value and (source != "default" or not default_of(area, field.attribute, var)):
                value = "***"
            yield Line(area_name, var, value, default_of(area, field.attribute, var), source)


def unknown_variables(environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Variables that look like ours and are not, each with the known name it resembles most (or "")."""
    known = sorted({*known_variables(), *OTHER_VARIABLES})
    families = {name.split("_", 1)[0] for name in known}
    for name in sorted(environ):
        if name in known or name.split("_", 1)[0] not in families:
            continue
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.85)
        if near or (name.startswith(_OWN_PREFIXES)):
            yield name, near[0] if near else ""
