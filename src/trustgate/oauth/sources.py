"""Where a request comes from, for limits per source: the peer, or behind trusted proxies the client they name. Pure."""

from __future__ import annotations

from trustgate.oauth.http import Request
from trustgate.wire.clients import Networks, address_of, within

MAX_FORWARDED_BYTES = 2048
MAX_HOPS = 16


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
