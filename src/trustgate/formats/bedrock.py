"""Bedrock InvokeModel: one request shape per model family, told by the model id; answers told by their members.

Claude and the OpenAI-shaped families use those dialects' codecs, the others have small shapes of their own. The model
is part of the URL and never of the body. Implements topic "Bedrock (InvokeModel per model family)" of the contract.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from . import anthropic, anthropic_answer, content, json, openai, openai_stream
from . import canonical as c
from .anthropic_answer import BedrockMetrics

ANTHROPIC_VERSION = "bedrock-2023-05-31"
_OPENAI_FAMILIES = ("openai.", "qwen.", "google.gemma", "nvidia.", "minimax.", "zai.", "deepseek", "ai21.jamba")
_PROMPT_MISTRALS = ("mistral-7b-instruct", "mixtral-8x7b-instruct", "mistral-large-2402", "mistral-small-2402")
_NOVA_FINISH = {"end_turn": "stop", "stop_sequence": "stop", "max_tokens": "length", "tool_use": "tool_calls"}
_TITAN_FINISH = {"FINISH": "stop", "FINISHED": "stop", "LENGTH": "length", "CONTENT_FILTERED": "content_filter"}
_LLAMA_FINISH = {"stop": "stop", "end_of_text": "stop", "length": "length"}
_MISTRAL_FINISH = {"stop": "stop", "end_turn": "stop", "length": "length"}


def family(model: str) -> str:
    """`claude`, `nova`, `openai`, `titan`, `llama` or `prompt-mistral`; unknown ids and ARNs are Claude."""
    name = model.lower()
    if "claude" in name:
        return "claude"
    if "amazon.nova" in name:
        return "nova"
    if any(part in name for part in _OPENAI_FAMILIES):
        return "openai"
    if "amazon.titan" in name:
        return "titan"
    if "llama" in name:
        return "llama"
    if "mistral" in name or "mixtral" in name:
        return "prompt-mistral" if any(part in name for part in _PROMPT_MISTRALS) else "openai"
    return "claude"


def encode_request(request: c.Request) -> bytes:
    """The body for the family of the request's model."""
    kind = family(request.model)
    request.model, request.stream = "", False
    if kind == "openai":
        return openai.encode_request(request)
    if kind == "claude":
        return json.set_members(anthropic.encode_request(request), {"anthropic_version": ANTHROPIC_VERSION})
    for name in (
        "tools",
        "tool_choice",
        "response_format",
        "seed",
        "presence_penalty",
        "frequency_penalty",
        "reasoning",
        "parallel_tool_calls",
        "user",
        "metadata",
    ):
        if getattr(request, name) not in (None, "", []):
            content.note(request, name)
    if request.n is not None and request.n > 1:
        content.note(request, "n")
    for message in request.messages:
        if message.tool_calls or message.role == "tool":
            content.note(request, "messages[].tool_calls")
        if message.thinking:
            content.note(request, "thinking")
        if message.parts is not None and kind != "nova":
            content.note(request, "content parts")
    return json.encode(_BODIES[kind](request))


def claude_from_anthropic(body: bytes) -> bytes:
    """An Anthropic client's own JSON as a body for Claude on Bedrock; everything that is not forbidden there stays."""
    fields: dict[str, Any] = dict(json.members(body))
    fields.pop("model", None)
    fields.pop("stream", None)
    fields.setdefault("max_tokens", anthropic.DEFAULT_MAX_TOKENS)
    fields["anthropic_version"] = ANTHROPIC_VERSION
    return json.compact(json.encode(fields))


def _nova(request: c.Request) -> dict[str, Any]:
    body: dict[str, Any] = {}
    if request.system:
        body["system"] = [{"text": request.system}]
    body["messages"] = [_nova_message(message, request) for message in request.messages]
    config = _settings(request, "maxTokens", "temperature", "topP", "topK", "stopSequences")
    if config:
        body["inferenceConfig"] = config
    return body


def _nova_message(message: c.Message, request: c.Request) -> dict[str, Any]:
    role = "user" if message.role == "tool" else message.role
    blocks: list[dict[str, Any]] = []
    for part in message.parts or [c.Text(content.tool_text(message))]:
        if isinstance(part, c.Text):
            blocks.append({"text": part.text})
        elif isinstance(part, c.Image) and part.data:
            content.note_detail(request, part)
            image = {"format": part.media_type.removeprefix("image/"), "source": {"bytes": part.data}}
            blocks.append({"image": image})
        else:
            content.note(request, "content parts")
    return {"role": role, "content": blocks}


def _settings(
    request: c.Request, limit: str, temperature: str, top_p: str, top_k: str | None, stop: str | None
) -> dict[str, Any]:
    """The sampling settings under a family's own names; None for those the family does not have."""
    result: dict[str, Any] = {}
    if request.max_tokens > 0:
        result[limit] = request.max_tokens
    if request.temperature is not None:
        result[temperature] = request.temperature
    if request.top_p is not None:
        result[top_p] = request.top_p
    if request.top_k is not None:
        if top_k is None:
            content.note(request, "top_k")
        else:
            result[top_k] = request.top_k
    if request.stop:
        if stop is None:
            content.note(request, "stop")
        else:
            result[stop] = request.stop
    return result


