"""Small builders of configuration for tests: entities with defaults, and the views compiled from them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from trustgate.domain.entities import (
    Auth,
    Consumer,
    Gateway,
    GatewayState,
    LLMTarget,
    Policy,
    Registry,
    Role,
)
from trustgate.view.gateway import GatewayView

T0 = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
GATEWAY = "gw-1"


def later(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def registry(id_: str, provider: str = "openai", **more: Any) -> Registry:
    target = LLMTarget(
        provider=provider,
        provider_options=more.pop("options", {}),
        auth=more.pop("auth", {"type": "api_key", "api_key": {"api_key": f"key-{id_}"}}),
        health_checks=more.pop("health_checks", None),
    )
    return Registry(
        id=id_, gateway_id=GATEWAY, name=id_, created_at=T0, updated_at=T0, **({"llm_target": target} | more)
    )


def consumer(slug: str = "AbCd1234", **more: Any) -> Consumer:
    values: dict[str, Any] = {"id": f"c-{slug}", "gateway_id": GATEWAY, "name": slug, "slug": slug}
    return Consumer(**(values | {"created_at": T0, "updated_at": T0} | more))


def auth(id_: str, type_: str, **more: Any) -> Auth:
    values: dict[str, Any] = {"id": id_, "gateway_id": GATEWAY, "name": id_, "type": type_}
    return Auth(**(values | {"created_at": T0, "updated_at": T0} | more))


def role(id_: str, **more: Any) -> Role:
    values: dict[str, Any] = {"id": id_, "gateway_id": GATEWAY, "name": id_}
    return Role(**(values | {"created_at": T0, "updated_at": T0} | more))


def policy(id_: str, slug: str, **more: Any) -> Policy:
    values: dict[str, Any] = {"id": id_, "gateway_id": GATEWAY, "name": id_, "slug": slug, "enabled": True}
    return Policy(**(values | {"created_at": T0, "updated_at": T0} | more))


def state(*entities: Any, version: int = 1, **gateway: Any) -> GatewayState:
    kinds: dict[type, dict[str, Any]] = {Registry: {}, Consumer: {}, Auth: {}, Policy: {}, Role: {}}
    for entity in entities:
        kinds[type(entity)][entity.id] = entity
    values: dict[str, Any] = {"id": GATEWAY, "slug": "acme", "created_at": T0, "updated_at": T0}
    return GatewayState(
        version=version,
        gateway=Gateway(**(values | gateway)),
        registries=kinds[Registry],
        consumers=kinds[Consumer],
        auths=kinds[Auth],
        policies=kinds[Policy],
        roles=kinds[Role],
    )


def no_secrets(ref: str) -> str:
    raise LookupError(ref)


def view(*entities: Any, version: int = 1, **gateway: Any) -> GatewayView:
    return GatewayView(state(*entities, version=version, **gateway), no_secrets)
