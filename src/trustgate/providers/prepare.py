"""Steps 3 to 8 of one upstream attempt (spec 03 §3): translate, normalise, enforce the model, continue, force a stream.

What lives here: `ProviderClient`, built once per registry of a view, with everything that does not depend on the
request worked out, and `prepare`, the request's way through it. What must not: the network, apart from tokens; the
choice of the registry. A request that needs no translation and no token is prepared without suspending, and its bytes
go out untouched.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from trustgate.formats import json as members
from trustgate.formats import translate
from trustgate.formats.embeddings import EmbeddingRequest, decode_request
from trustgate.formats.errors import DecodeError
from trustgate.formats.normalise import force_stream, normalise
from trustgate.providers import embeddings
from trustgate.providers.credentials import Account, Authorization, Outgoing, merged
from trustgate.providers.enforce import Verdict, judge
from trustgate.providers.errors import InvalidRequest, ProviderUnsupported
from trustgate.providers.options import Site
from trustgate.providers.prepared import Prepared
from trustgate.providers.provider import Operation, Provider, join_query
from trustgate.providers.registry import PROVIDERS
from trustgate.providers.services import Services
from trustgate.view.model import Allowance
from trustgate.wire.client import Origin

_MAX_TARGETS = 512


class _Plan(msgspec.Struct, frozen=True):
    """How calls of one (client format, capability, stream) go to a registry; `target` None: it names the model."""

    client_format: str
    wire: str
    same: bool
    stream: bool
    origin: Origin
    target: str | None
    headers: tuple[tuple[bytes, bytes], ...] | None


class ProviderClient:
    """A registry at work: plans by kind of call, targets by model. Cheap to build; keep it for the life of a view."""

    __slots__ = ("_authorization", "_plans", "_services", "_site", "_targets", "account", "provider")

    def __init__(self, account: Account, services: Services | None = None) -> None:
        self.account = account
        self.provider: Provider | None = PROVIDERS.get(account.provider)
        self._services = services
        self._site: Site | None = None
        self._authorization: Authorization | None = None
        self._plans: dict[tuple[str, str, bool], _Plan] = {}
        self._targets: dict[tuple[str, str, bool], str] = {}

    def wire_format(self, client_format: str, capability: str) -> str:
        """The wire format of a call (spec 03 §2). Raises `ProviderUnsupported`."""
        provider = self.provider
        if provider is None:
            raise ProviderUnsupported(f'unsupported provider "{self.account.provider}"')
        if capability == "chat":
            return provider.chat(client_format, self.account.options)
        wire = provider.embeddings if capability == "embeddings" else provider.rerank
        if not wire:
            raise ProviderUnsupported(f"provider does not support {capability}")
        return wire

    def prepare_sync(
        self,
        client_format: str,
        capability: str,
        stream: bool,
        body: bytes,
        allowance: Allowance,
        client_model: str = "",
        previous_response_id: str | None = None,
    ) -> Prepared | None:
        """Like `prepare`, or None when a token has to be fetched or the request signed: then await `prepare`."""
        plan = self._plans.get((client_format, capability, stream)) or self._plan(client_format, capability, stream)
        if plan.headers is None:
            return None
        return self._draft(plan, body, allowance, client_model, previous_response_id)

    async def prepare(
        self,
        client_format: str,
        capability: str,
        stream: bool,
        body: bytes,
        allowance: Allowance,
        client_model: str = "",
        previous_response_id: str | None = None,
    ) -> Prepared:
        """One attempt of a request, ready to be sent.

        `body` is the client's body after policies, `client_model` the model that the client's body names and
        `previous_response_id` the turn that the session knows. Suspends only to fetch a token.

        Raises `InvalidRequest` (400), `ModelNotAllowed` (403), `CredentialError` and `RequestFault` (502).
        """
        plan = self._plans.get((client_format, capability, stream)) or self._plan(client_format, capability, stream)
        prepared = self._draft(plan, body, allowance, client_model, previous_response_id)
        if plan.headers is None:
            assert self._authorization is not None and self.provider is not None and self._site is not None
            fixed = self.provider.headers
            outgoing = Outgoing(prepared.method, self._site.root + prepared.target, fixed, prepared.body)
            prepared.headers = merged(fixed, await self._authorization.headers(outgoing))
        return prepared

    def _plan(self, client_format: str, capability: str, stream: bool) -> _Plan:
        wire = self.wire_format(client_format, capability)
        provider = self.provider
        assert provider is not None
        if capability != "chat":
            stream = False
        if self._site is None or self._authorization is None:
            environ: Mapping[str, str] = self._services.environ if self._services else {}
            self._site = provider.site(self.account, environ)
            self._authorization = provider.authorize(self.account, self._services)
        ready = self._authorization.ready
        target = None
        if not provider.model_in_target:
            target = self._with_credentials(provider.target(self._site, Operation(wire, "", stream)))
        same = translate.same_wire(client_format, wire)
        if (
            capability != "chat"
            and not same
            and (client_format, wire in embeddings.CODECS) != ("openai_embeddings", True)
        ):
            raise ProviderUnsupported(f"provider does not support {client_format}")
        plan = _Plan(
            client_format,
            wire,
            same,
            stream,
            Origin.parse(self._site.root)[0],
            target,
            None if ready is None else merged(provider.headers, ready),
        )
        self._plans[client_format, capability, stream] = plan
        return plan

    def _with_credentials(self, target: str) -> str:
        query = self._authorization.query if self._authorization else ""
        return target + (join_query(query).replace("?", "&", 1) if "?" in target else join_query(query))

    def _target(self, plan: _Plan, model: str) -> str:
        key = (plan.wire, model, plan.stream)
        target = self._targets.get(key)
        if target is None:
            assert self.provider is not None and self._site is not None
            target = self._with_credentials(self.provider.target(self._site, Operation(plan.wire, model, plan.stream)))
            if len(self._targets) >= _MAX_TARGETS:
                self._targets.clear()
            self._targets[key] = target
        return target

    def _draft(
        self, plan: _Plan, body: bytes, allowance: Allowance, client_model: str, previous_response_id: str | None
    ) -> Prepared:
        provider = self.provider
        assert provider is not None
        verdict = judge(body, allowance)
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
            embedding = _embedding(body, verdict, allowance.default)
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
            origin=plan.origin,
            target=plan.target if plan.target is not None else self._target(plan, sent_model),
            headers=plan.headers or (),
            body=body,
            same_wire=plan.same,
            frames=provider.frames,
            untranslated=untranslated,
            embedding=embedding,
        )


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


def _embedding(body: bytes, verdict: Verdict, default: str) -> EmbeddingRequest:
    """The client's embedding request with the model that is sent. Raises `InvalidRequest`, then a refusal."""
    try:
        request = decode_request(body)
    except DecodeError:
        raise InvalidRequest.of_format(embeddings.CLIENT_FORMAT) from None
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
