"""Calls of identity providers and upstreams' authorization servers: small JSON documents and token endpoints.

Bounded in time (15 s) and size (1 MiB); redirects are never followed, so that no secret travels on. Where the
installation closes its own networks, only public addresses are connected to. What must not live here: what answers
mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

import httpx
import msgspec
import trio

from trustgate.providers.guard import PublicOnly
from trustgate.wire.tls import client_tls

TIMEOUT_S = 15.0
MAX_BYTES = 1024 * 1024

Json = dict[str, Any]


class OutboundFailed(Exception):
    """No usable answer; the text is for logs and names no secret."""


class Answer(msgspec.Struct, frozen=True):
    """`document` is the JSON object of the body, None when the body is none."""

    status: int
    document: Json | None
    form: dict[str, str]

    @property
    def fields(self) -> Json:
        """The answer's members, whether JSON or a form."""
        return self.document if self.document is not None else dict(self.form)


class Outbound:
    """One client for all of them. `public_only` refuses loopback, private and link-local addresses."""

    def __init__(self, *, public_only: bool = False) -> None:
        # Without a fence the client makes its own transports, which honour the proxies of the environment.
        fence = PublicOnly(httpx.AsyncHTTPTransport(verify=client_tls())) if public_only else None
        self._client = httpx.AsyncClient(
            verify=client_tls(), timeout=TIMEOUT_S, follow_redirects=False, transport=fence
        )

    async def aclose(self) -> None:
        await self._client.aclose()

    async def get(self, url: str, headers: Mapping[str, str] | None = None) -> Json:
        """A JSON object. Raises OutboundFailed for anything else."""
        answer = await self._send("GET", url, headers=headers)
        if answer.status != 200 or answer.document is None:
            raise OutboundFailed(f"status {answer.status}")
        return answer.document

    async def post_form(self, url: str, fields: Mapping[str, str], auth: tuple[str, str] | None = None) -> Answer:
        """POST a form, with HTTP Basic credentials where given. Raises OutboundFailed when there is no answer."""
        return await self._send("POST", url, data=dict(fields), auth=auth)

    async def post_json(self, url: str, body: Json) -> Answer:
        return await self._send("POST", url, json=body)

    async def _send(self, method: str, url: str, **more: Any) -> Answer:
        headers = {"Accept": "application/json", **(more.pop("headers", None) or {})}
        if more.get("auth") is None:
            more.pop("auth", None)
        try:
            with trio.fail_after(TIMEOUT_S):
                async with self._client.stream(method, url, headers=headers, **more) as answer:
                    body = bytearray()
                    async for chunk in answer.aiter_bytes():
                        body += chunk
                        if len(body) > MAX_BYTES:
                            raise OutboundFailed("the answer is too large")
                    kind = answer.headers.get("content-type", "").split(";")[0].strip().lower()
                    return read(answer.status_code, bytes(body), kind)
        except (httpx.HTTPError, httpx.InvalidURL, trio.TooSlowError, ValueError) as error:
            raise OutboundFailed(type(error).__name__) from error


def read(status: int, body: bytes, kind: str) -> Answer:
    try:
        document = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        document = None
    form: dict[str, str] = {}
    if not isinstance(document, dict) and kind == "application/x-www-form-urlencoded":
        form = dict(parse_qsl(body.decode("utf-8", "replace")))
    return Answer(status, document if isinstance(document, dict) else None, form)
