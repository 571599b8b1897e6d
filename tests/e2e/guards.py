"""Fake guard services to the vendors' schemas on one port: TrustGuard, OpenAI moderation, Azure, Bedrock.

What each call gets is chosen by words in the text it is shown, so that one service serves all tests at once:
`BLOCKME`, `MASKME` and the words of `FAILURES`; everything else passes. Every call is recorded.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SLOW_S = 30.0
FAILURES = ("GIVE500", "GIVE429", "GIVE401", "GIVE403", "GIVE503", "HALFBODY", "BADJSON", "HUGEBODY", "HANGUP", "STALL")
FINDING = {
    "source": {"kind": "detector", "plugin": "ipi", "detector_name": "Det", "gate_name": "G"},
    "signal": {"type": "prompt_injection", "confidence": 0.9},
    "outcome": {"action": "block"},
}


def trustguard(text: str, asked: Any) -> Any:
    answer: dict[str, Any] = {"status": "allow", "transformed_payload": None, "findings": [], "trace_id": "t"}
    if "BLOCKME" in text:
        return answer | {"status": "block", "findings": [FINDING], "request_id": "r"}
    if "MASKME" in text:
        payload = asked["payload"]
        if "messages" in payload:
            said = "\n".join(message["content"] for message in payload["messages"] if message["content"])
            new: Any = {"input": said.replace("MASKME", "***")}
        else:
            new = json.loads(json.dumps(payload).replace("MASKME", "***"))
        return answer | {"status": "transform", "findings": [FINDING], "transformed_payload": new}
    return answer


def moderation(text: str, asked: Any) -> Any:
    flagged = "BLOCKME" in text
    scores = {"hate": 0.9 if flagged else 0.01, "violence": 0.1}
    categories = {"hate": flagged, "violence": False}
    result = {"flagged": flagged, "categories": categories, "category_scores": scores}
    return {"id": "modr-1", "model": asked["model"], "results": [result]}


def azure(text: str, asked: Any) -> Any:
    found = [{"category": name, "severity": 0} for name in asked["categories"]]
    if "BLOCKME" in text:
        found[0]["severity"] = 6
    return {"blocklistsMatch": [], "categoriesAnalysis": found}


def bedrock(text: str, asked: Any) -> Any:
    text = asked["content"][0]["text"]["text"]
    usage = {f"{name}PolicyUnits": 1 for name in ("topic", "content", "word", "sensitiveInformation")}
    answer: dict[str, Any] = {"usage": usage, "action": "NONE", "outputs": [], "assessments": [{}]}
    if "BLOCKME" in text:
        found = {"topicPolicy": {"topics": [{"name": "Finance", "type": "DENY", "action": "BLOCKED"}]}}
        return answer | {"action": "GUARDRAIL_INTERVENED", "outputs": [{"text": "no"}], "assessments": [found]}
    if "MASKME" in text:
        pii = {"piiEntities": [{"match": "MASKME", "type": "NAME", "action": "ANONYMIZED"}], "regexes": []}
        outputs = [{"text": text.replace("MASKME", "{NAME}")}]
        assessments = [{"sensitiveInformationPolicy": pii}]
        return answer | {"action": "GUARDRAIL_INTERVENED", "outputs": outputs, "assessments": assessments}
    return answer


class GuardServices:
    """The running services. `calls` are (path, headers, body) in order; `gone` counts callers that left a stall."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, str], Any]] = []
        self.gone = 0
        guards = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                guards.calls.append((self.path, {name.lower(): value for name, value in self.headers.items()}, body))
                with contextlib.suppress(OSError):
                    guards.answer(self, body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def shown(self, path: str) -> list[Any]:
        """The bodies of the calls of one path, in order."""
        return [body for called, _, body in list(self.calls) if called.startswith(path)]

    def answer(self, handler: BaseHTTPRequestHandler, asked: Any) -> None:
        if handler.path == "/v1/token":
            reply(handler, 200, {"access_token": "tok-secret", "token_type": "Bearer", "expires_in": 3600})
            return
        services = {"/v1/evaluate": trustguard, "/v1/moderations": moderation, "/azure": azure, "/guardrail": bedrock}
        service = next(answer for path, answer in services.items() if handler.path.startswith(path))
        text = text_of(asked)
        failure = next((word for word in FAILURES if word in text), None)
        if failure is not None:
            self.fail(handler, failure)
            return
        reply(handler, 200, service(text, asked))

    def fail(self, handler: BaseHTTPRequestHandler, failure: str) -> None:
        if failure.startswith("GIVE"):
            reply(handler, int(failure[4:]), {"message": "UPSTREAM DETAIL"})
        elif failure == "BADJSON":
            reply(handler, 200, b"{never closed")
        elif failure == "HUGEBODY":
            reply(handler, 200, b'{"pad":"' + b"x" * (3 << 20) + b'"}')
        elif failure == "HALFBODY":
            handler.send_response(200)
            handler.send_header("Content-Length", "1000")
            handler.end_headers()
            handler.wfile.write(b'{"status":"al')
            handler.close_connection = True
        elif failure == "STALL":
            handler.connection.settimeout(SLOW_S)
            with contextlib.suppress(OSError):
                handler.connection.recv(1)
            self.gone += 1
            handler.close_connection = True
        else:
            handler.close_connection = True


def text_of(asked: Any) -> str:
    """All strings of what a service was asked, as one text."""
    if isinstance(asked, dict):
        return "\n".join(text_of(value) for value in asked.values())
    if isinstance(asked, list):
        return "\n".join(map(text_of, asked))
    return asked if isinstance(asked, str) else ""


def reply(handler: BaseHTTPRequestHandler, status: int, body: Any) -> None:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    handler.send_response(status)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    handler.wfile.write(data)


def until(condition: Any, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
