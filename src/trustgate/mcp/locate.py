"""Which virtual MCP server a request addresses: base URL, path and host (spec 05 §1 and §2). Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import ip_address

from trustgate.view.paths import find, host_of, slug_of
from trustgate.wire.clients import Networks

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


class AllowedHosts:
    """The hosts that requests may be addressed to, and that browser pages calling us may come from.

    Keeps a page of some other site from reaching us by a name of its own that resolves to our address, and absolute
    URLs from being made of a host that is not ours. `*.example.com` stands for every subdomain.
    """

    def __init__(self, hosts: Iterable[str]) -> None:
        named = [host.strip().lower() for host in hosts]
        self._exact = frozenset(host for host in named if not host.startswith("*."))
        self._suffixes = tuple(host[1:] for host in named if host.startswith("*."))

    def refuses(self, headers: Headers, base_url: str) -> bool:
        """Whether a host that the request names, as its target or its page's, is none of these."""
        targets = [b"http://" + headers.get(b"host", b""), base_url.encode("latin-1")]
        if b"origin" in headers:
            targets.append(headers[b"origin"])
        return not all(self._admits(host_of(target.decode("latin-1"))) for target in targets)

    def _admits(self, host: str) -> bool:
        return host in self._exact or host.endswith(self._suffixes)


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


__all__ = ["AllowedHosts", "BaseUrls", "find", "host_of", "slug_of"]
