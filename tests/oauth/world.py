"""An installation with an identity provider, an upstream MCP server that wants tokens, and a client that logs in."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.server
import json
import secrets
import threading
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx
import oidc_provider_mock

from tests.e2e.installation import Installation

CALLBACK = "http://127.0.0.1:9/cb"


class Upstream:
    """A remote MCP server with one tool, `whoami`, which tells the credential it was called with.

    `accepts` are the `Authorization` values it lets in; None lets everyone in.
    """

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.accepts: set[str] | None = None
        self.documents: dict[str, Any] = {}
        self.posts: list[tuple[str, dict[str, str]]] = []
        self.answers: dict[str, tuple[int, Any] | Callable[[], tuple[int, Any]]] = {}
        upstream = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                document = upstream.documents.get(self.path)
                self.reply(404 if document is None else 200, {} if document is None else document)

            def do_DELETE(self) -> None:
                self.reply(200, {})

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
                if self.path != "/mcp":
                    text = body.decode()
                    fields = json.loads(text) if text.startswith("{") else dict(parse_qsl(text))
                    basic = {"basic": self.headers["Authorization"]} if "Authorization" in self.headers else {}
                    upstream.posts.append((self.path, fields | basic))
                    answer = upstream.answers.get(self.path, (404, {}))
                    self.reply(*(answer() if callable(answer) else answer))
                    return
                credential = self.headers.get("Authorization", "")
                upstream.seen.append(credential)
                if upstream.accepts is not None and credential not in upstream.accepts:
                    self.reply(401, {"error": "invalid_token"})
                    return
                message = json.loads(body)
                if "id" not in message:
                    self.reply(202, {})
                    return
                self.reply(200, {"jsonrpc": "2.0", "id": message["id"], "result": self.result(message, credential)})

            def result(self, message: Any, credential: str) -> Any:
                if message["method"] == "initialize":
                    info = {"name": "up", "version": "1"}
                    return {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}}, "serverInfo": info}
                if message["method"] == "tools/list":
                    return {"tools": [{"name": "whoami", "inputSchema": {"type": "object"}}]}
                return {"content": [{"type": "text", "text": credential}]}

            def reply(self, status: int, value: Any) -> None:
                data = value if isinstance(value, bytes) else json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.origin = f"http://127.0.0.1:{self._server.server_port}"
        self.url = f"{self.origin}/mcp"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextlib.contextmanager
def identity_provider() -> Iterator[str]:
    """A real OpenID provider (Authlib behind it); yields its issuer."""
    with oidc_provider_mock.run_server_in_thread() as server:
        yield f"http://localhost:{server.server_port}"


def unlogged() -> None:
    import logging

    logging.getLogger("werkzeug").setLevel(logging.ERROR)


class Tenant:
    """A gateway with MCP consumers, made through the Admin API."""

    def __init__(self, installation: Installation, tenant: str = "acme") -> None:
        self.installation, self.tenant = installation, tenant
        gateway = self.call("POST", "/v1/gateways", {})
        self.id, self.slug = gateway["id"], gateway["slug"]
        self.base = f"/v1/gateways/{self.id}"
        self.mcp = installation.mcp

    def call(self, method: str, path: str, body: Any = None) -> Any:
        return self.installation.call(method, path, body, tenant=self.tenant)

    def registry(self, name: str, url: str, auth: dict[str, Any] | None = None) -> str:
        target = {"url": url} | ({"auth": auth} if auth else {})
        body = {"name": name, "type": "MCP", "mcp_target": target}
        return self.call("POST", f"{self.base}/registries", body)["id"]

    def consumer(self, name: str, registries: list[str], *auths: str, **more: Any) -> dict[str, Any]:
        body = {"name": name, "type": "MCP", "registries": [{"id": id_} for id_ in registries]} | more
        made = self.call("POST", f"{self.base}/consumers", body)
        for auth in auths:
            self.call("POST", f"{self.base}/consumers/{made['id']}/auths/{auth}")
        return made

    def oauth2(self, issuer: str, **config: Any) -> str:
        settings = {
            "issuer": issuer,
            "audiences": ["tools"],
            "client_id": "gateway",
            "client_secret": "gateway-secret-1",
            "session_mode": True,
        } | config
        body = {"name": f"login-{secrets.token_hex(3)}", "type": "oauth2", "config": {"oauth2": settings}}
        return self.call("POST", f"{self.base}/auths", body)["id"]

    def key(self, name: str = "robot") -> tuple[str, str]:
        made = self.call("POST", f"{self.base}/auths", {"name": name, "type": "api_key"})
        return made["id"], made["api_key"]

    def url(self, consumer: dict[str, Any]) -> str:
        return f"{self.mcp}/{consumer['slug']}/mcp"


class Client:
    """An MCP client's OAuth side, one step at a time. Redirects are never followed by themselves."""

    def __init__(self, mcp: str) -> None:
        self.mcp = mcp
        self.http = httpx.Client(follow_redirects=False, timeout=30, trust_env=False)
        self.verifier = secrets.token_urlsafe(48)

    @property
    def challenge(self) -> str:
        return base64.urlsafe_b64encode(hashlib.sha256(self.verifier.encode()).digest()).rstrip(b"=").decode()

    def register(self, *uris: str, **more: Any) -> httpx.Response:
        return self.http.post(f"{self.mcp}/oauth/register", json={"redirect_uris": list(uris)} | more)

    def authorize(self, **fields: str) -> httpx.Response:
        query = {
            "response_type": "code",
            "redirect_uri": CALLBACK,
            "state": "client-state",
            "scope": "openid",
            "code_challenge": self.challenge,
            "code_challenge_method": "S256",
        } | fields
        query = {name: value for name, value in query.items() if value}
        return self.http.get(f"{self.mcp}/oauth/authorize", params=query)

    def log_in(self, authorized: httpx.Response, user: str = "alice") -> httpx.Response:
        """At the identity provider; then the gateway's answer to the way back."""
        assert authorized.status_code == 302, authorized.text
        answer = self.http.post(authorized.headers["location"], data={"sub": user})
        assert answer.status_code == 302, answer.text
        return self.http.get(answer.headers["location"])

    def token(self, **fields: str) -> httpx.Response:
        return self.http.post(f"{self.mcp}/oauth/token", data=fields)

    def redeem(self, location: str, **fields: str) -> httpx.Response:
        form = {
            "grant_type": "authorization_code",
            "code": query_of(location)["code"],
            "redirect_uri": CALLBACK,
            "code_verifier": self.verifier,
        } | fields
        return self.token(**form)

    def session(self, user: str, resource: str, client_id: str = "") -> dict[str, Any]:
        """All of it: tokens of a logged-in user."""
        client_id = client_id or self.register(CALLBACK).json()["client_id"]
        back = self.log_in(self.authorize(client_id=client_id, resource=resource), user)
        assert back.status_code == 302, back.text
        answer = self.redeem(back.headers["location"], client_id=client_id)
        assert answer.status_code == 200, answer.text
        return answer.json() | {"client_id": client_id}

    def rpc(self, url: str, method: str, params: Any = None, **headers: str) -> httpx.Response:
        message = {"jsonrpc": "2.0", "id": 1, "method": method} | ({"params": params} if params is not None else {})
        return self.http.post(
            url, json=message, headers={name.replace("_", "-"): value for name, value in headers.items()}
        )

    def whoami(self, url: str, **headers: str) -> Any:
        """What the upstream's tool saw, or the JSON-RPC error."""
        answer = self.rpc(url, "tools/call", {"name": "whoami", "arguments": {}}, **headers)
        assert answer.status_code == 200, answer.text
        message = answer.json()
        return message["result"]["content"][0]["text"] if "result" in message else message["error"]


def query_of(url: str) -> dict[str, str]:
    return dict(parse_qsl(urlsplit(url).query, keep_blank_values=True))
