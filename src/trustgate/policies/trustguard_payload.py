"""What TrustGuard is shown of a request, an answer or a tool call (spec 04 §14.15, payloads)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec

from trustgate.formats import json as fj
from trustgate.formats.errors import DecodeError
from trustgate.policies.conversation import Call, Prompt
from trustgate.policies.holdback import Said
from trustgate.policies.model import PolicyRequest
from trustgate.policies.texts import prompt_text
from trustgate.policies.tools import Tool

Json = dict[str, Any]

_DATA_URL = re.compile(r"data:([^,]*?)(?:;base64)?,(.*)", re.DOTALL)
_NOT_THE_CLIENT = frozenset(("assistant", "model", "tool", "system", "developer"))
_FILE_TYPES = frozenset(("file", "input_file", "document"))


def llm_input(prompt: Prompt, tools: list[Tool]) -> Json | None:
    """System prompt, messages, tools and attachments; None when there is nothing to look at."""
    attachments = collect_attachments(prompt.tree)
    if not prompt_text(prompt).strip() and not attachments:
        return None
    messages: list[Json] = []
    if prompt.system_text.strip():
        messages.append({"role": "system", "content": prompt.system_text.strip()})
    for turn in prompt.turns:
        message: Json = {"role": turn.role, "content": turn.text}
        if turn.calls:
            message["content"] = turn.text if turn.text.strip() else None
            message["tool_calls"] = _calls(turn.calls)
        if turn.call_id:
            message["tool_call_id"] = turn.call_id
        messages.append(message)
    payload: Json = {"messages": messages}
    if tools:
        payload["tools"] = [_tool(tool) for tool in tools]
    if attachments:
        payload["attachments"] = attachments
    return payload


def llm_output(text: str, reasoning: str, calls: list[Call], tools: list[Tool]) -> Json | None:
    """The assistant's message; None when it says nothing and the request offered no tools."""
    if text == reasoning and reasoning:
        text = ""
    if not (text.strip() or reasoning.strip() or calls or tools):
        return None
    message: Json = {"role": "assistant", "content": None if calls and not text.strip() else text}
    if reasoning.strip():
        message["reasoning_content"] = reasoning
    if calls:
        message["tool_calls"] = _calls(calls)
    payload: Json = {"messages": [message]}
    if tools:
        payload["tools"] = [_tool(tool) for tool in tools]
    return payload


def llm_stream(said: list[Said], tools: list[Tool]) -> Json | None:
    """What is held of a streamed answer, as `llm_output` shows whole ones; a message for each of its choices."""
    shown = [llm_output(answer.text, answer.reasoning, answer.calls, tools) for answer in said]
    payloads = [payload for payload in shown if payload is not None]
    if not payloads:
        return None
    return payloads[0] | {"messages": [message for payload in payloads for message in payload["messages"]]}


def mcp_input(body: bytes, operation: str = "") -> Json | None:
    """The tool call as JSON-RPC; None without a tool name. Likewise a prompt's, and the URI of a resource."""
    try:
        call = fj.object_tree(body)
    except DecodeError:
        return None
    method = operation or "tools/call"
    if method == "resources/read":
        return {"id": 1, "jsonrpc": "2.0", "method": method, "params": {"uri": call.get("uri")}}
    name = call.get("name")
    if not isinstance(name, str) or not name:
        return None
    params: Json = {"name": name}
    if "arguments" in call:
        params["arguments"] = call["arguments"]
    return {"id": 1, "jsonrpc": "2.0", "method": method, "params": params}


def mcp_output(body: bytes) -> Json | None:
    """The tool result as JSON-RPC; None when it holds no text and lists no tools."""
    try:
        result = fj.object_tree(body)
    except DecodeError:
        return None
    tools = result.get("tools")
    said = bool(mcp_texts(result)) or (isinstance(tools, list) and bool(tools))
    return {"id": 1, "jsonrpc": "2.0", "result": result} if said else None


def mcp_texts(result: Json) -> list[tuple[Any, Any]]:
    """Places of the strings of a result: its text blocks, then the leaves of `structuredContent`.

    Text blocks are those of a tool's `content`, of a resource's `contents` and of a prompt's `messages`.
    """
    blocks: list[Any] = []
    for member in ("content", "contents"):
        listed = result.get(member)
        blocks += listed if isinstance(listed, list) else []
    messages = result.get("messages")
    for message in messages if isinstance(messages, list) else ():
        if isinstance(message, dict):
            blocks.append(message.get("content"))
    found: list[tuple[Any, Any]] = [
        (block, "text")
        for block in blocks
        if isinstance(block, dict) and block.get("type") in (None, "text") and isinstance(block.get("text"), str)
    ]
    found += leaves(result, "structuredContent") if "structuredContent" in result else []
    return found


