"""What may leave with a request's record: headers and bodies without secrets, bounded (spec 06 §10). Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, cast

import msgspec

from trustgate.wire.secret_headers import is_secret_header

Json = dict[str, Any]

REDACTED = "[REDACTED]"
CAP_BYTES = 1024 * 1024
CUT = "...[truncated]"
MAX_KNOWN = 4096
MAX_KEPT_HEADER = 256
MAX_KEY = 64
SCHEMED = frozenset({"authorization", "proxy-authorization"})
KEYS = frozenset(
    [
        "password",
        "passwd",
        "secret",
        "token",
        "api_key",
        "apikey",
        "authorization",
        "credential",
        "access_token",
        "refresh_token",
        "client_secret",
        "private_key",
    ]
)
KEY_ENDINGS = ("_api_key", "-api-key", "_apikey")
MEDIA_TYPE = re.compile(r"[\w!#$&^.+-]+(/[\w!#$&^.+*-]+)?", re.ASCII)
OPTIONAL_MEMBERS = (
    "tools",
    "functions",
    "tool_choice",
    "function_call",
    "toolsConfig",
    "generationConfig",
    "safetySettings",
)


def canonical(name: str) -> str:
    """`x-ag-gateway-slug` as `X-Ag-Gateway-Slug`."""
    return "-".join(part[:1].upper() + part[1:].lower() for part in name.split("-"))


_shown: dict[tuple[bytes, bytes], tuple[str, list[str]]] = {}
"""Headers as they are shown, by name and value: most of a client's repeat. Clients choose them, so it is bounded, and
secrets are not kept. The lists are shared and never changed."""


def header_map(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, list[str]]:
    """Headers by canonical name, secrets redacted."""
    found: dict[str, list[str]] = {}
    known = _shown.get
    for pair in headers:
        name, values = known(pair) or shown_header(pair)
        found[name] = found[name] + values if name in found else values
    return found


_hidden: dict[bytes, tuple[str, list[str]]] = {}
"""The same of secrets that are hidden whatever they hold, by name."""


def shown_header(pair: tuple[bytes, bytes]) -> tuple[str, list[str]]:
    hidden = _hidden.get(pair[0])
    if hidden is not None:
        return hidden
    name, value = pair[0].decode("latin-1").lower(), pair[1].decode("utf-8", "replace")
    if name in SCHEMED:
        return canonical(name), [redacted_header(value)]
    if is_secret_header(name):
        hidden = canonical(name), [REDACTED]
        if len(_hidden) < MAX_KNOWN and len(pair[0]) <= MAX_KEPT_HEADER:
            _hidden[pair[0]] = hidden
        return hidden
    shown = canonical(name), [value]
    if len(pair[0]) + len(pair[1]) <= MAX_KEPT_HEADER:
        if len(_shown) >= MAX_KNOWN:
            _shown.clear()
        _shown[pair] = shown
    return shown


def redacted_header(value: str) -> str:
    """Of a header that has a scheme, the scheme."""
    scheme = value.split(" ", 1)[0].lower()
    return f"{scheme.capitalize()} {REDACTED}" if scheme in ("bearer", "basic") else REDACTED


def is_secret_key(key: str) -> bool:
    name = key.strip().lower()
    return name in KEYS or name.endswith(KEY_ENDINGS)


_judged: dict[str, bool] = {}
"""Verdicts by key: the keys of policies' extras and of chat bodies repeat. Clients choose keys: bounded."""


def judged(key: str) -> bool:
    found = _judged.get(key)
    if found is None:
        if len(_judged) >= MAX_KNOWN:
            _judged.clear()
        found = is_secret_key(key)
        if len(key) <= MAX_KEY:
            _judged[key] = found
    return found


def redact(value: Any) -> tuple[Any, bool]:
    """`value` without the strings under secret keys, and whether any was there."""
    if isinstance(value, dict):
        found, result = False, dict[str, Any]()
        for key, item in cast("dict[str, Any]", value).items():
            inner, hit = secret_value(item) if judged(key) else redact(item)
            result[key] = inner
            found = found or hit
        return result, found
    if isinstance(value, list):
        pairs = [redact(item) for item in cast("list[Any]", value)]
        return [item for item, _ in pairs], any(hit for _, hit in pairs)
    return value, False


