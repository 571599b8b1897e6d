"""Whose request it is behind proxies that are trusted to tell (`TRUSTED_PROXY_CIDRS`). Pure."""

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Final

Networks = Sequence[IPv4Network | IPv6Network]
_MAX_ADDRESS: Final = 64


def client_address(peer: str, forwarded: str, trusted: Networks) -> str:
    """Where a request comes from: the last address in `X-Forwarded-For` that no trusted proxy has, else the peer."""
    hops = [hop.strip() for hop in forwarded.split(",") if hop.strip()]
    address = peer
    while hops and _within(address, trusted):
        address = hops.pop()
    return address[:_MAX_ADDRESS]


def forwarded_for(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """All lines of `X-Forwarded-For` as one."""
    return ",".join(value.decode("latin-1") for name, value in headers if name == b"x-forwarded-for")


def networks(cidrs: Iterable[str]) -> Networks:
    return tuple(ip_network(cidr, strict=False) for cidr in cidrs)


def _within(address: str, networks: Networks) -> bool:
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    parsed = getattr(parsed, "ipv4_mapped", None) or parsed
    return any(parsed in network for network in networks)