def leaves(holder: Any, key: Any) -> list[tuple[Any, Any]]:
    """Places of the string leaves of `holder[key]`, objects by sorted key."""
    value = holder[key]
    if isinstance(value, str):
        return [(holder, key)]
    if isinstance(value, dict):
        return [place for name in sorted(value) for place in leaves(value, name)]
    if isinstance(value, list):
        return [place for index in range(len(value)) for place in leaves(value, index)]
    return []


def _calls(calls: list[Call]) -> list[Json]:
    return [
        {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
        for call in calls
    ]


def _tool(tool: Tool) -> Json:
    function: Json = {"name": tool.name}
    if tool.description:
        function["description"] = tool.description
    if tool.parameters is not None:
        function["parameters"] = tool.parameters
    return {"type": "function", "function": function}


class Attachment(msgspec.Struct, frozen=True, omit_defaults=True):
    """A file or image of the client, inline or by URL."""

    filename: str
    content_type: str
    data: str = ""
    url: str = ""


def collect_attachments(tree: Json) -> list[Attachment]:
    """The distinct attachments of the client's own messages, in order."""
    found: dict[Attachment, None] = {}
    for key in ("messages", "input", "contents"):
        messages = tree.get(key)
        for message in messages if isinstance(messages, list) else ():
            if not isinstance(message, dict) or _text(message.get("role")) in _NOT_THE_CLIENT:
                continue
            for part in _parts(message):
                attachment = _attachment(part)
                if attachment is not None and (attachment.data or attachment.url):
                    found.setdefault(attachment)
    return list(found)


def _parts(message: Json) -> Iterator[Json]:
    yield message
    for key in ("content", "parts"):
        parts = message.get(key)
        yield from (part for part in (parts if isinstance(parts, list) else ()) if isinstance(part, dict))


def _attachment(part: Json) -> Attachment | None:
    kind = _text(part.get("type"))
    if kind in ("image_url", "input_image"):
        image = part.get("image_url")
        return _located("image", "image/*", _text(image.get("url")) if isinstance(image, dict) else _text(image))
    if kind == "image":
        return _from_source(part.get("source"), "image", "image/*")
    if kind in _FILE_TYPES:
        return _file(part)
    inline = part.get("inlineData") or part.get("inline_data")
    if isinstance(inline, dict):
        type_ = _text(inline.get("mimeType")) or _text(inline.get("mime_type")) or "application/octet-stream"
        return Attachment("inline", type_, data=_text(inline.get("data")))
    by_uri = part.get("fileData") or part.get("file_data")
    if isinstance(by_uri, dict):
        type_ = _text(by_uri.get("mimeType")) or _text(by_uri.get("mime_type")) or "application/octet-stream"
        return Attachment("file", type_, url=_text(by_uri.get("fileUri")) or _text(by_uri.get("file_uri")))
    return None


def _file(part: Json) -> Attachment | None:
    inner = part.get("file")
    file: Json = inner if isinstance(inner, dict) else {}
    name = next(
        (_text(holder.get(key)) for holder in (part, file) for key in ("filename", "name") if holder.get(key)), ""
    )
    type_ = _text(part.get("content_type")) or _text(part.get("mime_type"))
    name, type_ = name or "file", type_ or "application/octet-stream"
    if file.get("file_data"):
        return _located(name, type_, _text(file["file_data"]))
    if file.get("file_id"):
        return Attachment(name, type_, url=_text(file["file_id"]))
    for key in ("file_data", "data", "url"):
        if part.get(key):
            return _located(name, type_, _text(part[key]))
    return _from_source(part.get("source"), name, type_)


def _from_source(source: Any, name: str, type_: str) -> Attachment | None:
    if not isinstance(source, dict):
        return None
    type_ = _text(source.get("media_type")) or type_
    if source.get("type") == "url":
        return Attachment(name, type_, url=_text(source.get("url")))
    return Attachment(name, type_, data=_text(source.get("data")))


def _located(name: str, type_: str, text: str) -> Attachment:
    """A `data:` URL is split, http(s) is a URL, other text is the data itself."""
    match = _DATA_URL.match(text)
    if match is not None:
        return Attachment(name, match.group(1) or type_, data=match.group(2))
    if text.startswith(("http://", "https://")):
        return Attachment(name, type_, url=text)
    return Attachment(name, type_, data=text)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def protocol_of(request: PolicyRequest) -> str:
    """`mcp` on the MCP plane, else by the consumer's type."""
    if request.plane == "MCP":
        return "mcp"
    kind = request.consumer_type.lower()
    return kind if kind in ("mcp", "a2a") else "llm"
