"""Every route of the MCP listener that is not JSON-RPC (spec 05 §1), as one ASGI application.

Fixed segments are matched in any case, slugs as they are; a trailing slash does not count. What must not live here:
what a route does.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import unquote

import structlog

from trustgate.identity.sts import SigningKeys
from trustgate.oauth import metadata
from trustgate.oauth.connect import Connect, Refused
from trustgate.oauth.http import NO_STORE, OAuthError, Reply, Request, header_map, json_reply, text_reply
from trustgate.oauth.issuers import Issuers
from trustgate.oauth.registration import Registrations
from trustgate.oauth.selfservice import SelfService
from trustgate.oauth.server import AuthorizationServer
from trustgate.wire.asgi import EntityTooLarge, read_body

Handler = Callable[[Request], Awaitable[Reply]]
BaseUrl = Callable[[Mapping[bytes, bytes], list[tuple[bytes, bytes]], str, str], str]
"""`(first values, all headers, peer, scheme)` to `scheme://host`."""

READ = frozenset({"GET", "HEAD"})
RESOURCE, SERVER = metadata.RESOURCE, "/.well-known/oauth-authorization-server"
OPENID, JWKS = "/.well-known/openid-configuration", "/.well-known/jwks.json"
MAX_BODY_BYTES = 8 * 1024 * 1024

log = structlog.get_logger("trustgate.oauth")


class OAuthApp:
    """`wants` says whether a request is one of these; then it is answered here."""

    def __init__(
        self,
        *,
        issuers: Issuers,
        server: AuthorizationServer,
        registrations: Registrations,
        connect: Connect,
        selfservice: SelfService,
        keys: SigningKeys,
        base_url: BaseUrl,
        catch_up: Callable[[], Awaitable[None]],
    ) -> None:
        self._issuers, self._server, self._connect, self._selfservice = issuers, server, connect, selfservice
        self._registrations = registrations
        self._keys, self._base_url, self._catch_up = keys, base_url, catch_up

    def wants(self, method: str, path: str) -> bool:
        return self._route(method, path) is not None

    def _route(self, method: str, path: str) -> Handler | None:
        lowered = path.lower().rstrip("/")
        if lowered.startswith("/.well-known/") and method in READ:
            found = self._well_known(lowered)
            if found is not None:
                return found
        found = self._oauth(method, lowered, path.rstrip("/")) if lowered.startswith("/oauth/") else None
        return found or self._connect_page(method, path)

    def _connect_page(self, method: str, path: str) -> Handler | None:
        """`/{slug}/connect`, and for readers anything that ends so."""
        parts = path.strip("/").split("/")
        if len(parts) >= 2 and parts[-1].lower() == "connect" and parts[0]:
            if len(parts) == 2 and method in (*READ, "POST"):
                slug = unquote(parts[0])
                if method == "POST":
                    return lambda request: self._selfservice.submit(request, slug)
                return lambda request: self._form(request, slug)
            if method in READ:
                return self._connect.page
        return None

    def _well_known(self, lowered: str) -> Handler | None:
        if lowered == RESOURCE or lowered.startswith(RESOURCE + "/"):
            return self._protected_resource
        if lowered in (SERVER, OPENID) or lowered.startswith((SERVER + "/", OPENID + "/")):
            return self._authorization_server
        return self._jwks if lowered == JWKS else None

    def _oauth(self, method: str, lowered: str, path: str) -> Handler | None:
        fixed: dict[tuple[str, bool], Handler] = {
            ("/oauth/register", False): self._registrations.register,
            ("/oauth/authorize", True): self._server.authorize,
            ("/oauth/callback", True): self._server.callback,
            ("/oauth/token", False): self._server.token,
            ("/oauth/revoke", False): self._server.revoke,
        }
        reads = method in READ
        if not reads and method != "POST":
            return None
        found = fixed.get((lowered, reads))
        if found is not None:
            return found
        for prefix, wants_read, handler in (
            ("/oauth/connect/", True, self._connect.start),
            ("/oauth/callback/", True, self._connect.callback),
            ("/oauth/disconnect/", False, self._connect.disconnect),
        ):
            if lowered.startswith(prefix) and len(lowered) > len(prefix) and reads is wants_read:
                provider = unquote(path[len(prefix) :])
                return lambda request, handler=handler, provider=provider: handler(request, provider)
        return None

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        method = scope["method"]
        path = (scope.get("raw_path") or scope["path"].encode()).decode("latin-1")
        handler = self._route(method, path)
        assert handler is not None, "only what is wanted comes here"
        try:
            body = await read_body(scope, receive, MAX_BODY_BYTES)
        except EntityTooLarge:
            await respond(send, method, text_reply("Request Entity Too Large", 413, NO_STORE))
            return
        headers = header_map(scope["headers"])
        peer = (scope.get("client") or ("",))[0]
        scheme = "https" if scope.get("scheme") == "https" else "http"
        request = Request(
            method=method,
            path=path,
            query_string=scope.get("query_string", b""),
            headers=headers,
            body=body,
            peer_ip=peer,
            base_url=self._base_url(headers, scope["headers"], peer, scheme),
        )
        await respond(send, method, await self._answer(handler, request))

    async def _answer(self, handler: Handler, request: Request) -> Reply:
        """What was configured a moment ago counts; then whatever happens is an answer."""
        try:
            await self._catch_up()
            return await handler(request)
        except OAuthError as error:
            return error.reply()
        except Refused as refused:
            return refused.reply()
        except Exception:
            log.exception("request failed unexpectedly", path=request.path)
            return json_reply({"error": "internal_error"}, 500, NO_STORE)

    async def _protected_resource(self, request: Request) -> Reply:
        return metadata.protected_resource(request, self._issuers)

    async def _authorization_server(self, request: Request) -> Reply:
        return metadata.authorization_server(request, self._issuers)

    async def _jwks(self, request: Request) -> Reply:
        return json_reply(self._keys.jwks(), 200, (b"cache-control", b"public, max-age=300"))

    async def _form(self, request: Request, slug: str) -> Reply:
        return self._selfservice.form(request, slug)


async def respond(send: Any, method: str, reply: Reply) -> None:
    sized = [*reply.headers, (b"content-length", b"%d" % len(reply.body))]
    await send({"type": "http.response.start", "status": reply.status, "headers": sized})
    await send({"type": "http.response.body", "body": b"" if method == "HEAD" else reply.body})
