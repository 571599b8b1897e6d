"""The last known good snapshot on disk (spec 06 §17.4), in the form that all implementations share.

12 bytes nonce, then AES-256-GCM ciphertext and tag of the snapshot's bytes. Synchronous: not for the Trio thread.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import tempfile

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

NONCE_BYTES = 12
TAG_BYTES = 16


class Damaged(Exception):
    """The file was cut off, changed, or written under another key."""


class Kept(msgspec.Struct, frozen=True):
    """What the file held, and when it was written, in epoch seconds."""

    data: bytes
    written: float


class LastKnownGood:
    def __init__(self, path: str, key: bytes) -> None:
        self.path = pathlib.Path(path)
        self._cipher = AESGCM(key)

    def read(self) -> Kept | None:
        """What is kept; None without a file. Raises Damaged and OSError."""
        try:
            sealed, written = self.path.read_bytes(), self.path.stat().st_mtime
        except FileNotFoundError:
            return None
        if len(sealed) < NONCE_BYTES + TAG_BYTES:
            raise Damaged("the file is cut off")
        try:
            data = self._cipher.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], None)
        except InvalidTag as error:
            raise Damaged("the file was changed, or written under another CONFIG_SYNC_LKG_KEY") from error
        return Kept(data, written)

    def write(self, data: bytes) -> None:
        """Replace the file in one step: a crash leaves the old or the new one. Raises OSError."""
        folder = self.path.parent
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        nonce = os.urandom(NONCE_BYTES)
        handle, name = tempfile.mkstemp(prefix=".lkg-", suffix=".tmp", dir=folder)  # mode 0600
        try:
            with open(handle, "wb") as file:
                file.write(nonce + self._cipher.encrypt(nonce, data, None))
                file.flush()
                os.fsync(file.fileno())
            os.replace(name, self.path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def touch(self) -> None:
        """The control plane says that what is kept is still what it serves. Raises OSError."""
        os.utime(self.path)
