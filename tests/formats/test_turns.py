"""Two turns with parallel tool calls: what the SDKs hand back of an answer reaches every upstream paired and whole."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import anthropic
import cohere
import httpx
import httpx2  # what the Anthropic SDK builds on
import openai
import pytest
from google import genai
from google.genai import types as gemini

from trustgate.formats import json as fjson
from trustgate.formats import normalise, streams, translate

from . import samples

WIRES = sorted(samples.ANSWERS)
SCHEMA: dict[str, Any] = {"type": "object", "properties": {"city": {"type": "string"}}}
NAMES = ("f", "g")
MODELS = {"bedrock": "anthropic.claude-3"}
# Names of what no other dialect than the provider's own can take back.
THOUGHTS = {"thinking", "input[reasoning]", "messages[].reasoning", "thoughtSignature", "content[thinking]"}


class Upstream:
    """A gateway with an upstream in a function: calls two tools, then answers with a text. Keeps what was sent."""

    def __init__(self, client: str, wire: str, lib: Any = httpx) -> None:
        self.client, self.wire, self.lib = client, wire, lib
        self.sent: list[dict[str, Any]] = []
        self.untranslated: set[str] = set()

    def __call__(self, request: Any) -> Any:
        body = request.read()
        if self.client == "google":
            body = fjson.set_members(body, {"model": "m"})
        made = translate.translate_request(self.client, self.wire, body, MODELS.get(self.wire))
        self.sent.append(json.loads(normalise.normalise(self.wire, made.body)))
        self.untranslated |= set(made.untranslated)
        tools = len(self.sent) == 1
        if not (b'"stream":true' in body.replace(b" ", b"") or "stream" in request.url.path):
            answer = translate.translate_response(self.client, self.wire, samples.ANSWERS[self.wire](tools))
            return self.lib.Response(200, content=answer, headers={"content-type": "application/json"})
        relay = streams.StreamRelay(self.client, self.wire)
        data = samples.STREAMS[self.wire](tools)
        out = b"".join(relay.feed(data[at : at + 1]) for at in range(len(data))) + relay.end()
        return self.lib.Response(200, content=out, headers={"content-type": "text/event-stream"})


def result(name: str) -> dict[str, Any]:
    return {"result": f"of {name}"}


def _openai(upstream: Upstream, streamed: bool) -> str:
    own = httpx.Client(transport=httpx.MockTransport(upstream), verify=False)
    client = openai.OpenAI(api_key="k", base_url="http://g/v1", http_client=own, max_retries=0)
    tools: Any = [{"type": "function", "function": {"name": name, "parameters": SCHEMA}} for name in NAMES]
    messages: list[Any] = [{"role": "user", "content": "q"}]

    def turn() -> Any:
        if not streamed:
            return client.chat.completions.create(model="m", messages=messages, tools=tools).choices[0].message
        with client.chat.completions.stream(model="m", messages=messages, tools=tools) as stream:
            return stream.get_final_completion().choices[0].message

    first = turn()
    messages.append(first)
    for call in first.tool_calls:
        text = samples.dump(result(call.function.name))
        messages.append({"role": "tool", "tool_call_id": call.id, "content": text})
    return turn().content


def _responses(upstream: Upstream, streamed: bool) -> str:
    own = httpx.Client(transport=httpx.MockTransport(upstream), verify=False)
    client = openai.OpenAI(api_key="k", base_url="http://g/v1", http_client=own, max_retries=0)
    tools: Any = [{"type": "function", "name": name, "parameters": SCHEMA, "strict": False} for name in NAMES]
    items: list[Any] = [{"role": "user", "content": "q"}]

    def turn() -> Any:
        if not streamed:
            return client.responses.create(model="m", input=items, tools=tools)
        events = list(client.responses.create(model="m", input=items, tools=tools, stream=True))
        return events[-1].response  # type: ignore[union-attr]

    first = turn()
    items += first.output
    for item in first.output:
        if item.type == "function_call":
            text = samples.dump(result(item.name))
            items.append({"type": "function_call_output", "call_id": item.call_id, "output": text})
    return turn().output_text


def _anthropic(upstream: Upstream, streamed: bool) -> str:
    own = httpx2.Client(transport=httpx2.MockTransport(upstream), verify=False)
    client = anthropic.Anthropic(api_key="k", base_url="http://g", http_client=own, max_retries=0)
    tools: Any = [{"name": name, "input_schema": SCHEMA} for name in NAMES]
    messages: list[Any] = [{"role": "user", "content": "q"}]

    def turn() -> Any:
        if not streamed:
            return client.messages.create(model="m", max_tokens=9, messages=messages, tools=tools)
        with client.messages.stream(model="m", max_tokens=9, messages=messages, tools=tools) as stream:
            return stream.get_final_message()

    first = turn()
    messages.append({"role": "assistant", "content": first.content})
    calls = [block for block in first.content if block.type == "tool_use"]
    results = [
        {"type": "tool_result", "tool_use_id": call.id, "content": samples.dump(result(call.name))} for call in calls
    ]
    messages.append({"role": "user", "content": results})
    return "".join(block.text for block in turn().content if block.type == "text")


def _google(upstream: Upstream, streamed: bool) -> str:
    own = httpx.Client(transport=httpx.MockTransport(upstream), verify=False)
    client = genai.Client(api_key="k", http_options=gemini.HttpOptions(base_url="http://g", httpx_client=own))
    declared: Any = [{"name": name, "parameters": {"type": "OBJECT", "properties": {}}} for name in NAMES]
    config = gemini.GenerateContentConfig(
        tools=[gemini.Tool(function_declarations=declared)],
        automatic_function_calling=gemini.AutomaticFunctionCallingConfig(disable=True),
    )
    contents: list[Any] = [gemini.UserContent("q")]

    def turn() -> list[gemini.Part]:
        if not streamed:
            answers = [client.models.generate_content(model="m", contents=contents, config=config)]
        else:
            answers = list(client.models.generate_content_stream(model="m", contents=contents, config=config))
        found = [answer.candidates[0].content for answer in answers if answer.candidates]
        return [part for content in found if content for part in content.parts or []]

    first = turn()
    texts = "".join(part.text or "" for part in first if not part.thought)
    kept = [part for part in first if part.thought or part.function_call]
    contents.append(gemini.ModelContent([gemini.Part(text=texts), *kept]))  # type: ignore[arg-type]
    calls = [part.function_call for part in first if part.function_call]
    parts: list[Any] = [
        gemini.Part(function_response=gemini.FunctionResponse(id=call.id, name=call.name, response=result(call.name)))  # type: ignore[arg-type]
        for call in calls
    ]
    contents.append(gemini.UserContent(parts))
    return "".join(part.text or "" for part in turn() if not part.thought)


def _cohere(upstream: Upstream, streamed: bool) -> str:
    own = httpx.Client(transport=httpx.MockTransport(upstream), verify=False)
    client = cohere.ClientV2(api_key="k", base_url="http://g", httpx_client=own)
    tools: Any = [{"type": "function", "function": {"name": name, "parameters": SCHEMA}} for name in NAMES]
    messages: list[Any] = [{"role": "user", "content": "q"}]

    def turn() -> dict[str, Any]:
        if not streamed:
            return client.chat(model="m", messages=messages, tools=tools).message.model_dump(exclude_none=True)
        message: dict[str, Any] = {"role": "assistant", "content": [{"type": "text", "text": ""}], "tool_calls": []}
        for event in client.chat_stream(model="m", messages=messages, tools=tools):
            delta: Any = getattr(getattr(event, "delta", None), "message", None)
            if event.type == "content-delta":
                message["content"][0]["text"] += delta.content.text or ""
            elif event.type == "tool-call-start":
                message["tool_calls"].append(delta.tool_calls.model_dump())
            elif event.type == "tool-call-delta":
                message["tool_calls"][-1]["function"]["arguments"] += delta.tool_calls.function.arguments
        return message

    first = turn()
    messages.append(first)
    for call in first["tool_calls"]:
        document = {"type": "document", "document": {"data": samples.dump(result(call["function"]["name"]))}}
        messages.append({"role": "tool", "tool_call_id": call["id"], "content": [document]})
    return "".join(block["text"] for block in turn()["content"] if block["type"] == "text")


CLIENTS: dict[str, Callable[[Upstream, bool], str]] = {
    "openai": _openai,
    "openai_responses": _responses,
    "anthropic": _anthropic,
    "google": _google,
    "cohere": _cohere,
}

Pairs = list[tuple[str, Any, Any]]


def _chat_pairs(body: dict[str, Any]) -> Pairs:
    answers = {m["tool_call_id"]: m["content"] for m in body["messages"] if m["role"] == "tool"}
    calls = [call for m in body["messages"] for call in m.get("tool_calls") or []]
    texts = {id_: text if isinstance(text, str) else text[0]["document"]["data"] for id_, text in answers.items()}
    return [(c["function"]["name"], json.loads(c["function"]["arguments"]), texts[c["id"]]) for c in calls]


def _responses_pairs(body: dict[str, Any]) -> Pairs:
    answers = {i["call_id"]: i["output"] for i in body["input"] if i.get("type") == "function_call_output"}
    calls = [item for item in body["input"] if item.get("type") == "function_call"]
    return [(call["name"], json.loads(call["arguments"]), answers[call["call_id"]]) for call in calls]


def _anthropic_pairs(body: dict[str, Any]) -> Pairs:
    blocks = [block for m in body["messages"] if isinstance(m["content"], list) for block in m["content"]]
    answers = {block["tool_use_id"]: block["content"] for block in blocks if block["type"] == "tool_result"}
    return [(b["name"], b["input"], answers[b["id"]]) for b in blocks if b["type"] == "tool_use"]


def _gemini_pairs(body: dict[str, Any]) -> Pairs:
    parts = [part for content in body["contents"] for part in content["parts"]]
    answers = {
        p["functionResponse"]["name"]: p["functionResponse"]["response"] for p in parts if "functionResponse" in p
    }
    calls = [part["functionCall"] for part in parts if "functionCall" in part]
    return [(call["name"], call["args"], samples.dump(answers[call["name"]])) for call in calls]


PAIRS: dict[str, Callable[[dict[str, Any]], Pairs]] = dict.fromkeys(WIRES, _chat_pairs) | {
    "openai_responses": _responses_pairs,
    "anthropic": _anthropic_pairs,
    "bedrock": _anthropic_pairs,
    "google": _gemini_pairs,
}


@pytest.mark.parametrize("streamed", [False, True], ids=["buffered", "streamed"])
@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("client", CLIENTS)
def test_calls_and_results_of_a_turn_reach_the_upstream_in_pairs(client: str, wire: str, streamed: bool) -> None:
    upstream = Upstream(client, wire, httpx2 if client == "anthropic" else httpx)
    assert CLIENTS[client](upstream, streamed) == samples.TEXT
    wanted = [(name, samples.ARGUMENTS, samples.dump(result(name))) for name in NAMES]
    assert PAIRS[wire](upstream.sent[1]) == wanted
    assert samples.TEXT in json.dumps(upstream.sent[1], ensure_ascii=False)
    assert upstream.untranslated <= THOUGHTS


THINKING = {"type": "thinking", "thinking": "hmm", "signature": "sig"}


@pytest.mark.parametrize("streamed", [False, True], ids=["buffered", "streamed"])
@pytest.mark.parametrize("wire", ["anthropic", "bedrock"])
def test_signed_thinking_comes_back_to_claude(wire: str, streamed: bool) -> None:
    upstream = Upstream("anthropic", wire, httpx2)
    _anthropic(upstream, streamed)
    assert upstream.sent[1]["messages"][1]["content"][0] == THINKING


@pytest.mark.parametrize("streamed", [False, True], ids=["buffered", "streamed"])
@pytest.mark.parametrize("client", ["openai", "google"])
def test_signed_calls_come_back_to_gemini(client: str, streamed: bool) -> None:
    upstream = Upstream(client, "google")
    CLIENTS[client](upstream, streamed)
    parts = [part for content in upstream.sent[1]["contents"] for part in content["parts"]]
    assert [part["thoughtSignature"] for part in parts if "functionCall" in part] == ["c2ln", "c2ln"]
