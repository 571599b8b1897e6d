"""Encryption of secrets at rest.

What lives here: keys derived from SERVER_SECRET_KEY, sealing and opening of secrets, fingerprints. What must not:
storage of ciphertext (`tables`), threads.

Form (spec 06 §18.3): 12-byte nonce, then AES-256-GCM ciphertext and tag; key = SHA-256("trustgate-vault:" + secret).
The reference of a secret is authenticated with it, so that ciphertext moved to another reference does not open. Each
ciphertext names its key, so that keys can be rotated while the gateway serves.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from trustgate.store.errors import WrongSecretKey
from trustgate.store.model import Sealed

NONCE_BYTES = 12
FINGERPRINT_REF = "installation/fingerprint-key"
"""Vault reference of the random key of fingerprints: it outlives rotations of SERVER_SECRET_KEY."""


class Key:
    """One AES-256-GCM key; `id` names it without telling anything about it."""

    def __init__(self, secret: str) -> None:
        key = hashlib.sha256(b"trustgate-vault:" + secret.encode()).digest()
        self.id = hashlib.sha256(b"trustgate-vault-key-id:" + key).hexdigest()[:16]
        self.cipher = AESGCM(key)


class Keyring:
    """Seals under the current secret, opens what was sealed under it or under a previous one."""

    def __init__(self, secret: str, previous: Sequence[str] = ()) -> None:
        self.current = Key(secret)
        self._keys = {key.id: key for key in (*(Key(old) for old in previous), self.current)}

    def seal(self, ref: str, value: str) -> Sealed:
        nonce = os.urandom(NONCE_BYTES)
        ciphertext = nonce + self.current.cipher.encrypt(nonce, value.encode(), ref.encode())
        return Sealed(ref, self.current.id, ciphertext)

    def open(self, sealed: Sealed) -> str:
        """The secret in clear. Raises `WrongSecretKey` when its key is not in the ring or the ciphertext is damaged."""
        key = self._keys.get(sealed.key_id)
        if key is None:
            raise WrongSecretKey(
                f"the secret {sealed.ref} was encrypted under key {sealed.key_id}, and SERVER_SECRET_KEY is key"
                f" {self.current.id}: set SERVER_SECRET_KEY to the key of this store, or give the old one in"
                " SERVER_SECRET_KEY_PREVIOUS"
            )
        try:
            nonce, ciphertext = sealed.ciphertext[:NONCE_BYTES], sealed.ciphertext[NONCE_BYTES:]
            return key.cipher.decrypt(nonce, ciphertext, sealed.ref.encode()).decode()
        except InvalidTag:
            raise WrongSecretKey(f"the secret {sealed.ref} is damaged: restore it from a backup of the store") from None


def fingerprint(key: bytes, value: str) -> str:
    """First 16 hex characters of HMAC-SHA-256: tells whether two secrets are equal, and nothing else."""
    return hmac.new(key, value.encode(), hashlib.sha256).hexdigest()[:16]
