"""OpenAI: chat completions, Responses and embeddings (spec 03 §2, §10)."""

from __future__ import annotations

from trustgate.providers import options as opts
from trustgate.providers.credentials import Account, authorize
from trustgate.providers.options import BadOptions, Json, Site
from trustgate.providers.provider import Environ, Provider, api_key_rows, bearer_key, chat_completions_target, field

_BASE = "https://api.openai.com/v1"
_TYPES = {"api": opts.TEXT, "base_url": opts.TEXT}


def _chat(client_format: str, options: Json) -> str:
    """`api` (exactly so spelt) decides; without it a Responses client is mirrored."""
    api = options.get("api")
    if api == "responses" or (api != "completions" and client_format == "openai_responses"):
        return "openai_responses"
    return "openai"


def _check_options(options: Json) -> None:
    opts.check_types("openai", options, _TYPES)
    api = opts.text(options, "api")
    if api not in ("", "completions", "responses"):
        raise BadOptions(f'openai: provider_options.api must be "completions" or "responses", got {opts.quoted(api)}')
    if url := opts.text(options, "base_url"):
        opts.check_base_url("openai", url)


def _site(account: Account, environ: Environ) -> Site:
    return Site.of(opts.base_url("openai", account.options, _BASE))


PROVIDER = Provider(
    code="openai",
    display_name="OpenAI",
    wire_format="openai",
    chat=_chat,
    site=_site,
    target=chat_completions_target,
    authorize=lambda account, services: authorize(account, services, bearer_key),
    embeddings="openai_embeddings",
    check_options=_check_options,
    auth_types=api_key_rows("OpenAI"),
    options_schema=(
        field(
            "api",
            "API",
            "Which OpenAI API to call; without a choice the client's own API is used.",
            "enum",
            enum=[{"value": "completions", "label": "Completions"}, {"value": "responses", "label": "Responses"}],
        ),
        field("base_url", "Base URL", "Replaces https://api.openai.com/v1, for proxies and regional endpoints."),
    ),
)
