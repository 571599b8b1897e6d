"""A built-in model for trying the gateway without a provider account: an OpenAI-compatible ASGI app.

Deterministic (it repeats the last user message), streams, reports usage. It listens on loopback only and is no part of
the traffic planes; `trustgate dev` and `trustgate quickstart` start it.
"""

import hashlib
import os
import re
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import trio
from hypercorn.config import Config
from hypercorn.trio import serve as hypercorn_serve

MODEL = "loopback"
EMBEDDING_SIZE = 64
MAX_BODY_BYTES = 8 * 1024 * 1024
PORT_FILE = "loopback.port"
CREATED = 1_700_000_000

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Refused(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def answer_text(messages: object) -> str:
    """What the model says: the last user message, repeated."""
    said = ""
    for message in messages if isinstance(messages, list) else []:
        if isinstance(message, dict) and message.get("role") == "user":
            said = _text(message.get("content"))
    return f"You said: {said}" if said else "Hello from the loopback model."


def _text(content: object) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return " ".join(part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str))


def _words(text: str) -> int:
    return len(text.split())


def _usage(messages: object, answer: str) -> dict[str, int]:
    asked = [_text(m.get("content")) for m in messages if isinstance(m, dict)] if isinstance(messages, list) else []
    prompt, completion = sum(_words(text) for text in asked), _words(answer)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _identity(body: bytes) -> str:
    return "chatcmpl-" + hashlib.sha256(body).hexdigest()[:24]


def completion(request: dict[str, Any], body: bytes) -> dict[str, Any]:
    """A chat.completion object."""
    answer = answer_text(request.get("messages"))
    return {
        "id": _identity(body),
        "object": "chat.completion",
        "created": CREATED,
        "model": request.get("model") or MODEL,
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": answer}, "finish_reason": "stop"},
        ],
        "usage": _usage(request.get("messages"), answer),
    }


def chunks(request: dict[str, Any], body: bytes) -> Iterator[bytes]:
    """The same answer as server-sent events, a word each."""
    answer = answer_text(request.get("messages"))
    options = request.get("stream_options")
    with_usage = isinstance(options, dict) and bool(options.get("include_usage"))

    def event(choices: list[Any], **more: object) -> bytes:
        chunk: dict[str, Any] = {
            "id": _identity(body),
            "object": "chat.completion.chunk",
            "created": CREATED,
            "model": request.get("model") or MODEL,
            "choices": choices,
        }
        return b"data: " + msgspec.json.encode(chunk | more) + b"\n\n"

    yield event([{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}])
    for word in re.findall(r"\S+\s*", answer):
        yield event([{"index": 0, "delta": {"content": word}, "finish_reason": None}])
    yield event([{"index": 0, "delta": {}, "finish_reason": "stop"}])
    if with_usage:
        yield event([], usage=_usage(request.get("messages"), answer))
    yield b"data: [DONE]\n\n"


def embeddings(request: dict[str, Any]) -> dict[str, Any]:
    """Unit vectors of word hashes: equal texts are equal, texts that share words are near."""
    given = request.get("input")
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise Refused(400, "input must be a string or an array of strings")
    data = [{"object": "embedding", "index": n, "embedding": _vector(text)} for n, text in enumerate(texts)]
    tokens = sum(_words(text) for text in texts)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": request.get("model") or MODEL, "usage": usage}


def _vector(text: str) -> list[float]:
    vector = [0.0] * EMBEDDING_SIZE
    for word in re.findall(r"\w+", text.lower()):
        digest = hashlib.sha256(word.encode()).digest()
        vector[digest[0] % EMBEDDING_SIZE] += 1.0 if digest[1] % 2 else -1.0
    length = sum(value * value for value in vector) ** 0.5 or 1.0
    return [round(value / length, 6) for value in vector]


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """ASGI: `GET /v1/models`, `POST /v1/chat/completions`, `POST /v1/embeddings`; OpenAI error objects otherwise."""
    if scope["type"] == "lifespan":
        await _lifespan(receive, send)
        return
    if scope["type"] != "http":
        return
    try:
        await _route(scope, receive, send)
    except Refused as refused:
        error = {"message": str(refused), "type": "invalid_request_error", "param": None, "code": None}
        await _send_json(send, refused.status, {"error": error})


