"""Linking a user's own accounts at upstream servers (spec 05 §9): tickets, the page, login at the provider, revocation.

A ticket is leave to manage one user's links for 15 minutes. It is never tied to a host or a cookie: agents hand its
link to people, who open it wherever they are. What must not live here: an API key's way to a ticket (`selfservice`).
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from urllib.parse import quote

import msgspec

from trustgate.domain.entities import Auth
from trustgate.identity.keys import expired, serves
from trustgate.identity.mcp import Caller
from trustgate.oauth import pages
from trustgate.oauth.cipher import Undecryptable
from trustgate.oauth.credentials import tokens_of
from trustgate.oauth.http import NO_STORE, OAuthError, Reply, Request, redirect, text_reply, with_query
from trustgate.oauth.locks import Locks
from trustgate.oauth.outbound import Answer, Outbound, OutboundFailed
from trustgate.oauth.server import challenge_of
from trustgate.oauth.state import CONNECT_STATE_S, TICKET_S, ConnectState, OAuthState, Ticket
from trustgate.oauth.upstreams import Server, UpstreamServers, client_fields
from trustgate.oauth.vault import Vault
from trustgate.view.gateway import Directory, GatewayView
from trustgate.view.model import ConsumerView, RegistryView
from trustgate.view.paths import slug_of

REUSE_S = 600.0
MAX_REUSED = 20_000
NO_TICKET = "missing ticket: re-run the tool call to get a fresh connect link"
BAD_TICKET = "oauth connect: ticket expired or unknown"
NOT_CONFIGURED = "oauth connect: provider not configured for this consumer"
BAD_STATE = "invalid_request: unknown or expired state"

audit_log = logging.getLogger("trustgate.audit")


class Refused(Exception):
    """A plain answer to a request that has no right to a page."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status, self.text = status, text

    def reply(self) -> Reply:
        return text_reply(self.text, self.status, NO_STORE)


class Addressed(msgspec.Struct, frozen=True, kw_only=True):
    """A ticket with what it is for, as the configuration is now."""

    id: str
    ticket: Ticket
    view: GatewayView
    consumer: ConsumerView

    @property
    def registries(self) -> dict[str, RegistryView]:
        """The first registry of every provider the ticket may link."""
        found: dict[str, RegistryView] = {}
        for registry in forwarded(self.consumer):
            provider = provider_of(registry)
            if self.ticket.providers is None or provider in self.ticket.providers:
                found.setdefault(provider, registry)
        return found


def provider_of(registry: RegistryView) -> str:
    assert registry.mcp_target is not None
    return registry.mcp_target.auth.get("provider") or ""


def forwarded(consumer: ConsumerView) -> list[RegistryView]:
    """The consumer's registries that act with users' own accounts; of role-based ones, those of all assigned roles."""
    bound = consumer.registries
    if consumer.role_based:
        bound = tuple({registry.id: registry for role in consumer.roles for registry in role.registries}.values())
    return [one for one in bound if one.mcp_target is not None and one.mcp_target.auth.get("mode") == "forwarded"]


def audit(event: str, view: GatewayView, ticket: Ticket, provider: str = "") -> None:
    members = {"event": event, "gateway_id": view.id, "consumer_id": ticket.consumer_id, "auth_id": ticket.auth_id}
    audit_log.info("security audit", extra=members | ({"provider_id": provider} if provider else {}))


