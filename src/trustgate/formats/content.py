"""Pieces that several codecs share: text extraction, media parts, schemas, stop lists, effort words, error objects.

Nothing here knows a whole message of any dialect.
"""

from __future__ import annotations

import base64
import re
from itertools import islice
from typing import Any, TypeVar, cast

import msgspec
from msgspec import Raw, Struct

from . import canonical as c
from . import json

T = TypeVar("T")

DEFAULT_SCHEMA = Raw(b'{"type":"object","properties":{}}')
_DATA_URL = re.compile(r"data:([^;,]*)(?:;[^,;]*)*;base64,(.*)", re.DOTALL)
# Effort words and thinking budgets, as the providers document their presets.
_BUDGETS = {"none": 0, "minimal": 512, "low": 1024, "medium": 8192, "high": 24576, "xhigh": 32768}
# Clients choose these names, so neither their number nor their length may grow.
MAX_NOTED = 64
MAX_NOTED_NAME = 128
_AUDIO_TYPES = {"audio/wav": "wav", "audio/x-wav": "wav", "audio/mpeg": "mp3", "audio/mp3": "mp3"}

_decode_string = msgspec.json.Decoder(str).decode
_decode_any = msgspec.json.Decoder().decode


def note(request: c.Request | None, member: str) -> None:
    """Remembers a member that the translation cannot carry, once; of very many, the first ones."""
    if request is None or len(request.untranslated) >= MAX_NOTED:
        return
    if member[:MAX_NOTED_NAME] not in request.untranslated:
        request.untranslated.append(member[:MAX_NOTED_NAME])


def unknown_members(body: bytes, modelled: frozenset[str]) -> list[str]:
    """Names of the body's top-level members that a decoder does not read (null values carry nothing), shortened."""
    unknown = (name for name, raw in json.members(body).items() if name not in modelled and not json.is_null(raw))
    return [name[:MAX_NOTED_NAME] for name in islice(unknown, MAX_NOTED)]


def optional(request: c.Request | None, name: str, raw: Raw, kind: type[T]) -> T | None:
    """A member that is carried where its type fits: None, and a note, for every other type; None for absent and null.

    For members that a request may lose without becoming another request, so that an odd one never hides its texts.
    """
    if json.is_null(raw):
        return None
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        note(request, name)
        return None


def optional_number(request: c.Request, name: str, raw: Raw) -> Raw | None:
    """`optional` for a number whose literal is kept."""
    try:
        return json.number(raw)
    except json.DecodeError:
        note(request, name)
        return None


class _ImageUrl(Struct):
    url: str | None = None
    detail: str | None = None


class _InputAudio(Struct):
    data: str | None = None
    format: str | None = None


class _FileRef(Struct):
    file_data: str | None = None
    file_id: str | None = None
    filename: str | None = None


class _Document(Struct):
    data: Raw = Raw()


class _OpenAIPart(Struct):
    type: str | None = None
    document: Raw = Raw()
    text: str | None = None
    refusal: str | None = None
    image_url: _ImageUrl | str | None = None
    input_audio: _InputAudio | None = None
    file: _FileRef | None = None
    file_data: str | None = None
    file_id: str | None = None
    file_url: str | None = None
    filename: str | None = None
    detail: str | None = None


class _PlainPart(Struct):
    type: str | None = None
    text: str | None = None


_decode_parts = msgspec.json.Decoder(list[_OpenAIPart]).decode
_decode_plain_parts = msgspec.json.Decoder(list[_PlainPart]).decode


def openai_content(raw: Raw, request: c.Request | None) -> tuple[str, list[c.Part] | None]:
    """Text and, where there is more than text, parts of a `content` member of the OpenAI dialects.

    A string is itself; an array gives its non-empty texts joined by line feeds; any other value its own JSON text.
    """
    literal = bytes(raw)
    first = literal[:1]
    if first == b'"':
        return json.decode_with(_decode_string, literal), None
    if not literal or literal == b"null":
        return "", None
    if first != b"[":
        return json.raw_text(json.compact(literal)), None
    texts: list[str] = []
    parts: list[c.Part] = []
    rich = False
    for wire in _parts(literal):
        part = _openai_part(wire)
        if part is None:
            note(request, f"content[{wire.type or ''}]")
        elif isinstance(part, c.Text):
            if part.text:
                texts.append(part.text)
                parts.append(part)
        else:
            rich = True
            parts.append(part)
    return "\n".join(texts), parts if rich else None


