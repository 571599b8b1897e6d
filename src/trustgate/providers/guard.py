"""A fence around connection tests: administrators name any URL, so an installation may close its own networks to them.

What lives here: an HTTP transport that resolves a host once, refuses addresses that are not public and connects to the
very address it checked, so that a name cannot point elsewhere a moment later (spec 03 §17 B23).
"""

from __future__ import annotations

import ipaddress
import socket

import httpx
import trio

EMBEDDING = tuple(map(ipaddress.IPv6Network, ("64:ff9b::/96", "64:ff9b:1::/48", "::/96")))
"""IPv6 networks whose last 32 bits are an IPv4 address: NAT64 (RFC 6052, RFC 8215) and IPv4-compatible."""


class AddressRefused(httpx.ConnectError):
    """The host is not a public one."""


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the internet: not loopback, private, link-local, reserved or multicast."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address) and any(ip in network for network in EMBEDDING):
        return is_public(str(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)))
    mapped = getattr(ip, "ipv4_mapped", None) or getattr(ip, "sixtofour", None)
    return ip.is_global and not ip.is_multicast and (mapped is None or mapped.is_global)


class PublicOnly(httpx.AsyncBaseTransport):
    """Passes requests to public hosts on to `inner`."""

    def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
        self._inner = inner

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Raises `AddressRefused`, or `httpx.ConnectError` for a host that does not exist."""
        host = request.url.host
        try:
            found = await trio.socket.getaddrinfo(host, request.url.port or 443, type=socket.SOCK_STREAM)
        except OSError as problem:
            raise httpx.ConnectError("host not found") from problem
        addresses = [str(entry[4][0]) for entry in found]
        if not addresses or not all(map(is_public, addresses)):
            raise AddressRefused("the address is not a public one")
        request.extensions = {**request.extensions, "sni_hostname": host}
        request.url = request.url.copy_with(host=addresses[0])
        return await self._inner.handle_async_request(request)

    async def aclose(self) -> None:
        await self._inner.aclose()
