"""Certificates for tests that speak TLS."""

from __future__ import annotations

import datetime
import pathlib

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


def key_and_certificate(*names: x509.GeneralName) -> tuple[bytes, bytes]:
    """A private key and a self-signed certificate for these names, both PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, str(names[0].value))])
    now = datetime.datetime.now(datetime.UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private, built.public_bytes(serialization.Encoding.PEM)


def self_signed(host: str, folder: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    """Files with a self-signed certificate, and its key."""
    key, certificate = key_and_certificate(x509.DNSName(host))
    pem, secret = folder / "cert.pem", folder / "key.pem"
    pem.write_bytes(certificate)
    secret.write_bytes(key)
    return pem, secret
