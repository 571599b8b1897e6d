"""Gemini generateContent: requests, bytes to canonical model and back (answers and events: `gemini_answer.py`).

Members are read in camelCase and in snake_case, written in camelCase. Implements topic "Gemini codec" of the
provider contract; Vertex speaks the same dialect.
"""

from __future__ import annotations

from typing import Any, cast

import msgspec
from msgspec import Raw, Struct

from . import canonical as c
from . import content, json, known

_TYPES = frozenset({"string", "object", "number", "integer", "boolean", "array", "null"})
_MODES = {"AUTO": "auto", "ANY": "required", "NONE": "none", "VALIDATED": "auto"}
_MODES_OUT = {"auto": "AUTO", "required": "ANY", "any": "ANY", "none": "NONE", "tool": "ANY"}


class FunctionCall(Struct):
    """`functionCall` of a part."""

    name: str | None = None
    args: Raw = Raw()
    id: str | None = None


class _FunctionResponse(Struct):
    name: str | None = None
    response: Raw = Raw()
    id: str | None = None


class _Media(Struct):
    mimeType: str | None = None
    mime_type: str | None = None
    data: str | None = None
    displayName: str | None = None
    display_name: str | None = None
    fileUri: str | None = None
    file_uri: str | None = None


class Part(Struct):
    """One part of a content, in either spelling."""

    text: str | None = None
    thought: bool | None = None
    thoughtSignature: str | None = None
    thought_signature: str | None = None
    functionCall: FunctionCall | None = None
    function_call: FunctionCall | None = None
    functionResponse: _FunctionResponse | None = None
    function_response: _FunctionResponse | None = None
    inlineData: _Media | None = None
    inline_data: _Media | None = None
    fileData: _Media | None = None
    file_data: _Media | None = None


class Content(Struct):
    """A turn: its role and parts."""

    role: str | None = None
    parts: list[Part] | None = None


class _ThinkingConfig(Struct):
    thinkingBudget: int | None = None
    thinking_budget: int | None = None
    thinkingLevel: str | None = None
    thinking_level: str | None = None


class _GenerationConfig(Struct):
    maxOutputTokens: int | None = None
    max_output_tokens: int | None = None
    temperature: Raw = Raw()
    topP: Raw = Raw()
    top_p: Raw = Raw()
    topK: int | float | None = None
    top_k: int | float | None = None
    stopSequences: Raw = Raw()
    stop_sequences: Raw = Raw()
    responseMimeType: str | None = None
    response_mime_type: str | None = None
    responseSchema: Raw = Raw()
    response_schema: Raw = Raw()
    responseJsonSchema: Raw = Raw()
    response_json_schema: Raw = Raw()
    candidateCount: Raw = Raw()
    candidate_count: Raw = Raw()
    seed: Raw = Raw()
    presencePenalty: Raw = Raw()
    presence_penalty: Raw = Raw()
    frequencyPenalty: Raw = Raw()
    frequency_penalty: Raw = Raw()
    thinkingConfig: Raw = Raw()
    thinking_config: Raw = Raw()


class _Declaration(Struct):
    name: str | None = None
    description: str | None = None
    parameters: Raw = Raw()
    parametersJsonSchema: Raw = Raw()
    parameters_json_schema: Raw = Raw()


class _CallingConfig(Struct):
    mode: str | None = None
    allowedFunctionNames: list[str] | None = None
    allowed_function_names: list[str] | None = None


class _ToolConfig(Struct):
    functionCallingConfig: _CallingConfig | None = None
    function_calling_config: _CallingConfig | None = None


class _Request(Struct):
    model: str | None = None
    contents: list[Content] | None = None
    systemInstruction: Content | None = None
    system_instruction: Content | None = None
    generationConfig: _GenerationConfig | None = None
    generation_config: _GenerationConfig | None = None
    tools: list[dict[str, Raw]] | None = None
    toolConfig: Raw = Raw()
    tool_config: Raw = Raw()


_decode_request = msgspec.json.Decoder(_Request).decode
_decode_declarations = msgspec.json.Decoder(list[_Declaration]).decode


