"""The TrustGuard service: tokens and evaluations (spec 04 §14.15). No judgement of what an answer means.

Tokens are shared by all policies of the process, one per (base, collector, gateway), fetched once at a time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import msgspec
import structlog
import trio

from trustgate.policies.plugin import Http, HttpReply, PolicyError, Services
from trustgate.policies.replies import read_reply

log = structlog.get_logger("trustgate.policies.trustguard")

SHORTEST_LIFE_S = 60.0
RENEW_EARLY_S = 30.0


class Unauthorized(PolicyError):
    """The token endpoint refused the process's credentials."""


class Source(msgspec.Struct):
    kind: str = ""
    plugin: str = ""
    detector_id: str = ""
    detector_name: str = ""
    policy_id: str = ""
    gate_name: str = ""


class Signal(msgspec.Struct):
    type: str = ""
    confidence: float = 0.0


class FindingOutcome(msgspec.Struct):
    action: str = ""


class Finding(msgspec.Struct):
    source: Source = msgspec.field(default_factory=Source)
    signal: Signal = msgspec.field(default_factory=Signal)
    outcome: FindingOutcome = msgspec.field(default_factory=FindingOutcome)
    evidence: Any = None


class Verdict(msgspec.Struct):
    """A 2xx answer to an evaluation."""

    status: str = ""
    transformed_payload: Any = None
    findings: list[Finding] = []
    trace_id: str = ""
    request_id: str = ""


class _Token(msgspec.Struct):
    access_token: str = ""
    token_type: str = ""
    expires_in: float = 0.0


class TokenSource:
    """The token of one (base, collector, gateway).

    Mutable state: `_token` and `_renew_at`, changed only while `_lock` is held.
    """

    def __init__(self, http: Http, url: str, body: bytes, timeout_s: float, now: Callable[[], float]) -> None:
        self._http = http
        self._url = url
        self._body = body
        self._timeout_s = timeout_s
        self._now = now
        self._lock = trio.Lock()
        self._token = ""
        self._renew_at = 0.0

    async def get(self, refused: str = "") -> str:
        """A token other than `refused`. The fetch itself survives the cancellation of whoever asked for it.

        Raises `Unauthorized` when the credentials are refused, `PolicyError` on any other failure.
        """
        if self._token and self._token != refused and self._now() < self._renew_at:
            return self._token
        async with self._lock:
            if self._token and self._token != refused and self._now() < self._renew_at:
                return self._token
            with trio.CancelScope(shield=True):
                await self._fetch()
            return self._token

    async def _fetch(self) -> None:
        headers = (("Content-Type", "application/json"),)
        reply = await self._http(self._url, headers, self._body, timeout_s=self._timeout_s)
        if reply.status in (401, 403):
            log.error("TrustGuard refused the credentials of this process", status=reply.status)
            raise Unauthorized(f"token endpoint answered {reply.status}")
        if not 200 <= reply.status < 300:
            raise PolicyError(f"token endpoint answered {reply.status}")
        token = read_reply(reply, _Token, "token endpoint")
        if not token.access_token:
            raise PolicyError("token endpoint answered without a token")
        self._token = token.access_token
        self._renew_at = self._now() + max(token.expires_in, SHORTEST_LIFE_S) - RENEW_EARLY_S


class TrustGuardClient:
    """Evaluations of one collector for one gateway."""

    def __init__(self, services: Services, collector_id: str, gateway_id: str) -> None:
        environment = services.environment
        base = environment.trustguard_base_url.rstrip("/")
        self.configured = bool(base and environment.trustguard_client_id and environment.trustguard_client_secret)
        self._http = services.http
        self._timeout_s = environment.trustguard_timeout_s
        self._url = f"{base}/v1/evaluate"
        key = ("trustguard", base, collector_id, gateway_id)
        if key not in services.shared:
            credentials = {
                "grant_type": "client_credentials",
                "client_id": environment.trustguard_client_id,
                "client_secret": environment.trustguard_client_secret,
                "scope": "platform",
                "collector_id": collector_id,
                "gateway_id": gateway_id,
            }
            body = msgspec.json.encode(credentials)
            services.shared[key] = TokenSource(services.http, f"{base}/v1/token", body, self._timeout_s, time.monotonic)
        self._tokens: TokenSource = services.shared[key]

    async def evaluate(self, body: bytes, trace_id: str, playground: bool) -> HttpReply:
        """The service's answer; a 401 is tried once more with a fresh token. Raises `PolicyError`."""
        token = await self._tokens.get()
        reply = await self._post(body, token, trace_id, playground)
        if reply.status == 401:
            reply = await self._post(body, await self._tokens.get(refused=token), trace_id, playground)
        return reply

    async def _post(self, body: bytes, token: str, trace_id: str, playground: bool) -> HttpReply:
        headers = [
            ("Authorization", f"Bearer {token}"),
            ("Content-Type", "application/json"),
            ("X-Trace-ID", trace_id),
        ]
        if playground:
            headers.append(("X-AG-Playground", "1"))
        return await self._http(self._url, headers, body, timeout_s=self._timeout_s)


def read_verdict(reply: HttpReply) -> Verdict:
    """The verdict of a 2xx answer; raises `PolicyError` when it is not one."""
    return read_reply(reply, Verdict, "TrustGuard")
