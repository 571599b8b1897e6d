"""OpenAI Chat Completions: requests and answers (also azure, groq, deepseek, xai, openrouter, mistral, cerebras).

Bytes to canonical model and back; the stream events of the dialect are in `openai_stream.py`, the corrections that
single providers want in `normalise.py`. Implements topic "OpenAI Chat Completions codec" of the provider contract.
"""

from __future__ import annotations

import time
from typing import Any, cast

import msgspec
from msgspec import Raw, Struct

from . import canonical as c
from . import content, json, known


class _Function(Struct):
    name: str | None = None
    arguments: str | None = None


class _CustomCall(Struct):
    name: str | None = None
    input: str | None = None


class _ToolCall(Struct):
    id: str | None = None
    type: str | None = None
    function: _Function | None = None
    custom: _CustomCall | None = None
    extra_content: Raw = Raw()


class _Signature(Struct):
    thought_signature: str | None = None


class _ExtraContent(Struct):
    google: _Signature | None = None


class _Message(Struct):
    role: str | None = None
    content: Raw = Raw()
    tool_calls: list[_ToolCall] | None = None
    tool_call_id: str | None = None
    name: Raw = Raw()
    refusal: Raw = Raw()
    audio: Raw = Raw()
    reasoning_content: Raw = Raw()
    reasoning: Raw = Raw()


class _ThoughtText(Struct):
    text: str | None = None


class _ContentPart(Struct):
    thinking: list[_ThoughtText] | None = None


def thinking_of(raw: Raw) -> str:
    """The thinking of Mistral's reasoning models, which send `content` as an array of parts."""
    parts = content.optional(None, "", raw, list[_ContentPart]) or []
    return "".join(thought.text or "" for part in parts for thought in part.thinking or [])


class _FunctionTool(Struct):
    name: str | None = None
    description: str | None = None
    parameters: Raw = Raw()
    strict: bool | None = None


class _CustomTool(Struct):
    name: str | None = None
    description: str | None = None
    format: Raw = Raw()


class _Tool(Struct):
    type: str | None = None
    function: _FunctionTool | None = None
    custom: _CustomTool | None = None


class _NamedChoice(Struct):
    type: str | None = None
    function: _Function | None = None
    custom: _Function | None = None


class _JsonSchema(Struct):
    name: str | None = None
    description: str | None = None
    schema: Raw = Raw()
    strict: bool | None = None


class _ResponseFormat(Struct):
    type: str | None = None
    json_schema: Raw = Raw()


class _Request(Struct):
    model: str | None = None
    messages: list[_Message] | None = None
    temperature: Raw = Raw()
    top_p: Raw = Raw()
    top_k: int | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    stream: bool | None = None
    stop: Raw = Raw()
    response_format: _ResponseFormat | None = None
    tools: list[_Tool] | None = None
    tool_choice: Raw = Raw()
    parallel_tool_calls: Raw = Raw()
    seed: Raw = Raw()
    n: Raw = Raw()
    presence_penalty: Raw = Raw()
    frequency_penalty: Raw = Raw()
    reasoning_effort: Raw = Raw()
    user: Raw = Raw()
    metadata: Raw = Raw()
    input: Raw = Raw()


_decode_request = msgspec.json.Decoder(_Request).decode
_decode_choice = msgspec.json.Decoder(_NamedChoice).decode


def decode_request(body: bytes) -> c.Request:
    """A chat completion request; a body with `input` and no `messages` is read as a Responses request."""
    wire = json.decode_with(_decode_request, body)
    if wire.messages is None and not json.is_null(wire.input):
        from . import responses

        return responses.decode_request(body)
    request = c.Request(
        model=wire.model or "",
        max_tokens=wire.max_completion_tokens or wire.max_tokens or 0,
        temperature=json.number(wire.temperature),
        top_p=json.number(wire.top_p),
        top_k=wire.top_k,
        stream=bool(wire.stream),
        stop=content.stop_list(wire.stop),
        metadata=None if json.is_null(wire.metadata) else wire.metadata,
        untranslated=known.openai.unknown(body),
    )
    _decode_options(wire, request)
    _decode_messages(wire.messages or [], request)
    request.tools = _decode_tools(wire.tools or [], request)
    request.tool_choice = _tool_choice(wire.tool_choice, request)
    if not request.stop and bytes(wire.stop) not in (b"", b"null", b"[]"):
        content.note(request, "stop")
    return request