def decode_request(body: bytes) -> c.Request:
    """A generateContent request; streaming is decided by the URL, not by the body."""
    wire = json.decode_with(_decode_request, body)
    request = c.Request(model=wire.model or "", untranslated=known.gemini.unknown(body))
    instruction = wire.systemInstruction or wire.system_instruction
    if instruction is not None:
        request.system = "\n".join(part.text for part in instruction.parts or [] if part.text)
    _decode_contents(wire.contents or [], request)
    config = wire.generationConfig or wire.generation_config
    if config is not None:
        _decode_config(config, request)
    for group in wire.tools or []:
        _decode_tools(group, request)
    calling = content.optional(request, "toolConfig", wire.toolConfig or wire.tool_config, _ToolConfig)
    if calling is not None:
        _decode_choice(calling.functionCallingConfig or calling.function_calling_config, request)
    return request


def _decode_choice(calling: _CallingConfig | None, request: c.Request) -> None:
    if calling is None or not calling.mode:
        return
    names = calling.allowedFunctionNames or calling.allowed_function_names or []
    kind = _MODES.get(calling.mode.upper(), "auto")
    if len(names) == 1 and kind == "required":
        request.tool_choice = c.ToolChoice("tool", names[0])
        return
    request.tool_choice = c.ToolChoice(kind)
    if names:
        content.note(request, "toolConfig.functionCallingConfig.allowedFunctionNames")


def _decode_config(config: _GenerationConfig, request: c.Request) -> None:
    request.max_tokens = config.maxOutputTokens or config.max_output_tokens or 0
    request.temperature = json.number(config.temperature)
    request.top_p = json.number(config.topP or config.top_p)
    top_k = config.topK if config.topK is not None else config.top_k
    request.top_k = None if top_k is None else int(top_k)
    stop = content.optional(request, "stopSequences", config.stopSequences or config.stop_sequences, list[str])
    request.stop = stop or []
    request.seed = content.optional(request, "seed", config.seed, int)
    request.n = content.optional(request, "candidateCount", config.candidateCount or config.candidate_count, int)
    presence, frequency = config.presencePenalty, config.frequencyPenalty
    request.presence_penalty = content.optional_number(request, "presencePenalty", presence or config.presence_penalty)
    request.frequency_penalty = content.optional_number(
        request, "frequencyPenalty", frequency or config.frequency_penalty
    )
    _decode_format(config, request)
    wish = config.thinkingConfig or config.thinking_config
    thinking = content.optional(request, "thinkingConfig", wish, _ThinkingConfig)
    if thinking is not None:
        budget = thinking.thinkingBudget if thinking.thinkingBudget is not None else thinking.thinking_budget
        effort = (thinking.thinkingLevel or thinking.thinking_level or "").lower()
        if budget is not None or effort:
            request.reasoning = c.ReasoningRequest(effort, budget)


def _decode_format(config: _GenerationConfig, request: c.Request) -> None:
    """JSON, with its schema where there is one; other formats and schemas without JSON are noted."""
    kind = config.responseMimeType or config.response_mime_type
    own = config.responseSchema or config.response_schema
    schema = config.responseJsonSchema or config.response_json_schema
    if kind != "application/json":
        if kind not in (None, "", "text/plain"):
            content.note(request, "generationConfig.responseMimeType")
        if not (json.is_null(own) and json.is_null(schema)):
            content.note(request, "generationConfig.responseSchema")
    else:
        if not json.is_null(own):
            schema = Raw(json.encode(_retyped(json.tree(own), str.lower)))
        if json.is_null(schema):
            request.response_format = c.ResponseFormat("json_object")
        else:
            request.response_format = c.ResponseFormat("json_schema", schema)


def _decode_tools(group: dict[str, Raw], request: c.Request) -> None:
    for name, raw in group.items():
        if name not in ("functionDeclarations", "function_declarations"):
            content.note(request, f"tools[{name}]")
            continue
        for tool in json.decode_with(_decode_declarations, bytes(raw)):
            schema = None
            if not json.is_null(tool.parameters):
                schema = Raw(json.encode(_retyped(json.tree(tool.parameters), str.lower)))
            else:
                own = tool.parametersJsonSchema or tool.parameters_json_schema
                schema = None if json.is_null(own) else own
            request.tools.append(c.Tool(tool.name or "", tool.description or "", schema))


def _retyped(node: Any, change: Any) -> Any:
    """A schema with the words of its types in the other dialect's letter case, all the way down."""
    if isinstance(node, dict):
        fields = cast("dict[str, Any]", node)
        return {
            name: change(value)
            if name == "type" and isinstance(value, str) and value.lower() in _TYPES
            else _retyped(value, change)
            for name, value in fields.items()
        }
    if isinstance(node, list):
        return [_retyped(entry, change) for entry in cast("list[Any]", node)]
    return node