async def _route(scope: Scope, receive: Receive, send: Send) -> None:
    route = (scope["method"], scope["path"])
    if route == ("GET", "/v1/models"):
        model = {"id": MODEL, "object": "model", "created": CREATED, "owned_by": "trustgate"}
        await _send_json(send, 200, {"object": "list", "data": [model]})
        return
    if route not in (("POST", "/v1/chat/completions"), ("POST", "/v1/embeddings")):
        raise Refused(404, f"Unknown request URL: {scope['method']} {scope['path']}")
    body = await _read(receive)
    try:
        request = msgspec.json.decode(body, type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise Refused(400, f"the body is not a JSON object: {error}") from error
    if route[1] == "/v1/embeddings":
        await _send_json(send, 200, embeddings(request))
    elif request.get("stream") is True:
        await _start(send, 200, b"text/event-stream")
        for chunk in chunks(request, body):
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
    else:
        await _send_json(send, 200, completion(request, body))


async def _read(receive: Receive) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Refused(400, "the client left")
        body += message.get("body", b"")
        if len(body) > MAX_BODY_BYTES:
            raise Refused(413, "the body is too large")
        if not message.get("more_body"):
            return bytes(body)


async def _start(send: Send, status: int, content_type: bytes) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", content_type)]})


async def _send_json(send: Send, status: int, value: object) -> None:
    await _start(send, status, b"application/json")
    await send({"type": "http.response.body", "body": msgspec.json.encode(value)})


async def _lifespan(receive: Receive, send: Send) -> None:
    for phase in ("startup", "shutdown"):
        await receive()
        await send({"type": f"lifespan.{phase}.complete"})


def listen(data_dir: Path | None = None) -> socket.socket:
    """A listening loopback socket: the port used last time (kept in `data_dir`) when it is free, else any."""
    remembered = data_dir / PORT_FILE if data_dir is not None else None
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", int(remembered.read_text()) if remembered else 0))
    except (OSError, ValueError, OverflowError):
        listener.bind(("127.0.0.1", 0))
    listener.listen(128)
    if remembered is not None:
        remembered.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
        remembered.write_text(f"{listener.getsockname()[1]}\n")
    return listener


def base_url(listener: socket.socket) -> str:
    return f"http://127.0.0.1:{listener.getsockname()[1]}/v1"


async def serve(listener: socket.socket) -> None:
    """Serve until cancelled. The socket is not closed on return."""
    config = Config()
    config.bind = [f"fd://{os.dup(listener.fileno())}"]  # Hypercorn closes what it is given
    config.accesslog = config.errorlog = None
    config.graceful_timeout = 1
    await hypercorn_serve(app, config, mode="asgi", shutdown_trigger=trio.sleep_forever)  # type: ignore[arg-type]


@contextmanager
def running(data_dir: Path | None = None) -> Iterator[str]:
    """The model served from a thread for the length of a `with` block; yields its base URL."""
    listener = listen(data_dir)
    scope = trio.CancelScope()
    token: list[trio.lowlevel.TrioToken] = []
    started = threading.Event()

    async def until_cancelled() -> None:
        token.append(trio.lowlevel.current_trio_token())
        started.set()
        with scope:
            await serve(listener)

    thread = threading.Thread(target=trio.run, args=(until_cancelled,), name="loopback-model", daemon=True)
    thread.start()
    started.wait()
    try:
        yield base_url(listener)
    finally:
        token[0].run_sync_soon(scope.cancel)
        thread.join(timeout=5)
        listener.shutdown(socket.SHUT_RDWR)  # Hypercorn's duplicate lives until it is collected; the port is free now
        listener.close()
