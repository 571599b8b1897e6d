"""Which Bedrock models an account may really call (spec 03 §14): the catalog narrowed by AWS's own verdicts.

What lives here: three signed read-only calls of the Bedrock control plane and their short cache. What must not: the
catalog. Whatever goes wrong leaves the catalog as it is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

import httpx
import msgspec
import trio

from trustgate.providers import aws
from trustgate.providers.credentials import Account, Outgoing
from trustgate.providers.errors import MALFORMED, ProviderError
from trustgate.providers.options import Json
from trustgate.providers.services import Services

SESSION = "TrustGateBedrockCatalog"
LIMIT_S = 8.0
KEEP_S = 600.0
PARALLEL = 8
MAX_PAGES = 10
MAX_KEPT = 256
GEOGRAPHIES = ("us.", "us-gov.", "eu.", "apac.", "jp.", "au.", "ca.", "sa.", "global.")

T = TypeVar("T")


class _Model(msgspec.Struct):
    model_id: str = msgspec.field(default="", name="modelId")
    inference: list[str] = msgspec.field(default_factory=list, name="inferenceTypesSupported")


class _Models(msgspec.Struct):
    summaries: list[_Model] = msgspec.field(default_factory=list, name="modelSummaries")


class _Profile(msgspec.Struct):
    id: str = msgspec.field(default="", name="inferenceProfileId")
    status: str = ""


class _Profiles(msgspec.Struct):
    summaries: list[_Profile] = msgspec.field(default_factory=list, name="inferenceProfileSummaries")
    next_token: str | None = msgspec.field(default=None, name="nextToken")


class _Agreement(msgspec.Struct):
    status: str = ""


class _Availability(msgspec.Struct):
    agreement: _Agreement = msgspec.field(default_factory=_Agreement, name="agreementAvailability")
    authorization: str = msgspec.field(default="", name="authorizationStatus")
    entitlement: str = msgspec.field(default="", name="entitlementAvailability")
    region: str = msgspec.field(default="", name="regionAvailability")

    @property
    def granted(self) -> bool:
        offered = (self.agreement.status, self.entitlement, self.region) == ("AVAILABLE",) * 3
        return offered and self.authorization == "AUTHORIZED"


class BedrockAvailability:
    """Answers are kept for ten minutes per region, identity and set of candidates."""

    def __init__(self, services: Services, clock: Callable[[], float] = time.monotonic) -> None:
        self._services = services
        self._clock = clock
        self._kept: dict[Any, tuple[float, frozenset[str]]] = {}

    async def narrow(self, account: Account, candidates: Iterable[str]) -> frozenset[str]:
        """The candidates that the account may call; all of them when that cannot be found out in eight seconds."""
        wanted = frozenset(candidates)
        if account.provider != "bedrock" or account.auth.get("type") != "aws" or not wanted:
            return wanted
        try:
            described = aws.AwsAccount.of(account.auth)
        except ProviderError:
            return wanted
        access_key = described.keys.access_key if described.keys else ""
        key = (described.region, access_key, described.role, wanted)
        kept = self._kept.get(key)
        if kept is not None and self._clock() < kept[0]:
            return kept[1]
        found: frozenset[str] | None = None
        try:
            with trio.move_on_after(LIMIT_S):
                found = await self._find(described, wanted)
        except* (ProviderError, httpx.HTTPError, httpx.InvalidURL, *MALFORMED):
            found = None
        if found is None:
            return wanted
        if len(self._kept) >= MAX_KEPT:
            self._kept.clear()
        self._kept[key] = (self._clock() + KEEP_S, found)
        return found

    async def filter(self, account: Account, rows: Iterable[Json]) -> list[Json]:
        """The rows of a model list that the account may call, in their order."""
        rows = list(rows)
        kept = await self.narrow(account, (row["slug"] for row in rows))
        return [row for row in rows if row["slug"] in kept]

    async def _find(self, account: aws.AwsAccount, wanted: frozenset[str]) -> frozenset[str] | None:
        """The granted candidates; None when nothing was verified."""
        call = _Call(self._services, account)
        models = await call.get("/foundation-models", _Models)
        callable_ = {model.model_id for model in models.summaries if "ON_DEMAND" in model.inference}
        callable_ |= await _global_profiles(call)
        granted: set[str] = set()
        verdicts = 0
        limiter = trio.CapacityLimiter(PARALLEL)

        async def check(slug: str) -> None:
            nonlocal verdicts
            async with limiter:
                try:
                    path = f"/foundation-model-availability/{quote(_base_id(slug), safe='')}"
                    verdict = await call.get(path, _Availability)
                except (httpx.HTTPError, *MALFORMED):
                    return
            verdicts += 1
            if verdict.granted:
                granted.add(slug)

        async with trio.open_nursery() as nursery:
            for slug in sorted(wanted & callable_):
                nursery.start_soon(check, slug)
        return frozenset(granted) if granted or verdicts else None


class _Call:
    def __init__(self, services: Services, account: aws.AwsAccount) -> None:
        self._services = services
        self._region = account.region
        self._signed = aws.Signed(account, services, "bedrock", SESSION)
        default = f"https://bedrock.{account.region}.{aws.dns_suffix(account.region)}"
        self._base = aws.endpoint("bedrock", services.environ) or default

    async def get(self, path: str, shape: type[T]) -> T:
        url = self._base + path
        headers = await self._signed.headers(Outgoing("GET", url, (), b""))
        response = await self._services.http.get(url, headers=list(headers))
        response.raise_for_status()
        return msgspec.json.decode(response.content, type=shape)


async def _global_profiles(call: _Call) -> set[str]:
    found: set[str] = set()
    query = {"type": "SYSTEM_DEFINED", "maxResults": "1000"}
    for _ in range(MAX_PAGES):
        page = await call.get(f"/inference-profiles?{urlencode(query)}", _Profiles)
        found |= {item.id for item in page.summaries if item.status == "ACTIVE" and item.id.startswith("global.")}
        if not page.next_token:
            break
        query["nextToken"] = page.next_token
    return found


def _base_id(slug: str) -> str:
    return next((slug[len(prefix) :] for prefix in GEOGRAPHIES if slug.startswith(prefix)), slug)
