"""Checks answers against an OpenAPI document: is the status listed, does the body fit its schema?"""

from __future__ import annotations

import json
from typing import Any

import jsonschema

NOT_DESCRIBED = frozenset((404, 405, 413, 431))
"""Statuses that a request can get from the router or the server, whatever the operation."""


class Contract:
    """An OpenAPI 3.0 or 3.1 document; `nullable` is understood."""

    def __init__(self, document: dict[str, Any]) -> None:
        self._document = _without_nullable(document)
        self._operations = [
            ([part.lower() for part in path.split("/")], method.upper(), operation)
            for path, methods in self._document["paths"].items()
            for method, operation in methods.items()
            if method != "parameters"
        ]
        self._validators: dict[str, jsonschema.Draft202012Validator] = {}

    def check(self, method: str, path: str, status: int, body: bytes) -> list[str]:
        """What is wrong with an answer; nothing for paths that the document does not describe."""
        operation = self._find(method, path.partition("?")[0])
        if operation is None or method == "HEAD":
            return []
        response = operation["responses"].get(str(status))
        if response is None:
            return [] if status in NOT_DESCRIBED else [f"{method} {path}: status {status} is not described"]
        content = response.get("content", {}).get("application/json")
        if content is None:
            return []
        schema = {**content["schema"], "components": self._document["components"]}
        key = json.dumps(content["schema"], sort_keys=True)
        validator = self._validators.setdefault(key, jsonschema.Draft202012Validator(schema))
        problems = sorted(validator.iter_errors(json.loads(body)), key=str)
        return [f"{method} {path} {status}: {problem.json_path}: {problem.message[:300]}" for problem in problems]

    def _find(self, method: str, path: str) -> dict[str, Any] | None:
        parts = path.rstrip("/").lower().split("/")
        found = [
            (sum(template[:1] == "{" for template in templates), operation)
            for templates, known, operation in self._operations
            if known == method
            and len(templates) == len(parts)
            and all(template[:1] == "{" or template == part for template, part in zip(templates, parts, strict=True))
        ]
        return min(found, key=lambda entry: entry[0])[1] if found else None


def _without_nullable(node: Any) -> Any:
    """OpenAPI 3.0's `nullable` in the words of JSON Schema."""
    if isinstance(node, list):
        return [_without_nullable(item) for item in node]
    if not isinstance(node, dict):
        return node
    changed = {name: _without_nullable(item) for name, item in node.items() if name != "nullable"}
    return {"anyOf": [changed, {"type": "null"}]} if node.get("nullable") is True else changed
