"""HTTP connections of tenants' exporters: the peer's address is checked before a byte is sent. Loads requests."""

from __future__ import annotations

from typing import Any

from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from trustgate.telemetry.networks import Fence


class FencedAdapter(HTTPAdapter):
    """Mounted on a session, it refuses to speak to addresses that the fence does not allow."""

    def __init__(self, fence: Fence) -> None:
        self._fence = fence
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> Any:
        super().init_poolmanager(*args, **kwargs)
        fence = self._fence

        class Plain(HTTPConnection):
            def _new_conn(self) -> Any:
                return checked(super()._new_conn(), fence)

        class Secure(HTTPSConnection):
            def _new_conn(self) -> Any:
                return checked(super()._new_conn(), fence)

        class PlainPool(HTTPConnectionPool):
            ConnectionCls = Plain  # pyright: ignore[reportAssignmentType]

        class SecurePool(HTTPSConnectionPool):
            ConnectionCls = Secure  # pyright: ignore[reportAssignmentType]

        self.poolmanager.pool_classes_by_scheme = {"http": PlainPool, "https": SecurePool}


def checked(sock: Any, fence: Fence) -> Any:
    try:
        fence.check(sock.getpeername()[0])
    except BaseException:
        sock.close()
        raise
    return sock
