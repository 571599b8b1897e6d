"""Refusals of the Admin API as values: status, code and message, exactly as its envelope shows them.

What lives here: `DomainError` and one constructor per kind of refusal (spec 01 §2). What must not: rendering (`admin`),
the words of particular rules (they stand beside the rule in `decide_*`).
"""

from __future__ import annotations

import msgspec

FAILED = "validation failed"


class DomainError(Exception):
    """A refused command. `message` is empty when the envelope carries none."""

    def __init__(self, status: int, code: str, message: str = "") -> None:
        super().__init__(message or code)
        self.status = status
        self.code = code
        self.message = message


def refused(message: str) -> DomainError:
    """422 with exactly this message."""
    return DomainError(422, "validation_failed", message)


def invalid(message: str) -> DomainError:
    """422 with the usual suffix: `name is required: validation failed`."""
    return refused(f"{message}: {FAILED}")


def invalid_member(subject: str, detail: str) -> DomainError:
    """422 about one member: `consumer: invalid type: validation failed: "X"`."""
    return refused(f"{subject}: {FAILED}: {detail}")


def invalid_body() -> DomainError:
    """422 for a body that does not decode."""
    return invalid("invalid request body")


def not_found() -> DomainError:
    """404; never has a message."""
    return DomainError(404, "not_found")


def foreign(kind: str) -> DomainError:
    """422 for an object that belongs to another gateway, or a gateway that does not exist."""
    return invalid(f"{kind}: invalid gateway_id")


def already_exists(subject: str, detail: str = "") -> DomainError:
    """409 for a clash of names, slugs or domains."""
    return DomainError(409, "already_exists", f"{subject}: resource already exists" + (f": {detail}" if detail else ""))


def has_dependents(kind: str) -> DomainError:
    """409 for a delete that others stand in the way of."""
    return DomainError(409, "has_dependents", f"{kind}: resource has dependents")


def conflict(message: str) -> DomainError:
    """409 with exactly this message."""
    return DomainError(409, "conflict", message)


def version_mismatch() -> DomainError:
    """412 for a command that was made for another version of the gateway (an addition to the contract)."""
    return DomainError(412, "version_mismatch", "the gateway is not at the version that was asked for")


def quoted(text: str) -> str:
    """`text` between double quotes, as messages show values."""
    return msgspec.json.encode(text).decode()
