"""Which members of a request its decoder reads, at every depth, so that nothing else of it is lost in silence.

One table per client dialect: a name leads to None (a value read or carried whole), to the table of an object, or to a
list with the table of its entries. `ANY` in a table admits all other names, `TYPES` limits it to objects of these
`type`s, the others being noted by the decoder as a whole. The ordinary request, which has no other members, is told by
one strict msgspec pass; only one that has some is walked through.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any, cast

import msgspec
from msgspec import Raw

from . import json
from .content import MAX_NOTED, MAX_NOTED_NAME

ANY = "*"
TYPES = "<types>"
_EMPTY: tuple[Any, ...] = (None, "", [], {})

Table = dict[str, Any]


def _leaves(names: str) -> Table:
    return dict.fromkeys(names.split())


_FILE = _leaves("file_data file_id filename")
_PART_TYPES = _leaves("text refusal image_url input_audio file input_text output_text input_image input_file")
_OPENAI_PART: Table = _leaves("type text refusal file_data file_id file_url filename detail") | {
    TYPES: (None, *_PART_TYPES),
    "image_url": _leaves("url detail"),
    "input_audio": _leaves("data format"),
    "file": _FILE,
}
_OPENAI_CALL: Table = _leaves("id type index") | {
    "function": _leaves("name arguments"),
    "custom": _leaves("name input"),
    "extra_content": {"google": _leaves("thought_signature")},
}
_OPENAI_TOOL: Table = _leaves("type") | {
    TYPES: (None, "function", "custom"),
    "function": _leaves("name description parameters strict"),
    "custom": _leaves("name description format"),
}
OPENAI: Table = _leaves(
    "model temperature top_p top_k max_tokens max_completion_tokens stream stream_options stop seed n user metadata "
    "parallel_tool_calls presence_penalty frequency_penalty reasoning_effort"
) | {
    "messages": [
        _leaves("role tool_call_id name refusal audio reasoning_content")
        | {"content": [_OPENAI_PART], "tool_calls": [_OPENAI_CALL]}
    ],
    "tools": [_OPENAI_TOOL],
    "tool_choice": _leaves("type")
    | {TYPES: (None, "function", "custom"), "function": _leaves("name"), "custom": _leaves("name")},
    "response_format": _leaves("type") | {"json_schema": _leaves("name description schema strict")},
}

_CALL_ITEMS = ("function_call", "function_call_output", "custom_tool_call", "custom_tool_call_output")
RESPONSES: Table = _leaves(
    "model instructions max_output_tokens temperature top_p stream parallel_tool_calls user metadata"
) | {
    "input": [
        _leaves("type role id call_id name arguments input text status")
        | {
            TYPES: (None, "message", "input_text", *_CALL_ITEMS),
            "content": [_OPENAI_PART],
            "output": [_OPENAI_PART],
        }
    ],
    "text": _leaves("verbosity") | {"format": _leaves("type name description schema strict")},
    "reasoning": _leaves("effort summary"),
    "tool_choice": _leaves("type name"),
    "tools": [
        _leaves("type name description parameters format strict") | {TYPES: (None, "function", "custom")},
    ],
}

_SOURCE = _leaves("type media_type data url file_id")
_ANTHROPIC_BLOCK: Table = _leaves("type text id name input tool_use_id is_error thinking signature data title") | {
    TYPES: ("text", "image", "document", "tool_use", "tool_result", "thinking", "redacted_thinking"),
    "source": _SOURCE,
}
_ANTHROPIC_TOOL: Table = _leaves("name description input_schema")
ANTHROPIC: Table = _leaves(
    "model max_tokens temperature top_p top_k stream stop_sequences metadata anthropic_version"
) | {
    "system": [_leaves("type text")],
    "messages": [_leaves("role") | {"content": [_ANTHROPIC_BLOCK | {"content": [_ANTHROPIC_BLOCK]}]}],
    "tools": [
        _ANTHROPIC_TOOL | _leaves("type strict") | {TYPES: (None, "custom", "function"), "custom": _ANTHROPIC_TOOL}
    ],
    "tool_choice": _leaves("type name disable_parallel_tool_use"),
    "thinking": _leaves("type budget_tokens"),
    "output_format": _leaves("type schema"),
    "output_config": _leaves("effort") | {"format": _leaves("type schema")},
}


def _both(camel: str, snake: str, table: Any) -> Table:
    return {camel: table, snake: table}


_BLOB = _leaves("mimeType mime_type data fileUri file_uri displayName display_name")
_GEMINI_PART: Table = (
    _leaves("text thought thoughtSignature thought_signature")
    | _both("functionCall", "function_call", _leaves("name args id"))
    | _both("functionResponse", "function_response", _leaves("name response id"))
    | _both("inlineData", "inline_data", _BLOB)
    | _both("fileData", "file_data", _BLOB)
)
_GENERATION = _leaves(
    "maxOutputTokens max_output_tokens temperature topP top_p topK top_k stopSequences stop_sequences responseMimeType "
    "response_mime_type responseSchema response_schema responseJsonSchema response_json_schema candidateCount "
    "candidate_count seed presencePenalty presence_penalty frequencyPenalty frequency_penalty"
) | _both("thinkingConfig", "thinking_config", _leaves("thinkingBudget thinking_budget thinkingLevel thinking_level"))
_DECLARATION = _leaves("name description parameters parametersJsonSchema parameters_json_schema")
_CALLING = _leaves("mode allowedFunctionNames allowed_function_names")
GEMINI: Table = (
    _leaves("model")
    | _both("systemInstruction", "system_instruction", _leaves("role") | {"parts": [_leaves("text")]})
    | _both("generationConfig", "generation_config", _GENERATION)
    | _both("toolConfig", "tool_config", _both("functionCallingConfig", "function_calling_config", _CALLING))
    | {
        "contents": [_leaves("role") | {"parts": [_GEMINI_PART]}],
        "tools": [{ANY: None} | _both("functionDeclarations", "function_declarations", [_DECLARATION])],
    }
)

_COHERE_FUNCTION = _leaves("name arguments description parameters")
_COHERE_PART: Table = _leaves("type text thinking") | {
    TYPES: (None, "text", "image_url", "document"),
    "image_url": _leaves("url detail"),
    "document": _leaves("data"),
}
COHERE: Table = _leaves(
    "model temperature p k max_tokens stream stop_sequences seed presence_penalty frequency_penalty strict_tools"
) | {
    "messages": [
        _leaves("role tool_call_id tool_plan")
        | {"content": [_COHERE_PART], "tool_calls": [_leaves("id type") | {"function": _COHERE_FUNCTION}]}
    ],
    "tools": [_leaves("type") | {"function": _COHERE_FUNCTION}],
    "response_format": _leaves("type json_schema schema"),
    "thinking": _leaves("type token_budget"),
    "tool_choice": _leaves("type name"),
}


def _type(table: Any) -> Any:
    if table is None:
        return Raw
    inner = _struct(cast("list[Table]", table)[0] if isinstance(table, list) else table)
    return str | int | float | bool | None | (list[inner] if isinstance(table, list) else inner)


def _struct(table: Table) -> Any:
    """A strict struct of the table: decoding fails on members that the table does not have."""
    fields = [(name, _type(inner), None) for name, inner in table.items() if name not in (ANY, TYPES)]
    return msgspec.defstruct("Known", fields, forbid_unknown_fields=ANY not in table)


class Members:
    """The members of one dialect's requests, and `unknown`, which names the others."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._decode = msgspec.json.Decoder(_struct(table)).decode

    def unknown(self, body: bytes) -> list[str]:
        """Names of the members that are not read and hold something, `messages[].name`; of very many the first ones.

        Raises `DecodeError` when the body is no JSON object.
        """
        try:
            self._decode(body)
            return []
        except (msgspec.DecodeError, UnicodeError, RecursionError, ValueError):
            names = _unknown(_tree(body), self._table, "")
            return list(
                islice(dict.fromkeys(name[:MAX_NOTED_NAME] for name in islice(names, 16 * MAX_NOTED)), MAX_NOTED)
            )


