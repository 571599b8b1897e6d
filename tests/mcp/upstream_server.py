"""An MCP server on loopback that misbehaves as told: raw HTTP in a thread, every message it saw kept in order."""

from __future__ import annotations

import contextlib
import http.server
import json
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

Json = dict[str, Any]


class Faulty:
    """`faults` maps a method to what happens instead of an answer, once for each entry of the list (then all is well).

    A fault is a name of `ANSWERS`, or a function of the handler and the message that answers itself.
    """

    def __init__(self, tools: list[Json] | None = None, *, sse: bool = False, **features: Any) -> None:
        self.tools = tools if tools is not None else [{"name": "echo", "inputSchema": {"type": "object"}}]
        self.resources: list[Json] = features.get("resources", [])
        self.templates: list[Json] = features.get("templates", [])
        self.prompts: list[Json] = features.get("prompts", [])
        self.capabilities: Json = {"tools": {}}
        if "resources" in features or "templates" in features:
            self.capabilities["resources"] = {}
        if "prompts" in features:
            self.capabilities["prompts"] = {}
        self.page_size = features.get("page_size", 1000)
        self.sse = sse
        self.faults: dict[str, list[str | Callable[[Any, Json], None]]] = {}
        self.seen: list[Json] = []
        self.headers: list[dict[str, str]] = []
        self.verbs: list[str] = []
        self.gate: threading.Event | None = None
        """When set, answers to list methods wait for it."""
        self.says: queue.Queue[bytes] | None = None
        """When set, what is put into it goes out on the stream of its own; an empty text ends that stream."""
        self.listeners = 0
        self.sessions = 0
        self.url = ""

    def fail(self, method: str, *faults: str | Callable[[Any, Json], None]) -> Faulty:
        self.faults.setdefault(method, []).extend(faults)
        return self

    def asked(self, method: str) -> list[Json]:
        return [message for message in self.seen if message.get("method") == method]

    def result(self, message: Json) -> Json:
        params = message.get("params") or {}
        match message["method"]:
            case "initialize":
                return {
                    "protocolVersion": params["protocolVersion"],
                    "capabilities": self.capabilities,
                    "serverInfo": {"name": "faulty", "version": "1"},
                }
            case "resources/subscribe" | "resources/unsubscribe":
                return {}
            case "tools/call" | "prompts/get":
                text = json.dumps({"name": params["name"], "arguments": params.get("arguments")})
                if message["method"] == "tools/call":
                    return {"content": [{"type": "text", "text": text}], "x-extra": 1.50}
                return {"messages": [{"role": "user", "content": {"type": "text", "text": text}}]}
            case "resources/read":
                if params["uri"] not in [one["uri"] for one in self.resources]:
                    raise LookupError(params["uri"])
                return {"contents": [{"uri": params["uri"], "text": "hello"}]}
            case method:
                lists = {
                    "tools/list": ("tools", self.tools),
                    "resources/list": ("resources", self.resources),
                    "resources/templates/list": ("resourceTemplates", self.templates),
                    "prompts/list": ("prompts", self.prompts),
                }
                member, items = lists[method]
                start = int(params.get("cursor") or 0)
                page: Json = {member: items[start : start + self.page_size]}
                if start + self.page_size < len(items):
                    page["nextCursor"] = str(start + self.page_size)
                return page


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    faulty: Faulty

    def do_POST(self) -> None:
        message = json.loads(self.rfile.read(int(self.headers["content-length"])))
        faulty = self.faulty
        faulty.seen.append(message)
        faulty.headers.append({name.lower(): value for name, value in self.headers.items()})
        method = message.get("method", "")
        if faulty.gate is not None and method.endswith("/list"):
            faulty.gate.wait(10)
        waiting = faulty.faults.get(method)
        if waiting:
            fault = waiting.pop(0)
            (ANSWERS[fault] if isinstance(fault, str) else fault)(self, message)
            return
        if "id" not in message or not method:
            self.reply(202, b"")
            return
        self.answer(message)

    def do_DELETE(self) -> None:
        self.faulty.verbs.append("DELETE")
        self.reply(200, b"")

    def do_GET(self) -> None:
        self.faulty.verbs.append(f"GET {self.headers.get('Last-Event-ID', '')}")
        if "Last-Event-ID" not in self.headers:
            self.speak()
            return
        wanted = next(message for message in reversed(self.faulty.seen) if "id" in message)
        self.stream([self.response(wanted)])

    def speak(self) -> None:
        """The stream that belongs to no request."""
        waiting = self.faulty.faults.get("GET")
        if waiting:
            fault = waiting.pop(0)
            (ANSWERS[fault] if isinstance(fault, str) else fault)(self, {})
            return
        if self.faulty.says is None:
            self.reply(405, b"")
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        self.faulty.listeners += 1
        with contextlib.suppress(OSError):
            while part := self.faulty.says.get():
                self.wfile.write(part)
                self.wfile.flush()
        self.faulty.listeners -= 1

    def response(self, message: Json) -> Json:
        try:
            return {"jsonrpc": "2.0", "id": message["id"], "result": self.faulty.result(message)}
        except LookupError as missing:
            error = {"code": -32002, "message": f"no {missing}", "data": {"uri": str(missing)}}
            return {"jsonrpc": "2.0", "id": message["id"], "error": error}

    def answer(self, message: Json) -> None:
        found = self.response(message)
        if self.faulty.sse and message["method"] != "initialize":
            note = {"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": "x"}}
            self.stream([note, found])
        else:
            self.reply(200, json.dumps(found).encode(), session=message["method"] == "initialize")

    def stream(self, messages: list[Json]) -> None:
        self.reply(200, b"".join(event(message) for message in messages), "text/event-stream")

    def reply(
        self, status: int, body: bytes, kind: str = "application/json", session: bool = False, **more: str
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if session:
            self.faulty.sessions += 1
            self.send_header("Mcp-Session-Id", f"s-{self.faulty.sessions}")
        for name, value in more.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        return None


def event(message: Json, id: str = "") -> bytes:
    return (f"id: {id}\n" if id else "").encode() + b"event: message\ndata: " + json.dumps(message).encode() + b"\n\n"


def status(code: int) -> Callable[[Handler, Json], None]:
    return lambda handler, message: handler.reply(code, b"nope", "text/plain")


def raw(body: bytes, kind: str = "application/json") -> Callable[[Handler, Json], None]:
    return lambda handler, message: handler.reply(200, body, kind)


def wrong_id(handler: Handler, message: Json) -> None:
    handler.reply(200, json.dumps(handler.response(message) | {"id": message["id"] + 1000}).encode())


def half_stream(handler: Handler, message: Json) -> None:
    """Promises more than it sends, then hangs up."""
    handler.send_response(200)
    handler.send_header("Content-Type", "text/event-stream")
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    part = b'event: message\ndata: {"jsonrpc":"2.0","id":'
    handler.wfile.write(b"%x\r\n%b\r\n" % (len(part), part))
    handler.wfile.flush()
    handler.close_connection = True


def resumable(handler: Handler, message: Json) -> None:
    """An event with an id, then the end: what follows must be asked for."""
    note = {"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": "x"}}
    handler.reply(200, b"retry: 1\n" + event(note, "e-1"), "text/event-stream")


