"""What a provider is: one frozen value made of a few functions, written in the provider's own module.

What lives here: the shape, and the catalog rows that several providers share. What must not: any provider. A new
provider is one module with a `PROVIDER` and one line in `registry`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from trustgate.providers import options as opts
from trustgate.providers.credentials import Account, Authorization, Headers, authorize, bearer
from trustgate.providers.options import Json, Site
from trustgate.providers.services import Services

Environ = Mapping[str, str]

JSON_CONTENT: Headers = ((b"content-type", b"application/json"),)


class Operation(msgspec.Struct, frozen=True):
    """A call as far as its URL is concerned. `model` is empty unless the provider names it in the URL."""

    wire: str
    model: str = ""
    stream: bool = False


def same_chat(wire: str) -> Callable[[str, Json], str]:
    """A provider that speaks one chat format whatever the client speaks."""
    return lambda client_format, options: wire


def nothing_to_check(options: Json) -> None:
    return None


def nothing_to_refuse(model: str, body: bytes) -> None:
    return None


class Provider(msgspec.Struct, frozen=True, kw_only=True):
    """A provider as data.

    - `chat`: the wire format of a chat call from the client's format and the options (spec 03 §2);
      `embeddings` and `rerank` are the wire formats of those capabilities, empty where they are not offered.
    - `site`: where the account's requests go; `target`: path and query of an operation below it.
    - `model_in_target`: the URL names the model, so it depends on the request.
    - `authorize`: the account's credentials at work; `headers` go with every request.
    - `finish`: the last change of the wire body, given the wire format and the model; `frames`: streams are binary
      event-stream frames.
    - `check_options` raises `options.BadOptions`; `refuse` raises `RequestFault` for what the provider is known to
      refuse.
    - `models`: the path below the site that lists models, used as the connection test.
    - `wire_format`, `auth_types`, `options_schema`: the catalog row (§14).
    """

    code: str
    display_name: str
    wire_format: str
    chat: Callable[[str, Json], str]
    site: Callable[[Account, Environ], Site]
    target: Callable[[Site, Operation], str]
    authorize: Callable[[Account, Services | None], Authorization]
    headers: Headers = JSON_CONTENT
    model_in_target: bool = False
    embeddings: str = ""
    rerank: str = ""
    finish: Callable[[str, str, bytes], bytes] | None = None
    frames: bool = False
    check_options: Callable[[Json], None] = nothing_to_check
    refuse: Callable[[str, bytes], None] = nothing_to_refuse
    models: str = "/models"
    auth_types: tuple[Json, ...] = ()
    options_schema: tuple[Json, ...] = ()


def field(key: str, label: str, description: str, kind: str = "string", **flags: Any) -> Json:
    """A catalog field; false flags are left out."""
    return {"key": key, "label": label, "type": kind, "description": description} | {
        name: value for name, value in flags.items() if value
    }


def auth_type(kind: str, label: str, description: str, fields: list[Json], variant: str = "") -> Json:
    row: Json = {"type": kind}
    if variant:
        row["variant"] = variant
    return row | {"label": label, "description": description, "fields": fields}


def api_key_rows(display_name: str) -> tuple[Json, ...]:
    """The single `api_key` way of most providers."""
    key = field("api_key", "API Key", f"Secret key of a {display_name} account.", required=True, secret=True)
    return (auth_type("api_key", "API Key", f"Authenticates with a {display_name} API key.", [key]),)


def join_query(*parts: str) -> str:
    """`?a&b` from the parts that are not empty, else nothing."""
    query = "&".join(part for part in parts if part)
    return "?" + query if query else ""


_CHAT_PATHS = {
    "openai_responses": "/responses",
    "openai_embeddings": "/embeddings",
}


def chat_completions_target(site: Site, operation: Operation) -> str:
    """The paths of the OpenAI API, which all OpenAI-shaped providers keep."""
    return site.path + _CHAT_PATHS.get(operation.wire, "/chat/completions") + join_query(site.query)


def bearer_key(key: str) -> Headers:
    return (bearer(key),)


def openai_shaped(
    code: str, display_name: str, base: str, version: str, *, wire: str, embeddings: bool = False, **more: Any
) -> Provider:
    """A provider with the paths and the bearer key of the OpenAI API under its own base URL."""

    def site(account: Account, environ: Environ) -> Site:
        return Site.of(opts.base_url(code, account.options, base, version))

    return Provider(
        code=code,
        display_name=display_name,
        wire_format="openai",
        chat=same_chat(wire),
        site=site,
        target=chat_completions_target,
        authorize=lambda account, services: authorize(account, services, bearer_key),
        embeddings="openai_embeddings" if embeddings else "",
        auth_types=api_key_rows(display_name),
        **more,
    )
