"""What proves to a provider who is calling: an account's `auth` object turned into headers and query parameters.

What lives here: the kinds of authorization (ready headers, a bearer token that is fetched, a signature) and the parts
of spec 03 §10.1 that all providers share: API keys, header and query credentials, OAuth 2.0 grants (§17 B19).
What must not: the clouds' own ways (`entra`, `gcp`, `aws`).
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any, Protocol
from urllib.parse import quote, urlencode

import httpx
import msgspec

from trustgate.providers.errors import MALFORMED, CredentialError, RequestFault
from trustgate.providers.guard import AddressRefused
from trustgate.providers.options import Json
from trustgate.providers.services import Services
from trustgate.providers.tokens import Token, fingerprint

Headers = tuple[tuple[bytes, bytes], ...]

MAX_TOKEN_ANSWER = 1 << 20
DEFAULT_LIFETIME_S = 300.0


class Account(Protocol):
    """The members of a registry that a provider reads; secrets in clear."""

    @property
    def provider(self) -> str: ...
    @property
    def options(self) -> Json: ...
    @property
    def auth(self) -> Json: ...


class Outgoing(msgspec.Struct, frozen=True):
    """The request that is about to be authorized; `url` is absolute."""

    method: str
    url: str
    headers: Headers
    body: bytes


class Authorization(Protocol):
    """`ready` is the header block when nothing has to be fetched or signed; `query` is added to every URL."""

    ready: Headers | None
    query: str

    async def headers(self, request: Outgoing) -> Headers:
        """The headers to add to `request`. Raises `CredentialError`."""
        ...


class Ready:
    """Credentials that never change: an API key, a header, a query parameter."""

    __slots__ = ("query", "ready")

    def __init__(self, headers: Headers, query: str = "") -> None:
        self.ready: Headers | None = headers
        self.query = query

    async def headers(self, request: Outgoing) -> Headers:
        return self.ready or ()


class Bearer:
    """A bearer token from an identity provider, cached under `key`."""

    __slots__ = ("_extra", "_fetch", "_key", "_services", "query", "ready")

    def __init__(
        self, services: Services, key: str, fetch: Callable[[], Awaitable[Token[str]]], extra: Headers = ()
    ) -> None:
        self.ready: Headers | None = None
        self.query = ""
        self._services, self._key, self._fetch, self._extra = services, key, fetch, extra

    async def headers(self, request: Outgoing) -> Headers:
        token = self._services.tokens.peek(self._key) or await self._services.tokens.get(self._key, self._fetch)
        return merged((bearer(token),), self._extra)


def header_value(value: str) -> bytes:
    """A header value as bytes. Raises `RequestFault` for control characters, which could forge headers."""
    if any((char < " " and char != "\t") or char == "\x7f" for char in value):
        raise RequestFault("credential has characters that no header can carry")
    return value.encode()


def bearer(token: str) -> tuple[bytes, bytes]:
    return (b"authorization", b"Bearer " + header_value(token))


def payload(auth: Mapping[str, Any], name: str) -> Json:
    value = auth.get(name)
    return value if isinstance(value, dict) else {}


def string(values: Mapping[str, Any], key: str) -> str:
    value = values.get(key)
    return value if isinstance(value, str) else ""


def api_key(auth: Mapping[str, Any]) -> str:
    return string(payload(auth, "api_key"), "api_key")


def merged(first: Headers, second: Headers) -> Headers:
    """`first` and then `second`, whose names win."""
    taken = {name for name, _ in second}
    return (*(header for header in first if header[0] not in taken), *second)


def _pairs(values: Json) -> tuple[Headers, str]:
    """The header pair and the parameter pair of an `api_key` payload."""
    headers: Headers = ()
    query = ""
    name, value = string(values, "header_name").strip(), string(values, "header_value")
    if name and value:
        headers = ((header_name(name), header_value(value)),)
    name, value = string(values, "param_name").strip(), string(values, "param_value")
    if name and value:
        if string(values, "param_location").strip().lower() == "header":
            headers = merged(headers, ((header_name(name), header_value(value)),))
        else:
            query = urlencode({name: value}, quote_via=quote)
    return headers, query


def header_name(name: str) -> bytes:
    """A header name as lower-case bytes. Raises `RequestFault` for what is no token (RFC 9110 section 5.6.2)."""
    if not name or not all(char.isascii() and (char.isalnum() or char in "!#$%&'*+-.^_`|~") for char in name):
        raise RequestFault(f"{name!r} is not a header name")
    return name.lower().encode()


def authorize(
    account: Account,
    services: Services | None,
    key_headers: Callable[[str], Headers],
    extra: Headers = (),
    *,
    keyless: bool = False,
) -> Authorization:
    """The authorization of an account whose provider takes an API key (or the same key as an OAuth 2.0 token).

    `key_headers` is the provider's way of sending a key, `extra` goes with every request. With `keyless` no key is
    needed because the options carry a credential. Raises `RequestFault` when the credential cannot be used.
    """
    kind = account.auth.get("type")
    if kind == "api_key":
        values = payload(account.auth, "api_key")
        key = string(values, "api_key")
        headers, query = _pairs(values)
        if not (key or headers or query or keyless):
            raise RequestFault("api key is required")
        return Ready(merged(merged(extra, key_headers(key) if key else ()), headers), query)
    if kind == "oauth2":
        return oauth2(account.auth, services, extra)
    raise RequestFault(f'{account.provider} cannot use credentials of type "{kind}"')


def oauth2(auth: Json, services: Services | None, extra: Headers) -> Bearer:
    """A token by the grant that the account names: `client_credentials`, `refresh_token`, `password` or a code."""
    config = payload(auth, "oauth")
    key = fingerprint("oauth2", config)

    async def fetch() -> Token[str]:
        return await request_token(need(services), string(config, "token_url"), *grant_form(config))

    return Bearer(need(services), key, fetch, extra)


def need(services: Services | None) -> Services:
    if services is None:
        raise RequestFault("tokens cannot be fetched here")
    return services


def grant_form(config: Json) -> tuple[dict[str, str], tuple[str, str] | None]:
    """The form of a token request (RFC 6749 sections 4.1.3, 4.3.2, 4.4.2, 6) and the client for HTTP Basic."""
    grant = string(config, "grant_type")
    members = {
        "client_credentials": (),
        "refresh_token": ("refresh_token",),
        "password": ("username", "password"),
        "authorization_code": ("code", "redirect_uri", "code_verifier"),
    }.get(grant)
    if members is None:
        raise CredentialError(f'grant type "{grant}" is not supported')
    form = {"grant_type": grant, **{name: string(config, name) for name in members if string(config, name)}}
    scopes = [scope for scope in config.get("scopes") or [] if isinstance(scope, str)]
    if scopes:
        form["scope"] = " ".join(scopes)
    if audience := string(config, "audience"):
        form["audience"] = audience
    form |= {name: value for name, value in payload(config, "extra").items() if isinstance(value, str)}
    client, secret = string(config, "client_id"), string(config, "client_secret")
    if config.get("use_basic_auth") is True:
        return form, (quote(client, safe=""), quote(secret, safe=""))
    if client:
        form["client_id"] = client
    if secret:
        form["client_secret"] = secret
    return form, None


class _TokenAnswer(msgspec.Struct):
    access_token: str = ""
    expires_in: float | str | None = None


async def request_token(
    services: Services, url: str, form: Mapping[str, str], basic: tuple[str, str] | None = None
) -> Token[str]:
    """POSTs a token request and reads the answer (RFC 6749 section 5.1).

    Raises `CredentialError`; neither the answer nor the URL is told, because answers quote credentials at times.
    """
    try:
        response = await services.http.post(url, data=dict(form), auth=basic or httpx.USE_CLIENT_DEFAULT)
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as problem:
        raise CredentialError(f"token endpoint could not be reached: {reason(problem)}") from None
    if not response.is_success:
        raise CredentialError(f"token endpoint refused the credentials (status {response.status_code})")
    try:
        answer = msgspec.json.decode(response.content[:MAX_TOKEN_ANSWER], type=_TokenAnswer)
        lifetime_s = float(answer.expires_in) if answer.expires_in is not None else DEFAULT_LIFETIME_S
    except MALFORMED:
        raise CredentialError("token endpoint gave an answer that is no token") from None
    if not answer.access_token:
        raise CredentialError("token endpoint gave an answer that is no token")
    return Token(answer.access_token, lifetime_s)


def reason(problem: BaseException) -> str:
    """The class of a transport error in a word or two; never an address or other text of the error itself."""
    for cause in _causes(problem):
        for kind, name in _REASONS:
            if isinstance(cause, kind):
                return name
    return "connection failed" if isinstance(problem, httpx.ConnectError) else "connection broken"


def _causes(problem: BaseException) -> Iterator[BaseException]:
    """What led to `problem`, the root first; at most a few steps, for chains can be circular."""
    chain: list[BaseException] = []
    pending: list[BaseException] = [problem]
    while pending and len(chain) < 16:
        current = pending.pop()
        if current in chain:
            continue
        chain.append(current)
        if isinstance(current, BaseExceptionGroup):
            pending.extend(current.exceptions)
        pending.extend(cause for cause in (current.__context__, current.__cause__) if cause is not None)
    return reversed(chain)


_REASONS: tuple[tuple[type[BaseException], str], ...] = (
    (AddressRefused, "address not allowed"),
    (ssl.SSLCertVerificationError, "certificate not accepted"),
    (ssl.SSLError, "TLS failure"),
    (socket.gaierror, "host not found"),
    (ConnectionRefusedError, "connection refused"),
    (ConnectionResetError, "connection reset"),
    (httpx.TimeoutException, "timeout"),
    (TimeoutError, "timeout"),
    (httpx.UnsupportedProtocol, "invalid URL"),
    (httpx.InvalidURL, "invalid URL"),
    (httpx.ProtocolError, "protocol error"),
)