class Connect:
    """Mutable: live tickets that are handed out again to the same user, and the locks of making them."""

    def __init__(
        self,
        *,
        directory: Directory,
        state: OAuthState,
        vault: Vault,
        servers: UpstreamServers,
        outbound: Outbound,
        now: Callable[[], float],
    ) -> None:
        self._directory, self._state, self._vault = directory, state, vault
        self._servers, self._outbound, self._now = servers, outbound, now
        self._live: dict[tuple[str, str, str], tuple[float, str]] = {}
        self._minting = Locks()

    # Tickets

    async def mint(self, view: GatewayView, ticket: Ticket) -> str:
        """A new ticket's id: 64 hex characters."""
        ticket_id = secrets.token_hex(32)
        await self._state.put("connect:ticket", ticket_id, ticket, TICKET_S)
        audit("mcp_connect_ticket_created", view, ticket)
        return ticket_id

    async def url(self, caller: Caller, consumer: ConsumerView, base_url: str) -> str:
        """Where this caller may link accounts; the same ticket again while it is fresh."""
        key = (caller.view.id, caller.principal.subject, consumer.slug)

        async def ticket_id() -> str:
            made, known = self._live.get(key, (float("-inf"), ""))
            fresh = self._now() - made <= REUSE_S
            if fresh and await self._state.get("connect:ticket", known, Ticket) is not None:
                return known
            ticket = Ticket(caller.view.id, caller.principal.subject, path_of(consumer), consumer_id=consumer.id)
            minted = await self.mint(caller.view, ticket)
            if len(self._live) >= MAX_REUSED:
                self._live.pop(next(iter(self._live)))
            self._live[key] = (self._now(), minted)
            return minted

        return page_url(base_url, consumer, await self._minting.run(key, ticket_id))

    async def detour(self, gateway_id: str, subject: str, resource: str, base_url: str, resume: str) -> str:
        """The connect page for a user who has just logged in and has accounts to link; empty when there are none."""
        view = self._directory.by_id(gateway_id)
        consumer = self._consumer_for(view, resource) if view is not None else None
        if view is None or consumer is None:
            return ""
        for registry in forwarded(consumer):
            if self._vault.state(await self._vault.get(view.id, subject, provider_of(registry))) != "linked":
                ticket = Ticket(view.id, subject, path_of(consumer), resume, consumer.id)
                return page_url(base_url, consumer, await self.mint(view, ticket))
        return ""

    def _consumer_for(self, view: GatewayView, resource: str) -> ConsumerView | None:
        """The consumer the login was for, else the gateway's newest one with accounts to link."""
        named = view.consumer(slug_of(resource.partition("://")[2].partition("?")[0])) if resource else None
        if named is not None:
            return named
        entities = sorted(view.state.consumers.values(), key=lambda one: (one.created_at, one.id), reverse=True)
        for entity in entities:
            consumer = view.consumer(entity.slug) if entity.active and entity.type == "MCP" else None
            if consumer is not None and forwarded(consumer):
                return consumer
        return None

    async def addressed(self, request: Request) -> Addressed:
        """The ticket of a request. Raises Refused."""
        ticket_id = request.query.get("ticket", "")
        if not ticket_id:
            raise Refused(401, NO_TICKET)
        ticket = await self._state.get("connect:ticket", ticket_id, Ticket)
        if ticket is None:
            raise Refused(401, BAD_TICKET)
        return self._resolve(ticket_id, ticket)

    def accepts(self, auth: Auth, source: str) -> bool:
        """Whether an API key may be used now, from that address."""
        return serves(auth, self._now(), source)

    def _resolve(self, ticket_id: str, ticket: Ticket) -> Addressed:
        view = self._directory.by_id(ticket.gateway_id)
        consumer = view.consumer(slug_of(ticket.consumer_path)) if view is not None else None
        by_key = ticket.auth_id or ticket.providers is not None
        if view is None or consumer is None or (by_key and not key_still_serves(ticket, view, consumer, self._now())):
            raise Refused(401, BAD_TICKET)
        return Addressed(id=ticket_id, ticket=ticket, view=view, consumer=consumer)

    # The page and its buttons

    async def page(self, request: Request) -> Reply:
        return await self._page(await self.addressed(request))

    async def _page(self, addressed: Addressed, flash: str = "") -> Reply:
        ticket = addressed.ticket
        rows: list[pages.Row] = []
        for registry in forwarded(addressed.consumer):
            provider = provider_of(registry)
            if provider in addressed.registries:
                stored = await self._vault.get(ticket.gateway_id, ticket.principal_sub, provider)
                rows.append(pages.Row(name=registry.name, provider=provider, state=self._vault.state(stored)))
        return pages.connect(rows, addressed.id, ticket.resume_url, flash, ticket.principal_sub)

    async def start(self, request: Request, provider: str) -> Reply:
        """Off to the provider's login."""
        addressed = await self.addressed(request)
        registry = addressed.registries.get(provider)
        if registry is None:
            raise Refused(404, NOT_CONFIGURED)
        redirect_uri = redirect_uri_of(request, provider)
        try:
            server = await self._servers.server(registry)
            client = await self._servers.client(registry, redirect_uri)
        except OAuthError as error:
            return await self._page(addressed, error.description or error.code)
        verifier, state = secrets.token_urlsafe(48), secrets.token_hex(32)
        away = ConnectState(
            ticket=addressed.ticket,
            ticket_id=addressed.id,
            provider=provider,
            verifier=verifier,
            redirect_uri=redirect_uri,
            registry_id=registry.id,
        )
        await self._state.put("connect:state", state, away, CONNECT_STATE_S, secret=True)
        fields = {
            "response_type": "code",
            "client_id": client.client_id,
            "redirect_uri": redirect_uri,
            "state": state,
            "code_challenge": challenge_of(verifier),
            "code_challenge_method": "S256",
        }
        if server.scopes:
            fields["scope"] = " ".join(server.scopes)
        if server.resource:
            fields["resource"] = server.resource
        return redirect(with_query(server.authorize_url, fields), 302, NO_STORE)

    async def callback(self, request: Request, provider: str) -> Reply:
        """Back from the provider's login."""
        query = request.query
        state = query.get("state", "")
        away = await self._state.take("connect:state", state, ConnectState) if state else None
        if away is None or away.provider != provider:
            raise Refused(400, BAD_STATE)
        addressed = self._resolve(away.ticket_id, away.ticket)
        registry = addressed.registries.get(provider)
        if registry is None:
            raise Refused(404, NOT_CONFIGURED)
        if query.get("error"):
            described = query.get("error_description", "")
            return await self._page(addressed, f"{query['error']}: {described}" if described else query["error"])
        if not away.redirect_uri:  # the existing system does not write it down
            away.redirect_uri = redirect_uri_of(request, provider)
        try:
            if not query.get("code"):
                raise OAuthError("server_error", "oauth provider: no code in the answer")
            await self._link(addressed, registry, away, query["code"])
        except OAuthError as error:
            return await self._page(addressed, error.description or error.code)
        audit("mcp_provider_linked", addressed.view, addressed.ticket, provider)
        return await self._page(addressed)

    async def _link(self, addressed: Addressed, registry: RegistryView, away: ConnectState, code: str) -> None:
        server = await self._servers.server(registry)
        client = await self._servers.client(registry, away.redirect_uri)
        fields = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": away.redirect_uri,
            "code_verifier": away.verifier,
        } | client_fields(client, server)
        try:
            answer = await self._outbound.post_form(server.token_url, fields)
        except OutboundFailed:
            raise OAuthError("server_error", "oauth provider: token endpoint could not be reached") from None
        check_answer(answer)
        tokens = tokens_of(answer, self._now(), list(server.scopes))
        if tokens is None:
            raise OAuthError("server_error", f"oauth provider: no usable token in the answer (status {answer.status})")
        ticket = addressed.ticket
        await self._vault.put(ticket.gateway_id, ticket.principal_sub, away.provider, tokens)

    async def disconnect(self, request: Request, provider: str) -> Reply:
        """Forget a link; that there was none is fine. Other sites cannot make a browser do it."""
        if from_elsewhere(request):
            raise Refused(403, "oauth connect: cross-site request refused")
        addressed = await self.addressed(request)
        ticket, registry = addressed.ticket, addressed.registries.get(provider)
        if registry is None:
            raise Refused(404, NOT_CONFIGURED)
        gone = await self._vault.delete(ticket.gateway_id, ticket.principal_sub, provider)
        if gone is not None:
            audit("mcp_provider_unlinked", addressed.view, ticket, provider)
            try:
                await self._revoke(await self._servers.server(registry), registry, self._vault.open(gone).refresh_token)
            except (OAuthError, OutboundFailed, Undecryptable):
                audit_log.debug("the provider was not told of the revocation")
        return await self._page(addressed)

    async def _revoke(self, server: Server, registry: RegistryView, refresh_token: str) -> None:
        """Tell the provider (RFC 7009), where it can be told."""
        client = await self._servers.registered(registry)
        if not server.revocation_url or not refresh_token or client is None:
            return
        fields = {"token": refresh_token, "token_type_hint": "refresh_token", "client_id": client.client_id}
        if client.client_secret:
            fields["client_secret"] = client.client_secret
        await self._outbound.post_form(server.revocation_url, fields)