def secret_value(value: Any) -> tuple[Any, bool]:
    """What stands under a secret key: strings go, lists element by element, objects are looked into, the rest stays."""
    if isinstance(value, str):
        return REDACTED, True
    if isinstance(value, list):
        pairs = [secret_value(item) for item in cast("list[Any]", value)]
        return [item for item, _ in pairs], any(hit for _, hit in pairs)
    return redact(value)


def body_text(body: bytes, content_type: str) -> str:
    """A body for the record: JSON redacted (re-written only if it held a secret), everything bounded to 1 MiB."""
    kind = content_type.split(";")[0].strip().lower()
    looks_json = body.lstrip()[:1] in (b"{", b"[")
    if looks_json and (kind == "application/json" or kind.endswith("+json") or not MEDIA_TYPE.fullmatch(kind)):
        try:
            document, hit = redact(msgspec.json.decode(body))
            text = msgspec.json.encode(document, order="sorted") if hit else body
            return text.decode() if len(text) <= CAP_BYTES else shrink(document)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):  # the last: nested too deep to be walked
            return cut(body)
    if kind == "multipart/form-data":
        return form_text(body, content_type)
    return cut(body)


def form_text(body: bytes, content_type: str) -> str:
    """A form as JSON: which fields there were and which files, none of their contents."""
    from email.parser import BytesParser  # rarely needed

    try:
        form = BytesParser().parsebytes(b"Content-Type: " + content_type.encode("latin-1") + b"\r\n\r\n" + body)
        parts = [part for part in form.get_payload() if not isinstance(part, str)] if form.is_multipart() else []
        fields = {str(part.get_param("name", header="content-disposition")): field_of(part) for part in parts}
    except (ValueError, LookupError, UnicodeError):
        fields = {}
    return msgspec.json.encode(fields or {"_multipart": True}).decode()


def field_of(part: Any) -> Any:
    filename = part.get_filename()
    return REDACTED if filename is None else {"_type": "file", "filename": str(filename)}


def cut(body: bytes) -> str:
    if len(body) <= CAP_BYTES:
        return body.decode("utf-8", "replace")
    return body[:CAP_BYTES].decode("utf-8", "ignore") + CUT


def shrink(document: Any) -> str:
    """An oversized JSON document made to fit while it stays valid JSON (spec 06 §10, cap)."""
    if isinstance(document, list):
        rows = cast("list[Any]", document)
        return msgspec.json.encode(rows[: fitting(rows, CAP_BYTES - len("[]"))]).decode()
    fields = cast("dict[str, Any]", document) | {"_nt_truncated": True}
    for name in ("messages", "contents"):
        turns = fields.get(name)
        if isinstance(turns, list) and len(cast("list[Any]", turns)) > 2 and size(fields) > CAP_BYTES:
            fields[name] = without_middle(fields, name, cast("list[Any]", turns))
    for name in OPTIONAL_MEMBERS:
        if size(fields) <= CAP_BYTES:
            break
        fields.pop(name, None)
    limit = CAP_BYTES // 4
    while size(fields) > CAP_BYTES and limit >= 256:
        fields = cast("dict[str, Any]", shorten(fields, limit))
        limit //= 4
    return msgspec.json.encode(fields).decode() if size(fields) <= CAP_BYTES else '{"_nt_truncated":true}'


def without_middle(fields: Json, name: str, turns: list[Any]) -> list[Any]:
    """The first of a member's turns and as many of the newest as fit, the newest one in any case."""
    newest = fitting(turns[:0:-1], CAP_BYTES - size(fields | {name: turns[:1]}))
    return [turns[0], *turns[-max(1, newest) :]]


def fitting(items: Sequence[Any], room: int) -> int:
    """How many items of a JSON array, from the first on, take at most `room` bytes with their commas."""
    for count, item in enumerate(items):
        room -= size(item) + 1
        if room < 0:
            return count
    return len(items)


def size(value: Any) -> int:
    return len(msgspec.json.encode(value))


def shorten(value: Any, limit: int) -> Any:
    if isinstance(value, str):
        raw = value.encode()
        return value if len(raw) <= limit else raw[:limit].decode("utf-8", "ignore") + CUT
    if isinstance(value, list):
        return [shorten(item, limit) for item in cast("list[Any]", value)]
    if isinstance(value, dict):
        return {key: shorten(item, limit) for key, item in cast("dict[str, Any]", value).items()}
    return value
