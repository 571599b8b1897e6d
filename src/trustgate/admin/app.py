"""The admin plane as a Quart-Trio application: the life of an Admin API request (spec 01 §1).

What lives here: dispatch in its order (preflight, authentication, route, access, body, handler) and the mapping of
failures to answers. What must not: rules about objects (`domain`), the table of routes (`routes`).

Quart gives the ASGI plumbing and bounded body reading. Its own routing is not used: this contract's (raw parameters,
any case, 401 before 404 under one prefix) is `routes.find`.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Mapping
from typing import Any

import structlog
from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable, Scope
from quart.ctx import RequestContext
from quart.wrappers.base import BaseRequestWebsocket
from quart_trio import QuartTrio
from quart_trio.wrappers import TrioResponse
from werkzeug.exceptions import RequestEntityTooLarge, RequestTimeout

from trustgate.actors.archive import IndexBehind
from trustgate.actors.control import StoreUnavailable
from trustgate.admin import routes
from trustgate.admin.access import admit, read_as_of
from trustgate.admin.answers import Error
from trustgate.admin.bodies import BodyTooLarge
from trustgate.admin.connection import Connection, as_request
from trustgate.admin.envelope import CORS, common_headers, request_id
from trustgate.admin.errors import UpstreamUnavailable
from trustgate.admin.exchange import Answer, Call, ControlPlane, json_answer, text_answer
from trustgate.admin.lists import Query
from trustgate.admin.past import Past
from trustgate.admin.rendering import GatewayRenderer
from trustgate.admin.services import AdminServices
from trustgate.admin.tokens import Authenticator, Identity
from trustgate.domain.errors import DomainError
from trustgate.wire.asgi import head_bytes
from trustgate.wire.clients import client_address, networks

log = structlog.get_logger()

AUTHENTICATED_PREFIX = "/v1/gateways"
WITH_BODY = ("POST", "PUT", "DELETE", "PATCH")
NOBODY = Identity(kind="tenant", tenant="")
"""Stands for the caller on routes that ask for no token; owns nothing."""


def create_app(control: ControlPlane, services: AdminServices) -> QuartTrio:
    """The admin plane over `control`, as an ASGI application. Raises ValueError on unusable key material."""
    return AdminApp(control, services)


class AdminApp(QuartTrio):
    """Answers every request itself; see the module's text."""

    asgi_http_class = Connection

    def __init__(self, control: ControlPlane, services: AdminServices) -> None:
        super().__init__("trustgate.admin", static_folder=None)
        settings = services.settings
        self.config["MAX_CONTENT_LENGTH"] = settings.max_body_bytes
        self.config["BODY_TIMEOUT"] = settings.body_timeout_s
        self._control = control
        self._services = services
        self._authenticator = Authenticator(settings)
        self._cors = CORS(settings.cors)
        self._trusted = networks(settings.trusted_proxies)
        self._render_gateway = GatewayRenderer(settings.version, settings.gateway_base_domain, settings.mcp_base_domain)
        if settings.cors.allow_credentials and "*" in settings.cors.allow_origins:
            log.warning("CORS credentials are off: they can't be combined with any origin")

    async def asgi_app(self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        """There are no WebSockets here, so the handshake of one is answered like any GET."""
        if scope["type"] == "websocket":
            await super().asgi_app(*as_request(scope, receive, send))
        else:
            await super().asgi_app(scope, receive, send)

    def create_url_adapter(self, request: BaseRequestWebsocket | None) -> None:
        """No routing by Quart."""

    async def full_dispatch_request(self, request_context: RequestContext | None = None) -> TrioResponse:
        """The answer to a request, whatever happens; Quart's own dispatch and error pages are not used."""
        assert request_context is not None
        started_ns = time.monotonic_ns()
        request = request_context.request
        headers = {name.lower(): value for name, value in request.headers.items()}
        identifier = request_id(headers)
        path = _raw_path(request.scope)
        failure: Exception | None = None
        try:
            answer = await self._answer(request, path, headers, identifier)
        except Exception as raised:
            failure = _sole(raised)
            answer = failed(failure)
            _log_failure(failure, answer.status, request.method, path, identifier)
        if self._services.observe is not None:
            seconds = (time.monotonic_ns() - started_ns) / 1e9
            self._services.observe(request.method, path, answer.status, seconds)
        if self._services.access_log is not None:
            self._services.access_log.record(
                status=answer.status,
                method=request.method,
                path=path,
                duration_ns=time.monotonic_ns() - started_ns,
                request_id=identifier,
                ip=request.remote_addr or "",
                bytes_out=len(answer.body),
                error="" if failure is None else type(failure).__name__,
            )
        return _response(answer, common_headers(headers, identifier) + self._cors.headers(headers))

    async def _answer(self, request: Any, path: str, headers: Mapping[str, str], identifier: str) -> Answer:
        method: str = request.method
        if head_bytes(request.scope) > self._services.settings.max_head_bytes:
            return text_answer(431, "Request Header Fields Too Large", (("Connection", "close"),))
        if _announced_size(headers) > self._services.settings.max_body_bytes:
            raise RequestEntityTooLarge
        if (preflight := self._cors.preflight(method, headers)) is not None:
            return preflight
        identity: Identity | None = None
        if path.lower().startswith(AUTHENTICATED_PREFIX):
            identity = self._authenticator.identify(headers.get("authorization"))
        found = routes.find(method, path)
        if found is None:
            return text_answer(404, f"Cannot {method} {path}")
        if isinstance(found, routes.MethodNotAllowed):
            return text_answer(405, "Method Not Allowed", (("Allow", found.allowed),))
        operation = found.operation
        if identity is None and operation.access != "open":
            identity = self._authenticator.identify(headers.get("authorization"))
        body: bytes = await request.get_data(as_text=False) if method in WITH_BODY else b""
        query = Query(request.query_string)
        past = Past(self._services.archive, self._services.clock, (identity or NOBODY).tenant)
        as_of = read_as_of(operation, method, query)
        params, state = await admit(operation, method, found.params, identity or NOBODY, self._control, past, as_of)
        return await operation.handler(
            Call(
                control=self._control,
                services=self._services,
                render_gateway=self._render_gateway,
                method=method,
                path=path,
                query=query,
                headers=headers,
                body=body,
                request_id=identifier,
                identity=identity or NOBODY,
                params=params,
                address=client_address(request.remote_addr or "", headers.get("x-forwarded-for", ""), self._trusted),
                state=state,
            )
        )


def _raw_path(scope: Any) -> str:
    """The path as it was sent: percent-encoding is not decoded."""
    raw: bytes = scope.get("raw_path") or scope["path"].encode()
    path = raw.decode("latin-1")
    if not path.startswith("/"):  # absolute-form: http://host/path
        path = "/" + path.partition("://")[2].partition("/")[2]
    return path


def _announced_size(headers: Mapping[str, str]) -> int:
    """What the request says of its body's size; a longer one is refused before anything is asked of the caller."""
    given = headers.get("content-length", "")
    return int(given) if given.isascii() and given.isdigit() else 0


def _sole(failure: Exception) -> Exception:
    """What a nursery has wrapped, where it is one thing."""
    while isinstance(failure, ExceptionGroup) and len(failure.exceptions) == 1:
        failure = failure.exceptions[0]
    return failure


def failed(failure: Exception) -> Answer:
    """The answer to a failed request."""
    match failure:
        case DomainError(status=status, code=code, message=message):
            return json_answer(Error(code, message), status)
        case RequestEntityTooLarge() | BodyTooLarge():
            return text_answer(413, "Request Entity Too Large", (("Connection", "close"),))
        case RequestTimeout():
            return text_answer(408, "Request Timeout", (("Connection", "close"),))
        case UpstreamUnavailable(reason=reason):
            return json_answer({"error": f"mcp: upstream unavailable: {reason}"}, 502)
        case IndexBehind():
            return json_answer(Error("audit_index_behind", str(failure)), 503)
        case StoreUnavailable():
            return json_answer(Error("store_unavailable", "the configuration store is unavailable, try again"), 503)
        case _:
            return json_answer({"error": "Internal server error"}, 500)


def _log_failure(failure: Exception, status: int, method: str, path: str, identifier: str) -> None:
    """Refusals at INFO with their text, failures of ours at ERROR with their place; never a body or a secret."""
    known: dict[str, Any] = {"status": status, "method": method, "path": path, "request_id": identifier}
    if status < 500:
        known["error"] = str(failure) if isinstance(failure, DomainError) else type(failure).__name__
        log.info("request failed", **known)
    elif isinstance(failure, UpstreamUnavailable):
        log.warning("request failed", **known, error=failure.reason)
    else:
        log.error("request failed", **known, **_described(failure))


def _described(failure: Exception) -> dict[str, Any]:
    """Type and place of a failure. Its text and the frames' variables could hold bodies or secrets."""
    frames = traceback.extract_tb(failure.__traceback__)
    stack = [f"{frame.filename.rpartition('trustgate/')[2]}:{frame.lineno} {frame.name}" for frame in frames]
    return {"error": type(failure).__name__, "caller": stack[-1] if stack else "", "stack": "\n".join(stack)}


def _response(answer: Answer, headers: list[tuple[str, str]]) -> TrioResponse:
    response = TrioResponse(answer.body, answer.status, content_type=answer.content_type)
    if answer.content_type is None:
        response.headers.pop("Content-Type", None)
    if answer.status == 204:
        response.headers.pop("Content-Length", None)
    for name, value in (*headers, *answer.headers):
        response.headers.add(name, value)
    return response
