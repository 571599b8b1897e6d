"""POSTs to guard services over the upstream pool. Nothing here knows a service."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import trio

from trustgate.policies.plugin import Http, HttpReply, PolicyError
from trustgate.wire.client import Deadlines, Origin, Pool
from trustgate.wire.errors import WireError

CONNECT_S = 10.0

_parse = lru_cache(1024)(Origin.parse)


def pool_http(pool: Pool) -> Http:
    """An `Http` on `pool`. One deadline covers connecting, the answer's head and its body; redirects stay unfollowed.

    An answer above `max_bytes` is a transport failure, like any other: `PolicyError`, whose text holds no body.
    """

    async def post(
        url: str, headers: Sequence[tuple[str, str]], body: bytes, *, timeout_s: float, max_bytes: int = 1 << 20
    ) -> HttpReply:
        try:
            origin, target = _parse(url)
        except ValueError as error:
            raise PolicyError(f"not a usable URL: {error}") from None
        fields = [(name.lower().encode("latin-1"), value.encode()) for name, value in headers]
        deadlines = Deadlines(connect_s=min(CONNECT_S, timeout_s), first_byte_s=timeout_s, total_s=timeout_s)
        try:
            with trio.fail_after(timeout_s):
                async with await pool.request("POST", origin, target, fields, body, deadlines) as response:
                    content = await response.read(max_bytes)
                    names = {name.decode("latin-1"): value.decode("latin-1") for name, value in response.headers}
                    return HttpReply(response.status, names, content)
        except (WireError, OSError) as error:
            raise PolicyError(f"{origin.host}: {type(error).__name__}") from None
        except trio.TooSlowError:
            raise PolicyError(f"{origin.host}: no answer within {timeout_s:g} s") from None

    return post
