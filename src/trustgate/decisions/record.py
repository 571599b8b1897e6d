"""One request as the data plane decided it: only what cannot be worked out again from the configuration's log.

What lives here: the record and its bytes. A record names the configuration version that governed the request; stages,
candidates and settings are recomputed from that version when somebody asks. What must not be in a record: bodies,
headers, secrets, addresses of clients.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

MAX_TEXT = 256
"""Longest text taken from a client (a model reference, a refusal that quotes one)."""


class Try(msgspec.Struct, frozen=True, array_like=True):
    """One upstream attempt. `status` 0: no answer; `kind` is the failure that triggers fallback."""

    registry_id: str
    provider: str
    number: int
    fallback: bool
    pinned: bool
    source: str
    route_model: str
    outcome: str
    status: int
    latency_ms: int
    kind: str


class PolicyRun(msgspec.Struct, frozen=True, array_like=True):
    """One run of a policy at one stage."""

    policy_id: str
    slug: str
    stage: str
    decision: str
    status: int
    error: bool
    latency_ms: float


class Tokens(msgspec.Struct, frozen=True, array_like=True):
    input: int
    output: int
    total: int
    cached: int
    reasoning: int


class Priced(msgspec.Struct, frozen=True, array_like=True):
    """The price that was in force, USD per token, and the model of the catalog it stands for."""

    model: str
    input: float
    output: float


class Pick(msgspec.Struct, frozen=True, array_like=True):
    """The balancer's first choice and what it saw: requests in flight by route, registries marked unhealthy, a hint."""

    registry_id: str
    model: str
    in_flight: tuple[tuple[str, str, int], ...] = ()
    unhealthy: tuple[str, ...] = ()
    ranking: tuple[int, ...] = ()
    score: float | None = None


class Decided(msgspec.Struct, frozen=True, array_like=True):
    """A finished request. Times are Unix milliseconds; `stage` ended it (empty: the upstream's answer was sent)."""

    trace_id: str
    gateway_id: str
    version: int
    at_ms: int
    duration_ms: float
    consumer_id: str
    consumer_slug: str
    auth_id: str
    method: str
    roles: tuple[str, ...]
    capability: str
    format: str
    reference: str
    streaming: bool
    body_bytes: int
    status: int
    code: str
    message: str
    stage: str
    answered: bool
    aborted: bool
    sent_model: str
    provider_model: str
    pick: Pick | None
    attempts: tuple[Try, ...]
    policies: tuple[PolicyRun, ...]
    usage: Tokens | None
    price: Priced | None

    @property
    def served(self) -> Try | None:
        """The attempt whose answer the client got."""
        last = self.attempts[-1] if self.attempts else None
        return last if last is not None and last.outcome == "success" else None

    @property
    def cost_usd(self) -> float | None:
        if self.price is None or self.usage is None:
            return None
        return self.usage.input * self.price.input + self.usage.output * self.price.output


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[Decided])
ARRAY_32 = b"\xdd"

encode = _encoder.encode
"""A record, or a tuple of its members in order, as bytes."""


def batch_of(encoded: Sequence[bytes]) -> bytes:
    """Encoded records as one MessagePack array."""
    return b"".join((ARRAY_32, len(encoded).to_bytes(4, "big"), *encoded))


def decode(data: bytes) -> list[Decided]:
    """The records of a batch. Raises `msgspec.DecodeError` for bytes of another schema."""
    return _decoder.decode(data)
