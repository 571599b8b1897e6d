"""Whatever a client says is in the upstream's request or is named: nothing is lost in silence, at any depth."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trustgate.formats import translate

from .rich import RICH, TARGETS
from .samples import dump

# Names of what is noted in the neutral model, and the members of the clients' dialects that they stand for.
ALIASES = (
    ("stop", r"stop_sequences.*|generationConfig\.stopSequences.*"),
    ("top_k", r"k|generationConfig\.topK"),
    ("seed|presence_penalty|frequency_penalty|n", r"generationConfig\.(seed|\w+Penalty|candidateCount)"),
    ("reasoning", r"reasoning_effort|reasoning\.effort|thinking\..*|output_config\.effort|.*\.thinkingConfig\..*"),
    ("thinking", r".*\.(reasoning_content|thinking|signature|data)|contents\[\]\.parts\[\]\.(text|thought\w*)"),
    ("response_format", r"text\.format\..*|output_config\.format\..*|generationConfig\.response.*"),
    ("response_format.description", r"response_format\.json_schema\.description|text\.format\.description"),
    ("tools", r"strict_tools|tools\[\]\..*"),
    ("tools[].strict", r"strict_tools|tools\[\]\.function\.strict"),
    ("tools[].format", r"tools\[\]\.custom\.format\..*"),
    ("tool_choice", r"toolConfig\.functionCallingConfig\..*"),
    ("tool_choice.name", r"tool_choice\.function\.name|toolConfig\..*\.allowedFunctionNames\[\]"),
    ("parallel_tool_calls", r"tool_choice\.disable_parallel_tool_use"),
    ("user", r"metadata\.user_id"),
    ("thoughtSignature", r".*\.thoughtSignature"),
    ("content[image].detail", r".*\.detail"),
    ("content[document].title", r".*\.title"),
    ("content[file].name", r".*\.(filename|title|displayName)"),
    ("messages[].tool_calls", r".*\.(tool_calls|functionCall|functionResponse|input|tool_use_id|tool_call_id|id|name"
     r"|arguments|call_id|content|output|text|is_error|thoughtSignature)(\W.*)?"),
    ("content parts|content parts of a tool message|content parts of a message with calls|contents[].parts[]"
     r"|content[file]|content[audio]|content[input_audio]|content[file].url|content[file].file_id",
     r".*\.(url|data|image_url|file_id|file_data|filename|file_url|format|detail|title|fileUri|displayName|media_type|"
     r"mimeType|code|output)"),
)  # fmt: skip
# Members whose meaning is in the upstream's request in other words: ids of calls, modes, limits, flags.
REWORDED = re.compile(
    r"(.*\.)?(type|role|status|mode|mimeType|media_type|responseMimeType)|stream"
    r"|.*(tool_calls\[\]\.id|tool_call_id|call_id|tool_use_id|functionCall\.id|functionResponse\.(id|name)|input\[\]\.id|content\[\]\.id)"
    r"|tool_choice(\..*)?|parallel_tool_calls|reasoning_effort|reasoning\.effort|output_config\.effort"
    r"|thinking\.(type|budget_tokens|token_budget)|generationConfig\.thinkingConfig\.thinkingBudget"
    r"|response_format\.json_schema\.(name|strict)|text\.format\.(name|strict)|.*\.is_error|strict_tools|model"
)


def leaves(node: Any, path: str = "", kinds: tuple[str, ...] = ()) -> Iterator[tuple[str, tuple[str, ...], Any]]:
    """Every value with its path and with the kinds of parts that it is in, `content[image]`."""
    if isinstance(node, dict):
        kind = node.get("type", node.get("role"))
        if path.endswith("[]") and isinstance(kind, str):
            kinds = (*kinds, f"{path.split('.')[-1][:-2]}[{kind}]", f"tool_result[{kind}]")
        kinds = (*kinds, f"content[{node['mimeType']}]") if "mimeType" in node else kinds
        for name, value in node.items():
            yield from leaves(value, f"{path}.{name}" if path else name, kinds)
    elif isinstance(node, list):
        for entry in node:
            yield from leaves(entry, path + "[]", kinds)
    else:
        yield path, kinds, node


def is_named(path: str, kinds: tuple[str, ...], names: tuple[str, ...]) -> bool:
    for name in names:
        if path == name or path.startswith((name + ".", name + "[")) or name in kinds:
            return True
        if any(name in alias.split("|") and re.fullmatch(paths, path) for alias, paths in ALIASES):
            return True
        if name.startswith("tools[") and name[6:-1] in path:
            return True
    return False


def is_carried(value: Any, sent: str) -> bool:
    text = value if isinstance(value, str) else dump(value)
    if text.startswith("data:"):
        text = text.split(",")[1]
    return text in sent or json.dumps(text)[1:-1] in sent or dump(text)[1:-1] in sent


def lost(client: str, wire: str, model: str, body: dict[str, Any]) -> list[str]:
    """Members that are neither carried nor named."""
    made = translate.translate_request(client, wire, dump(body).encode(), model)
    sent = made.body.decode()
    return [
        path
        for path, kinds, value in leaves(body)
        if value not in (None, "")
        and not is_carried(value, sent)
        and not REWORDED.fullmatch(path)
        and not is_named(path, kinds, made.untranslated)
    ]


@pytest.mark.parametrize(("wire", "model"), TARGETS)
@pytest.mark.parametrize("client", RICH)
def test_everything_that_a_dialect_can_say_is_carried_or_named(client: str, wire: str, model: str) -> None:
    if not translate.same_wire(client, wire):
        assert lost(client, wire, model, RICH[client]) == []


ODD: list[tuple[str, str, dict[str, Any], str]] = [
    ("openai", "anthropic", {"stop": 5}, "stop"),
    ("openai", "anthropic", {"stop": ["a", 5]}, "stop"),
    ("openai", "anthropic", {"tool_choice": 5}, "tool_choice"),
    ("openai", "anthropic", {"tool_choice": {"type": "allowed_tools"}}, "tool_choice"),
    ("openai", "anthropic", {"reasoning_effort": "odd"}, "reasoning_effort"),
    ("openai", "google", {"reasoning_effort": "odd"}, "reasoning"),
    ("openai", "google", {"tool_choice": "odd"}, "tool_choice"),
    ("openai", "cohere", {"reasoning_effort": "odd"}, "reasoning"),
    ("openai", "cohere", {"tool_choice": "odd"}, "tool_choice"),
    ("openai_responses", "openai", {"tool_choice": 5}, "tool_choice"),
    ("openai_responses", "openai", {"tool_choice": {"type": "file_search"}}, "tool_choice"),
    ("cohere", "openai", {"tool_choice": 5}, "tool_choice"),
    ("cohere", "openai", {"thinking": {"type": "enabled"}}, "reasoning"),
    ("anthropic", "openai", {"thinking": {"type": "adaptive"}}, "reasoning"),
    ("anthropic", "openai_responses", {"thinking": {"type": "adaptive"}}, "reasoning"),
    (
        "google",
        "openai",
        {"generationConfig": {"responseMimeType": "text/x.enum"}},
        "generationConfig.responseMimeType",
    ),
    (
        "google",
        "openai",
        {"generationConfig": {"responseSchema": {"type": "STRING"}}},
        "generationConfig.responseSchema",
    ),
]


@pytest.mark.parametrize(("client", "wire", "body", "name"), ODD)
def test_values_that_have_no_meaning_elsewhere_are_named(
    client: str, wire: str, body: dict[str, Any], name: str
) -> None:
    made = translate.translate_request(client, wire, dump({"model": "m"} | body).encode())
    assert made.untranslated == (name,)


def test_a_number_of_thousands_of_digits_hides_no_names() -> None:
    body = b'{"model":"m","x":%b,"y":null,"messages":[{"role":"user","content":"q","z":1}]}' % (b"9" * 6000)
    assert translate.translate_request("openai", "anthropic", body).untranslated == ("x", "messages[].z")


# Objects that are the client's own: their members are values and no vocabulary of the dialect.
OWN = re.compile(
    "parameters|input_schema|schema|args|response|metadata|data|responseSchema|logit_bias|labels|format|input"
    "|json_schema|retrievalConfig"
)


def objects(node: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(node, dict):
        yield path, node
        for name, value in node.items():
            at = f"{path}.{name}" if path else name
            if not OWN.fullmatch(name) or at in ("input", "text.format", "response_format.json_schema"):
                yield from objects(value, at)
    elif isinstance(node, list):
        for entry in node:
            yield from objects(entry, path + "[]")


@given(st.data(), st.sampled_from(sorted(RICH)), st.sampled_from(TARGETS))
@settings(max_examples=200, deadline=None)
def test_a_member_that_nobody_knows_is_carried_or_named_wherever_it_stands(
    data: st.DataObject, client: str, target: tuple[str, str]
) -> None:
    wire, model = target
    if translate.same_wire(client, wire):
        return
    body = copy.deepcopy(RICH[client])
    path, place = data.draw(st.sampled_from(list(objects(body))))
    place["x_nobody"] = data.draw(st.sampled_from(["marker", 7.25, True, {"marker": 1}, ["marker"]]))
    made = translate.translate_request(client, wire, dump(body).encode(), model)
    kinds = [names for at, names, _ in leaves(body) if at.startswith(f"{path}.x_nobody" if path else "x_nobody")]
    named = [name for name in made.untranslated if "x_nobody" in name]
    whole = is_named(f"{path}.x_nobody" if path else "x_nobody", kinds[0], made.untranslated)
    assert b"x_nobody" in made.body or named or whole, path


@given(st.data(), st.sampled_from(sorted(RICH)), st.sampled_from(TARGETS))
@settings(max_examples=200, deadline=None)
def test_parts_of_what_a_dialect_can_say_are_carried_or_named_alike(
    data: st.DataObject, client: str, target: tuple[str, str]
) -> None:
    wire, model = target
    if translate.same_wire(client, wire):
        return
    body = {name: value for name, value in RICH[client].items() if data.draw(st.booleans())}
    for name in ("messages", "input", "contents"):
        if name in RICH[client]:
            turns = copy.deepcopy(RICH[client][name])
            body[name] = [turn for turn in turns if data.draw(st.booleans())]
            for turn in body[name]:
                for parts in ("content", "parts"):
                    if isinstance(turn.get(parts), list):
                        turn[parts] = [part for part in turn[parts] if data.draw(st.booleans())]
    assert lost(client, wire, model, body) == []
