"""Which virtual MCP server a request addresses: base URL, path and host (spec 05 §1 and §2). Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_address

from trustgate.view.paths import find, host_of, slug_of

Networks = tuple[IPv4Network | IPv6Network, ...]
Headers = Mapping[bytes, bytes]

SCHEME_HEADERS = (b"x-forwarded-proto", b"x-forwarded-protocol", b"x-forwarded-ssl", b"x-url-scheme")


class BaseUrls:
    """How absolute URLs to this plane begin.

    A fixed `public` URL wins. Else forwarding headers are believed from the peers in `trusted`, from everybody when it
    is empty.
    """

    def __init__(self, public: str = "", trusted: Networks = ()) -> None:
        self.public = public.rstrip("/")
        self._trusted = trusted

    def of(self, fields: Iterable[tuple[bytes, bytes]], headers: Headers, peer_ip: str, scheme: str = "http") -> str:
        """`scheme://host` of a request; `fields` are its headers in order, `headers` their first values."""
        if self.public:
            return self.public
        host = headers.get(b"host", b"")
        if not self._trusted or self._trusts(peer_ip):
            if any(name in headers for name in SCHEME_HEADERS):
                scheme = forwarded_scheme(fields, scheme)
            forwarded = headers.get(b"x-forwarded-host")
            if forwarded:
                host = forwarded.partition(b",")[0].strip() or host
        return f"{scheme}://{host.decode('latin-1')}"

    def _trusts(self, peer_ip: str) -> bool:
        try:
            address = ip_address(peer_ip)
        except ValueError:
            return False
        return any(address in network for network in self._trusted)


def forwarded_scheme(fields: Iterable[tuple[bytes, bytes]], scheme: str) -> str:
    """The scheme that the last of the forwarding headers names; anything but http and https is no scheme of ours."""
    for name, value in fields:
        if name == b"x-forwarded-ssl":
            found = b"https" if value.strip().lower() == b"on" else b""
        elif name in SCHEME_HEADERS:
            found = value.partition(b",")[0].strip().lower()
        else:
            continue
        if found in (b"http", b"https"):
            scheme = found.decode()
    return scheme


__all__ = ["BaseUrls", "Networks", "find", "host_of", "slug_of"]
