"""What odd but valid HTTP gets from the admin plane: upgrades, long targets, headers that are not ASCII."""

from __future__ import annotations

import http.client
from collections.abc import Iterator

import pytest

from tests.admin.catalog import plugin_catalog, services
from tests.admin.memory import MemoryControl
from tests.admin.serving import Client, running

HANDSHAKE = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


@pytest.fixture(scope="module")
def control() -> MemoryControl:
    return MemoryControl(plugin_catalog())


@pytest.fixture(scope="module")
def client(control: MemoryControl) -> Iterator[Client]:
    with running(control, services()) as port:
        yield Client(port)


@pytest.mark.parametrize(
    ("path", "token", "status", "text"),
    [
        ("/healthz", None, 200, b'"status":"healthy"'),
        ("/v1/gateways", "", 401, b'"Authorization required"'),
        ("/v1/gateways", None, 200, b'"total":0'),
        ("/nope", None, 404, b"Cannot GET /nope"),
    ],
)
def test_the_wish_for_a_websocket_is_ignored(
    client: Client, path: str, token: str | None, status: int, text: bytes
) -> None:
    answer = Client(client.port, token)("GET", path, headers=HANDSHAKE)
    assert answer.status == status
    assert text in answer.body
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "x-request-id" in answer.headers


def test_a_long_target_counts_as_head(client: Client) -> None:
    answer = client("GET", "/healthz?" + "a" * 33_000)
    assert (answer.status, answer.body) == (431, b"Request Header Fields Too Large")


@pytest.mark.parametrize("sent", ["réq–1".encode(), b'a "b" <c>', b"plain"])
def test_a_request_id_is_echoed_byte_for_byte(client: Client, sent: bytes) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", client.port, timeout=20)
    connection.request("GET", "/healthz", headers={"X-Request-Id": sent})
    # http.client takes the bytes of a header for Latin-1.
    assert connection.getresponse().headers["X-Request-Id"].encode("latin-1") == sent
    connection.close()


@pytest.mark.parametrize("sent", ["weil – é".encode(), "weil é".encode("latin-1")])
def test_a_reason_is_understood_in_either_encoding(client: Client, control: MemoryControl, sent: bytes) -> None:
    gateway = client.gateway(f"reason-{len(sent)}")
    client("POST", f"/v1/gateways/{gateway}/roles", {"name": "one"}, headers={"X-AG-Change-Reason": sent})
    assert control.commands[-1].meta.reason in ("weil – é", "weil é")


@pytest.mark.parametrize(
    "span",
    [{"from": "0001-01-01T00:00:00+14:00"}, {"to": "9999-12-31T23:59:59-14:00"}, {"to": "yesterday"}],
)
def test_a_plan_over_times_that_are_none_is_refused(client: Client, span: dict[str, str]) -> None:
    gateway = client.gateway(f"plan-{abs(hash(str(span)))}")
    body = {"commands": [{"method": "PUT", "path": "", "body": {}}], **span}
    answer = client("POST", f"/v1/gateways/{gateway}/plan", body)
    ((name, text),) = span.items()
    assert answer.status == 422
    assert answer.json["message"] == f'plan: {name} is not an RFC 3339 time: "{text}": validation failed'
