"""What one environment variable is and how its text becomes a value.

The rules: an empty value means "unset"; booleans, integers and durations that cannot be read fall back to the
default and leave a `Warning`; variables marked strict abort the start instead. Nothing here reads the process
environment or logs: text in, values and warnings out.
"""

import ipaddress
import re
from collections.abc import Mapping
from enum import StrEnum
from functools import cache
from typing import Any, TypeVar, get_type_hints

import msgspec
from msgspec import Struct


class ConfigurationError(Exception):
    """The configuration cannot be started with. The text is the one line to log; it names the variable."""

    @classmethod
    def invalid(cls, reason: str) -> "ConfigurationError":
        return cls(f"invalid configuration: {reason}")


class Kind(StrEnum):
    STR = "string"
    INT = "integer"
    BOOL = "boolean"
    DURATION = "duration"
    MILLIS = "milliseconds or duration"
    CSV = "list"
    NETWORKS = "list of IP/CIDR"


class Var(Struct, frozen=True):
    """The variable behind a settings field; `doc` is its line in the configuration reference."""

    name: str
    kind: Kind
    doc: str
    secret: bool = False
    strict: bool = False  # unreadable values abort the start
    inert: bool = False  # accepted so that existing environments keep working, without effect
    empty_is_value: bool = False  # an empty value is a value, not "unset"
    zero_allowed: bool = False  # a duration of zero means "not at all"; elsewhere durations are positive
    alias: str = ""  # second name, read when the first is unset
    default_text: str = ""  # how the reference page shows a default that depends on something


class Warning(Struct, frozen=True):
    """Something in the environment that was not used as given. `value` is empty for secrets."""

    message: str
    key: str
    value: str = ""


class Field(Struct, frozen=True):
    attribute: str
    var: Var


_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})
_INT = re.compile(r"[+-]?[0-9]{1,18}")
_DURATION_PART = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)")
_ZERO = re.compile(r"0+(ns|us|ms|s|m|h)?")
_UNIT_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def parse_bool(text: str) -> bool | None:
    word = text.strip().lower()
    if word in _TRUE:
        return True
    return False if word in _FALSE else None


def parse_int(text: str) -> int | None:
    return int(text) if _INT.fullmatch(text) else None


def parse_duration(text: str) -> float | None:
    """Seconds of a `1h30m`-like text (units ns us ms s m h); None unless it is readable and positive."""
    position, seconds = 0, 0.0
    text = text.removeprefix("+")
    for part in _DURATION_PART.finditer(text):
        if part.start() != position:
            return None
        seconds += float(part[1]) * _UNIT_SECONDS[part[2]]
        position = part.end()
    return round(seconds, 9) if position == len(text) and 0 < seconds < 9.2e9 else None


def format_duration(seconds: float) -> str:
    """The shortest `1h30m`-like text of a duration."""
    if seconds and seconds < 1:
        return f"{seconds * 1000:g}ms"
    hours, rest = divmod(seconds, 3600)
    minutes, rest = divmod(rest, 60)
    parts = ((hours, "h"), (minutes, "m"), (rest, "s"))
    return "".join(f"{amount:g}{unit}" for amount, unit in parts if amount) or "0s"


def parse_csv(text: str) -> tuple[str, ...]:
    return tuple(item for part in text.split(",") if (item := part.strip()))


def parse_network(text: str) -> str | None:
    """Canonical CIDR text of an IP address or CIDR block, or None."""
    try:
        return str(ipaddress.ip_network(text, strict=False))
    except ValueError:
        return None


def strict_networks(key: str, text: str) -> tuple[str, ...]:
    """CIDR blocks, each with its prefix length and none of them the whole Internet."""
    networks: list[str] = []
    for item in parse_csv(text):
        network = parse_network(item) if re.fullmatch(r".+/[0-9]{1,3}", item) else None
        if network is None:
            raise ConfigurationError.invalid(f"{key} must contain valid CIDR prefixes")
        if network.endswith("/0"):
            raise ConfigurationError.invalid(f"{key} must not trust all addresses")
        networks.append(network)
    return tuple(networks)


def parse_strict(var: Var, text: str) -> object:
    """The value of a strict variable; raises ConfigurationError naming it."""
    match var.kind:
        case Kind.BOOL:
            word = text.strip().lower()
            if word in ("true", "false"):
                return word == "true"
            raise ConfigurationError.invalid(f"{var.name} must be true or false")
        case Kind.INT:
            number = parse_int(text.strip())
            if number is not None and number > 0:
                return number
            raise ConfigurationError.invalid(f"{var.name} must be a positive integer")
        case Kind.DURATION:
            seconds = parse_duration(text.strip())
            if seconds is not None:
                return seconds
            raise ConfigurationError.invalid(f"{var.name} must be a positive duration")
        case Kind.NETWORKS:
            return strict_networks(var.name, text)
        case _:
            raise TypeError(f"{var.name}: no strict rule for {var.kind}")


_FALLBACK = {
    Kind.INT: ("integer", parse_int),
    Kind.BOOL: ("bool", parse_bool),
    Kind.DURATION: ("duration", parse_duration),
}


def one_line(text: str) -> str:
    return re.sub(r"[\r\n\t]", " ", text)


def parse_lenient(var: Var, text: str, warnings: list[Warning]) -> object:
    """The value of `text`, or None (take the default) with a warning when it cannot be read."""
    match var.kind:
        case Kind.STR:
            return text
        case Kind.CSV:
            return parse_csv(text)
        case Kind.NETWORKS:
            networks: list[str] = []
            for item in parse_csv(text):
                network = parse_network(item)
                if network is None:
                    warnings.append(Warning("malformed IP or CIDR, entry skipped", var.name, one_line(item)))
                else:
                    networks.append(network)
            return tuple(networks)
        case Kind.MILLIS:
            millis = parse_int(text.strip())
            value = millis / 1000 if millis is not None and millis > 0 else parse_duration(text.strip())
            word = "duration"
        case _:
            word, parse = _FALLBACK[var.kind]
            value = 0.0 if var.zero_allowed and _ZERO.fullmatch(text) else parse(text)
    if value is None:
        message = f"invalid {word} environment variable, falling back to default"
        warnings.append(Warning(message, var.name, "" if var.secret else one_line(text)))
    return value


@cache
def fields_of(area: type[Struct]) -> tuple[Field, ...]:
    """The fields of a settings area that come from a variable, in order."""
    hints = get_type_hints(area, include_extras=True)
    found: list[Field] = []
    for info in msgspec.structs.fields(area):
        for mark in getattr(hints[info.name], "__metadata__", ()):
            if isinstance(mark, Var):
                found.append(Field(info.name, mark))
    return tuple(found)


A = TypeVar("A", bound=Struct)


def lookup(var: Var, environ: Mapping[str, str]) -> str | None:
    """The text given for a variable, or None when it is unset (or empty, which is the same for nearly all)."""
    for name in (var.name, var.alias):
        text = environ.get(name) if name else None
        if text or (text is not None and var.empty_is_value):
            return text
    return None


def load_area(area: type[A], environ: Mapping[str, str], warnings: list[Warning]) -> A:
    """An area filled from the environment; appends to `warnings`; raises ConfigurationError (strict variables)."""
    given: dict[str, Any] = {}
    for field in fields_of(area):
        text = lookup(field.var, environ)
        if text is None:
            continue
        value = parse_strict(field.var, text) if field.var.strict else parse_lenient(field.var, text, warnings)
        if value is not None:
            given[field.attribute] = value
    return area(**given)
