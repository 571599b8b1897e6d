"""The identity provider's own tokens behind sessions of this gateway (spec 05 §7.2, §8.5).

A client in session mode never sees them, and most installations have no use for them: they are kept, encrypted and for
as long as the session, only where an upstream of the gateway is called with the user's token (`passthrough`, `obo`,
`token_exchange`). A session names its login by a random id that is good for nothing without the session's signature.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

import structlog

from trustgate.oauth.http import OAuthError
from trustgate.oauth.idp import Provider
from trustgate.oauth.issuers import Choice, config_of
from trustgate.oauth.locks import Locks
from trustgate.oauth.state import SESSION_S, Login, OAuthState
from trustgate.oauth.vault import EXPIRY_MARGIN_S, lifetime
from trustgate.view.gateway import GatewayView
from trustgate.view.model import RegistryView

KIND = "login"
OF_USERS = ("obo", "token_exchange")

Json = dict[str, Any]

log = structlog.get_logger("trustgate.oauth")


class LoginOver(Exception):
    """The provider's token has ended and cannot be renewed; the text is the provider's description."""


def calls_with_users_token(registry: RegistryView) -> bool:
    auth = registry.mcp_target.auth if registry.mcp_target is not None else {}
    mode = auth.get("mode")
    return mode == "passthrough" or (mode == "exchange" and auth.get("pattern") in OF_USERS)


class Logins:
    """Mutable: the locks of renewals."""

    def __init__(self, state: OAuthState, provider: Provider, now: Callable[[], float]) -> None:
        self._state, self._provider, self._now = state, provider, now
        self._locks = Locks()

    async def keep(self, view: GatewayView, choice: Choice, subject: str, token: Json) -> str:
        """Remember the provider's answer to a login; the login's id, empty where nothing needs it."""
        if not any(map(calls_with_users_token, view.registries.values())):
            return ""
        login_id = secrets.token_hex(32)
        await self._put(login_id, self._login(view.id, choice.auth.id, subject, token, ""))
        return login_id

    def _login(self, gateway_id: str, auth_id: str, subject: str, token: Json, old_refresh: str) -> Login:
        refresh = token.get("refresh_token")
        return Login(
            gateway_id=gateway_id,
            auth_id=auth_id,
            subject=subject,
            access_token=str(token["access_token"]),
            refresh_token=refresh if isinstance(refresh, str) and refresh else old_refresh,
            expires_at=self._now() + lifetime(token.get("expires_in"), 3600.0).total_seconds(),
        )

    async def _put(self, login_id: str, login: Login) -> None:
        await self._state.put(KIND, login_id, login, SESSION_S, secret=True)

    async def extend(self, login_id: str) -> None:
        """The session goes on, so its login does."""
        login = await self._state.get(KIND, login_id, Login) if login_id else None
        if login is not None:
            await self._put(login_id, login)

    async def forget(self, login_id: str) -> None:
        if login_id:
            await self._state.delete(KIND, login_id)

    async def token(self, view: GatewayView, auth_id: str, subject: str, login_id: str) -> str:
        """The provider's access token of that session's user, renewed where it ends; empty where none was kept.

        Raises LoginOver, and OAuthError when the provider cannot be asked.
        """
        login = await self._of(view, auth_id, subject, login_id)
        if login is None or not self._ends(login):
            return login.access_token if login is not None else ""

        async def renew() -> str:
            fresh = await self._of(view, auth_id, subject, login_id)
            if fresh is None or not self._ends(fresh):
                return fresh.access_token if fresh is not None else ""
            return await self._renewed(view, login_id, fresh)

        return await self._locks.run(login_id, renew, whole=True)

    async def _of(self, view: GatewayView, auth_id: str, subject: str, login_id: str) -> Login | None:
        login = await self._state.get(KIND, login_id, Login) if login_id else None
        if login is None or (login.gateway_id, login.auth_id, login.subject) != (view.id, auth_id, subject):
            return None
        return login

    def _ends(self, login: Login) -> bool:
        return login.expires_at - EXPIRY_MARGIN_S <= self._now()

    async def _renewed(self, view: GatewayView, login_id: str, login: Login) -> str:
        auth = next((one for one in view.oauth2 if one.id == login.auth_id), None)
        if auth is None or not login.refresh_token:
            raise LoginOver("the login at the identity provider has ended")
        fields = {"grant_type": "refresh_token", "refresh_token": login.refresh_token}
        try:
            members = await self._provider.redeem(config_of(auth), fields)
        except OAuthError as error:
            if error.code not in ("invalid_grant", "interaction_required"):
                raise
            newer = await self._of(view, login.auth_id, login.subject, login_id)
            if newer is not None and newer.access_token != login.access_token:
                return newer.access_token  # another instance has renewed it a moment ago
            raise LoginOver(error.description or error.code) from None
        log.debug("login renewed", gateway_id=view.id, auth_id=login.auth_id)
        fresh = self._login(login.gateway_id, login.auth_id, login.subject, members, login.refresh_token)
        if await self._of(view, login.auth_id, login.subject, login_id) is None:
            raise LoginOver("the login at the identity provider has ended")  # it was revoked meanwhile
        await self._put(login_id, fresh)
        return fresh.access_token
