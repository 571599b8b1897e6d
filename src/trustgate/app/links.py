"""What the Admin API shows of users' links: everything but their tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trustgate.admin.rendering import rfc3339
from trustgate.app.oauth_parts import cipher_of
from trustgate.app.parts import Parts
from trustgate.oauth.state import StoreState
from trustgate.oauth.vault import Credential, Vault, links


class Links:
    """The vault, as administrators see it."""

    def __init__(self, parts: Parts) -> None:
        self._values = StoreState(parts.store)
        self._vault = Vault(self._values, cipher_of(parts), parts.now)

    async def all(self, gateway_id: str) -> Sequence[dict[str, Any]]:
        return [self._shown(one) for one in await links(self._values, gateway_id)]

    def _shown(self, one: Credential) -> dict[str, Any]:
        expires = {} if one.expires_at is None else {"expires_at": rfc3339(one.expires_at)}
        return {
            "id": one.id,
            "subject": one.principal_sub,
            "provider": one.provider,
            "state": self._vault.state(one),
            "scopes": one.scopes,
            **expires,
            "created_at": rfc3339(one.created_at),
            "updated_at": rfc3339(one.updated_at),
        }

    async def delete(self, gateway_id: str, link_id: str) -> bool:
        for one in await links(self._values, gateway_id):
            if one.id == link_id:
                return await self._vault.delete(gateway_id, one.principal_sub, one.provider) is not None
        return False
