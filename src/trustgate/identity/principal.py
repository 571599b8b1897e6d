"""Who is calling: the result of authentication on either data plane."""

from __future__ import annotations

from typing import Any

import msgspec

from trustgate.view.model import RoleView


class Principal(msgspec.Struct, frozen=True, kw_only=True):
    """An authenticated caller.

    `method` is `api_key`, `jwt`, `introspection`, `mtls` or `playground`; `auth_id` names the matched credential (empty
    for playground tokens); `roles` are the effective roles of a role_based consumer, in gateway role order.
    """

    subject: str
    method: str
    auth_id: str = ""
    issuer: str = ""
    claims: dict[str, Any] = {}
    scopes: tuple[str, ...] = ()
    raw_token: str = ""
    roles: tuple[RoleView, ...] = ()
