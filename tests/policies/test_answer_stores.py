"""The contract of the semantic cache's stores, on every backend: process, RediSearch, pgvector (spec 04 §14.5).

What lives here too: the letter of the shared stores' keys, tables and commands, how they fail, and what they do without
vectors.
"""

from __future__ import annotations

import contextlib
import math
import struct
import uuid
from collections.abc import AsyncIterator
from typing import Any

import coredis
import psycopg
import pytest
import trio

from trustgate.policies import pgvector_answers, redis_answers
from trustgate.policies.answer_store import DIMENSIONS, AnswerStore, StoreError
from trustgate.policies.memory_answers import MemoryAnswers
from trustgate.policies.pgvector_answers import PgvectorAnswers
from trustgate.policies.redis_answers import RedisAnswers

WAIT_S = 30.0


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine is no dead store."""
    for module in (pgvector_answers, redis_answers):
        monkeypatch.setattr(module, "TIMEOUT_S", WAIT_S)


@contextlib.asynccontextmanager
async def open_store(kind: str, address: str) -> AsyncIterator[AnswerStore]:
    if kind == "in_memory":
        yield MemoryAnswers()
    elif kind == "redis":
        async with coredis.Redis.from_url(address) as client:
            yield RedisAnswers(client)
    else:
        async with PgvectorAnswers(lambda: psycopg.connect(address)) as store:
            yield store


def address_of(kind: str, request: pytest.FixtureRequest) -> str:
    fixture = {"redis": "redis_search_url", "pgvector": "pgvector_database"}.get(kind)
    return request.getfixturevalue(fixture) if fixture else ""


@pytest.fixture(params=["in_memory", "redis", "pgvector"])
def backend(request: pytest.FixtureRequest) -> tuple[str, str]:
    return request.param, address_of(request.param, request)


@pytest.fixture(params=["redis", "pgvector"])
def shared_backend(request: pytest.FixtureRequest) -> tuple[str, str]:
    return request.param, address_of(request.param, request)


@pytest.fixture
async def store(backend: tuple[str, str]) -> AsyncIterator[AnswerStore]:
    async with open_store(*backend) as opened:
        yield opened


@pytest.fixture
def rule() -> str:
    return uuid.uuid4().hex * 2


def towards(angle: float) -> list[float]:
    return [math.cos(angle), math.sin(angle), *[0.0] * (DIMENSIONS - 2)]


async def test_an_exact_entry_is_found_under_its_rule_and_key_alone(store: AnswerStore, rule: str) -> None:
    answer = '{"text":"naïve ✓ \\u0000"}'.encode()
    await store.put(rule, "k", answer, 60)
    assert await store.get(rule, "k") == answer
    assert await store.get(rule, "other") is None
    assert await store.get(rule[::-1], "k") is None


async def test_the_last_exact_entry_wins(store: AnswerStore, rule: str) -> None:
    await store.put(rule, "k", b"first", 1)
    await store.put(rule, "k", b"second", 60)
    await trio.sleep(1.1)
    assert await store.get(rule, "k") == b"second"


async def test_the_nearest_vector_of_the_rule_is_found_with_its_similarity(store: AnswerStore, rule: str) -> None:
    await store.ready()
    assert await store.nearest(rule, towards(0)) is None
    for name, angle in (("a", 0.0), ("b", 0.5), ("c", 1.0), ("d", 3.0)):
        await store.add(rule, towards(angle), name.encode(), 60)
    await store.add(rule[::-1], towards(0.6), b"of another rule", 60)
    found = await store.nearest(rule, towards(0.6))
    assert found is not None
    assert found == (pytest.approx(math.cos(0.1), abs=1e-5), b"b")
    far = await store.nearest(rule, towards(-math.pi / 2))
    assert far is not None
    assert far == (pytest.approx(0, abs=1e-5), b"a")


async def test_many_entries_of_other_rules_do_not_hide_one(store: AnswerStore, rule: str) -> None:
    for number in range(150):
        await store.add(rule[::-1], towards(number / 150), b"x", 60)
    await store.add(rule, towards(2.5), b"here", 60)
    found = await store.nearest(rule, towards(0.1))
    assert found is not None
    assert found[1] == b"here"


async def test_entries_expire(store: AnswerStore, rule: str) -> None:
    await store.put(rule, "k", b"short", 1)
    await store.add(rule, towards(0), b"short", 1)
    await store.add(rule, towards(1), b"long", 60)
    with trio.fail_after(WAIT_S):
        while await store.get(rule, "k") is not None:  # noqa: ASYNC110
            await trio.sleep(0.1)
        # An expired entry may still hide a living one for a moment (RediSearch), but is never served.
        while (found := await store.nearest(rule, towards(0))) is None or found[1] != b"long":  # noqa: ASYNC110
            await trio.sleep(0.1)


async def test_an_answer_of_a_megabyte_is_kept(store: AnswerStore, rule: str) -> None:
    answer = b'{"a":"' + b"x" * (1 << 20) + b'"}'
    await store.put(rule, "k", answer, 60)
    await store.add(rule, towards(0), answer, 60)
    assert await store.get(rule, "k") == answer
    assert await store.nearest(rule, towards(0)) == (pytest.approx(1, abs=1e-5), answer)


async def test_many_at_once(store: AnswerStore, rule: str) -> None:
    async def one(number: int) -> None:
        await store.put(rule, str(number), str(number).encode(), 60)
        assert await store.get(rule, str(number)) == str(number).encode()
        await store.add(rule, towards(number), b"x", 60)
        assert await store.nearest(rule, towards(number)) is not None

    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(one, number)


async def test_a_cancelled_caller_does_not_harm_the_next(store: AnswerStore, rule: str) -> None:
    await store.put(rule, "k", b"a", 60)
    for number in range(20):
        with trio.move_on_after(number / 2000):
            await store.get(rule, "k")
            await store.add(rule, towards(0), b"x", 60)
        assert await store.get(rule, "k") == b"a"


async def test_shared_stores_keep_one_width_of_vectors(shared_backend: tuple[str, str], rule: str) -> None:
    async with open_store(*shared_backend) as store:
        with pytest.raises(StoreError, match="store_failed"):
            await store.add(rule, [1.0, 0.0], b"x", 60)
        assert await store.nearest(rule, [1.0, 0.0]) is None


async def test_two_processes_share_entries(shared_backend: tuple[str, str], rule: str) -> None:
    async with open_store(*shared_backend) as first, open_store(*shared_backend) as second:
        await first.put(rule, "k", b"exact", 60)
        await first.add(rule, towards(0), b"near", 60)
        assert await second.get(rule, "k") == b"exact"
        found = await second.nearest(rule, towards(0.01))
        assert found is not None
        assert found[1] == b"near"


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("kind", ["redis", "pgvector"])
async def test_without_vectors_exact_entries_work_and_the_log_hears_once(
    kind: str, request: pytest.FixtureRequest, rule: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A Redis without RediSearch, a PostgreSQL without pgvector."""
    address: str = request.getfixturevalue("redis_url" if kind == "redis" else "postgres_database")
    clock = Clock()
    async with contextlib.AsyncExitStack() as stack:
        if kind == "redis":
            client = await stack.enter_async_context(coredis.Redis.from_url(address))
            store: AnswerStore = RedisAnswers(client, monotonic=clock)
        else:
            store = PgvectorAnswers(lambda: psycopg.connect(address), monotonic=clock)
            await stack.enter_async_context(store)
        for _ in range(3):
            with pytest.raises(StoreError, match="index_unavailable"):
                await store.ready()
            with pytest.raises(StoreError, match="index_unavailable"):
                await store.nearest(rule, towards(0))
            with pytest.raises(StoreError, match="index_unavailable"):
                await store.add(rule, towards(0), b"x", 60)
            await store.put(rule, "k", b"exact", 60)
            assert await store.get(rule, "k") == b"exact"
            clock.now += 60
    told = [line for line in capsys.readouterr().out.splitlines() if "only equal prompts" in line]
    assert len(told) == 1, told


