"""A provider that misbehaves on demand: behaviours by the first segment of the path, every request recorded.

Raw sockets and threads, so that each byte, pause, cut and reset is ours.
"""

from __future__ import annotations

import contextlib
import gzip
import itertools
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import IO, Any

TEXT = "Hello from the provider"
COMPLETION = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1700000000,
    "model": "m-up",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": TEXT}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 5, "completion_tokens": 4, "total_tokens": 9},
}


def chunk(delta: dict[str, Any], finish: str | None = None) -> bytes:
    event = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1700000000,
        "model": "m-up",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
    }
    return b"data: " + json.dumps(event, ensure_ascii=False).encode() + b"\n\n"


USAGE = b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1700000000,"model":"m-up","choices":[],'
USAGE += b'"usage":{"prompt_tokens":5,"completion_tokens":4,"total_tokens":9}}\n\n'
DONE = b"data: [DONE]\n\n"
ROLE = chunk({"role": "assistant", "content": ""})
WORDS = [chunk({"content": word}) for word in ("Hello ", "from ", "the ", "provider")]
STREAM = [ROLE, *WORDS, chunk({}, "stop"), USAGE, DONE]


class Request:
    """One received request; `gone_at` is when the peer's end was noticed while the answer was pending."""

    def __init__(self, method: str, path: str, headers: dict[str, str], body: bytes) -> None:
        self.method, self.path, self.headers, self.body = method, path, headers, body
        self.gone = threading.Event()
        self.gone_at = 0.0

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Peer:
    """The socket of one request, with the vocabulary of the behaviours."""

    def __init__(self, sock: socket.socket, request: Request) -> None:
        self.sock, self.request = sock, request
        self.streamed = b'"stream":true' in request.body.replace(b" ", b"")

    def head(self, status: int, headers: dict[str, str]) -> None:
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self.sock.sendall(f"HTTP/1.1 {status} X\r\n{lines}\r\n".encode())

    def whole(self, status: int, body: bytes, **headers: str) -> None:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        self.head(status, {"Content-Type": "application/json", "Content-Length": str(len(body))} | given)
        self.sock.sendall(body)

    def begin(self, kind: str = "text/event-stream") -> None:
        self.head(200, {"Content-Type": kind, "Transfer-Encoding": "chunked"})

    def part(self, data: bytes) -> None:
        self.sock.sendall(b"%x\r\n%b\r\n" % (len(data), data))

    def end(self) -> None:
        self.sock.sendall(b"0\r\n\r\n")

    def reset(self) -> None:
        """Close so that the peer sees a connection reset."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def wait_gone(self, seconds: float = 10.0) -> None:
        """Stay silent until the peer hangs up."""
        self.sock.settimeout(seconds)
        with contextlib.suppress(OSError):
            self.sock.recv(1)
        self.request.gone_at = time.monotonic()
        self.request.gone.set()


def ok(peer: Peer) -> None:
    if not peer.streamed:
        peer.whole(200, json.dumps(COMPLETION).encode())
        return
    peer.begin()
    for event in STREAM:
        peer.part(event)
    peer.end()


def echo(peer: Peer) -> None:
    """Say again what the last message said, without `~`; streamed, in pieces of five characters."""
    said = peer.request.json["messages"][-1]["content"].replace("~", "")
    if not peer.streamed:
        choice = {"index": 0, "message": {"role": "assistant", "content": said}, "finish_reason": "stop"}
        peer.whole(200, json.dumps(COMPLETION | {"choices": [choice]}).encode())
        return
    peer.begin()
    pieces = [chunk({"content": said[at : at + 5]}) for at in range(0, len(said), 5)]
    for event in (ROLE, *pieces, chunk({}, "stop"), USAGE, DONE):
        peer.part(event)
    peer.end()


def status(code: int, **headers: str) -> Callable[[Peer], None]:
    body = json.dumps({"error": {"message": f"status {code}", "type": "t"}}).encode()
    return lambda peer: peer.whole(code, body, **headers)


def stream_of(*events: bytes, end: str = "close") -> Callable[[Peer], None]:
    """Send the events, then `close` (cut without the last chunk), `reset`, `end` cleanly, or `stall`."""

    def behave(peer: Peer) -> None:
        peer.begin()
        for event in events:
            peer.part(event)
            time.sleep(0.01)
        if end == "reset":
            peer.reset()
        elif end == "end":
            peer.end()
        elif end == "stall":
            peer.wait_gone()

    return behave


def endless(peer: Peer) -> None:
    """Words until the peer hangs up, or for a minute."""
    peer.begin()
    peer.part(ROLE)
    for _ in range(600):
        peer.part(WORDS[0])
        time.sleep(0.1)


def gzipped(peer: Peer) -> None:
    peer.whole(200, gzip.compress(json.dumps(COMPLETION).encode()), Content_Encoding="gzip")


def half_body(peer: Peer) -> None:
    peer.head(200, {"Content-Type": "application/json", "Content-Length": "500"})
    peer.sock.sendall(b'{"id":')


def half_head(peer: Peer) -> None:
    peer.sock.sendall(b"HTTP/1.1 200 OK\r\nContent-")
    peer.reset()


def bad_chunk(peer: Peer) -> None:
    peer.begin("application/json")
    peer.sock.sendall(b"zz\r\n{}\r\n")


def error_inside(peer: Peer) -> None:
    peer.whole(200, b'{"error":{"message":"the engine is overloaded","type":"server_error","code":503}}')


CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Paris"}'}}


def calls_a_tool(peer: Peer) -> None:
    """Answer with a tool call; streamed, its arguments come in fragments."""
    if not peer.streamed:
        message = {"role": "assistant", "content": None, "tool_calls": [CALL]}
        choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
        peer.whole(200, json.dumps(COMPLETION | {"choices": [choice]}).encode())
        return
    opening = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "weather", "arguments": ""}}
    parts = [{"index": 0, "function": {"arguments": text}} for text in ('{"ci', 'ty":"Pa', 'ris"}')]
    peer.begin()
    for event in (ROLE, *(chunk({"tool_calls": [part]}) for part in [opening, *parts]), chunk({}, "tool_calls")):
        peer.part(event)
    for event in (USAGE, DONE):
        peer.part(event)
    peer.end()


def embeds(peer: Peer) -> None:
    """Embeddings and rerankings in the dialect of the path."""
    vectors: list[list[float]] = [[0.5, 0.25], [1.0, -2.0]]
    if peer.request.path.endswith("/v2/rerank"):
        peer.whole(200, b'{"id":"r","results":[{"index":1,"relevance_score":0.9}],"meta":{"billed_units":{}}}')
    elif peer.request.path.endswith("/v2/embed"):
        meta = {"billed_units": {"input_tokens": 4}}
        answer = {"id": "e", "response_type": "embeddings_by_type", "embeddings": {"float": vectors}, "meta": meta}
        peer.whole(200, json.dumps(answer).encode())
    else:
        data = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(vectors)]
        usage = {"prompt_tokens": 4, "total_tokens": 4}
        peer.whole(200, json.dumps({"object": "list", "data": data, "model": "e-1", "usage": usage}).encode())


EXTRA = {
    "Retry_After": " 7 ",
    "X_Request_Id": "req_1",
    "Set_Cookie": "a=b",
    "X_Ratelimit_Remaining": "3",
    "Server": "provider",
    "Date": "Fri, 02 Jan 2026 03:04:05 GMT",
}


def responds(peer: Peer) -> None:
    """The Responses dialect, buffered: each answer has the next id."""
    number = next(_numbers)
    output = [{"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": TEXT}]}]
    answer = {"id": f"resp_{number}", "object": "response", "status": "completed", "model": "m-up", "output": output}
    peer.whole(200, json.dumps(answer).encode())


_numbers = itertools.count(1)


def slowly(peer: Peer) -> None:
    """A stream that goes on until the client leaves."""
    peer.begin()
    peer.part(ROLE)
    try:
        for _ in range(2000):
            peer.part(WORDS[0])
            time.sleep(0.005)
    except OSError:
        peer.request.gone_at = time.monotonic()
        peer.request.gone.set()


BEHAVIOURS: dict[str, Callable[[Peer], None]] = {
    "ok": ok,
    "echo": echo,
    "tools": calls_a_tool,
    "slow": slowly,
    "embeds": embeds,
    "responses": responds,
    "extra": lambda peer: peer.whole(201, json.dumps(COMPLETION).encode(), **EXTRA),
    "extra-400": lambda peer: peer.whole(400, b"{}", Content_Type="text/plain", **EXTRA),
    "302": lambda peer: peer.whole(302, b'{"moved":true}', Location="http://127.0.0.1:1/"),
    "500-late": lambda peer: (time.sleep(0.3), peer.whole(500, b"{}"))[1],
    "drop": lambda peer: None,
    "reset": Peer.reset,
    "half-head": half_head,
    "half-body": half_body,
    "bad-chunk": bad_chunk,
    "silent": lambda peer: peer.wait_gone(),
    "gzip": gzipped,
    "error-inside": error_inside,
    "html": lambda peer: peer.whole(200, b"<html>not json</html>", Content_Type="text/html"),
    **{str(code): status(code) for code in (400, 401, 404, 408, 429, 500, 502, 503, 529)},
    "400-long": lambda peer: peer.whole(400, b"x" * 70_000),
    "429-now": status(429, Retry_After="0"),
    "429-later": status(429, Retry_After="3600"),
    "stream-cut": stream_of(ROLE, *WORDS[:2]),
    "stream-reset": stream_of(ROLE, *WORDS[:2], end="reset"),
    "stream-cut-utf8": stream_of(ROLE, chunk({"content": "h\u00e9llo"})[:-24]),
    "stream-no-done": stream_of(ROLE, *WORDS, chunk({}, "stop"), end="end"),
    "stream-malformed": stream_of(ROLE, b"data: {broken\n\n", *WORDS, chunk({}, "stop"), DONE, end="end"),
    "stream-role-cut": stream_of(ROLE),
    "stream-empty": stream_of(end="end"),
    "stream-endless": endless,
    "stream-error-first": stream_of(b'data: {"error":{"message":"overloaded","type":"server_error"}}\n\n', end="end"),
    "stream-stall": stream_of(ROLE, *WORDS[:2], end="stall"),
    "stream-huge": stream_of(ROLE, b"data: " + b"x" * (2 * 1024 * 1024 + 10) + b"\n\n", end="end"),
}


KEPT_ALIVE = {"ok", "echo", "tools", "gzip", "html", "error-inside", "embeds", "responses", "extra", "extra-400"}


def serve_each(listener: socket.socket, serve: Callable[[socket.socket], None]) -> None:
    """Hand every connection to `serve`, in a thread of its own, until the listener is closed."""

    def accept() -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(sock,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()


def requests_of(file: IO[bytes]) -> Iterator[Request]:
    """The requests of one connection."""
    while line := file.readline():
        method, path, _ = line.decode().split(" ")
        headers: dict[str, str] = {}
        while (field := file.readline()) not in (b"\r\n", b""):
            name, _, value = field.decode().partition(":")
            headers[name.lower()] = value.strip()
        yield Request(method, path, headers, file.read(int(headers.get("content-length", "0"))))


class FaultyUpstream:
    """Serves until closed. `requests(name)` are those that a behaviour received, in order."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._received: list[tuple[str, Request]] = []
        self._lock = threading.Lock()
        serve_each(self._listener, self._serve)

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.port}/{name}/v1"

    def requests(self, name: str) -> list[Request]:
        with self._lock:
            return [request for found, request in self._received if found == name]

    def received(self) -> list[tuple[str, Request]]:
        """Every request of every behaviour, in order."""
        with self._lock:
            return list(self._received)

    def forget(self) -> None:
        with self._lock:
            self._received.clear()

    def close(self) -> None:
        self._listener.close()

    def _serve(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError), sock:
            for request in requests_of(sock.makefile("rb")):
                name = request.path.split("/")[1]
                with self._lock:
                    self._received.append((name, request))
                BEHAVIOURS[name](Peer(sock, request))
                if name not in KEPT_ALIVE and not name[0].isdigit():
                    return
