"""The embedder behind semantic routing (spec 02 §7.5, spec 03 §12): one call, a unit vector."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec

from trustgate.domain.entities import EmbeddingConfig
from trustgate.wire.client import Deadlines, Origin, Pool

TIMEOUT_S = 30.0
MAX_BYTES = 4 * 1024 * 1024


class EmbeddingError(Exception):
    """No vector could be had; the text never holds credentials."""


class _Row(msgspec.Struct):
    embedding: list[float]


class _Answer(msgspec.Struct):
    data: list[_Row]


class Embedder:
    """`await embedder(config, text)`: the L2-normalised vector. Provider `openai` only, as the contract has it."""

    def __init__(self, pool: Pool, base_url: str = "https://api.openai.com") -> None:
        self._pool = pool
        self._origin, path = Origin.parse(base_url)
        self._target = path.rstrip("/") + "/v1/embeddings"

    async def __call__(self, config: EmbeddingConfig, text: str) -> Sequence[float]:
        """Raises EmbeddingError, or what the pool raises."""
        if (config.provider or "openai") != "openai":
            raise EmbeddingError(f"unsupported embedding provider: {config.provider}")
        auth: dict[str, Any] = config.auth or {}
        key = auth.get("api_key") or auth.get("header_value") or ""
        headers = [(b"content-type", b"application/json"), (b"authorization", f"Bearer {key}".encode())]
        body = msgspec.json.encode({"model": config.model, "input": text})
        deadlines = Deadlines(first_byte_s=TIMEOUT_S, total_s=TIMEOUT_S)
        async with await self._pool.request("POST", self._origin, self._target, headers, body, deadlines) as response:
            answer = await response.read(MAX_BYTES)
        if response.status != 200:
            raise EmbeddingError(f"the embedder answered {response.status}")
        try:
            vector = msgspec.json.decode(answer, type=_Answer).data[0].embedding
        except (msgspec.DecodeError, msgspec.ValidationError, IndexError) as error:
            raise EmbeddingError("the embedder's answer cannot be read") from error
        norm = math.sqrt(sum(value * value for value in vector))
        if not norm:
            raise EmbeddingError("the embedder answered a zero vector")
        return [value / norm for value in vector]
