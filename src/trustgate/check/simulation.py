"""A request through the real pipeline, with upstreams whose outcome is chosen.

What lives here: the stand-ins (a pool that answers by registry, a caller that is believed, policies without services)
and one call, `Simulation.ask`. What must not: judging the answers (`findings`).

Everything from `find_gateway` to the relayed answer is the proxy's own code, but for two things: the caller is believed
(keys are stored as digests), and every registry is spoken to in the OpenAI dialect, so that no credential is needed.
"""

from __future__ import annotations

import time
from typing import Any, cast

import msgspec
import trio
from msgspec.structs import replace

from trustgate.balance.health import LocalHealth
from trustgate.balance.hints import ComplexityScorer, SemanticHints
from trustgate.domain.entities import GatewayState
from trustgate.identity.principal import Principal
from trustgate.limits.memory import MemoryLimits
from trustgate.limits.shared import LocalState
from trustgate.policies.engine import Chain, compile_chain
from trustgate.policies.plugin import Services as PolicyServices
from trustgate.providers.prepare import ProviderClient, client_for
from trustgate.providers.services import Services as ProviderServices
from trustgate.proxy import pipeline
from trustgate.proxy.errors import Refusal, error_body
from trustgate.proxy.exchange import Exchange, Reply
from trustgate.proxy.runtime import Runtimes
from trustgate.proxy.services import ProxyConfig, ProxyServices, deadlines_of
from trustgate.proxy.session import Sessions
from trustgate.view.gateway import Directory, GatewayView
from trustgate.view.model import ConsumerView, GatewayIdentity, RegistryView, RoleView
from trustgate.wire.errors import ConnectFailed, TimedOut

ASKS_A_SERVICE = frozenset(
    {"azure_content_safety", "bedrock_guardrail", "openai_moderation", "trustguard", "semantic_cache"}
)
"""Plugins that ask a service of their own: they are left out, since that service is not an upstream."""

HEALTHY = "ok"
FAILURES = ("refused", "timeout", "500", "503", "429")
"""How an upstream fails: it does not accept, does not answer, or answers with that status."""

COMPLETION = msgspec.json.encode(
    {
        "id": "chatcmpl-check",
        "object": "chat.completion",
        "created": 0,
        "model": "check",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }
)
ERROR = b'{"error":{"message":"upstream failure","type":"check"}}'


class Asked(msgspec.Struct, frozen=True):
    """A request that is tried: a consumer, its caller's roles, and the model it names (empty: none)."""

    consumer: str
    model: str
    roles: tuple[str, ...] = ()


class Answered(msgspec.Struct, frozen=True):
    """What became of it. `tried` are the registries that were called, in order; `relayed`: an upstream's own answer."""

    status: int
    code: str
    message: str
    tried: tuple[str, ...]
    relayed: bool


class _Answer:
    """As much of a `wire.client.Response` as a buffered answer needs."""

    def __init__(self, status: int, body: bytes) -> None:
        self.status = status
        self.headers = [(b"content-type", b"application/json")]
        self._body = body

    def header(self, name: bytes) -> bytes | None:
        return next((value for known, value in self.headers if known == name), None)

    async def read(self, max_bytes: int) -> bytes:
        return self._body

    async def __aenter__(self) -> _Answer:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None


class _Upstreams:
    """A pool that knows which registry is called from the exchange under way. Mutable: the outcomes, the exchange."""

    def __init__(self) -> None:
        self.outcomes: dict[str, str] = {}
        self.exchange: Exchange | None = None

    async def request(self, *_: Any) -> _Answer:
        assert self.exchange is not None, "one request at a time"
        outcome = self.outcomes.get(self.exchange.attempts[-1].registry_id, HEALTHY)
        if outcome == "refused":
            raise ConnectFailed("refused", "the upstream does not accept connections")
        if outcome == "timeout":
            raise TimedOut("first_byte")
        return _Answer(200, COMPLETION) if outcome == HEALTHY else _Answer(int(outcome), ERROR)


