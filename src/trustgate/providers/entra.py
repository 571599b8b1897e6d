"""Tokens of Microsoft Entra ID for Azure (spec 03 §10.1): a service principal, or the default chain of credentials.

What lives here: the requests for a token, in the order of Azure's default chain: environment, workload identity,
managed identity, command line. What must not: caching (`tokens`).
"""

from __future__ import annotations

import subprocess
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime

import httpx
import msgspec
import trio

from trustgate.providers.credentials import DEFAULT_LIFETIME_S, reason, request_token
from trustgate.providers.errors import MALFORMED, CredentialError
from trustgate.providers.services import Services
from trustgate.providers.tokens import Token

RESOURCE = "https://ai.azure.com"
SCOPE = f"{RESOURCE}/.default"
AUTHORITY = "https://login.microsoftonline.com"
IMDS = "http://169.254.169.254/metadata/identity/oauth2/token"

IMDS_TIMEOUT_S = 3.0
"""Outside Azure nobody answers on the link-local address."""

CLI_TIMEOUT_S = 10.0

_ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


def _token_url(environ: Mapping[str, str], tenant_id: str) -> str:
    return f"{environ.get('AZURE_AUTHORITY_HOST', AUTHORITY).rstrip('/')}/{tenant_id}/oauth2/v2.0/token"


async def service_principal(services: Services, tenant_id: str, client_id: str, client_secret: str) -> Token[str]:
    """Client credentials grant. Raises `CredentialError`."""
    form = {
        "grant_type": "client_credentials",
        "client_id": client_id,
        "client_secret": client_secret,
        "scope": SCOPE,
    }
    return await request_token(services, _token_url(services.environ, tenant_id), form)


async def default_chain(services: Services) -> Token[str]:
    """The first source of the default chain that applies. Raises `CredentialError` when none gives a token."""
    for source in _CHAIN:
        token = await source(services)
        if token is not None:
            return token
    raise CredentialError("no Azure credential found in the environment")


async def _environment(services: Services) -> Token[str] | None:
    environ = services.environ
    tenant, client = environ.get("AZURE_TENANT_ID", ""), environ.get("AZURE_CLIENT_ID", "")
    secret = environ.get("AZURE_CLIENT_SECRET", "")
    return await service_principal(services, tenant, client, secret) if tenant and client and secret else None


async def _workload_identity(services: Services) -> Token[str] | None:
    environ = services.environ
    tenant, client = environ.get("AZURE_TENANT_ID", ""), environ.get("AZURE_CLIENT_ID", "")
    file = environ.get("AZURE_FEDERATED_TOKEN_FILE", "")
    if not (tenant and client and file):
        return None
    try:
        assertion = await trio.Path(file).read_text()
    except OSError:
        raise CredentialError("the federated token file cannot be read") from None
    form = {
        "grant_type": "client_credentials",
        "client_id": client,
        "client_assertion_type": _ASSERTION,
        "client_assertion": assertion.strip(),
        "scope": SCOPE,
    }
    return await request_token(services, _token_url(environ, tenant), form)


class _ManagedAnswer(msgspec.Struct):
    access_token: str
    expires_in: float | str | None = None
    expires_on: float | str | None = None


async def _managed_identity(services: Services) -> Token[str] | None:
    """App Service and Container Apps name an endpoint; elsewhere the instance metadata service is asked."""
    environ = services.environ
    params = {"resource": RESOURCE}
    if client := environ.get("AZURE_CLIENT_ID", ""):
        params["client_id"] = client
    endpoint, secret = environ.get("IDENTITY_ENDPOINT", ""), environ.get("IDENTITY_HEADER", "")
    if endpoint and secret:
        params["api-version"], headers = "2019-08-01", {"X-IDENTITY-HEADER": secret}
    else:
        authority = environ.get("AZURE_POD_IDENTITY_AUTHORITY_HOST", "").rstrip("/")
        endpoint = f"{authority}/metadata/identity/oauth2/token" if authority else IMDS
        params["api-version"], headers = "2018-02-01", {"Metadata": "true"}
    try:
        response = await services.http.get(endpoint, params=params, headers=headers, timeout=IMDS_TIMEOUT_S)
    except (httpx.HTTPError, httpx.InvalidURL) as problem:
        if secret:
            raise CredentialError(f"managed identity could not be reached: {reason(problem)}") from None
        return None
    if not response.is_success:
        if response.status_code in (400, 404) and not secret:
            return None
        raise CredentialError(f"managed identity refused a token (status {response.status_code})")
    try:
        answer = msgspec.json.decode(response.content, type=_ManagedAnswer)
        lifetime_s = float(answer.expires_in) if answer.expires_in else DEFAULT_LIFETIME_S
    except MALFORMED:
        raise CredentialError("managed identity gave an answer that is no token") from None
    return Token(answer.access_token, lifetime_s)


class _CliAnswer(msgspec.Struct):
    access_token: str = msgspec.field(name="accessToken")
    expires_on: float | str | None = None


async def _command_line(services: Services) -> Token[str] | None:
    command = ["az", "account", "get-access-token", "--output", "json", "--resource", RESOURCE]
    try:
        with trio.fail_after(CLI_TIMEOUT_S):
            done = await trio.run_process(command, capture_stdout=True, stderr=subprocess.DEVNULL, check=False)
    except (OSError, trio.TooSlowError):
        return None
    if done.returncode != 0:
        return None
    try:
        answer = msgspec.json.decode(done.stdout, type=_CliAnswer)
        expires_on = float(answer.expires_on) if answer.expires_on else None
    except MALFORMED:
        return None
    now = datetime.now().timestamp()
    return Token(answer.access_token, expires_on - now if expires_on else DEFAULT_LIFETIME_S)


_CHAIN: tuple[Callable[[Services], Awaitable[Token[str] | None]], ...] = (
    _environment,
    _workload_identity,
    _managed_identity,
    _command_line,
)
