"""What provider calls need beside a registry: the token cache, HTTP for the control path, the environment.

What lives here: one object with one life, opened by the process and shared by every gateway. What must not: anything on
the path of a request that needs no token.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import httpx
import trio

from trustgate.providers.guard import PublicOnly
from trustgate.providers.tokens import TokenCache
from trustgate.wire.tls import client_tls

TOKEN_TIMEOUT_S = 10.0
_BLOCKING_CALLS = 8
_METADATA = "all://169.254.169.254"
"""Instance metadata is never reached through a proxy."""


class Services:
    """Shared by all provider clients of a process; use `Services.open()` where tokens are fetched.

    `http` serves token endpoints and catalogs and honours the proxy environment variables; `direct` serves connection
    tests and, like traffic, does not. Neither follows redirects. `threads` bounds the blocking calls of the cloud SDKs.
    """

    __slots__ = ("direct", "environ", "http", "threads", "tokens")

    def __init__(
        self, http: httpx.AsyncClient, direct: httpx.AsyncClient, environ: Mapping[str, str], tokens: TokenCache
    ) -> None:
        self.http = http
        self.direct = direct
        self.environ = environ
        self.tokens = tokens
        self.threads = trio.CapacityLimiter(_BLOCKING_CALLS)

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        environ: Mapping[str, str] | None = None,
        *,
        tokens: TokenCache | None = None,
        public_probes_only: bool = False,
    ) -> AsyncIterator[Services]:
        """Opens the clients; with `public_probes_only`, connection tests reach nothing but public addresses."""
        tls = client_tls()
        timeout = httpx.Timeout(TOKEN_TIMEOUT_S)
        no_proxy = {_METADATA: httpx.AsyncHTTPTransport(verify=tls)}
        fence: httpx.AsyncBaseTransport = httpx.AsyncHTTPTransport(verify=tls)
        if public_probes_only:
            fence = PublicOnly(fence)
        async with (
            httpx.AsyncClient(verify=tls, timeout=timeout, mounts=no_proxy) as http,
            httpx.AsyncClient(verify=tls, timeout=timeout, trust_env=False, transport=fence) as direct,
        ):
            yield cls(http, direct, os.environ if environ is None else environ, tokens or TokenCache())
