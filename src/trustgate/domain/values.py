"""Small rules that several objects share: names, ids, URLs, string lists.

What lives here: pure functions on single values (spec 01 §3.1, §3.3). What must not: rules of one object.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, cast
from urllib.parse import urlsplit

from trustgate.domain import secrets
from trustgate.domain.errors import invalid, quoted

NIL_UUID = "00000000-0000-0000-0000-000000000000"
MAX_NAME_BYTES = 255

_PLAIN = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.ASCII)
_HEX = re.compile(r"[0-9a-f]{32}", re.ASCII)


def parse_uuid(text: str) -> str | None:
    """The lower-case 36 character form of a UUID in any accepted spelling, or None.

    Accepted: 36 characters in any case, 32 hex digits, `urn:uuid:...`, `{...}`.
    """
    text = text.lower()
    if len(text) == 45 and text.startswith("urn:uuid:"):
        text = text[9:]
    elif len(text) == 38 and text[0] == "{" and text[-1] == "}":
        text = text[1:-1]
    if _HEX.fullmatch(text):
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
    return text if _PLAIN.fullmatch(text) else None


def check_name(name: str | None, limit: int | None = MAX_NAME_BYTES) -> str:
    """A name is not blank and at most `limit` bytes; it is stored untrimmed."""
    if name is None or not name.strip():
        raise invalid("name is required")
    if limit is not None and len(name.encode()) > limit:
        raise invalid(f"name too long (max {limit})")
    return name


def is_http_url(text: str) -> bool:
    """Whether `text` is an absolute http or https URL with a host."""
    try:
        parts = urlsplit(text)
        return (
            parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != -1 and " " not in parts.netloc
        )
    except ValueError:
        return False


def origin(url: str) -> str:
    """Scheme and authority of a URL, for telling whether a secret would go elsewhere."""
    try:
        parts = urlsplit(url.strip())
    except ValueError:
        return url
    return f"{parts.scheme}://{parts.netloc}".lower()


def strings(items: Iterable[str | None] | None) -> tuple[str, ...]:
    """A list as sent; a null item is an empty text."""
    return tuple(item or "" for item in items or ())


def string_map(items: Mapping[str, str | None] | None) -> dict[str, str]:
    """A map as sent; a null value is an empty text."""
    return {key: value or "" for key, value in free(dict(items or {})).items()}


def free(value: Any) -> Any:
    """Free-form JSON from a client, as it is; it may not pretend to hold references to secrets."""
    stack: list[Any] = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            if secrets.REF in item:
                raise invalid(f"member name {quoted(secrets.REF)} is reserved")
            stack.extend(cast("dict[str, Any]", item).values())
        elif isinstance(item, list):
            stack.extend(cast("list[Any]", item))
    return value