def _parts(literal: bytes) -> list[_OpenAIPart]:
    """The parts of a content array; only their texts where another member has an odd type."""
    try:
        return json.decode_with(_decode_parts, literal)
    except json.DecodeError:
        plain = json.decode_with(_decode_plain_parts, literal)
        return [_OpenAIPart(type=part.type, text=part.text) for part in plain]


def _openai_part(wire: _OpenAIPart) -> c.Part | None:
    if wire.text is not None:
        return c.Text(wire.text)
    if wire.refusal is not None:
        return c.Text(wire.refusal)
    if wire.type == "document" and bytes(wire.document)[:1] == b"{":
        document = optional(None, "", wire.document, _Document)
        return None if document is None else c.Text(_document_text(document.data))
    if wire.image_url is not None:
        image = wire.image_url
        url, detail = (image, wire.detail) if isinstance(image, str) else (image.url, image.detail)
        return image_of_url(url or "", detail or "")
    if wire.input_audio is not None:
        return c.Audio(wire.input_audio.format or "wav", wire.input_audio.data or "")
    if wire.file is not None:
        return _file(wire.file.file_data, wire.file.file_id, None, wire.file.filename)
    if wire.file_data or wire.file_id or wire.file_url:
        if wire.type == "input_image":
            return None
        return _file(wire.file_data, wire.file_id, wire.file_url, wire.filename)
    return None


def _document_text(data: Raw) -> str:
    """Cohere's documents, the usual content of tool results there: a text, or an object that is told as JSON."""
    literal = bytes(data)
    if literal[:1] == b'"':
        return json.decode_with(_decode_string, literal)
    return "" if json.is_null(data) else json.raw_text(json.compact(data))


def _file(data: str | None, file_id: str | None, url: str | None, name: str | None) -> c.File:
    match = _DATA_URL.fullmatch(data or "")
    media_type, inline = (match[1], match[2]) if match else ("", data or "")
    return c.File(media_type or "application/pdf", inline, url or "", file_id or "", name or "")


def image_of_url(url: str, detail: str = "") -> c.Image:
    """An image by URL; a base64 data URL becomes an inline image."""
    match = _DATA_URL.fullmatch(url)
    if match:
        return c.Image(media_type=match[1] or "image/png", data=match[2], detail=detail)
    return c.Image(url=url, detail=detail)


def url_of_image(image: c.Image) -> str:
    """The image's URL, a data URL for inline ones."""
    return image.url or f"data:{image.media_type or 'image/png'};base64,{image.data}"


def url_of_file(file: c.File) -> str:
    """A data URL for an inline document."""
    return f"data:{file.media_type or 'application/pdf'};base64,{file.data}"


def note_system(request: c.Request, parts: list[c.Part] | None) -> None:
    """Notes what is no text in a system message: the system prompt is one text in most dialects."""
    if parts is not None:
        note(request, "content parts of a system message")


def note_detail(request: c.Request, image: c.Image) -> None:
    """Notes a wished resolution, for dialects that cannot say it."""
    if image.detail not in ("", "auto"):
        note(request, "content[image].detail")


def note_format(request: c.Request) -> None:
    """Notes what is lost of tools and of the answer's format where a dialect takes schemas and nothing else."""
    note_custom(request)
    if any(tool.strict for tool in request.tools):
        note(request, "tools[].strict")
    if request.response_format is not None and request.response_format.description:
        note(request, "response_format.description")


def note_custom(request: c.Request) -> None:
    """Notes the grammars of custom tools, for dialects where those travel as function tools."""
    if any(tool.format is not None for tool in request.tools):
        note(request, "tools[].format")


def note_signatures(request: c.Request) -> None:
    """Notes Gemini's signatures of calls, for dialects without a place for them."""
    if any(call.signature for message in request.messages for call in message.tool_calls):
        note(request, "thoughtSignature")