def _decode_options(wire: _Request, request: c.Request) -> None:
    request.seed = content.optional(request, "seed", wire.seed, int)
    request.n = content.optional(request, "n", wire.n, int)
    request.presence_penalty = content.optional_number(request, "presence_penalty", wire.presence_penalty)
    request.frequency_penalty = content.optional_number(request, "frequency_penalty", wire.frequency_penalty)
    request.parallel_tool_calls = content.optional(request, "parallel_tool_calls", wire.parallel_tool_calls, bool)
    request.user = content.optional(request, "user", wire.user, str) or ""
    effort = content.optional(request, "reasoning_effort", wire.reasoning_effort, str)
    if effort:
        request.reasoning = c.ReasoningRequest(effort=effort)
    if wire.response_format is not None and wire.response_format.type:
        request.response_format = _format(wire.response_format, request)


def _format(wire: _ResponseFormat, request: c.Request) -> c.ResponseFormat:
    result = c.ResponseFormat(type=wire.type or "")
    schema = content.optional(request, "response_format.json_schema", wire.json_schema, _JsonSchema)
    if schema is not None:
        result.schema = None if json.is_null(schema.schema) else schema.schema
        result.name = schema.name or ""
        result.description = schema.description or ""
        result.strict = schema.strict
    return result


def _decode_messages(messages: list[_Message], request: c.Request) -> None:
    system: list[str] = []
    append = request.messages.append
    for wire in messages:
        role = wire.role or ""
        text, parts = content.openai_content(wire.content, request)
        if wire.name:
            content.note(request, "messages[].name")
        if role in ("system", "developer"):
            if text:
                system.append(text)
            content.note_system(request, parts)
            continue
        message = c.Message(role=role, text=text, parts=parts, tool_call_id=wire.tool_call_id or "")
        if wire.tool_calls:
            message.tool_calls = [call for call in map(_decode_call, wire.tool_calls) if call is not None]
        refusal = content.optional(request, "messages[].refusal", wire.refusal, str) if wire.refusal else None
        if refusal and text:
            content.note(request, "messages[].refusal")
        elif refusal:
            message.text = message.refusal = refusal
        if not json.is_null(wire.audio):
            content.note(request, "messages[].audio")
        thought = wire.reasoning_content
        if thought:
            text = content.optional(request, "messages[].reasoning_content", thought, str) or ""
            message.thinking = [c.Thinking(text)] if text else []
        append(message)
    request.system = "\n".join(system)


def _decode_call(wire: _ToolCall) -> c.ToolCall | None:
    if wire.custom is not None and (wire.type == "custom" or wire.function is None):
        return c.ToolCall(wire.id or "", wire.custom.name or "", wire.custom.input or "", "custom")
    if wire.function is None:
        return None
    call = c.ToolCall(wire.id or "", wire.function.name or "", wire.function.arguments or "")
    call.signature = signature_of(wire.extra_content)
    return call


def _decode_tools(tools: list[_Tool], request: c.Request) -> list[c.Tool]:
    result: list[c.Tool] = []
    for wire in tools:
        if wire.type == "custom" and wire.custom is not None:
            own = None if json.is_null(wire.custom.format) else wire.custom.format
            result.append(
                c.Tool(wire.custom.name or "", wire.custom.description or "", kind="custom", format=own),
            )
        elif wire.function is not None:
            function = wire.function
            schema = None if json.is_null(function.parameters) else function.parameters
            result.append(
                c.Tool(function.name or "", function.description or "", schema, strict=function.strict),
            )
        else:
            content.note(request, f"tools[{wire.type or ''}]")
    return result


