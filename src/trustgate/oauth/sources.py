"""Where a request comes from, for limits per source: the peer, or behind trusted proxies the client they name. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from trustgate.oauth.http import Request

MAX_FORWARDED_BYTES = 2048
MAX_HOPS = 16

Networks = Sequence[IPv4Network | IPv6Network]


def source_of(request: Request, trusted: Networks) -> str:
    """The peer, or behind trusted proxies the right-most address that is none of them.

    A forwarding header that is too long, or has a hop on the way that is no address, does not count.
    """
    peer = address_of(request.peer_ip)
    if peer is None:
        return request.peer_ip
    header = request.headers.get(b"x-forwarded-for", b"")
    if not header or len(header) > MAX_FORWARDED_BYTES or not within(peer, trusted):
        return str(peer)
    hops = header.decode("latin-1").split(",")
    if len(hops) > MAX_HOPS:
        return str(peer)
    for hop in reversed(hops):
        address = address_of(hop.strip())
        if address is None:
            return str(peer)
        if not within(address, trusted):
            return str(address)
    return str(peer)


def address_of(text: str) -> IPv4Address | IPv6Address | None:
    """An address in its one spelling: IPv4 mapped into IPv6 is IPv4."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def within(address: IPv4Address | IPv6Address, networks: Networks) -> bool:
    return any(address in network for network in networks)