async def closed_port() -> int:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    await listeners[0].aclose()
    return port


async def test_a_dead_database_fails_each_call_and_is_found_again(pgvector_database: str, rule: str) -> None:
    clock = Clock()
    dead = f"postgresql://nobody@127.0.0.1:{await closed_port()}/none"
    address = dead
    async with PgvectorAnswers(lambda: psycopg.connect(address), monotonic=clock) as store:
        for step in range(3):
            clock.now += step  # at once the database is not asked again, later it is
            for call, reason in (
                (lambda: store.get(rule, "k"), "exact_store_failed"),
                (lambda: store.put(rule, "k", b"x", 60), "exact_store_failed"),
                (lambda: store.ready(), "index_unavailable"),
                (lambda: store.nearest(rule, towards(0)), "index_unavailable"),
                (lambda: store.add(rule, towards(0), b"x", 60), "index_unavailable"),
            ):
                with pytest.raises(StoreError, match=reason):
                    await call()
        address = pgvector_database
        clock.now += 2
        await store.put(rule, "k", b"x", 60)
        await store.add(rule, towards(0), b"x", 60)
        assert await store.get(rule, "k") == b"x"


async def test_connections_that_the_server_closed_are_replaced(pgvector_database: str, rule: str) -> None:
    async with PgvectorAnswers(lambda: psycopg.connect(pgvector_database)) as store:
        await store.put(rule, "k", b"x", 60)
        await store.add(rule, towards(0), b"near", 60)
        with psycopg.connect(pgvector_database, autocommit=True) as other:
            other.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        assert await store.get(rule, "k") == b"x"
        assert await store.nearest(rule, towards(0)) == (pytest.approx(1, abs=1e-5), b"near")