def _tool_choice(raw: Raw, request: c.Request) -> c.ToolChoice | None:
    if json.is_null(raw):
        return None
    literal = bytes(raw)
    if literal[:1] == b'"':
        return c.ToolChoice(type=json.decode_with(msgspec.json.decode, literal))
    if literal[:1] != b"{":
        content.note(request, "tool_choice")
        return None
    choice = json.decode_with(_decode_choice, literal)
    named = choice.function or choice.custom
    if named is not None and named.name:
        return c.ToolChoice(type="tool", name=named.name)
    content.note(request, "tool_choice")
    return None


def encode_request(request: c.Request) -> bytes:
    """The chat completion request; members are written only where the model has them."""
    body: dict[str, Any] = {"model": request.model} if request.model else {}
    messages: list[dict[str, Any]] = []
    if request.system:
        messages.append({"role": "system", "content": request.system})
    for message in request.messages:
        messages.append(_encode_message(message, request))
    body["messages"] = messages
    if request.max_tokens > 0:
        body["max_tokens"] = request.max_tokens
    if request.temperature is not None:
        body["temperature"] = request.temperature
    if request.top_p is not None:
        body["top_p"] = request.top_p
    if request.stream:
        body["stream"] = True
    if request.stop:
        body["stop"] = request.stop
    if request.response_format is not None:
        body["response_format"] = _encode_format(request.response_format)
    if request.tools:
        body["tools"] = [_encode_tool(tool) for tool in request.tools]
    choice = encode_tool_choice(request.tool_choice, request.tools)
    if choice is not None:
        body["tool_choice"] = choice
    _encode_extras(request, body)
    return json.encode(body)


def _encode_extras(request: c.Request, body: dict[str, Any]) -> None:
    if request.parallel_tool_calls is not None and request.tools:
        body["parallel_tool_calls"] = request.parallel_tool_calls
    if request.seed is not None:
        body["seed"] = request.seed
    if request.n is not None and request.n > 1:
        content.note(request, "n")
    if request.presence_penalty is not None:
        body["presence_penalty"] = request.presence_penalty
    if request.frequency_penalty is not None:
        body["frequency_penalty"] = request.frequency_penalty
    effort = content.effort_of(request.reasoning)
    if effort:
        body["reasoning_effort"] = effort
    content.note_reasoning(request, effort)
    if request.user:
        body["user"] = request.user
    if request.top_k is not None:
        content.note(request, "top_k")
    if request.metadata is not None:
        content.note(request, "metadata")
    content.note_signatures(request)


def _encode_message(message: c.Message, request: c.Request) -> dict[str, Any]:
    wire: dict[str, Any] = {"role": message.role, "content": content.tool_text(message)}
    if message.parts is not None:
        wire["content"] = content.openai_parts(message.parts, request)
    if message.tool_calls:
        wire["tool_calls"] = [encode_call(call) for call in message.tool_calls]
    if message.tool_call_id:
        wire["tool_call_id"] = message.tool_call_id
    if message.thinking:
        content.note(request, "thinking")
    return wire


def encode_call(call: c.ToolCall) -> dict[str, Any]:
    """One entry of `tool_calls`."""
    if call.kind == "custom":
        return {"id": call.id, "type": "custom", "custom": {"name": call.name, "input": call.arguments}}
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def encode_answered_call(call: c.ToolCall) -> dict[str, Any]:
    """One entry of `tool_calls` of an answer, with Gemini's signature where Google's own OpenAI-like API keeps it."""
    wire = encode_call(call)
    if call.signature:
        wire["extra_content"] = {"google": {"thought_signature": call.signature}}
    return wire


