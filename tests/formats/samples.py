"""Answers of each upstream dialect that say the same, buffered and streamed: thinking, text, tool calls, usage."""

from __future__ import annotations

import json
from typing import Any

TEXT = "Hi <there> é"
ARGUMENTS = {"city": "Rome", "n": 12345678901234567890}


def dump(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def sse(*events: Any, named: bool = False) -> bytes:
    out = ""
    for event in events:
        if named:
            out += f"event: {event['type']}\n"
        out += f"data: {event if isinstance(event, str) else dump(event)}\n\n"
    return out.encode()


def _openai_chunk(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    head = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m-up"}
    return head | {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


def _openai_stream(tools: bool) -> bytes:
    arguments = dump(ARGUMENTS)
    events: list[Any] = [
        _openai_chunk({"role": "assistant", "content": ""}),
        _openai_chunk({"reasoning_content": "hm"}),
        _openai_chunk({"reasoning_content": "m"}),
        _openai_chunk({"content": TEXT[:5]}),
        _openai_chunk({"content": TEXT[5:]}),
    ]
    if tools:
        for index, name in enumerate(("f", "g")):
            call = {
                "index": index,
                "id": f"call_{index}",
                "type": "function",
                "function": {"name": name, "arguments": ""},
            }
            events.append(_openai_chunk({"tool_calls": [call]}))
            for part in (arguments[:7], arguments[7:]):
                events.append(_openai_chunk({"tool_calls": [{"index": index, "function": {"arguments": part}}]}))
    events.append(_openai_chunk({}, "tool_calls" if tools else "stop"))
    usage = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
    events.append(_openai_chunk({}) | {"choices": [], "usage": usage})
    return sse(*events, "[DONE]")


def _openai_answer(tools: bool) -> bytes:
    message: dict[str, Any] = {"role": "assistant", "content": TEXT, "reasoning_content": "hmm"}
    if tools:
        message["tool_calls"] = [
            {"id": f"call_{i}", "type": "function", "function": {"name": name, "arguments": dump(ARGUMENTS)}}
            for i, name in enumerate(("f", "g"))
        ]
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls" if tools else "stop"}
    usage = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
    body = {"id": "c1", "object": "chat.completion", "created": 1, "model": "m-up", "choices": [choice], "usage": usage}
    return dump(body).encode()


def _anthropic_stream(tools: bool) -> bytes:
    head = {"id": "c1", "type": "message", "role": "assistant", "content": [], "model": "m-up", "stop_reason": None}
    arguments = dump(ARGUMENTS)
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": head | {"usage": {"input_tokens": 11, "output_tokens": 1}}},
        {
            "type": "content_block_start",
            "index": 0,
            "content_block": {"type": "thinking", "thinking": "", "signature": ""},
        },
        {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "hmm"}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "signature_delta", "signature": "sig"}},
        {"type": "content_block_stop", "index": 0},
        {"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": ""}},
        {"type": "ping"},
        {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": TEXT[:5]}},
        {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": TEXT[5:]}},
        {"type": "content_block_stop", "index": 1},
    ]
    for number, name in enumerate(("f", "g") if tools else ()):
        index = 2 + number
        block = {"type": "tool_use", "id": f"call_{number}", "name": name, "input": {}}
        events.append({"type": "content_block_start", "index": index, "content_block": block})
        for part in (arguments[:7], arguments[7:]):
            delta = {"type": "input_json_delta", "partial_json": part}
            events.append({"type": "content_block_delta", "index": index, "delta": delta})
        events.append({"type": "content_block_stop", "index": index})
    reason = {"stop_reason": "tool_use" if tools else "end_turn", "stop_sequence": None}
    events.append({"type": "message_delta", "delta": reason, "usage": {"output_tokens": 7}})
    events.append({"type": "message_stop"})
    return sse(*events, named=True)


def _anthropic_answer(tools: bool) -> bytes:
    blocks: list[dict[str, Any]] = [
        {"type": "thinking", "thinking": "hmm", "signature": "sig"},
        {"type": "text", "text": TEXT},
    ]
    if tools:
        for number, name in enumerate(("f", "g")):
            blocks.append({"type": "tool_use", "id": f"call_{number}", "name": name, "input": ARGUMENTS})
    body = {"id": "c1", "type": "message", "role": "assistant", "model": "m-up", "content": blocks}
    body |= {"stop_reason": "tool_use" if tools else "end_turn", "stop_sequence": None}
    return dump(body | {"usage": {"input_tokens": 11, "output_tokens": 7}}).encode()


def _gemini_parts(tools: bool) -> list[dict[str, Any]]:
    return [
        {"functionCall": {"name": name, "args": ARGUMENTS}, "thoughtSignature": "c2ln"}
        for name in (("f", "g") if tools else ())
    ]


def _gemini_event(parts: list[dict[str, Any]], finish: str | None = None) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"role": "model", "parts": parts}, "index": 0}
    body: dict[str, Any] = {"candidates": [candidate], "responseId": "c1", "modelVersion": "m-up"}
    if finish:
        candidate["finishReason"] = finish
        body["usageMetadata"] = {"promptTokenCount": 11, "candidatesTokenCount": 7, "totalTokenCount": 18}
    return body


def _gemini_stream(tools: bool) -> bytes:
    return sse(
        _gemini_event([{"text": "hmm", "thought": True}]),
        _gemini_event([{"text": TEXT[:5]}]),
        _gemini_event([{"text": TEXT[5:], "thoughtSignature": "cw=="}]),
        *(_gemini_event([part]) for part in _gemini_parts(tools)),
        _gemini_event([{"text": ""}], "STOP"),
    )


