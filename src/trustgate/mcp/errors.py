"""How the MCP plane refuses: the error table of spec 05 §7.4, one constructor a row.

`RpcFailure` is a JSON-RPC error on HTTP 200, `HttpFailure` a plain HTTP answer before (or instead of) JSON-RPC. The
logical `status` is what telemetry records (spec 05 §15).
"""

from __future__ import annotations

import msgspec

from trustgate.limits.plan import PlanRefusal
from trustgate.mcp import jsonrpc

HeaderList = list[tuple[bytes, bytes]]


class HttpFailure(Exception):
    """Answered with `status` and the bare text; `challenge` adds `WWW-Authenticate`."""

    def __init__(self, status: int, text: str, *, challenge: bool = False) -> None:
        super().__init__(text)
        self.status, self.text, self.challenge = status, text, challenge


class RpcFailure(Exception):
    """Answered with a JSON-RPC error. `raw`, when set, is the upstream's own error object, passed on unchanged."""

    def __init__(
        self,
        code: int,
        message: str,
        *,
        status: int = 502,
        data: bytes | None = None,
        headers: HeaderList | None = None,
        raw: bytes = b"",
    ) -> None:
        super().__init__(message)
        self.code, self.message, self.status, self.data = code, message, status, data
        self.headers: HeaderList = headers or []
        self.raw = raw

    @property
    def object(self) -> bytes:
        """The text of the error object."""
        return self.raw or jsonrpc.error_object(self.code, self.message, self.data)

    def again(self) -> RpcFailure:
        """The same failure for somebody else who waited for it."""
        return RpcFailure(
            self.code, self.message, status=self.status, data=self.data, headers=self.headers, raw=self.raw
        )


class ConsentNeeded(RpcFailure):
    """The user must link an account first."""

    def __init__(self, provider: str, connect_url: str) -> None:
        super().__init__(
            jsonrpc.CONSENT_REQUIRED,
            f"user consent required: open {connect_url} to connect {provider}",
            status=403,
            data=msgspec.json.encode({"provider": provider, "connect_url": connect_url}),
        )
        self.provider, self.connect_url = provider, connect_url

    def again(self) -> RpcFailure:
        return ConsentNeeded(self.provider, self.connect_url)


def unreachable(reason: str) -> RpcFailure:
    return RpcFailure(jsonrpc.INTERNAL_ERROR, f"mcp upstream unreachable: {reason}")


def transport_rejected() -> RpcFailure:
    return RpcFailure(jsonrpc.UNAVAILABLE, "rejected by transport", status=503)


def session_lost(method: str) -> RpcFailure:
    return RpcFailure(
        jsonrpc.INTERNAL_ERROR,
        f'calling "{method}": sending "{method}": failed to connect (session ID: …): session not found',
    )


def registry_failed(name: str, cause: RpcFailure) -> RpcFailure:
    """A failing upstream of a consumer with `fail_mode: closed`."""
    text = f'mcp: upstream unavailable: registry "{name}": {cause.message}'
    return RpcFailure(cause.code, text, status=cause.status)


def nothing_reachable() -> RpcFailure:
    return RpcFailure(jsonrpc.INTERNAL_ERROR, "mcp: upstream unavailable: no upstream MCP server reachable")


def no_registries() -> RpcFailure:
    return RpcFailure(
        jsonrpc.INVALID_REQUEST, "mcp: no MCP registries attached to consumer: validation failed", status=502
    )


def method_not_found(method: str) -> RpcFailure:
    return RpcFailure(jsonrpc.METHOD_NOT_FOUND, f"mcp: method not found: {method}")


def missing_param(method: str, name: str) -> RpcFailure:
    return RpcFailure(jsonrpc.INVALID_PARAMS, f"{method} requires params.{name}")


def tool_not_permitted(name: str) -> RpcFailure:
    return RpcFailure(jsonrpc.DENIED, f'mcp: tool "{name}" is not permitted for this consumer', status=403)


def not_found(kind: str, name: str) -> RpcFailure:
    """An unknown tool, prompt or resource."""
    code = jsonrpc.RESOURCE_NOT_FOUND if kind == "resource" else jsonrpc.INVALID_PARAMS
    return RpcFailure(code, f"mcp: {kind} not found: resource not found: {name}", status=404)


def plan_exceeded(refusal: PlanRefusal) -> RpcFailure:
    headers = [(name.lower().encode(), value.encode()) for name, value in refusal.headers]
    return RpcFailure(
        jsonrpc.THROTTLED,
        f"rate limit exceeded: {refusal.reason}",
        status=429,
        data=refusal.body,
        headers=headers,
    )