def openai_parts(parts: list[c.Part], request: c.Request) -> list[dict[str, Any]]:
    """`content` parts of a chat completion request."""
    result: list[dict[str, Any]] = []
    for part in parts:
        if isinstance(part, c.Text):
            result.append({"type": "text", "text": part.text})
        elif isinstance(part, c.Image):
            image: dict[str, Any] = {"url": url_of_image(part)}
            if part.detail:
                image["detail"] = part.detail
            result.append({"type": "image_url", "image_url": image})
        elif isinstance(part, c.Audio):
            result.append({"type": "input_audio", "input_audio": {"data": part.data, "format": part.format}})
        elif part.file_id:
            result.append({"type": "file", "file": {"file_id": part.file_id}})
        elif part.data:
            file = {"filename": part.name or "document", "file_data": url_of_file(part)}
            result.append({"type": "file", "file": file})
        else:
            note(request, "content[file].url")
    return result


def is_custom(name: str, tools: list[c.Tool]) -> bool:
    """Whether the tool of that name is a custom one."""
    return any(tool.kind == "custom" and tool.name == name for tool in tools)


def plain_text(data: str) -> str | None:
    """The text that base64 data holds, None when it is none."""
    try:
        return base64.b64decode(data, validate=True).decode()
    except (ValueError, UnicodeError):
        return None


def tool_text(message: c.Message) -> str:
    """The text of a message; a failed tool result says so, for dialects without a flag of their own."""
    return "error: " + message.text if message.is_error and message.text else message.text


def audio_format(media_type: str) -> str:
    """The short name of an audio type, `wav` for `audio/wav`."""
    return _AUDIO_TYPES.get(media_type, media_type.removeprefix("audio/"))


def stop_list(raw: Raw) -> list[str]:
    """`stop` as a list: a string alone, an array of strings; anything else is no stop."""
    literal = bytes(raw)
    if literal[:1] == b'"':
        return [json.decode_with(_decode_string, literal)]
    if literal[:1] == b"[":
        value = json.decode_with(_decode_any, literal)
        if isinstance(value, list):
            entries = cast("list[Any]", value)
            if all(isinstance(entry, str) for entry in entries):
                return cast("list[str]", entries)
    return []


def compact_schema(schema: Raw) -> Raw:
    """A schema ready to be embedded; the empty schema of a missing or empty one."""
    literal = json.compact(schema)
    return DEFAULT_SCHEMA if literal in (b"{}", b"null", b'""', b"") else Raw(literal)


def effort_of(reasoning: c.ReasoningRequest | None) -> str:
    """The effort word for a wish given as word or budget; empty when there is none."""
    if reasoning is None:
        return ""
    if reasoning.effort:
        return reasoning.effort
    budget = reasoning.budget_tokens
    if budget is None or budget < 0:
        return ""
    if budget == 0:
        return "none"
    return "low" if budget <= 4096 else "medium" if budget <= 16384 else "high"


def note_reasoning(request: c.Request, carried: object) -> None:
    """Notes a wish for thinking that has no word, or no budget, in the dialect."""
    if carried in (None, "") and request.reasoning is not None:
        note(request, "reasoning")


def budget_of(reasoning: c.ReasoningRequest | None) -> int | None:
    """The thinking budget in tokens for a wish given as budget or word; None when there is none."""
    if reasoning is None:
        return None
    if reasoning.budget_tokens is not None:
        return reasoning.budget_tokens
    return _BUDGETS.get(reasoning.effort)


class _Error(Struct):
    message: str | None = None
    type: str | None = None
    status: str | None = None
    code: str | int | float | None = None


_decode_error = msgspec.json.Decoder(_Error).decode


def error_of(raw: Raw) -> c.UpstreamError | None:
    """The error that an `error` member describes, an object or a plain text; None when it is absent."""
    literal = bytes(raw)
    if not literal or literal == b"null":
        return None
    if literal[:1] == b'"':
        return c.UpstreamError(message=json.decode_with(_decode_string, literal))
    if literal[:1] != b"{":
        return c.UpstreamError(message=literal.decode("utf-8", "replace"))
    try:
        wire = json.decode_with(_decode_error, literal)
    except json.DecodeError:
        return c.UpstreamError(message="upstream error")
    code = "" if wire.code is None else str(wire.code)
    return c.UpstreamError(wire.message or "upstream error", wire.type or wire.status or "", code)