def _gemini_answer(tools: bool) -> bytes:
    parts = [{"text": "hmm", "thought": True}, {"text": TEXT}, *_gemini_parts(tools)]
    return dump(_gemini_event(parts, "STOP")).encode()


def _cohere_calls(tools: bool) -> list[dict[str, Any]]:
    return [
        {"id": f"call_{i}", "type": "function", "function": {"name": name, "arguments": dump(ARGUMENTS)}}
        for i, name in enumerate(("f", "g") if tools else ())
    ]


def _cohere_stream(tools: bool) -> bytes:
    def content(index: int, kind: str, block: dict[str, Any]) -> dict[str, Any]:
        return {"type": kind, "index": index, "delta": {"message": {"content": block}}}

    events: list[dict[str, Any]] = [
        {"type": "message-start", "id": "c1", "delta": {"message": {"role": "assistant", "content": []}}},
        content(0, "content-start", {"type": "thinking", "thinking": ""}),
        content(0, "content-delta", {"thinking": "hmm"}),
        {"type": "content-end", "index": 0},
        content(1, "content-start", {"type": "text", "text": ""}),
        content(1, "content-delta", {"text": TEXT[:5]}),
        content(1, "content-delta", {"text": TEXT[5:]}),
        {"type": "content-end", "index": 1},
    ]
    for index, call in enumerate(_cohere_calls(tools)):
        arguments = call["function"].pop("arguments")
        start = call | {"function": call["function"] | {"arguments": ""}}
        events.append({"type": "tool-call-start", "index": index, "delta": {"message": {"tool_calls": start}}})
        for part in (arguments[:7], arguments[7:]):
            delta = {"message": {"tool_calls": {"function": {"arguments": part}}}}
            events.append({"type": "tool-call-delta", "index": index, "delta": delta})
        events.append({"type": "tool-call-end", "index": index})
    usage = {
        "billed_units": {"input_tokens": 10, "output_tokens": 7},
        "tokens": {"input_tokens": 11, "output_tokens": 7},
    }
    finish = "TOOL_CALL" if tools else "COMPLETE"
    events.append({"type": "message-end", "delta": {"finish_reason": finish, "usage": usage}})
    return sse(*events, named=True)


def _cohere_answer(tools: bool) -> bytes:
    message: dict[str, Any] = {"role": "assistant"}
    message["content"] = [{"type": "thinking", "thinking": "hmm"}, {"type": "text", "text": TEXT}]
    if tools:
        message["tool_calls"] = _cohere_calls(tools)
    usage = {"tokens": {"input_tokens": 11, "output_tokens": 7}}
    finish = "TOOL_CALL" if tools else "COMPLETE"
    return dump({"id": "c1", "finish_reason": finish, "message": message, "usage": usage}).encode()


def _responses_output(tools: bool) -> list[dict[str, Any]]:
    part = {"type": "output_text", "text": TEXT, "annotations": []}
    output: list[dict[str, Any]] = [
        {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "hmm"}]},
        {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [part]},
    ]
    for index, name in enumerate(("f", "g") if tools else ()):
        call = {"type": "function_call", "id": f"fc_{index}", "call_id": f"call_{index}", "name": name}
        output.append(call | {"arguments": dump(ARGUMENTS), "status": "completed"})
    return output


def _responses_body(status: str, output: list[dict[str, Any]], usage: bool) -> dict[str, Any]:
    body: dict[str, Any] = {"id": "c1", "object": "response", "created_at": 1, "model": "m-up", "status": status}
    body["output"] = output
    if usage:
        body["usage"] = {"input_tokens": 11, "output_tokens": 7, "total_tokens": 18}
    return body


def _responses_stream(tools: bool) -> bytes:
    output = _responses_output(tools)
    events: list[dict[str, Any]] = [
        {"type": "response.created", "response": _responses_body("in_progress", [], False)},
        {"type": "response.output_item.added", "output_index": 0, "item": output[0] | {"summary": []}},
        {"type": "response.reasoning_summary_text.delta", "item_id": "rs_1", "output_index": 0, "delta": "hmm"},
        {"type": "response.output_item.added", "output_index": 1, "item": output[1] | {"content": []}},
        {"type": "response.output_text.delta", "item_id": "msg_1", "output_index": 1, "delta": TEXT[:5]},
        {"type": "response.output_text.delta", "item_id": "msg_1", "output_index": 1, "delta": TEXT[5:]},
    ]
    for index, call in enumerate(output[2:], 2):
        arguments = call["arguments"]
        events.append({"type": "response.output_item.added", "output_index": index, "item": call | {"arguments": ""}})
        for part in (arguments[:7], arguments[7:]):
            delta = {"type": "response.function_call_arguments.delta", "output_index": index, "delta": part}
            events.append(delta)
        done = {"type": "response.function_call_arguments.done", "output_index": index, "arguments": arguments}
        events.append(done)
    events.append({"type": "response.completed", "response": _responses_body("completed", output, True)})
    return sse(*events, named=True)


def _responses_answer(tools: bool) -> bytes:
    return dump(_responses_body("completed", _responses_output(tools), True)).encode()


STREAMS = {
    "openai": _openai_stream,
    "mistral": _openai_stream,
    "groq": _openai_stream,
    "anthropic": _anthropic_stream,
    "bedrock": _anthropic_stream,
    "google": _gemini_stream,
    "cohere": _cohere_stream,
    "openai_responses": _responses_stream,
}
ANSWERS = {
    "openai": _openai_answer,
    "mistral": _openai_answer,
    "groq": _openai_answer,
    "anthropic": _anthropic_answer,
    "bedrock": _anthropic_answer,
    "google": _gemini_answer,
    "cohere": _cohere_answer,
    "openai_responses": _responses_answer,
}
