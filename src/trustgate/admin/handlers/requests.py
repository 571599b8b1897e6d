"""`/v1/requests/{trace_id}/explain`: why a request went as it did (an addition to the contract)."""

from __future__ import annotations

from trustgate.admin.exchange import Answer, Call, json_answer
from trustgate.domain.errors import DomainError

OFF = "decisions are not kept: EXPLAIN_ENABLED is off"
UNKNOWN = "no decision of this request is kept here"
MAX_TRACE_ID = 64


async def explain(call: Call) -> Answer:
    """404 for a request that is unknown, forgotten, or another tenant's."""
    if not call.services.keeps_decisions:
        raise DomainError(404, "not_found", OFF)
    trace_id = call.params["trace_id"].lower()
    found = await call.services.explanation(trace_id) if len(trace_id) <= MAX_TRACE_ID else None
    if found is None or call.identity.tenant not in (None, found.tenant_id):
        raise DomainError(404, "not_found", UNKNOWN)
    return json_answer(found.document)