def _titan(request: c.Request) -> dict[str, Any]:
    lines = [request.system + "\n"] if request.system else []
    for message in request.messages:
        label = {"user": "User", "assistant": "Assistant"}.get(message.role, message.role)
        lines.append(f"{label}: {message.text}")
    body: dict[str, Any] = {"inputText": "\n".join(lines).strip()}
    config = _settings(request, "maxTokenCount", "temperature", "topP", None, "stopSequences")
    if config:
        body["textGenerationConfig"] = config
    return body


def _llama(request: c.Request) -> dict[str, Any]:
    turns = [("system", request.system)] if request.system else []
    turns += [(message.role, message.text) for message in request.messages]
    prompt = "<|begin_of_text|>"
    for role, text in turns:
        prompt += f"<|start_header_id|>{role}<|end_header_id|>\n\n{text}<|eot_id|>"
    prompt += "<|start_header_id|>assistant<|end_header_id|>\n\n"
    return {"prompt": prompt} | _settings(request, "max_gen_len", "temperature", "top_p", None, None)


def _prompt_mistral(request: c.Request) -> dict[str, Any]:
    prompt, system = "<s>", request.system
    for message in request.messages:
        if message.role == "user":
            lead = system + "\n\n" if system else ""
            system = ""
            prompt += f"[INST] {lead}{message.text} [/INST]"
        elif message.role == "assistant":
            prompt += f"{message.text}</s>"
        elif message.role != "tool":
            content.note(request, f"messages[{message.role}]")
    if system:  # no user's turn that it could lead
        prompt += f"[INST] {system} [/INST]"
    return {"prompt": prompt} | _settings(request, "max_tokens", "temperature", "top_p", "top_k", "stop")


_BODIES = {"nova": _nova, "titan": _titan, "llama": _llama, "prompt-mistral": _prompt_mistral}


class _NovaText(Struct):
    text: str | None = None


class _NovaMessage(Struct):
    role: str | None = None
    content: list[_NovaText] | None = None


class _NovaOutput(Struct):
    message: _NovaMessage | None = None


class _NovaUsage(Struct):
    inputTokens: int | None = None
    outputTokens: int | None = None
    totalTokens: int | None = None
    cacheReadInputTokenCount: int | None = None


class _TitanResult(Struct):
    outputText: str | None = None
    tokenCount: int | None = None
    completionReason: str | None = None


class _MistralOutput(Struct):
    text: str | None = None
    stop_reason: str | None = None


class _NovaDelta(Struct):
    delta: _NovaText | None = None


class _NovaStart(Struct):
    role: str | None = None


class _NovaStop(Struct):
    stopReason: str | None = None


class _NovaMetadata(Struct):
    usage: _NovaUsage | None = None


class _Answer(Struct, rename={"metrics": "amazon-bedrock-invocationMetrics"}):
    """Members of all families but Claude and the OpenAI-shaped ones, of answers and of stream events."""

    output: _NovaOutput | None = None
    stopReason: str | None = None
    usage: _NovaUsage | None = None
    results: list[_TitanResult] | None = None
    inputTextTokenCount: int | None = None
    generation: str | None = None
    stop_reason: str | None = None
    prompt_token_count: int | None = None
    generation_token_count: int | None = None
    outputs: list[_MistralOutput] | None = None
    outputText: str | None = None
    completionReason: str | None = None
    totalOutputTextTokenCount: int | None = None
    messageStart: _NovaStart | None = None
    contentBlockDelta: _NovaDelta | None = None
    messageStop: _NovaStop | None = None
    metadata: _NovaMetadata | None = None
    metrics: BedrockMetrics | None = None


_decode_answer = msgspec.json.Decoder(_Answer).decode


def _usage(read: int | None, written: int | None, total: int | None, metrics: BedrockMetrics | None) -> c.Usage | None:
    usage = c.Usage(read or 0, written or 0, total or 0)
    if metrics is not None:
        usage.input_tokens = usage.input_tokens or metrics.input or 0
        usage.output_tokens = usage.output_tokens or metrics.output or 0
    return c.usage_or_none(usage)


def _finish(table: dict[str, str], word: str | None, empty: str) -> str:
    return table.get(word, word) if word else empty


