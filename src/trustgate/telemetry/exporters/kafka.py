"""Exporter `kafka`: the metadata view as JSON, keyed, batched by partition (spec 06 §11.3).

The outlet's thread owns an asyncio loop of its own, in which aiokafka lives; it runs while there is something to
publish. A batch counts as published when the broker has acknowledged it; one that failed is sent again, so a record
may arrive twice (same key), never silently not at all.
"""

from __future__ import annotations

import asyncio
import ssl
import zlib
from collections.abc import Sequence
from typing import Any

import structlog

from trustgate.telemetry.event import Event
from trustgate.telemetry.exporters.complaints import Complaints
from trustgate.telemetry.networks import Fence
from trustgate.telemetry.outlet import Item, Manner, Metadata

MANNER = Manner(form="encoded", capacity=10_000, max_batch=2_000, linger_s=0.005)
REQUEST_TIMEOUT_MS = 10_000
PUBLISH_TIMEOUT_S = 30.0
CLOSE_TIMEOUT_S = 5.0
BATCH_BYTES = 512 * 1024
PARTITIONS, REPLICATION = 3, 1

Json = dict[str, Any]

log = structlog.get_logger("trustgate.telemetry")


_complaints = Complaints("aiokafka")


def partition_of(key: bytes, partitions: int) -> int:
    """CRC-32 of the key: what librdkafka calls the `consistent` partitioner."""
    return zlib.crc32(key) % partitions


def key_of(event: Event, member: str) -> str:
    """The partition key of a record; its trace id where the member is empty."""
    if member == "consumer_id":
        return event.consumer.id or event.trace_id
    return getattr(event, member) or event.trace_id


class FencedLoop(asyncio.SelectorEventLoop):
    """Connects to allowed addresses only: also to brokers that a cluster's own metadata names."""

    def __init__(self, fence: Fence) -> None:
        super().__init__()
        self._fence = fence

    async def sock_connect(self, sock: Any, address: Any) -> None:
        self._fence.check(address[0])
        await super().sock_connect(sock, address)


def tls_context(tls: Json) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=tls.get("ca_file") or None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if tls.get("cert_file"):
        context.load_cert_chain(tls["cert_file"], tls["key_file"])
    if tls.get("skip_verify"):
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def connection(settings: Json, password: str) -> Json:
    """aiokafka's arguments for reaching and authenticating at the brokers."""
    sasl, tls = settings.get("sasl") or {}, settings.get("tls")
    protocol = ("SASL_" if sasl else "") + ("SSL" if tls is not None else "PLAINTEXT")
    found: Json = {
        "bootstrap_servers": settings["brokers"],
        "client_id": "trustgate",
        "request_timeout_ms": REQUEST_TIMEOUT_MS,
        "security_protocol": protocol,
    }
    if tls is not None:
        found["ssl_context"] = tls_context(tls)
    if sasl:
        found["sasl_mechanism"] = sasl.get("mechanism") or "PLAIN"
        found["sasl_plain_username"], found["sasl_plain_password"] = sasl.get("username", ""), password
    return found


class KafkaSink:
    """`brokers` and `topic` are there; `sasl` with a password in clear. Raises what the client raises."""

    def __init__(self, settings: Json, fence: Fence | None) -> None:
        self._topic: str = settings["topic"]
        self._member: str = settings.get("partition_key") or "trace_id"
        self._loop = asyncio.SelectorEventLoop() if fence is None else FencedLoop(fence)
        try:
            self._producer = self._loop.run_until_complete(self._start(settings))
        except Exception as error:
            self._loop.close()
            raise ConnectionError(_complaints.about(str(error))) from error

    async def _start(self, settings: Json) -> Any:
        from aiokafka import AIOKafkaProducer  # loaded when an exporter is used

        compression = settings.get("compression")
        arguments = connection(settings, (settings.get("sasl") or {}).get("password", ""))
        await self._create_topic(arguments)
        producer = AIOKafkaProducer(
            acks=settings.get("acks", "all"),
            compression_type=None if compression in (None, "", "none") else compression,
            max_batch_size=BATCH_BYTES,
            **arguments,
        )
        try:
            await producer.start()
        except BaseException:
            await producer.stop()
            raise
        return producer

    async def _create_topic(self, arguments: Json) -> None:
        """A topic that is there is fine; one that cannot be made is only worth a line."""
        from aiokafka.admin import AIOKafkaAdminClient, NewTopic
        from aiokafka.errors import KafkaConnectionError, TopicAlreadyExistsError, for_code

        admin = AIOKafkaAdminClient(**arguments)
        try:
            await admin.start()
            answer: Any = await admin.create_topics([NewTopic(self._topic, PARTITIONS, REPLICATION)])
            for topic, code, *_ in answer.topic_errors:
                if code and code != TopicAlreadyExistsError.errno:
                    log.warning("kafka topic not created", topic=topic, error=for_code(code).__name__)
        except KafkaConnectionError:
            raise
        except Exception as error:
            log.warning("kafka topic not created", topic=self._topic, error=type(error).__name__)
        finally:
            await admin.close()

    def publish(self, batch: Sequence[Item]) -> int:
        return self._loop.run_until_complete(asyncio.wait_for(self._send(batch), PUBLISH_TIMEOUT_S))

    async def _send(self, batch: Sequence[Item]) -> int:
        """All records acknowledged, or refused for their size (their number)."""
        from aiokafka.errors import MessageSizeTooLargeError, RecordTooLargeError

        partitions = len(await self._producer.partitions_for(self._topic))
        shares: dict[int, list[tuple[bytes, bytes]]] = {}
        for item in batch:
            if isinstance(item, Metadata):
                key = key_of(item.event, self._member).encode()
                shares.setdefault(partition_of(key, partitions), []).append((key, item.data))
        waiting: list[tuple[int, asyncio.Future[Any]]] = []
        for partition, share in shares.items():
            builder, count = self._producer.create_batch(), 0
            for key, value in share:
                if builder.append(key=key, value=value, timestamp=None) is None:
                    waiting.append((count, await self._producer.send_batch(builder, self._topic, partition=partition)))
                    builder, count = self._producer.create_batch(), 0
                    builder.append(key=key, value=value, timestamp=None)
                count += 1
            waiting.append((count, await self._producer.send_batch(builder, self._topic, partition=partition)))
        refused = 0
        outcomes = await asyncio.gather(*(future for _, future in waiting), return_exceptions=True)
        for (count, _), outcome in zip(waiting, outcomes, strict=True):
            if isinstance(outcome, (MessageSizeTooLargeError, RecordTooLargeError)):
                refused += count
                log.error("kafka delivery failed", topic=self._topic, records=count, error=type(outcome).__name__)
            elif isinstance(outcome, BaseException):
                raise outcome
        return refused

    def close(self) -> None:
        """Takes at most CLOSE_TIMEOUT_S."""
        try:
            self._loop.run_until_complete(asyncio.wait_for(self._producer.stop(), CLOSE_TIMEOUT_S))
        finally:
            self._loop.close()
