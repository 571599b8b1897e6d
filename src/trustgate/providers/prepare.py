"""Steps 3 to 8 of one upstream attempt (spec 03 §3): translate, normalise, enforce the model, continue, force a stream.

What lives here: `ProviderClient`, built once per registry of a view, with everything that does not depend on the
request worked out, and `prepare`, the request's way through it. What must not: the network, apart from tokens; the
choice of the registry. A request that needs no translation and no token is prepared without suspending, and its bytes
go out untouched.
"""

from __future__ import annotations

from typing import Any

import msgspec

from trustgate.formats import json as members
from trustgate.formats import translate
from trustgate.formats.embeddings import EmbeddingRequest
from trustgate.formats.errors import DecodeError
from trustgate.formats.normalise import force_stream, normalise
from trustgate.providers import embeddings
from trustgate.providers.credentials import Account, Authorization, Headers, Outgoing, merged
from trustgate.providers.enforce import Verdict, judge, judge_model
from trustgate.providers.errors import InvalidRequest, ProviderUnsupported
from trustgate.providers.options import Site
from trustgate.providers.prepared import Prepared
from trustgate.providers.provider import Operation, Provider
from trustgate.providers.registry import PROVIDERS
from trustgate.providers.services import Services
from trustgate.view.model import Allowance
from trustgate.wire.client import Origin
from trustgate.wire.upstream import PreparedHeaders

_MAX_TARGETS = 512


class _Reach(msgspec.Struct, frozen=True):
    """What all calls of an account share: the provider, where it is, and the credentials at work."""

    provider: Provider
    site: Site
    origin: Origin
    authorization: Authorization

    def target(self, operation: Operation) -> str:
        """Path and query of an operation, query credentials included. Raises `RequestFault`."""
        target = self.provider.target(self.site, operation)
        query = self.authorization.query
        return f"{target}{'&' if '?' in target else '?'}{query}" if query else target


class _Plan(msgspec.Struct, frozen=True):
    """How calls of one (client format, capability, stream) go to a registry.

    `target` None: it names the model. `headers` None: a token is needed, or the request has to be signed. `lines` are
    the headers encoded, where they do not depend on the request.
    """

    reach: _Reach
    client_format: str
    wire: str
    same: bool
    stream: bool
    target: str | None
    headers: Headers | None
    lines: PreparedHeaders | None


class ProviderClient:
    """A registry at work: plans by kind of call, targets by model. Cheap to build; keep it for the life of a view."""

    __slots__ = ("_plans", "_reach", "_services", "_targets", "account")

    def __init__(self, account: Account, services: Services | None = None) -> None:
        self.account = account
        self._services = services
        self._reach: _Reach | None = None
        self._plans: dict[tuple[str, str, bool], _Plan] = {}
        self._targets: dict[tuple[str, str, bool], str] = {}

    def prepare_sync(
        self,
        client_format: str,
        capability: str,
        stream: bool,
        body: bytes,
        allowance: Allowance,
        client_model: str = "",
        previous_response_id: str | None = None,
        named: str = "",
    ) -> Prepared | None:
        """Like `prepare`, or None when a token has to be fetched or the request signed: then await `prepare`."""
        plan = self._plans.get((client_format, capability, stream)) or self._plan(client_format, capability, stream)
        if plan.headers is None:
            return None
        return self._draft(plan, body, allowance, client_model, previous_response_id, named)

    async def prepare(
        self,
        client_format: str,
        capability: str,
        stream: bool,
        body: bytes,
        allowance: Allowance,
        client_model: str = "",
        previous_response_id: str | None = None,
        named: str = "",
    ) -> Prepared:
        """One attempt of a request, ready to be sent.

        `body` is the client's body after policies, `client_model` the model that the client's body names and
        `previous_response_id` the turn that the session knows. `named` is the body's own model where somebody has read
        it already, which saves reading the body once more. Suspends only to fetch a token.

        Raises `InvalidRequest` (400), `ModelNotAllowed` (403), `CredentialError` and `RequestFault` (502).
        """
        plan = self._plans.get((client_format, capability, stream)) or self._plan(client_format, capability, stream)
        prepared = self._draft(plan, body, allowance, client_model, previous_response_id, named)
        if plan.headers is None:
            reach = plan.reach
            fixed = reach.provider.headers
            outgoing = Outgoing(prepared.method, reach.site.root + prepared.target, fixed, prepared.body)
            prepared.headers = merged(fixed, await reach.authorization.headers(outgoing))
        return prepared

    def _connect(self) -> _Reach:
        """Raises `RequestFault` for options or credentials that cannot be used."""
        if self._reach is None:
            provider = PROVIDERS.get(self.account.provider)
            if provider is None:
                raise ProviderUnsupported(f'unsupported provider "{self.account.provider}"')
            site = provider.site(self.account, self._services.environ if self._services else {})
            authorization = provider.authorize(self.account, self._services)
            self._reach = _Reach(provider, site, Origin.parse(site.root)[0], authorization)
        return self._reach

    def _plan(self, client_format: str, capability: str, stream: bool) -> _Plan:
        reach = self._connect()
        provider, ready = reach.provider, reach.authorization.ready
        wire = wire_format(provider, self.account, client_format, capability)
        streamed = stream and capability == "chat"
        headers = None if ready is None else merged(provider.headers, ready)
        plan = _Plan(
            reach=reach,
            client_format=client_format,
            wire=wire,
            same=translate.same_wire(client_format, wire),
            stream=streamed,
            target=None if provider.model_in_target else reach.target(Operation(wire, "", streamed)),
            headers=headers,
            lines=encoded(headers),
        )
        self._plans[client_format, capability, stream] = plan
        return plan

    def _target(self, plan: _Plan, model: str) -> str:
        key = (plan.wire, model, plan.stream)
        target = self._targets.get(key)
        if target is None:
            target = plan.reach.target(Operation(plan.wire, model, plan.stream))
            if len(self._targets) >= _MAX_TARGETS:
                self._targets.clear()
            self._targets[key] = target
        return target

    def _draft(
        self,
        plan: _Plan,
        body: bytes,
        allowance: Allowance,
        client_model: str,
        previous_response_id: str | None,
        named: str,
    ) -> Prepared:
        provider = plan.reach.provider
        verdict = judge_model(named, allowance) if named else judge(body, allowance)
        untranslated: tuple[str, ...] = ()
        embedding: EmbeddingRequest | None = None
        edits: dict[str, Any] = {}
        if plan.same:
            if verdict.refusal is not None:
                raise verdict.refusal
            if verdict.insert:
                edits["model"] = verdict.model
            body = normalise(plan.wire, body)
        elif plan.wire in embeddings.CODECS:
            embedding = _embedding(plan.client_format, body, verdict, allowance.default)
            untranslated = embedding.untranslated
            body = embeddings.CODECS[plan.wire].encode(embedding)
        else:
            body, untranslated = _translated(plan, body, verdict, allowance.default)
        sent_model = verdict.model or client_model or allowance.default
        if plan.wire == "openai_responses" and previous_response_id and previous_response_id.startswith("resp_"):
            _continue(body, previous_response_id, edits)
        if edits:
            body = _edited(body, edits)
        if plan.stream:
            body = force_stream(plan.wire, body)
        if provider.finish is not None:
            body = provider.finish(plan.wire, sent_model, body)
        provider.refuse(sent_model, body)
        return Prepared(
            provider=provider.code,
            client_format=plan.client_format,
            wire_format=plan.wire,
            sent_model=sent_model,
            origin=plan.reach.origin,
            target=plan.target if plan.target is not None else self._target(plan, sent_model),
            headers=plan.headers or (),
            lines=plan.lines,
            body=body,
            same_wire=plan.same,
            frames=provider.frames,
            untranslated=untranslated,
            embedding=embedding,
        )


