"""IAM login at ElastiCache (`REDIS_LOGIN=aws`, spec 06 §3.4): a presigned URL is the password of each connection."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

import trio
from botocore.model import ServiceId
from botocore.session import get_session
from botocore.signers import RequestSigner
from coredis.credentials import AbstractCredentialProvider, UserPass

from trustgate.settings.services import Redis
from trustgate.store import aws_region

SERVICE = "elasticache"
LIFE_S = 900


class IamLogin(AbstractCredentialProvider):
    """Region and credentials come from the standard AWS chain. Raises ValueError where it names no region."""

    def __init__(self, config: Redis) -> None:
        self._config = config
        self._session: Any = get_session()
        self._region = aws_region(self._session)
        if not self._region:
            raise ValueError("REDIS_LOGIN=aws needs an AWS region")

    async def get_credentials(self) -> UserPass:
        """Asked for each new connection. In a thread: the chain may have to ask for fresh credentials."""
        return UserPass(self._config.username, await trio.to_thread.run_sync(self.password))

    def password(self) -> str:
        """The presigned `connect` request, without its scheme."""
        query = {"Action": "connect", "User": self._config.username}
        if self._config.aws_serverless:
            query["ResourceType"] = "ServerlessCache"
        request = {
            "method": "GET",
            "url": f"https://{self._config.cache_name}/?{urlencode(query)}",
            "body": {},
            "headers": {},
            "context": {},
        }
        session = self._session
        signer = RequestSigner(
            ServiceId(SERVICE),
            self._region,
            SERVICE,
            "v4",
            session.get_credentials(),
            session.get_component("event_emitter"),
        )
        url: Any = signer.generate_presigned_url(
            request, operation_name="connect", expires_in=LIFE_S, region_name=self._region
        )
        return url.removeprefix("https://")
