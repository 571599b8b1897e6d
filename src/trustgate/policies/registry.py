"""The plugins, validation of a policy against its plugin, and the catalog (spec 04 §10-11).

Adding a plugin is one module and one line here. What must not live here: the plugins' own rules.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trustgate.policies import (
    azure_content_safety,
    bedrock_guardrail,
    cors_policy,
    model_allowlist,
    openai_moderation,
    per_tool_rate_limiter,
    prompt_compression,
    prompt_template,
    rate_limiter,
    regex_replace,
    request_size_limiter,
    semantic_cache,
    token_rate_limiter,
    tool_allowlist,
    tool_injection,
    trustguard,
)
from trustgate.policies.durations import quote
from trustgate.policies.plugin import Environment, Plugin
from trustgate.policies.settings import SettingsError, decode, form

PLUGINS: dict[str, Plugin] = {
    module.PLUGIN.slug: module.PLUGIN
    for module in (
        azure_content_safety,
        bedrock_guardrail,
        cors_policy,
        model_allowlist,
        openai_moderation,
        per_tool_rate_limiter,
        prompt_compression,
        prompt_template,
        rate_limiter,
        regex_replace,
        request_size_limiter,
        semantic_cache,
        token_rate_limiter,
        tool_allowlist,
        tool_injection,
        trustguard,
    )
}

GROUPS = (
    "Traffic Control",
    "Quota",
    "Routing",
    "Prompt Management",
    "Tool Governance",
    "Guardrails",
    "Other",
)


def decode_settings(plugin: Plugin, settings: Mapping[str, Any] | None) -> Any:
    """Decoded settings; raises `SettingsError` with the plugin's prefix."""
    try:
        return decode(plugin.settings, settings)
    except SettingsError as error:
        raise SettingsError(plugin.error_prefix + str(error)) from None


def validate(
    slug: str,
    settings: Mapping[str, Any] | None,
    stages: Sequence[str] = (),
    mode: str = "",
    environment: Environment | None = None,
) -> str | None:
    """Why a policy is refused: the text behind `validation failed\\n`; None when it is fine."""
    plugin = PLUGINS.get(slug)
    if plugin is None:
        return f"plugin: unknown plugin: {slug}"
    for stage in stages:
        if stage not in plugin.supported:
            return f"plugin: stage not supported: {quote(stage)}"
    if not plugin.mandatory and not stages:
        return "plugin: no effective stages"
    if (mode or "enforce") not in plugin.modes:
        return f"plugin: mode not supported: {quote(mode)}"
    try:
        decoded = decode_settings(plugin, settings)
        try:
            plugin.check(decoded, environment or Environment())
        except SettingsError as error:
            return plugin.error_prefix + str(error)
    except SettingsError as error:
        return str(error)
    return None


def protocols(slug: str) -> frozenset[str] | None:
    """The consumer types a plugin supports; None for an unknown plugin."""
    plugin = PLUGINS.get(slug)
    return frozenset(plugin.protocols) if plugin is not None else None


def settings_refusal(slug: str, settings: Mapping[str, Any] | None, protocol: str) -> str | None:
    """Why a plugin refuses its settings for a consumer type (the text behind `validation failed: `), or None."""
    plugin = PLUGINS.get(slug)
    if plugin is None or plugin.refuse is None:
        return None
    try:
        return plugin.refuse(decode_settings(plugin, settings), protocol)
    except SettingsError as error:
        return str(error)


def secret_paths(slug: str) -> tuple[tuple[str, ...], ...]:
    """Paths of the secret members of a plugin's settings."""
    plugin = PLUGINS.get(slug)
    return plugin.secrets if plugin is not None else ()


def groups() -> dict[str, tuple[str, ...]]:
    """Slugs by catalog group, in catalog order: the values of the policy list's `category` filter."""
    found = {
        group: tuple(sorted(plugin.slug for plugin in PLUGINS.values() if plugin.group == group)) for group in GROUPS
    }
    return {group: slugs for group, slugs in found.items() if slugs}


def catalog() -> dict[str, Any]:
    """The document of `GET /v1/policies-catalog`."""
    shown = {group: [slug for slug in slugs if not PLUGINS[slug].hidden] for group, slugs in groups().items()}
    return {
        "groups": [
            {"type": group, "items": [_catalog_entry(PLUGINS[slug]) for slug in slugs]}
            for group, slugs in shown.items()
            if slugs
        ]
    }


def _catalog_entry(plugin: Plugin) -> dict[str, Any]:
    return {
        "slug": plugin.slug,
        "name": plugin.name,
        "description": plugin.description,
        "mandatory_stages": list(plugin.mandatory),
        "supported_stages": list(plugin.supported),
        "supported_modes": list(plugin.modes),
        "supported_protocols": list(plugin.protocols),
        "default_mode": "enforce",
        "settings_schema": {"fields": form(plugin.settings)},
    }
