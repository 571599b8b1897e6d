"""Addresses of clients: which networks they are in, and whose request it is behind trusted proxies. Pure."""

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

Address = IPv4Address | IPv6Address
Networks = Sequence[IPv4Network | IPv6Network]
_MAX_ADDRESS: Final = 64


def address_of(text: str) -> Address | None:
    """An address in its one spelling: IPv4 mapped into IPv6 is IPv4."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def networks(cidrs: Iterable[str]) -> Networks:
    return tuple(ip_network(cidr, strict=False) for cidr in cidrs)


def within(address: Address | None, networks: Networks) -> bool:
    """What is no address is in no network."""
    return address is not None and any(address in network for network in networks)


def client_address(peer: str, forwarded: str, trusted: Networks) -> str:
    """Where a request comes from: the last address in `X-Forwarded-For` that no trusted proxy (`TRUSTED_PROXY_CIDRS`)
    has, else the peer."""
    hops = [hop.strip() for hop in forwarded.split(",") if hop.strip()]
    address = peer
    while hops and within(address_of(address), trusted):
        address = hops.pop()
    return address[:_MAX_ADDRESS]


def forwarded_for(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """All lines of `X-Forwarded-For` as one."""
    return ",".join(value.decode("latin-1") for name, value in headers if name == b"x-forwarded-for")
