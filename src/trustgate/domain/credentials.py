"""Secrets that come in with a body: keep the stored one, take the new one, or refuse the echo of a mask.

What lives here: the rules of spec 01 §3.5. What must not: which members are secret (the object's `decide_*` module).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from trustgate.domain import secrets
from trustgate.domain.decision import Draft

Refuse = Callable[[], Exception]


def is_masked(value: Any) -> bool:
    """Whether a value is the echo of a mask; a real secret cannot start with three asterisks."""
    return isinstance(value, str) and value.startswith("***")


def is_blank(value: Any) -> bool:
    """Whether a value stands for "keep the stored secret": absent, empty or masked."""
    return value is None or value == "" or is_masked(value)


def given(members: dict[str, Any], name: str) -> bool:
    """Whether a member holds a secret reference or a text that is not only blanks."""
    value = members.get(name)
    return bool(value.strip() if isinstance(value, str) else value)


def inherit(incoming: str | None, stored: Any) -> Any:
    """The stored secret where the incoming one is blank and there is one, else the incoming one."""
    return stored if is_blank(incoming) and stored else incoming


def keep(draft: Draft, object_id: str, path: str, members: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """`members` with each secret among `names` as a reference; blank and absent ones, and echoed masks, fall away."""
    result: dict[str, Any] = {}
    for name, value in members.items():
        if name in names and isinstance(value, str):
            if not is_blank(value):
                result[name] = draft.secret(object_id, f"{path}.{name}", value)
        else:
            result[name] = value
    return result


def hide(
    draft: Draft,
    object_id: str,
    path: str,
    value: Any,
    stored: Any,
    secret_paths: tuple[tuple[str, ...], ...],
    refuse: Refuse,
) -> Any:
    """A copy of free-form `value` with the texts at `secret_paths` as references.

    A masked text keeps what `stored` has at the same place; `refuse` makes the error when there is nothing. Names are
    compared without case: readers of settings take them so.
    """
    if not secret_paths or secrets.is_ref(value):
        return value
    if () in secret_paths:
        if not isinstance(value, str) or not value:
            return value
        if not is_masked(value):
            return draft.secret(object_id, path, value)
        if secrets.is_ref(stored):
            return stored
        raise refuse()

    def below(key: str) -> tuple[tuple[str, ...], ...]:
        return tuple(rest[1:] for rest in secret_paths if rest[0].lower() in (key.lower(), "*"))

    if isinstance(value, dict):
        old = cast("dict[str, Any]", stored) if isinstance(stored, dict) else {}
        return {
            key: hide(draft, object_id, f"{path}.{key}", item, old.get(key), below(key), refuse)
            for key, item in cast("dict[str, Any]", value).items()
        }
    if isinstance(value, list):
        items = cast("list[Any]", stored) if isinstance(stored, (list, tuple)) else []
        return [
            hide(draft, object_id, f"{path}.{i}", item, items[i] if i < len(items) else None, below("*"), refuse)
            for i, item in enumerate(cast("list[Any]", value))
        ]
    return value


def readable(value: Any, draft: Draft) -> Any:
    """`value` for validation by its owner: new secrets in clear, kept ones as their mask."""
    return secrets.replace(value, lambda ref: draft.plaintext(ref[secrets.REF]) or ref["mask"])
