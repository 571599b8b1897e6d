"""The catalog and services that tests of the admin plane run with."""

from __future__ import annotations

from typing import Any

from trustgate.policies import registry as policy_registry

PROVIDERS = frozenset(
    ["openai", "openai_compatible", "google", "vertex", "anthropic", "bedrock", "azure", "mistral", "groq", "deepseek", "xai", "cerebras", "openrouter", "cohere"]
)


class TestCatalog:
    """The real policy plugins; providers as far as the domain asks for them."""

    __test__ = False

    def validate_policy(self, slug: str, settings: dict[str, Any], stages: tuple[str, ...], mode: str) -> str | None:
        return policy_registry.validate(slug, settings, stages, mode)

    def policy_protocols(self, slug: str) -> frozenset[str] | None:
        return policy_registry.protocols(slug)

    def policy_settings_refusal(self, slug: str, settings: dict[str, Any], protocol: str) -> str | None:
        return policy_registry.settings_refusal(slug, settings, protocol)

    def policy_secret_paths(self, slug: str) -> tuple[tuple[str, ...], ...]:
        return policy_registry.secret_paths(slug)

    def validate_provider_options(self, provider: str, options: dict[str, Any]) -> str | None:
        return None

    def providers(self) -> frozenset[str]:
        return PROVIDERS

    def validate_exporter(self, entry: dict[str, Any]) -> str | None:
        return None

    def mcp_catalog_entry(self, code: str) -> dict[str, Any] | None:
        return None
