"""Google tokens for Vertex AI (spec 03 §10.1): a service account's signed JWT exchanged at its token endpoint.

What lives here: reading the key, signing with google-auth (loaded on first use, in a thread), the exchange. What must
not: caching (`tokens`); ambient credentials of the gateway, which a registry could send to any host by its base URL.
"""

from __future__ import annotations

import time
from typing import Any

import msgspec
import trio

from trustgate.providers.credentials import request_token
from trustgate.providers.errors import MALFORMED, CredentialError
from trustgate.providers.services import Services
from trustgate.providers.tokens import Token

SCOPE = "https://www.googleapis.com/auth/cloud-platform"
GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
TOKEN_URI = "https://oauth2.googleapis.com/token"
LIFETIME_S = 3600


class Key(msgspec.Struct, frozen=True):
    """A service account key file."""

    type: str = ""
    client_email: str = ""
    private_key: str = ""
    private_key_id: str = ""
    token_uri: str = TOKEN_URI


def read_key(credential: Any) -> Key:
    """The key from its JSON text or object. Raises `CredentialError` without telling any of it."""
    try:
        text = credential if isinstance(credential, str) else msgspec.json.encode(credential)
        key = msgspec.json.decode(text, type=Key)
    except (*MALFORMED, TypeError):
        raise CredentialError("service account key is not valid JSON") from None
    if key.type != "service_account":
        raise CredentialError(f'credentials of type "{key.type}" are not supported')
    if not (key.client_email and key.private_key):
        raise CredentialError("service account key has no client_email or private_key")
    return key


async def fetch_token(services: Services, credential: Any) -> Token[str]:
    """An access token for the cloud platform scope. Raises `CredentialError`."""
    key = read_key(credential)
    assertion = await trio.to_thread.run_sync(_sign, key, int(time.time()), limiter=services.threads)
    return await request_token(services, key.token_uri or TOKEN_URI, {"grant_type": GRANT, "assertion": assertion})


def _sign(key: Key, now: int) -> str:
    from google.auth import crypt, jwt

    try:
        signer = crypt.RSASigner.from_string(key.private_key, key.private_key_id or None)
    except (ValueError, TypeError):
        raise CredentialError("service account key has no usable private key") from None
    claims = {
        "iss": key.client_email,
        "scope": SCOPE,
        "aud": key.token_uri or TOKEN_URI,
        "iat": now,
        "exp": now + LIFETIME_S,
    }
    return jwt.encode(signer, claims).decode()
