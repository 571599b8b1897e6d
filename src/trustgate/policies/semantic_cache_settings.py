"""Settings of `semantic_cache` (spec 04 §14.5)."""

from __future__ import annotations

from typing import Annotated

import msgspec

from trustgate.policies.durations import SECOND, parse_duration, quote
from trustgate.policies.plugin import Environment
from trustgate.policies.settings import SettingsError, options, setting

MODES = ("exact", "semantic", "both")
SCOPES = ("consumer", "global")
STORES = ("redis", "pgvector", "in_memory")
DEFAULT_TTL_S = 86_400
DEFAULT_THRESHOLD = 0.85
DEFAULT_MODEL = "text-embedding-ada-002"


class Embedding(msgspec.Struct, frozen=True, kw_only=True):
    provider: Annotated[str, setting("Provider", "Service name.", shown="openai")] = ""
    model: Annotated[str, setting("Model", "Model name.", shown=DEFAULT_MODEL)] = ""
    api_key: Annotated[str, setting("API Key", "Service credential.")] = ""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    mode: Annotated[
        str,
        setting("Mode", "Text equality, similarity, or equality first.", shown="semantic", options=options(*MODES)),
    ] = ""
    scope: Annotated[str, setting("Scope", "Who shares entries.", shown="consumer", options=options(*SCOPES))] = ""
    vector_store: Annotated[
        str,
        setting(
            "Vector Store",
            "Storage of entries.",
            shown="redis",
            options=options(*STORES, pgvector="pgvector", in_memory="In-Memory"),
        ),
    ] = ""
    similarity_threshold: Annotated[
        float,
        setting(
            "Similarity Threshold", "Cosine similarity needed for a hit, above 0 up to 1.", shown=DEFAULT_THRESHOLD
        ),
    ] = 0.0
    ttl_seconds: Annotated[int, setting("TTL Seconds", "Entry lifetime; wins over ttl.")] = 0
    embedding_provider: Annotated[str, setting("Embedding Provider", "Wins over embedding.provider.")] = ""
    embedding_model: Annotated[str, setting("Embedding Model", "Wins over embedding.model.")] = ""
    cache_only_on_status: Annotated[
        tuple[int, ...],
        setting("Cache Only On Status", "Statuses worth storing.", shown=[200], item=setting("Status", key="status")),
    ] = ()
    bypass_header: Annotated[
        str, setting("Bypass Header", "Any value in this header skips the cache.", shown="X-Cache-Bypass")
    ] = ""
    skip_if_tools_present: Annotated[
        bool | None, setting("Skip If Tools Present", "Leave tool traffic out of the cache.", shown=True)
    ] = None
    skip_if_streaming: Annotated[bool, setting("Skip If Streaming", "Leave streams out of the cache.", shown=False)] = (
        False
    )
    ttl: Annotated[str, setting("TTL", "Entry lifetime as a duration (older form).", kind="duration", shown="24h")] = ""
    embedding: Annotated[Embedding | None, setting("Embedding", "Embedding service.")] = None


def check(settings: Settings, environment: Environment | None = None) -> None:
    for name, value, allowed in (
        ("mode", settings.mode, MODES),
        ("scope", settings.scope, SCOPES),
        ("vector_store", settings.vector_store, STORES),
    ):
        if value and value not in allowed:
            raise SettingsError(f"semantic_cache: {name} must be one of [{' '.join(allowed)}], got {quote(value)}")
    threshold = settings.similarity_threshold
    if not 0 <= threshold <= 1:
        raise SettingsError(f"semantic_cache: similarity_threshold must be in (0, 1], got {threshold:.6f}")
    if settings.ttl_seconds < 0:
        raise SettingsError(f"semantic_cache: ttl_seconds must be non-negative, got {settings.ttl_seconds}")
    ttl_s(settings)


def ttl_s(settings: Settings) -> int:
    """Life of an entry in whole seconds; `ttl` must be a duration even where it is not used."""
    try:
        ttl = parse_duration(settings.ttl) // SECOND if settings.ttl else 0
    except ValueError as error:
        raise SettingsError(f"semantic_cache: ttl must be a valid duration: {error}") from None
    return settings.ttl_seconds or max(0, ttl) or DEFAULT_TTL_S
