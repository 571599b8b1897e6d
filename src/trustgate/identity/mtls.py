"""Client certificates: reading `X-Forwarded-Client-Cert`, and checking a certificate against a credential.

Implements spec 05 §4.4. A certificate must chain directly to one of the credential's own, be valid now and be meant for
clients; then its names and fingerprint count. What must not live here: which peers may forward certificates.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from ipaddress import ip_address
from typing import Any
from urllib.parse import unquote_plus

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from trustgate.identity.jwt import Refused, strings
from trustgate.wire.clients import Networks
from trustgate.wire.tls import peer_certificate


class Certificate:
    """A parsed client certificate and what principals show of it. Raises ValueError for one whose names are garbled."""

    def __init__(self, certificate: x509.Certificate) -> None:
        self.x509 = certificate
        names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        self.common_name = str(names[0].value) if names else ""
        self.dns_names = dns_names(certificate)
        self.fingerprint = hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest()

    @property
    def subject(self) -> str:
        """The common name, else the first DNS name."""
        return self.common_name or next(iter(self.dns_names), "")

    def claims(self) -> dict[str, Any]:
        return {
            "common_name": self.common_name,
            "dns_names": list(self.dns_names),
            "issuer": self.x509.issuer.rfc4514_string(),
            "serial": str(self.x509.serial_number),
        }


def dns_names(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    except (x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise ValueError("unreadable extensions") from error
    return tuple(names.get_values_for_type(x509.DNSName))


def forwarded(headers: Mapping[bytes, bytes], peer_ip: str, trusted: Networks) -> Certificate | None:
    """The certificate that a trusted peer forwards; None where there is none, or none that can be read."""
    header = headers.get(b"x-forwarded-client-cert")
    if not header or not trusted:
        return None
    try:
        peer = ip_address(peer_ip)
    except ValueError:
        return None
    return from_xfcc(header.decode("latin-1")) if any(peer in network for network in trusted) else None


def presented(headers: Mapping[bytes, bytes], peer_ip: str, trusted: Networks) -> Certificate | None:
    """The certificate of the TLS peer, else one that a trusted peer forwards."""
    der = peer_certificate.get()
    return from_der(der) if der is not None else forwarded(headers, peer_ip, trusted)


def from_der(der: bytes) -> Certificate | None:
    try:
        return Certificate(x509.load_der_x509_certificate(der))
    except ValueError:
        return None


def from_xfcc(header: str) -> Certificate | None:
    """The certificate of the last proxy's element; None when there is none that can be read."""
    for part in split_quoted(split_quoted(header, ",")[-1], ";"):
        key, equals, value = part.strip().partition("=")
        if key.strip().lower() != "cert" or not equals:
            continue
        pem = unquote_plus(unquoted(value.strip()))
        try:
            return Certificate(x509.load_pem_x509_certificates(pem.encode())[0])
        except (ValueError, IndexError):
            return None
    return None


def split_quoted(text: str, separator: str) -> list[str]:
    """Split outside double quotes; a backslash escapes inside them."""
    parts, current, quoted, escaped = list[str](), list[str](), False, False
    for char in text:
        if escaped:
            escaped = False
        elif quoted and char == "\\":
            escaped = True
        elif char == '"':
            quoted = not quoted
        elif char == separator and not quoted:
            parts.append("".join(current))
            current = []
            continue
        current.append(char)
    return [*parts, "".join(current)]


def unquoted(value: str) -> str:
    if len(value) >= 2 and value[0] == value[-1] == '"':
        return value[1:-1].replace('\\"', '"').replace("\\\\", "\\")
    return value


@lru_cache(maxsize=1024)
def authorities(pem: str) -> tuple[x509.Certificate, ...]:
    """The certificates of a PEM bundle. Raises ValueError for text that is none."""
    return tuple(x509.load_pem_x509_certificates(pem.encode()))


def check(certificate: Certificate, config: dict[str, Any], now: float) -> None:
    """Raises Refused unless the certificate satisfies an mtls credential's configuration."""
    moment = datetime.fromtimestamp(now, UTC)
    subject = certificate.x509
    if not subject.not_valid_before_utc <= moment <= subject.not_valid_after_utc:
        raise Refused("not valid now")
    try:
        trusted = authorities(config.get("ca_cert") or "")
    except ValueError:
        raise Refused("the credential has no readable CA certificate") from None
    if subject not in trusted and not any(may_issue(each, moment) and issued_by(subject, each) for each in trusted):
        raise Refused("issued by nobody the credential trusts")
    if not meant_for_clients(subject):
        raise Refused("not a client certificate")
    check_list([certificate.common_name], config.get("allowed_common_names"), "common name")
    check_list(certificate.dns_names, config.get("allowed_dns_names"), "DNS names")
    fingerprints = [entry.replace(":", "").lower() for entry in strings(config.get("allowed_fingerprints"))]
    check_list([certificate.fingerprint], fingerprints, "fingerprint")


def may_issue(authority: x509.Certificate, moment: datetime) -> bool:
    """A CA, and valid now (RFC 5280 §4.2.1.9): a bundle that holds a leaf trusts it, but not what its key has signed.

    A version 1 certificate has no extensions to say so, and counts.
    """
    if not authority.not_valid_before_utc <= moment <= authority.not_valid_after_utc:
        return False
    if authority.version is x509.Version.v1:
        return True
    try:
        return authority.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, x509.DuplicateExtension, x509.UnsupportedGeneralNameType, ValueError):
        return False


def issued_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def meant_for_clients(certificate: x509.Certificate) -> bool:
    """Extended key usage names client authentication, or there is none."""
    try:
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return True
    except ValueError:
        return False
    return ExtendedKeyUsageOID.CLIENT_AUTH in usage or ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE in usage


def check_list(held: Iterable[str], allowed: Any, what: str) -> None:
    wanted = set(strings(allowed))
    if wanted and wanted.isdisjoint(held):
        raise Refused(f"{what} is not allowed")
