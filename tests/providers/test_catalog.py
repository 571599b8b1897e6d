"""The catalog: provider rows, shipped models, the refresh from a models.dev document, prices and costs."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import httpx
import msgspec
import pytest
import trio

from tests.providers.fake_http import Answer, FakeHttp
from trustgate.formats.canonical import Usage
from trustgate.providers.catalog import (
    Model,
    ModelCatalog,
    merge,
    per_token,
    price_book,
    providers_catalog,
    read_source,
    shipped_models,
)
from trustgate.providers.prices import Buckets, Price, buckets, candidates, cost, discounted_cost
from trustgate.providers.registry import PROVIDERS
from trustgate.providers.services import Services

ROWS = [
    ("anthropic", "Anthropic", "anthropic"),
    ("azure", "Azure OpenAI", "openai"),
    ("bedrock", "AWS Bedrock", "anthropic"),
    ("cerebras", "Cerebras", "openai"),
    ("cohere", "Cohere", "cohere"),
    ("deepseek", "DeepSeek", "openai"),
    ("google", "Google AI Studio", "google"),
    ("groq", "Groq", "openai"),
    ("mistral", "Mistral", "openai"),
    ("openai", "OpenAI", "openai"),
    ("openai_compatible", "OpenAI Compatible", "openai"),
    ("openrouter", "OpenRouter", "openai"),
    ("vertex", "Google Vertex AI", "google"),
    ("xai", "xAI", "openai"),
]


def test_the_providers_are_listed_by_code() -> None:
    listed = providers_catalog()
    assert [(row["code"], row["display_name"], row["wire_format"]) for row in listed] == ROWS
    assert {row["source"] for row in listed} == {"seed"}
    assert len({row["id"] for row in listed}) == 14
    assert listed == providers_catalog()


def shape(entries: Any) -> Any:
    """Auth types as `{(type, variant): [(key, label, flags)]}`."""
    return {
        (entry["type"], entry.get("variant", "")): [
            (item["key"], item["label"], "".join(flag[0] for flag in ("required", "secret") if item.get(flag)))
            for item in entry["fields"]
        ]
        for entry in entries
    }


KEY = {("api_key", ""): [("api_key", "API Key", "rs")]}
ENDPOINT = ("endpoint", "Endpoint", "r")
AUTH_TYPES = dict.fromkeys([code for code, _, _ in ROWS], KEY) | {
    "openai_compatible": {
        ("api_key", ""): [
            ("api_key", "API Key", "s"),
            ("header_name", "Header Name", ""),
            ("header_value", "Header Value", "s"),
        ]
    },
    "vertex": {("gcp_service_account", ""): [("gcp_service_account", "Service Account JSON", "rs")]},
    "azure": {
        ("azure", "api_key"): [ENDPOINT, ("version", "API Version", ""), ("api_key", "API Key", "rs")],
        ("azure", "service_principal"): [
            ENDPOINT,
            ("tenant_id", "Tenant ID", "r"),
            ("client_id", "Client ID", "r"),
            ("client_secret", "Client Secret", "rs"),
        ],
        ("azure", "managed_identity"): [ENDPOINT, ("use_managed_identity", "Use Managed Identity", "r")],
    },
    "bedrock": {
        ("aws", "access_key"): [
            ("region", "Region", "r"),
            ("access_key_id", "Access Key ID", "r"),
            ("secret_access_key", "Secret Access Key", "rs"),
            ("session_token", "Session Token", "s"),
        ],
        ("aws", "assume_role"): [
            ("region", "Region", "r"),
            ("role", "Role ARN", "r"),
            ("use_role", "Assume Role", "r"),
        ],
    },
}


@pytest.mark.parametrize("code", sorted(PROVIDERS))
def test_every_provider_tells_its_credentials(code: str) -> None:
    row = next(row for row in providers_catalog() if row["code"] == code)
    assert shape(row["auth_types"]) == AUTH_TYPES[code]
    for entry in row["auth_types"]:
        assert entry["label"] and entry["description"]
        assert all(item["description"] and item["type"] in ("string", "boolean") for item in entry["fields"])
        assert all(value is not False for item in entry["fields"] for value in item.values())


def test_options_are_described_where_there_are_any() -> None:
    described = {row["code"]: row["provider_options_schema"] for row in providers_catalog()}
    keys = {
        code: [(item["key"], item["type"], item.get("required", False)) for item in items]
        for code, items in described.items()
    }
    assert {code: items for code, items in keys.items() if items} == {
        "openai": [("api", "enum", False), ("base_url", "string", False)],
        "openai_compatible": [("base_url", "string", True), ("headers", "map", False)],
        "vertex": [("project", "string", False), ("location", "string", True), ("version", "string", False)],
    }
    assert described["openai"][0]["enum"] == [
        {"value": "completions", "label": "Completions"},
        {"value": "responses", "label": "Responses"},
    ]
    assert described["vertex"][2]["default"] == "v1"


def test_the_shipped_catalog_is_well_formed() -> None:
    models = shipped_models()
    assert set(models) <= set(PROVIDERS)
    rows = [row for known in models.values() for row in known.values()]
    assert len(rows) > 100
    for row in rows:
        for price in (row.input_price, row.output_price, row.cache_read_price, row.cache_write_price):
            assert not price or (Decimal("1e-9") < Decimal(price) < Decimal("0.001") and "e" not in price.lower())
    gpt = models["openai"]["gpt-4o"]
    assert (gpt.input_price, gpt.output_price) == ("0.0000025", "0.00001")
    assert models["cohere"]["rerank-english-v3.0"].capabilities == {"rerank": True}


def test_models_are_listed_newest_first_and_without_what_is_not_known() -> None:
    catalog = ModelCatalog(
        {
            "openai": {
                "old": Model(slug="old", release_date="2023-01-01"),
                "b": Model(slug="b"),
                "a": Model(slug="a"),
                "new": Model(slug="new", release_date="2025-01-01", input_price="0.1", context_window=10),
                "gone": Model(slug="gone", enabled=False),
            },
            "anthropic": {"new": Model(slug="new", release_date="2025-01-01")},
        }
    )
    assert [row["slug"] for row in catalog.items("openai")] == ["new", "old", "a", "b"]
    assert [code for code, _ in catalog.models()][:2] == ["anthropic", "openai"]
    assert catalog.items("nope") == []
    assert set(catalog.items("openai")[-1]) == {"id", "provider_id", "slug", "enabled", "source"}
    assert catalog.items("openai")[0]["context_window"] == 10


@pytest.mark.parametrize(
    ("per_million", "text"),
    [
        ("2.5", "0.0000025"),
        ("10", "0.00001"),
        ("0.0375", "0.0000000375"),
        ("1e-3", "0.000000001"),
        ("3000000", "3"),
        ("0", ""),
        ("-1", ""),
        ("NaN", ""),
    ],
)
def test_prices_are_fixed_point_and_exact(per_million: str, text: str) -> None:
    assert per_token(Decimal(per_million)) == text


SOURCE: dict[str, Any] = {
    "openai": {
        "models": {
            "gpt-4o": {
                "id": "gpt-4o",
                "name": "GPT-4o",
                "limit": {"context": 128000, "output": 16384},
                "cost": {"input": 2.5, "output": 10, "cache_read": 1.25},
                "release_date": "2024-05-13",
                "modalities": {"input": ["text", "image"], "output": ["text"]},
            },
            "bare": {},
            "free": {"cost": {"input": 0, "output": -1}, "release_date": "2024-13-45"},
            "broken": {"limit": "x"},
        }
    },
    "google-vertex": {"models": {"g": {"id": "gemini-x", "cost": {"input": 1}}}},
    "vertex": {"models": {"never": {}}},
    "amazon-bedrock": {
        "models": {
            "anthropic.claude-x-v1:0": {},
            "us.anthropic.claude-x-v1:0": {},
            "global.anthropic.claude-x-v1:0": {},
            "hosted": {"provider": {"api": "https://x"}},
            "us.short": {},
        }
    },
    "unknown-cloud": {"models": {"m": {}}},
}


def test_a_source_document_is_read_for_the_providers_we_have() -> None:
    found = read_source(json.dumps(SOURCE).encode())
    assert {code: sorted(rows) for code, rows in found.items()} == {
        "openai": ["bare", "free", "gpt-4o"],
        "vertex": ["gemini-x", "never"],
        "bedrock": ["anthropic.claude-x-v1:0", "global.anthropic.claude-x-v1:0", "us.short"],
    }
    row = found["openai"]["gpt-4o"]
    assert msgspec.structs.asdict(row) == {
        "slug": "gpt-4o",
        "external_id": "openai/gpt-4o",
        "display_name": "GPT-4o",
        "context_window": 128000,
        "max_output": 16384,
        "input_price": "0.0000025",
        "output_price": "0.00001",
        "cache_read_price": "0.00000125",
        "cache_write_price": "",
        "capabilities": {},
        "enabled": True,
        "source": "models.dev",
        "release_date": "2024-05-13",
        "input_modalities": ("text", "image"),
        "output_modalities": ("text",),
    }
    assert found["openai"]["bare"].display_name == "bare"
    free = found["openai"]["free"]
    assert (free.input_price, free.output_price, free.release_date) == ("", "", "")
    assert found["vertex"]["gemini-x"].external_id == "google-vertex/gemini-x"


def test_models_that_are_gone_are_disabled_but_keep_their_price() -> None:
    old = {"openai": {"a": Model(slug="a", source="models.dev", input_price="0.1"), "s": Model(slug="s")}}
    merged = merge(old, {"openai": {"b": Model(slug="b", source="models.dev")}})
    assert {slug: row.enabled for slug, row in merged["openai"].items()} == {"a": False, "s": True, "b": True}
    assert price_book(merged).exact("openai", "a") == Price(0.1, 0.0)
    assert merge(old, {"xai": {}})["openai"] == old["openai"]
    again = merge(merged, {"openai": {"a": Model(slug="a", source="models.dev")}})
    assert again["openai"]["a"].enabled


@asynccontextmanager
async def services() -> AsyncIterator[Services]:
    async with Services.open({}) as opened:
        yield opened


async def test_a_refresh_takes_over_the_document_and_makes_a_new_book() -> None:
    with FakeHttp(lambda request: Answer(json.dumps(SOURCE).encode())) as source:
        catalog = ModelCatalog({"openai": {}})
        before = catalog.prices
        assert before.lookup("openai", ("gpt-4o",)) is None
        async with services() as opened:
            assert await catalog.refresh(opened, source.url + "/") == 8
        assert source.received[0].path == "/api.json"
    assert catalog.prices.lookup("openai", ("gpt-4o",)) == Price(2.5e-06, 1e-05, 1.25e-06, 0.0, "GPT-4o")
    assert [row["id"] for row in catalog.items("openai")] == [row["id"] for row in catalog.items("openai")]


@pytest.mark.parametrize("answer", [Answer(b"", 500), Answer(b"<html>"), Answer(b"[]")])
async def test_a_failed_refresh_changes_nothing(answer: Answer) -> None:
    catalog = ModelCatalog()
    before = catalog.items()
    with FakeHttp(lambda request: answer) as source:
        async with services() as opened:
            with pytest.raises((httpx.HTTPError, msgspec.DecodeError)):
                await catalog.refresh(opened, source.url)
    assert catalog.items() == before


async def test_the_catalog_is_refreshed_at_once_and_goes_on_after_a_failure() -> None:
    catalog = ModelCatalog({})
    outcomes: list[int | Exception] = []
    told = trio.Event()

    def report(result: int | Exception) -> None:
        outcomes.append(result)
        told.set()

    async with services() as opened, trio.open_nursery() as nursery:
        nursery.start_soon(catalog.run, opened, "http://127.0.0.1:1", report)
        with trio.fail_after(5):
            await told.wait()
        nursery.cancel_scope.cancel()
    assert isinstance(outcomes[0], httpx.HTTPError)


# prices and costs


def test_a_model_is_looked_up_under_its_names_in_order() -> None:
    assert list(candidates(("us.a-2024-01-02", "", "b", "us.a-2024-01-02"))) == [
        "us.a-2024-01-02",
        "us.a",
        "a-2024-01-02",
        "a",
        "b",
    ]
    assert list(candidates(("us-gov.m", "sa.m"))) == ["us-gov.m", "m", "sa.m"]


def test_the_first_priced_name_wins_and_compatible_servers_cost_what_openai_costs() -> None:
    book = price_book(
        {
            "openai": {
                "m": Model(slug="m", input_price="0.1", display_name="M"),
                "none": Model(slug="none"),
                "off": Model(slug="off", enabled=False, output_price="0.2"),
            },
            "openai_compatible": {"own": Model(slug="own", input_price="0.3")},
        }
    )
    assert book.lookup("openai", ("none", "m-2024-01-01")) == Price(0.1, 0.0, label="M")
    assert book.lookup("openai", ("off",)) == Price(0.0, 0.2)
    assert book.lookup("openai_compatible", ("m",)) == Price(0.1, 0.0, label="M")
    assert book.lookup("openai_compatible", ("own",)) == Price(0.3, 0.0)
    assert book.lookup("xai", ("m",)) is None
    assert book.lookup("xai", ("m",)) is None


USAGES = [
    (
        "OpenAI, details inside",
        Usage(100, 50, 150, cached_input_tokens=40, reasoning_output_tokens=20),
        Buckets(60, 40, 0, 30, 20),
    ),
    (
        "Anthropic, cache beside",
        Usage(10, 5, 15, cache_read_input_tokens=100, cache_creation_input_tokens=7),
        Buckets(10, 100, 7, 5, 0),
    ),
    ("Gemini, thoughts beside", Usage(10, 5, 40, reasoning_output_tokens=25), Buckets(10, 0, 0, 5, 25)),
    ("no details", Usage(3, 2, 5), Buckets(3, 0, 0, 2, 0)),
    ("more cached than read", Usage(3, 2, 5, cached_input_tokens=9), Buckets(0, 3, 0, 2, 0)),
]


@pytest.mark.parametrize(("usage", "expected"), [case[1:] for case in USAGES], ids=[case[0] for case in USAGES])
def test_usage_is_split_into_parts_that_add_up(usage: Usage, expected: Buckets) -> None:
    parts = buckets(usage)
    assert parts == expected
    beside = usage.cache_read_input_tokens + usage.cache_creation_input_tokens
    assert parts.total == max(usage.total_tokens, usage.input_tokens + usage.output_tokens) + beside


def test_costs_are_tokens_times_prices() -> None:
    price = Price(2e-6, 8e-6, cache_read=5e-7)
    usage = Usage(100, 50, 150, cached_input_tokens=40, reasoning_output_tokens=20)
    plain = cost(price, usage)
    assert plain.prompt == pytest.approx(2e-4)
    assert plain.completion == pytest.approx(4e-4)
    assert plain.total == plain.prompt + plain.completion
    discounted = discounted_cost(price, usage)
    assert discounted.prompt == pytest.approx(60 * 2e-6 + 40 * 5e-7)
    assert discounted.completion == pytest.approx(4e-4)
