"""Google AI Studio: the Gemini API (spec 03 §10)."""

from __future__ import annotations

from trustgate.providers import options as opts
from trustgate.providers.credentials import Account, Headers, authorize, header_value
from trustgate.providers.options import Site
from trustgate.providers.provider import Environ, Operation, Provider, api_key_rows, join_query, same_chat


def _key(key: str) -> Headers:
    return ((b"x-goog-api-key", header_value(key)),)


def _site(account: Account, environ: Environ) -> Site:
    default = "https://generativelanguage.googleapis.com/v1beta"
    return Site.of(opts.base_url("google", account.options, default, "/v1beta"))


def _target(site: Site, operation: Operation) -> str:
    model = opts.model_in_path(operation.model.removeprefix("models/"))
    if operation.wire == "google_embeddings":
        action, streamed = "batchEmbedContents", ""
    elif operation.stream:
        action, streamed = "streamGenerateContent", "alt=sse"
    else:
        action, streamed = "generateContent", ""
    return f"{site.path}/models/{model}:{action}{join_query(streamed, site.query)}"


PROVIDER = Provider(
    code="google",
    display_name="Google AI Studio",
    wire_format="google",
    chat=same_chat("google"),
    site=_site,
    target=_target,
    authorize=lambda account, services: authorize(account, services, _key),
    model_in_target=True,
    embeddings="google_embeddings",
    auth_types=api_key_rows("Google AI Studio"),
)
