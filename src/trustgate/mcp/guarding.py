"""The policies' part in an MCP call: before the upstream and before the answer (spec 05 §7.3, spec 04 §8).

What lives here: handing an exchange to its consumer's chain and taking the outcome back. What must not: order, batches
and modes of policies (`policies.engine`). A policy whose infrastructure fails never stops a call.
"""

from __future__ import annotations

from typing import Any

import msgspec
import structlog
from msgspec import Raw

from trustgate.mcp import jsonrpc
from trustgate.mcp.errors import RpcFailure
from trustgate.mcp.exchange import Exchange
from trustgate.policies.model import NOT_RELAYED, Outcome, PolicyRequest, PolicyResponse, Run

REQUEST_BLOCKED = "request blocked by policy"
RESPONSE_BLOCKED = "response blocked by policy"

log = structlog.get_logger(__name__)


class _Call(msgspec.Struct):
    name: Any = None
    arguments: Raw = Raw()


def policy_request(exchange: Exchange, operation: str, body: bytes) -> PolicyRequest:
    """The request as policies see it: no headers, no session, no provider."""
    runtime, caller = exchange.runtime, exchange.caller
    assert runtime is not None and caller is not None
    return PolicyRequest(
        body=body,
        plane="MCP",
        operation=operation,
        gateway_id=caller.view.id,
        consumer_id=runtime.consumer.id,
        consumer_type=runtime.consumer.type,
        tenant_id=caller.view.identity.tenant_id,
        client_ip=exchange.client_ip,
        trace_id=exchange.trace_id,
    )


async def before_call(exchange: Exchange, request: PolicyRequest) -> bytes | None:
    """Run `pre_request`; may rewrite `request.body`. A result when a policy answers itself. Raises RpcFailure."""
    runtime = exchange.runtime
    assert runtime is not None
    exchange.run = exchange.run or Run()
    if not runtime.chain.has_pre_request:
        return None
    outcome = await runtime.chain.pre_request(request, exchange.run)
    if outcome is None or outcome.kind == "error":
        return None
    return answer_of(outcome, REQUEST_BLOCKED)


def arguments_of(request: PolicyRequest, name: str, original: bytes) -> bytes:
    """The arguments after the policies: of a rewritten body only these count; the original ones if it has none."""
    try:
        found = msgspec.json.decode(request.body, type=_Call)
    except jsonrpc.NOT_JSON:
        return original
    if found.name != name:
        log.warning("a policy's other name for what is called is ignored", name=name, trace_id=request.trace_id)
    arguments = bytes(found.arguments) or original
    return b"" if arguments == b"null" else arguments


async def before_answer(exchange: Exchange, request: PolicyRequest, result: bytes) -> bytes:
    """Run `pre_response` on a result; the result it leaves. Raises RpcFailure."""
    replaced, outcome = await _judge(exchange, request, result)
    if outcome is None:
        return replaced
    return result if outcome.kind == "error" else answer_of(outcome, RESPONSE_BLOCKED)


async def before_list(exchange: Exchange, operation: str, result: bytes) -> None:
    """Run `pre_response` on a list, which it can refuse but never change. Raises RpcFailure."""
    exchange.run = exchange.run or Run()
    _, outcome = await _judge(exchange, policy_request(exchange, operation, b"{}"), result)
    if outcome is not None and outcome.kind != "error":
        answer_of(outcome, RESPONSE_BLOCKED)


async def _judge(exchange: Exchange, request: PolicyRequest, result: bytes) -> tuple[bytes, Outcome | None]:
    runtime, run = exchange.runtime, exchange.run
    assert runtime is not None and run is not None
    if not runtime.chain.has_pre_response:
        return result, None
    response = PolicyResponse(status=200, body=result)
    outcome = await runtime.chain.pre_response(request, response, run)
    return response.body, outcome


def answer_of(outcome: Outcome, blocked: str) -> bytes:
    """The result that a policy gives in place of the upstream's. Raises RpcFailure for a denial."""
    headers = [
        (name.lower().encode("latin-1"), value.encode("latin-1"))
        for name, value in outcome.headers
        if name.lower() not in NOT_RELAYED and name.lower() != "content-type"
    ]
    if outcome.kind == "stop":
        if outcome.status == 0 or 200 <= outcome.status < 300:
            return json_or_null(outcome.body)
        raise denial(outcome.status, "", blocked, outcome.body, headers)
    raise denial(outcome.status or 403, outcome.type, outcome.message or REQUEST_BLOCKED, outcome.body, headers)


def denial(status: int, type_: str, message: str, body: bytes | None, headers: list[tuple[bytes, bytes]]) -> RpcFailure:
    code = jsonrpc.DENIED
    if status == 429:
        code = jsonrpc.THROTTLED
    elif status == 503 and type_ == "trustguard_unavailable":
        code = jsonrpc.UNAVAILABLE
    return RpcFailure(code, message, status=status, data=json_or_text(body), headers=headers)


def json_or_null(body: bytes | None) -> bytes:
    """A policy's answer as a result; what is not JSON becomes a JSON string."""
    return json_or_text(body) or b"null"


def json_or_text(body: bytes | None) -> bytes | None:
    if not body:
        return None
    try:
        jsonrpc.check_utf8(body)
        msgspec.json.decode(body)
    except jsonrpc.NOT_JSON:
        return msgspec.json.encode(body.decode("utf-8", "replace"))
    return body
