"""What upstreams received from the existing TrustGate, against what `prepare` makes of the same call.

`received.jsonl` holds, per exchange: the registry, the client's body after the routing rewrite, and the request that
arrived. Path may be `{"$re": ...}`, a header `null` must be absent, `compact` is JSON without white space.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from trustgate.formats.json import compact
from trustgate.providers.prepare import client_for
from trustgate.providers.probe import Inline
from trustgate.view.model import Allowance

EXCHANGES: list[dict[str, Any]] = [
    json.loads(line) for line in Path(__file__).with_name("received.jsonl").read_text().splitlines()
]
CAPABILITIES = {"openai_embeddings": "embeddings", "cohere_rerank": "rerank"}
PREFIX_OF_ORIGIN = "http://upstream.test"


def same(path: Any, target: str) -> bool:
    return bool(re.search(path["$re"], target)) if isinstance(path, dict) else path == target


def fits(expected: Any, actual: Any) -> bool:
    """Recorded objects may carry less than is sent since: `$partial` allows more, `$any` and `$re` allow any text."""
    if isinstance(expected, dict):
        if "$any" in expected:
            return True
        if "$re" in expected:
            return isinstance(actual, str) and bool(re.search(expected["$re"], actual))
        members = {key: value for key, value in expected.items() if not key.startswith("$")}
        if not isinstance(actual, dict) or not ("$partial" in expected or members.keys() == actual.keys()):
            return False
        return all(key in actual and fits(value, actual[key]) for key, value in members.items())
    if isinstance(expected, list):
        return isinstance(actual, list) and len(expected) == len(actual) and all(map(fits, expected, actual))
    return expected == actual and type(expected) is type(actual)


@pytest.mark.parametrize("exchange", EXCHANGES, ids=[exchange["name"] for exchange in EXCHANGES])
def test_the_upstream_receives_what_it_received_before(exchange: dict[str, Any]) -> None:
    client = client_for(Inline(exchange["provider"], exchange["options"], exchange["auth"]))
    capability = CAPABILITIES.get(exchange["client"], "chat")
    allowance = Allowance(tuple(exchange["allowed"]) if exchange["allowed"] else None, exchange["default"])
    made = client.prepare_sync(exchange["client"], capability, exchange["stream"], exchange["body"].encode(), allowance)
    assert made is not None
    received = exchange["received"]
    assert same(received["path"], made.target), made.target
    headers = {name.decode(): value.decode() for name, value in made.headers}
    for name, value in received["headers"].items():
        assert headers.get(name.lower()) == value
    if "text" in received:
        assert made.body == received["text"].encode()
    else:
        assert fits(received["body"], json.loads(made.body)), made.body
    if received.get("compact"):
        assert made.body == compact(made.body)
