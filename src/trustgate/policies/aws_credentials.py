"""The AWS credentials of a policy, as data: naming them loads no AWS library (`aws` does)."""

from __future__ import annotations

import msgspec


class CredentialSet(msgspec.Struct, frozen=True):
    """Where credentials come from; also the key under which a client is shared. `role_arn` empty: no role."""

    region: str
    access_key_id: str = ""
    secret_access_key: str = ""
    session_token: str = ""
    role_arn: str = ""
    session_name: str = ""
