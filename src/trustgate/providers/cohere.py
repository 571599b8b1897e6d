"""Cohere: chat, embeddings and rerank of API v2 (spec 03 §10, §12)."""

from __future__ import annotations

from trustgate.providers import options as opts
from trustgate.providers.credentials import Account, authorize
from trustgate.providers.options import Site
from trustgate.providers.provider import (
    Environ,
    Operation,
    Provider,
    api_key_rows,
    bearer_key,
    join_query,
    same_chat,
)

_PATHS = {"cohere": "/v2/chat", "cohere_embed": "/v2/embed", "cohere_rerank": "/v2/rerank"}


def _site(account: Account, environ: Environ) -> Site:
    """The version belongs to the operation here, so a version at the end of `base_url` is not repeated."""
    site = Site.of(opts.base_url("cohere", account.options, "https://api.cohere.com"))
    return Site(site.root, site.path.removesuffix("/v2").removesuffix("/v1"), site.query)


def _target(site: Site, operation: Operation) -> str:
    return site.path + _PATHS[operation.wire] + join_query(site.query)


PROVIDER = Provider(
    code="cohere",
    display_name="Cohere",
    wire_format="cohere",
    chat=same_chat("cohere"),
    site=_site,
    target=_target,
    authorize=lambda account, services: authorize(account, services, bearer_key),
    embeddings="cohere_embed",
    rerank="cohere_rerank",
    models="/v1/models",
    auth_types=api_key_rows("Cohere"),
)