def decode_response(body: bytes) -> c.Response:
    """The answer of whichever family, told by the first member found."""
    keys = json.members(body).keys()
    if "output" in keys:
        return _nova_response(body)
    if "results" in keys:
        return _titan_response(body)
    if "generation" in keys:
        wire = json.decode_with(_decode_answer, body)
        finish = _finish(_LLAMA_FINISH, wire.stop_reason, "stop")
        usage = _usage(wire.prompt_token_count, wire.generation_token_count, None, wire.metrics)
        return c.Response(text=wire.generation or "", finish_reason=finish, usage=usage)
    if "outputs" in keys:
        wire = json.decode_with(_decode_answer, body)
        first = wire.outputs[0] if wire.outputs else _MistralOutput()
        finish = _finish(_MISTRAL_FINISH, first.stop_reason, "stop")
        return c.Response(text=first.text or "", finish_reason=finish, usage=_usage(None, None, None, wire.metrics))
    if "choices" in keys:
        return openai.decode_response(body)
    return anthropic_answer.decode_response(body)


def _nova_response(body: bytes) -> c.Response:
    wire = json.decode_with(_decode_answer, body)
    message = (wire.output or _NovaOutput()).message or _NovaMessage()
    text = "".join(block.text or "" for block in message.content or [])
    counts = wire.usage or _NovaUsage()
    usage = _usage(counts.inputTokens, counts.outputTokens, counts.totalTokens, wire.metrics)
    return c.Response(text=text, finish_reason=_finish(_NOVA_FINISH, wire.stopReason, "stop"), usage=usage)


def _titan_response(body: bytes) -> c.Response:
    wire = json.decode_with(_decode_answer, body)
    results = wire.results or []
    text = "".join(result.outputText or "" for result in results)
    reason = results[0].completionReason if results else None
    written = sum(result.tokenCount or 0 for result in results)
    usage = _usage(wire.inputTextTokenCount, written, None, wire.metrics)
    return c.Response(text=text, finish_reason=_finish(_TITAN_FINISH, reason, "stop"), usage=usage)


_NOVA_EVENTS = frozenset({"messageStart", "contentBlockStart", "contentBlockDelta", "contentBlockStop", "messageStop"})


class Decoder:
    """Reads the JSON of each `chunk`, told by its members. An empty finish word means that there is more to come."""

    def __init__(self) -> None:
        self._claude = anthropic_answer.Decoder()
        self._openai = openai_stream.Decoder()

    def decode(self, payload: bytes) -> c.StreamEvent | None:
        """The canonical event of one chunk. Raises `DecodeError`."""
        if payload.startswith(b'{"type":'):
            return self._claude.decode(payload)
        keys = json.members(payload).keys()
        if keys & _NOVA_EVENTS or ("metadata" in keys and "type" not in keys):
            return self._nova(payload)
        if "outputText" in keys:
            return self._titan(payload)
        if "generation" in keys:
            wire = json.decode_with(_decode_answer, payload)
            finish = _finish(_LLAMA_FINISH, wire.stop_reason, "")
            usage = _usage(wire.prompt_token_count, wire.generation_token_count, None, wire.metrics)
            return c.StreamEvent(text=wire.generation or "", finish_reason=finish, usage=usage)
        if "outputs" in keys:
            wire = json.decode_with(_decode_answer, payload)
            first = wire.outputs[0] if wire.outputs else _MistralOutput()
            finish = _finish(_MISTRAL_FINISH, first.stop_reason, "")
            usage = _usage(None, None, None, wire.metrics)
            return c.StreamEvent(text=first.text or "", finish_reason=finish, usage=usage)
        if "choices" in keys:
            event = self._openai.decode(payload)
            metrics = json.decode_with(_decode_answer_metrics, payload).metrics
            if event is not None and event.usage is None and metrics is not None:
                event.usage = _usage(None, None, None, metrics)
            return event
        return self._claude.decode(payload)

    def _nova(self, payload: bytes) -> c.StreamEvent:
        wire = json.decode_with(_decode_answer, payload)
        event = c.StreamEvent()
        if wire.messageStart is not None:
            event.role = "assistant"
        if wire.contentBlockDelta is not None and wire.contentBlockDelta.delta is not None:
            event.text = wire.contentBlockDelta.delta.text or ""
        if wire.messageStop is not None:
            event.finish_reason = _finish(_NOVA_FINISH, wire.messageStop.stopReason, "")
        counts = (wire.metadata.usage if wire.metadata is not None else None) or _NovaUsage()
        event.usage = _usage(counts.inputTokens, counts.outputTokens, counts.totalTokens, wire.metrics)
        return event

    def _titan(self, payload: bytes) -> c.StreamEvent:
        wire = json.decode_with(_decode_answer, payload)
        finish = _finish(_TITAN_FINISH, wire.completionReason, "")
        usage = _usage(wire.inputTextTokenCount, wire.totalOutputTextTokenCount, None, wire.metrics)
        return c.StreamEvent(text=wire.outputText or "", finish_reason=finish, usage=usage)


class _Metrics(Struct, rename={"metrics": "amazon-bedrock-invocationMetrics"}):
    metrics: BedrockMetrics | None = None


_decode_answer_metrics = msgspec.json.Decoder(_Metrics).decode
