"""Keys given as text: the server secret, the RSA signing key, the public keys of service tokens.

Reads and creates files only in `embedded_server_key`. A key that several replicas must share without a file is
provisioned by the caller, through Redis, with the names and generators below.
"""

import base64
import binascii
import os
import secrets
from pathlib import Path

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from msgspec import Struct

from trustgate.settings.values import ConfigurationError, Warning

SERVER_KEY_REDIS = "trustgate:server:secret-key"
STS_KEY_REDIS = "trustgate:sts:signing-key:pkcs8-pem"
SERVER_KEY_FILE = "server-secret-key"
MIN_BYTES = 32


class PublicKey(Struct, frozen=True):
    kid: str  # empty: matches any token
    pem: str


def check_length(key: str) -> None:
    """Raise ConfigurationError for a server secret that is missing or too short."""
    if not key:
        raise ConfigurationError("crypto: encryption secret is required (set SERVER_SECRET_KEY)")
    length = len(key.encode())
    if length < MIN_BYTES:
        raise ConfigurationError(
            f"crypto: encryption secret must be at least {MIN_BYTES} bytes of random data (got {length})"
        )


def new_server_key() -> str:
    return base64.b64encode(secrets.token_bytes(32)).decode()


def embedded_server_key(data_dir: str) -> tuple[str, Path, bool]:
    """The server secret kept in the data folder, its file, and whether this call created it (mode 0600).

    Processes that start together agree on one key: the file appears complete, and only once.
    """
    path = Path(data_dir) / SERVER_KEY_FILE
    try:
        return path.read_text().strip(), path, False
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
    draft = path.with_name(f".{path.name}-{os.getpid()}-{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(new_server_key() + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)
            created = True
        except FileExistsError:
            created = False
    finally:
        os.unlink(draft)
    return path.read_text().strip(), path, created


def pem_text(text: str) -> str:
    """PEM from PEM, PEM with literal `\\n`, or base64 of PEM."""
    text = text.strip().replace("\\n", "\n")
    if "-----BEGIN" in text:
        return text
    try:
        return base64.b64decode("".join(text.split()), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return text


def load_rsa_key(text: str) -> rsa.RSAPrivateKey:
    """The signing key of the MCP plane; raises ConfigurationError when the text is not an RSA private key."""
    try:
        key = serialization.load_pem_private_key(pem_text(text).encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigurationError.invalid("STS_SIGNING_KEY must be an RSA private key in PEM form") from error
    if not isinstance(key, rsa.RSAPrivateKey):
        raise ConfigurationError.invalid("STS_SIGNING_KEY must be an RSA private key in PEM form")
    return key


def new_sts_key_pem() -> str:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def parse_public_keys(text: str) -> tuple[tuple[PublicKey, ...], tuple[Warning, ...]]:
    """The keys of `ADMIN_M2M_PUBLIC_KEYS`; entries without `kid` or `pem` are skipped with a warning."""
    name = "ADMIN_M2M_PUBLIC_KEYS"
    text = text.strip()
    if not text:
        return (), ()
    if not text.startswith("["):
        return (PublicKey("", pem_text(text)),), ()
    try:
        entries = msgspec.json.decode(text, type=list[dict[str, object]])
    except msgspec.MsgspecError:
        return (), (Warning("malformed JSON, no service token keys are used", name),)
    keys: list[PublicKey] = []
    warnings: list[Warning] = []
    for number, entry in enumerate(entries):
        kid, pem = entry.get("kid"), entry.get("pem")
        if isinstance(kid, str) and kid and isinstance(pem, str) and pem:
            keys.append(PublicKey(kid, pem_text(pem)))
        else:
            warnings.append(Warning("entry without kid or pem skipped", name, f"entry {number}"))
    return tuple(keys), tuple(warnings)