def signature_of(extra_content: Raw) -> str:
    """The signature that `encode_answered_call` wrote, empty when there is none."""
    if not extra_content:
        return ""
    extra = content.optional(None, "", extra_content, _ExtraContent)
    return "" if extra is None or extra.google is None else extra.google.thought_signature or ""


def _encode_tool(tool: c.Tool) -> dict[str, Any]:
    inner: dict[str, Any] = {"name": tool.name}
    if tool.description:
        inner["description"] = tool.description
    if tool.kind == "custom":
        if tool.format is not None:
            inner["format"] = tool.format
        return {"type": "custom", "custom": inner}
    if tool.schema is not None:
        inner["parameters"] = content.compact_schema(tool.schema)
    if tool.strict is not None:
        inner["strict"] = tool.strict
    return {"type": "function", "function": inner}


def encode_tool_choice(choice: c.ToolChoice | None, tools: list[c.Tool]) -> Any:
    """`auto`, `none`, `required`, the named tool, or the dialect's own word as it came."""
    if choice is None or not choice.type:
        return None
    if choice.type == "tool":
        kind = "custom" if content.is_custom(choice.name, tools) else "function"
        return {"type": kind, kind: {"name": choice.name}}
    return "required" if choice.type == "any" else choice.type


def _encode_format(wanted: c.ResponseFormat) -> dict[str, Any]:
    if wanted.type != "json_schema" or wanted.schema is None:
        return {"type": wanted.type}
    schema: dict[str, Any] = {"name": wanted.name or "response"}
    if wanted.description:
        schema["description"] = wanted.description
    schema["schema"] = content.compact_schema(wanted.schema)
    if wanted.strict is not None:
        schema["strict"] = wanted.strict
    return {"type": "json_schema", "json_schema": schema}


class PromptDetails(Struct):
    cached_tokens: int | None = None


class CompletionDetails(Struct):
    reasoning_tokens: int | None = None