class _Nobody:
    """The observer: hears nothing, wants nothing."""

    draining = False

    def finished(self, exchange: Exchange) -> None: ...

    def refused(self, exchange: Exchange) -> None: ...

    def probed(self, method: str, path: str, status: int) -> None: ...

    def wants_body(self, exchange: Exchange) -> bool:
        return False

    def now(self) -> dict[str, str]:
        return {}

    def configuration(self) -> None:
        return None


class Simulation:
    """One gateway's configuration, ready to be asked. Each question starts with fresh counters and health."""

    def __init__(self, state: GatewayState, nursery: trio.Nursery, providers: ProviderServices) -> None:
        self.view = GatewayView(state, lambda ref: "")
        self._nursery = nursery
        self._providers = providers
        self._upstreams = _Upstreams()
        self._directory = Directory()
        self._directory.put(self.view)

    async def ask(self, asked: Asked, outcomes: dict[str, str]) -> Answered:
        """The answer to a request while the upstreams behave as told (by registry id; others are well)."""
        self._upstreams.outcomes = outcomes
        body = {"messages": [{"role": "user", "content": "hello"}]} | ({"model": asked.model} if asked.model else {})
        headers = [(b"x-ag-gateway-slug", self.view.identity.slug.encode()), (b"content-length", b"1")]
        path = f"/{asked.consumer}/v1/chat/completions"
        exchange = Exchange("POST", path, b"", headers, msgspec.json.encode(body), "127.0.0.1")
        self._upstreams.exchange = exchange
        roles = tuple(role for role in self.view.roles if role.id in asked.roles)
        try:
            reply = await pipeline.run(exchange, self._services(), believing(roles))
        except Refusal as refusal:
            exchange.error_code, exchange.error_message = refusal.code, refusal.message
            reply = Reply(status=refusal.status, headers=[], body=error_body(refusal.code, refusal.message))
        tried = tuple(dict.fromkeys(attempt.registry_id for attempt in exchange.attempts))
        return Answered(reply.status, exchange.error_code, exchange.error_message, tried, exchange.answered)

    def _services(self) -> ProxyServices:
        config = ProxyConfig(version="check", base_domain="", max_retries=0, retry_base_delay_s=0.0)
        limits, nobody = MemoryLimits(), _Nobody()
        policies = PolicyServices(limits=limits)
        unused = cast("Any", None)
        return ProxyServices(
            config=config,
            directory=self._directory,
            catch_up=trio.lowlevel.checkpoint,
            identity=unused,
            health=LocalHealth(time.time),
            semantic=SemanticHints(no_embedding),
            scorer=ComplexityScorer("", "", time.time),
            limits=limits,
            sessions=Sessions(LocalState(trio.current_time), 60.0, False),
            pool=cast("Any", self._upstreams),
            providers=self._providers,
            policies=policies,
            runtimes=Runtimes(lambda consumer, gateway: chain_of(consumer, gateway, policies), self._client),
            observer=nobody,
            cors=None,
            background=self._nursery,
            readiness=nobody,
            now=time.time,
            deadlines=deadlines_of(config, stream=False),
            stream_deadlines=deadlines_of(config, stream=True),
        )

    def _client(self, registry: RegistryView) -> ProviderClient:
        plain = {"type": "api_key", "api_key": {"api_key": "check"}}
        return client_for(replace(registry, provider="openai", options={}, auth=plain), self._providers)


async def no_embedding(*_: Any) -> Any:
    raise OSError("no embeddings while checking")


def chain_of(consumer: ConsumerView, gateway: GatewayIdentity, services: PolicyServices) -> Chain:
    local = tuple(policy for policy in consumer.policies if policy.slug not in ASKS_A_SERVICE)
    return compile_chain(replace(consumer, policies=local), gateway, services)


def believing(roles: tuple[RoleView, ...]) -> tuple[pipeline.Stage, ...]:
    """The pipeline's stages, with a caller who is believed."""

    def authenticate_caller(exchange: Exchange, services: ProxyServices) -> None:
        exchange.principal = Principal(subject="check", method="check", roles=roles)

    return tuple(authenticate_caller if stage is pipeline.authenticate_caller else stage for stage in pipeline.STAGES)
