"""Policy `cors`: which pages may call a consumer from a browser. Hidden from the catalog, an addition (spec 04 §15).

What lives here: its settings and which policy of a consumer decides. What must not: the answers themselves (`cors`). It
takes no part in stages: preflights are answered before authentication, and every answer is marked, refusals too.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated
from urllib.parse import urlsplit

import msgspec
import structlog

from trustgate.policies.cors import Cors, CorsSettings
from trustgate.policies.durations import quote
from trustgate.policies.plugin import Binding, Environment, Plugin
from trustgate.policies.settings import SettingsError, decode, setting
from trustgate.view.model import Policy

log = structlog.get_logger("trustgate.policies.cors")

TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
MAX_AGE_S = 86400
METHODS = ("GET", "POST", "OPTIONS")
HEADERS = ("Content-Type", "Authorization", "X-AG-API-Key", "X-AG-Gateway-Slug", "X-AG-Trace-Id")
EXPOSED = ("X-AG-Trace-Id", "X-Session-Id", "X-Selected-Provider", "X-Selected-Model", "Retry-After")


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    allow_origins: Annotated[
        tuple[str, ...],
        setting("Allowed Origins", "Origins, or *.", required=True, item=setting("Origin", key="origin")),
    ] = ()
    allow_methods: Annotated[tuple[str, ...], setting("Allowed Methods", item=setting("Method", key="method"))] = (
        METHODS
    )
    allow_headers: Annotated[
        tuple[str, ...],
        setting("Allowed Headers", "Told when a preflight names none.", item=setting("Header", key="header")),
    ] = HEADERS
    expose_headers: Annotated[
        tuple[str, ...],
        setting("Exposed Headers", "Answer headers that scripts may read.", item=setting("Header", key="header")),
    ] = EXPOSED
    allow_credentials: Annotated[bool, setting("Allow Credentials", "Cookies and client certificates.")] = False
    max_age: Annotated[int, setting("Max Age", "Seconds a preflight may be remembered.", shown=600)] = 600


def check(settings: Settings, environment: Environment | None = None) -> None:
    problem = _problem(settings)
    if problem:
        raise SettingsError(f"cors: {problem}")


def _problem(settings: Settings) -> str | None:
    if not settings.allow_origins:
        return "allow_origins must not be empty"
    for origin in settings.allow_origins:
        if origin != "*" and not is_origin(origin):
            return f"allow_origins must be * or origins such as https://app.example, got {quote(origin)}"
    if settings.allow_credentials and "*" in settings.allow_origins:
        return "allow_credentials cannot be combined with the origin *"
    for name in ("allow_methods", "allow_headers", "expose_headers"):
        for value in getattr(settings, name):
            if TOKEN.fullmatch(value) is None:
                return f"{name} entries must be names, got {quote(value)}"
    if not 0 <= settings.max_age <= MAX_AGE_S:
        return f"max_age must be between 0 and {MAX_AGE_S}"
    return None


def is_origin(text: str) -> bool:
    """Whether it is spelled as browsers send it: scheme, host and port, nothing behind (RFC 6454 §6.2)."""
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        return False
    printable = text.isascii() and text.isprintable() and " " not in text
    return printable and bool(parts.hostname) and "@" not in text and text == f"{parts.scheme}://{parts.netloc}"


def cors_of(policies: Sequence[Policy]) -> Cors | None:
    """What the first of a consumer's enabled `cors` policies says; None when it has none.

    A policy whose settings no longer fit lets no page in.
    """
    found = [policy for policy in policies if policy.slug == PLUGIN.slug and policy.enabled]
    if not found:
        return None
    policy = min(found, key=lambda policy: (policy.priority, policy.id))
    try:
        settings: Settings = decode(Settings, policy.settings)
        check(settings)
    except SettingsError as error:
        log.error("policy cannot be compiled", policy_id=policy.id, slug=policy.slug, error=str(error))
        return Cors(CorsSettings())
    return Cors(
        CorsSettings(
            origins=settings.allow_origins,
            methods=settings.allow_methods,
            headers=settings.allow_headers,
            expose_headers=settings.expose_headers,
            credentials=settings.allow_credentials,
            max_age_s=settings.max_age,
        )
    )


class NoStage:
    """The policy in a chain: nothing to run."""

    waits = False

    def __init__(self, settings: Settings, binding: Binding) -> None:
        check(settings)


PLUGIN = Plugin(
    slug="cors",
    name="CORS",
    description="Pages that may call the consumer from a browser.",
    group="Traffic Control",
    mandatory=("pre_request",),
    supported=("pre_request",),
    modes=("enforce",),
    hidden=True,
    settings=Settings,
    check=check,
    build=NoStage,
)
