"""AWS credentials and signatures (spec 03 §10.1), made by botocore, which is loaded on first use.

What lives here: static keys, assumed roles on top of static keys or the default chain, SigV4 headers. Everything that
may block (the chain, STS) runs in a thread. What must not: Bedrock's URLs and answers.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec
import trio

from trustgate.providers.credentials import Headers, Outgoing, payload, string
from trustgate.providers.errors import CredentialError, RequestFault
from trustgate.providers.options import Json
from trustgate.providers.services import Services
from trustgate.providers.tokens import Token, fingerprint

ROLE_SESSION = "BedrockClientSession"
ROLE_LIFETIME_S = 900
CHAIN_LIFETIME_S = 900.0
STS_TIMEOUT_S = 8


class Keys(msgspec.Struct, frozen=True):
    """A set of AWS keys; `token` is empty for long-lived ones."""

    access_key: str
    secret_key: str
    token: str = ""


class AwsAccount(msgspec.Struct, frozen=True):
    """The `aws` payload of a registry. `keys` None: the default chain."""

    region: str
    keys: Keys | None
    role: str

    @classmethod
    def of(cls, auth: Mapping[str, Any]) -> AwsAccount:
        """Raises `RequestFault` when there is no usable payload."""
        values: Json = payload(auth, "aws")
        region = string(values, "region").strip()
        if auth.get("type") != "aws" or not region:
            raise RequestFault("aws.region is required")
        access, secret = string(values, "access_key_id").strip(), string(values, "secret_access_key").strip()
        keys = Keys(access, secret, string(values, "session_token").strip()) if access and secret else None
        role = string(values, "role").strip() if values.get("use_role") is True else ""
        return cls(region, keys, role)


def endpoint(service: str, environ: Mapping[str, str]) -> str:
    """The endpoint that the standard variables set for a service, or empty."""
    if environ.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "").lower() == "true":
        return ""
    specific = environ.get("AWS_ENDPOINT_URL_" + service.upper().replace("-", "_"), "")
    return (specific or environ.get("AWS_ENDPOINT_URL", "")).rstrip("/")


def dns_suffix(region: str) -> str:
    return "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"


def sign(keys: Keys, service: str, region: str, request: Outgoing) -> Headers:
    """The headers that SigV4 adds to `request`. Pure CPU, some tens of microseconds and the hash of the body."""
    from botocore.auth import SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    given = {name.decode(): value.decode("latin-1") for name, value in request.headers}
    outgoing = AWSRequest(method=request.method, url=request.url, data=request.body, headers=given)
    SigV4Auth(Credentials(keys.access_key, keys.secret_key, keys.token or None), service, region).add_auth(outgoing)
    return tuple(
        (name.lower().encode(), value.encode("latin-1"))
        for name, value in outgoing.headers.items()
        if name.lower() not in given
    )


def _load() -> None:
    """Imports what signing and streams need; takes long enough for a thread."""
    import botocore.auth
    import botocore.awsrequest
    import botocore.credentials
    import botocore.eventstream  # noqa: F401


class Signed:
    """SigV4 with the account's keys, chain or role. Cached credentials are keyed by the secrets too (§17 B20)."""

    __slots__ = ("_account", "_key", "_service", "_services", "_session", "query", "ready")

    def __init__(self, account: AwsAccount, services: Services | None, service: str, session: str = ROLE_SESSION):
        self.ready: Headers | None = None
        self.query = ""
        self._account, self._services, self._service, self._session = account, services, service, session
        self._key = fingerprint("aws", [session, msgspec.to_builtins(account)])

    async def keys(self) -> Keys:
        """Keys that are valid now. Raises `CredentialError`."""
        account, services = self._account, self._services
        if account.keys is not None and not account.role:
            return account.keys
        if services is None:
            raise RequestFault("tokens cannot be fetched here")
        return await services.tokens.get(self._key, self._fetch)

    async def headers(self, request: Outgoing) -> Headers:
        if "botocore.auth" not in sys.modules:
            await trio.to_thread.run_sync(_load)
        return sign(await self.keys(), self._service, self._account.region, request)

    async def _fetch(self) -> Token[Keys]:
        services = self._services
        assert services is not None
        return await trio.to_thread.run_sync(
            resolve, self._account, self._session, services.environ, abandon_on_cancel=True, limiter=services.threads
        )


def client(account: AwsAccount, service: str, environ: Mapping[str, str], keys: Keys | None = None) -> Any:
    """A botocore client with the account's keys or the default chain; blocks."""
    from botocore.config import Config
    from botocore.session import Session

    session = Session()
    keys = keys or account.keys
    if keys is not None:
        session.set_credentials(keys.access_key, keys.secret_key, keys.token or None)
    config = Config(
        connect_timeout=STS_TIMEOUT_S, read_timeout=STS_TIMEOUT_S, retries={"max_attempts": 2, "mode": "standard"}
    )
    url = endpoint(service, environ) or None
    return session.create_client(service, region_name=account.region, endpoint_url=url, config=config)


def resolve(account: AwsAccount, session_name: str, environ: Mapping[str, str]) -> Token[Keys]:
    """Keys from STS or from the default chain; blocks. Raises `CredentialError`."""
    from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError

    try:
        if account.role:
            return resolve_role(account, session_name, environ)
        return _chain()
    except ClientError as problem:
        code = problem.response.get("Error", {}).get("Code", "")
        raise CredentialError(f"AWS error: {code}") from problem
    except ParamValidationError as problem:
        raise CredentialError("AWS error: ValidationError") from problem
    except BotoCoreError as problem:
        raise CredentialError("could not reach AWS") from problem


def resolve_role(account: AwsAccount, session_name: str, environ: Mapping[str, str]) -> Token[Keys]:
    """Keys of the assumed role; blocks. Raises botocore's errors."""
    sts = client(account, "sts", environ)
    answer = sts.assume_role(RoleArn=account.role, RoleSessionName=session_name, DurationSeconds=ROLE_LIFETIME_S)
    got = answer["Credentials"]
    lifetime_s = (got["Expiration"] - datetime.now(UTC)).total_seconds()
    return Token(Keys(got["AccessKeyId"], got["SecretAccessKey"], got["SessionToken"]), lifetime_s)


def _chain() -> Token[Keys]:
    from botocore.session import Session

    found = Session().get_credentials()
    if found is None:
        raise CredentialError("no AWS credentials found in the environment")
    frozen = found.get_frozen_credentials()
    return Token(Keys(frozen.access_key, frozen.secret_key, frozen.token or ""), CHAIN_LIFETIME_S)
