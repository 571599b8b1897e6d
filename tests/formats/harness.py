"""Replays recorded exchanges through the format room alone: request body in, upstream body out, answer back.

What a registry's URL, credentials and routing add is not this room's work and is left out of the comparison.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trustgate.formats import embeddings, normalise, streams, translate
from trustgate.formats import json as fjson
from trustgate.formats.errors import DecodeError

VECTORS = Path(__file__).parent.parent / "vectors"
sys.path.insert(0, str(VECTORS))
from replay import Scope, compare  # noqa: E402
from streams import accumulated  # noqa: E402

ROUTES = {
    "/v1/chat/completions": "openai",
    "/v1/responses": "openai_responses",
    "/v1/messages": "anthropic",
    "/v2/chat": "cohere",
    "/v1/embeddings": "openai_embeddings",
    "/v1/rerank": "cohere_rerank",
}
GEMINI = re.compile(r"/v1beta/models/([^:?]+)(:\w+)?")


# Recordings whose upstream body depends on routing (default models, pools, continuation), not on translation.
ROUTING = (
    "identity-provider token",
    "model references",
    "default model",
    "one registry under two",
    "aliased pool",
    "Responses continuation",
)


@dataclass
class Exchange:
    """One recorded proxy call with a single upstream answer."""

    name: str
    client: str
    wire: str
    body: bytes
    stream: bool
    received: dict[str, Any]
    answer: dict[str, Any]
    response: dict[str, Any]


def exchanges(file: str) -> Iterator[Exchange]:
    registries: dict[str, dict[str, Any]] = {}
    scenario = None
    for line in (VECTORS / file).read_text().splitlines():
        vector = json.loads(line)
        if vector.get("scenario") != scenario:
            scenario, registries = vector.get("scenario"), {}
        request = vector.get("request", {})
        if vector.get("plane") == "admin" and request.get("path", "").endswith("/registries"):
            registries[request["body"]["name"]] = request["body"]
        if vector.get("plane") != "proxy" or not vector.get("received") or scenario.startswith(ROUTING):
            continue
        exchange = _exchange(vector, registries)
        if exchange is not None:
            yield exchange


def _exchange(vector: dict[str, Any], registries: dict[str, Any]) -> Exchange | None:
    answers = vector.get("upstream") or []
    if len(answers) != 1 or len(vector["received"]) != 1:
        return None
    request, received, answer = vector["request"], vector["received"][0], answers[0]
    registry = registries.get(str(answer.get("path", "/")).split("/")[1])
    path = request["path"].split("}}", 1)[-1]
    client = ROUTES.get(path.split("?")[0])
    body = request.get("body", request.get("text", ""))
    raw = (body if isinstance(body, str) else json.dumps(body, ensure_ascii=False, separators=(",", ":"))).encode()
    gemini = GEMINI.fullmatch(path.split("?")[0])
    if gemini is not None:
        client = "google"
        raw = fjson.set_members(raw, {"model": gemini[1].rpartition("@google/")[2]})
    if client is None or registry is None:
        return None
    stream = ":streamGenerateContent" in path or "alt=sse" in path
    stream = stream or (isinstance(body, dict) and body.get("stream") is True)
    wire = wire_of(registry, client)
    if isinstance(body, dict) and str(body.get("model", "")).startswith("@"):
        raw = fjson.set_members(raw, {"model": body["model"].split("/", 1)[1]})
    name = f"{vector['scenario']} | {vector['name']}"
    return Exchange(name, client, wire, raw, stream, received, answer, vector["response"])


def wire_of(registry: dict[str, Any], client: str) -> str:
    provider, options = registry["provider"], registry.get("provider_options") or {}
    if client == "openai_embeddings":
        return "cohere_embed" if provider == "cohere" else "openai_embeddings"
    if client == "cohere_rerank":
        return client
    if provider == "openai":
        api = options.get("api")
        mirrored = "openai_responses" if client == "openai_responses" else "openai"
        return {"responses": "openai_responses", "completions": "openai"}.get(api, mirrored)
    return {"openai_compatible": "openai", "cerebras": "openai"}.get(provider, provider)


# The recording has two `message-end` events, the second without the reason; exactly one is right.
TWO_ENDS = "Cohere client, OpenAI-compatible upstream | streamed text cut by length"


def run(exchange: Exchange) -> list[str]:
    """Differences between what the room makes of the exchange and what was recorded."""
    scope, diff = Scope(), []
    sent = normalise.normalise(exchange.wire, _sent(exchange))
    if exchange.stream:
        sent = normalise.force_stream(exchange.wire, sent)
    if "text" in exchange.received:
        compare(exchange.received["text"], sent.decode(), "sent", scope, diff)
    elif "body" in exchange.received:
        compare(exchange.received["body"], json.loads(sent), "sent", scope, diff)
    if "compact" in exchange.received and fjson.compact(sent) != sent:
        diff.append(f"sent is not compact: {sent!r}")
    if exchange.answer.get("status", 200) < 300:
        diff += _answer(exchange, scope)
    return diff


def _sent(exchange: Exchange) -> bytes:
    if (exchange.client, exchange.wire) == ("openai_embeddings", "cohere_embed"):
        return embeddings.to_cohere(embeddings.decode_request(exchange.body))
    return translate.translate_request(exchange.client, exchange.wire, exchange.body).body


def _shown(exchange: Exchange, body: bytes) -> bytes:
    if (exchange.client, exchange.wire) == ("openai_embeddings", "cohere_embed"):
        return embeddings.from_cohere(body, "", "float")
    return translate.translate_response(exchange.client, exchange.wire, body)


def _answer(exchange: Exchange, scope: Any) -> list[str]:
    diff: list[str] = []
    want, canned = exchange.response, exchange.answer
    if "chunks" in canned:
        relay = streams.StreamRelay(exchange.client, exchange.wire)
        got = b"".join(relay.feed(chunk.encode()) for chunk in canned["chunks"])
        got += relay.fail() if canned.get("cut") else relay.end()
    else:
        text = canned["text"] if "text" in canned else json.dumps(canned["body"])
        try:
            got = _shown(exchange, text.encode())
        except DecodeError:
            got = text.encode()
    shown = got.decode()
    if "body" in want:
        compare(want["body"], json.loads(shown), "answer", scope, diff)
    elif "text" in want:
        compare(want["text"], shown, "answer", scope, diff)
    elif "lines" in want:
        compare(want["lines"], shown.rstrip("\n").split("\n"), "lines", scope, diff)
    elif "sse" in want:
        data = [line[5:].strip() for line in shown.splitlines() if line.startswith("data:")]
        compare(want["sse"], [line if line == "[DONE]" else json.loads(line) for line in data], "sse", scope, diff)
    elif "stream" in want:
        wanted = dict(want["stream"])
        if exchange.name == TWO_ENDS:
            wanted["finish"] = "MAX_TOKENS"
        compare({"$partial": True, **wanted}, accumulated(shown), "stream", scope, diff)
    return diff
