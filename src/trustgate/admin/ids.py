"""Identifiers and generated secrets of the Admin API (spec 01 §3.1, §5, §7, §9.2).

What lives here: reading of UUIDs as clients spell them, and the choice of new ids, slugs and keys. Deciding is pure, so
everything random is chosen here and goes in with the command.
"""

from __future__ import annotations

import base64
import os
import re
import secrets
import string
import time
import uuid

HEX32 = re.compile(r"[0-9a-fA-F]{32}")
HEX36 = re.compile(r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}")
GATEWAY_SLUG_CHARACTERS = string.ascii_lowercase + string.digits
CONSUMER_SLUG_CHARACTERS = string.ascii_letters + string.digits
SLUG_TRIES = 3


def parse_uuid(text: str, *, braces: bool = False) -> str | None:
    """The id in its canonical spelling, or None. Braces are only accepted in bodies and queries."""
    if text[:9].lower() == "urn:uuid:":
        text = text[9:]
        if not HEX36.fullmatch(text):
            return None
    elif braces and len(text) == 38 and text[0] == "{" and text[-1] == "}":
        text = text[1:-1]
        if not HEX36.fullmatch(text):
            return None
    if not (HEX36.fullmatch(text) or HEX32.fullmatch(text)):
        return None
    return str(uuid.UUID(text))


def new_uuid4() -> str:
    return str(uuid.uuid4())


def new_uuid7() -> str:
    """RFC 9562 version 7: 48 bits of Unix milliseconds, then random bits."""
    value = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(os.urandom(10), "big")
    value = value & ~(0xF << 76) | 7 << 76
    value = value & ~(0x3 << 62) | 2 << 62
    return str(uuid.UUID(int=value))


def gateway_slugs() -> tuple[str, ...]:
    """Candidates for a gateway without a slug of its own."""
    return tuple("gw-" + _random(GATEWAY_SLUG_CHARACTERS, 12) for _ in range(SLUG_TRIES))


def consumer_slugs() -> tuple[str, ...]:
    return tuple(_random(CONSUMER_SLUG_CHARACTERS, 8) for _ in range(SLUG_TRIES))


def new_api_key() -> str:
    """`ag_` and 32 random bytes in base64url: 46 characters."""
    return "ag_" + base64.urlsafe_b64encode(secrets.token_bytes(32)).rstrip(b"=").decode()


def _random(characters: str, length: int) -> str:
    return "".join(secrets.choice(characters) for _ in range(length))
