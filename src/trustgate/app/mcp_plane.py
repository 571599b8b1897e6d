"""The MCP listener, as far as it is built: its probes."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from trustgate.app.readiness import Readiness
from trustgate.proxy.app import JSON, lifespan


class ProbeApp:
    """Answers `/healthz`, `/health` and `/readyz`; everything else is 404."""

    def __init__(self, version: str, readiness: Readiness) -> None:
        self._version = version
        self._readiness = readiness

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await lifespan(scope, receive, send)
            return
        answer: dict[str, Any] = {"status": "healthy"}
        status = 200
        if scope["path"] == "/readyz":
            status = 503 if self._readiness.draining else 200
            answer = {"dependencies": self._readiness.now(), "status": "ready" if status == 200 else "not_ready"}
        elif scope["path"] not in ("/healthz", "/health"):
            status, answer = 404, {"error": "not_found"}
        answer |= {"time": datetime.now().astimezone().isoformat(timespec="seconds"), "version": self._version}
        body = msgspec.json.encode(answer)
        headers = [JSON, (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})
