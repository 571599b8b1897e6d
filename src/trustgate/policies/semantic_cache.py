"""Policy `semantic_cache`: repeated prompts answered from a cache, by text or by meaning (spec 04 §14.5)."""

from __future__ import annotations

import math

import msgspec

from trustgate.policies.answer_identity import Identity, identify
from trustgate.policies.answer_store import AnswerStore, StoreError
from trustgate.policies.dialects import format_of
from trustgate.policies.model import Effect, Extras, Headers, Mark, PolicyRequest, PolicyResponse, Run, stop
from trustgate.policies.plugin import METADATA, RESPONSE_BODY, Binding, Plugin, PolicyError, Services
from trustgate.policies.reassembly import reassemble
from trustgate.policies.replies import read_reply
from trustgate.policies.semantic_cache_settings import DEFAULT_MODEL, DEFAULT_THRESHOLD, Settings, check, ttl_s
from trustgate.policies.texts import answer_of

EMBEDDING_TIMEOUT_S = 30.0
DEGRADED = "trustgate_semantic_cache_degraded_total"
MISS: Headers = [("X-Cache", "MISS"), ("X-Cache-Status", "MISS")]
HIT: Headers = [("X-Cache", "HIT"), ("X-Cache-Status", "HIT")]


class _Embedding(msgspec.Struct):
    embedding: list[float] = []


class _Embeddings(msgspec.Struct):
    data: list[_Embedding] = []


class Seen(msgspec.Struct):
    """What `pre_request` learnt and `post_response` uses to store the answer."""

    identity: Identity
    vector: list[float] | None = None


class CacheExtras(Extras, kw_only=True):
    cache_hit: bool
    similarity: float = 0.0
    threshold: float
    embedding_size: int = 0
    vector_dimension: int = 0
    stored: bool
    degraded: bool = False
    degraded_reason: str = ""
    mode: str = ""
    scope: str = ""
    vector_store: str = ""
    match_type: str = ""
    bypassed: bool = False
    skip_reason: str = ""


