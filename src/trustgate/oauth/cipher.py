"""Encryption at rest of users' tokens and of what the authorization server keeps for a moment (spec 05 §10).

AES-256-GCM under SHA-256 of `trustgate-vault:` and the server secret; a random 12-byte nonce, no associated data; text
is standard base64 of nonce, ciphertext and tag. An empty text stays empty. The format is shared with the existing
system, so it carries no key id: after a rotation of the secret, earlier keys are tried in turn, and values that an
earlier key opened are written anew under the current one when they are next stored, or by `reseal`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

NONCE_BYTES = 12
_TAG_BYTES = 16


class Undecryptable(Exception):
    """No key opens the text: another secret wrote it, or it is damaged."""


class TokenCipher:
    """Immutable. `previous` secrets only decrypt."""

    def __init__(self, secret: str, previous: Sequence[str] = ()) -> None:
        self._ciphers = [
            AESGCM(hashlib.sha256(f"trustgate-vault:{one}".encode()).digest()) for one in (secret, *previous)
        ]

    def encrypt(self, text: str) -> str:
        if not text:
            return ""
        nonce = os.urandom(NONCE_BYTES)
        return base64.b64encode(nonce + self._ciphers[0].encrypt(nonce, text.encode(), None)).decode()

    def decrypt(self, text: str) -> str:
        """Raises Undecryptable."""
        return self._opened(text)[0]

    def renewed(self, text: str) -> str | None:
        """The text under the current key; None when it is already. Raises Undecryptable."""
        clear, current = self._opened(text)
        return None if current else self.encrypt(clear)

    def _opened(self, text: str) -> tuple[str, bool]:
        """The text in clear, and whether the current key opened it."""
        if not text:
            return "", True
        try:
            data = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            raise Undecryptable from None
        if len(data) < NONCE_BYTES + _TAG_BYTES:
            raise Undecryptable
        for cipher in self._ciphers:
            try:
                clear = cipher.decrypt(data[:NONCE_BYTES], data[NONCE_BYTES:], None).decode()
                return clear, cipher is self._ciphers[0]
            except (InvalidTag, UnicodeDecodeError):
                continue
        raise Undecryptable