def _decode_contents(contents: list[Content], request: c.Request) -> None:
    open_calls: list[c.ToolCall] = []  # calls without a response yet
    used: set[str] = set()
    for turn in contents:
        role = {"model": "assistant", "": "user", None: "user"}.get(turn.role, turn.role or "user")
        message = c.Message(role)
        results: list[c.Message] = []
        texts: list[str] = []
        parts: list[c.Part] = []
        for part in turn.parts or []:
            call = part.functionCall or part.function_call
            answer = part.functionResponse or part.function_response
            if call is not None:
                made = _decode_call(call, used)
                made.signature = part.thoughtSignature or part.thought_signature or ""
                message.tool_calls.append(made)
                open_calls.append(made)
            elif answer is not None:
                results.append(_decode_result(answer, open_calls))
            elif part.thought:
                if part.thoughtSignature or part.thought_signature:
                    content.note(request, "thoughtSignature")
                message.thinking.append(c.Thinking(part.text or ""))
            elif part.text is not None:
                if part.thoughtSignature or part.thought_signature:
                    content.note(request, "thoughtSignature")
                texts.append(part.text)
                parts.append(c.Text(part.text))
            else:
                media = _decode_media(part)
                if media is None:
                    content.note(request, "contents[].parts[]")
                else:
                    parts.append(media)
        message.text = "\n".join(text for text in texts if text)
        if any(not isinstance(part, c.Text) for part in parts):
            message.parts = parts
        if message.tool_calls or message.text or message.parts:
            request.messages.append(message)
        elif message.thinking:
            content.note(request, "thinking")
        request.messages += results


def _decode_call(call: FunctionCall, used: set[str]) -> c.ToolCall:
    name = call.name or ""
    call_id, number = call.id or name, 1
    while call_id in used:
        number += 1
        call_id = f"{name}_{number}"
    used.add(call_id)
    arguments = "{}" if json.is_null(call.args) else json.raw_text(json.compact(call.args))
    return c.ToolCall(call_id, name, arguments)


def _decode_result(answer: _FunctionResponse, open_calls: list[c.ToolCall]) -> c.Message:
    name = answer.name or ""
    text = "{}" if json.is_null(answer.response) else json.raw_text(json.compact(answer.response))
    message = c.Message("tool", text, tool_call_id=answer.id or name, tool_name=name)
    for call in open_calls:
        if (answer.id and call.id == answer.id) or (not answer.id and call.name == name):
            message.tool_call_id = call.id
            open_calls.remove(call)
            break
    return message


def _decode_media(part: Part) -> c.Part | None:
    media = part.inlineData or part.inline_data or part.fileData or part.file_data
    if media is None:
        return None
    kind = media.mimeType or media.mime_type or ""
    url = media.fileUri or media.file_uri or ""
    if kind.startswith("image/"):
        return c.Image(kind, media.data or "", url)
    if kind.startswith("audio/") and media.data:
        return c.Audio(content.audio_format(kind), media.data)
    return c.File(kind, media.data or "", url, name=media.displayName or media.display_name or "")


def encode_request(request: c.Request) -> bytes:
    """The generateContent request. `model` stays in the body, where the URL is made from."""
    body: dict[str, Any] = {"model": request.model} if request.model else {}
    body["contents"] = _encode_contents(request)
    if request.system:
        body["systemInstruction"] = {"parts": [{"text": request.system}]}
    config = _encode_config(request)
    if config:
        body["generationConfig"] = config
    if request.tools:
        body["tools"] = [{"functionDeclarations": [_encode_tool(tool) for tool in request.tools]}]
    choice = request.tool_choice
    if choice is not None and choice.type in _MODES_OUT:
        calling: dict[str, Any] = {"mode": _MODES_OUT[choice.type]}
        if choice.type == "tool":
            calling["allowedFunctionNames"] = [choice.name]
        body["toolConfig"] = {"functionCallingConfig": calling}
    elif choice is not None and choice.type:
        content.note(request, "tool_choice")
    for name in ("metadata", "user", "parallel_tool_calls"):
        if getattr(request, name) not in (None, ""):
            content.note(request, name)
    content.note_format(request)
    return json.encode(body)


