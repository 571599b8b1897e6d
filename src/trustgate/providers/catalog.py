"""The catalog of providers and models that administrators browse and costs are computed from (spec 03 §14).

What lives here: provider rows, the shipped model file, its refresh from models.dev, and the lists. What must not: the
arithmetic of costs (`prices`), the availability of models on Bedrock (`bedrock_models`).
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from importlib import resources

import httpx
import msgspec
import trio

from trustgate.providers.errors import MALFORMED
from trustgate.providers.options import Json
from trustgate.providers.prices import Price, PriceBook
from trustgate.providers.registry import PROVIDERS
from trustgate.providers.services import Services

SOURCE = "https://models.dev"
FETCH_TIMEOUT_S = 30.0
REFRESH_EVERY_S = 24 * 3600.0
RETRY_AFTER_S = 900.0
MAX_SOURCE_BYTES = 64 << 20

_NAMESPACE = uuid.UUID("8f0f0c0e-6a63-5a0e-9d55-6d6f64656c73")
_SOURCE_CODES = {"google-vertex": "vertex", "amazon-bedrock": "bedrock"}
_PROFILE_GEOGRAPHIES = frozenset({"us", "us-gov", "eu", "apac", "jp", "au", "ca", "sa"})
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """A row of the model catalog. Prices are decimal text, USD per token; empty members are not known."""

    slug: str
    external_id: str = ""
    display_name: str = ""
    context_window: int = 0
    max_output: int = 0
    input_price: str = ""
    output_price: str = ""
    cache_read_price: str = ""
    cache_write_price: str = ""
    capabilities: dict[str, bool] = {}
    enabled: bool = True
    source: str = "seed"
    release_date: str = ""
    input_modalities: tuple[str, ...] = ()
    output_modalities: tuple[str, ...] = ()


Models = dict[str, dict[str, Model]]
"""By provider code and slug."""


def provider_id(code: str) -> str:
    return str(uuid.uuid5(_NAMESPACE, code))


def model_id(code: str, slug: str) -> str:
    return str(uuid.uuid5(_NAMESPACE, f"{code}/{slug}"))


def providers_catalog() -> list[Json]:
    """The rows of `GET /v1/providers-catalog`, by code."""
    return [
        {
            "id": provider_id(code),
            "code": code,
            "display_name": provider.display_name,
            "wire_format": provider.wire_format,
            "source": "seed",
            "auth_types": list(provider.auth_types),
            "provider_options_schema": list(provider.options_schema),
        }
        for code, provider in sorted(PROVIDERS.items())
    ]


def shipped_models() -> Models:
    """The catalog file of the package: what is known without a network."""
    text = resources.files("trustgate.providers").joinpath("models.json").read_bytes()
    rows = msgspec.json.decode(text, type=dict[str, list[Model]])
    return {code: {row.slug: row for row in models} for code, models in rows.items()}


# models.dev


class _Limit(msgspec.Struct):
    context: Decimal | None = None
    output: Decimal | None = None


class _Cost(msgspec.Struct):
    input: Decimal | None = None
    output: Decimal | None = None
    cache_read: Decimal | None = None
    cache_write: Decimal | None = None


class _Modalities(msgspec.Struct):
    input: list[str] | None = None
    output: list[str] | None = None


class _Hosting(msgspec.Struct):
    api: str | None = None


class _Entry(msgspec.Struct):
    id: str | None = None
    name: str | None = None
    limit: _Limit | None = None
    cost: _Cost | None = None
    release_date: str | None = None
    modalities: _Modalities | None = None
    provider: _Hosting | None = None


class _SourceProvider(msgspec.Struct):
    models: dict[str, msgspec.Raw] = {}


def per_token(per_million: Decimal | None) -> str:
    """USD per token as fixed-point text, exact; empty for prices that are absent or not positive."""
    if per_million is None or not per_million.is_finite() or per_million <= 0:
        return ""
    return format((per_million.scaleb(-6)).normalize(), "f")


def _day(text: str | None) -> str:
    if not text or not _DAY.fullmatch(text):
        return ""
    try:
        date.fromisoformat(text)
    except ValueError:
        return ""
    return text


def _is_profile(slug: str) -> bool:
    parts = slug.split(".")
    return len(parts) >= 3 and parts[0] in _PROFILE_GEOGRAPHIES


def read_source(body: bytes) -> Models:
    """The models of a models.dev document for the providers we have; entries of another shape are left out.

    Raises `msgspec.DecodeError` when the document as a whole is not one.
    """
    try:
        document = msgspec.json.decode(body, type=dict[str, _SourceProvider])
    except MALFORMED as problem:
        raise msgspec.DecodeError(str(problem)) from None
    found: Models = {}
    for key, provider in document.items():
        code = _SOURCE_CODES.get(key, key)
        if code not in PROVIDERS:
            continue
        rows = found.setdefault(code, {})
        for name, raw in provider.models.items():
            try:
                entry = msgspec.json.decode(raw, type=_Entry)
            except (*MALFORMED, ArithmeticError):
                continue
            slug = entry.id or name
            hosted = entry.provider is not None and entry.provider.api
            if slug and not (code == "bedrock" and (hosted or _is_profile(slug))):
                rows[slug] = _model(key, slug, entry)
    return found


def _model(key: str, slug: str, entry: _Entry) -> Model:
    limit, cost, modalities = entry.limit or _Limit(), entry.cost or _Cost(), entry.modalities or _Modalities()
    return Model(
        slug=slug,
        external_id=f"{key}/{slug}",
        display_name=entry.name or slug,
        context_window=int(limit.context or 0),
        max_output=int(limit.output or 0),
        input_price=per_token(cost.input),
        output_price=per_token(cost.output),
        cache_read_price=per_token(cost.cache_read),
        cache_write_price=per_token(cost.cache_write),
        source="models.dev",
        release_date=_day(entry.release_date),
        input_modalities=tuple(modalities.input or ()),
        output_modalities=tuple(modalities.output or ()),
    )


def merge(known: Models, fresh: Models) -> Models:
    """`known` brought up to date: fresh rows win, models.dev rows that are gone stay for pricing but are disabled."""
    merged: Models = {}
    for code in known.keys() | fresh.keys():
        rows = dict(known.get(code, {}))
        news = fresh.get(code)
        if news is not None:
            for slug, row in rows.items():
                if row.source == "models.dev" and slug not in news:
                    rows[slug] = msgspec.structs.replace(row, enabled=False)
            for slug, row in news.items():
                before = rows.get(slug)
                capabilities = before.capabilities if before is not None else {}
                rows[slug] = msgspec.structs.replace(row, capabilities=capabilities) if capabilities else row
        merged[code] = rows
    return merged


# The catalog of a process


class ModelCatalog:
    """The models that a process knows: the shipped file at first, then what models.dev says."""

    def __init__(self, models: Models | None = None, on_change: Callable[[PriceBook], None] | None = None) -> None:
        self._on_change = [on_change] if on_change is not None else []
        self._models: Models = {}
        self.prices = PriceBook({})
        self._replace(shipped_models() if models is None else models)

    def _replace(self, models: Models) -> None:
        self._models = models
        self.prices = price_book(models)
        for tell in self._on_change:
            tell(self.prices)

    def watch(self, on_change: Callable[[PriceBook], None]) -> None:
        """Have every later change told."""
        self._on_change.append(on_change)

    @property
    def rows(self) -> Models:
        """Everything that is known, disabled models included. Replaced whole, never changed."""
        return self._models

    def take_over(self, models: Models) -> None:
        """Go by a control plane's catalog; models that it does not know keep the prices they had."""
        known = self._models
        self._replace({code: known.get(code, {}) | models.get(code, {}) for code in known.keys() | models.keys()})

    def models(self, provider: str = "") -> list[tuple[str, Model]]:
        """Enabled models with their provider's code, newest first; all providers when `provider` is empty."""
        codes = [provider] if provider else sorted(self._models)
        rows = [(code, row) for code in codes for row in self._models.get(code, {}).values() if row.enabled]
        rows.sort(key=lambda item: (item[0], item[1].slug))
        rows.sort(key=lambda item: item[1].release_date, reverse=True)
        return rows

    def items(self, provider: str = "") -> list[Json]:
        """The rows of `GET /v1/models-catalog`."""
        return [row_json(code, row) for code, row in self.models(provider)]

    async def refresh(self, services: Services, base_url: str = "") -> int:
        """Takes over models.dev's present document; returns its number of models.

        Raises `httpx.HTTPError` or `msgspec.DecodeError`, and then nothing has changed. Reading the document takes a
        thread, so that requests go on.
        """
        url = f"{(base_url or SOURCE).rstrip('/')}/api.json"
        async with services.http.stream("GET", url, timeout=FETCH_TIMEOUT_S) as response:
            response.raise_for_status()
            body = bytearray()
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > MAX_SOURCE_BYTES:
                    raise msgspec.DecodeError("the document is too large")
        fresh = await trio.to_thread.run_sync(read_source, bytes(body))
        self._replace(merge(self._models, fresh))
        return sum(len(rows) for rows in fresh.values())

    async def run(
        self, services: Services, base_url: str = "", report: Callable[[int | Exception], None] = lambda result: None
    ) -> None:
        """Refreshes for ever: now, then daily, sooner after a failure. `report` hears of each outcome."""
        while True:
            try:
                report(await self.refresh(services, base_url))
                pause_s = REFRESH_EVERY_S
            except (httpx.HTTPError, httpx.InvalidURL, msgspec.DecodeError) as problem:
                report(problem)
                pause_s = RETRY_AFTER_S
            await trio.sleep(pause_s)


def row_json(code: str, row: Model) -> Json:
    """A model as the Admin API shows it; what is not known is left out."""
    given: Json = {
        "id": model_id(code, row.slug),
        "provider_id": provider_id(code),
        "slug": row.slug,
        "external_id": row.external_id,
        "display_name": row.display_name,
        "context_window": row.context_window,
        "max_output": row.max_output,
        "input_price": row.input_price,
        "output_price": row.output_price,
        "capabilities": row.capabilities,
        "enabled": row.enabled,
        "source": row.source,
        "release_date": row.release_date,
        "input_modalities": list(row.input_modalities),
        "output_modalities": list(row.output_modalities),
    }
    return {name: value for name, value in given.items() if value or name == "enabled"}


def price_book(models: Models) -> PriceBook:
    """The prices of all rows, disabled ones included; a row without any price has none."""
    return PriceBook(
        {
            code: {row.slug: _price(row) for row in rows.values() if row.input_price or row.output_price}
            for code, rows in models.items()
        }
    )


def _price(row: Model) -> Price:
    return Price(
        float(row.input_price or 0),
        float(row.output_price or 0),
        float(row.cache_read_price or 0),
        float(row.cache_write_price or 0),
        row.display_name,
    )
