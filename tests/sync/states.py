"""A gateway with every kind of object and member, and the JSON that the snapshot has of each (spec 06 §17.2)."""

from __future__ import annotations

from typing import Any

from tests import views
from trustgate.domain.entities import (
    Budget,
    EmbeddingConfig,
    Entitlements,
    Fallback,
    GatewayState,
    HealthChecks,
    LBConfig,
    LBMember,
    MCPPolicies,
    MCPTarget,
    ModelPolicy,
    SessionConfig,
    SmartRouting,
    Tier,
    ToolkitEntry,
)

AT = "2026-01-02T03:04:05Z"
SECRETS = {"ref-1": "sk-clear", "ref-2": "hook-clear"}


def ref(name: str) -> dict[str, str]:
    return {"$secret": name, "fp": "0" * 16, "mask": "***"}


def everything() -> GatewayState:
    return views.state(
        views.registry(
            "r-llm",
            auth={"type": "api_key", "api_key": {"api_key": ref("ref-1")}},
            options={"base_url": "http://up"},
            health_checks=HealthChecks(passive=True, threshold=3, interval=60),
            description="main",
        ),
        views.registry(
            "r-mcp",
            type="MCP",
            llm_target=None,
            enabled=False,
            mcp_target=MCPTarget(
                url="https://mcp", code="github", headers={"X-Api-Key": ref("ref-2")}, auth={"mode": "none"}
            ),
        ),
        views.consumer(
            "Inline01",
            registry_ids=("r-llm",),
            registry_weights={"r-llm": 7},
            auth_ids=("a-key",),
            headers={"X-A": "b"},
            fallback=Fallback(
                enabled=True, triggers=("timeout",), budget=Budget(2, 1500), chain=("r-llm",), pinned="any"
            ),
            lb_config=LBConfig(
                enabled=True,
                algorithm="semantic",
                pool_alias="best",
                members=(LBMember("r-llm", ("m1",), "m1", 5),),
                embedding_config=EmbeddingConfig("openai", "e", {"api_key": ref("ref-1")}),
                smart_routing=SmartRouting((Tier(0.5, "r-llm", "m1"),)),
                balance_pinned="any",
            ),
            model_policies={"r-llm": ModelPolicy(("m1",), "m1")},
        ),
        views.consumer(
            "Tools001", type="MCP", active=False, toolkit=(ToolkitEntry("r-mcp", tool="*"),), fail_mode="closed"
        ),
        views.consumer("Roles001", routing_mode="role_based", role_ids=("role-1",)),
        views.auth("a-key", "api_key", key_hash="ab" * 32, key_prefix="ag_12345", key_suffix="wxyz"),
        views.auth("a-oidc", "oidc", enabled=False, config={"oidc": {"issuer": "https://idp", "audiences": ["a"]}}),
        views.policy(
            "p-1",
            "rate_limiter",
            settings={"limit": 5, "webhook": {"token": ref("ref-2")}},
            stages=("pre_request",),
            consumer_ids=("c-Inline01",),
            description="slow down",
            mode="observe",
            parallel=True,
            priority=9,
        ),
        views.policy("p-2", "cors", global_=True, enabled=False),
        views.role(
            "role-1",
            registry_ids=("r-llm",),
            model_policies={"r-llm": ModelPolicy(None, "m1")},
            mcp_policies=MCPPolicies((ToolkitEntry("r-mcp", tool="t"),)),
            oidc_mapping={"match": "any", "claims": []},
        ),
        version=12,
        domain="ai.example.com",
        metadata={"tenant_id": "acme"},
        telemetry={"exporters": [{"name": "x", "headers": {"k": ref("ref-2")}}]},
        client_tls={"edge": {"ca": "x"}},
        session_config=SessionConfig(True, "X-S", "s"),
        entitlements=Entitlements("standard", 1, 2, 3),
    )


