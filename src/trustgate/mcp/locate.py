"""Which virtual MCP server a request addresses: base URL, path and host (spec 05 §1 and §2). Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_address

from trustgate.view.gateway import Directory, GatewayView

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


def host_of(base_url: str) -> str:
    """The host of a base URL, lower-case, without its port."""
    host = base_url.partition("://")[2].lower()
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0]


def slug_of(path: str) -> str:
    """The consumer's slug in a path that ends in `/{slug}/mcp`, or empty."""
    parts = path.strip("/").rsplit("/", 2)
    return parts[-2] if len(parts) >= 2 and parts[-1] == "mcp" else ""


def find(directory: Directory, slug: str, base_url: str) -> GatewayView | None:
    """The gateway whose active consumer of that slug is reachable under the host of that base URL."""
    view = directory.by_consumer_slug(slug)
    if view is None or not directory.has_domains:
        return view
    owner = directory.by_domain(host_of(base_url))
    if owner is not None:
        return view if owner.id == view.id else None
    return None if view.identity.entity.domain else view
