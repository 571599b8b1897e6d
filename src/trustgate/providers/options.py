"""Reading `provider_options` and turning a base URL into the place that requests go to.

What lives here: the case-insensitive typed read (spec 03 §10), the messages of a bad option, the rule for `base_url`
(§17 B18) and the encoding of a model name inside a URL (B16). What must not: anything that knows one provider.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import msgspec

from trustgate.providers.errors import RequestFault

Json = dict[str, Any]

TEXT = "string"
MAP = "map"

MAX_MODEL = 2048

_SAFE_IN_PATH = "/%:@!$&'()*+,;=-._~"
_SAFE_IN_MODEL = "/:@!$&'()*+,;=-._~"


class BadOptions(ValueError):
    """Options of the wrong shape; the text is the message after `validation failed: `."""


def quoted(value: str) -> str:
    """`value` between double quotes, as messages show it."""
    return json.dumps(value, ensure_ascii=False)


def _type_name(value: object) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, (int, float)):
        return "float64"
    if isinstance(value, str):
        return "string"
    return "[]interface {}" if isinstance(value, (list, tuple)) else "map[string]interface {}"


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "<nil>"
    if isinstance(value, (int, float)):
        return _shown_number(float(value))
    if isinstance(value, (list, tuple)):
        return "[" + " ".join(_shown(item) for item in value) + "]"
    if isinstance(value, dict):
        return "map[" + " ".join(f"{key}:{_shown(value[key])}" for key in sorted(value)) + "]"
    return str(value)


def _shown_number(value: float) -> str:
    """The shortest digits, with an exponent below 1e-4 and from 1e6 on (`%v` of a float64 in Go)."""
    plain = format(Decimal(repr(value)).normalize(), "f")
    if value == 0 or 1e-4 <= abs(value) < 1e6:
        return plain
    digits = plain.lstrip("-0.").replace(".", "").rstrip("0")
    sign, exponent = "-" if value < 0 else "", Decimal(repr(value)).adjusted()
    return f"{sign}{digits[0]}{'.' if digits[1:] else ''}{digits[1:]}e{exponent:+03d}"


_KINDS = {"[]interface {}": "slice", "map[string]interface {}": "map"}


def _wrong_text(path: str, value: object) -> str:
    kind, shown = _type_name(value), _shown(value)
    return f"'{path}' expected type 'string', got unconvertible type '{kind}', value: '{shown}'"


def member(options: Mapping[str, Any], key: str) -> Any:
    """The option `key` in any case, the exact spelling first; None when absent."""
    if key in options:
        return options[key]
    folded = key.lower()
    return next((value for name, value in options.items() if name.lower() == folded), None)


def text(options: Mapping[str, Any], key: str) -> str:
    """A text option; absent, null and other types read as empty (creation has refused other types where it matters)."""
    value = member(options, key)
    return value if isinstance(value, str) else ""


def check_types(provider: str, options: Mapping[str, Any], schema: Mapping[str, str]) -> None:
    """Raises `BadOptions` naming every option of `schema` (`string` or `map` of strings) that has another type."""
    problems: list[str] = []
    for key, kind in schema.items():
        value = member(options, key)
        if value is None:
            continue
        if kind == TEXT:
            if not isinstance(value, str):
                problems.append(_wrong_text(key, value))
        elif not isinstance(value, dict):
            kind_name = _type_name(value)
            problems.append(f"'{key}' expected a map, got '{_KINDS.get(kind_name, kind_name)}'")
        else:
            problems += [
                _wrong_text(f"{key}[{name}]", item)
                for name, item in value.items()
                if item is not None and not isinstance(item, str)
            ]
    if problems:
        listed = "\n".join(f"* {problem}" for problem in sorted(problems))
        raise BadOptions(f"{provider}: invalid provider_options: {len(problems)} error(s) decoding:\n\n{listed}")


def is_http_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        port_is_valid = parts.port is None or 0 < parts.port < 65536
    except ValueError:
        return False
    clean = not any(char <= " " or char == "\x7f" for char in url)
    return clean and parts.scheme.lower() in ("http", "https") and bool(parts.hostname) and port_is_valid


def check_base_url(provider: str, url: str) -> None:
    if not is_http_url(url):
        raise BadOptions(f"{provider}: base_url must be a valid http(s) URL, got {quoted(url)}")


def base_url(provider: str, options: Mapping[str, Any], default: str, version: str = "") -> str:
    """Everything before the operation, without a trailing slash.

    `version` is the provider's version path: it completes a `base_url` whose own path is empty. Raises `RequestFault`.
    """
    url = text(options, "base_url").strip()
    if not url:
        return default
    try:
        check_base_url(provider, url)
    except BadOptions as problem:
        raise RequestFault(str(problem)) from None
    parts = urlsplit(url)
    path = parts.path.rstrip("/") or version
    return f"{parts.scheme.lower()}://{parts.netloc.rpartition('@')[2]}{path}"


def check_model_length(model: str) -> None:
    """Raises `RequestFault` for a model that a URL cannot hold: none, or more than any provider's ids need."""
    if not model:
        raise RequestFault("request has no model")
    if len(model) > MAX_MODEL:
        raise RequestFault(f"model is longer than {MAX_MODEL} characters")


def model_in_path(model: str) -> str:
    """`model` percent-encoded for a URL path; `/` and `:` keep their meaning.

    Raises `RequestFault` for a name that could lead to another URL: dot segments, `?`, `#`, backslashes, controls.
    """
    check_model_length(model)
    plain = unquote(model)
    unsafe = any(char in "?#\\" or char < " " or char == "\x7f" for char in plain)
    if unsafe or any(part in ("", ".", "..") for part in plain.split("/")):
        raise RequestFault(f"model {quoted(model)} cannot be part of a URL")
    return quote(model, safe=_SAFE_IN_MODEL)


def host_label(text: str, name: str) -> str:
    """`text` as one part of a host name, such as a region. Raises `RequestFault` for what could lead elsewhere."""
    if not text.isascii() or not text.replace("-", "a").isalnum():
        raise RequestFault(f"{name} {quoted(text)} cannot be part of a host name")
    return text


class Site(msgspec.Struct, frozen=True):
    """Where an account's requests go: `root` (scheme, host, port), the `path` before operations, a fixed `query`.

    `action` replaces the usual action of providers that write one after the model.
    """

    root: str
    path: str
    query: str = ""
    action: str = ""

    @classmethod
    def of(cls, url: str, query: str = "", action: str = "") -> Site:
        parts = urlsplit(url)
        return cls(f"{parts.scheme}://{parts.netloc.lower()}", quote(parts.path, safe=_SAFE_IN_PATH), query, action)
