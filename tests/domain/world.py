"""A small world to decide in: a catalog with a few plugins and providers, states of several gateways, readable ids."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import msgspec
import pytest

from trustgate.domain import commands as cmd
from trustgate.domain import inputs
from trustgate.domain.decide import EMPTY, Context, Decision, decide
from trustgate.domain.directory import DirectoryState, fold_directory
from trustgate.domain.entities import Auth, Consumer, Gateway, GatewayState, Policy, Registry, Role
from trustgate.domain.errors import DomainError
from trustgate.domain.events import Event, decode, encode
from trustgate.domain.evolve import fold

T = TypeVar("T")
NIL = "00000000-0000-0000-0000-000000000000"
UNKNOWN = "22222222-2222-7222-8222-222222222222"
CAPS = {"tier": "free", "burst_per_min": 60, "quota_per_month": 0, "max_instances": 0}
KEY_AUTH = {"type": "api_key", "api_key": {"api_key": "sk-secret-0001"}}
OPENAI = {"provider": "openai", "auth": KEY_AUTH}
MCP = {"type": "MCP", "mcp_target": {"url": "https://mcp.example/one"}}
OAUTH2 = {"issuer": "https://idp.example", "audiences": ["api://one"], "jwks_url": "https://idp.example/jwks"}
OIDC = {"issuer": "https://idp.example", "audiences": ["one"], "jwks_url": "https://idp.example/jwks"}
LIMITER = {"slug": "limiter", "settings": {"limit": 1}}
API_KEY = "ag_" + "k" * 43


def uid(number: int) -> str:
    return f"00000000-0000-7000-8000-{number:012x}"


class TinyCatalog:
    """`limiter` serves both protocols and needs a limit; `caller` serves LLM only and has a secret `token`."""

    def validate_policy(self, slug: str, settings: dict[str, Any], stages: tuple[str, ...], mode: str) -> str | None:
        if slug not in ("limiter", "caller"):
            return f"plugin: unknown plugin: {slug}"
        if slug == "limiter" and not settings.get("limit"):
            return "limiter: limit must be positive"
        if slug == "caller" and not isinstance(settings.get("token"), str):
            return "caller: token is required"
        return None

    def policy_protocols(self, slug: str) -> frozenset[str] | None:
        return frozenset({"LLM", "MCP"}) if slug == "limiter" else frozenset({"LLM"})

    def policy_settings_refusal(self, slug: str, settings: dict[str, Any], protocol: str) -> str | None:
        return "limiter: llm_only" if settings.get("llm_only") and protocol == "MCP" else None

    def policy_secret_paths(self, slug: str) -> tuple[tuple[str, ...], ...]:
        return (("token",), ("hooks", "*", "key")) if slug == "caller" else ()

    def validate_provider_options(self, provider: str, options: dict[str, Any]) -> str | None:
        if provider == "openai_compatible" and not options.get("base_url"):
            return "openai_compatible: base_url is required"
        if provider == "vertex" and not options.get("project"):
            return "vertex: provider_options.project is required"
        return None

    def providers(self) -> frozenset[str]:
        return frozenset({"openai", "openai_compatible", "vertex", "azure", "groq"})

    def validate_exporter(self, entry: dict[str, Any]) -> str | None:
        return (
            None if (entry["type"] or entry["name"]) in ("otlp", "postgres") else f'unknown exporter "{entry["name"]}"'
        )

    def mcp_catalog_entry(self, code: str) -> dict[str, Any] | None:
        oauth = {"grant_type": "client_credentials", "token_url": "https://cat.example/t", "resource_metadata": True}
        if code == "cat":
            return {"code": code, "oauth": oauth}
        if code == "cat-broken":
            return {"code": code, "oauth": oauth | {"token_url": ""}}
        return {"code": code, "auth_hint": "none"} if code == "cat-open" else None


class World:
    """States and directory of all gateways; `run` decides, checks the decision, and applies it."""

    def __init__(self, *, limits_enabled: bool = True, require_secret_on_new_origin: bool = False) -> None:
        self.states: dict[str, GatewayState] = {}
        self.directory = DirectoryState()
        self.vault: dict[str, str] = {}
        self.log: list[Event] = []
        self.catalog = TinyCatalog()
        self.limits_enabled = limits_enabled
        self.strict = require_secret_on_new_origin
        self._clock = datetime(2026, 1, 1, tzinfo=UTC)
        self._ids = 0

    def id(self) -> str:
        self._ids += 1
        return uid(self._ids)

    def meta(self, tenant: str | None = None) -> cmd.Meta:
        self._clock += timedelta(seconds=1)
        return cmd.Meta(time=self._clock, actor="u1", tenant=tenant, request_id="r1", source="127.0.0.1", reason="why")

    def state(self, gateway_id: str) -> GatewayState:
        return self.states.get(gateway_id, EMPTY)

    def owner(self, kind: str, id_: str) -> str | None:
        member = {"registry": "registries", "policy": "policies"}.get(kind, kind + "s")
        return next((g for g, state in self.states.items() if id_ in getattr(state, member)), None)

    def run(self, command: cmd.Command) -> Decision:
        gateway_id = cmd.gateway_of(command)
        before = self.state(gateway_id)
        context = Context(
            catalog=self.catalog,
            fingerprint=lambda text: hashlib.sha256(text.encode()).hexdigest()[:16],
            limits_enabled=self.limits_enabled,
            owner=self.owner,
            require_secret_on_new_origin=self.strict,
        )
        decision = decide(before, self.directory, command, context)
        events = [*decision.gateway, *decision.directory]
        stored = b"\n".join(encode(event) for event in events)
        assert all(decode(encode(event)) == event for event in events)
        assert not any(len(text) > 6 and text.encode() in stored for text in decision.secrets.values())
        assert fold(decision.gateway, before) == decision.state
        self.states[gateway_id] = decision.state
        self.directory = fold_directory(decision.directory, self.directory)
        self.vault |= decision.secrets
        for ref in decision.forgotten:
            del self.vault[ref]
        self.log += events
        return decision

    # --- one call per object: bodies are JSON objects

    def gateway(self, tenant: str = "t", as_tenant: str | None = None, id_: str = "", **body: Any) -> Gateway:
        id_ = id_ or self.id()
        if as_tenant is None:
            body = {"tenant_id": tenant, "entitlements": CAPS, **body}
        sent = convert(body, inputs.GatewayCreate)
        self.run(cmd.CreateGateway(self.meta(as_tenant), id_, sent, (f"gw-{self._ids:012d}",)))
        gateway = self.states[id_].gateway
        assert gateway is not None
        return gateway

    def put_gateway(self, id_: str, tenant: str | None = None, **body: Any) -> Gateway:
        self.run(cmd.UpdateGateway(self.meta(tenant), id_, convert(body, inputs.GatewayUpdate)))
        gateway = self.states[id_].gateway
        assert gateway is not None
        return gateway

    def registry(self, g: str, name: str = "", **body: Any) -> Registry:
        id_ = self.id()
        sent = convert({"name": name or id_, **(body or OPENAI)}, inputs.RegistryCreate)
        self.run(cmd.CreateRegistry(self.meta(), g, id_, sent))
        return self.states[g].registries[id_]

    def put_registry(self, g: str, id_: str, **body: Any) -> Registry:
        self.run(cmd.UpdateRegistry(self.meta(), g, id_, convert(body, inputs.RegistryUpdate)))
        return self.states[g].registries[id_]

    def consumer(self, g: str, name: str = "", **body: Any) -> Consumer:
        id_ = self.id()
        sent = convert({"name": name or id_, **body}, inputs.ConsumerCreate)
        self.run(cmd.CreateConsumer(self.meta(), g, id_, sent, (f"slug{self._ids:04d}",)))
        return self.states[g].consumers[id_]

    def put_consumer(self, g: str, id_: str, **body: Any) -> Consumer:
        self.run(cmd.UpdateConsumer(self.meta(), g, id_, convert(body, inputs.ConsumerUpdate)))
        return self.states[g].consumers[id_]

    def auth(self, g: str, name: str = "a", type: str | None = "api_key", **body: Any) -> Auth:
        id_ = self.id()
        sent = convert({"name": name, "type": type, **body}, inputs.AuthCreate)
        self.run(cmd.CreateAuth(self.meta(), g, id_, sent, API_KEY))
        return self.states[g].auths[id_]

    def put_auth(self, g: str, id_: str, **body: Any) -> Auth:
        self.run(cmd.UpdateAuth(self.meta(), g, id_, convert(body, inputs.AuthUpdate), "ag_" + "n" * 43))
        return self.states[g].auths[id_]

    def policy(self, g: str, name: str = "", **body: Any) -> Policy:
        id_ = self.id()
        sent = convert({"name": name or id_, **LIMITER, **body}, inputs.PolicyCreate)
        self.run(cmd.CreatePolicy(self.meta(), g, id_, sent))
        return self.states[g].policies[id_]

    def put_policy(self, g: str, id_: str, **body: Any) -> Policy:
        self.run(cmd.UpdatePolicy(self.meta(), g, id_, convert(body, inputs.PolicyUpdate)))
        return self.states[g].policies[id_]

    def role(self, g: str, name: str = "", **body: Any) -> Role:
        id_ = self.id()
        self.run(cmd.CreateRole(self.meta(), g, id_, convert({"name": name or id_, **body}, inputs.RoleCreate)))
        return self.states[g].roles[id_]

    def put_role(self, g: str, id_: str, **body: Any) -> Role:
        self.run(cmd.UpdateRole(self.meta(), g, id_, convert(body, inputs.RoleUpdate)))
        return self.states[g].roles[id_]


def convert(body: Any, type_: type[T]) -> T:
    """A JSON body as the Admin API decodes it."""
    return msgspec.convert(msgspec.json.decode(msgspec.json.encode(body)), type_)


def refusal(call: Any, *args: Any, **kwargs: Any) -> DomainError:
    with pytest.raises(DomainError) as caught:
        call(*args, **kwargs)
    return caught.value


def message(call: Any, *args: Any, **kwargs: Any) -> str:
    """The message of a refused call, with `validation failed` written VF."""
    return refusal(call, *args, **kwargs).message.replace("validation failed", "VF")
