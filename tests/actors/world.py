"""What the tests of the actors need of a configuration: a catalog that accepts everything, and short commands."""

from __future__ import annotations

import pathlib
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec
import trio

from trustgate.domain import commands as cmd
from trustgate.domain import inputs
from trustgate.store import PostgresConfig

KEY = "k" * 40
Target = pathlib.Path | PostgresConfig


class AnyCatalog:
    """Accepts every setting."""

    def validate_policy(self, slug: str, settings: dict[str, Any], stages: tuple[str, ...], mode: str) -> str | None:
        return None

    def policy_protocols(self, slug: str) -> frozenset[str] | None:
        return frozenset({"LLM", "MCP"})

    def policy_settings_refusal(self, slug: str, settings: dict[str, Any], protocol: str) -> str | None:
        return None

    def policy_secret_paths(self, slug: str) -> tuple[tuple[str, ...], ...]:
        return ()

    def validate_provider_options(self, provider: str, options: dict[str, Any]) -> str | None:
        return None

    def providers(self) -> frozenset[str]:
        return frozenset({"openai"})

    def validate_exporter(self, entry: dict[str, Any]) -> str | None:
        return None

    def mcp_catalog_entry(self, code: str) -> dict[str, Any] | None:
        return None


async def eventually(condition: Callable[[], bool], timeout_s: float = 10.0) -> bool:
    """Whether `condition` becomes true in time; for what no event tells."""
    for _ in range(int(timeout_s / 0.005)):
        if condition():
            return True
        await trio.sleep(0.005)
    return condition()


def new_id() -> str:
    return str(uuid.uuid4())


def meta() -> cmd.Meta:
    return cmd.Meta(time=datetime.now(UTC), actor="test", tenant="t1")


def create_gateway(gateway_id: str, slug: str) -> cmd.CreateGateway:
    return cmd.CreateGateway(meta(), gateway_id, inputs.GatewayCreate(slug=slug))


def delete_gateway(gateway_id: str) -> cmd.DeleteGateway:
    return cmd.DeleteGateway(meta(), gateway_id)


def create_registry(gateway_id: str, name: str, api_key: str = "sk-0123456789abcdef") -> cmd.CreateRegistry:
    auth = {"type": "api_key", "api_key": {"api_key": api_key}}
    body = {"name": name, "type": "LLM", "provider": "openai", "auth": auth}
    return cmd.CreateRegistry(meta(), gateway_id, new_id(), convert(body, inputs.RegistryCreate))


def update_registry_key(gateway_id: str, registry_id: str, api_key: str) -> cmd.UpdateRegistry:
    auth = {"type": "api_key", "api_key": {"api_key": api_key}}
    body = {"auth": auth}
    return cmd.UpdateRegistry(meta(), gateway_id, registry_id, convert(body, inputs.RegistryUpdate))


def create_consumer(gateway_id: str, name: str) -> cmd.CreateConsumer:
    body = {"name": name, "type": "LLM"}
    slug = name.lower().replace(" ", "-")
    return cmd.CreateConsumer(meta(), gateway_id, new_id(), convert(body, inputs.ConsumerCreate), (slug,))


def convert(body: dict[str, Any], kind: type[Any]) -> Any:
    return msgspec.convert(body, kind)
