"""Where the feed listens: `CONFIG_SYNC_GRPC_LISTEN_ADDR` as text and as what can be bound. Pure."""

from __future__ import annotations

import msgspec


class Address(msgspec.Struct, frozen=True):
    """Where to listen. An empty host is every interface."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """`host:port`, `:port` or `[v6]:port`. Raises ValueError."""
        host, colon, port = text.strip().rpartition(":")
        if not colon or not port.isdigit() or int(port) > 65535:
            raise ValueError(f"{text!r} is no address host:port")
        return cls(host.strip("[]"), int(port))

    def targets(self) -> list[str]:
        """What to bind, the first that can be."""
        if not self.host:
            return [f"[::]:{self.port}", f"0.0.0.0:{self.port}"]
        return [f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"]