def redirect_uri_of(request: Request, provider: str) -> str:
    return f"{request.base_url}/oauth/callback/{quote(provider)}"


def from_elsewhere(request: Request) -> bool:
    """Whether a browser sent this from a page that is not ours. Our pages send no referrer, so their origin is null."""
    site, origin = request.headers.get(b"sec-fetch-site", b""), request.headers.get(b"origin", b"").decode("latin-1")
    if site and site not in (b"same-origin", b"none"):
        return True
    host = request.headers.get(b"host", b"").decode("latin-1").lower()
    return origin not in ("", "null") and netloc_of(origin) not in (host, netloc_of(request.base_url))


def netloc_of(origin: str) -> str:
    return origin.partition("://")[2].lower()


def check_answer(answer: Answer) -> None:
    """Raises OAuthError with the words that the page shows."""
    if answer.document is None:
        raise OAuthError("server_error", f"oauth provider: non-JSON token response (status {answer.status})")
    error = answer.document.get("error")
    if isinstance(error, str) and error:
        described = str(answer.document.get("error_description") or "")
        text = f"oauth provider: token exchange failed ({error})"
        raise OAuthError("server_error", f"{text}: {described}" if described else text)


def key_still_serves(ticket: Ticket, view: GatewayView, consumer: ConsumerView, now: float) -> bool:
    auth = view.state.auths.get(ticket.auth_id)
    attached = ticket.auth_id in consumer.entity.auth_ids and ticket.consumer_id == consumer.id
    if auth is None or not auth.enabled or auth.type != "api_key" or expired(auth, now):
        return False
    return attached and ticket.providers is not None


def path_of(consumer: ConsumerView) -> str:
    return f"/{consumer.slug}/mcp"


def page_url(base_url: str, consumer: ConsumerView, ticket_id: str) -> str:
    return f"{base_url}{path_of(consumer)}/connect?ticket={ticket_id}"