class UsageIn(Struct):
    """`usage` of answers and of stream chunks."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    prompt_tokens_details: PromptDetails | None = None
    completion_tokens_details: CompletionDetails | None = None


def decode_usage(wire: UsageIn | None) -> c.Usage | None:
    """Canonical counts; None when the answer has none."""
    if wire is None:
        return None
    prompt, completion = wire.prompt_tokens_details, wire.completion_tokens_details
    return c.usage_or_none(
        c.Usage(
            input_tokens=wire.prompt_tokens or 0,
            output_tokens=wire.completion_tokens or 0,
            total_tokens=wire.total_tokens or 0,
            cached_input_tokens=(prompt.cached_tokens or 0) if prompt is not None else 0,
            reasoning_output_tokens=(completion.reasoning_tokens or 0) if completion is not None else 0,
        ),
    )


def encode_usage(usage: c.Usage) -> dict[str, Any]:
    """The three totals, and the details that are known."""
    wire: dict[str, Any] = {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.total_tokens,
    }
    if usage.cached:
        wire["prompt_tokens_details"] = {"cached_tokens": usage.cached}
    if usage.reasoning_output_tokens:
        wire["completion_tokens_details"] = {"reasoning_tokens": usage.reasoning_output_tokens}
    return wire


class _Reasoning(Struct):
    effort: Raw = Raw()
    summary: str | None = None


class _Choice(Struct):
    message: _Message | None = None
    finish_reason: str | None = None


class _Response(Struct):
    id: str | None = None
    object: str | None = None
    created: int | None = None
    model: str | None = None
    choices: list[_Choice] | None = None
    usage: UsageIn | None = None
    reasoning: Raw = Raw()
    error: Raw = Raw()


class _ChoiceEnd(Struct):
    finish_reason: str | None = None


class _Seen(Struct):
    """What accounting reads of an answer; everything else is only checked for JSON syntax."""

    object: str | None = None
    id: str | None = None
    model: str | None = None
    choices: list[_ChoiceEnd] | None = None
    usage: UsageIn | None = None


_decode_seen = msgspec.json.Decoder(_Seen).decode


def observe_response(body: bytes) -> c.Observed | None:
    """Id, model, finish reason and usage of a chat completion; None for anything that wants the full decoder."""
    try:
        seen = _decode_seen(body)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None
    if seen.object == "response":
        return None
    finish = seen.choices[0].finish_reason if seen.choices else None
    return c.Observed(seen.id or "", seen.model or "", finish or "", decode_usage(seen.usage))


_decode_response = msgspec.json.Decoder(_Response).decode
_decode_reasoning = msgspec.json.Decoder(_Reasoning).decode


def decode_response(body: bytes) -> c.Response:
    """The first choice of a chat completion; an `object: "response"` body is read as a Responses answer."""
    wire = json.decode_with(_decode_response, body)
    if wire.object == "response":
        from . import responses_answer

        return responses_answer.decode_response(body)
    response = c.Response(id=wire.id or "", model=wire.model or "", created=wire.created or 0)
    response.usage = decode_usage(wire.usage)
    if not wire.choices:
        response.error = content.error_of(wire.error)
        return response
    choice = wire.choices[0]
    response.finish_reason = choice.finish_reason or ""
    message = choice.message or _Message()
    response.text, _ = content.openai_content(message.content, None)
    if not response.text and message.refusal:
        response.refusal = (content.optional(None, "", message.refusal, str) or "").strip()
        response.text = response.refusal
    if message.tool_calls:
        response.tool_calls = [call for call in map(_decode_call, message.tool_calls) if call is not None]
    thought = content.optional(None, "", message.reasoning_content or message.reasoning, str)
    if not thought and bytes(message.content)[:1] == b"[":
        thought = thinking_of(message.content)
    if thought:
        response.thinking = [c.Thinking(text=thought)]
    if bytes(wire.reasoning)[:1] == b"{":
        reasoning = json.decode_with(_decode_reasoning, bytes(wire.reasoning))
        if not json.is_null(reasoning.effort):
            response.reasoning_effort = reasoning.effort
        if reasoning.summary and not response.thinking:
            response.thinking = [c.Thinking(text=reasoning.summary)]
    return response


def encode_response(response: c.Response) -> bytes:
    """The chat completion object with one choice."""
    if response.error is not None:
        return error_body(response.error)
    message: dict[str, Any] = {"role": "assistant", "content": response.text, "refusal": response.refusal or None}
    if response.tool_calls:
        message["tool_calls"] = [encode_answered_call(call) for call in response.tool_calls]
    thinking = response.thinking_text
    if thinking:
        message["reasoning_content"] = thinking
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": response.finish_reason}
    body: dict[str, Any] = {
        "id": response.id,
        "object": "chat.completion",
        "created": response.created or int(time.time()),
        "model": response.model,
        "choices": [choice],
    }
    if response.usage is not None:
        body["usage"] = encode_usage(response.usage)
    if thinking or response.reasoning_effort is not None:
        reasoning: dict[str, Any] = {}
        if response.reasoning_effort is not None:
            reasoning["effort"] = response.reasoning_effort
        reasoning["summary"] = thinking
        body["reasoning"] = reasoning
    return json.encode(body)


def with_thinking(body: bytes, response: c.Response) -> bytes:
    """A peer's own answer, with its thinking also where clients of OpenAI chat look for it, and its content as text."""
    thinking = response.thinking_text
    if not thinking:
        return json.compact(body)
    answer = json.object_tree(body)
    message = cast("dict[str, Any]", answer["choices"][0]["message"])
    if isinstance(message.get("content"), list):
        message["content"] = response.text
    message["reasoning_content"] = thinking
    if "reasoning" not in answer:
        answer["reasoning"] = {"summary": thinking}
    return json.encode(answer)


def error_body(error: c.UpstreamError) -> bytes:
    """`{"error":{message,type,code}}`."""
    inner = {"message": error.message, "type": error.type or "upstream_error", "code": error.code or None}
    return json.encode({"error": inner})
