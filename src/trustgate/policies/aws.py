"""Signed calls to AWS for policies: credentials (static, default chain, assumed role) and SigV4, by botocore.

Credentials that botocore must fetch are fetched in a thread, one at a time, and renewed five minutes early. What must
not live here: what the called API means.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import botocore.session
import trio
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as AwsCredentials
from botocore.exceptions import BotoCoreError, ClientError

from trustgate.policies.aws_credentials import CredentialSet
from trustgate.policies.plugin import Http, HttpReply, PolicyError

SERVICE = "bedrock"
TIMEOUT_S = 30.0
RENEW_EARLY_S = 300.0
RECHECK_S = 60.0
"""How long credentials of the default chain are used before the chain is asked again (it renews its own)."""


def runtime_endpoint(region: str) -> str:
    """The region's bedrock-runtime endpoint; the AWS SDK's standard environment wins."""
    override = os.environ.get("AWS_ENDPOINT_URL_BEDROCK_RUNTIME") or os.environ.get("AWS_ENDPOINT_URL")
    if override:
        return override.rstrip("/")
    suffix = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    return f"https://bedrock-runtime.{region}.{suffix}"


class AwsClient:
    """POSTs to bedrock-runtime with one credential set.

    Mutable state: `_credentials` and `_renew_at`, changed only while `_lock` is held.
    """

    def __init__(self, http: Http, source: CredentialSet, now: Callable[[], float] = time.time) -> None:
        self._http = http
        self._source = source
        self._now = now
        self._endpoint = runtime_endpoint(source.region)
        self._lock = trio.Lock()
        self._credentials: AwsCredentials | None = None
        self._renew_at = 0.0

    async def post(self, path: str, body: bytes) -> HttpReply:
        """A signed call. Raises `PolicyError` without credentials or connection."""
        credentials = await self._current()
        url = self._endpoint + path
        request = AWSRequest(method="POST", url=url, data=body, headers={"Content-Type": "application/json"})
        SigV4Auth(credentials, SERVICE, self._source.region).add_auth(request)
        headers = [(name, str(value)) for name, value in request.headers.items()]
        return await self._http(url, headers, body, timeout_s=TIMEOUT_S)

    async def _current(self) -> AwsCredentials:
        if self._credentials is not None and self._now() < self._renew_at:
            return self._credentials
        async with self._lock:
            if self._credentials is None or self._now() >= self._renew_at:
                await self._renew()
            assert self._credentials is not None
            return self._credentials

    async def _renew(self) -> None:
        source = self._source
        if source.access_key_id and source.secret_access_key and not source.role_arn:
            token = source.session_token or None
            self._credentials = AwsCredentials(source.access_key_id, source.secret_access_key, token)
            self._renew_at = float("inf")
            return
        try:
            self._credentials, lasts_s = await trio.to_thread.run_sync(_fetch, source, abandon_on_cancel=True)
        except (BotoCoreError, ClientError) as error:
            raise PolicyError(f"no AWS credentials: {type(error).__name__}") from None
        self._renew_at = self._now() + lasts_s


def _fetch(source: CredentialSet) -> tuple[AwsCredentials, float]:
    """Credentials and how many seconds they may be used. Blocks; raises botocore's errors or `PolicyError`."""
    session = botocore.session.Session()
    if source.access_key_id and source.secret_access_key:
        session.set_credentials(source.access_key_id, source.secret_access_key, source.session_token or None)
    if not source.role_arn:
        found = session.get_credentials()
        if found is None:
            raise PolicyError("no AWS credentials: the default chain has none")
        frozen = found.get_frozen_credentials()
        return AwsCredentials(frozen.access_key, frozen.secret_key, frozen.token), RECHECK_S
    client = session.create_client("sts", region_name=source.region)
    assumed = client.assume_role(RoleArn=source.role_arn, RoleSessionName=source.session_name)["Credentials"]
    lasts_s = assumed["Expiration"].timestamp() - time.time() - RENEW_EARLY_S
    credentials = AwsCredentials(assumed["AccessKeyId"], assumed["SecretAccessKey"], assumed["SessionToken"])
    return credentials, max(0.0, lasts_s)
