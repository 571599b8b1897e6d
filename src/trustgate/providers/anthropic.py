"""Anthropic: the Messages API (spec 03 §10)."""

from __future__ import annotations

from trustgate.providers import options as opts
from trustgate.providers.credentials import Account, Headers, authorize, header_value
from trustgate.providers.options import Site
from trustgate.providers.provider import (
    JSON_CONTENT,
    Environ,
    Operation,
    Provider,
    api_key_rows,
    join_query,
    same_chat,
)


def _key(key: str) -> Headers:
    return ((b"x-api-key", header_value(key)),)


def _site(account: Account, environ: Environ) -> Site:
    return Site.of(opts.base_url("anthropic", account.options, "https://api.anthropic.com/v1", "/v1"))


def _target(site: Site, operation: Operation) -> str:
    return site.path + "/messages" + join_query(site.query)


PROVIDER = Provider(
    code="anthropic",
    display_name="Anthropic",
    wire_format="anthropic",
    chat=same_chat("anthropic"),
    site=_site,
    target=_target,
    authorize=lambda account, services: authorize(account, services, _key),
    headers=(*JSON_CONTENT, (b"anthropic-version", b"2023-06-01")),
    auth_types=api_key_rows("Anthropic"),
)
