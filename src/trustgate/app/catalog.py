"""What the domain asks of policies, providers and exporters, answered from their registries."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from trustgate.policies import registry as policies
from trustgate.policies.plugin import Environment
from trustgate.providers.registry import PROVIDERS, validate_options

Json = dict[str, Any]


class Catalog:
    """The `domain.decision.Catalog` of this process.

    `validate_exporter` and `mcp_entries` come from the rooms that own exporters and the curated MCP servers.
    """

    def __init__(
        self,
        environment: Environment,
        validate_exporter: Callable[[Json], str | None],
        mcp_entries: Mapping[str, Json],
    ) -> None:
        self._environment = environment
        self._validate_exporter = validate_exporter
        self._mcp_entries = mcp_entries

    def validate_policy(self, slug: str, settings: Json, stages: tuple[str, ...], mode: str) -> str | None:
        return policies.validate(slug, settings, stages, mode, self._environment)

    def policy_protocols(self, slug: str) -> frozenset[str] | None:
        return policies.protocols(slug)

    def policy_settings_refusal(self, slug: str, settings: Json, protocol: str) -> str | None:
        return policies.settings_refusal(slug, settings, protocol)

    def policy_secret_paths(self, slug: str) -> tuple[tuple[str, ...], ...]:
        return policies.secret_paths(slug)

    def validate_provider_options(self, provider: str, options: Json) -> str | None:
        return validate_options(provider, options)

    def providers(self) -> frozenset[str]:
        return frozenset(PROVIDERS)

    def validate_exporter(self, entry: Json) -> str | None:
        return self._validate_exporter(entry)

    def mcp_catalog_entry(self, code: str) -> Json | None:
        return self._mcp_entries.get(code)
