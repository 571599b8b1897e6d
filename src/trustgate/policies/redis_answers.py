"""Answers of the semantic cache in Redis under the documented keys; vectors through RediSearch (spec 04 §14.5)."""

from __future__ import annotations

import struct
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import coredis.exceptions
import trio
from coredis.response._callbacks import NoopCallback

from trustgate.policies.answer_store import DIMENSIONS, RETRY_VECTORS_S, TIMEOUT_S, Outage, StoreError, Vector

INDEX = "semantic_cache"
BROKEN = (OSError, trio.TooSlowError, trio.BrokenResourceError, coredis.exceptions.ConnectionError)
FAILURES = (*BROKEN, coredis.exceptions.RedisError)

T = TypeVar("T")


class RedisAnswers:
    """`AnswerStore` in Redis. Without RediSearch only exact entries work.

    `client` is an open `coredis` client with bytes replies. On cancellation a command may or may not have been applied.
    """

    def __init__(
        self,
        client: Any,
        now_ns: Callable[[], int] = time.time_ns,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._now_ns = now_ns
        self._indexed = False
        message = "semantic cache: Redis has no search index, so that only equal prompts are answered from the cache"
        self._no_vectors = Outage(message, RETRY_VECTORS_S, monotonic)

    async def get(self, rule: str, key: str) -> bytes | None:
        return await _asked(self._client.get(_exact(rule, key)), "exact_store_failed")

    async def put(self, rule: str, key: str, answer: bytes, ttl_s: int) -> None:
        await _asked(self._client.set(_exact(rule, key), answer, ex=ttl_s), "exact_store_failed")

    async def ready(self) -> None:
        if self._indexed:
            return
        if self._no_vectors.lasts:
            raise StoreError("index_unavailable")
        try:
            with trio.fail_after(TIMEOUT_S):
                await self._command(
                    b"FT.CREATE", INDEX, "ON", "HASH", "PREFIX", 1, f"{INDEX}:", "SCHEMA",
                    "rule_id", "TAG", "SEPARATOR", ",", "response", "TEXT", "NOINDEX",
                    "embedding", "VECTOR", "FLAT", 6, "TYPE", "FLOAT32", "DIM", DIMENSIONS, "DISTANCE_METRIC", "COSINE",
                )  # fmt: skip
        except BROKEN:
            raise StoreError("index_unavailable") from None
        except coredis.exceptions.RedisError as error:
            if "already exists" not in str(error).lower():
                self._no_vectors.begin(error)
                raise StoreError("index_unavailable") from None
        self._indexed = True
        self._no_vectors.end()

    async def nearest(self, rule: str, vector: Vector) -> tuple[float, bytes] | None:
        if len(vector) != DIMENSIONS:
            return None
        await self.ready()
        search = self._command(
            b"FT.SEARCH", INDEX, f"(@rule_id:{{{rule}}})=>[KNN 1 @embedding $BLOB]",
            "PARAMS", 2, "BLOB", _blob(vector), "RETURN", 2, "response", "__embedding_score", "DIALECT", 2,
        )  # fmt: skip
        try:
            return _first_hit(await _asked(search, "index_unavailable"))
        except StoreError:
            self._indexed = False  # the index may be gone, as after FLUSHDB
            raise

    async def add(self, rule: str, vector: Vector, answer: bytes, ttl_s: int) -> None:
        if len(vector) != DIMENSIONS:
            raise StoreError("store_failed")
        await self.ready()
        key = f"{INDEX}:{rule[:16]}:{self._now_ns()}"
        await _asked(self._write(key, {"embedding": _blob(vector), "rule_id": rule, "response": answer}, ttl_s))

    async def _write(self, key: str, fields: dict[str, str | bytes], ttl_s: int) -> None:
        """One transaction, so that no entry is left without an end."""
        async with self._client.pipeline(transaction=True) as pipeline:
            pipeline.hset(key, fields)
            pipeline.expire(key, ttl_s)

    async def _command(self, name: bytes, *arguments: Any) -> Any:
        return await self._client.create_request(name, *arguments, callback=NoopCallback())


async def _asked(call: Awaitable[T], reason: str = "store_failed") -> T:
    try:
        with trio.fail_after(TIMEOUT_S):
            return await call
    except FAILURES:
        raise StoreError(reason) from None


def _exact(rule: str, key: str) -> str:
    return f"sc_exact:{rule}:{key}"


def _blob(vector: Vector) -> bytes:
    return struct.pack(f"<{len(vector)}f", *vector)


def _first_hit(reply: Any) -> tuple[float, bytes] | None:
    """The first document of an FT.SEARCH reply, in its RESP2 (flat list) or RESP3 (map) form.

    None also for a document that has expired and is still in the index: it comes without its fields.
    """
    if isinstance(reply, dict):
        results = reply.get(b"results") or []
        fields = (results[0].get(b"extra_attributes") if results else None) or {}
    else:
        flat = (reply[2] if isinstance(reply, list) and len(reply) > 2 else None) or []
        fields = dict(zip(flat[::2], flat[1::2], strict=True))
    if b"response" not in fields or b"__embedding_score" not in fields:
        return None
    return 1.0 - float(fields[b"__embedding_score"]), bytes(fields[b"response"])