def duplicate(handler: Handler, message: Json) -> None:
    """Answers twice, after an answer to nobody."""
    found = handler.response(message)
    second = found | {"result": {"content": [{"type": "text", "text": "the second answer"}]}}
    handler.stream([found | {"id": 999_999}, found, second])


def hang_up(handler: Handler, message: Json) -> None:
    handler.close_connection = True
    handler.connection.close()


def rpc_error(handler: Handler, message: Json) -> None:
    body = b'{"jsonrpc":"2.0","id":%d,"error":{"code":-32050,"message":"no luck","data":{"why":1.0}}}' % message["id"]
    handler.reply(200, body)


def asks_back(handler: Handler, message: Json) -> None:
    """Requests of the server's own, in front of its answer."""
    own = [
        {"jsonrpc": "2.0", "id": f"q-{name}", "method": name}
        for name in ("ping", "roots/list", "sampling/createMessage")
    ]
    handler.stream([*own, handler.response(message)])


ANSWERS: dict[str, Callable[[Any, Json], None]] = {
    "401": status(401),
    "404": status(404),
    "429": status(429),
    "500": status(500),
    "503": status(503),
    "not json": raw(b"{broken"),
    "not an object": raw(b"[1,2]"),
    "empty": raw(b""),
    "bad utf-8": raw(b'{"jsonrpc":"2.0","id":3,"result":{"x":"\xff"}}'),
    "no result": lambda handler, message: handler.reply(200, b'{"jsonrpc":"2.0","id":%d}' % message["id"]),
    "wrong id": wrong_id,
    "half a stream": half_stream,
    "resumable": resumable,
    "duplicate": duplicate,
    "hang up": hang_up,
    "garbage stream": raw(b"data: {broken\n\n", "text/event-stream"),
    "rpc error": rpc_error,
    "asks back": asks_back,
}


@contextlib.contextmanager
def serving(faulty: Faulty) -> Iterator[Faulty]:
    """Run it; `faulty.url` is where."""
    handler = type("BoundHandler", (Handler,), {"faulty": faulty})
    listening = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    listening.daemon_threads = True
    threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    faulty.url = f"http://127.0.0.1:{listening.server_port}/mcp"
    try:
        yield faulty
    finally:
        listening.shutdown()
        listening.server_close()
