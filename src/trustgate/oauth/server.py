"""The gateway as OAuth2 authorization server for MCP clients (spec 05 §8.4 to §8.6).

It owns no users: `authorize` sends them to the operator's identity provider, `callback` takes them back, `token` gives
the client either the provider's own tokens or, in session mode, tokens of this gateway. PKCE is mandatory, codes and
states work once, refresh tokens rotate. Sources: RFC 6749, 7009, 7636, 8252, 8707.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import structlog

from trustgate.identity.sts import SigningKeys, base64url
from trustgate.identity.verify import text, texts
from trustgate.oauth import pages
from trustgate.oauth.http import (
    NO_STORE,
    BadForm,
    OAuthError,
    Reply,
    Request,
    json_reply,
    redirect,
    with_query,
)
from trustgate.oauth.idp import Provider
from trustgate.oauth.issuers import NOBODY, Choice, Issuers, config_of
from trustgate.oauth.logins import Logins
from trustgate.oauth.redirects import CURSOR, acceptable, is_web, registered
from trustgate.oauth.state import (
    CODE_S,
    PENDING_S,
    SESSION_S,
    Client,
    Code,
    OAuthState,
    Pending,
    Session,
    hashed,
)
from trustgate.view.gateway import GatewayView
from trustgate.view.paths import slug_of

ACCESS_S = 3600

Json = dict[str, Any]
Detour = Callable[[str, str, str, str, str], Awaitable[str]]
"""`(gateway id, subject, resource, base URL, where to go on)` to the connect page that comes first, or empty."""

log = structlog.get_logger("trustgate.oauth")


class AuthorizationServer:
    """Stateless but for what `state` keeps."""

    def __init__(
        self,
        *,
        issuers: Issuers,
        state: OAuthState,
        provider: Provider,
        logins: Logins,
        keys: SigningKeys,
        now: Callable[[], float],
        detour: Detour,
        consent_key: bytes = b"",
    ) -> None:
        """With a `consent_key` users confirm which client they let in before they log in."""
        self._issuers = issuers
        self._state = state
        self._provider = provider
        self._logins = logins
        self._keys = keys
        self._now = now
        self._detour = detour
        self._consent_key = consent_key

    # Authorization (RFC 6749 §4.1, RFC 7636, RFC 8707)

    async def authorize(self, request: Request) -> Reply:
        query = request.query
        client = await self._check_client(query)
        uri, client_state = query["redirect_uri"], query.get("state", "")
        try:
            choice = self._issuers.choose(query.get("resource", ""), request)
            if self._consent_key and (page := pages.consent(request, client, self._consent_key)) is not None:
                return page
            return await self._send_to_provider(request, query, choice)
        except OAuthError as error:
            if error.code == NOBODY:
                raise
            fields = error.members | ({"state": client_state} if client_state else {})
            return redirect(with_query(uri, fields), 302, NO_STORE)

    async def _check_client(self, query: dict[str, str]) -> Client | None:
        """What must hold before anything is sent to the redirect URI; the registered client, if it is one."""
        if query.get("response_type") != "code":
            raise OAuthError("unsupported_response_type", "only response_type=code is supported")
        uri = query.get("redirect_uri", "")
        if not uri:
            raise OAuthError("invalid_request", "redirect_uri is required")
        if not query.get("code_challenge") or query.get("code_challenge_method", "S256") not in ("", "S256"):
            raise OAuthError("invalid_request", "PKCE with code_challenge_method=S256 is required")
        client_id = query.get("client_id", "")
        client = await self._state.client(client_id) if client_id else None
        if client is not None:
            if not registered(uri, client.redirect_uris):
                raise OAuthError("invalid_request", "redirect_uri is not registered for this client")
            return client
        known = self._issuers.client_ids()
        if client_id and known and client_id not in known:
            raise OAuthError("invalid_client", "unknown client_id; register via /oauth/register", 401)
        if not acceptable(uri):
            raise OAuthError(
                "invalid_request",
                "redirect_uri must be an https URL, an http loopback URL, or a registered private-use URI without a"
                " fragment",
            )
        if not is_web(uri) and uri != CURSOR:
            raise OAuthError("invalid_request", "private-use redirect_uri must be registered for this client")
        return None

    async def _send_to_provider(self, request: Request, query: dict[str, str], choice: Choice) -> Reply:
        config = choice.config
        client_id = text(config, "client_id")
        endpoint = await self._provider.endpoint(config, "authorize_url", "authorization_endpoint")
        verifier, state = secrets.token_urlsafe(48), secrets.token_hex(32)
        scope = " ".join(dict.fromkeys([*query.get("scope", "").split(), *texts(config, "required_scopes")]))
        pending = Pending(
            client_id=query.get("client_id", ""),
            redirect_uri=query["redirect_uri"],
            state=query.get("state", ""),
            code_challenge=query["code_challenge"],
            scope=query.get("scope", ""),
            code_verifier=verifier,
            resource=query.get("resource", ""),
            auth_id=choice.auth.id,
            gateway_id=choice.gateway_id,
        )
        await self._state.put("pending", state, pending, PENDING_S, secret=True)
        fields = {
            "response_type": "code",
            "client_id": client_id,
            "redirect_uri": f"{request.base_url}/oauth/callback",
            "state": state,
            "code_challenge": challenge_of(verifier),
            "code_challenge_method": "S256",
        }
        if scope:
            fields["scope"] = scope
        return redirect(with_query(endpoint, fields), 302, NO_STORE)

    # The way back

    async def callback(self, request: Request) -> Reply:
        query = request.query
        pending = await self._state.take("pending", query.get("state", ""), Pending) if query.get("state") else None
        if pending is None:
            raise OAuthError("invalid_request", "unknown or expired authorization request")
        if query.get("error"):
            return self._back(pending, OAuthError(query["error"], query.get("error_description", "")))
        choice = self._choice_of(pending, request)
        try:
            if not query.get("code"):
                raise OAuthError("server_error", "identity provider returned no code")
            code = await self._code_of(request, query["code"], pending, choice)
        except OAuthError as error:
            return self._back(pending, error)
        value = secrets.token_hex(32)
        await self._state.put("code", value, code, CODE_S, secret=True)
        fields = {"code": value} | ({"state": pending.state} if pending.state else {})
        target = with_query(pending.redirect_uri, fields)
        if code.subject:
            page = await self._detour(code.gateway_id, code.subject, pending.resource, request.base_url, target)
            if page:
                return redirect(page, 302, NO_STORE)
        return redirect(target, 302, NO_STORE) if is_web(target) else pages.deep_link(target)

    def _choice_of(self, pending: Pending, request: Request) -> Choice:
        """Where the user was sent; a request that does not tell went where its like goes now. Raises OAuthError."""
        if not pending.auth_id:
            return self._issuers.choose(pending.resource, request)
        auth = self._issuers.auth(pending.gateway_id, pending.auth_id)
        if auth is None:
            raise OAuthError(
                "invalid_request", "the identity provider behind this authorization is no longer configured"
            )
        return Choice(auth, pending.gateway_id)

    def _back(self, pending: Pending, error: OAuthError) -> Reply:
        """To the client, with what went wrong."""
        log.info("login failed", gateway_id=pending.gateway_id, auth_id=pending.auth_id, error=error.code)
        fields = error.members | ({"state": pending.state} if pending.state else {})
        return redirect(with_query(pending.redirect_uri, fields), 302, NO_STORE)

    async def _code_of(self, request: Request, code: str, pending: Pending, choice: Choice) -> Code:
        config = choice.config
        token = await self._provider.redeem(
            config,
            {
                "grant_type": "authorization_code",
                "code": code,
                "redirect_uri": f"{request.base_url}/oauth/callback",
                "code_verifier": pending.code_verifier,
            },
        )
        record = Code(
            client_id=pending.client_id,
            redirect_uri=pending.redirect_uri,
            code_challenge=pending.code_challenge,
            auth_id=choice.auth.id,
            gateway_id=choice.gateway_id,
            path=self._path_of(pending.resource),
        )
        if not config.get("session_mode"):
            record.token = token
            return record
        record.session_mode = True
        record.subject, claims = await self._provider.who(config, token)
        granted = token.get("scope")
        wanted = [*pending.scope.split(), *texts(config, "required_scopes")]
        record.scopes = granted.split() if isinstance(granted, str) and granted else list(dict.fromkeys(wanted))
        record.audiences = texts(config, "audiences")
        view = self._issuers.directory.by_id(choice.gateway_id)
        if view is not None:
            record.idp_claims = claims_for_roles(claims, view)
            record.login_id = await self._logins.keep(view, choice, record.subject, token)
        return record

    # Tokens

    async def token(self, request: Request) -> Reply:
        try:
            form = request.form()
        except BadForm:
            raise OAuthError("invalid_request", "the body is not a form") from None
        match form.get("grant_type", ""):
            case "authorization_code":
                return await self._redeem(form)
            case "refresh_token":
                return await self._refresh(request, form)
            case _:
                raise OAuthError("unsupported_grant_type", "supported: authorization_code, refresh_token")

    async def _redeem(self, form: dict[str, str]) -> Reply:
        if not form.get("code"):
            raise OAuthError("invalid_request", "code is required")
        code = await self._state.take("code", form["code"], Code)
        if code is None:
            raise OAuthError("invalid_grant", "unknown, expired or already used code")
        if form.get("redirect_uri", "") != code.redirect_uri:
            raise OAuthError("invalid_grant", "redirect_uri mismatch")
        client_id = form.get("client_id", "")
        if client_id and code.client_id and client_id != code.client_id:
            raise OAuthError("invalid_client", "client_id mismatch", 401)
        made = challenge_of(form.get("code_verifier", ""))
        if not hmac.compare_digest(made.encode(), code.code_challenge.rstrip("=").encode()):
            raise OAuthError("invalid_grant", "PKCE verification failed")
        if not code.session_mode:
            return json_reply(code.token or {}, 200, NO_STORE)
        session = Session(
            subject=code.subject,
            gateway_id=code.gateway_id,
            auth_id=code.auth_id,
            scopes=code.scopes,
            audiences=code.audiences,
            client_id=code.client_id,
            path=code.path,
            idp_claims=code.idp_claims,
            login_id=code.login_id,
        )
        return await self._issue(session)

    async def _issue(self, session: Session) -> Reply:
        """An access token and a new refresh token. Who goes on with a session goes on as a registered client."""
        refresh = f"gwrt_{secrets.token_hex(32)}"
        if session.client_id:
            await self._state.client(session.client_id)
        await self._state.put("session", refresh, session, SESSION_S)
        answer: Json = {"access_token": self._session_token(session), "token_type": "Bearer", "expires_in": ACCESS_S}
        if session.scopes:
            answer["scope"] = " ".join(session.scopes)
        return json_reply(answer | {"refresh_token": refresh}, 200, NO_STORE)

    def _session_token(self, session: Session) -> str:
        now = int(self._now())
        claims: Json = {
            "sub": session.subject,
            "aud": session.audiences,
            "scope": " ".join(session.scopes),
            "authid": session.auth_id,
            "gwid": session.gateway_id,
            "token_use": "mcp_session",
            "iat": now,
            "exp": now + ACCESS_S,
            "jti": base64url(secrets.token_bytes(16)),
        }
        if session.path:
            claims["path"] = session.path
        if session.idp_claims:
            claims["idp"] = session.idp_claims
        if session.login_id:
            claims["login"] = session.login_id
        return self._keys.sign(claims)

    def _path_of(self, resource: str) -> str:
        """`{slug}/mcp` of the MCP server that a session is for; empty where the client did not name one of ours."""
        found = self._issuers.consumer_of(resource) if resource else None
        return f"{found[1].slug}/mcp" if found is not None else ""

    async def _refresh(self, request: Request, form: dict[str, str]) -> Reply:
        token = form.get("refresh_token", "")
        if not token:
            raise OAuthError("invalid_request", "refresh_token is required")
        if not token.startswith("gwrt_"):
            return await self._refresh_at_provider(request, form, token)
        session = await self._state.session(token)
        client_id = form.get("client_id", "")
        if session is None or (client_id and session.client_id and client_id != session.client_id):
            raise OAuthError("invalid_grant", "unknown or expired refresh token")
        auth = self._issuers.auth(session.gateway_id, session.auth_id)
        view = self._issuers.directory.by_id(session.gateway_id)
        if auth is None or view is None or (session.path and view.consumer(slug_of(session.path)) is None):
            raise OAuthError("invalid_grant", "unknown or expired refresh token")
        fresh = msgspec.structs.replace(
            session, rotated=False, before=hashed(token), audiences=texts(config_of(auth), "audiences")
        )
        answer = await self._issue(fresh)
        await self._logins.extend(session.login_id)
        await self._state.rotate(token, session)
        return answer

    async def _refresh_at_provider(self, request: Request, form: dict[str, str], token: str) -> Reply:
        choice = self._issuers.choose(form.get("resource", ""), request)
        fields = {"grant_type": "refresh_token", "refresh_token": token}
        if scopes := texts(choice.config, "required_scopes"):
            fields["scope"] = " ".join(scopes)
        answer = await self._provider.token(choice.config, fields)
        members = answer.fields
        if isinstance(members.get("error"), str):
            raise OAuthError(members["error"], str(members.get("error_description") or ""))
        if answer.status != 200 or not members.get("access_token"):
            raise OAuthError("server_error", f"identity provider token endpoint returned status {answer.status}")
        return json_reply(members, 200, NO_STORE)

    async def revoke(self, request: Request) -> Reply:
        """RFC 7009: a refresh token of this gateway ends; anything else is no error."""
        try:
            token = request.form().get("token", "")
        except BadForm:
            raise OAuthError("invalid_request", "the body is not a form") from None
        if not token:
            raise OAuthError("invalid_request", "token is required")
        if token.startswith("gwrt_"):
            session = await self._state.session(token)
            await self._state.end_session(token, session)
            if session is not None:
                await self._logins.forget(session.login_id)
        return Reply(status=200, headers=[NO_STORE])


def challenge_of(verifier: str) -> str:
    """The S256 challenge of a code verifier (RFC 7636 §4.2)."""
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()


def claims_for_roles(claims: Json, view: GatewayView) -> Json:
    """The claims that the gateway's roles look at: all that a session has to remember of the login."""
    wanted: set[str] = set()
    for role in view.state.roles.values():
        mapping = role.oidc_mapping if isinstance(role.oidc_mapping, dict) else {}
        for claim in mapping.get("claims") or ():
            path = claim.get("path") if isinstance(claim, dict) else None
            if isinstance(path, str):
                wanted |= {path, path.partition(".")[0]}
    return {name: value for name, value in claims.items() if name in wanted}
