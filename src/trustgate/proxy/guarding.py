"""The policies' part in a request: before the upstream, before the answer, and after it (spec 02 §10, spec 04 §7).

What lives here: handing an exchange to its consumer's chain and taking the outcome back. What must not: order, batches
and modes of policies (`policies.engine`).
"""

from __future__ import annotations

import msgspec

from trustgate.policies.model import Headers, Outcome, PolicyRequest, PolicyResponse, Run, TokenUsage
from trustgate.proxy.call import Result
from trustgate.proxy.errors import Refusal
from trustgate.proxy.exchange import Exchange, HeaderList, Reply


def policy_request(exchange: Exchange) -> PolicyRequest:
    """The request as policies see it."""
    view, consumer, route, picked = exchange.view, exchange.consumer, exchange.route, exchange.picked
    assert view is not None and consumer is not None and route is not None and picked is not None
    return PolicyRequest(
        body=exchange.body,
        method=exchange.method,
        path=exchange.path,
        query=exchange.query.decode("latin-1"),
        headers=list(exchange.headers),
        gateway_id=view.id,
        consumer_id=consumer.id,
        consumer_type=consumer.type,
        tenant_id=view.identity.tenant_id,
        session_id=exchange.session_id,
        source_format=route.format,
        requested_model=exchange.requested_model,
        registry_id=picked.registry.id,
        provider=picked.registry.provider,
        client_ip=exchange.client_ip,
        trace_id=exchange.trace_id,
    )


def wire_headers(headers: Headers) -> HeaderList:
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]


def text_headers(headers: HeaderList) -> Headers:
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]


def reply_of(outcome: Outcome, exchange: Exchange) -> Reply:
    """An outcome that answers the client in place of an upstream."""
    if outcome.kind == "error":
        raise Refusal("backend_error")
    if outcome.kind == "reject" and outcome.body is None:
        exchange.error_code = "plugin_rejected"
    status, headers, body = outcome.rendered()
    return Reply(status=status, headers=wire_headers(headers), body=body)


async def before_upstream(exchange: Exchange) -> Reply | None:
    """Run `pre_request`; a rewritten body is taken over, an outcome is the answer."""
    runtime = exchange.runtime
    assert runtime is not None
    chain = runtime.chain
    exchange.run = Run()
    if exchange.principal is not None and exchange.principal.claims:
        exchange.run.notes["verified_claims"] = exchange.principal.claims
    request = exchange.policy_request = policy_request(exchange)
    if not chain.has_pre_request:
        return None
    outcome = await chain.pre_request(request, exchange.run)
    exchange.body = request.body
    return reply_of(outcome, exchange) if outcome is not None else None


async def before_answer(exchange: Exchange, result: Result) -> Result:
    """Run `pre_response` on a candidate answer; the result it leaves, `rejected` when a policy replaced it.

    The headers that policies gathered before the upstream are the base of every answer (spec 02 §10).
    """
    runtime, run, request = exchange.runtime, exchange.run, exchange.policy_request
    if runtime is None or run is None or request is None:
        return result
    gathered = wire_headers(run.headers)
    result.headers = gathered + result.headers
    if not runtime.chain.has_pre_response:
        return result
    response = PolicyResponse(
        status=result.status,
        headers=text_headers(result.headers),
        body=b"" if result.stream is not None else result.body,
        streaming=result.stream is not None,
        usage=token_usage(exchange),
        model=exchange.provider_model,
    )
    outcome = await runtime.chain.pre_response(request, response, run)
    if outcome is None or (result.stream is not None and outcome.kind == "stop"):
        result.status = response.status
        result.headers = wire_headers(response.headers)
        if result.stream is None:
            result.body = response.body
        else:
            result.stream.gates = runtime.chain.watch(request, run)
        return result
    return await replaced(exchange, result, outcome)


async def replaced(exchange: Exchange, result: Result, outcome: Outcome) -> Result:
    """The answer of a policy in place of the upstream's; a stream that will not be sent is closed."""
    if result.stream is not None:
        await result.stream.aclose()
    if outcome.kind == "error":
        outcome = Outcome(kind="reject", status=502, message="pre_response plugin stage failed")
    if outcome.kind == "reject" and outcome.body is None:
        exchange.error_code = "plugin_rejected"
    status, headers, body = outcome.rendered()
    verdict = "rejected" if outcome.kind == "reject" else "success"
    return Result(
        verdict=verdict, kind="plugin_rejection", status=status, headers=wire_headers(headers), body=body, final=True
    )


def token_usage(exchange: Exchange) -> TokenUsage | None:
    usage = exchange.usage
    if usage is None:
        return None
    return TokenUsage(
        input=usage.input_tokens,
        output=usage.output_tokens,
        total=usage.total_tokens,
        cache_read=usage.cache_read_input_tokens or usage.cached_input_tokens,
    )


async def after_answer(exchange: Exchange) -> None:
    """Run `post_response` on what the client was sent, then give back what is still reserved."""
    runtime, run, request = exchange.runtime, exchange.run, exchange.policy_request
    if runtime is None or run is None or request is None:
        return
    chain = runtime.chain
    try:
        if chain.has_post_response and (exchange.answered or exchange.usage is not None):
            response = PolicyResponse(
                status=exchange.reply_status,
                body=lines_of(exchange.reply_body) if exchange.streaming else exchange.reply_body,
                streaming=exchange.streaming,
                complete=not exchange.aborted and not exchange.overflowed,
                usage=token_usage(exchange),
                model=exchange.provider_model,
            )
            # An answer that was produced and then blocked is not delivered, but it was paid for.
            late = msgspec.structs.replace(request, body=exchange.body)
            await chain.post_response(late, response, run, charge_only=not exchange.answered)
    finally:
        await chain.release(run)


def lines_of(text: bytes) -> bytes:
    """A stream's non-empty lines, each followed by a line break (spec 04 §7)."""
    return b"".join(line + b"\n" for line in text.split(b"\n") if line)
