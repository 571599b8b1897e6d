"""The connection test of a registry (spec 03 §13): can the provider be reached, and does it accept the credentials?

What lives here: one read-only call per provider and the reading of its outcome. What must not: anything of the
provider's answer but its status, so that a test tells an administrator nothing about the network behind (§17 B23).
"""

from __future__ import annotations

from typing import Any

import httpx
import msgspec
import trio

from trustgate.providers import aws
from trustgate.providers.credentials import Authorization, Outgoing, api_key, merged, reason
from trustgate.providers.errors import MALFORMED, CredentialError, ProviderUnsupported, RequestFault
from trustgate.providers.options import BadOptions, Json, Site
from trustgate.providers.provider import Provider, join_query
from trustgate.providers.registry import PROVIDERS
from trustgate.providers.services import Services

LIMIT_S = 10.0

CONNECTIVITY = "connectivity"
AUTHENTICATION = "authentication"
PROVIDER_STAGE = "provider"
UNSUPPORTED = "unsupported"

_AWS_REJECTIONS = frozenset(
    {
        "InvalidClientTokenId",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidSignatureException",
        "AccessDenied",
        "AccessDeniedException",
        "AuthFailure",
    }
)


class Inline(msgspec.Struct, frozen=True):
    """An account that is tested before it is stored."""

    provider: str
    options: Json = {}
    auth: Json = {}


class Outcome(msgspec.Struct, frozen=True):
    """`stage` is how far the test came; `status_code` 0: no HTTP answer is told."""

    ok: bool
    stage: str
    status_code: int = 0
    message: str = ""


async def probe(services: Services, account: Any, *, limit_s: float = LIMIT_S) -> Json:
    """The answer of a connection test of `account` (a registry or an `Inline`), within `limit_s` seconds.

    Raises `ProviderUnsupported` for a provider that does not exist, unless the credential is one that cannot be tested.
    """
    started = trio.current_time()
    if account.auth.get("type") == "oauth2":
        outcome = Outcome(False, UNSUPPORTED, message="connection testing is not supported for oauth2 credentials yet")
    else:
        provider = PROVIDERS.get(account.provider)
        if provider is None:
            raise ProviderUnsupported(f'unsupported provider "{account.provider}"')
        outcome = Outcome(False, CONNECTIVITY, message="could not reach provider: timeout")
        with trio.move_on_after(limit_s):
            outcome = await _test(services, provider, account)
    answer: Json = {"ok": outcome.ok, "stage": outcome.stage, "provider": account.provider}
    if outcome.status_code:
        answer["status_code"] = outcome.status_code
    answer["latency_ms"] = int((trio.current_time() - started) * 1000)
    if outcome.message:
        answer["message"] = outcome.message
    return answer


async def _test(services: Services, provider: Provider, account: Any) -> Outcome:
    try:
        provider.check_options(account.options)
        site = provider.site(account, services.environ)
    except (BadOptions, RequestFault) as problem:
        stage = CONNECTIVITY if provider.code in ("azure", "vertex", "bedrock") else PROVIDER_STAGE
        return Outcome(False, stage, message=str(problem))
    keyed = account.auth.get("type") == "api_key" or all(row["type"] == "api_key" for row in provider.auth_types)
    if keyed and not api_key(account.auth):
        return Outcome(False, AUTHENTICATION, message="api key is required")
    try:
        authorization = provider.authorize(account, services)
        if isinstance(authorization, aws.Signed):
            return await _aws_identity(services, account)
        if provider.code == "vertex":
            await authorization.headers(Outgoing("GET", site.root, (), b""))
            return Outcome(True, AUTHENTICATION)
        if provider.code == "bedrock":
            return Outcome(False, UNSUPPORTED, message="connection testing is not supported for Bedrock API keys")
        return await _list_models(services, provider, site, authorization)
    except (RequestFault, CredentialError) as problem:
        return Outcome(False, AUTHENTICATION, message=problem.text)


