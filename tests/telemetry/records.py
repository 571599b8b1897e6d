"""Facts and records for tests of telemetry."""

from __future__ import annotations

import ipaddress
import uuid
from typing import Any

from cryptography import x509

from tests.e2e.certificates import key_and_certificate
from trustgate.policies.model import Mark, Reservation
from trustgate.proxy.exchange import Attempt
from trustgate.telemetry.event import Facts, Tokens, bodies, build, encode, metadata_view, raw_view
from trustgate.telemetry.outlet import Bodies, Metadata


def attempt(**given: Any) -> Attempt:
    members = {
        "registry_id": "r1",
        "provider": "openai",
        "attempt": 1,
        "fallback": False,
        "pinned": False,
        "route": "consumer",
        "outcome": "success",
        "status_code": 200,
        "latency_ms": 20,
    }
    return Attempt(**(members | given))


def mark(**given: Any) -> Mark:
    members: dict[str, Any] = {"name": "rate_limiter", "stage": "pre_request", "latency_ms": 1.4}
    return Mark(**(members | given))


def facts(**given: Any) -> Facts:
    members: dict[str, Any] = {
        "trace_id": str(uuid.uuid4()),
        "gateway_id": "g1",
        "tenant_id": "acme",
        "started_unix": 1767323045.5,
        "total_ms": 50,
        "consumer_id": "c1",
        "consumer_name": "app",
        "status": 200,
        "method": "POST",
        "path": "/app/v1/chat/completions",
        "requested_model": "gpt-4o",
        "sent_model": "gpt-4o",
        "provider_model": "gpt-4o-2024-08-06",
        "request_headers": [(b"content-type", b"application/json"), (b"authorization", b"Bearer sk-very-secret")],
        "response_headers": [(b"content-type", b"application/json")],
        "request_body": b'{"model":"gpt-4o","api_key":"s3cret"}',
        "response_body": b'{"id":"x"}',
        "usage": Tokens(10, 5, 15),
        "cost": (1.5e-6, 3e-6),
        "attempts": [attempt()],
    }
    return Facts(**(members | given))


def full_facts(**given: Any) -> Facts:
    """Facts that leave no member of an LLM record out."""
    members: dict[str, Any] = {
        "session_id": "s1",
        "turn_id": "t1",
        "ip": "10.0.0.9",
        "reason": "plugin_rejected",
        "model_label": "GPT-4o",
        "temperature": 0.0,
        "max_tokens": 64,
        "stream": True,
        "streaming": True,
        "finish_reason": "stop",
        "usage": Tokens(10, 5, 15, 2, 1),
        "attempts": [
            attempt(outcome="retryable", status_code=503, route_model="m"),
            attempt(attempt=2, fallback=True, pinned=True),
        ],
        "policies": [
            mark(decision="block", status_code=429, extras={"limit": 5, "token": "s3cret"}),
            mark(name="trustguard", stage="post_response", error=True, score=0.0, score_label="pii", latency_ms=7.0),
        ],
        "reservations": [Reservation(policy_id="p1", unit="tokens", reserved=100, charged=15)],
        "config_version": 7,
        "untranslated": ["logit_bias"],
        "aborted": True,
    }
    return facts(**(members | given))


def metadata(**given: Any) -> Metadata:
    event = metadata_view(build(facts(**given)))
    return Metadata(event, encode(event))


def raw(**given: Any) -> Bodies:
    found = facts(**given)
    return Bodies(raw_view(build(found), *bodies(found)))


def certificate() -> tuple[bytes, bytes]:
    """A private key and a self-signed certificate for 127.0.0.1, both PEM."""
    return key_and_certificate(x509.DNSName("receiver.test"), x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
