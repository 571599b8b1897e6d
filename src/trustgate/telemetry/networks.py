"""Where the exporters that tenants name may connect to: a fence against reaching into the installation's own networks.

Asked with the very address that is about to be connected to, so that a name cannot point elsewhere a moment later.
"""

from __future__ import annotations

import ipaddress

from msgspec import Struct

from trustgate.providers.guard import is_public


class AddressRefused(OSError):
    """A tenant's exporter points where tenants may not connect to."""


class Fence(Struct, frozen=True):
    """Public addresses, and those of `networks` (CIDR). `private` admits everything but link-local and multicast."""

    networks: tuple[str, ...] = ()
    private: bool = False

    def allows(self, address: str) -> bool:
        """Whether an IP address (with or without a zone) may be connected to."""
        ip = ipaddress.ip_address(address.partition("%")[0])
        ip = getattr(ip, "ipv4_mapped", None) or ip
        if any(ip in ipaddress.ip_network(network) for network in self.networks):
            return True
        if self.private:
            return ip.is_loopback or not (ip.is_link_local or ip.is_multicast or ip.is_unspecified or ip.is_reserved)
        return is_public(str(ip))

    def check(self, address: str) -> None:
        """Raises AddressRefused."""
        if not self.allows(address):
            raise AddressRefused(f"{address} is not an address that tenants' exporters may connect to")

    def refuses_host(self, host: str) -> bool:
        """Whether `host` is an address that is refused. Names are judged when they are resolved."""
        try:
            return not self.allows(host.strip("[]"))
        except ValueError:
            return False