def _encode_config(request: c.Request) -> dict[str, Any]:
    config: dict[str, Any] = {}
    if request.max_tokens > 0:
        config["maxOutputTokens"] = request.max_tokens
    if request.temperature is not None:
        config["temperature"] = request.temperature
    if request.top_p is not None:
        config["topP"] = request.top_p
    if request.top_k is not None:
        config["topK"] = request.top_k
    if request.stop:
        config["stopSequences"] = request.stop
    if request.seed is not None:
        config["seed"] = request.seed
    if request.presence_penalty is not None:
        config["presencePenalty"] = request.presence_penalty
    if request.frequency_penalty is not None:
        config["frequencyPenalty"] = request.frequency_penalty
    wanted = request.response_format
    if wanted is not None and wanted.type in ("json_object", "json_schema"):
        config["responseMimeType"] = "application/json"
        if wanted.schema is not None:
            schema = _retyped(json.tree(wanted.schema), str.upper)
            if isinstance(schema, dict):
                cast("dict[str, Any]", schema).pop("$schema", None)
            config["responseSchema"] = schema
    budget = content.budget_of(request.reasoning)
    if budget is not None:
        config["thinkingConfig"] = {"thinkingBudget": budget}
    content.note_reasoning(request, budget)
    if request.n is not None and request.n > 1:
        content.note(request, "n")
    return config


def _encode_tool(tool: c.Tool) -> dict[str, Any]:
    wire: dict[str, Any] = {"name": tool.name}
    if tool.description:
        wire["description"] = tool.description
    if tool.schema is not None:
        wire["parameters"] = _retyped(json.tree(content.compact_schema(tool.schema)), str.upper)
    return wire


def _encode_contents(request: c.Request) -> list[dict[str, Any]]:
    names = {call.id: call.name for message in request.messages for call in message.tool_calls}
    result: list[dict[str, Any]] = []
    for message in request.messages:
        parts: list[dict[str, Any]] = []
        if message.role == "tool":
            name = message.tool_name or names.get(message.tool_call_id) or message.tool_call_id
            parts.append({"functionResponse": {"name": name, "response": _encode_result(message)}})
            parts += [part for part in _encode_parts(message.parts or [], request) if "text" not in part]
        else:
            if message.parts is not None:
                parts += _encode_parts(message.parts, request)
            elif message.text:
                parts.append({"text": message.text})
            for call in message.tool_calls:
                parts.append(encode_call(call))
        if message.thinking:
            content.note(request, "thinking")
        if not parts:
            continue
        role = {"assistant": "model", "tool": "user"}.get(message.role, message.role)
        result.append({"role": role, "parts": parts})
    return result


def encode_call(call: c.ToolCall) -> dict[str, Any]:
    """A `functionCall` part; free text of custom tools travels as `{"input": text}`."""
    if call.kind == "custom":
        arguments = Raw(json.encode({"input": call.arguments}))
    else:
        arguments = json.object_or_empty(call.arguments)
    part: dict[str, Any] = {"functionCall": {"name": call.name, "args": arguments}}
    if call.signature:
        part["thoughtSignature"] = call.signature
    return part


def _encode_result(message: c.Message) -> Any:
    text = content.tool_text(message)
    if json.is_object(text):
        return Raw(json.compact(text.encode()))
    return {"result": text}


def _encode_parts(parts: list[c.Part], request: c.Request) -> list[dict[str, Any]]:
    result: list[dict[str, Any]] = []
    for part in parts:
        if isinstance(part, c.Text):
            result.append({"text": part.text})
        elif isinstance(part, c.Audio):
            result.append({"inlineData": {"mimeType": "audio/" + part.format, "data": part.data}})
        elif part.data:
            if isinstance(part, c.Image):
                content.note_detail(request, part)
            elif part.name:
                content.note(request, "content[file].name")
            kind = part.media_type or "application/octet-stream"
            result.append({"inlineData": {"mimeType": kind, "data": part.data}})
        elif part.url:
            if isinstance(part, c.Image):
                content.note_detail(request, part)
            kind = part.media_type or ("image/jpeg" if isinstance(part, c.Image) else "application/pdf")
            result.append({"fileData": {"mimeType": kind, "fileUri": part.url}})
        else:
            content.note(request, "content[file].file_id")
    return result
