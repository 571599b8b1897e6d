"""Which model a request may use: the allow-list and default of a route against a body (spec 03 §3 step 5, §17 B5).

What lives here: one pure decision on the model of a body. What must not: edits of the body.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from trustgate.formats.errors import DecodeError
from trustgate.formats.json import decode_with
from trustgate.providers.errors import ModelNotAllowed
from trustgate.providers.options import quoted
from trustgate.view.model import Allowance


class _Members(msgspec.Struct):
    model: Any = msgspec.UNSET
    model_id: Any = msgspec.field(default=msgspec.UNSET, name="modelId")


_read = msgspec.json.Decoder(_Members).decode


class Verdict(NamedTuple):
    """`model`: the body's model as text, or the default that has to be inserted (`insert`); `refusal` is for raising.

    A refusal is kept until the body was translated, because a body that cannot be understood is told first. `blank`:
    the body has the member, but `""` or `null` in it.
    """

    model: str
    insert: bool = False
    blank: bool = False
    refusal: ModelNotAllowed | None = None


_NO_MODEL = Verdict("")
_BLANK = Verdict("", blank=True)


def judge(body: bytes, allowance: Allowance) -> Verdict:
    """The model of `body` (member `model`, else `modelId`) under `allowance`.

    Only an absent member takes the default: `""`, `null` and other types are what the client asked for.
    """
    try:
        members = decode_with(_read, body)
    except DecodeError as problem:
        return _unreadable(str(problem), allowance)
    model = members.model
    if model is msgspec.UNSET:
        model = members.model_id
    if type(model) is str:
        return judge_model(model, allowance)
    if model is msgspec.UNSET:
        if allowance.default:
            return Verdict(allowance.default, insert=True)
        if allowance.allowed:
            text = "model not allowed: model not allowed: request has no model and binding has no default"
            return Verdict("", refusal=ModelNotAllowed(text))
        return _NO_MODEL
    if model is None:
        return _refused("") if allowance.allowed else _BLANK
    return _unreadable("model is not a string", allowance)


def judge_model(model: str, allowance: Allowance) -> Verdict:
    """`judge` for a body that is known to name `model`."""
    allowed = allowance.allowed
    if not allowed or model in allowed:
        return Verdict(model) if model else _BLANK
    return _refused(model)


def _refused(model: str) -> Verdict:
    return Verdict(model, refusal=ModelNotAllowed(f"model not allowed: model not allowed: {quoted(model)}"))


def _unreadable(problem: str, allowance: Allowance) -> Verdict:
    if not allowance.allowed:
        return _NO_MODEL
    text = f"model not allowed: model enforcement could not parse request body: {problem}"
    return Verdict("", refusal=ModelNotAllowed(text))
