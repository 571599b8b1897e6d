"""Refusals of the Admin API that are decided at the HTTP edge, beside those of the domain (spec 01 §2).

What lives here: constructors of the fixed answers. What must not: rules about objects (`domain.decide_*`), rendering.
"""

from __future__ import annotations

from trustgate.domain.errors import DomainError, invalid


class UpstreamUnavailable(Exception):
    """An MCP server could not be reached for its tool list (502); `reason` is short and free of secrets."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def unauthorized(message: str) -> DomainError:
    return DomainError(401, "unauthorized", message)


def forbidden() -> DomainError:
    """The one 403 there is: machine credentials outside their gateway or scopes."""
    return DomainError(403, "forbidden", "Not allowed for this gateway")


def invalid_uuid() -> DomainError:
    return DomainError(400, "invalid_uuid", "invalid uuid path parameter")


def invalid_query(detail: str) -> DomainError:
    return DomainError(400, "invalid_query", f"invalid query parameters: {detail}")


def invalid_page() -> DomainError:
    return DomainError(422, "invalid_pagination", "invalid page parameter")


def invalid_size() -> DomainError:
    return DomainError(422, "invalid_pagination", "invalid size parameter")


def invalid_sort() -> DomainError:
    return DomainError(422, "invalid_sort", "invalid sort parameter")


def invalid_filter() -> DomainError:
    return DomainError(422, "invalid_filter", "invalid filter parameter")


def too_many_registries(count: int) -> DomainError:
    detail = f"grouped registry view supports at most 200 registries; gateway has {count}"
    return DomainError(422, "result_too_large", f"{detail}: result set too large")


def not_an_mcp_registry(registry_id: str) -> DomainError:
    detail = f"registry {registry_id} is not an MCP registry"
    return DomainError(
        422, "validation_failed", f"mcp: no MCP registries attached to consumer: validation failed: {detail}"
    )


def invalid_as_of(detail: str) -> DomainError:
    """422 for a point in time that is not there (yet)."""
    return DomainError(422, "invalid_as_of", detail)


def before_creation(detail: str) -> DomainError:
    """404 for a point in time at which the gateway did not exist yet."""
    return DomainError(404, "before_creation", detail)


def nothing_to_revert_to(version: int) -> DomainError:
    return DomainError(422, "invalid_as_of", f"the gateway was deleted in version {version}")


def audit_unavailable() -> DomainError:
    return DomainError(503, "audit_unavailable", "this plane keeps no archive of the configuration log")


def invalid_weight() -> DomainError:
    return invalid("weight must be between 1 and 100")