class SemanticCache:
    waits = True

    def __init__(self, settings: Settings, binding: Binding) -> None:
        check(settings)
        services = binding.services
        self._settings = settings
        self._binding = binding
        self._http = services.http
        self._blocking = binding.blocking
        self._mode = settings.mode or "semantic"
        self._threshold = settings.similarity_threshold or DEFAULT_THRESHOLD
        self._ttl_s = ttl_s(settings)
        self._statuses = frozenset(settings.cache_only_on_status)
        self._bypass = (settings.bypass_header or "X-Cache-Bypass").lower().encode()
        self._skip_tools = settings.skip_if_tools_present is not False
        self._store_name, self._store = choose_store(settings.vector_store, services)
        embedding = settings.embedding
        provider = settings.embedding_provider or (embedding.provider if embedding else "") or "openai"
        self._model = settings.embedding_model or (embedding.model if embedding else "") or DEFAULT_MODEL
        # Vectors of different models are not to be compared, so they are no part of the same partition.
        self._measure = "" if self._mode == "exact" else f"|e:{self._model}"
        self._api_key = embedding.api_key if embedding is not None and provider == "openai" else ""
        self._url = f"{services.environment.embeddings_base_url.rstrip('/')}/v1/embeddings"

    def _partition(self, request: PolicyRequest) -> str:
        """Who may share entries; empty when that cannot be told."""
        place = request.registry_id or request.gateway_id
        if not place:
            return ""
        sharing, owner = ("g", request.gateway_id) if self._settings.scope == "global" else ("c", request.consumer_id)
        return f"{place}|{sharing}:{owner}{self._measure}" if owner else ""

    def _bypassed(self, request: PolicyRequest) -> bool:
        control = {part.strip().lower() for part in request.header(b"cache-control").split(",")}
        return bool(control & {"no-cache", "no-store"}) or bool(request.header(self._bypass))

    async def pre_request(self, request: PolicyRequest, run: Run, mark: Mark) -> Effect | None:
        extras = self._extras()
        try:
            return await self._answer(request, run, mark, extras)
        finally:
            mark.tell(extras)

    def _extras(self) -> CacheExtras:
        return CacheExtras(
            cache_hit=False,
            threshold=self._threshold,
            stored=False,
            mode=self._mode,
            scope=self._settings.scope or "consumer",
            vector_store=self._store_name,
        )

    async def _answer(self, request: PolicyRequest, run: Run, mark: Mark, extras: CacheExtras) -> Effect:
        if self._bypassed(request):
            extras.bypassed = True
            return Effect(headers=list(MISS))
        partition = self._partition(request)
        if not partition:
            self._degrade(extras, "no_partition")
            return Effect(headers=list(MISS))
        identity = identify(request, partition)
        if identity.stream and self._settings.skip_if_streaming:
            extras.bypassed, extras.skip_reason = True, "streaming"
            return Effect(headers=list(MISS))
        if identity.has_tools and self._skip_tools:
            extras.skip_reason = "tools_present"
            return Effect(headers=list(MISS))
        if not identity.text.strip():
            return Effect(headers=list(MISS))
        seen = Seen(identity)
        run.notes[self._binding.policy_id] = seen
        found = await self._lookup(seen, extras)
        if found is None:
            return Effect(headers=list(MISS))
        extras.cache_hit = True
        if not self._blocking:
            mark.decision = "observe"
            return Effect(headers=list(MISS))
        answer, similarity = found
        headers = list(HIT)
        if similarity is not None:
            headers.append(("X-Cache-Similarity", f"{similarity:.4f}"))
        body, content_type = replay(answer, identity.stream)
        return stop(200, body, [*headers, ("Content-Type", content_type)])

    def _degrade(self, extras: CacheExtras, reason: str) -> None:
        extras.degraded, extras.degraded_reason = True, reason
        self._binding.services.count(DEGRADED, {"store": self._store_name, "reason": reason})

    async def _lookup(self, seen: Seen, extras: CacheExtras) -> tuple[bytes, float | None] | None:
        """The cached answer, and its similarity when it was found by meaning. Trouble is a miss."""
        identity = seen.identity
        try:
            if self._mode != "semantic":
                answer = await self._store.get(identity.rule, identity.key)
                if answer is not None:
                    extras.match_type = "exact"
                    return answer, None
            if self._mode == "exact":
                return None
            vector = await self._embed(seen, extras)
            near = await self._store.nearest(identity.rule, vector) if vector is not None else None
        except StoreError as error:
            self._degrade(extras, str(error))
            return None
        if near is None or near[0] < self._threshold:
            return None
        extras.match_type, extras.similarity = "semantic", near[0]
        return near[1], near[0]

    async def _embed(self, seen: Seen, extras: CacheExtras) -> list[float] | None:
        """The normalised embedding of the text, asked for once a request; None when there is none.

        Raises `StoreError` instead of asking when the store could not use it.
        """
        if seen.vector is None and not self._api_key:
            self._degrade(extras, "embedding_service_unavailable")
        elif seen.vector is None:
            await self._store.ready()
            try:
                seen.vector = await self._ask(seen.identity.text)
            except PolicyError:
                self._degrade(extras, "embedding_failed")
        if seen.vector is not None:
            extras.embedding_size = extras.vector_dimension = len(seen.vector)
        return seen.vector

    async def _ask(self, text: str) -> list[float]:
        headers = (("Authorization", f"Bearer {self._api_key}"), ("Content-Type", "application/json"))
        body = msgspec.json.encode({"model": self._model, "input": text})
        reply = await self._http(self._url, headers, body, timeout_s=EMBEDDING_TIMEOUT_S)
        if not 200 <= reply.status < 300:
            raise PolicyError(f"embeddings answered {reply.status}")
        data = read_reply(reply, _Embeddings, "embeddings").data
        vector = data[0].embedding if data else []
        length = math.hypot(*vector)
        if not length:
            raise PolicyError("embeddings answered without a vector")
        return [value / length for value in vector]

    async def post_response(self, request: PolicyRequest, response: PolicyResponse, run: Run, mark: Mark) -> None:
        seen = run.notes.pop(self._binding.policy_id, None)
        if not isinstance(seen, Seen) or not self._blocking or not response.body.strip():
            return
        extras = self._extras()
        try:
            if not (response.status in self._statuses if self._statuses else 200 <= response.status < 300):
                extras.skip_reason = "status"
            elif self._skip_tools and calls_tools(request, response):
                extras.skip_reason = "tools_present"
            else:
                await self._keep(seen, response.body, extras)
        finally:
            mark.tell(extras)

    async def _keep(self, seen: Seen, answer: bytes, extras: CacheExtras) -> None:
        identity = seen.identity
        try:
            if self._mode != "semantic":
                await self._store.put(identity.rule, identity.key, answer, self._ttl_s)
                extras.stored = True
            if self._mode != "exact" and (vector := await self._embed(seen, extras)) is not None:
                await self._store.add(identity.rule, vector, answer, self._ttl_s)
                extras.stored = True
        except StoreError as error:
            self._degrade(extras, str(error))


def choose_store(wanted: str, services: Services) -> tuple[str, AnswerStore]:
    """The store a policy asks for when this deployment has it, else the deployment's own, else this process."""
    for name in (wanted, services.environment.vector_store):
        if name and name in services.caches:
            return name, services.caches[name]
    if "in_memory" not in services.caches:
        from trustgate.policies.memory_answers import MemoryAnswers  # loads the vector library

        services.caches["in_memory"] = MemoryAnswers()
    return "in_memory", services.caches["in_memory"]


def calls_tools(request: PolicyRequest, response: PolicyResponse) -> bool:
    """Whether an answer calls tools, or says it stopped to do so."""
    if response.streaming:
        said = reassemble(format_of(request), response.body)
        return bool(said.calls) or said.finish_reason == "tool_calls"
    answer = answer_of(request, response.body)
    return answer is not None and bool(answer.calls)


def replay(answer: bytes, stream: bool) -> tuple[bytes, str]:
    """A cached answer as it goes to the client. Collected stream lines get their event boundaries back."""
    if not stream or not (answer.startswith((b"data:", b"event:", b"id:", b":")) or b"\ndata:" in answer):
        return answer, "application/json"
    out: list[bytes] = []
    for line in answer.split(b"\n"):
        if line:
            out.append(line + (b"\n\n" if line.startswith(b"data:") else b"\n"))
    return b"".join(out), "text/event-stream"


PLUGIN = Plugin(
    slug="semantic_cache",
    name="Semantic Cache",
    description="Answers repeated prompts from a cache keyed by exact text and/or embedding similarity.",
    group="Routing",
    mandatory=("pre_request", "post_response"),
    supported=("pre_request", "post_response"),
    capabilities=frozenset((RESPONSE_BODY, METADATA)),
    settings=Settings,
    check=check,
    build=SemanticCache,
    secrets=(("embedding", "api_key"),),
)