async def test_a_database_that_hangs_is_not_waited_for_and_connections_stay_few(
    pgvector_database: str, rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    opened = 0

    def connect() -> psycopg.Connection[Any]:
        nonlocal opened
        opened += 1
        return psycopg.connect(pgvector_database)

    async with PgvectorAnswers(connect, 2, monotonic=clock) as store:
        await store.put(rule, "k", b"x", 60)
        monkeypatch.setattr(pgvector_answers, "TIMEOUT_S", 0.3)
        failed = 0

        async def ask() -> None:
            nonlocal failed
            try:
                await store.get(rule, "k")
            except StoreError:
                failed += 1

        with psycopg.connect(pgvector_database) as other:
            other.execute("LOCK TABLE semantic_cache_exact IN ACCESS EXCLUSIVE MODE")
            with trio.fail_after(WAIT_S):
                async with trio.open_nursery() as nursery:
                    for _ in range(50):
                        nursery.start_soon(ask)
        assert (failed, opened <= 2) == (50, True)
        clock.now += 2
        with trio.fail_after(WAIT_S):
            while True:
                with contextlib.suppress(StoreError):
                    assert await store.get(rule, "k") == b"x"
                    break
                clock.now += 2
                await trio.sleep(0.05)
        assert opened <= 2


@pytest.mark.parametrize("answer", [b"\xff", b"a\x00b"])
async def test_what_postgres_cannot_hold_is_not_stored_and_no_outage(
    pgvector_database: str, rule: str, answer: bytes
) -> None:
    async with PgvectorAnswers(lambda: psycopg.connect(pgvector_database)) as store:
        with pytest.raises(StoreError, match="exact_store_failed"):
            await store.put(rule, "k", answer, 60)
        with pytest.raises(StoreError, match="store_failed"):
            await store.add(rule, towards(0), answer, 60)
        assert await store.get(rule, "k") is None


async def test_processes_that_start_together_make_the_tables_once(pgvector_database: str, rule: str) -> None:
    async def use(number: int) -> None:
        async with PgvectorAnswers(lambda: psycopg.connect(pgvector_database)) as store:
            await store.put(rule, str(number), b"x", 60)
            await store.add(rule, towards(number), b"x", 60)

    async with trio.open_nursery() as nursery:
        for number in range(6):
            nursery.start_soon(use, number)


async def test_the_tables_are_as_documented(pgvector_database: str, rule: str) -> None:
    async with PgvectorAnswers(lambda: psycopg.connect(pgvector_database)) as store:
        with psycopg.connect(pgvector_database, autocommit=True) as reader:
            columns = (
                "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute"
                " WHERE attrelid = to_regclass(%s) AND attnum > 0 ORDER BY attnum"
            )
            assert reader.execute(columns, ("semantic_cache_exact",)).fetchall() == []
            await store.put(rule, "k", b"x", 3600)
            await store.add(rule, towards(0), b"near", 3600)
            assert reader.execute(columns, ("semantic_cache_exact",)).fetchall() == [
                ("rule_id", "text"),
                ("key", "text"),
                ("response", "text"),
                ("expires_at", "timestamp with time zone"),
                ("created_at", "timestamp with time zone"),
            ]
            assert reader.execute(columns, ("semantic_cache_entries",)).fetchall() == [
                ("id", "bigint"),
                ("rule_id", "text"),
                ("embedding", "vector(1536)"),
                ("response", "text"),
                ("expires_at", "timestamp with time zone"),
                ("created_at", "timestamp with time zone"),
            ]
            definitions = reader.execute("SELECT indexdef FROM pg_indexes WHERE schemaname = 'public'").fetchall()
            text = "\n".join(row[0] for row in definitions)
            assert "USING ivfflat (embedding vector_cosine_ops) WITH (lists='100')" in text
            assert (
                "UNIQUE INDEX semantic_cache_exact_pkey ON public.semantic_cache_exact USING btree (rule_id, key)"
                in text
            )
            for table in ("semantic_cache_exact", "semantic_cache_entries"):
                query = f"SELECT rule_id, expires_at - created_at = interval '3600s' FROM {table}"
                assert reader.execute(query).fetchall() == [(rule, True)]


async def test_a_role_that_may_not_create_uses_the_tables_that_are_there(pgvector_database: str, rule: str) -> None:
    async with PgvectorAnswers(lambda: psycopg.connect(pgvector_database)) as owner:
        await owner.put(rule, "k", b"x", 60)
        await owner.add(rule, towards(0), b"near", 60)
    role = f"r{uuid.uuid4().hex[:12]}"
    with psycopg.connect(pgvector_database, autocommit=True) as admin:
        admin.execute(f"CREATE ROLE {role} LOGIN")
        admin.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role}")
        admin.execute(f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {role}")
        try:
            async with PgvectorAnswers(lambda: psycopg.connect(pgvector_database, user=role)) as store:
                await store.put(rule, "k", b"y", 60)
                await store.add(rule, towards(1), b"far", 60)
                assert await store.get(rule, "k") == b"y"
                assert await store.nearest(rule, towards(0)) == (pytest.approx(1, abs=1e-5), b"near")
        finally:
            admin.execute(f"DROP OWNED BY {role}")
            admin.execute(f"DROP ROLE {role}")


async def test_tables_that_were_dropped_are_made_again(pgvector_database: str, rule: str) -> None:
    clock = Clock()
    async with PgvectorAnswers(lambda: psycopg.connect(pgvector_database), monotonic=clock) as store:
        await store.put(rule, "k", b"x", 60)
        await store.add(rule, towards(0), b"near", 60)
        with psycopg.connect(pgvector_database, autocommit=True) as admin:
            admin.execute("DROP TABLE semantic_cache_exact, semantic_cache_entries")
        with pytest.raises(StoreError):
            await store.get(rule, "k")
        clock.now += 2
        await store.put(rule, "k", b"x", 60)
        await store.add(rule, towards(0), b"near", 60)
        assert await store.get(rule, "k") == b"x"


async def test_expired_rows_are_deleted_a_bounded_number_at_a_time(
    pgvector_database: str, rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pgvector_answers, "SWEEP_ROWS", 10)
    clock = Clock()

    def rows() -> list[int]:
        tables = ("semantic_cache_exact", "semantic_cache_entries")
        with psycopg.connect(pgvector_database) as reader:
            counts = [reader.execute(f"SELECT count(*) FROM {table}").fetchone() for table in tables]
        return [count[0] for count in counts if count is not None]

    async with PgvectorAnswers(lambda: psycopg.connect(pgvector_database), monotonic=clock) as store:
        for number in range(25):
            await store.put(rule, str(number), b"x", 60)
        for number in range(5):
            await store.add(rule, towards(number), b"x", 60)
        with psycopg.connect(pgvector_database) as writer:
            writer.execute("UPDATE semantic_cache_exact SET expires_at = now() - interval '1s'")
            writer.execute("UPDATE semantic_cache_entries SET expires_at = now() - interval '1s'")
        await store.put(rule, "living", b"x", 60)
        assert rows() == [26, 5]
        clock.now += 61
        for left in ([16, 0], [6, 0], [1, 0]):
            await store.put(rule, "living", b"x", 60)
            assert rows() == left
        assert await store.get(rule, "living") == b"x"


async def test_redis_keeps_exact_entries_under_the_documented_key(redis_url: str, rule: str) -> None:
    async with coredis.Redis.from_url(redis_url) as client:
        await RedisAnswers(client).put(rule, "k", b"answer", 60)
        assert await client.get(f"sc_exact:{rule}:k") == b"answer"
        assert 55 <= await client.ttl(f"sc_exact:{rule}:k") <= 60


async def test_redis_is_sent_the_documented_commands(redis_search_url: str, rule: str) -> None:
    """What the server itself saw, by MONITOR."""
    host, port = redis_search_url.removeprefix("redis://").split("/")[0].split(":")
    async with (
        coredis.Redis.from_url(redis_search_url) as client,
        await trio.open_tcp_stream(host, int(port)) as monitor,
    ):
        await monitor.send_all(b"MONITOR\r\n")
        assert await monitor.receive_some() == b"+OK\r\n"
        store = RedisAnswers(client, now_ns=lambda: 1700000000123456789)
        vector = towards(0)
        await store.add(rule, vector, b"answer", 60)
        await store.nearest(rule, vector)
        await client.echo("the end")
        seen = b""
        with trio.fail_after(WAIT_S):
            while b"the end" not in seen:
                seen += await monitor.receive_some()
        key = f"semantic_cache:{rule[:16]}:1700000000123456789"
        assert 55 <= await client.ttl(key) <= 60
        assert await client.hgetall(key) == {
            b"embedding": struct.pack("<1536f", *vector),
            b"rule_id": rule.encode(),
            b"response": b"answer",
        }
    blob = '"' + r"\x00\x00\x80?" + r"\x00" * (1535 * 4) + '"'
    lines = [line.partition("] ")[2] for line in seen.decode().splitlines()]
    wanted = [
        '"FT.CREATE" "semantic_cache" "ON" "HASH" "PREFIX" "1" "semantic_cache:" "SCHEMA" "rule_id" "TAG" "SEPARATOR"'
        ' "," "response" "TEXT" "NOINDEX" "embedding" "VECTOR" "FLAT" "6" "TYPE" "FLOAT32" "DIM" "1536"'
        ' "DISTANCE_METRIC" "COSINE"',
        '"MULTI"',
        f'"HSET" "{key}" "embedding" {blob} "rule_id" "{rule}" "response" "answer"',
        f'"EXPIRE" "{key}" "60"',
        '"EXEC"',
        f'"FT.SEARCH" "semantic_cache" "(@rule_id:{{{rule}}})=>[KNN 1 @embedding $BLOB]" "PARAMS" "2" "BLOB" {blob}'
        f' "RETURN" "2" "response" "__embedding_score" "DIALECT" "2"',
    ]
    verbs = ('"FT.', '"MULTI', '"HSET', '"EXPIRE', '"EXEC')
    assert [line for line in lines if line.startswith(verbs)] == wanted


async def test_a_redis_index_that_was_dropped_is_made_again(redis_search_url: str, rule: str) -> None:
    async with coredis.Redis.from_url(redis_search_url) as client:
        store = RedisAnswers(client)
        await store.add(rule, towards(0), b"x", 60)
        await client.flushdb()
        with pytest.raises(StoreError, match="index_unavailable"):
            await store.nearest(rule, towards(0))
        await store.add(rule, towards(0), b"again", 60)
        found = await store.nearest(rule, towards(0))
        assert found is not None
        assert found[1] == b"again"


FOUND = {b"response": b"a", b"__embedding_score": b"0.25"}
REPLIES: list[tuple[Any, tuple[float, bytes] | None]] = [
    ({b"total_results": 1, b"results": [{b"id": b"k", b"extra_attributes": FOUND}]}, (0.75, b"a")),
    ({b"total_results": 1, b"results": [{b"id": b"k", b"extra_attributes": None}]}, None),
    ({b"total_results": 1, b"results": [{b"id": b"k"}]}, None),
    ({b"total_results": 0, b"results": []}, None),
    ([1, b"k", [b"__embedding_score", b"0.25", b"response", b"a"]], (0.75, b"a")),
    ([1, b"k", None], None),
    ([1, b"k", []], None),
    ([0], None),
]


@pytest.mark.parametrize(("reply", "hit"), REPLIES)
async def test_a_search_is_read_in_either_protocol_and_an_expired_document_is_none(
    rule: str, reply: Any, hit: tuple[float, bytes] | None
) -> None:
    class Answering:
        async def create_request(self, *arguments: Any, **options: Any) -> Any:
            return reply

    assert await RedisAnswers(Answering()).nearest(rule, towards(0)) == hit


async def test_a_redis_that_hangs_is_not_waited_for(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_answers, "TIMEOUT_S", 0.2)

    class Hanging:
        async def hang(self, *arguments: Any, **options: Any) -> None:
            await trio.sleep_forever()

        get = set = create_request = hang

    store = RedisAnswers(Hanging())
    for call, reason in (
        (lambda: store.get(rule, "k"), "exact_store_failed"),
        (lambda: store.put(rule, "k", b"x", 60), "exact_store_failed"),
        (lambda: store.nearest(rule, towards(0)), "index_unavailable"),
    ):
        with trio.fail_after(WAIT_S), pytest.raises(StoreError, match=reason):
            await call()
