"""The official SDKs read what every upstream dialect becomes in their own: answers, raw streams and stream helpers."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import anthropic
import cohere
import groq
import httpx
import httpx2  # what the Anthropic SDK builds on
import mistralai.client as mistral_sdk
import openai
import pytest
from google import genai
from google.genai import types as genai_types

from trustgate.formats import streams, translate

from . import samples

WIRES = sorted(samples.ANSWERS)
EVERY_WIRE = pytest.mark.parametrize("wire", WIRES)
TOOLS = pytest.mark.parametrize("tools", [False, True], ids=["text", "tools"])


def transport(client: str, wire: str, tools: bool, lib: Any = httpx) -> Callable[[Any], Any]:
    """A gateway in a function: answers with the sample of the wire in the client's dialect, cut anyhow."""

    def handler(request: Any) -> Any:
        body = request.content
        stream = b'"stream":true' in body.replace(b" ", b"") or "stream" in request.url.path
        if not stream:
            answer = translate.translate_response(client, wire, samples.ANSWERS[wire](tools))
            return lib.Response(200, content=answer, headers={"content-type": "application/json"})
        relay = streams.StreamRelay(client, wire)
        data = samples.STREAMS[wire](tools)
        out = b"".join(relay.feed(data[i : i + 100]) for i in range(0, len(data), 100)) + relay.end()
        assert relay.done
        return lib.Response(200, content=out, headers={"content-type": "text/event-stream"})

    return handler


def http(client: str, wire: str, tools: bool) -> httpx.Client:
    return httpx.Client(transport=httpx.MockTransport(transport(client, wire, tools)), verify=False)


MESSAGES: Any = [{"role": "user", "content": "q"}]


def openai_client(client: str, wire: str, tools: bool) -> openai.OpenAI:
    return openai.OpenAI(api_key="k", base_url="http://g/v1", http_client=http(client, wire, tools), max_retries=0)


def check_calls(calls: list[tuple[str, str]], tools: bool) -> None:
    assert [name for name, _ in calls] == (["f", "g"] if tools else [])
    for _, arguments in calls:
        assert json.loads(arguments) == samples.ARGUMENTS


@EVERY_WIRE
@TOOLS
def test_openai_chat_completions_are_read_by_the_openai_sdk(wire: str, tools: bool) -> None:
    answer = openai_client("openai", wire, tools).chat.completions.create(model="m", messages=MESSAGES)
    choice = answer.choices[0]
    assert choice.message.content == samples.TEXT
    assert choice.finish_reason == ("tool_calls" if tools else "stop")
    check_calls([(c.function.name, c.function.arguments) for c in choice.message.tool_calls or []], tools)  # type: ignore[union-attr]
    assert answer.created > 0 and answer.usage is not None and answer.usage.total_tokens == 18
    assert choice.message.reasoning_content == "hmm"  # type: ignore[attr-defined]


@EVERY_WIRE
@TOOLS
def test_openai_chunks_are_read_by_the_openai_sdk_and_its_stream_helper(wire: str, tools: bool) -> None:
    client = openai_client("openai", wire, tools)
    with client.chat.completions.stream(model="m", messages=MESSAGES) as stream:
        final = stream.get_final_completion()
    choice = final.choices[0]
    assert choice.message.content == samples.TEXT
    assert choice.finish_reason == ("tool_calls" if tools else "stop")
    check_calls([(c.function.name, c.function.arguments) for c in choice.message.tool_calls or []], tools)
    chunks = list(client.chat.completions.create(model="m", messages=MESSAGES, stream=True))
    assert sum(1 for chunk in chunks for c in chunk.choices if c.finish_reason) == 1
    assert [chunk.usage.total_tokens for chunk in chunks if chunk.usage] == [18]


@EVERY_WIRE
@TOOLS
def test_responses_are_read_by_the_openai_sdk(wire: str, tools: bool) -> None:
    answer = openai_client("openai_responses", wire, tools).responses.create(model="m", input="q")
    assert answer.output_text == samples.TEXT and answer.status == "completed"
    check_calls([(o.name, o.arguments) for o in answer.output if o.type == "function_call"], tools)
    assert answer.usage is not None and answer.usage.total_tokens == 18


@EVERY_WIRE
@TOOLS
def test_responses_events_are_read_by_the_openai_sdk_helper(wire: str, tools: bool) -> None:
    client = openai_client("openai_responses", wire, tools)
    kinds: list[str] = []
    if wire == "openai_responses":
        events = list(client.responses.create(model="m", input="q", stream=True))
        assert events[-1].type == "response.completed"
        return
    with client.responses.stream(model="m", input="q") as stream:
        numbers: list[int] = []
        for event in stream:
            kinds.append(event.type)
            numbers.append(event.sequence_number)
        final = stream.get_final_response()
    assert numbers == list(range(len(numbers)))
    assert kinds[:2] == ["response.created", "response.in_progress"] and kinds[-1] == "response.completed"
    assert final.output_text == samples.TEXT
    check_calls([(o.name, o.arguments) for o in final.output if o.type == "function_call"], tools)
    assert final.usage is not None and final.usage.total_tokens == 18


