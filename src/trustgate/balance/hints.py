"""What outside services say of a prompt: embeddings for `semantic`, a complexity score for `smart-routing`.

What lives here: the calls and their caches (spec 02 §7.5). A failing service never fails a request: it yields no
hint, and the balancer falls back. Each request asks at most once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import httpx
import jwt
import msgspec
import structlog
import trio

from trustgate.balance.strategies import Hint
from trustgate.domain.entities import EmbeddingConfig
from trustgate.view.model import Route
from trustgate.wire.tls import client_tls

SCORER_TIMEOUT_S = 30.0
SCORER_MAX_BYTES = 1024 * 1024
TOKEN_TTL_S = 3600
TOKEN_EARLY_S = 300
MAX_VECTORS = 10_000

log = structlog.get_logger(__name__)

Embed = Callable[[EmbeddingConfig, str], Awaitable[Sequence[float]]]
"""The L2-normalised vector of a text; raises on any failure."""


class SemanticHints:
    """Ranks routes by the cosine of prompt and description; description vectors are computed once and kept."""

    def __init__(self, embed: Embed) -> None:
        self._embed = embed
        self._vectors: dict[tuple[str, str, str], Sequence[float]] = {}

    async def hint(self, routes: Sequence[Route], config: EmbeddingConfig, prompt: str | None) -> Hint | None:
        """None when there is nothing to compare or the embedder fails."""
        if len(routes) < 2 or not prompt:
            return None
        try:
            wanted = await self._embed(config, prompt)
            described = {
                index: await self._describe(route.registry.id, route.registry.description, config)
                for index, route in enumerate(routes)
                if route.registry.description.strip()
            }
        except Exception as failure:  # an embedder's trouble is not the client's
            log.warning("semantic routing without embeddings", error=type(failure).__name__)
            return None
        fitting = [index for index, vector in described.items() if len(vector) == len(wanted)]
        if not fitting:
            return None
        return Hint(ranking=ranked({index: described[index] for index in fitting}, wanted))

    async def _describe(self, registry_id: str, description: str, config: EmbeddingConfig) -> Sequence[float]:
        key = (registry_id, description, f"{config.provider}/{config.model}")
        known = self._vectors.get(key)
        if known is None:
            known = await self._embed(config, description)
            if len(self._vectors) >= MAX_VECTORS:
                self._vectors.pop(next(iter(self._vectors)))
            self._vectors[key] = known
        return known


def ranked(vectors: dict[int, Sequence[float]], wanted: Sequence[float]) -> tuple[int, ...]:
    """The keys of `vectors` by cosine distance to `wanted`, smaller keys first among equals."""
    import numpy as np  # these two are large, and most installations never compare vectors
    from usearch.compiled import MetricKind
    from usearch.index import search

    keys = list(vectors)
    matrix = np.asarray(list(vectors.values()), dtype=np.float32)
    found = search(matrix, np.asarray(wanted, dtype=np.float32), len(keys), MetricKind.Cos, exact=True)
    distances = {keys[int(key)]: float(distance) for key, distance in zip(found.keys, found.distances, strict=True)}
    return tuple(sorted(distances, key=lambda key: (distances[key], key)))


class ComplexityScorer:
    """Client of the scoring service `POST {base}/v1/complexity`; unconfigured, it never has a score."""

    def __init__(self, base_url: str, secret: str, now: Callable[[], float]) -> None:
        self._url = base_url.rstrip("/") + "/v1/complexity" if base_url and secret else ""
        self._secret = secret
        self._now = now
        self._token: tuple[float, str] | None = None
        self._client = (
            httpx.AsyncClient(verify=client_tls(), timeout=SCORER_TIMEOUT_S, follow_redirects=False)
            if self._url
            else None
        )

    async def aclose(self) -> None:
        if self._client is not None:
            await self._client.aclose()

    async def hint(self, prompt: str | None, session_id: str, gateway_id: str) -> Hint | None:
        if self._client is None or not prompt:
            return None
        body = {"input": prompt, "conversation_id": session_id, "tenant_id": gateway_id}
        try:
            with trio.fail_after(SCORER_TIMEOUT_S):
                return await self._ask(self._client, {name: value for name, value in body.items() if value})
        except Exception as failure:  # the scorer's trouble is not the client's
            log.warning("smart routing without a score", error=type(failure).__name__)
            return None

    async def _ask(self, client: httpx.AsyncClient, body: dict[str, Any]) -> Hint | None:
        headers = {"token": self._bearer(), "Content-Type": "application/json"}
        async with client.stream("POST", self._url, content=msgspec.json.encode(body), headers=headers) as answer:
            if answer.status_code == 401:
                self._token = None
            if not 200 <= answer.status_code < 300:
                log.warning("smart routing without a score", status=answer.status_code)
                return None
            data = bytearray()
            async for chunk in answer.aiter_bytes():
                data += chunk[: SCORER_MAX_BYTES - len(data)]
        document = msgspec.json.decode(bytes(data))
        score = document.get("score", 0) if isinstance(document, dict) else None
        return Hint(score=float(score)) if isinstance(score, (int, float)) else None

    def _bearer(self) -> str:
        now = self._now()
        if self._token is None or self._token[0] - TOKEN_EARLY_S <= now:
            claims = {"purpose": "firewall", "iat": int(now), "exp": int(now) + TOKEN_TTL_S}
            self._token = (now + TOKEN_TTL_S, jwt.encode(claims, self._secret, algorithm="HS256"))
        return self._token[1]