def encoded(headers: Headers | None) -> PreparedHeaders | None:
    """Headers ready for the wire; None for those that only the wire itself can place, or refuse."""
    if headers is None or any(name == b"host" for name, _ in headers):
        return None
    try:
        return PreparedHeaders.of(headers)
    except ValueError:
        return None


def wire_format(provider: Provider, account: Account, client_format: str, capability: str) -> str:
    """The wire format of a call (spec 03 §2). Raises `ProviderUnsupported`."""
    if capability == "chat":
        return provider.chat(client_format, account.options)
    wire = provider.embeddings if capability == "embeddings" else provider.rerank
    if not wire:
        raise ProviderUnsupported(f"provider does not support {capability}")
    translatable = client_format in embeddings.REQUESTS and wire in embeddings.CODECS
    if not (translatable or translate.same_wire(client_format, wire)):
        raise ProviderUnsupported(f"provider does not support {client_format}")
    return wire


def _translated(plan: _Plan, body: bytes, verdict: Verdict, default: str) -> tuple[bytes, tuple[str, ...]]:
    """The wire body. The model is decided before, because a wire format may depend on it (§17 B5).

    A blank model does not survive translation, so here it takes the default like an absent one.
    """
    if verdict.insert or (verdict.blank and default):
        body = members.set_members(body, {"model": default})
    try:
        translated = translate.translate_request(plan.client_format, plan.wire, body)
    except DecodeError:
        raise InvalidRequest.of_format(plan.client_format) from None
    if verdict.refusal is not None:
        raise verdict.refusal
    return translated.body, translated.untranslated


def _embedding(client_format: str, body: bytes, verdict: Verdict, default: str) -> EmbeddingRequest:
    """The client's embedding request with the model that is sent. Raises `InvalidRequest`, then a refusal."""
    try:
        request = embeddings.REQUESTS[client_format](body)
    except DecodeError:
        raise InvalidRequest.of_format(client_format) from None
    if verdict.refusal is not None:
        raise verdict.refusal
    request.model = verdict.model or default
    return request


def _continue(body: bytes, previous_response_id: str, edits: dict[str, Any]) -> None:
    try:
        if members.read_member(body, "previous_response_id") is None:
            edits["previous_response_id"] = previous_response_id
    except DecodeError:
        return


def _edited(body: bytes, edits: dict[str, Any]) -> bytes:
    """`body` with members set; a body that is no object goes out as it is and the provider judges it."""
    try:
        return members.set_members(body, edits)
    except DecodeError:
        return body


def client_for(account: Account, services: Services | None = None) -> ProviderClient:
    """The client of a registry. Faults of its options or credentials are raised by `prepare`, not here."""
    return ProviderClient(account, services)


async def prepare(
    registry: Account,
    *,
    client_format: str,
    capability: str,
    stream: bool,
    body: bytes,
    allowance: Allowance,
    client_model: str = "",
    previous_response_id: str | None = None,
    services: Services | None = None,
) -> Prepared:
    """One attempt with a client built for it alone; traffic keeps a `ProviderClient` instead."""
    client = ProviderClient(registry, services)
    return await client.prepare(client_format, capability, stream, body, allowance, client_model, previous_response_id)
