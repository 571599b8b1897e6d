"""Paths to operations, ids in paths, and the generated reference (spec 01 §1, §3.1)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trustgate.admin import routes
from trustgate.admin.ids import (
    consumer_slugs,
    gateway_slugs,
    new_api_key,
    new_uuid4,
    new_uuid7,
    parse_uuid,
)
from trustgate.admin.openapi import document
from trustgate.domain.decide_gateway import SLUG

ID = "abcdef00-1111-4111-8111-111111111111"


def found(method: str, path: str) -> Any:
    match routes.find(method, path):
        case routes.Matched(operation=operation, params=params):
            return operation.handler.__name__, params
        case routes.MethodNotAllowed(allowed=allowed):
            return allowed
        case nothing:
            return nothing


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/v1/gateways", ("list_all", {})),
        ("GET", "/V1/Gateways/", ("list_all", {})),
        ("GET", "/v1/gateways//", None),
        ("HEAD", "/v1/gateways/A", ("read", {"id": "A"})),
        ("GET", "/v1/gateways/A%20B", ("read", {"id": "A%20B"})),
        ("GET", "/v1/gateways//roles", None),
        ("POST", "/v1/gateways/g/Registries/Test-Connection", ("test_connection", {"gateway_id": "g"})),
        ("GET", "/v1/gateways/g/registries/test-connection", ("read", {"gateway_id": "g", "id": "test-connection"})),
        ("PATCH", "/v1/gateways/g/registries/test-connection", "GET, HEAD, POST, PUT, DELETE"),
        ("HEAD", "/v1/gateways/g/policies/p/global", "POST, DELETE"),
        ("OPTIONS", "/v1/gateways", "GET, HEAD, POST"),
        ("DELETE", "/v1/gateways/g/roles/r/registries/x/",
         ("detach_registry", {"gateway_id": "g", "role_id": "r", "registry_id": "x"})),
        ("GET", "/v1/playground/traces/a.b~c", ("playground_trace", {"trace_id": "a.b~c"})),
        ("GET", "/docs/", ("docs", {})),
        ("GET", "/", None),
        ("GET", "", None),
        ("GET", "/v1", None),
    ],
)  # fmt: skip
def test_paths_are_matched_in_any_case_with_one_trailing_slash(method: str, path: str, expected: Any) -> None:
    assert found(method, path) == expected


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        (ID, ID),
        (ID.upper(), ID),
        (ID.replace("-", ""), ID),
        (f"urn:uuid:{ID}", ID),
        (f"URN:UUID:{ID}", ID),
        (f"{{{ID}}}", None),
        (f"urn:uuid:{ID.replace('-', '')}", None),
        (ID[:-1], None),
        (ID + "0", None),
        (ID.replace("-", "", 1) + "0", None),
        (ID.replace("a", "g"), None),
        ("", None),
        ("١" * 32, None),
    ],
)
def test_ids_in_paths(text: str, parsed: str | None) -> None:
    assert parse_uuid(text) == parsed


def test_ids_in_bodies_and_queries_may_stand_in_braces() -> None:
    assert parse_uuid(f"{{{ID}}}", braces=True) == ID
    assert parse_uuid(f"{{{ID}", braces=True) is None


def test_generated_names_have_the_documented_forms() -> None:
    assert new_uuid4()[14] == "4"
    earlier, later = new_uuid7(), new_uuid7()
    assert earlier[14] == "7"
    assert earlier[19] in "89ab"
    assert earlier[:13] <= later[:13]
    assert all(SLUG.fullmatch(slug) and len(slug) == 15 for slug in gateway_slugs())
    assert all(len(slug) == 8 and slug.isalnum() and slug.isascii() for slug in consumer_slugs())
    assert len({new_api_key() for _ in range(100)}) == 100
    assert len(new_api_key()) == 46


def test_the_reference_has_every_operation_of_the_contract() -> None:
    contract = json.loads((Path(__file__).parents[1] / "vectors" / "admin-api.openapi.json").read_text())
    ours = document()["paths"]
    for path, methods in contract["paths"].items():
        for method, operation in methods.items():
            described = ours[path][method]
            missing = operation["responses"].keys() - described["responses"].keys()
            assert not missing, (method, path, missing)
            wanted = {parameter["name"] for parameter in operation.get("parameters", ())}
            assert wanted <= {parameter["name"] for parameter in described["parameters"]}, (method, path)


def test_the_reference_is_consistent_in_itself() -> None:
    described = document()
    names = [operation["operationId"] for methods in described["paths"].values() for operation in methods.values()]
    assert len(set(names)) == len(names)

    def references(node: Any) -> Any:
        if isinstance(node, dict):
            if "$ref" in node:
                yield node["$ref"]
            for item in node.values():
                yield from references(item)
        elif isinstance(node, list):
            for item in node:
                yield from references(item)

    schemas = described["components"]["schemas"]
    assert {reference.rpartition("/")[2] for reference in references(described)} <= schemas.keys()