async def _list_models(services: Services, provider: Provider, site: Site, authorization: Authorization) -> Outcome:
    url = models_url(provider, site, authorization)
    outgoing = Outgoing("GET", url, provider.headers, b"")
    headers = merged(provider.headers, await authorization.headers(outgoing))
    try:
        async with services.direct.stream("GET", url, headers=list(headers)) as response:
            status = response.status_code
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as problem:
        return Outcome(False, CONNECTIVITY, message=f"could not reach provider: {reason(problem)}")
    return classify(provider.code, status)


def models_url(provider: Provider, site: Site, authorization: Authorization) -> str:
    return site.root + site.path + provider.models + join_query(site.query, authorization.query)


def classify(provider: str, status: int) -> Outcome:
    """What a status says. Google answers 400 to a key that it does not know."""
    if 200 <= status < 300:
        return Outcome(True, AUTHENTICATION, status)
    if status in (401, 403) or (provider == "google" and status == 400):
        message = f"provider rejected the credentials (status {status})"
        return Outcome(False, AUTHENTICATION, status, message)
    return Outcome(False, PROVIDER_STAGE, status, f"provider returned an unexpected status ({status})")


async def _aws_identity(services: Services, account: Any) -> Outcome:
    described = aws.AwsAccount.of(account.auth)
    return await trio.to_thread.run_sync(
        _caller_identity, described, services.environ, abandon_on_cancel=True, limiter=services.threads
    )


def _caller_identity(account: aws.AwsAccount, environ: Any) -> Outcome:
    """STS GetCallerIdentity, in the assumed role when there is one; blocks."""
    from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError

    try:
        keys = aws.resolve_role(account, aws.ROLE_SESSION, environ).value if account.role else None
        aws.client(account, "sts", environ, keys).get_caller_identity()
    except ClientError as problem:
        status = problem.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        code = str(problem.response.get("Error", {}).get("Code", ""))
        if status in (401, 403) or code in _AWS_REJECTIONS:
            return Outcome(False, AUTHENTICATION, message="AWS rejected the credentials")
        return Outcome(False, PROVIDER_STAGE, message=f"AWS error: {code}")
    except ParamValidationError:
        return Outcome(False, PROVIDER_STAGE, message="AWS error: ValidationError")
    except BotoCoreError:
        return Outcome(False, CONNECTIVITY, message="could not reach AWS")
    return Outcome(True, AUTHENTICATION)


async def list_models(services: Services, account: Any) -> list[str]:
    """Ids that the provider's own listing names, sorted. Raises `RequestFault`, `CredentialError` or `httpx.HTTPError`.

    Providers without a listing (Vertex AI, Bedrock) give none.
    """
    provider = PROVIDERS.get(account.provider)
    if provider is None:
        raise ProviderUnsupported(f'unsupported provider "{account.provider}"')
    if provider.code in ("vertex", "bedrock"):
        return []
    site = provider.site(account, services.environ)
    authorization = provider.authorize(account, services)
    url = models_url(provider, site, authorization)
    headers = merged(provider.headers, await authorization.headers(Outgoing("GET", url, provider.headers, b"")))
    response = await services.direct.get(url, headers=list(headers))
    response.raise_for_status()
    return sorted(set(read_listing(response.content)))


class _Listed(msgspec.Struct):
    id: str = ""
    name: str = ""


class _Listing(msgspec.Struct):
    data: list[_Listed] | None = None
    models: list[_Listed] | None = None


def read_listing(body: bytes) -> list[str]:
    """Ids of a listing in the shape of OpenAI and Anthropic (`data[].id`), Google or Cohere (`models[].name`)."""
    try:
        listing = msgspec.json.decode(body, type=_Listing)
    except MALFORMED:
        return []
    found = listing.data if listing.data is not None else listing.models or []
    return [item.id or item.name.removeprefix("models/") for item in found if item.id or item.name]
