"""The Kafka exporter against a real broker: what arrives, and what is counted when the broker is away."""

from __future__ import annotations

import asyncio
import json
import pathlib
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

import pytest

from tests.services import KafkaBroker
from tests.telemetry.records import certificate, metadata
from trustgate.telemetry.exporter_config import ExporterConfig
from trustgate.telemetry.exporters import TYPES, Environment
from trustgate.telemetry.exporters.kafka import MANNER, KafkaSink, partition_of
from trustgate.telemetry.networks import Fence
from trustgate.telemetry.outlet import Item, Manner, Outlet

Json = dict[str, Any]


def settings(bootstrap: str, **more: Any) -> Json:
    return {"brokers": [bootstrap], "topic": f"t-{uuid.uuid4().hex[:12]}"} | more


def consume(bootstrap: str, topic: str, enough: Callable[[list[Any]], bool]) -> list[Any]:
    """Messages from the beginning until there are `enough`; fails after a minute."""

    async def read() -> list[Any]:
        from aiokafka import AIOKafkaConsumer

        consumer = AIOKafkaConsumer(topic, bootstrap_servers=bootstrap, auto_offset_reset="earliest")
        await consumer.start()
        try:
            found: list[Any] = []
            async with asyncio.timeout(60):
                while not enough(found):
                    batches = await consumer.getmany(timeout_ms=200)
                    found += [message for batch in batches.values() for message in batch]
            return found
        finally:
            await consumer.stop()

    return asyncio.run(read())


@pytest.mark.parametrize("compression", ["none", "gzip", "snappy", "lz4", "zstd"])
def test_records_arrive_whole_keyed_and_in_the_partition_of_their_key(kafka_bootstrap: str, compression: str) -> None:
    given = settings(kafka_bootstrap, compression=compression)
    items = [metadata() for _ in range(300)]
    sink = KafkaSink(given, None)
    try:
        assert sink.publish(items[:200]) == 0
        assert sink.publish(items[200:]) == 0
    finally:
        sink.close()
    found = consume(kafka_bootstrap, given["topic"], lambda found: len(found) >= 300)
    assert {message.value for message in found} == {item.data for item in items}
    assert {message.key.decode() for message in found} == {item.event.trace_id for item in items}
    assert len({message.partition for message in found}) == 3  # the exporter made the topic
    assert all(message.partition == partition_of(message.key, 3) for message in found)


def test_another_member_can_be_the_partition_key(kafka_bootstrap: str) -> None:
    given = settings(kafka_bootstrap, partition_key="consumer_id", acks=1)
    items = [metadata(consumer_id=consumer) for consumer in ("c1", "c2", "") for _ in range(3)]
    sink = KafkaSink(given, None)
    sink.publish(items)
    sink.close()
    found = consume(kafka_bootstrap, given["topic"], lambda found: len(found) >= len(items))
    keys = [message.key for message in found]
    assert (keys.count(b"c1"), keys.count(b"c2"), len(set(keys))) == (3, 3, 5)  # the trace id where there is none


def test_a_record_that_the_broker_refuses_for_its_size_is_counted_and_the_others_arrive(kafka_bootstrap: str) -> None:
    given = settings(kafka_bootstrap)
    sink = KafkaSink(given, None)
    small, huge = metadata(), metadata(path="/" + uuid.uuid4().hex * 60_000)
    lost = sink.publish([huge]) + sink.publish([small])
    sink.close()
    assert lost == 1
    (message,) = consume(kafka_bootstrap, given["topic"], lambda found: len(found) >= 1)
    assert message.value == small.data


def test_a_tenants_exporter_does_not_reach_brokers_behind_the_fence(kafka_bootstrap: str) -> None:
    with pytest.raises(ConnectionError, match="is not an address that tenants' exporters may connect to"):
        KafkaSink(settings(kafka_bootstrap), Fence())
    KafkaSink(settings(kafka_bootstrap), Fence(("127.0.0.0/8",))).close()


KEY, CHAIN = certificate()


@pytest.mark.parametrize("broker", [(KEY + CHAIN).decode()], indirect=True, ids=["secure"])
def test_a_broker_that_wants_tls_and_a_password(broker: KafkaBroker, tmp_path: pathlib.Path) -> None:
    authority = tmp_path / "ca.pem"
    authority.write_bytes(CHAIN)
    sasl = {"mechanism": "PLAIN", "username": "trustgate", "password_env": "BROKER_PASSWORD"}
    given = settings(broker.secure, tls={"ca_file": str(authority)}, sasl=sasl)
    config = ExporterConfig(name="k", type="kafka", raw=False, settings=given)

    def published(password: str, items: list[Item]) -> int:
        sink = TYPES["kafka"].open(config, Environment(variables={"BROKER_PASSWORD": password}))
        try:
            return sink.publish(items)
        finally:
            sink.close()

    item = metadata()
    assert published("sensitive-broker", [item]) == 0
    with pytest.raises(Exception, match=r"(?i)authentication failed"):
        published("wrong", [item])
    (message,) = consume(broker.bootstrap, given["topic"], lambda found: len(found) >= 1)
    assert message.value == item.data


def wait_for(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 90
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_broker_that_dies_under_load_costs_only_what_the_queue_cannot_hold(broker: KafkaBroker) -> None:
    """Everything that was put is either delivered or counted as dropped; putting never waits for the broker."""
    given = settings(broker.bootstrap)
    capacity = 500
    manner = Manner(MANNER.form, capacity, 100, MANNER.linger_s)
    outlet = Outlet("kafka", "kafka", manner, lambda: KafkaSink(given, None))
    put: list[str] = []
    stop = threading.Event()

    def produce() -> None:
        while not stop.is_set():
            items = [metadata() for _ in range(10)]
            outlet.put(items)
            put.extend(item.event.trace_id for item in items)
            stop.wait(0.01)

    load = threading.Thread(target=produce)
    load.start()
    try:
        wait_for(lambda: outlet.statistics().published >= 300)
        broker.kill()
        wait_for(lambda: outlet.statistics().dropped >= 200)
        assert outlet.statistics().queued <= capacity
        before = outlet.statistics().published
        broker.start()
        wait_for(lambda: outlet.statistics().published >= before + 2 * capacity)
    finally:
        stop.set()
        load.join()
    outlet.begin_close(60)
    outlet.finish_close()
    counted = outlet.statistics()
    assert counted.queued == counted.failed == 0
    assert counted.published + counted.dropped == len(put)
    found = consume(broker.bootstrap, given["topic"], lambda found: len({m.key for m in found}) >= counted.published)
    arrived = {json.loads(message.value)["trace_id"] for message in found}
    assert arrived <= set(put)
    # A batch whose acknowledgement was lost with the broker may have arrived although it was later dropped.
    assert len(put) - counted.dropped <= len(arrived) <= len(put)
