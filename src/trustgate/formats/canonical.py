"""The dialect-neutral model of a chat call: request, answer and stream event.

Codecs translate between this model and one dialect each; nothing here knows any dialect. Members follow the
vocabulary of the OpenAI and Anthropic APIs. Text is primary (`Message.text`): only a message that holds more than
text has `parts`, so plain conversations stay cheap. JSON that is only carried (schemas, arguments) stays text.
"""

from __future__ import annotations

from msgspec import Raw, Struct, field


class Text(Struct):
    """A run of text between other parts of a message."""

    text: str


class Image(Struct):
    """An image, inline (`data`, base64, with `media_type`) or by `url`."""

    media_type: str = ""
    data: str = ""
    url: str = ""
    detail: str = ""


class File(Struct):
    """A document, inline (base64), by `url`, or by an id that the provider gave out."""

    media_type: str = ""
    data: str = ""
    url: str = ""
    file_id: str = ""
    name: str = ""


class Audio(Struct):
    """Inline sound, base64; `format` is `wav`, `mp3`, …"""

    format: str
    data: str


Part = Text | Image | File | Audio


class Thinking(Struct):
    """Reasoning of an earlier turn. `signature` and `redacted` are opaque and belong to the provider that made them."""

    text: str = ""
    signature: str = ""
    redacted: str = ""


class ToolCall(Struct):
    """A call the model made. `arguments` is JSON text, or free text for the kind `custom`."""

    id: str
    name: str
    arguments: str
    kind: str = ""
    signature: str = ""


class Message(Struct):
    """One turn. `parts` is None unless something other than text is in it; then it holds the text too, in order."""

    role: str
    text: str = ""
    parts: list[Part] | None = None
    tool_calls: list[ToolCall] = field(default_factory=list[ToolCall])
    tool_call_id: str = ""
    tool_name: str = ""
    is_error: bool = False
    thinking: list[Thinking] = field(default_factory=list[Thinking])
    refusal: str = ""


class Tool(Struct):
    """A tool on offer: `schema` is the JSON schema of its arguments (None: not given), `format` a custom tool's own."""

    name: str
    description: str = ""
    schema: Raw | None = None
    kind: str = ""
    format: Raw | None = None
    strict: bool | None = None


class ToolChoice(Struct):
    """`auto`, `none`, `required`, or `tool` with its name; `type` may be a dialect's own word that nobody mapped."""

    type: str
    name: str = ""


class ResponseFormat(Struct):
    """`text`, `json_object`, or `json_schema` with its schema."""

    type: str
    schema: Raw | None = None
    name: str = ""
    description: str = ""
    strict: bool | None = None


class ReasoningRequest(Struct):
    """How much the model should think: an effort word, or a budget in tokens (0 turns it off, -1 lets it choose)."""

    effort: str = ""
    budget_tokens: int | None = None


class Request(Struct):
    """A chat request. `untranslated` collects the members that a decoder or encoder could not carry."""

    model: str = ""
    system: str = ""
    messages: list[Message] = field(default_factory=list[Message])
    tools: list[Tool] = field(default_factory=list[Tool])
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    max_tokens: int = 0
    temperature: Raw | None = None
    top_p: Raw | None = None
    top_k: int | None = None
    stop: list[str] = field(default_factory=list[str])
    stream: bool = False
    response_format: ResponseFormat | None = None
    metadata: Raw | None = None
    seed: int | None = None
    n: int | None = None
    presence_penalty: Raw | None = None
    frequency_penalty: Raw | None = None
    reasoning: ReasoningRequest | None = None
    user: str = ""
    untranslated: list[str] = field(default_factory=list[str])


class Usage(Struct):
    """Token counts. `input_tokens` and `output_tokens` are the dialect's own totals; the rest are details of them."""

    input_tokens: int = 0
    output_tokens: int = 0
    total_tokens: int = 0
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int = 0
    cached_input_tokens: int = 0
    reasoning_output_tokens: int = 0
    tool_use_input_tokens: int = 0
    service_tier: str = ""

    def merge(self, newer: Usage) -> None:
        """Takes over what a later event knows: the larger count of each field, the last service tier."""
        self.input_tokens = max(self.input_tokens, newer.input_tokens)
        self.output_tokens = max(self.output_tokens, newer.output_tokens)
        self.total_tokens = max(self.total_tokens, newer.total_tokens, self.input_tokens + self.output_tokens)
        self.cache_creation_input_tokens = max(self.cache_creation_input_tokens, newer.cache_creation_input_tokens)
        self.cache_read_input_tokens = max(self.cache_read_input_tokens, newer.cache_read_input_tokens)
        self.cached_input_tokens = max(self.cached_input_tokens, newer.cached_input_tokens)
        self.reasoning_output_tokens = max(self.reasoning_output_tokens, newer.reasoning_output_tokens)
        self.tool_use_input_tokens = max(self.tool_use_input_tokens, newer.tool_use_input_tokens)
        self.service_tier = newer.service_tier or self.service_tier

    @property
    def cached(self) -> int:
        """Input tokens read from a cache, whichever dialect counted them."""
        return self.cached_input_tokens or self.cache_read_input_tokens


def usage_or_none(usage: Usage) -> Usage | None:
    """The usage with its total filled in; None when nothing was counted."""
    if not (usage.input_tokens or usage.output_tokens or usage.total_tokens):
        return None
    if not usage.total_tokens:
        usage.total_tokens = usage.input_tokens + usage.output_tokens
    return usage


class UpstreamError(Struct):
    """An error that a provider reported inside a success or a stream."""

    message: str
    type: str = ""
    code: str = ""


class Response(Struct):
    """A complete answer. `finish_reason` is `stop`, `length`, `tool_calls`, `content_filter` or the provider's word."""

    id: str = ""
    model: str = ""
    text: str = ""
    role: str = "assistant"
    tool_calls: list[ToolCall] = field(default_factory=list[ToolCall])
    finish_reason: str = ""
    usage: Usage | None = None
    thinking: list[Thinking] = field(default_factory=list[Thinking])
    refusal: str = ""
    reasoning_effort: Raw | None = None
    created: int = 0
    error: UpstreamError | None = None

    @property
    def thinking_text(self) -> str:
        """The readable reasoning, blocks separated by a blank line."""
        return "\n\n".join(block.text for block in self.thinking if block.text)


class ToolDelta(Struct):
    """A fragment of a tool call; `index` tells the calls of one answer apart, in the upstream's own numbering."""

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""
    kind: str = ""
    signature: str = ""


class StreamEvent(Struct):
    """What one upstream event adds to the answer. Empty members add nothing."""

    id: str = ""
    model: str = ""
    role: str = ""
    text: str = ""
    reasoning: str = ""
    signature: str = ""
    redacted: str = ""
    refusal: str = ""
    finish_reason: str = ""
    tool_calls: list[ToolDelta] | None = None
    usage: Usage | None = None
    error: UpstreamError | None = None
    done: bool = False


class Observed(Struct):
    """What accounting and telemetry read from an answer."""

    id: str = ""
    model: str = ""
    finish_reason: str = ""
    usage: Usage | None = None