def _tree(body: bytes) -> dict[str, Any]:
    """The request; where it is nested too deep to be read, the texts of its members, which tell no deeper names.

    Raises `DecodeError` when it is no JSON object.
    """
    try:
        return json.object_tree(body)
    except json.DecodeError:
        return {name: None if json.is_null(raw) else bytes(raw) for name, raw in json.members(body).items()}


def _unknown(node: dict[str, Any], table: Table, prefix: str) -> Iterator[str]:
    types = table.get(TYPES)
    if types is not None and node.get("type") not in types:
        return
    for name, value in node.items():
        inner = table.get(name)
        if inner is None:
            if name not in table and ANY not in table and value not in _EMPTY:
                yield prefix + name
        elif isinstance(inner, list) and isinstance(value, list):
            entries = cast("list[Table]", inner)[0]
            for entry in cast("list[Any]", value):
                if isinstance(entry, dict):
                    yield from _unknown(cast("dict[str, Any]", entry), entries, f"{prefix}{name}[].")
        elif isinstance(inner, dict) and isinstance(value, dict):
            yield from _unknown(cast("dict[str, Any]", value), cast("Table", inner), f"{prefix}{name}.")


openai = Members(OPENAI)
responses = Members(RESPONSES)
anthropic = Members(ANTHROPIC)
gemini = Members(GEMINI)
cohere = Members(COHERE)
