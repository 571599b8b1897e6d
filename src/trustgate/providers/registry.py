"""All providers, by code. Adding one is its module and a line here."""

from __future__ import annotations

from typing import Any

from trustgate.providers import (
    anthropic,
    azure,
    bedrock,
    cerebras,
    cohere,
    deepseek,
    google,
    groq,
    mistral,
    openai,
    openai_compatible,
    openrouter,
    vertex,
    xai,
)
from trustgate.providers.options import BadOptions
from trustgate.providers.provider import Provider

PROVIDERS: dict[str, Provider] = {
    provider.code: provider
    for provider in (
        anthropic.PROVIDER,
        azure.PROVIDER,
        bedrock.PROVIDER,
        cerebras.PROVIDER,
        cohere.PROVIDER,
        deepseek.PROVIDER,
        google.PROVIDER,
        groq.PROVIDER,
        mistral.PROVIDER,
        openai.PROVIDER,
        openai_compatible.PROVIDER,
        openrouter.PROVIDER,
        vertex.PROVIDER,
        xai.PROVIDER,
    )
}


def codes() -> frozenset[str]:
    return frozenset(PROVIDERS)


def validate_options(provider: str, options: dict[str, Any] | None) -> str | None:
    """What is wrong with `provider_options` (spec 03 §10.1), after `registry: invalid backend: validation failed: `.

    None when nothing is, also for a code that is no provider: that is for the caller to tell.
    """
    known = PROVIDERS.get(provider)
    if known is None:
        return None
    try:
        known.check_options(options or {})
    except BadOptions as problem:
        return str(problem)
    return None