@EVERY_WIRE
@TOOLS
def test_messages_are_read_by_the_anthropic_sdk(wire: str, tools: bool) -> None:
    mock = httpx2.MockTransport(transport("anthropic", wire, tools, httpx2))
    own = httpx2.Client(transport=mock, verify=False)
    client = anthropic.Anthropic(api_key="k", base_url="http://g", http_client=own)
    answer = client.messages.create(model="m", max_tokens=10, messages=MESSAGES)
    with client.messages.stream(model="m", max_tokens=10, messages=MESSAGES) as stream:
        final = stream.get_final_message()
    for message in (answer, final):
        assert [block.text for block in message.content if block.type == "text"] == [samples.TEXT]
        assert [block.thinking for block in message.content if block.type == "thinking"] == ["hmm"]
        calls = [(b.name, json.dumps(b.input)) for b in message.content if b.type == "tool_use"]
        check_calls(calls, tools)
        assert message.stop_reason == ("tool_use" if tools else "end_turn")
        assert (message.usage.input_tokens, message.usage.output_tokens) == (11, 7)
        assert message.id == "c1"


@EVERY_WIRE
@TOOLS
def test_generate_content_is_read_by_the_google_sdk(wire: str, tools: bool) -> None:
    options = genai_types.HttpOptions(base_url="http://g", httpx_client=http("google", wire, tools))
    client = genai.Client(api_key="k", http_options=options)
    answer = client.models.generate_content(model="m", contents="q")
    events = list(client.models.generate_content_stream(model="m", contents="q"))
    assert answer.text == samples.TEXT
    assert "".join(event.text or "" for event in events) == samples.TEXT
    for answers in ([answer], events):
        calls = [call for event in answers for call in event.function_calls or []]
        check_calls([(str(call.name), json.dumps(call.args)) for call in calls], tools)
        last = answers[-1]
        assert last.candidates and last.candidates[0].finish_reason == genai_types.FinishReason.STOP
        assert last.usage_metadata is not None and last.usage_metadata.total_token_count == 18


@EVERY_WIRE
@TOOLS
def test_v2_chat_is_read_by_the_cohere_sdk(wire: str, tools: bool) -> None:
    client = cohere.ClientV2(api_key="k", base_url="http://g", httpx_client=http("cohere", wire, tools))
    answer = client.chat(model="m", messages=MESSAGES)
    assert [b.text for b in answer.message.content or [] if b.type == "text"] == [samples.TEXT]
    check_calls([(c.function.name, c.function.arguments) for c in answer.message.tool_calls or []], tools)  # type: ignore[union-attr,misc]
    assert answer.finish_reason == ("TOOL_CALL" if tools else "COMPLETE")
    events = list(client.chat_stream(model="m", messages=MESSAGES))
    assert [event.type for event in events].count("message-end") == 1
    text = "".join(e.delta.message.content.text or "" for e in events if e.type == "content-delta")  # type: ignore[union-attr]
    assert text == samples.TEXT
    assert events[0].type == "message-start" and events[-1].type == "message-end"
    assert events[-1].delta.finish_reason == ("TOOL_CALL" if tools else "COMPLETE")  # type: ignore[union-attr]
    starts = [e.delta.message.tool_calls.function.name for e in events if e.type == "tool-call-start"]  # type: ignore[union-attr]
    assert starts == (["f", "g"] if tools else [])


@EVERY_WIRE
@TOOLS
def test_chat_completions_are_read_by_the_mistral_sdk(wire: str, tools: bool) -> None:
    client = mistral_sdk.Mistral(api_key="k", server_url="http://g", client=http("openai", wire, tools))
    answer = client.chat.complete(model="m", messages=MESSAGES)
    assert answer.choices[0].message is not None and answer.choices[0].message.content == samples.TEXT
    events = list(client.chat.stream(model="m", messages=MESSAGES))
    deltas = [choice.delta for event in events for choice in event.data.choices]
    assert "".join(str(delta.content or "") for delta in deltas) == samples.TEXT
    calls = [(c.function.name, str(c.function.arguments)) for delta in deltas for c in delta.tool_calls or []]
    check_calls(calls, tools)


@EVERY_WIRE
@TOOLS
def test_chat_completions_are_read_by_the_groq_sdk(wire: str, tools: bool) -> None:
    client = groq.Groq(api_key="k", base_url="http://g", http_client=http("openai", wire, tools))
    answer = client.chat.completions.create(model="m", messages=MESSAGES)
    assert answer.choices[0].message.content == samples.TEXT
    chunks = list(client.chat.completions.create(model="m", messages=MESSAGES, stream=True))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == samples.TEXT
