"""HTTP connections of the `otlp` exporter: whom they trust, and for tenants whom they may speak to. Loads requests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import InsecureRequestWarning

from trustgate.telemetry.networks import Fence

PROTOCOL_HEADERS = frozenset({"content-type", "content-encoding", "user-agent"})


class CollectorSession(requests.Session):
    """Sends `headers` and those of the protocol, no others.

    Trusts the authorities of `ca_file`, everybody with `skip_verify`, else those of the system and the environment.
    With a `fence` it speaks to allowed addresses only, and uses neither the environment's proxies nor its credentials.
    """

    def __init__(self, headers: Mapping[str, str], ca_file: str, *, skip_verify: bool, fence: Fence | None) -> None:
        super().__init__()
        self._sent = PROTOCOL_HEADERS | {name.lower() for name in headers}
        if skip_verify:
            urllib3.disable_warnings(InsecureRequestWarning)  # asked for
        self._trusted: bool | str | None = False if skip_verify else ca_file or None
        if fence is not None:
            self.trust_env = False
            self.mount("http://", FencedAdapter(fence))
            self.mount("https://", FencedAdapter(fence))

    def request(self, method: Any, url: Any, *args: Any, headers: Any = None, **kwargs: Any) -> Any:
        """Without what the SDK adds from its environment variables: those may be the installation's credentials."""
        sent = {name: value for name, value in (headers or {}).items() if name.lower() in self._sent}
        return super().request(method, url, *args, headers=sent, **kwargs)

    def merge_environment_settings(self, *args: Any, **kwargs: Any) -> Any:
        """As the library does, but `REQUESTS_CA_BUNDLE` does not override what the exporter was told."""
        settings = super().merge_environment_settings(*args, **kwargs)
        return settings if self._trusted is None else {**settings, "verify": self._trusted}


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