STAMPS = {"created_at": AT, "updated_at": AT}
WRITTEN: dict[tuple[str, str], dict[str, Any]] = {
    ("gateway", "gw-1"): {
        "id": "gw-1",
        "slug": "acme",
        "status": "active",
        "domain": "ai.example.com",
        "metadata": {"tenant_id": "acme"},
        "telemetry": {"exporters": [{"name": "x", "headers": {"k": "hook-clear"}}]},
        "client_tls": {"edge": {"ca": "x"}},
        "session_config": {"enabled": True, "header_name": "X-S", "body_param_name": "s"},
        "entitlements": {"tier": "standard", "burst_per_min": 1, "quota_per_month": 2, "max_instances": 3},
        "config_version": 12,
        **STAMPS,
    },
    ("registry", "r-llm"): {
        "id": "r-llm",
        "gateway_id": "gw-1",
        "name": "r-llm",
        "type": "LLM",
        "enabled": True,
        "description": "main",
        "llm_target": {
            "provider": "openai",
            "provider_options": {"base_url": "http://up"},
            "auth": {"type": "api_key", "api_key": {"api_key": "sk-clear"}},
            "health_checks": {"passive": True, "threshold": 3, "interval": 60},
        },
        **STAMPS,
    },
    ("registry", "r-mcp"): {
        "id": "r-mcp",
        "gateway_id": "gw-1",
        "name": "r-mcp",
        "type": "MCP",
        "enabled": False,
        "mcp_target": {
            "code": "github",
            "url": "https://mcp",
            "transport": "streamable-http",
            "headers": {"X-Api-Key": "hook-clear"},
            "auth": {"mode": "none"},
        },
        **STAMPS,
    },
    ("consumer", "c-Inline01"): {
        "id": "c-Inline01",
        "gateway_id": "gw-1",
        "name": "Inline01",
        "type": "LLM",
        "slug": "Inline01",
        "routing_mode": "inline",
        "active": True,
        "headers": {"X-A": "b"},
        "registry_ids": ["r-llm"],
        "registry_weights": {"r-llm": 7},
        "role_ids": [],
        "auth_ids": ["a-key"],
        "fallback": {
            "enabled": True,
            "triggers": ["timeout"],
            "budget": {"max_attempts": 2, "max_total_latency": 1_500_000_000},
            "chain": ["r-llm"],
            "pinned": "any",
        },
        "lb_config": {
            "enabled": True,
            "algorithm": "semantic",
            "pool_alias": "best",
            "members": [{"registry_id": "r-llm", "models": ["m1"], "model": "m1", "weight": 5}],
            "embedding_config": {"provider": "openai", "model": "e", "auth": {"api_key": "sk-clear"}},
            "smart_routing": {"tiers": [{"min_score": 0.5, "registry_id": "r-llm", "model": "m1"}]},
            "balance_pinned": "any",
        },
        "model_policies": {"r-llm": {"allowed": ["m1"], "default": "m1"}},
        **STAMPS,
    },
    ("consumer", "c-Tools001"): {
        "id": "c-Tools001",
        "gateway_id": "gw-1",
        "name": "Tools001",
        "type": "MCP",
        "slug": "Tools001",
        "routing_mode": "inline",
        "active": False,
        "registry_ids": [],
        "role_ids": [],
        "auth_ids": [],
        "mcp": {"toolkit": [{"registry_id": "r-mcp", "tool": "*"}], "fail_mode": "closed"},
        **STAMPS,
    },
    ("consumer", "c-Roles001"): {
        "id": "c-Roles001",
        "gateway_id": "gw-1",
        "name": "Roles001",
        "type": "LLM",
        "slug": "Roles001",
        "routing_mode": "role_based",
        "active": True,
        "registry_ids": [],
        "role_ids": ["role-1"],
        "auth_ids": [],
        **STAMPS,
    },
    ("auth", "a-key"): {
        "id": "a-key",
        "gateway_id": "gw-1",
        "name": "a-key",
        "type": "api_key",
        "enabled": True,
        "config": {},
        **STAMPS,
    },
    ("auth", "a-oidc"): {
        "id": "a-oidc",
        "gateway_id": "gw-1",
        "name": "a-oidc",
        "type": "oidc",
        "enabled": False,
        "config": {"oidc": {"issuer": "https://idp", "audiences": ["a"]}},
        **STAMPS,
    },
    ("policy", "p-1"): {
        "id": "p-1",
        "gateway_id": "gw-1",
        "consumer_ids": ["c-Inline01"],
        "name": "p-1",
        "description": "slow down",
        "slug": "rate_limiter",
        "enabled": True,
        "global": False,
        "priority": 9,
        "parallel": True,
        "settings": {"limit": 5, "webhook": {"token": "hook-clear"}},
        "stages": ["pre_request"],
        "mode": "observe",
        **STAMPS,
    },
    ("policy", "p-2"): {
        "id": "p-2",
        "gateway_id": "gw-1",
        "name": "p-2",
        "slug": "cors",
        "enabled": False,
        "global": True,
        "priority": 0,
        "parallel": False,
        "mode": "enforce",
        **STAMPS,
    },
    ("role", "role-1"): {
        "id": "role-1",
        "gateway_id": "gw-1",
        "name": "role-1",
        "model_policies": {"r-llm": {"default": "m1"}},
        "mcp_policies": {"toolkit": [{"registry_id": "r-mcp", "tool": "t"}], "fail_mode": "open"},
        "oidc_mapping": {"match": "any", "claims": []},
        "registry_ids": ["r-llm"],
        **STAMPS,
    },
}
