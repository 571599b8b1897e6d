"""JSON-RPC 2.0 as the endpoint speaks it: one request in, one response out, ids echoed byte for byte (spec 05 §6).

What lives here: the envelope, sans-IO. What must not: methods.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw

from trustgate.formats.nesting import too_deep

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
DENIED = -32001
RESOURCE_NOT_FOUND = -32002
CONSENT_REQUIRED = -32003
THROTTLED = -32004
UNAVAILABLE = -32005

NOT_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError)
"""Everything that decoding foreign bytes may raise."""


class Malformed(Exception):
    """The bytes hold no request; `id` is what can be echoed."""

    def __init__(self, code: int, message: str, id: bytes = b"null") -> None:
        super().__init__(message)
        self.code, self.message, self.id = code, message, id


class Message(msgspec.Struct, gc=False):
    """A JSON-RPC message. Members that are absent are empty texts; `id` and `params` are the sender's own bytes."""

    jsonrpc: Any = None
    method: Any = None
    id: Raw = Raw()
    params: Raw = Raw()
    result: Raw = Raw()
    error: Raw = Raw()

    @property
    def is_notification(self) -> bool:
        """Nobody waits for an answer: the id is absent or null."""
        return not self.id or bytes(self.id) == b"null"


_decode = msgspec.json.Decoder(Message).decode


def check_utf8(body: bytes) -> None:
    """Raises UnicodeDecodeError for text that must not be passed on: skipped values are not looked at otherwise."""
    if not body.isascii():
        body.decode()


def read(body: bytes) -> Message:
    """A JSON-RPC message of any kind. Raises one of NOT_JSON for anything but a JSON object, and for one that is nested
    so deep that readers further down (policies) might fail on it.
    """
    check_utf8(body)
    if too_deep(body):
        raise ValueError("nested too deeply")
    return _decode(body)


def read_request(body: bytes) -> Message:
    """A client's request or notification. Raises Malformed: batches and everything but an object do not parse."""
    try:
        message = read(body)
    except NOT_JSON:
        raise Malformed(PARSE_ERROR, "parse error") from None
    if message.jsonrpc != "2.0" or not message.method or not isinstance(message.method, str):
        raise Malformed(INVALID_REQUEST, "invalid request", bytes(message.id) or b"null")
    return message


def text_of(id: Raw) -> str:
    """An id that is a string; empty for any other. Raises one of NOT_JSON for what is no JSON."""
    value = msgspec.json.decode(id)
    return value if isinstance(value, str) else ""


def result(id: bytes | Raw, value: bytes | Raw) -> bytes:
    """The response to a request that succeeded; both are JSON texts."""
    return b'{"jsonrpc":"2.0","id":%b,"result":%b}' % (bytes(id), bytes(value))


def error(id: bytes | Raw, value: bytes | Raw) -> bytes:
    """The response to a request that failed; `value` is the text of the whole error object."""
    return b'{"jsonrpc":"2.0","id":%b,"error":%b}' % (bytes(id), bytes(value))


def error_object(code: int, message: str, data: bytes | None = None) -> bytes:
    """The text of an error object; `data` is JSON already."""
    value: dict[str, Any] = {"code": code, "message": message}
    if data is not None:
        value["data"] = Raw(data)
    return msgspec.json.encode(value)


def params_of(message: Message, shape: type[Any]) -> Any:
    """The params as `shape`; its defaults when they are absent, null or not an object of that shape."""
    raw = bytes(message.params)
    if not raw or raw == b"null":
        return shape()
    try:
        return msgspec.json.decode(raw, type=shape)
    except NOT_JSON:
        return shape()
